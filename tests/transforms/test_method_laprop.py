"""LaProp: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, State, bias_correction, hyper

from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, STORAGE, WARM, leafwise, make_case


@dataclass(frozen=True)
class Laprop:
    """v = b2 v + (1 - b2) g^2;  m = b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps);  u = m / (1 - b1^t)."""

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-15

    def init(self, p: Array) -> State:
        return {"count": 0, "mu": np.zeros_like(p, np.float64), "nu": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        b1, b2, eps = (hyper(h, state["count"]) for h in (self.b1, self.b2, self.eps))
        t = state["count"] + 1
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        root = np.sqrt(v / bias_correction(b2, t)) + eps
        share = np.divide(g, root, out=np.zeros_like(root), where=root > 0)
        m = b1 * state["mu"] + (1 - b1) * share
        return {"count": t, "mu": m, "nu": v}, m / bias_correction(b1, t)


def recipe(learning_rate: Any, weight_decay: Any = 0.0, mask: Any = None, **options: Any) -> Any:
    return ref.Chain(
        ref.Leafwise(Laprop(**options)),
        ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask),
        ref.Leafwise(ref.ScaleByLearningRate(learning_rate)),
    )


_ROWS: list[dict[str, Any]] = [
    {},
    {"b1": 0.0, "b2": 0.5},
    {"b1": 0.99, "b2": 0.9, "eps": 1e-3},
    {"eps": 0.0},
    {"b1": BETA1, "b2": BETA2, "eps": GROW},
    {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
CASES = [
    *(make_case("scale_by_laprop", leafwise(Laprop), row, STORAGE) for row in _ROWS),
    make_case("laprop", recipe, {"learning_rate": 1e-3, "weight_decay": 0.1, "mask": MATRICES}),
    make_case(
        "laprop",
        recipe,
        {"learning_rate": WARM, "weight_decay": FALL, "b1": 0.8, "b2": 0.95, "eps": 1e-6}
        | {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
        STORAGE,
    ),
]

_MOMENTS = {
    "b1": [0.0, 0.8],
    "b2": [0.9],
    "eps": [0.1],
    "mu_dtype": [jnp.bfloat16],
    "nu_dtype": [jnp.bfloat16],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_laprop": ({}, _MOMENTS),
    "laprop": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        _MOMENTS | {"learning_rate": [0.2], "weight_decay": [0.0, 0.2], "mask": [{"w": True, "b": False}]},
    ),
}


def run(tx: Any, gradients: Any) -> Any:
    state, seen = tx.init(jnp.zeros(())), []
    for g in gradients:
        update, state = tx.update(jnp.asarray(g), state)
        seen.append(float(update))
    return np.array(seen)


def test_without_an_average_it_is_adam() -> None:
    gradients = np.random.default_rng(3).normal(size=20).astype(np.float32)
    laprop, adam = (make(b1=0.0, eps=1e-8) for make in (gx.scale_by_laprop, gx.scale_by_adam))
    np.testing.assert_allclose(run(laprop, gradients), run(adam, gradients), rtol=1e-6)
    laprop, adam = (make(b1=0.9, eps=1e-8) for make in (gx.scale_by_laprop, gx.scale_by_adam))
    assert not np.allclose(run(laprop, gradients), run(adam, gradients), rtol=1e-2)


def test_a_step_is_no_larger_than_its_quotients() -> None:
    """The paper's point: Adam with b2 < b1^2 takes steps without bound when gradients become small, LaProp none."""
    gradients = np.float32(10.0) ** -np.arange(0, 8, 0.25, dtype=np.float32)
    laprop, adam = (make(b1=0.9, b2=0.5, eps=0.0) for make in (gx.scale_by_laprop, gx.scale_by_adam))
    assert np.max(np.abs(run(laprop, gradients))) <= 1 + 1e-6
    assert np.max(np.abs(run(adam, gradients))) > 2.0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.scale_by_laprop\(b1=1\.0\).*\(in gx\.laprop\)"):
        gx.laprop(1e-3, b1=1.0)
    with pytest.raises(ValueError, match=r"gx\.laprop\(weight_decay=-0\.1\)"):
        gx.laprop(1e-3, weight_decay=-0.1)
