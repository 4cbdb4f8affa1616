"""`through`: results replaced where they are made, and what follows made of these."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from gradxform._core import compat
from gradxform._core.through import through


def held(ok: Any, olds: dict[int, Any]) -> Any:
    return lambda group, new: [
        jnp.where(ok, x, olds[i].astype(x.dtype)) for i, x in zip(group, new, strict=True)
    ]


def same(group: Any, new: Any) -> Any:
    del group
    return new


def equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = jnp.asarray(x), jnp.asarray(y)
        assert (x.dtype, x.weak_type, x.shape) == (y.dtype, y.weak_type, y.shape)
        np.testing.assert_array_equal(x, y)


@jax.jit
def moments(g: Any, m: Any, v: Any) -> Any:
    m, v = 2 * m + g, 3 * v + g * g
    return m - v, m, v


OPS = (
    lambda a, b: a + b,
    lambda a, b: 2 * a - b,
    lambda a, b: jnp.maximum(a, -b),
    lambda a, b: jnp.abs(a),
    jax.jit(lambda a, b: jax.jit(jnp.minimum)(a, 3 - b)),
    lambda a, b: jax.lax.cond(a[0] > b[0], lambda: a + 1, lambda: b),
    lambda a, b: jax.lax.fori_loop(0, 2, lambda _, x: x + b, a),
)


def program(seed: int) -> Any:
    """A random function of three arrays; some of its results are arguments, constants, or the same twice."""
    rng = np.random.default_rng(seed)
    lines = [(int(rng.integers(len(OPS) + 1)), rng.integers(1 << 30, size=3)) for _ in range(8)]
    picks = rng.integers(1 << 30, size=6)

    def fn(*args: Any) -> Any:
        pool = [*args, jnp.arange(2.0)]
        for op, places in lines:
            x, y, z = (pool[i % len(pool)] for i in places)
            pool.extend(moments(x, y, z) if op == len(OPS) else [OPS[op](x, y)])
        return [pool[-1 - i % len(pool)] for i in picks]

    return fn, rng


@pytest.mark.parametrize("seed", range(12))
def test_any_program_held(seed: int) -> None:
    """Where the flag holds, nothing has changed, to the bit; where it does not, the members are the old ones."""
    fn, rng = program(seed)
    args = [jnp.asarray(rng.integers(-4, 4, 2), jnp.float32) for _ in range(3)]
    olds = {i: jnp.full(2, 100.0 + i) for i in range(6)}
    order = rng.permutation(6).tolist()
    singles, pairs = [(i,) for i in order[:4]], [tuple(order[:2]), tuple(order[2:4])]
    wanted = fn(*args)
    for groups in (singles, pairs):
        equal(through(fn, args, groups, same), wanted)
        got = jax.jit(lambda ok, groups=groups: through(fn, args, groups, held(ok, olds)))
        equal(got(True), wanted)
        for i in order[:4]:
            np.testing.assert_array_equal(got(False)[i], olds[i])


def test_what_follows_sees_what_is_stored() -> None:
    """Inside of a nested jit too, and two members of one group are known before either is replaced."""

    def step(g: Any, m: Any, v: Any) -> Any:
        u, m, v = moments(g, m, v)
        return u, m, v + 0 * m

    args = [jnp.float32(x) for x in (1, 10, 100)]
    u, m, v = through(step, args, [(1,), (2,)], lambda group, new: [x + 1000 for x in new])
    assert [float(x) for x in (u, m, v)] == [1021 - 301, 1021, 1301]
    u, m, v = through(moments, args, [(1, 2)], lambda group, new: [new[1], new[0]])
    assert [float(x) for x in (u, m, v)] == [301 - 21, 301, 21]


def test_one_variable_in_several_places() -> None:
    """An argument that is handed back is replaced as a result only; a variable that is two results, for each."""

    def fn(x: Any) -> Any:
        y = x + 1
        return x, y, y, x * 2, y * 3

    got = through(fn, [jnp.float32(1.0)], [(0,), (1,), (2,)], lambda group, new: [10 * new[0] + group[0]])
    assert [float(x) for x in got] == [10, 21, 22, 2, 63]


def test_constants_and_numbers_among_the_results() -> None:
    table = jnp.arange(2.0)

    def fn(x: Any) -> Any:
        return {"a": 1.0, "b": np.int32(3), "c": table, "d": table + x}

    got = through(fn, [jnp.float32(1.0)], [(0,), (1,), (2,)], lambda group, new: [new[0] * new[0]])
    equal(got, {"a": 1.0, "b": np.int32(9), "c": jnp.arange(2.0) ** 2, "d": table + 1})


def test_types_stay() -> None:
    """Weak types, keys, complex numbers, empty arrays."""
    key = jax.random.key(0)
    args = (jnp.asarray(2.0), jnp.ones(2, jnp.complex64), jnp.zeros((0, 3)), key)

    def fn(w: Any, z: Any, empty: Any, key: Any) -> Any:
        return w * 2, z * 1j, empty + 1, jax.random.fold_in(key, 1)

    strong = [jnp.full((), 5.0, jnp.float32), *args[1:]]
    got = through(
        fn, args, [(i,) for i in range(4)], lambda group, new: [jnp.where(True, strong[group[0]], new[0])]
    )
    assert got[0].weak_type
    assert float(got[0]) == 5
    assert got[1].dtype == jnp.complex64
    assert got[2].shape == (0, 3)
    assert jax.random.key_data(got[3]).tolist() == jax.random.key_data(key).tolist()
    for new in (jnp.zeros(2), jnp.zeros((), jnp.int32)):
        with pytest.raises(
            TypeError, match=r"through: the group \(0,\) has float32\[\], and is given (float|int)32"
        ):
            through(fn, args, [(0,)], lambda group, old, new=new: [new])


def test_double_precision(x64: None) -> None:
    got = through(lambda x: (x + 1, x * 2), [jnp.float64(1 / 3)], [(0,)], same)
    assert got[0].dtype == jnp.float64
    assert float(got[0]) == 1 / 3 + 1


def test_effects_happen_once_and_in_their_order() -> None:
    seen: list[Any] = []

    def fn(x: Any) -> Any:
        for i in range(3):
            jax.debug.callback(lambda y, i=i: seen.append((i, float(y))), x + i, ordered=True)
        return x * 2, x * 3

    jax.block_until_ready(jax.jit(lambda x: through(fn, [x], [(1,)], same))(1.0))
    jax.effects_barrier()
    assert seen == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_under_vmap_grad_and_scan() -> None:
    args = (jnp.float32(1.0), jnp.float32(2.0), jnp.float32(3.0))

    def run(ok: Any, g: Any, m: Any, v: Any) -> Any:
        return through(moments, (g, m, v), [(1,), (2,)], held(ok, {1: m, 2: v}))

    flags = jnp.array([True, False])
    u, m, v = jax.vmap(run, in_axes=(0, None, None, None))(flags, *args)
    assert (u[0].item(), m.tolist(), v.tolist()) == (5 - 10, [5, 2], [10, 3])
    slope = jax.grad(lambda m: run(True, args[0], m, args[2])[0])(args[1])
    assert float(slope) == 2
    (m, v), us = jax.lax.scan(
        lambda s, ok: (run(ok, args[0], *s)[1:], run(ok, args[0], *s)[0]), args[1:], flags
    )
    assert (float(m), float(v), float(us[0])) == (5, 10, -5)


@pytest.mark.parametrize("check", [True, False])
def test_inside_shard_map(check: bool) -> None:
    """A flag that differs between devices makes replacements vary, also of what was the same on all of them."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))

    def fn(g: Any, m: Any, count: Any) -> Any:
        count = count + 1
        m = 2 * m + jax.lax.psum(g, "x")
        return m * count, m, count

    def local(ok: Any, g: Any, m: Any, count: Any) -> Any:
        got = through(fn, (g, m, count), [(1,), (2,)], held(ok[0], {1: m, 2: count}))
        if check:
            assert [sorted(compat.varying_axes(x)) for x in got] == [["x"]] * 3
        return [x[None] for x in got]

    P = jax.P
    run = jax.shard_map(
        local, mesh=mesh, in_specs=(P("x"), P("x"), P("x"), P()), out_specs=[P("x")] * 3, check_vma=check
    )
    u, m, count = jax.jit(run)(jnp.array([True, False]), jnp.ones(2), jnp.ones(2), jnp.float32(0.0))
    assert (u.ravel()[0].item(), m.ravel().tolist(), count.tolist()) == (4, [4, 1], [1, 0])


def test_on_explicit_axes() -> None:
    """A replacement is cut as what it replaces."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        cut = jax.device_put(jnp.arange(4.0), jax.P("x"))

        def run(m: Any) -> Any:
            got = through(
                lambda m: (m * 3, m + 1), (m,), [(1,)], lambda group, new: [jax.reshard(2 * new[0], jax.P())]
            )
            assert [jax.typeof(x).sharding.spec for x in got] == [jax.P("x"), jax.P("x")]
            return got

        u, m = jax.jit(run)(cut)
    assert m.tolist() == [2, 4, 6, 8]
    assert u.tolist() == [0, 3, 6, 9]
