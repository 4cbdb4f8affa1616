"""`apply_updates` with stochastic rounding: unbiased, exact where it can be, and the same bits wherever it runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.build import leaf_number, random_bits, stochastic_round

BF16 = jnp.bfloat16
ALL = np.arange(2**16, dtype=np.uint16)
TOP = float(jnp.finfo(BF16).max)


def floats(words: np.ndarray) -> np.ndarray:
    """bfloat16 words as float32."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def words(x: Any) -> np.ndarray:
    return np.asarray(x).view(np.uint16)


def stochastic(p: Any, u: Any, step: Any = 0, **given: Any) -> Any:
    return gx.apply_updates(p, u, "stochastic", step=step, **given)


# ------------------------------------------------------------------------------------------------ one number


@pytest.mark.parametrize("dtype", [jnp.float32, BF16])
@pytest.mark.parametrize(
    ("p", "u"),
    [(1.0, 2.0**-10), (1.0, -(2.0**-10)), (-3.0, 0.001), (100.0, 0.3), (1e-20, 3e-23), (0.0, 1.7e-3)],
)
def test_unbiased(p: float, u: float, dtype: Any) -> None:
    """1e5 draws, one of each element: only the two neighbours, and the mean within four standard errors."""
    draws = 100_000
    weight, update = jnp.full(draws, p, BF16), jnp.full(draws, u, dtype)
    exact = float(weight[0].astype(jnp.float32) + update[0].astype(jnp.float32))
    got = np.asarray(stochastic(weight, update), np.float64)
    low, high = got.min(), got.max()
    assert low <= exact <= high
    assert high - low in (0.0, float(np.spacing(np.float32(abs(exact)))) * 2.0**16)
    assert abs(got.mean() - exact) <= 4 * got.std() / np.sqrt(draws) + 1e-12 * abs(exact)


def test_a_step_at_a_time_is_unbiased_too() -> None:
    """One element over 1e5 steps: the counter is the step and not the place."""

    def one(carry: Any, step: Any) -> Any:
        got = stochastic(jnp.ones(1, BF16), jnp.full(1, 2.0**-9, BF16), step)
        return carry, got[0].astype(jnp.float32)

    _, got = jax.lax.scan(one, 0, jnp.arange(100_000))
    got = np.asarray(got, np.float64)
    assert set(np.unique(got)) == {1.0, 1.0 + 2.0**-7}
    assert abs(got.mean() - (1 + 2.0**-9)) <= 4 * got.std() / np.sqrt(got.size)


def test_exact_sums_stay() -> None:
    """Every normal bfloat16 and 0, moved by nothing and by itself; a NaN stays a NaN, and Inf stays."""
    x = floats(ALL)
    x = x[~((x != 0) & (np.abs(x) < np.finfo(np.float32).tiny))]  # the subnormal ones are 0 on some devices
    p = jnp.asarray(x).astype(BF16)
    for step in range(4):
        for u in (jnp.full(p.shape, -0.0, BF16), jnp.zeros(p.shape)):
            got = stochastic(p, u, step)
            np.testing.assert_array_equal(np.asarray(got, np.float32), x)
        twice = np.abs(x) < TOP / 2
        got = stochastic(p[twice], p[twice], step)
        np.testing.assert_array_equal(np.asarray(got, np.float32), 2 * x[twice])


def test_a_finite_sum_never_becomes_infinite() -> None:
    p = jnp.asarray(floats(ALL)).astype(BF16)
    wide = np.asarray(p, np.float32)
    largest = float(np.finfo(np.float32).max)
    for u in (0.0, 1.0, 1e36, -1e36, 2.0**119, -(2.0**119), largest - TOP, TOP - largest, np.inf, np.nan):
        with np.errstate(all="ignore"):
            total = wide + np.float32(u)
        for step in range(3):
            got = np.asarray(stochastic(p, jnp.full(p.shape, u, jnp.float32), step), np.float32)
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(total))
            np.testing.assert_array_equal(np.isnan(got), np.isnan(total))
            np.testing.assert_array_equal(got[np.isinf(total)], total[np.isinf(total)])


@pytest.mark.parametrize("dtype", [jnp.float32, BF16])
def test_updates_below_half_a_step_move_a_weight_on_average(dtype: Any) -> None:
    """200 steps of 2^-11 from 1, where bfloat16 has steps of 2^-7: nearest stays at 1, the mean goes to 1.0977."""
    steps, u = 200, 2.0**-11
    start, update = jnp.ones(4096, BF16), jnp.full(4096, u, dtype)

    def run(rounding: str) -> np.ndarray:
        def one(p: Any, step: Any) -> Any:
            return gx.apply_updates(p, update, rounding, step=step), None

        return np.asarray(jax.lax.scan(one, start, jnp.arange(steps))[0], np.float64)

    np.testing.assert_array_equal(run("nearest"), 1.0)
    moved = run("stochastic")
    assert abs(moved.mean() - (1 + steps * u)) <= 4 * moved.std() / np.sqrt(moved.size)
    assert moved.std() > 0


# ------------------------------------------------------------------------------------------------ leaves


def test_it_is_stochastic_round_of_the_sum_with_the_bits_of_the_path() -> None:
    p, u = jnp.linspace(-3, 3, 60).astype(BF16).reshape(6, 10), jnp.full((6, 10), 1e-3)
    got = gx.apply_updates({"a": {"w": p}}, {"a": {"w": u}}, "stochastic", step=7, seed=5)["a"]["w"]
    bits = random_bits(5, 7, leaf_number("a/w"), (6, 10))
    np.testing.assert_array_equal(words(got), words(stochastic_round(p.astype(jnp.float32) + u, bits)))
    assert gx.lowbit.stochastic_round is stochastic_round


def test_leaves_steps_and_seeds_have_bits_of_their_own() -> None:
    p, u = jnp.ones(64, BF16), jnp.full(64, 2.0**-8)
    tree = stochastic({"a": p, "b": p}, {"a": u, "b": u})
    found = [
        tree["a"],
        tree["b"],
        stochastic({"a": p}, {"a": u}, 1)["a"],
        stochastic({"a": p}, {"a": u}, seed=1)["a"],
    ]
    assert len({words(x).tobytes() for x in found}) == 4
    np.testing.assert_array_equal(tree["a"], stochastic({"a": p}, {"a": u})["a"])  # whatever stands beside it


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.int32, jnp.complex64])
def test_other_dtypes_are_rounded_to_nearest(dtype: Any) -> None:
    p = jnp.asarray([1, -2, 3], dtype)
    u = jnp.asarray([1, 2, 5], dtype)
    np.testing.assert_array_equal(stochastic(p, u), gx.apply_updates(p, u))
    assert stochastic(p, u).dtype == p.dtype
    if dtype == jnp.float16:
        small = jnp.full(3, 1e-5)
        np.testing.assert_array_equal(stochastic(p, small), p)


def test_absent_leaves_stay() -> None:
    p = {"a": jnp.ones(2, BF16), "b": None, "c": jnp.ones(2, BF16), "d": jnp.ones(2, jnp.int32)}
    u = {"a": None, "b": None, "c": optax.MaskedNode(), "d": np.zeros(2, jax.dtypes.float0)}
    got = stochastic(p, u)
    assert all(got[name] is p[name] for name in p)


def test_a_float64_update_is_rounded_at_random_too(x64: None) -> None:
    p, u = jnp.ones(20_000, BF16), jnp.full(20_000, 0.001, jnp.float64)
    run = jax.jit(stochastic)
    got = np.asarray(run(p, u), np.float64)
    assert abs(got.mean() - 1.001) <= 4 * got.std() / np.sqrt(got.size)
    huge = run(jnp.ones(4, BF16), jnp.full(4, 1e300))
    assert np.isfinite(np.asarray(huge, np.float32)).all()


def test_the_default_is_what_it_was() -> None:
    """Nearest rounding whatever step and seed say, in the program without them."""
    p, u = jnp.ones(4, BF16), jnp.full(4, 0.004)
    text = jax.jit(gx.apply_updates).lower(p, u).as_text()
    given = jax.jit(lambda p, u, n: gx.apply_updates(p, u, "nearest", step=n)).lower(p, u, 3).as_text()
    assert "xor" not in text
    assert "xor" not in given
    np.testing.assert_array_equal(gx.apply_updates(p, u), p + jnp.asarray(u, BF16))


# ------------------------------------------------------------------------------------------------ where it runs


def test_the_bits_are_the_same_under_jit_scan_and_vmap_of_seeds() -> None:
    p, u = jnp.linspace(-3, 3, 96).astype(BF16).reshape(8, 12), jnp.full((8, 12), 1e-3)
    want = [words(stochastic(p, u, n)) for n in range(3)]
    jitted = jax.jit(stochastic)
    for n in range(3):
        np.testing.assert_array_equal(words(jitted(p, u, n)), want[n])
        np.testing.assert_array_equal(words(jitted(p, u, jnp.int32(n))), want[n])
    np.testing.assert_array_equal(words(jax.jit(lambda p, u: stochastic(p, u, 2))(p, u)), want[2])
    _, seen = jax.lax.scan(lambda c, n: (c, stochastic(p, u, n)), 0, jnp.arange(3))
    np.testing.assert_array_equal(words(seen), want)
    many = jax.vmap(lambda seed: gx.apply_updates(p, u, "stochastic", step=2, seed=seed))(jnp.arange(2))
    np.testing.assert_array_equal(words(many[0]), want[2])
    assert not np.array_equal(words(many[1]), want[2])


@pytest.mark.parametrize("spec", [("x", None), (None, "x"), ("x", "y"), (("x", "y"), None), (None, None)])
@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_the_bits_are_the_same_on_any_mesh(kind: str, spec: Any) -> None:
    p, u = jnp.linspace(-3, 3, 16 * 24).astype(BF16).reshape(16, 24), jnp.full((16, 24), 1e-3)
    want = words(stochastic({"w": p}, {"w": u}, 4)["w"])
    axis = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis, axis))
    sharding = jax.sharding.NamedSharding(mesh, jax.P(*spec))
    with jax.set_mesh(mesh):
        cut_p, cut_u = jax.device_put(p, sharding), jax.device_put(u, sharding)
        more = (stochastic, jax.jit(stochastic, donate_argnums=0)) if spec == ("x", "y") else ()
        for run in (jax.jit(stochastic), *more):
            got = run({"w": cut_p}, {"w": cut_u}, jnp.int32(4))["w"]
            np.testing.assert_array_equal(words(got), want)
            assert got.sharding.is_equivalent_to(sharding, 2)


def test_in_shard_map_a_seed_of_its_own_for_each_shard() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    p, u = jnp.ones(8 * 64, BF16), jnp.full(8 * 64, 2.0**-8)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(jax.P("x"), jax.P("x")), out_specs=jax.P("x"))
    def step(p: Any, u: Any) -> Any:
        return gx.apply_updates(p, u, "stochastic", step=0, seed=jax.lax.axis_index("x"))

    with jax.set_mesh(mesh):
        got = words(step(jax.device_put(p, jax.P("x")), jax.device_put(u, jax.P("x"))))
    rows = {row.tobytes() for row in got.reshape(8, 64)}
    assert len(rows) == 8


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"rounding": "up"}, ValueError, r"apply_updates\(rounding='up'\): wanted 'nearest' or 'stochastic'"),
        ({"rounding": "stochastic"}, ValueError, "missing step"),
        ({"step": 1.0}, TypeError, r"apply_updates\(step=1.0\): wanted an integer, which may be traced"),
        ({"step": True}, TypeError, "wanted an integer"),
        ({"step": jnp.arange(2)}, TypeError, r"got an array int32\[2\]"),
        ({"step": jnp.float32(1)}, TypeError, r"got an array float32\[\]"),
        ({"step": -1}, ValueError, "of at least 0, got -1"),
        ({"step": 1, "seed": None}, TypeError, r"apply_updates\(seed=None\): wanted an integer"),
        ({"step": 1, "seed": jax.random.key(0)}, TypeError, "wanted an integer"),
    ],
)
def test_errors(given: Any, error: type, text: str) -> None:
    given = {"rounding": "stochastic", **given}
    with pytest.raises(error, match=text):
        gx.apply_updates(jnp.ones(2, BF16), jnp.ones(2, BF16), **given)


def test_the_errors_of_trees_are_the_same() -> None:
    for rounding in ("nearest", "stochastic"):
        with pytest.raises(ValueError, match="nothing is broadcast"):
            gx.apply_updates(jnp.ones((2, 1), BF16), jnp.ones((2, 2)), rounding, step=0)
        with pytest.raises(ValueError, match="missing in the updates: 'b'"):
            gx.apply_updates({"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": jnp.ones(1)}, rounding, step=0)
        with pytest.raises(ValueError, match="a real parameter has a real update"):
            gx.apply_updates(jnp.ones(1, BF16), jnp.ones(1, jnp.complex64), rounding, step=0)
