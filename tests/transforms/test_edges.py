"""Where there is nothing to divide by: epsilons of zero in every form, weights of zero, floors that underflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

ZEROS = {
    "float": 0.0,
    "numpy": np.float32(0),
    "array": jnp.float32(0),
    "schedule": gx.constant_schedule(0.0),
}
DIVIDING: dict[str, dict[str, Any]] = {
    "scale_by_adam": {},
    "scale_by_amsgrad": {},
    "scale_by_nadam": {},
    "scale_by_radam": {"b2": 0.5, "threshold": 4.0},
    "scale_by_adamax": {},
    "scale_by_belief": {"eps_root": 0.0},
    "scale_by_adan": {},
    "scale_by_yogi": {"initial_accumulator_value": 0.0},
    "scale_by_laprop": {},
    "scale_by_ademamix": {},
    "scale_by_soap": {},
    "scale_by_stable_adam": {},
    "scale_by_adam_mini": {},
    "scale_by_rss": {"initial_accumulator_value": 0.0},
    "scale_by_rms": {},
    "scale_by_stddev": {"bias_correction": True},
}


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("name", DIVIDING)
def test_an_epsilon_of_zero_leaves_what_has_no_gradient(name: str, zero: str) -> None:
    tx = getattr(gx, name)(**DIVIDING[name], eps=ZEROS[zero])
    state = tx.init(jnp.zeros(2))
    for g in (jnp.zeros(2), jnp.array([0.0, 3.0]), jnp.array([0.0, -1.0])):
        updates, state = tx.update(g, state)
        assert float(updates[0]) == 0.0
        assert np.all(np.isfinite(updates))
    assert float(updates[1]) != 0.0


def test_a_traced_epsilon_of_zero() -> None:
    @jax.jit
    def step(eps: Any) -> Any:
        tx = gx.adam(0.1, eps=eps)
        return tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)))[0]

    assert not np.any(step(0.0))


@pytest.mark.parametrize("floor", [1e-30, 1e-7, "machine"])
@pytest.mark.parametrize("shape", [(2, 2), (4,)])
def test_a_floor_whose_square_underflows(floor: Any, shape: tuple[int, ...]) -> None:
    tx = gx.scale_by_factored_rms(epsilon=0.0, floor=floor, min_dim_size_to_factor=1)
    g = jnp.zeros(shape).at[0].set(1.0)
    updates, _ = tx.update(g, tx.init(g))
    assert np.all(np.isfinite(updates))
    assert not np.any(updates[1:])


@pytest.mark.parametrize("name", ["lamb", "lars", "adafactor"])
def test_a_weight_of_zero_has_a_derivative(name: str) -> None:
    """Learning the rate by gradient, with a leaf that stays at zero: a norm has no slope there, and none is taken."""

    def end(lib: Any, rate: Any) -> Any:
        tx, p = getattr(lib, name)(rate), {"w": jnp.ones(2), "still": jnp.zeros(2)}
        g, state = p, tx.init(p)
        for _ in range(2):
            updates, state = tx.update(g, state, p)
            p = optax.apply_updates(p, updates)
        return sum(x.sum() for x in jax.tree.leaves(p))

    got = jax.grad(lambda rate: end(gx, rate))(0.01)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        wanted = jax.grad(lambda rate: end(optax, rate))(0.01)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_a_clip_has_a_derivative_at_zero_and_shows_what_is_no_number() -> None:
    for tx in (gx.clip_by_global_norm(1.0), gx.clip_by_block_rms(1.0)):
        slope = jax.grad(lambda g, tx=tx: tx.update(g, ())[0].sum())(jnp.zeros(2))
        np.testing.assert_array_equal(slope, [1.0, 1.0])
        assert np.all(np.isnan(tx.update(jnp.array([np.nan, 1.0]), ())[0]))


def test_a_preset_is_not_lost_in_a_wrapper_that_fills_in_defaults() -> None:
    p = jnp.ones(3)
    with pytest.raises(
        ValueError, match=r"(?s)like='torch'.*inject_hyperparams.*write decay=0\.99, eps_in_sqrt=False"
    ):
        optax.inject_hyperparams(gx.rmsprop)(learning_rate=0.01, like="torch").init(p)
    tx = optax.inject_hyperparams(gx.rmsprop, static_args=("eps_in_sqrt",))(
        0.01, decay=0.99, eps_in_sqrt=False
    )
    plain = gx.rmsprop(0.01, decay=0.99, eps_in_sqrt=False)
    got, _ = tx.update(p, tx.init(p), p)
    np.testing.assert_allclose(got, plain.update(p, plain.init(p), p)[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["adafactor", "nadam"])
def test_injected_hyperparameters(name: str) -> None:
    """Which makes arrays of all numbers, of whole ones too."""
    more = {"momentum_decay": 4e-3} if name == "nadam" else {}
    tx, p = optax.inject_hyperparams(getattr(gx, name))(learning_rate=0.01, **more), jnp.ones((3, 3))
    plain = getattr(gx, name)(0.01, **more)
    got, _ = tx.update(p, tx.init(p), p)
    np.testing.assert_allclose(got, plain.update(p, plain.init(p), p)[0], rtol=1e-6)
