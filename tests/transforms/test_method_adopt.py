"""ADOPT: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

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
from tests.reference.scalars import Array, Hyper, State, hyper

from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, STAIRS, STORAGE, WARM, leafwise, make_case


@dataclass(frozen=True)
class Adopt:
    """Algorithm 2 of the paper: the first gradient makes v, each later one is divided by the v before it."""

    b1: Hyper = 0.9
    b2: Hyper = 0.9999
    eps: Hyper = 1e-6
    nesterov: bool = False
    use_clipping: bool = True
    clip_value_fn: Hyper = lambda t: t**0.25

    def init(self, p: Array) -> State:
        return {"count": 0, "mu": np.zeros_like(p, np.float64), "nu": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        t, v, m = state["count"], state["nu"], state["mu"]
        if t == 0:
            return {"count": 1, "mu": m, "nu": g * g}, np.zeros_like(m)
        b1, b2, eps = (hyper(h, t) for h in (self.b1, self.b2, self.eps))
        root = np.maximum(np.sqrt(v), eps)
        r = np.divide(g, root, out=np.zeros_like(root), where=root > 0)
        if self.use_clipping:
            bound = hyper(self.clip_value_fn, t)
            r = np.minimum(np.maximum(r, -bound), bound)
        m = b1 * m + (1 - b1) * r
        u = b1 * m + (1 - b1) * r if self.nesterov else m
        return {"count": t + 1, "mu": m, "nu": b2 * v + (1 - b2) * g * g}, u


def recipe(learning_rate: Any, weight_decay: Any = None, mask: Any = None, **options: Any) -> Any:
    decay = ref.Leafwise(ref.AddDecayedWeights(weight_decay), True if mask is None else mask)
    links = [ref.Leafwise(Adopt(**options)), decay, ref.Leafwise(ref.ScaleByLearningRate(learning_rate))]
    return ref.Chain(*(links if weight_decay is not None else [links[0], links[2]]))


_ROWS: list[dict[str, Any]] = [
    {},
    {"b1": 0.0, "b2": 0.5, "nesterov": True},
    {"b1": 0.99, "b2": 0.9, "eps": 1e-3, "use_clipping": False},
    {"eps": 0.0, "clip_value_fn": 2.0},
    {"b1": BETA1, "b2": BETA2, "eps": GROW, "clip_value_fn": STAIRS},
    {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
_RATED: list[dict[str, Any]] = [
    {"learning_rate": 1e-3, "b2": 0.99},
    {"learning_rate": WARM, "weight_decay": FALL, "mask": MATRICES, "b1": 0.8, "eps": 1e-4, "nesterov": True}
    | {"use_clipping": False, "clip_value_fn": 1.0, "mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
CASES = [
    *(make_case("scale_by_adopt", leafwise(Adopt), row, STORAGE) for row in _ROWS),
    *(make_case("adopt", recipe, row, STORAGE) for row in _RATED),
]

_MOMENTS: dict[str, list[Any]] = {
    "b1": [0.0, 0.8],
    "b2": [0.9],
    "eps": [10.0],
    "mu_dtype": [jnp.bfloat16],
    "nu_dtype": [jnp.bfloat16],
    "nesterov": [True],
    "use_clipping": [False],
    "clip_value_fn": [0.1, gx.linear_schedule(0.5, 0.1, 8)],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_adopt": ({}, _MOMENTS),
    "adopt": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        _MOMENTS | {"learning_rate": [0.2], "weight_decay": [0.0, 0.2], "mask": [{"w": True, "b": False}]},
    ),
}

GRADIENTS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def run(tx: Any, gradients: Any, start: Any = None) -> tuple[Any, np.ndarray]:
    start = jnp.zeros(gradients.shape[1:], gradients.dtype) if start is None else start

    def step(state: Any, g: Any) -> tuple[Any, Any]:
        update, state = tx.update(g, state, start)
        return state, update

    state, seen = jax.lax.scan(step, tx.init(start), jnp.asarray(gradients))
    return state, np.asarray(seen)


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_optax_s_with_optax_s_state(nesterov: bool) -> None:
    """The same updates, and either goes on with the other's state."""
    with optax_s_own():
        theirs, ours = (make(0.1, b2=0.99, nesterov=nesterov) for make in (optax.contrib.adopt, gx.adopt))
        start = jnp.ones(3)
        state, want = run(theirs, GRADIENTS, start)
        mine, got = run(ours, GRADIENTS, start)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
        assert jax.tree.structure(mine) == jax.tree.structure(state)
        g = jnp.asarray(GRADIENTS[0])
        want, _ = theirs.update(g, mine, start)
        np.testing.assert_allclose(ours.update(g, state, start)[0], want, rtol=1e-5, atol=1e-7)


def test_it_converges_where_adam_does_not() -> None:
    """The example of Reddi et al., which the paper's figure 1 has: now and then a large gradient the other way.

    The mean gradient is positive, so the best x in [-1, 1] is -1; Adam with a small b2 goes to 1.
    """
    steps, period, rate = 12_000, 10, gx.inverse_sqrt(0.02, warmup_steps=100)

    def final(tx: Any) -> float:
        def step(carry: Any, t: Any) -> tuple[Any, None]:
            x, state = carry
            g = jnp.where(t % period == 0, jnp.float32(period + 1.0), jnp.float32(-1.0))
            update, state = tx.update(g, state, x)
            return (jnp.clip(x + update, -1, 1), state), None

        x = jnp.float32(0.0)
        (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), jnp.arange(steps))
        return float(x)

    assert final(gx.adopt(rate, b1=0.0, b2=0.1, use_clipping=False)) < -0.8
    assert final(gx.adam(rate, b1=0.0, b2=0.1)) > 0.8


def test_a_weight_whose_gradients_begin_later_takes_no_leap() -> None:
    """v is 0 when the first real gradient comes; the bound is all that holds the quotient."""
    late = np.zeros((6, 1), np.float32)
    late[2:] = 5.0
    _, bounded = run(gx.scale_by_adopt(), late)
    _, free = run(gx.scale_by_adopt(use_clipping=False), late)
    assert np.max(np.abs(bounded)) < 1.0
    assert np.max(np.abs(free)) > 1e5


def test_complex_quotients_are_bounded_in_size() -> None:
    tx = gx.scale_by_adopt(b1=0.0, clip_value_fn=0.5)
    _, state = tx.update(jnp.complex64(1.0), tx.init(jnp.complex64(0)))
    np.testing.assert_allclose(tx.update(jnp.complex64(3 + 4j), state)[0], 0.3 + 0.4j, rtol=1e-6)


def test_adam_s_moments_are_not_taken_over() -> None:
    """`mu` is of quotients here, and `nu` uncorrected, though the state class is Adam's, as in Optax."""
    params, tx = {"w": jnp.ones(3)}, gx.scale_by_adopt()
    _, saved = gx.scale_by_adam().update(params, gx.scale_by_adam().init(params))
    state, report = gx.restore_into(tx, params, saved, saved_by=gx.scale_by_adam())
    assert not np.any(state.mu["w"])
    assert not np.any(state.nu["w"])
    assert sum(row.address.endswith(("mu/w", "nu/w")) for row in report.reset) == 2, report


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.scale_by_adopt\(b2=1\.0\).*\(in gx\.adopt\)"):
        gx.adopt(1e-3, b2=1.0)
    with pytest.raises(TypeError, match=r"gx\.scale_by_adopt\(clip_value_fn='root'\)"):
        gx.scale_by_adopt(clip_value_fn="root")
    with pytest.raises(TypeError, match=r"nesterov=1"):
        gx.scale_by_adopt(nesterov=1)  # pyright: ignore[reportArgumentType]
