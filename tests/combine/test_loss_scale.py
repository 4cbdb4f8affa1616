"""`loss_scale`: slopes that float16 cannot hold, steps that overflow, and the scale between them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradxform as gx

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

F16, BF16 = jnp.float16, jnp.bfloat16


def follow(tx: Any, params: Any, *grads: Any) -> tuple[list[Any], Any]:
    state, found = tx.init(params), []
    step = jax.jit(tx.update)
    for g in grads:
        updates, state = step(jax.tree.map(jnp.asarray, g), state, params)
        found.append(jax.tree.map(np.asarray, updates))
    return found, state


def scales(tx: Any, *grads: float) -> list[float]:
    state, found = tx.init(jnp.zeros(1)), []
    for g in grads:
        _, state = tx.update(jnp.full(1, g, jnp.float32), state)
        found.append(float(state.scale))
    return found


# ------------------------------------------------------------------------------------------------ the arithmetic


def test_the_step_is_that_of_the_true_gradient() -> None:
    """Powers of two change no digit: the same bits as the unscaled transform on float32 gradients."""
    grads = [np.float32([1e-9, 0.3, -7.0]) * np.float32(k) for k in (1, -2, 0.5)]
    plain, _ = follow(gx.adamw(0.1), jnp.ones(3), *grads)
    scaled, state = follow(gx.loss_scale(gx.adamw(0.1)), jnp.ones(3), *[g * np.float32(2**15) for g in grads])
    np.testing.assert_array_equal(plain, scaled)
    assert int(state.good_steps) == 3
    assert int(state.skipped) == 0


def test_a_float16_gradient_is_divided_in_float32() -> None:
    """2^-20 / 2^15 is below what float16 holds."""
    grad = jnp.full(2, 2.0**-20, F16)
    updates, _ = follow(gx.loss_scale(gx.scale(1.0)), jnp.zeros(2), grad)
    np.testing.assert_array_equal(updates[0], np.full(2, 2.0**-35, np.float32))
    assert float((grad / F16(2**15))[0]) == 0.0  # the control
    _, state = follow(gx.loss_scale(gx.scale_by_adam()), jnp.zeros(2, F16), jnp.full(2, 2.0**-4, F16))
    assert float(state.inner_state.nu[0]) == pytest.approx(0.001 * 2.0**-38, rel=1e-6)


def test_the_scale_halves_and_doubles() -> None:
    tx = gx.loss_scale(gx.sgd(0.1), 8.0, growth_interval=2, min_scale=2.0, max_scale=16.0)
    inf = float("inf")
    assert scales(tx, 1, 1, 1, 1, 1, 1) == [8, 16, 16, 16, 16, 16]  # up to its bound
    assert scales(tx, inf, inf, inf) == [4, 2, 2]  # down to its bound
    assert scales(tx, 1, inf, 1, 1, 1) == [8, 4, 4, 8, 8]  # an overflow starts the count again
    tx = gx.loss_scale(gx.sgd(0.1), 1.0, 1, factor=10.0)
    assert scales(tx, 1, 1) == [10, 100]


@pytest.mark.parametrize("bad", [np.nan, pytest.param(-np.inf, marks=pytest.mark.slow), np.inf])
@pytest.mark.parametrize("inner", [gx.adam(0.1), optax.adam(0.1)], ids=["ours", "optax"])
def test_a_skipped_step_has_never_happened(inner: Any, bad: float) -> None:
    one, wrong = np.ones(2, np.float32), np.array([1.0, bad], np.float32)
    tx = gx.loss_scale(inner, 2.0)
    got, state = follow(tx, jnp.zeros(2), one, wrong, one)
    np.testing.assert_array_equal(got[1], np.zeros(2))
    assert int(state.skipped) == 1
    assert float(state.scale) == 1.0
    assert int(state.good_steps) == 1
    with jax.numpy_dtype_promotion("standard"):
        want, end = follow(inner, jnp.zeros(2), one / 2, one)
    np.testing.assert_allclose([got[0], got[2]], want, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.inner_state, end)


def test_the_inner_step_is_not_executed_when_it_is_skipped() -> None:
    seen: list[int] = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        jax.debug.callback(lambda: seen.append(1))
        return updates, state

    tx = gx.loss_scale(optax.GradientTransformation(lambda p: optax.EmptyState(), update))
    follow(tx, jnp.zeros(1), np.ones(1), np.array([np.inf]), np.ones(1))
    jax.effects_barrier()
    assert len(seen) == 2


def test_training_in_float16() -> None:
    """Slopes of 1e-8 are lost without a scale; with it the parameter arrives, and overflows on the way cost steps."""

    def loss(p: Any, scale: Any) -> Any:
        small = F16(1e-4) * (p.astype(F16) - F16(1.0))
        return scale * (0.5 * (F16(100) * small) ** 2).sum().astype(jnp.float32)

    params = jnp.array([3.0, -1.0])
    assert not np.any(jax.grad(lambda p: 1e-5 * loss(p, 1.0))(params))  # the control: all zeros
    tx = gx.loss_scale(gx.adam(0.1, eps=1e-16), 2.0**24, growth_interval=20)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        grads = jax.grad(lambda p: 1e-5 * loss(p, gx.current_loss_scale(state)))(params)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(150):
        params, state = step(params, state)
    np.testing.assert_allclose(params, 1.0, atol=0.02)
    assert step._cache_size() == 1
    assert float(state.scale) > 2.0**10


# ------------------------------------------------------------------------------------------------ with accumulation


def test_inside_accumulate_a_bad_micro_batch_spoils_its_window() -> None:
    one, bad = np.full(2, 4.0, np.float32), np.array([np.inf, 1.0], np.float32)
    tx = gx.accumulate(gx.loss_scale(gx.sgd(1.0), 4.0), 2)
    got, state = follow(tx, jnp.zeros(2), one, bad, one / 2, one / 2)
    np.testing.assert_array_equal(got[:3], np.zeros((3, 2)))
    np.testing.assert_array_equal(got[3], -np.ones(2))  # a scale of 2 by then
    assert float(gx.current_loss_scale(state)) == 2.0
    assert int(state.inner_state.skipped) == 1


def test_outside_accumulate_a_bad_micro_batch_is_left_out() -> None:
    one, bad = np.full(2, 4.0, np.float32), np.array([np.inf, 1.0], np.float32)
    tx = gx.loss_scale(gx.accumulate(gx.sgd(1.0), 2), 4.0)
    got, state = follow(tx, jnp.zeros(2), one, bad, one)  # worth 1, nothing, and 2 at a scale of 2
    np.testing.assert_array_equal(got[:2], np.zeros((2, 2)))
    np.testing.assert_array_equal(got[2], np.full(2, -1.5))
    assert float(gx.current_loss_scale(state)) == 2.0
    assert int(state.inner_state.gradient_step) == 1


def test_a_guard_inside_sees_true_gradients() -> None:
    """A guard outside skips the overflow before the scale can fall: the order that the docstring warns of."""
    bad = np.array([np.inf])
    inside = gx.loss_scale(gx.guard(gx.sgd(1.0), spike=6.0))
    assert float(gx.current_loss_scale(follow(inside, jnp.zeros(1), bad)[1])) == 2.0**14
    outside = gx.guard(gx.loss_scale(gx.sgd(1.0)))
    assert float(gx.current_loss_scale(follow(outside, jnp.zeros(1), bad)[1])) == 2.0**15


# ------------------------------------------------------------------------------------------------ the protocol


@pytest.mark.parametrize("dtype", [F16, BF16, jnp.float32], ids=str)
@pytest.mark.parametrize("inner", [gx.adamw(0.1), optax.adamw(0.1)], ids=["ours", "optax"])
def test_the_state_is_a_fixed_point(inner: Any, dtype: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "h": jnp.ones(2, dtype), "none": None}
    grads = {"w": jnp.ones((2, 3), dtype), "h": jnp.ones(2, dtype), "none": None}
    tx = gx.loss_scale(inner, growth_interval=1)
    state = tx.init(params)
    like = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    step = jax.jit(tx.update, donate_argnums=1)
    for _ in range(3):
        updates, state = step(grads, state, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == like
        assert updates["h"].dtype == dtype
    assert step._cache_size() == 1
    jax.lax.scan(lambda s, _: (tx.update(grads, s, params)[1], None), state, None, length=2)


def test_shards_agree_on_a_skip() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = gx.loss_scale(gx.sgd(1.0), axis_names="x")
    spec = jax.P("x")

    def body(g: Any, p: Any) -> Any:
        updates, state = tx.update(g, tx.init(p), p)
        return updates, state.scale

    step = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(spec, spec), out_specs=(spec, jax.P())))
    for g, scale in ((jnp.ones(8), 2.0**15), (jnp.ones(8).at[3].set(jnp.nan), 2.0**14)):
        updates, got = step(g, jnp.zeros(8))
        assert float(got) == scale
        np.testing.assert_array_equal(updates, np.full(8, 0.0 if scale < 2**15 else -(2.0**-15)))
    tx = gx.loss_scale(gx.sgd(1.0))
    step = jax.shard_map(body, mesh=mesh, in_specs=(spec, spec), out_specs=(spec, jax.P()))
    with pytest.raises(ValueError, match=r"say axis_names=\('x',\)"):
        step(jnp.ones(8), jnp.zeros(8))


def test_the_scale_is_found_wherever_it_is() -> None:
    tx = gx.chain(gx.clip(1.0), gx.accumulate(gx.loss_scale(gx.adam(0.1), 64.0), 2))
    assert float(gx.current_loss_scale(tx.init(jnp.zeros(2)))) == 64.0
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    assert float(gx.current_loss_scale(optimizer.opt_state)) == 64.0
    assert float(jax.jit(gx.current_loss_scale)(tx.init(jnp.zeros(2)))) == 64.0


def test_it_is_a_value() -> None:
    tx = gx.loss_scale(gx.adam(0.1), growth_interval=100)
    assert repr(tx) == "gx.loss_scale(gx.adam(0.1), growth_interval=100)"
    assert gx.from_json(gx.to_json(tx)) == tx
    assert [link.address for link in tx.plan.flat] == ["loss_scale", "adam", "rate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0.0}, r"gx\.loss_scale\(initial=0\.0\): wanted a number above 0, got 0"),
        ({"factor": 1.0}, r"gx\.loss_scale\(factor=1\.0\): wanted a number above 1, got 1; 2 is usual"),
        ({"growth_interval": 0}, r"gx\.loss_scale\(growth_interval=0\): wanted at least 1"),
        (
            {"initial": 2.0**30},
            r"wanted a scale between min_scale=1 and max_scale=1\.67772e\+07\n  move the bound",
        ),
        ({"min_scale": lambda step: 1.0}, r"gx\.loss_scale\(min_scale=<lambda>\): wanted a number"),
    ],
)
def test_what_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gx.loss_scale(gx.sgd(0.1), **arguments)


def test_a_state_without_one_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted a state with one gx\.loss_scale in it, got none"):
        gx.current_loss_scale(gx.adam(0.1).init(jnp.zeros(2)))
    twice = gx.chain(gx.loss_scale(gx.clip(1.0)), gx.loss_scale(gx.adam(0.1)))
    with pytest.raises(ValueError, match="got them at 0 and 1"):
        gx.current_loss_scale(twice.init(jnp.zeros(2)))


def test_it_does_not_skip_for_ever_in_silence() -> None:
    """The guard inside is not asked, so the scale has to say it."""
    tx = gx.loss_scale(gx.guard(gx.adam(1e-3), max_consecutive=3))
    params = jnp.zeros(2)
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(100):
        _, state = step(jnp.full(2, jnp.nan), state, params)
    gx.check(state)
    _, state = step(jnp.full(2, jnp.nan), state, params)
    with pytest.raises(RuntimeError, match=r"loss_scale has skipped the last 101 steps \(101 in all\)"):
        gx.check(state)
    _, state = step(jnp.ones(2), state, params)
    gx.check(state)
    assert (int(state.skipped), int(state.consecutive)) == (101, 0)
