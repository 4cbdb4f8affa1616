"""A small language model, trained with the standard recipe: clip, Adam, decay on matrices, warmup and cosine.

    python examples/train_lm.py                                          # about two minutes on two CPU cores
    python examples/train_lm.py --optimizer lion                         # any recipe
    python examples/train_lm.py --bits 8                                 # the optimizer's state in 8 bits, or in 4
    python examples/train_lm.py --config examples/out/optimizer.json     # a transform that gx.to_json wrote
    python examples/train_lm.py --steps 20                               # a quick look

The text is one that every Python installation carries: the language reference in `pydoc_data.topics`, byte by byte. The
model is a decoder-only transformer in plain JAX. A run ends with its score on text held out, a sample, and in
`examples/out` the plot `train_lm.png` and the file `optimizer.json`, from which `--config` starts the same run again.
"""

import argparse
import functools
import math
import time
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

try:
    from matplotlib.figure import Figure  # by itself, without pyplot, it needs no screen
    from tqdm import tqdm
except ImportError as missing:
    raise SystemExit(f"train_lm.py needs {missing.name}: pip install 'gradxform[examples]'") from None

OUT = Path(__file__).parent / "out"

# Sizes: bytes in the alphabet, embedding, layers, heads, hidden units, context in bytes, sequences a step.
V, D, L, H, F, T, B = 256, 128, 4, 2, 512, 128, 8


# --- the optimizer ---------------------------------------------------------------------------------------------------

# Decay belongs on what multiplies activations. The layers are stacked, so the first axis of their leaves is no matrix
# axis: a norm's scale there has shape (L, D) and is a vector all the same. The embedding is a table, looked up by row.
MATRICES = gx.matrices(stacked="layers/*", exclude="embed*")


def standard_recipe(rate):
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b1=0.9, b2=0.95),
        gx.add_decayed_weights(0.1, mask=MATRICES),
        rate,
    )


# For `--optimizer`: the peak learning rate and the other arguments; a recipe not listed gets 1e-3 and its defaults. The
# rates come from benchmarks/recipes.py, which searches them on a model half as wide in a third of the steps. There
# AdamW is best at 1e-2 and here, after 400 steps, at 3e-3; so the others have a third of their best too, but for those
# whose rate is relative to the weights (LAMB, LARS, Adafactor) or has another unit (SGD, Adadelta, Yogi by its large
# epsilon). A decay of 0.1 is AdamW's: where it passes through the moments, it has to be far smaller.
DECAY = {"weight_decay": 0.1, "mask": MATRICES}
RECIPES = {
    "adam": (3e-3, {"b2": 0.95}),
    "adam_l2": (3e-3, {"b2": 0.95, "weight_decay": 1e-4, "mask": MATRICES}),
    "adamw": (3e-3, {"b2": 0.95, **DECAY}),
    "nadam": (3e-3, {"b2": 0.95}),
    "nadamw": (3e-3, {"b2": 0.95, **DECAY}),
    "amsgrad": (3e-3, {"b2": 0.95}),
    "radam": (3e-3, {"b2": 0.95}),
    "adamax": (1e-2, {}),
    "adamaxw": (1e-2, DECAY),
    "adagrad": (1e-2, {"initial_accumulator_value": 0.0}),
    "rmsprop": (1e-3, {"decay": 0.95}),
    "adadelta": (3.0, {"rho": 0.95}),
    "rprop": (3e-3, {"max_step_size": 0.1}),
    "adabelief": (3e-3, {"b2": 0.95}),
    "yogi": (1e-2, {}),
    "adan": (1e-2, {"like": "paper", **DECAY}),
    "lamb": (1e-2, {"b2": 0.95, **DECAY}),
    "lars": (3.0, {"weight_decay": 5e-4, "weight_decay_mask": MATRICES}),
    "laprop": (3e-3, {"b2": 0.95, **DECAY}),
    "lion": (2e-3, {"weight_decay": 0.5, "mask": MATRICES}),
    "signum": (1e-3, {}),
    "sign_sgd": (3e-3, {}),
    "sgd": (0.3, {"momentum": 0.9}),
    "adafactor": (3e-2, {"min_dim_size_to_factor": 32}),
    "adam_atan2": (3e-3, {"b2": 0.95, **DECAY}),
    "adam_mini": (3e-3, {"b2": 0.95, **DECAY}),
    "ademamix": (1e-3, {"b3": 0.999, **DECAY}),
    "adopt": (3e-3, {"b2": 0.99, **DECAY}),
    "mars": (3e-3, DECAY),
    "prodigy": (1.0, {"estim_lr0": 1e-4, "safeguard_warmup": True}),
    "schedule_free_adamw": (1e-2, {"b2": 0.95, **DECAY}),
    "schedule_free_sgd": (10.0, {}),
    "stable_adamw": (3e-3, {"b2": 0.95, **DECAY}),
    "soap": (3e-3, DECAY),
    "muon": (1e-2, {"convention": "moonshot", "adam_b2": 0.95, "weight_decay": 0.1, "matrices": MATRICES}),
    "normuon": (1e-2, {"weight_decay": 0.1, "matrices": MATRICES}),
    "adamh": (1e-2, {"b2": 0.95, "matrices": MATRICES}),
}
# What looks at whole arrays, and shall see those of one layer and not the stack.
OF_ARRAYS = {"adafactor", "adam_mini", "adamh", "lamb", "lars", "muon", "normuon", "soap", "stable_adamw"}
# Rprop makes its own steps and takes the size of the first (it is a method for full batches: on these it fails);
# Schedule-Free warms up and keeps its rate.
CONSTANT = {"rprop", "schedule_free_adamw", "schedule_free_sgd"}
WARMUP = 0.05


def from_recipe(name, peak, steps, **others):
    """A recipe of the table behind a clip, with this peak rate, a warmup, and a cosine where it has one."""
    _, arguments = RECIPES.get(name, (None, {}))
    rate = peak if name in CONSTANT else gx.warmup_cosine(peak, WARMUP, steps)
    if name.startswith("schedule_free"):
        others = {"warmup_steps": max(round(WARMUP * steps), 1), **others}
    tx = getattr(gx, name)(rate, **{**arguments, **others})
    if name in OF_ARRAYS:
        tx = gx.per_layer(tx, stacked="layers/*")
    return gx.chain(gx.clip_by_global_norm(1.0), tx)


def make_optimizer(args):
    """The transform, from a file, a recipe's name, or the chain above."""
    if args.config:
        return gx.from_json(args.config.read_text())
    peak, _ = RECIPES.get(args.optimizer or "adamw", (1e-3, {}))
    peak = args.learning_rate or peak
    if args.optimizer is None:
        return standard_recipe(gx.warmup_cosine(peak, WARMUP, args.steps))
    try:
        return from_recipe(args.optimizer, peak, args.steps)
    except AttributeError as unknown:
        raise SystemExit(f"--optimizer {args.optimizer}: {unknown}") from None


def learning_rates(tx, steps):
    """The rate at every step, or None if nothing is known of it: a transform's plan knows the scalars of its links."""
    scalars = [link.rule.scalars for link in tx.plan.flat if link.rule is not None]
    for rate in (known["rate"] for known in scalars if "rate" in known):
        return np.asarray(jax.vmap(rate)(jnp.arange(steps))) if callable(rate) else np.full(steps, rate)
    return None


# --- the text --------------------------------------------------------------------------------------------------------


def read_text():
    """(training bytes, held-out bytes): of forty contiguous chunks every tenth is held out.

    The topics repeat whole paragraphs of each other, a fifth of the text. Every paragraph is kept once, or the model
    would be examined on what it has been taught.
    """
    paragraphs = dict.fromkeys(p for topic in topics.values() for p in topic.split("\n\n"))
    chunks = np.array_split(np.frombuffer("\n\n".join(paragraphs).encode(), np.uint8), 40)
    train = [chunk for i, chunk in enumerate(chunks) if i % 10 != 5]
    return np.concatenate(train).astype(np.int32), np.concatenate(chunks[5::10]).astype(np.int32)


# --- the model; names end in their axes: B sequence, T byte, D embedding, F hidden, V alphabet, L layer ---------------


def init(key):
    """The layers are stacked along a first axis L, for lax.scan; what ends a residual branch starts smaller."""
    keys = jax.random.split(key, 5)

    def matrix(key, *shape, scale=1.0):
        return scale * shape[-2] ** -0.5 * jax.random.normal(key, shape)

    return {
        "embed": 0.02 * jax.random.normal(keys[0], (V, D)),
        "layers": {
            "attention_norm": jnp.ones((L, D)),
            "attention_in": matrix(keys[1], L, D, 3 * D),
            "attention_out": matrix(keys[2], L, D, D, scale=(2 * L) ** -0.5),
            "mlp_norm": jnp.ones((L, D)),
            "mlp_in": matrix(keys[3], L, D, F),
            "mlp_out": matrix(keys[4], L, F, D, scale=(2 * L) ** -0.5),
        },
        "norm": jnp.ones(D),
    }


def rms_norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def rotate(x):
    """Rotary positions (Su et al. 2021): each pair of channels turns by an angle that grows with the position."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def attention(x_BTD, layer):
    # Half of the channels are taken from the byte before, so that a key can say "what follows an x" within one layer.
    now, before = jnp.split(x_BTD, 2, axis=-1)
    before = jnp.pad(before, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    qkv = jnp.concatenate([now, before], axis=-1) @ layer["attention_in"]
    q, k, v = (z.reshape(*z.shape[:2], H, D // H) for z in jnp.split(qkv, 3, axis=-1))
    q, k, v = (z.swapaxes(1, 2) for z in (rotate(q), rotate(k), v))
    scores = q @ k.mT * (D // H) ** -0.5
    past = jnp.tri(scores.shape[-1], dtype=bool)
    mixed = jax.nn.softmax(jnp.where(past, scores, -1e30), axis=-1) @ v
    return mixed.swapaxes(1, 2).reshape(x_BTD.shape) @ layer["attention_out"]


def mlp(x_BTD, layer):
    hidden_BTF = jnp.square(jax.nn.relu(x_BTD @ layer["mlp_in"]))
    return hidden_BTF @ layer["mlp_out"]


def logits(params, bytes_BT):
    def block(x_BTD, layer):
        x_BTD += attention(rms_norm(x_BTD) * layer["attention_norm"], layer)
        x_BTD += mlp(rms_norm(x_BTD) * layer["mlp_norm"], layer)
        return x_BTD, None

    # Unrolled, because a loop would copy every layer's activations in and out: on a CPU a third of the step.
    x_BTD, _ = jax.lax.scan(block, rms_norm(params["embed"][bytes_BT]), params["layers"], unroll=True)
    return (rms_norm(x_BTD) * params["norm"]) @ params["embed"].T


def bits_per_byte(params, bytes_BT):
    """The mean cost of each byte but the first, given those before it, in bits."""
    log_p = jax.nn.log_softmax(logits(params, bytes_BT[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(log_p, bytes_BT[:, 1:, None], axis=-1)) / math.log(2)


# --- training --------------------------------------------------------------------------------------------------------


# The old parameters and state are donated: the new ones take their memory. The transform is a value, so an equal one,
# rebuilt or read from a file, would find this function compiled.
@functools.partial(jax.jit, static_argnames="tx", donate_argnames=("params", "state"))
def train_step(tx, params, state, text, key):
    starts = jax.random.randint(key, (B, 1), 0, len(text) - T)
    batch = text[starts + jnp.arange(T + 1)]
    loss, gradients = jax.value_and_grad(bits_per_byte)(params, batch)
    updates, state = tx.update(gradients, state, params, value=loss)
    return gx.apply_updates(params, updates), state, loss


def evaluated(state, params):
    """The weights to evaluate: Schedule-Free and averages have others than those they train."""
    try:
        return gx.eval_params(state, params)
    except ValueError:
        return params


@jax.jit
def validate(params, text):
    """Bits per byte of all of a text, cut into windows of T bytes and one more to be guessed."""
    windows = text[: len(text) // (T + 1) * (T + 1)].reshape(-1, 1, T + 1)
    return jnp.mean(jax.lax.map(functools.partial(bits_per_byte, params), windows, batch_size=B))


@functools.partial(jax.jit, static_argnames="length")
def write(params, prompt, key, length, temperature=0.7):
    """Continues the prompt, T bytes long, by `length` bytes."""

    def next_byte(window, key):
        byte = jax.random.categorical(key, logits(params, window[None])[0, -1] / temperature)
        return jnp.append(window[1:], byte), byte

    return jax.lax.scan(next_byte, prompt, jax.random.split(key, length))[1]


def readable(text):
    """The bytes as a terminal can show them: early in training, a sample is full of control characters."""
    return "".join(chr(byte) if 32 <= byte < 127 or byte == 10 else "?" for byte in text.tolist())


def train(tx, params, text, held_out, steps, key):
    """Returns the parameters to evaluate, the loss of every step, and {step: bits per byte on the held-out text}."""
    rates = learning_rates(tx, steps)
    state = tx.init(params)
    losses, scores = [], {}
    with tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
        for step in range(steps):
            params, state, loss = train_step(tx, params, state, text, jax.random.fold_in(key, step))
            losses.append(loss)
            if step == 0:
                loss.block_until_ready()  # the clock starts when the step is compiled
                clock = time.perf_counter()
            elif step % 10 == 0 or step == steps - 1:
                loss = float(loss)  # waits for the device, so it is not read at every step
                gx.check(state)  # and neither is what the guard has counted
                speed = step * B * T / (time.perf_counter() - clock)
                rate = "" if rates is None else f", rate {rates[step]:.1e}"
                bar.set_postfix_str(f"loss {loss:.3f} bits{rate}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
            if (step + 1) % max(steps // 8, 50) == 0 or step == steps - 1:
                losses[-1].block_until_ready()
                start = time.perf_counter()
                scores[step + 1] = float(validate(evaluated(state, params), held_out))
                clock += time.perf_counter() - start
    return evaluated(state, params), np.asarray(jax.device_get(losses)), scores


def draw(losses, rates, scores, path):
    steps = np.arange(1, len(losses) + 1)
    width = max(len(losses) // 50, 1)
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    # Okabe and Ito's colours, told apart by colour-blind readers; the shapes serve a black-and-white print.
    top.plot(steps, losses, color="#56B4E9", linewidth=0.7, alpha=0.6, label="training, each step")
    top.plot(
        steps[width // 2 :][: len(smooth)], smooth, color="#0072B2", label=f"training, mean of {width} steps"
    )
    top.plot(list(scores), list(scores.values()), "o--", color="#D55E00", label="held out")
    last = max(scores)
    top.annotate(f"{scores[last]:.3f}", (last, scores[last]), (0, 8), textcoords="offset points", ha="center")
    top.set(ylabel="loss (bits per byte)", yscale="log", yticks=range(1, 9), yticklabels=range(1, 9))
    top.minorticks_off()
    top.set_ylim(min(1, 0.9 * np.nanmin(losses)), 8.5)  # a run that ends in NaN is drawn as far as it went
    top.legend(frameon=False)
    if rates is not None:
        bottom.plot(steps, rates, color="#009E73")
    bottom.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--optimizer", metavar="NAME", help="a recipe, such as " + ", ".join(RECIPES))
    what.add_argument("--config", metavar="FILE", type=Path, help="a transform that gx.to_json wrote")
    parser.add_argument("--learning-rate", type=float, help="the peak; by default the recipe's in RECIPES")
    parser.add_argument(
        "--bits", type=int, choices=(4, 8, 16, 32), help="of the optimizer's moments; default: float32"
    )
    parser.add_argument("--steps", type=int, default=1600, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="for the plot and the file; default: examples/out"
    )
    args = parser.parse_args()
    if args.config and args.learning_rate:
        parser.error("--learning-rate: a transform from --config has its own")
    if args.config and args.bits:
        parser.error("--bits: a transform from --config says itself how its state is stored")
    if args.config and not args.config.is_file():
        parser.error(f"--config: there is no file {args.config}")

    init_key, train_key, sample_key = jax.random.split(jax.random.key(args.seed), 3)
    text, held_out = map(jnp.asarray, read_text())
    params = init(init_key)
    tx = make_optimizer(args)
    if args.bits:
        tx = gx.lowbit.quantized(tx, args.bits)  # of embeddings and small arrays, the state stays float32
    tx = gx.guard(tx, max_consecutive=10)  # a step with a NaN in it is none
    print(gx.describe(tx, params))  # the first line is repr(tx), which can be pasted back
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"\n{size:,} parameters, {len(text):,} bytes to learn from, {len(held_out):,} held out")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "optimizer.json").write_text(gx.to_json(tx))

    params, losses, scores = train(tx, params, text, held_out, args.steps, train_key)

    draw(losses, learning_rates(tx, args.steps), scores, args.out / "train_lm.png")
    sample = write(params, held_out[:T], sample_key, length=500)
    print(
        f"\nheld-out text: {scores[args.steps]:.3f} bits per byte\n\na sample; the text left of the bar | was given:\n"
    )
    print(f"{readable(held_out[:T])}|{readable(sample)}")
    print(f"\n{args.out / 'train_lm.png'}\n{args.out / 'optimizer.json'}")


if __name__ == "__main__":
    main()
