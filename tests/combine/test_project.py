"""`project` and its projections: the constraint after every step, in 16 bits too, on the leaves that are meant."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._combine.project import Projection

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)


def kernel(dtype: Any = jnp.float32) -> Any:
    return jnp.asarray(RANDOM.normal(size=(6, 4)), dtype)


def path(tx: Any, params: Any, steps: int = 8) -> list[Any]:
    """The parameters after each step of a noisy walk."""
    grads = [
        jax.tree.map(lambda p: jnp.asarray(RANDOM.normal(size=p.shape), p.dtype), params)
        for _ in range(steps)
    ]
    stack = jax.tree.map(lambda *xs: jnp.stack(xs), *grads)

    def step(carry: Any, g: Any) -> Any:
        p, state = carry
        u, state = tx.update(g, state, p)
        p = gx.apply_updates(p, u)
        return (p, state), p

    _, found = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), stack))(params)
    return [jax.tree.map(lambda x, t=t: x[t], found) for t in range(steps)]


def norms(x: Any, axis: Any) -> np.ndarray:
    return np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, axis=axis))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1)])
def test_unit_norm_holds_after_every_step(axis):
    for p in path(gx.project(gx.sgd(0.5), "w", gx.unit_norm(axis)), {"w": kernel(), "b": jnp.ones(3)}):
        np.testing.assert_allclose(norms(p["w"], axis), 1.0, rtol=4e-7)
        assert norms(p["b"], None) != pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("axis", [None, 0])
def test_max_norm_holds_after_every_step(axis):
    held, free = (
        path(tx, {"w": kernel()})
        for tx in (gx.project(gx.sgd(0.9), "*", gx.max_norm(1.5, axis)), gx.sgd(0.9))
    )
    assert all(np.all(norms(p["w"], axis) <= 1.5 * (1 + 4e-7)) for p in held)
    assert any(np.any(norms(p["w"], axis) > 1.6) for p in free)


def test_non_negative_holds_exactly():
    for p in path(gx.project(gx.adam(0.3), "*", gx.non_negative()), {"w": jnp.abs(kernel())}):
        assert float(p["w"].min()) == 0.0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_hold_it_to_their_rounding(dtype):
    """From the second step on: the first one may come from far away."""
    unit = float(jnp.finfo(dtype).eps)
    start = {"w": kernel(dtype) * jnp.asarray(10.0, dtype)}
    for p in path(gx.project(gx.sgd(0.02), "w", gx.unit_norm(0)), start)[2:]:
        np.testing.assert_allclose(norms(p["w"], 0), 1.0, rtol=unit)
    for p in path(gx.project(gx.sgd(0.1), "w", gx.max_norm(1.0, 0)), start)[2:]:
        assert np.all(norms(p["w"], 0) <= 1 + unit)
    for p in path(gx.project(gx.sgd(0.5), "w", gx.non_negative()), {"w": jnp.abs(kernel(dtype))}):
        assert float(p["w"].min()) == 0.0


def test_non_negative_is_exact_in_bfloat16_for_any_numbers():
    """p + bf16(max(p + u, 0) - p) is never below 0: -p is a bfloat16, and rounding is monotone."""
    p = jnp.asarray(RANDOM.normal(size=20_000) * 10.0 ** RANDOM.integers(-6, 6, 20_000), jnp.bfloat16)
    g = jnp.asarray(RANDOM.normal(size=20_000) * 10.0 ** RANDOM.integers(-6, 6, 20_000), jnp.bfloat16)
    tx = gx.project(gx.sgd(1.0), True, gx.non_negative())
    u, _ = jax.jit(tx.update)(g, tx.init(p), p)
    assert float(gx.apply_updates(p, u).min()) == 0.0


def test_what_obeys_keeps_its_update():
    """Within the ball the update is the transform's own, bit for bit, also where p + u would round it away."""
    tx = gx.project(gx.sgd(1.0), "*", gx.max_norm(10.0))
    p, g = jnp.array([1.0, 2.0]), jnp.array([1e-9, 0.3])
    u, _ = tx.update(g, tx.init(p), p)
    np.testing.assert_array_equal(u, -g)


def test_zero_stays_zero():
    np.testing.assert_array_equal(gx.unit_norm()(jnp.zeros(3)), jnp.zeros(3))
    np.testing.assert_allclose(
        gx.unit_norm(0)(jnp.array([[0.0, 3.0], [0.0, 4.0]])), [[0, 0.6], [0, 0.8]], rtol=1e-6
    )


@pytest.mark.parametrize(
    "mask", ["w", ("w", "v*"), {"w": True, "b": False}, gx.matrices(), lambda path, leaf: leaf.ndim == 2]
)
def test_any_mask_names_the_leaves(mask):
    params = {"w": kernel(), "b": -jnp.ones(3)}
    p = path(gx.project(gx.sgd(0.5), mask, gx.non_negative()), params, 3)[-1]
    assert float(p["w"].min()) == 0.0
    assert float(p["b"].min()) < 0.0


def test_optax_s_projections_and_anybody_s_functions():
    params = {"w": kernel()}
    p = path(gx.project(gx.sgd(0.5), "w", optax.projections.projection_simplex), {"w": jnp.ones(4) / 4}, 3)[
        -1
    ]
    assert float(p["w"].sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(p["w"].min()) >= 0.0
    p = path(gx.project(optax.sgd(0.5), "w", lambda x: jnp.clip(x, -0.5, 0.5)), params, 3)[-1]
    assert float(jnp.abs(p["w"]).max()) <= 0.5


def test_layers_of_a_stack_are_arrays_of_their_own():
    tx = gx.per_layer(gx.project(gx.sgd(0.5), "w", gx.unit_norm()), "w")
    p = path(tx, {"w": jnp.asarray(RANDOM.normal(size=(3, 2, 2)), jnp.float32)}, 2)[-1]
    np.testing.assert_allclose(norms(p["w"], (1, 2)), 1.0, rtol=4e-7)


def test_across_shards_the_norm_is_that_of_the_whole_array():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    tx = gx.project(gx.sgd(1.0), True, gx.unit_norm(), axis_names=("data",))
    p, g = jnp.array([3.0, 1.0, 4.0, 1.0]), jnp.array([0.1, 0.2, 0.3, 0.4])

    def one(p: Any, g: Any) -> Any:
        return gx.apply_updates(p, tx.update(g, tx.init(p), p)[0])

    cut = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(p, g)
    np.testing.assert_allclose(cut, one(p, g), rtol=1e-6)
    # What is elementwise asks for no axes.
    tx = gx.project(gx.sgd(1.0), True, gx.non_negative())
    jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(p, g)


def test_one_pass_and_no_state():
    tx = gx.project(gx.adamw(1e-3), "w", gx.unit_norm())
    assert [link.address for link in tx.plan.links] == ["adam", "decay", "rate", "project"]
    assert len(tx.plan.segments) == 1
    state = tx.init({"w": kernel()})
    assert len(jax.tree.leaves(state)) == 3
    assert isinstance(state[1], optax.MaskedState)


def test_holes_and_integers_are_carried():
    params = {"w": kernel(), "n": jnp.arange(2), "x": None}
    tx = gx.project(gx.sgd(0.5), True, gx.non_negative())
    u, _ = tx.update({"w": jnp.ones((6, 4)), "n": None, "x": None}, tx.init(params), params)
    assert u["n"] is None
    assert u["x"] is None


@pytest.mark.parametrize(
    "fn",
    [gx.unit_norm(), gx.unit_norm(axis=0), gx.max_norm(2.0), gx.max_norm(2.0, (0, 1)), gx.non_negative()],
)
def test_projections_are_values(fn):
    tx = gx.project(gx.sgd(0.1), "w", fn)
    assert isinstance(fn, Projection)
    assert eval(repr(fn), {"gx": gx}) == fn
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert gx.from_json(gx.to_json(tx)) == tx
    assert hash(fn) == hash(pickle.loads(pickle.dumps(fn)))


def test_what_is_refused():
    with pytest.raises(TypeError, match=r"gx\.project\(fn\): .* gx\.unit_norm itself; call it"):
        gx.project(gx.sgd(0.1), "w", gx.unit_norm)
    with pytest.raises(TypeError, match=r"the order is gx\.project\(tx, pattern, fn\)"):
        gx.project(gx.sgd(0.1), gx.unit_norm(), "w")
    with pytest.raises(TypeError, match=r"gx\.project\(tx\): wanted a transform"):
        gx.project("w", gx.sgd(0.1), gx.unit_norm())
    with pytest.raises(ValueError, match=r"gx\.max_norm\(limit=0"):
        gx.max_norm(0.0)
    with pytest.raises(TypeError, match=r"gx\.unit_norm\(axis='rows'\)"):
        gx.unit_norm("rows")
    params = {"w": kernel(), "b": jnp.ones(3)}
    tx = gx.project(gx.sgd(0.1), "b", gx.unit_norm(1))
    with pytest.raises(ValueError, match=r"'b' is float32\[3\] and has no axis 1"):
        tx.update(params, tx.init(params), params)
    tx = gx.project(gx.sgd(0.1), "b", jnp.sum)
    with pytest.raises(ValueError, match="wanted one array of the same shape"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="the pattern 'c' takes no leaf"):
        gx.project(gx.sgd(0.1), "c", gx.unit_norm()).init(params)
    with pytest.raises(ValueError, match="missing params for project"):
        tx.update(params, tx.init(params))
