"""MARS: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, State, hyper

from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, STAIRS, WARM, Case, leafwise, make_case

STORAGE = ("mu_dtype", "nu_dtype", "last_dtype")
#: What `gx.matrices()` takes of the grid's leaves.
RANK = {"w": True, "b": False, "s": False, "c": True, "k": True}


@dataclass(frozen=True)
class Correction:
    """c = g + gamma b1 / (1 - b1) (g - last), and c / |c| max_norm where its norm is above. The paper starts from two
    equal points, so the first difference is 0."""

    gamma: Hyper = 0.025
    b1: Hyper = 0.95
    max_norm: Hyper = 1.0

    def init(self, p: Array) -> State:
        return {"count": 0, "last": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        gamma, b1, most = (hyper(h, state["count"]) for h in (self.gamma, self.b1, self.max_norm))
        last = state["last"] if state["count"] else g
        c = g + gamma * b1 / (1 - b1) * (g - last)
        size = np.sqrt(np.sum(np.square(c)))
        return {"count": state["count"] + 1, "last": g}, c * most / size if size > most else c


def recipe(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    gamma: Any = 0.025,
    max_norm: Any = 1.0,
    corrected: Any = None,
) -> Any:
    return ref.Chain(
        ref.Leafwise(Correction(gamma, b1, max_norm), RANK if corrected is None else corrected),
        ref.Leafwise(ref.Adam(b1, b2, eps)),
        ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask),
        ref.Leafwise(ref.ScaleByLearningRate(learning_rate)),
    )


_ROWS: list[dict[str, Any]] = [
    {},
    {"gamma": 0.5, "b1": 0.0, "max_norm": 1e-3},
    {"gamma": STAIRS, "b1": BETA1, "max_norm": FALL},
    {"last_dtype": jnp.bfloat16, "gamma": 0.0},
]
_RATED: list[dict[str, Any]] = [
    {"learning_rate": 1e-3, "weight_decay": 0.1, "mask": MATRICES},
    {"learning_rate": WARM, "weight_decay": FALL, "b1": BETA1, "b2": BETA2, "eps": GROW, "gamma": 0.1}
    | {"max_norm": 10.0, "corrected": True, "mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
CASES: list[Case] = [
    *(make_case("mars_correction", leafwise(Correction), row, STORAGE) for row in _ROWS),
    *(make_case("mars", recipe, row, STORAGE) for row in _RATED),
]

_OWN: dict[str, list[Any]] = {"gamma": [0.0, 0.5], "b1": [0.5], "max_norm": [0.01]}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "mars_correction": ({}, _OWN | {"last_dtype": [jnp.float16]}),
    "mars": (
        {"learning_rate": 0.1, "weight_decay": 0.1, "max_norm": 1.0, "eps": 1e-2},
        _OWN
        | {"learning_rate": [0.2], "weight_decay": [0.0, 0.2], "mask": [{"w": True, "b": False}]}
        | {"corrected": [True, "b"], "b2": [0.9], "eps": [0.1]}
        | {"mu_dtype": [jnp.bfloat16], "nu_dtype": [jnp.bfloat16]},
    ),
}

GRADIENTS = np.random.default_rng(3).normal(size=(40, 3, 2)).astype(np.float32)


def run(tx: Any, gradients: Any) -> np.ndarray:
    def step(state: Any, g: Any) -> tuple[Any, Any]:
        update, state = tx.update(g, state)
        return state, update

    return np.asarray(jax.lax.scan(step, tx.init(jnp.zeros_like(gradients[0])), jnp.asarray(gradients))[1])


def test_without_a_share_it_is_a_clip() -> None:
    plain = gx.mars_correction(gamma=0.0, max_norm=2.0)
    clipped = run(plain, GRADIENTS)
    norms = np.linalg.norm(GRADIENTS, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(clipped, GRADIENTS * np.minimum(1, 2 / norms), rtol=1e-6)
    np.testing.assert_array_equal(run(gx.mars_correction(0.0, max_norm=np.inf), GRADIENTS), GRADIENTS)


def test_a_full_share_takes_the_lag_of_an_average_away() -> None:
    """Of gradients in a line, g_t = t, an average lags by b / (1 - b) steps; with gamma = 1 it does not."""
    line = np.arange(1, 200, dtype=np.float32)
    both = gx.chain(gx.mars_correction(1.0, 0.9, max_norm=np.inf), gx.ema(0.9))
    assert run(both, line)[-1] == pytest.approx(line[-1], rel=1e-5)
    assert run(gx.ema(0.9), line)[-1] == pytest.approx(line[-1] - 9, rel=1e-3)


@pytest.mark.parametrize("method", [gx.scale_by_lion, gx.scale_by_muon, gx.scale_by_adam])
def test_any_method_stands_behind_it(method: Any) -> None:
    corrected = run(gx.chain(gx.mars_correction(), method()), GRADIENTS)
    assert np.all(np.isfinite(corrected))
    assert not np.allclose(corrected, run(method(), GRADIENTS), rtol=1e-2)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.mars_correction\(b1=1\.0\).*\(in gx\.mars\)"):
        gx.mars(1e-3, b1=1.0)
    with pytest.raises(ValueError, match=r"gx\.mars_correction\(gamma=-1\)"):
        gx.mars_correction(-1)
    with pytest.raises(ValueError, match=r"gx\.mars_correction\(max_norm=0\)"):
        gx.mars_correction(max_norm=0)
