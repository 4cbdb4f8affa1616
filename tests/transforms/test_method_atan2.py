"""Adam-atan2: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, State, bias_correction, hyper

from .grid_cases import BETA1, BETA2, FALL, MATRICES, STAIRS, STORAGE, WARM, leafwise, make_case


@dataclass(frozen=True)
class AdamAtan2:
    """u = a atan2(m / (1 - b1^t), b sqrt(v / (1 - b2^t)))."""

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    a: Hyper = 1.27
    b: Hyper = 1.0

    def init(self, p: Array) -> State:
        return {"count": 0, "mu": np.zeros_like(p, np.float64), "nu": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        b1, b2, a, b = (hyper(h, state["count"]) for h in (self.b1, self.b2, self.a, self.b))
        t = state["count"] + 1
        m = b1 * state["mu"] + (1 - b1) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        u = a * np.arctan2(m / bias_correction(b1, t), b * np.sqrt(v / bias_correction(b2, t)))
        return {"count": t, "mu": m, "nu": v}, u


def recipe(learning_rate: Any, weight_decay: Any = 0.0, mask: Any = None, **options: Any) -> Any:
    return ref.Chain(
        ref.Leafwise(AdamAtan2(**options)),
        ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask),
        ref.Leafwise(ref.ScaleByLearningRate(learning_rate)),
    )


_ROWS: list[dict[str, Any]] = [
    {},
    {"b1": 0.0, "b2": 0.5, "a": 1.0, "b": 2.0},
    {"b1": BETA1, "b2": BETA2, "a": STAIRS, "b": FALL},
    {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
CASES = [
    *(make_case("scale_by_adam_atan2", leafwise(AdamAtan2), row, STORAGE) for row in _ROWS),
    make_case("adam_atan2", recipe, {"learning_rate": 1e-3, "weight_decay": 0.1, "mask": MATRICES}),
    make_case(
        "adam_atan2",
        recipe,
        {"learning_rate": WARM, "weight_decay": FALL, "b1": 0.8, "b2": 0.95, "a": 1.0, "b": 0.5}
        | {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
        STORAGE,
    ),
]

_MOMENTS = {
    "b1": [0.0, 0.8],
    "b2": [0.9],
    "a": [1.0],
    "b": [0.5],
    "mu_dtype": [jnp.bfloat16],
    "nu_dtype": [jnp.bfloat16],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_adam_atan2": ({}, _MOMENTS),
    "adam_atan2": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        _MOMENTS | {"learning_rate": [0.2], "weight_decay": [0.0, 0.2], "mask": [{"w": True, "b": False}]},
    ),
}

GRADIENTS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def run(tx: Any, gradients: Any) -> tuple[Any, np.ndarray]:
    def step(state: Any, g: Any) -> tuple[Any, Any]:
        update, state = tx.update(g, state)
        return state, update

    state, seen = jax.lax.scan(step, tx.init(jnp.zeros_like(gradients[0])), jnp.asarray(gradients))
    return state, np.asarray(seen)


def test_small_updates_are_adam_s() -> None:
    """atan(x) = x - x^3 / 3 + ...; with b = 100 every quotient is small, and a = 100 makes it Adam's size again."""
    _, angles = run(gx.scale_by_adam_atan2(a=100.0, b=100.0), GRADIENTS)
    _, adam = run(gx.scale_by_adam(eps=0.0), GRADIENTS)
    np.testing.assert_allclose(angles, adam, rtol=1e-3)


def test_the_size_of_the_loss_does_not_matter() -> None:
    """A factor of 2^-50, below what any epsilon would bear, changes no bit: powers of two are exact."""
    _, large = run(gx.scale_by_adam_atan2(), GRADIENTS)
    _, small = run(gx.scale_by_adam_atan2(), GRADIENTS * np.float32(2.0**-50))
    np.testing.assert_array_equal(large, small)
    assert np.max(np.abs(large)) <= 1.27 * np.pi / 2


def test_it_goes_on_with_adam_s_state() -> None:
    state, _ = run(gx.scale_by_adam(), GRADIENTS)
    mine, _ = run(gx.scale_by_adam_atan2(), GRADIENTS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), state, mine)


def test_a_complex_update_has_the_direction_of_the_average() -> None:
    tx = gx.scale_by_adam_atan2(b1=0.0, b2=0.0)
    update, _ = tx.update(jnp.complex64(3 + 4j), tx.init(jnp.complex64(0)))
    np.testing.assert_allclose(update, (0.6 + 0.8j) * 1.27 * np.pi / 4, rtol=1e-6)
    assert complex(tx.update(jnp.complex64(0), tx.init(jnp.complex64(0)))[0]) == 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.scale_by_adam_atan2\(b1=1\.0\).*\(in gx\.adam_atan2\)"):
        gx.adam_atan2(1e-3, b1=1.0)
    with pytest.raises(ValueError, match=r"gx\.scale_by_adam_atan2\(b=0\)"):
        gx.scale_by_adam_atan2(b=0)
