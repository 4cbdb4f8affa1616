"""What `gx.diagnose` says of runs on which its rules were never tuned: 34 healthy ones and 29 with a known fault.

    python benchmarks/diagnose.py         # three minutes on one core; prints the table of docs/guide/debugging.md
    python benchmarks/diagnose.py --runs  # a line for each run as well

Models, data and most optimizers are others than those of `tests/diagnostics`. A healthy run has a rate that its model
can bear, and learns: that is checked by the loss, without the rules. A fault is put in by hand and counts as named if
one of the rules about it speaks; another finding beside it is not counted. Each run is judged twice: with the readings
of `gx.probe` and `gx.leaf_readings` and with the transform, and by loss and gradient norm alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

STEPS, BATCH = 400, 32
Batch = tuple[Any, Any]


# ------------------------------------------------------------------------------------------- four small models
def _normal(random: Any, *shape: int) -> Any:
    return jnp.array(random.normal(size=shape) * np.prod(shape[:-1]) ** -0.5, jnp.float32)


def bars(random: Any) -> Batch:
    """Images of 8 x 8 with a bar at one of eight places, in noise."""
    place = random.integers(8, size=(STEPS, BATCH))
    x = 0.5 * random.normal(size=(STEPS, BATCH, 8, 8, 1))
    ahead = np.eye(8)[place % 4 * 2][..., None]
    x[..., 0] += np.where((place < 4)[..., None, None], ahead, np.swapaxes(ahead, -1, -2))
    return jnp.array(x, jnp.float32), jnp.array(place)


def convolve(params: Any, x: Any) -> Any:
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[name]["bias"][None, None, None])
    return x.reshape(x.shape[0], -1) @ params["head"]


def conv_start(random: Any) -> Any:
    return {
        "first": {"kernel": 1.4 * _normal(random, 3, 3, 1, 8), "bias": jnp.zeros(8)},
        "second": {"kernel": 1.4 * _normal(random, 3, 3, 8, 16), "bias": jnp.zeros(16)},
        "head": _normal(random, 64, 8),
    }


def crossed(logits: Any, y: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def conv_loss(params: Any, x: Any, y: Any) -> Any:
    return crossed(convolve(params, x), y)


def waves(random: Any) -> Batch:
    """A table of twelve columns and a smooth target with little noise."""
    x = random.normal(size=(STEPS, BATCH, 12))
    y = np.sin(x[..., 0]) + x[..., 1] * x[..., 2] + 0.5 * x[..., 3] + 0.1 * random.normal(size=(STEPS, BATCH))
    return jnp.array(x, jnp.float32), jnp.array(y, jnp.float32)


def residual_start(random: Any) -> Any:
    def block() -> Any:
        return {"up": _normal(random, 32, 64), "down": 0.5 * _normal(random, 64, 32), "scale": jnp.ones(32)}

    return {"in": _normal(random, 12, 32), "one": block(), "two": block(), "out": _normal(random, 32, 1)}


def residual_loss(params: Any, x: Any, y: Any) -> Any:
    h = x @ params["in"]
    for name in ("one", "two"):
        block = params[name]
        n = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6) * block["scale"][None]
        h = h + jax.nn.gelu(n @ block["up"]) @ block["down"]
    return jnp.mean(((h @ params["out"])[:, 0] - y) ** 2)


def pairs(random: Any) -> Batch:
    """Two noisy views of the same hidden point, which the two towers have to bring together."""
    hidden = random.normal(size=(STEPS, BATCH, 6))
    views = [hidden @ np.random.default_rng(s).normal(size=(6, 20)) for s in (1, 2)]
    return tuple(jnp.array(v + 0.5 * random.normal(size=v.shape), jnp.float32) for v in views)  # type: ignore[return-value]


def towers_start(random: Any) -> Any:
    def tower() -> Any:
        return {"hidden": _normal(random, 20, 32), "out": _normal(random, 32, 8)}

    return {"left": tower(), "right": tower(), "heat": jnp.array(np.float32(1.0))}


def towers_loss(params: Any, x: Any, y: Any) -> Any:
    """Of each left point the right one of the batch, and the other way round, by the cosine of what the towers give."""
    left, right = (
        jnp.tanh(v @ params[n]["hidden"]) @ params[n]["out"] for n, v in (("left", x), ("right", y))
    )
    left, right = (v * jax.lax.rsqrt(jnp.sum(v * v, -1, keepdims=True) + 1e-6) for v in (left, right))
    logits, own = jnp.exp(params["heat"]) * left @ right.T, jnp.arange(x.shape[0])
    return (crossed(logits, own) + crossed(logits.T, own)) / 2


def mixtures(random: Any) -> Batch:
    """Points of a ring, whose second half is told by its first."""
    turn = random.uniform(0, 2 * np.pi, size=(STEPS, BATCH, 1))
    ring = np.concatenate([np.cos(turn), np.sin(turn), np.cos(2 * turn), np.sin(2 * turn)], -1)
    ring = ring + 0.05 * random.normal(size=ring.shape)
    return jnp.array(ring[..., :2], jnp.float32), jnp.array(ring[..., 2:], jnp.float32)


def density_start(random: Any) -> Any:
    return {
        "in": _normal(random, 2, 48),
        "bias": jnp.zeros(48),
        "mean": _normal(random, 48, 2),
        "log_s": jnp.zeros(2),
    }


def density_loss(params: Any, x: Any, y: Any) -> Any:
    """The negative log-likelihood of a Gaussian with a learned spread; it goes below zero."""
    mean = jnp.tanh(x @ params["in"] + params["bias"][None]) @ params["mean"]
    return jnp.mean(0.5 * ((y - mean) * jnp.exp(-params["log_s"])[None]) ** 2 + params["log_s"][None])


MODELS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "conv": (conv_start, bars, conv_loss),
    "residual": (residual_start, waves, residual_loss),
    "towers": (towers_start, pairs, towers_loss),
    "density": (density_start, mixtures, density_loss),
}


# ------------------------------------------------------------------------------------------- runs
@dataclass(frozen=True)
class Trial:
    """A run: a model, a transform, and what is done to gradients, data, start and loss on the way."""

    model: str
    name: str
    tx: Any
    rules: tuple[str, ...] = ()  # of a fault: those that name it; none if no rule is about it
    edit: Callable[[Any], Any] = lambda grads: grads
    spoil: Callable[[Batch], Batch] = lambda data: data
    begin: Callable[[Any], Any] = lambda params: params
    change: Callable[[Any], Any] = lambda loss: loss
    seed: int = 0


@partial(jax.jit, static_argnames=("tx", "loss", "edit"))
def _train(tx: Any, loss: Any, edit: Any, params: Any, data: Any) -> Any:
    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, *batch)
        grads = edit(grads)
        updates, new = tx.update(grads, state, params)
        leaves = gx.leaf_readings(params=params, grads=grads, updates=updates, state=new)
        return (gx.apply_updates(params, updates), new), {"loss": value, **gx.metrics(new), **leaves}

    return jax.lax.scan(step, (params, tx.init(params)), data)[1]


def history(trial: Trial) -> dict[str, np.ndarray]:
    start, data, loss = MODELS[trial.model]
    random = np.random.default_rng(1000 + trial.seed)
    params, batches = trial.begin(start(random)), trial.spoil(data(random))
    found = _train(gx.probe(trial.tx), trial.change(loss), trial.edit, params, batches)
    return {name: np.asarray(column, np.float64) for name, column in found.items()}


def healthy() -> list[Trial]:
    warm = partial(gx.warmup_cosine, warmup_steps=20, total_steps=STEPS)
    clip = gx.clip_by_global_norm
    runs: dict[str, dict[str, Any]] = {
        "conv": {
            "adamw, warmup and cosine": gx.adamw(warm(3e-3)),
            "adabelief": gx.adabelief(1e-3),
            "sgd with nesterov": gx.sgd(gx.warmup_linear(0.03, 20, STEPS), momentum=0.9, nesterov=True),
            "adan": gx.adan(3e-3),
            "muon": gx.muon(5e-3),
            "adam, inverse root": gx.adam(gx.inverse_sqrt(3e-3, 30)),
            "adamw, wsd": gx.adamw(gx.wsd(2e-3, 20, STEPS, 80)),
            "guarded nadam": gx.guard(gx.nadam(2e-3), spike=10.0),
            "madgrad": optax.contrib.madgrad(1e-3),
        },
        "residual": {
            "nadamw": gx.nadamw(2e-3),
            "radam": gx.radam(2e-3),
            "lion, cosine": gx.lion(warm(3e-4)),
            "clipped sgd": gx.chain(clip(5.0), gx.sgd(0.01, momentum=0.9)),
            "laprop": gx.laprop(1e-3),
            "adafactor": gx.adafactor(3e-3),
            "averaged adamw": gx.average_params(gx.adamw(2e-3), 0.99),
            "accumulated adam": gx.accumulate(gx.adam(4e-3), 2),
            "adam in 8 bits": gx.lowbit.quantized(gx.adam(2e-3)),
        },
        "towers": {
            "adamax": gx.adamax(3e-3),
            "yogi": gx.yogi(5e-3),
            "signum": gx.signum(3e-4),
            "cautious adamw": gx.cautious(gx.adamw(2e-3)),
            "clip for each unit, sgd": gx.chain(gx.adaptive_grad_clip(0.1), gx.sgd(0.1, momentum=0.9)),
            "ademamix": optax.contrib.ademamix(1e-3),
            "schedule-free": optax.contrib.schedule_free_adamw(3e-3),
            "prodigy": optax.contrib.prodigy(1.0),
        },
        "density": {
            "adam": gx.adam(2e-3),
            "adopt": optax.contrib.adopt(2e-3),
            "lion": gx.lion(5e-4),
            "one cycle": gx.adam(gx.cosine_onecycle_schedule(STEPS, 1e-2)),
            "clip of blocks": gx.chain(gx.clip_by_block_rms(1.0), gx.adam(2e-3)),
            "adagrad": gx.adagrad(0.03),
            "amsgrad": gx.amsgrad(2e-3),
            "muon, cosine": gx.muon(warm(5e-3)),
        },
    }
    return [Trial(m, n, tx, seed=i) for m, those in runs.items() for i, (n, tx) in enumerate(those.items())]


# ------------------------------------------------------------------------------------------- faults
def turned(grads: Any) -> Any:
    return jax.tree.map(jnp.negative, grads)


def one_turned(grads: Any) -> Any:
    return {**grads, "two": turned(grads["two"])}


def summed(grads: Any) -> Any:
    return jax.tree.map(lambda g: BATCH * g, grads)


def with_nan(data: Batch) -> Batch:
    return data[0].at[150, 3].set(jnp.nan), data[1]


def often_nan(data: Batch) -> Batch:
    return data[0].at[50::3, 3].set(jnp.nan), data[1]


def outliers(data: Batch) -> Batch:
    return data[0], data[1].at[jnp.array([120, 201, 333]), 5].mul(300.0)


def other_labels(data: Batch) -> Batch:
    return data[0], jnp.roll(data[1], 1, axis=1)


def larger_for_good(data: Batch) -> Batch:
    return data[0].at[150:].mul(30.0), data[1]


def shut(params: Any) -> Any:
    """Activations that no input opens."""
    return {**params, "second": {**params["second"], "bias": params["second"]["bias"] - 100}}


def in_bfloat16(params: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


def half_stopped(loss: Any) -> Any:
    return lambda p, x, y: loss({**p, "right": jax.lax.stop_gradient(p["right"])}, x, y)


def in_float32(loss: Any) -> Any:
    return lambda p, x, y: loss(jax.tree.map(lambda a: a.astype(jnp.float32), p), x, y)


def root_at_zero(loss: Any) -> Any:
    return lambda p, x, y: loss(p, x, y) + 1e-3 * jnp.sqrt(jnp.sum(jnp.square(p["bias"])))


def kept_in_bfloat16(tx: Any) -> optax.GradientTransformation:
    """A transform whose state somebody casts to save memory."""

    def init(params: Any) -> Any:
        return jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, tx.init(params)
        )

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        updates, new = tx.update(updates, state, params)
        return updates, jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)

    return optax.GradientTransformation(init, update)


LONG = (
    *("loss-diverges", "early-oscillation", "late-oscillation", "loss-rises-again", "weights-run-away"),
    *("gradient-spikes", "not-finite"),
)


def late_jump(t: Any) -> Any:
    return jnp.where(t < 250, np.float32(2e-3), np.float32(0.5))


def too_slow(t: Any) -> Any:
    return np.float32(1e-8) * t.astype(np.float32)


def faulty() -> list[Trial]:
    by_hand = gx.chain(gx.scale_by_rms(0.999), gx.scale_by_learning_rate(1e-4))
    return [
        Trial("conv", "rate of adabelief times 300", gx.adabelief(0.3), LONG),
        Trial("conv", "rate of sgd times 100", gx.sgd(3.0, momentum=0.9), LONG),
        Trial("residual", "rate of nadam times 300", gx.nadam(0.6), LONG),
        Trial("residual", "rate of sgd times 30", gx.sgd(0.5, momentum=0.9), LONG),
        Trial("residual", "rate of signum times 300", gx.signum(0.1), LONG),
        Trial("density", "rate of adamax times 300", gx.adamax(0.6), LONG),
        Trial("density", "rate raised late", gx.adam(late_jump), LONG),
        Trial("residual", "all signs turned", gx.sgd(3e-3), LONG, edit=turned),
        Trial("residual", "sum in the place of the mean", gx.sgd(0.05, momentum=0.9), LONG, edit=summed),
        Trial("conv", "warmup for a longer run", gx.adamw(too_slow), ("rate-still-rises",)),
        Trial("conv", "cosine for a shorter run", gx.adamw(gx.warmup_cosine(3e-3, 20, 150)), ("rate-ends-early",)),
        Trial("towers", "decay times 300", gx.adamw(1e-2, weight_decay=3.0), ("decay-too-strong",)),
        Trial("conv", "NaN in a batch", gx.adan(3e-3), ("not-finite",), spoil=with_nan),
        Trial("density", "root at zero", gx.adam(2e-3), ("not-finite",), change=root_at_zero),
        Trial("towers", "NaN in every third batch, guarded", gx.guard(gx.adam(2e-3)), ("steps-skipped",),
              spoil=often_nan),
        Trial("conv", "guard against what stays", gx.guard(gx.adam(1e-3), spike=2.0), ("steps-skipped",),
              spoil=larger_for_good),
        Trial("residual", "outliers", gx.sgd(3e-3), ("gradient-spikes",), spoil=outliers),
        Trial("residual", "clip at 0.001", gx.chain(gx.clip_by_global_norm(1e-3), gx.sgd(0.02)), ("clip-always-on",)),
        Trial("conv", "a leaf left out", gx.chain(gx.adam(2e-3), gx.freeze("first/*")), ("frozen-by-accident",)),
        Trial("towers", "a tower without gradient", gx.adam(2e-3), ("frozen-by-accident",), change=half_stopped),
        Trial("conv", "dead activations", gx.adam(2e-3), ("frozen-by-accident",), begin=shut),
        Trial("residual", "weights in bfloat16", gx.sgd(1e-5), ("weights-do-not-move",), begin=in_bfloat16,
              change=in_float32),
        Trial("conv", "nu of nadam in bfloat16", kept_in_bfloat16(optax.nadam(1e-3)),
              ("second-moment-keeps", "second-moment-stalled")),
        Trial("density", "L2 in front of radam", gx.chain(gx.add_decayed_weights(0.1), gx.radam(2e-3)),
              ("adam-with-l2",)),
        Trial("towers", "RMS by hand, without correction", by_hand, ("no-bias-correction",)),
        # what no rule is about
        Trial("residual", "signs of one block turned", gx.adam(2e-3), edit=one_turned),
        Trial("conv", "labels of the neighbour", gx.adam(2e-3), spoil=other_labels),
        Trial("towers", "rate a hundredth", gx.adam(2e-5)),
        Trial("density", "eps of 1", gx.adam(2e-3, eps=1.0)),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- the table
def learned(readings: dict[str, np.ndarray]) -> bool:
    """Whether the loss of the last tenth is a fifth below that of the first steps, by no rule of ours."""
    first, last = np.median(readings["loss"][:5]), np.median(readings["loss"][-STEPS // 10 :])
    return bool(last < first - 0.2 * abs(first))


def said(trial: Trial, readings: dict[str, np.ndarray]) -> tuple[set[str], set[str]]:
    """The rules that speak with all readings, and those by loss and gradient norm alone."""
    few = {name: readings[name] for name in ("loss", "grad_norm")}
    full = gx.diagnose(readings, gx.probe(trial.tx))
    return {f.rule for f in full.findings}, {f.rule for f in gx.diagnose(few).findings}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", action="store_true", help="a line for each run")
    parser.add_argument("--only", default="", help="runs with this in the name")
    options = parser.parse_args()
    rows: dict[str, list[tuple[bool, bool, bool, bool]]] = {
        "healthy": [],
        "fault": [],
        "fault without a rule": [],
    }
    for trial in (*(well := healthy()), *faulty()):
        if options.only not in trial.name:
            continue
        readings, is_well = history(trial), trial in well
        if is_well and not learned(readings):
            raise SystemExit(f"{trial.model}, {trial.name}: this run does not learn; it is no healthy one")
        full, few = said(trial, readings)
        kind = "healthy" if is_well else "fault" if trial.rules else "fault without a rule"
        wanted = set(trial.rules)
        rows[kind].append((bool(full & wanted), bool(full), bool(few & wanted), bool(few)))
        if options.runs:
            mark = "alarm" if is_well and (full or few) else "named" if full & wanted else ""
            print(f"{kind:8.8} {trial.model:8} {trial.name:36} {mark:5} {', '.join(sorted(full)) or '-'} | "
                  f"{', '.join(sorted(few)) or '-'}", flush=True)  # fmt: skip
    print(table(rows))


def table(rows: dict[str, list[tuple[bool, bool, bool, bool]]]) -> str:
    """Of each kind of run how many: named, given another finding, given none; with all readings, then with two."""
    heads = [f"{which}: {head}" for which in ("all", "two") for head in ("named", "other", "none")]
    lines = [f"| runs | number | {' | '.join(heads)} |", "|---" * 8 + "|"]
    for kind, runs in rows.items():
        named, full, few_named, few = (sum(r[i] for r in runs) for i in range(4))
        counts = (
            len(runs),
            named,
            full - named,
            len(runs) - full,
            few_named,
            few - few_named,
            len(runs) - few,
        )
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
