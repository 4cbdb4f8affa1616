"""Schedule-Free's recipes: the sequences of the paper, a reference for the grid, and what is true of them alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gradxform as gx
from tests import reference as ref
from tests.interop.problem import optax_s_own
from tests.reference.recipes import sgd
from tests.reference.root_mean import Rms
from tests.reference.scalars import Hyper, hyper
from tests.reference.tree import map_tree

from .forced import ours
from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, WARM, make_case
from .options_methods import FALL as FALLING, HALF, MASK, Beside

STORAGE = ("state_dtype", "nu_dtype")


@dataclass(frozen=True)
class ScheduleFree:
    """x and y by how far they are from z: e = x - z = (y - z) / b1 becomes (1 - c) (e - u), and y' is z' + b1 e'.

    As sums of weights they would leave no digits of an update that is small beside them; `paper` below has the sums.
    """

    base: Any
    learning_rate: Hyper
    b1: Hyper = 0.9
    weight_lr_power: float = 2.0
    weight_step_power: float = 0.0

    def init(self, params: Any) -> Any:
        numbers = {"b1": hyper(self.b1, 0), "weight_sum": 0.0, "step_count": 0, "max_lr": 0.0}
        return {**numbers, "base_optimizer_state": self.base.init(params), "z": params}

    def update(self, grads: Any, state: Any, params: Any = None) -> Any:
        count, before = state["step_count"], float(state["b1"])
        b1 = hyper(self.b1, count)
        b1 = before if np.float32(b1) == np.float32(before) else b1  # stored in float32
        base, u = self.base.update(grads, state["base_optimizer_state"], params)
        top = max(float(state["max_lr"]), hyper(self.learning_rate, count))
        w = (count + 1) ** self.weight_step_power * top**self.weight_lr_power
        total = float(state["weight_sum"]) + w
        c = w / total if total else 0.0
        old = map_tree(lambda y, z: (y - z) / before, params, state["z"])
        now = map_tree(lambda e, u: (1 - c) * (e - u), old, u)
        z = map_tree(lambda z, u: z + u, state["z"], u)
        new = {"b1": b1, "weight_sum": total, "step_count": count + 1, "max_lr": top}
        new |= {"base_optimizer_state": base, "z": z}
        return new, map_tree(lambda u, e, at: u + b1 * at - before * e, u, old, now)


def warmed(rate: Any, warmup_steps: Any) -> Any:
    return rate if warmup_steps is None else lambda count: rate * min((count + 1) / warmup_steps, 1.0)


def free_sgd(
    learning_rate: Any = 1.0,
    warmup_steps: Any = None,
    weight_decay: Any = None,
    mask: Any = None,
    **options: Any,
) -> Any:
    rate = warmed(learning_rate, warmup_steps)
    base = sgd(rate)
    if weight_decay is not None:
        decay = ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask)
        base = ref.Chain(decay, base)
    return ScheduleFree(base, rate, **options)


def free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: Any = None,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    **options: Any,
) -> Any:
    rate = warmed(learning_rate, warmup_steps)
    base = ref.Chain(
        ref.Leafwise(Rms(b2, eps, eps_in_sqrt=False, bias_correction=True)),
        ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask),
        ref.Leafwise(ref.ScaleByLearningRate(rate)),
    )
    return ScheduleFree(base, rate, **options)


_SGD: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.1, "b1": 0.5, "weight_decay": 0.1, "mask": MATRICES},
    {"learning_rate": WARM, "b1": 1.0, "weight_decay": 0.1, "weight_lr_power": 1.0},
    {"learning_rate": 0.1, "warmup_steps": 60, "b1": BETA1, "weight_step_power": 2.0},
    {"learning_rate": 0.1, "warmup_steps": 1, "weight_lr_power": 0.0, "state_dtype": jnp.bfloat16},
]
_ADAMW: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.01, "warmup_steps": 60, "b1": 0.98, "b2": 0.99, "weight_decay": 0.1},
    {"learning_rate": WARM, "b1": BETA1, "b2": BETA2, "eps": GROW, "weight_decay": FALL, "mask": MATRICES},
    {"weight_lr_power": 0.5, "weight_step_power": 1.0, "eps": 1e-3, "weight_decay": 0.1},
    {"state_dtype": jnp.float32, "nu_dtype": jnp.bfloat16, "weight_decay": 0.1},
]
CASES = [
    *(make_case("schedule_free_sgd", free_sgd, row, STORAGE) for row in _SGD),
    *(make_case("schedule_free_adamw", free_adamw, row, STORAGE) for row in _ADAMW),
]

_SHARED = {
    "learning_rate": [0.2, Beside(HALF, warmup_steps=None)],
    "warmup_steps": [None, 2],
    "b1": [0.5, 1.0, FALLING],
    "weight_lr_power": [0.0, 1.0],
    "weight_step_power": [1.0],
    "state_dtype": [jnp.bfloat16],
    "mask": [MASK],
}
_BASE = {"learning_rate": 0.1, "warmup_steps": 4, "weight_decay": 0.1}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "schedule_free_sgd": (_BASE, _SHARED | {"weight_decay": [None, 0.2]}),
    "schedule_free_adamw": (
        _BASE,
        _SHARED | {"weight_decay": [0.0, 0.2, HALF], "b2": [0.9], "eps": [0.1], "nu_dtype": [jnp.bfloat16]},
    ),
}

STEPS = 200
RANDOM = np.random.default_rng(11)
CURVATURE = np.linspace(0.1, 1.0, 8)
NOISE = 0.3 * RANDOM.normal(size=(STEPS, 8))
START = RANDOM.normal(size=8)


def trajectory(tx: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, z and x after each of 200 steps on a noisy quadratic."""

    def step(carry: Any, noise: Any) -> Any:
        p, state = carry
        u, state = tx.update(jnp.asarray(CURVATURE, dtype) * p + noise, state, p)
        p = gx.apply_updates(p, u)
        return (p, state), (p, state.z, gx.eval_params(state, p))

    p = jnp.asarray(START, dtype)
    _, seen = jax.lax.scan(step, (p, tx.init(p)), jnp.asarray(NOISE, dtype))
    return tuple(np.asarray(each, np.float64) for each in seen)


def paper(
    adam: bool, rate: float, warmup: int, b1: float, decay: float, b2: float = 0.99
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The algorithms of the paper in one loop of three sequences, x among them; nothing is recovered."""
    x = z = START
    v, total, rows = np.zeros(8), 0.0, []
    for t in range(1, STEPS + 1):
        y = (1 - b1) * z + b1 * x
        g = CURVATURE * y + NOISE[t - 1]
        gamma = rate * min(1.0, t / warmup)
        if adam:
            v = b2 * v + (1 - b2) * g * g
            g = g / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        z = z - gamma * g - gamma * decay * y
        total += gamma**2
        x = x + gamma**2 / total * (z - x)
        rows.append((b1 * x + (1 - b1) * z, z, x))
    return tuple(np.array(each) for each in zip(*rows, strict=True))


@pytest.mark.parametrize("b1", [0.5, 0.9, 0.98, 1.0])
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.usefixtures("x64")
def test_all_three_sequences_are_the_paper_s(adam: bool, b1: float) -> None:
    rate, warmup, decay = 0.05, 40, 0.1
    tx = (
        gx.schedule_free_adamw(rate, warmup, b1, 0.99, weight_decay=decay)
        if adam
        else gx.schedule_free_sgd(rate, warmup, b1, decay)
    )
    wanted = paper(adam, rate, warmup, b1, decay)
    for got, want in zip(trajectory(tx, jnp.float64), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    with jax.enable_x64(False):
        for got, want in zip(trajectory(tx, jnp.float32), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_it_is_optax_s_and_either_goes_on_with_the_other_s_state(name: str) -> None:
    options = {"learning_rate": 0.05, "weight_decay": 0.1, "b1": 0.8}
    theirs, mine = getattr(optax.contrib, name)(**options), getattr(gx, name)(**options)
    with optax_s_own():
        p = jnp.asarray(START, jnp.float32)
        assert jax.tree.structure(mine.init(p)) == jax.tree.structure(theirs.init(p))
        wanted, runs = trajectory(theirs, jnp.float32), trajectory(mine, jnp.float32)
        for got, want in zip(runs, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
        for first, second in ((theirs, mine), (mine, theirs)):
            p, state = jnp.asarray(START, jnp.float32), first.init(jnp.asarray(START, jnp.float32))
            for i in range(40):
                tx = first if i < 20 else second
                g = jnp.asarray(CURVATURE * np.asarray(p) + NOISE[i], jnp.float32)
                u, state = tx.update(g, state, p)
                p = optax.apply_updates(p, u)
            np.testing.assert_allclose(p, wanted[0][39], rtol=0, atol=2e-5)
            found = optax.contrib.schedule_free_eval_params(state, p)
            np.testing.assert_allclose(found, wanted[2][39], rtol=0, atol=2e-5)
            np.testing.assert_allclose(gx.eval_params(state, p), wanted[2][39], rtol=0, atol=2e-5)


def test_the_first_step_of_a_warmup_is_a_step() -> None:
    """A T-th of the rate, and the T-th step the whole; Optax's first has a rate of 0."""
    p = jnp.zeros(1)
    tx, theirs = (lib.schedule_free_sgd(1.0, warmup_steps=4) for lib in (gx, optax.contrib))
    state, at = tx.init(p), []
    for _ in range(6):
        before = state.z
        _, state = tx.update(jnp.ones(1), state, p)
        at.append(float(before[0] - state.z[0]))
    np.testing.assert_allclose(at, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rtol=1e-6)
    # The weights are the squares of the rates with which the steps were made.
    assert float(state.weight_sum) == pytest.approx(sum(rate**2 for rate in at), rel=1e-6)
    with optax_s_own():
        first, _ = theirs.update(jnp.ones(1), theirs.init(p), p)
    assert float(first[0]) == 0.0


def test_the_decay_is_that_of_y() -> None:
    """With a gradient of zero, z falls by rate x decay x y, where y and z are apart."""
    for name in ("schedule_free_sgd", "schedule_free_adamw"):
        tx = getattr(gx, name)(0.1, weight_decay=0.5)
        p, z = jnp.array([2.0]), jnp.array([-1.0])
        state = tx.init(p)._replace(z=z)
        _, new = tx.update(jnp.zeros(1), state, p)
        assert float(new.z[0]) == pytest.approx(-1.0 - 0.1 * 0.5 * 2.0, rel=1e-6)


def test_a_value_that_can_be_tuned() -> None:
    tx = gx.schedule_free_adamw(0.1, warmup_steps=3, weight_decay=0.1)
    assert gx.from_json(gx.to_json(tx)) == tx == gx.schedule_free_adamw(0.1, 3, weight_decay=0.1)
    tuned = gx.tunable(tx, "learning_rate", "b1", "b2")
    p = jnp.asarray(START, jnp.float32)
    got, _ = tuned.update(p, tuned.init(p), p)
    want, _ = tx.update(p, tx.init(p), p)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    half = gx.set_hyperparams(tuned.init(p), learning_rate=0.05)
    np.testing.assert_allclose(tuned.update(p, half, p)[0], 0.5 * want, rtol=1e-6)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.schedule_free_adamw\(b2=1\.0\)"):
        gx.schedule_free_adamw(b2=1.0)
    with pytest.raises(ValueError, match=r"(?s)b1=0\.0.*no weights to evaluate with.*schedule_free_sgd"):
        gx.schedule_free_sgd(b1=0.0)
    with pytest.raises(ValueError, match=r"warmup_steps=0"):
        gx.schedule_free_sgd(warmup_steps=0)
    with pytest.raises(ValueError, match="two warmups"):
        gx.schedule_free_adamw(ours(WARM), warmup_steps=10)
    with pytest.raises(ValueError, match=r"weight_decay=-0\.1"):
        gx.schedule_free_sgd(weight_decay=-0.1)
