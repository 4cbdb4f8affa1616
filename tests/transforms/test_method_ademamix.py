"""AdEMAMix: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

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
from tests.reference.scalars import Array, Hyper, State, bias_correction, hyper

from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, STAIRS, WARM, leafwise, make_case

STORAGE = ("mu_dtype", "m2_dtype", "nu_dtype")


@dataclass(frozen=True)
class Ademamix:
    """u = (m1 / (1 - b1^t) + alpha m2) / (sqrt(v / (1 - b2^t) + eps_root) + eps), three averages."""

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    b3: Hyper = 0.9999
    alpha: Hyper = 6.0
    eps: Hyper = 1e-8
    eps_root: Hyper = 0.0
    warmup_steps: int = 0

    def init(self, p: Array) -> State:
        zeros = {name: np.zeros_like(p, np.float64) for name in ("m1", "m2", "nu")}
        return {"count": 0, "count_m2": 0} | zeros

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        names = (self.b1, self.b2, self.b3, self.alpha, self.eps, self.eps_root)
        b1, b2, b3, alpha, eps, eps_root = (hyper(h, state["count"]) for h in names)
        t = state["count"] + 1
        if t < self.warmup_steps:
            # The paper's code: half-lives ln(1/2) / ln(b) - 1 in a line, and back.
            share = t / self.warmup_steps
            life = (1 - share) * (np.log(0.5) / np.log(b1) - 1) + share * (np.log(0.5) / np.log(b3) - 1)
            alpha, b3 = alpha * share, 0.5 ** (1 / (life + 1))
        m1 = b1 * state["m1"] + (1 - b1) * g
        m2 = b3 * state["m2"] + (1 - b3) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        root = np.sqrt(v / bias_correction(b2, t) + eps_root) + eps
        top = m1 / bias_correction(b1, t) + alpha * m2
        u = np.divide(top, root, out=np.zeros_like(root), where=root > 0)
        return {"count": t, "count_m2": t, "m1": m1, "m2": m2, "nu": v}, u


def recipe(learning_rate: Any, weight_decay: Any = 0.0, mask: Any = None, **options: Any) -> Any:
    return ref.Chain(
        ref.Leafwise(Ademamix(**{"alpha": 5.0} | options)),
        ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask),
        ref.Leafwise(ref.ScaleByLearningRate(learning_rate)),
    )


_ROWS: list[dict[str, Any]] = [
    {},
    {"b1": 0.0, "b2": 0.5, "b3": 0.9, "alpha": 2.0},
    {"b1": 0.99, "b2": 0.9, "b3": 0.999, "eps": 1e-3, "eps_root": 1e-6},
    {"eps": 0.0, "alpha": 0.0},
    {"b1": BETA1, "b2": BETA2, "alpha": STAIRS, "eps": GROW},
    {"warmup_steps": 150, "b3": 0.999},
    {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16, "m2_dtype": jnp.bfloat16},
]
CASES = [
    *(make_case("scale_by_ademamix", leafwise(Ademamix), row, STORAGE) for row in _ROWS),
    make_case("ademamix", recipe, {"learning_rate": 1e-3, "weight_decay": 0.1, "mask": MATRICES}),
    make_case(
        "ademamix",
        recipe,
        {"learning_rate": WARM, "weight_decay": FALL, "b1": 0.8, "b2": 0.95, "eps": 1e-6, "warmup_steps": 100}
        | {"b3": 0.999, "alpha": 3.0, "eps_root": 1e-8}
        | {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16, "m2_dtype": jnp.bfloat16},
        STORAGE,
    ),
]

_MOMENTS = {
    "b1": [0.0, 0.8],
    "b2": [0.9],
    "b3": [0.99],
    "alpha": [0.0, 1.0],
    "eps": [0.1],
    "eps_root": [0.1],
    "mu_dtype": [jnp.bfloat16],
    "m2_dtype": [jnp.bfloat16],
    "nu_dtype": [jnp.bfloat16],
    "warmup_steps": [50],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_ademamix": ({}, _MOMENTS),
    "ademamix": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        _MOMENTS | {"learning_rate": [0.2], "weight_decay": [0.0, 0.2], "mask": [{"w": True, "b": False}]},
    ),
}


def run(tx: Any, gradients: Any, start: Any = None) -> tuple[Any, np.ndarray]:
    start = jnp.zeros(gradients.shape[1:], gradients.dtype) if start is None else start

    def step(state: Any, g: Any) -> tuple[Any, Any]:
        update, state = tx.update(g, state, start)
        return state, update

    state, seen = jax.lax.scan(step, tx.init(start), jnp.asarray(gradients))
    return state, np.asarray(seen, np.float32)


GRADIENTS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def test_without_the_slow_average_it_is_adam() -> None:
    _, mixed = run(gx.scale_by_ademamix(alpha=0.0), GRADIENTS)
    _, adam = run(gx.scale_by_adam(), GRADIENTS)
    np.testing.assert_allclose(mixed, adam, rtol=1e-6)


def test_it_is_optax_s_with_optax_s_state() -> None:
    """The same updates, and either goes on with the other's state."""
    with optax_s_own():
        theirs, ours = optax.contrib.ademamix(0.1, weight_decay=0.1), gx.ademamix(0.1, weight_decay=0.1)
        start = jnp.ones(3)
        state, want = run(theirs, GRADIENTS, start)
        mine, got = run(ours, GRADIENTS, start)
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-7)
        assert jax.tree.structure(mine[0]) == jax.tree.structure(state[0])
        assert int(mine[0].count_m2) == int(mine[0].count) == len(GRADIENTS)
        after, _ = ours.update(jnp.asarray(GRADIENTS[0]), state, start)
        want, _ = theirs.update(jnp.asarray(GRADIENTS[0]), state, start)
        np.testing.assert_allclose(after, want, rtol=3e-5, atol=3e-7)


def test_the_slow_average_of_a_16_bit_parameter_fills() -> None:
    """Of a steady gradient it has 1 - b3^t after t steps; in bfloat16 it stops when a step is a 256th of it."""
    ones = np.ones((400, 1), jnp.bfloat16)
    state, _ = run(gx.scale_by_ademamix(b3=0.999), ones)
    assert state.m2.dtype == jnp.float32
    assert float(state.m2[0]) == pytest.approx(1 - 0.999**400, rel=1e-3)
    stalled, _ = run(gx.scale_by_ademamix(b3=0.999, m2_dtype=jnp.bfloat16), ones)
    assert float(stalled.m2[0]) < 0.8 * float(state.m2[0])


def test_the_warmup_ends_where_it_says() -> None:
    """From step T on it is the method without, with what the slow average has by then."""
    tx, plain = gx.scale_by_ademamix(b3=0.99, warmup_steps=10), gx.scale_by_ademamix(b3=0.99)
    state, _ = run(tx, GRADIENTS[:9])
    for g in GRADIENTS[9:12]:
        want, _ = plain.update(jnp.asarray(g), state)
        update, state = tx.update(jnp.asarray(g), state)
        np.testing.assert_allclose(update, want, rtol=1e-5)
    before, _ = run(tx, GRADIENTS[:5])
    update, _ = tx.update(jnp.asarray(GRADIENTS[5]), before)
    other, _ = plain.update(jnp.asarray(GRADIENTS[5]), before)
    assert not np.allclose(update, other, rtol=1e-3)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.scale_by_ademamix\(b3=1\.0\).*\(in gx\.ademamix\)"):
        gx.ademamix(1e-3, b3=1.0)
    with pytest.raises(ValueError, match=r"alpha=-1"):
        gx.scale_by_ademamix(alpha=-1)
    with pytest.raises(TypeError, match=r"warmup_steps=1\.5"):
        gx.ademamix(1e-3, warmup_steps=1.5)
