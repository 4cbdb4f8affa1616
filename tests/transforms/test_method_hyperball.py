"""Hyperball: the reference from its authors' text, its rows of the grid, its options, and what is true of it alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, State, advance, count_of, counter, hyper

from .forced import ours, theirs
from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, WARM, Case, make_case
from .halves import Halves

STORAGE = ("mu_dtype", "nu_dtype")


@dataclass(frozen=True)
class Hyperball:
    """p <- |p| (p - rate |p| u / |u|) / |...|, as it is written; more than double precision bears the difference."""

    learning_rate: Hyper

    def init(self, p: Array) -> State:
        del p
        return counter(self.learning_rate)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        assert p is not None
        rate = hyper(self.learning_rate, count_of(state))
        p, g = np.longdouble(p), np.longdouble(g)
        radius, size = _norm(p), _norm(g)
        if 0 in (rate, radius, size):
            return advance(state), np.zeros(p.shape)
        q = p - rate * radius * g / size
        return advance(state), np.float64(radius * q / _norm(q) - p)


def _norm(x: Any) -> Any:
    return np.sqrt(np.sum(np.square(x)))


def recipe(learning_rate: Any, **options: Any) -> Any:
    mask = options.pop("matrices", {"w": True, "c": True, "k": True})
    other, decay = options.pop("adam_learning_rate", learning_rate), options.pop("weight_decay", 0.0)
    turned = ref.Chain(ref.Leafwise(ref.Adam(**options)), ref.Leafwise(Hyperball(learning_rate)))
    rest = ref.adamw(other, **options, weight_decay=decay)
    return Halves([k for k, taken in mask.items() if taken], {"hyperball": turned, "adam": rest})


_RATED: list[dict[str, Any]] = [
    {"learning_rate": 0.01},
    {
        "learning_rate": WARM,
        "adam_learning_rate": 1e-3,
        "weight_decay": 0.1,
        "matrices": MATRICES | {"b": True},
    },
    {"learning_rate": FALL, "b1": BETA1, "b2": BETA2, "eps": GROW}
    | {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16},
]
#: On the sphere of one number there is nowhere to go.
_TURNED = {"w": True, "b": True, "s": False, "c": True, "k": True}


def case(rate: Any) -> Case:
    return Case(
        f"hyperball(learning_rate={rate})",
        lambda: gx.masked(gx.hyperball(ours(rate)), _TURNED),
        lambda: ref.Leafwise(Hyperball(theirs(rate)), _TURNED),
    )


CASES: list[Case] = [
    case(0.01),
    case(FALL),
    # A direction that is nearly the weight's own turns it by little: most of both terms cancels.
    *(make_case("adamh", recipe, row, STORAGE)._replace(tolerance=1e-5) for row in _RATED),
]

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "hyperball": ({"learning_rate": 0.1}, {"learning_rate": [0.2, gx.linear_schedule(0.1, 0.0, 8)]}),
    "adamh": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {
            "learning_rate": [0.2],
            "b1": [0.8],
            "b2": [0.9],
            "eps": [0.1],
            "adam_learning_rate": [0.01],
            "weight_decay": [0.2],
            "matrices": ["b", {"w": True, "b": True}],
            "mu_dtype": [jnp.bfloat16],
            "nu_dtype": [jnp.bfloat16],
        },
    ),
}


def test_a_step_turns_by_the_angle() -> None:
    """Across the weight, the tangent of the angle is the rate; along it nothing moves, whichever way."""
    w, across = jnp.array([3.0, 4.0]), jnp.array([-40.0, 30.0])
    tx = gx.hyperball(0.1)
    new = w + tx.update(across, tx.init(w), w)[0]
    angle = np.arctan2(4.0, 3.0) - np.arctan2(float(new[1]), float(new[0]))
    assert np.tan(angle) == pytest.approx(0.1, rel=1e-5)
    for along in (w, -w):
        np.testing.assert_allclose(tx.update(along, tx.init(w), w)[0], 0.0, atol=1e-6)


def test_ten_thousand_steps_keep_the_norm() -> None:
    """A norm is read and not stored: what is left to add up is the rounding of the weights."""
    w = jax.random.normal(jax.random.key(0), (16, 16))
    for dtype, most in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.02)):
        start, tx = w.astype(dtype), gx.hyperball(0.01)

        def step(p: Any, key: Any, tx: Any = tx) -> tuple[Any, None]:
            g = jax.random.normal(key, p.shape, p.dtype)
            return gx.apply_updates(p, tx.update(g, tx.init(p), p)[0]), None

        end, _ = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 10_000))
        before, after = (np.linalg.norm(np.asarray(x, np.float64)) for x in (start, end))
        assert abs(after / before - 1) < most, dtype
        assert abs(np.sum(np.asarray(start * end, np.float64))) < 0.9 * before**2  # and it has turned


def test_the_smallest_step_is_not_lost_in_a_difference() -> None:
    """At a rate of 1e-6 the norms of p and q agree in all digits of float32."""
    w, g = (np.random.default_rng(i).normal(size=(8, 8)).astype(np.float32) for i in (0, 1))
    tx = gx.hyperball(1e-6)
    update, _ = tx.update(jnp.asarray(g), tx.init(None), jnp.asarray(w))
    _, want = Hyperball(1e-6).update(np.float64(g), {}, np.float64(w))
    np.testing.assert_allclose(update, want, rtol=1e-4, atol=1e-6 * np.max(np.abs(want)))


def test_layers_of_a_stack_are_arrays_of_their_own() -> None:
    w, g = (np.random.default_rng(i).normal(size=(3, 4, 5)).astype(np.float32) for i in (0, 1))
    tx = gx.per_layer(gx.hyperball(0.1), "*")
    stack = tx.update(jnp.asarray(g), tx.init(jnp.asarray(w)), jnp.asarray(w))[0]
    alone = [
        gx.hyperball(0.1).update(jnp.asarray(b), (), jnp.asarray(a))[0] for a, b in zip(w, g, strict=True)
    ]
    np.testing.assert_allclose(stack, np.stack(alone), rtol=1e-5, atol=1e-7)


def test_what_has_no_direction_stays() -> None:
    w, tx = jnp.array([3.0, 4.0]), gx.hyperball(0.5)
    assert not np.any(tx.update(jnp.zeros(2), tx.init(w), w)[0])
    assert not np.any(tx.update(w, tx.init(w), jnp.zeros(2))[0])
    straight = gx.hyperball(gx.constant_schedule(1.0))  # to the centre, which is no point of the sphere
    assert np.all(np.isfinite(straight.update(w, straight.init(w), w)[0]))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.hyperball\(learning_rate=1\.5\)"):
        gx.hyperball(1.5)
    with pytest.raises(ValueError, match=r"gx\.hyperball\(learning_rate=3\).*\(in gx\.adamh\)"):
        gx.adamh(3)
    with pytest.raises(ValueError, match="params"):
        gx.hyperball(0.1).update(jnp.ones(2), gx.hyperball(0.1).init(jnp.ones(2)))
