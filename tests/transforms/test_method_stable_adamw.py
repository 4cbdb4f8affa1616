"""StableAdamW: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, State, hyper

from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, STORAGE, WARM, Case, leafwise, make_case
from .halves import Halves


@dataclass(frozen=True)
class StableAdam:
    """Algorithm 2 of the paper: the decays themselves are corrected, b (1 - b^(t-1)) / (1 - b^t), and the rate of an
    array, with which its decay is multiplied too, is divided by max(1, RMS).

    The state is in Adam's terms: m and v are what the paper's averages would be times 1 - b^t.
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.99
    eps: Hyper = 1e-6
    weight_decay: Hyper = 0.0

    def init(self, p: Array) -> State:
        return {"count": 0, "mu": np.zeros_like(p, np.float64), "nu": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        names = (self.b1, self.b2, self.eps, self.weight_decay)
        b1, b2, eps, decay = (hyper(h, state["count"]) for h in names)
        t = state["count"] + 1
        m = b1 * state["mu"] + (1 - b1) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        m_hat, v_hat = (x if b == 0 else x / -np.expm1(t * np.log(b)) for x, b in ((m, b1), (v, b2)))
        below = np.maximum(v_hat, eps**2)
        rms = np.sqrt(np.mean(np.divide(g**2, below, out=np.zeros_like(below), where=below > 0)))
        root = np.sqrt(v_hat) + eps
        u = np.divide(m_hat, root, out=np.zeros_like(root), where=root > 0)
        u = u if p is None else u + decay * p
        return {"count": t, "mu": m, "nu": v}, u / max(1.0, rms)


def recipe(learning_rate: Any, **options: Any) -> Any:
    return ref.Chain(
        ref.Leafwise(StableAdam(**options)), ref.Leafwise(ref.ScaleByLearningRate(learning_rate))
    )


def masked(learning_rate: Any, weight_decay: Any, mask: dict[str, bool], **options: Any) -> Any:
    halves = {
        "decayed": ref.Leafwise(StableAdam(weight_decay=weight_decay, **options)),
        "rest": ref.Leafwise(StableAdam(**options)),
    }
    names = [name for name, taken in mask.items() if taken]
    return ref.Chain(Halves(names, halves), ref.Leafwise(ref.ScaleByLearningRate(learning_rate)))


_ROWS: list[dict[str, Any]] = [
    {},
    {"b1": 0.0, "b2": 0.5, "weight_decay": 0.1},
    {"b1": 0.99, "b2": 0.9, "eps": 1e-3, "weight_decay": FALL},
    {"eps": 0.0},
    {"b1": BETA1, "b2": BETA2, "eps": GROW},
    {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
_RATED: list[dict[str, Any]] = [
    {"learning_rate": 1e-3, "weight_decay": 0.1},
    {"learning_rate": WARM, "weight_decay": FALL, "b1": 0.8, "b2": 0.95, "eps": 1e-5}
    | {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
CASES: list[Case] = [
    *(make_case("scale_by_stable_adam", leafwise(StableAdam), row, STORAGE) for row in _ROWS),
    *(make_case("stable_adamw", recipe, row, STORAGE) for row in _RATED),
    make_case("stable_adamw", masked, {"learning_rate": WARM, "weight_decay": 0.1, "mask": MATRICES}),
]

_MOMENTS = {
    "b1": [0.0, 0.8],
    "b2": [0.9],
    "eps": [0.1],
    "weight_decay": [0.0, 0.2],
    "mu_dtype": [jnp.bfloat16],
    "nu_dtype": [jnp.bfloat16],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_stable_adam": ({"weight_decay": 0.1}, _MOMENTS),
    "stable_adamw": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        _MOMENTS | {"learning_rate": [0.2], "mask": [{"w": True, "b": False}]},
    ),
}

GRADIENTS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def run(tx: Any, gradients: Any) -> np.ndarray:
    def step(state: Any, g: Any) -> tuple[Any, Any]:
        update, state = tx.update(g, state)
        return state, update

    return np.asarray(jax.lax.scan(step, tx.init(jnp.zeros_like(gradients[0])), jnp.asarray(gradients))[1])


def test_a_step_of_falling_gradients_is_adam_s() -> None:
    falling = GRADIENTS * (np.float32(0.9) ** np.arange(40, dtype=np.float32))[:, None]
    quiet = np.sign(falling) * np.float32(0.95) ** np.arange(40, dtype=np.float32)[:, None]
    stable, adam = (make(b2=0.99, eps=1e-6) for make in (gx.scale_by_stable_adam, gx.scale_by_adam))
    np.testing.assert_allclose(run(stable, quiet), run(adam, quiet), rtol=1e-6)
    assert not np.allclose(run(stable, GRADIENTS), run(adam, GRADIENTS), rtol=1e-2)


def test_a_spike_of_one_array_is_its_own() -> None:
    """Gradients a thousand times as large: that array's step has the size of others, another's does not change."""
    params = {"a": jnp.zeros(4), "b": jnp.zeros(4)}

    def after(factor: float, tx: Any) -> Any:
        state = tx.init(params)
        ones = {"a": jnp.ones(4), "b": jnp.ones(4)}
        for _ in range(30):
            _, state = tx.update(ones, state)
        return tx.update(ones | {"a": ones["a"] * np.float32(factor)}, state)[0]

    stable = after(1000.0, gx.scale_by_stable_adam(b1=0.0, b2=0.999))
    assert np.allclose(stable["a"], 1.0, rtol=1e-4)
    np.testing.assert_array_equal(stable["b"], after(1.0, gx.scale_by_stable_adam(b1=0.0, b2=0.999))["b"])
    assert float(after(1000.0, gx.scale_by_adam(b1=0.0, b2=0.999))["a"][0]) > 5.0


def test_its_bound_is_a_layer_s_in_a_stack() -> None:
    stack = np.stack([GRADIENTS, 1000 * GRADIENTS[::-1]], axis=1)
    tx = gx.per_layer(gx.scale_by_stable_adam(), "*")
    both = run(tx, stack)
    for i in range(2):
        np.testing.assert_allclose(both[:, i], run(gx.scale_by_stable_adam(), stack[:, i]), rtol=1e-6)


def test_the_decay_is_divided_as_the_rate_is() -> None:
    """A weight of a spiking array forgets less, also where a mask says which arrays decay."""
    params, ones = (
        {"w": jnp.full((2, 2), 4.0), "b": jnp.full(2, 4.0)},
        {"w": jnp.ones((2, 2)), "b": jnp.ones(2)},
    )
    for tx in (
        gx.stable_adamw(1.0, weight_decay=0.5),
        gx.stable_adamw(1.0, weight_decay=0.5, mask=gx.matrices()),
    ):
        _, state = tx.update(jax.tree.map(jnp.zeros_like, ones), tx.init(params), params)
        updates, _ = tx.update(ones, state, params)
        # v is 0.01 of what it will be: c2 v = 0.01 / (1 - 0.99^2), so RMS = sqrt(1.99)
        rms = np.sqrt(1.99)
        adam = 0.1 / (1 - 0.81) * rms
        np.testing.assert_allclose(updates["w"], -(adam + 2.0) / rms, rtol=1e-4)
    np.testing.assert_allclose(updates["b"], -adam / rms, rtol=1e-4)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.scale_by_stable_adam\(b1=1\.0\).*\(in gx\.stable_adamw\)"):
        gx.stable_adamw(1e-3, b1=1.0)
    with pytest.raises(ValueError, match=r"gx\.stable_adamw\(weight_decay=-0\.1\)"):
        gx.stable_adamw(1e-3, weight_decay=-0.1)
    with pytest.raises(ValueError, match=r"gx\.stable_adamw\(mask\).*'nothing'"):
        gx.stable_adamw(1e-3, weight_decay=0.1, mask="nothing").init({"w": jnp.ones(2)})
