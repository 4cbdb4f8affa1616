"""The dtype contract: state never changes dtype, an update has its parameter's, 16 bits stay finite.

Every transform of the face is swept over dtypes of parameters and gradients and over odd leaves.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._core.numerics import SQUARABLE, cast, saturate, widen
from tests import reference

F32, BF16, F16 = jnp.float32, jnp.bfloat16, jnp.float16
FALL = gx.linear_schedule(0.9, 0.1, 10)

TRANSFORMS: dict[str, Callable[[], Any]] = {
    "identity": gx.identity,
    "set_to_zero": gx.set_to_zero,
    "scale": lambda: gx.scale(3.0),
    "scale, schedule": lambda: gx.scale(FALL),
    "scale_by_schedule": lambda: gx.scale_by_schedule(FALL),
    "rate": lambda: gx.scale_by_learning_rate(0.1),
    "rate, schedule": lambda: gx.scale_by_learning_rate(FALL),
    "clip": lambda: gx.clip(0.5),
    "clip, schedule": lambda: gx.clip(FALL),
    "clip_by_block_rms": lambda: gx.clip_by_block_rms(0.5),
    "clip_by_global_norm": lambda: gx.clip_by_global_norm(1.0),
    "clip_by_global_norm, schedule": lambda: gx.clip_by_global_norm(FALL),
    "adaptive_grad_clip": lambda: gx.adaptive_grad_clip(0.05),
    "decay": lambda: gx.add_decayed_weights(0.1),
    "decay, schedule": lambda: gx.add_decayed_weights(FALL),
    "decay, mask": lambda: gx.add_decayed_weights(0.1, gx.matrices()),
    "decay, independent": lambda: gx.add_decayed_weights(0.1, coupled=False),
    "sign": gx.scale_by_sign,
    "lion": gx.scale_by_lion,
    "lion, smooth": lambda: gx.scale_by_lion(mode="smooth"),
    "lion, refined": lambda: gx.scale_by_lion(FALL, mode="refined", mu_dtype=BF16),
    "adam": gx.scale_by_adam,
    "adam, eps_root": lambda: gx.scale_by_adam(eps_root=1e-8, nesterov=True),
    "adam, schedules": lambda: gx.scale_by_adam(FALL, FALL, FALL, FALL),
    "adam, stored": lambda: gx.scale_by_adam(mu_dtype=BF16, nu_dtype=F32),
    "trace": lambda: gx.trace(0.9),
    "trace, schedule": lambda: gx.trace(FALL, nesterov=True),
    "trace, stored": lambda: gx.trace(0.9, accumulator_dtype=F32),
    "recipe sgd": lambda: gx.sgd(0.1, 0.9, nesterov=True),
    "recipe sgd, plain": lambda: gx.sgd(FALL),
    "recipe adam": lambda: gx.adam(1e-3),
    "recipe adamw": lambda: gx.adamw(FALL, weight_decay=FALL, mask=gx.matrices()),
    "recipe nadamw": lambda: gx.nadamw(1e-3),
    "recipe lion": lambda: gx.lion(1e-3),
    "masked": lambda: gx.masked(gx.trace(0.9), gx.matrices()),
    "freeze": lambda: gx.freeze("v"),
    "groups": lambda: gx.param_groups({"m": gx.adamw(1e-3), "v": None, "*": gx.sgd(0.1, 0.9)}),
    "standard": lambda: gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b2=0.95),
        gx.add_decayed_weights(0.1, gx.matrices()),
        gx.warmup_cosine(3e-4, 2, 20),
    ),
}
by_name = pytest.mark.parametrize("name", TRANSFORMS)
SHAPES: dict[str, tuple[int, ...]] = {"s": (), "v": (3,), "m": (2, 3), "e": (0, 3)}
MIXED = dict(zip(SHAPES, (F32, BF16, F16, BF16), strict=True))


def tree(dtype: Any, value: float = 1.0) -> dict[str, Any]:
    """A scalar, a vector, a matrix, an empty leaf and a hole."""
    dtypes = MIXED if dtype == "mixed" else dict.fromkeys(SHAPES, dtype)
    return {**{k: jnp.full(shape, value, dtypes[k]) for k, shape in SHAPES.items()}, "none": None}


def avals(x: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), x)


def dtypes(x: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(x)]


# ---------------------------------------------------------------------------------------- fixed points


@by_name
@pytest.mark.parametrize("params", [F32, BF16, F16, "mixed"], ids=str)
def test_state_is_a_fixed_point_and_the_update_has_its_parameter_s_dtype(name: str, params: Any) -> None:
    """Traced only; `scan` and `cond` themselves refuse a carry that changes shape, dtype or weak type."""
    tx, p = TRANSFORMS[name](), tree(params)
    state = tx.init(p)
    for grads in dict.fromkeys([params, F32, BF16, F16]):
        g = tree(grads, 0.5)
        updates, new = jax.eval_shape(tx.update, g, state, p)
        assert dtypes(updates) == dtypes(p)
        assert [u.shape for u in jax.tree.leaves(updates)] == [SHAPES[k] for k in sorted(SHAPES)]
        assert avals(new) == avals(jax.eval_shape(lambda: state)), f"with {grads} gradients"

        def looped(s: Any, g: Any = g) -> Any:
            s, _ = jax.lax.scan(lambda s, _: (tx.update(g, s, p)[1], None), s, None, length=2)
            return jax.lax.cond(True, lambda s: tx.update(g, s, p)[1], lambda s: s, s)

        assert avals(jax.eval_shape(looped, state)) == avals(new)


@by_name
@pytest.mark.parametrize("grads", [F32, BF16, F16], ids=str)
def test_without_parameters_the_update_has_the_incoming_dtype(name: str, grads: Any) -> None:
    tx = TRANSFORMS[name]()
    if "params" in tx.body.plan.needs:
        with pytest.raises(ValueError, match="params"):
            tx.update(tree(grads), tx.init(tree(grads)))
        return
    for params in (F32, BF16, F16):
        state = tx.init(tree(params))
        updates, new = jax.eval_shape(lambda g, s: tx.update(g, s), tree(grads), state)
        assert set(dtypes(updates)) == {jnp.dtype(grads)}
        assert avals(new) == avals(jax.eval_shape(lambda s=state: s))


# ---------------------------------------------------------------------------------------- finite


def pairs_of_dtypes(value: Callable[[Any], float]) -> tuple[Any, Any]:
    """One leaf for every pair of a parameter's and a gradient's dtype of which one has 16 bits."""
    pairs = [(p, g) for p in (F32, BF16, F16) for g in (F32, BF16, F16) if (p, g) != (F32, F32)]
    names = [f"{jnp.dtype(p).name}/{jnp.dtype(g).name}" for p, g in pairs]
    sign = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    params = {n: jnp.asarray(0.5 * sign, p) for n, (p, _) in zip(names, pairs, strict=True)}
    grads = {n: jnp.asarray(value(g) * sign, g) for n, (_, g) in zip(names, pairs, strict=True)}
    return params, grads


SIZES: dict[str, Callable[[Any], float]] = {
    "zero": lambda dtype: 0.0,
    "smallest subnormal": lambda dtype: float(jnp.finfo(dtype).smallest_subnormal),
    "smallest normal": lambda dtype: float(jnp.finfo(dtype).tiny),
    "largest": lambda dtype: float(jnp.finfo(dtype).max),
}


@by_name
@pytest.mark.slow
def test_sixteen_bits_stay_finite(name: str) -> None:
    """Zero, tiny and huge gradients, several steps of each, one after the other: no Inf and no NaN is left behind."""
    tx = TRANSFORMS[name]()
    if name == "freeze":
        tx = gx.freeze("*float16/float16")
    if name == "groups":
        tx = gx.param_groups({"*/bfloat16": gx.adamw(1e-3), "*": gx.sgd(0.1, 0.9)})
    params, _ = pairs_of_dtypes(SIZES["zero"])
    grads = [pairs_of_dtypes(size)[1] for size in SIZES.values()]
    stacked = jax.tree.map(lambda *xs: jnp.stack([x for x in xs for _ in range(3)]), *grads)

    def step(state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return state, (updates, state)

    _, seen = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(tx.init(params), stacked)
    for path, x in jax.tree_util.tree_flatten_with_path(seen)[0]:
        assert np.all(np.isfinite(np.asarray(x, np.float64))), jax.tree_util.keystr(path)


def test_finite_values_saturate_and_others_stay() -> None:
    x = jnp.array([1e6, -1e6, jnp.inf, -jnp.inf, jnp.nan, 1.0, 65520.0])
    got = np.asarray(cast(x, F16), np.float64)
    np.testing.assert_array_equal(got, [65504, -65504, np.inf, -np.inf, np.nan, 1, 65504])
    assert np.asarray(cast(x, BF16), np.float64)[0] == pytest.approx(1e6, rel=4e-3)
    np.testing.assert_array_equal(saturate(x, 2.0), [2, -2, np.inf, -np.inf, np.nan, 1, 2])
    top = jnp.finfo(BF16).max
    assert float(cast(jnp.asarray(jnp.finfo(F32).max), BF16)) == float(top)
    assert float(widen(jnp.asarray(top, BF16), F32)) == SQUARABLE
    assert float(widen(jnp.asarray(1e30, F32), F32)) == np.float32(1e30)
    assert float(widen(jnp.asarray(1e30, F32), F32, jnp.dtype(BF16))) == SQUARABLE
    assert np.isfinite(np.float32(SQUARABLE) ** 2 * np.float32(2**30))


def test_identity_hands_on_every_bit() -> None:
    """What is only passed on is not bounded: the largest bfloat16 comes out as it went in."""
    g = jnp.asarray([float(jnp.finfo(BF16).max), 1e30, -1e-40], BF16)
    for tx in (
        gx.identity(),
        gx.chain(),
        gx.masked(gx.trace(0.9), False),
        gx.chain(gx.identity(), gx.identity()),
    ):
        assert np.array_equal(tx.update(g, tx.init(g), g)[0], g)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_second_moments_of_16_bit_parameters_are_float32(dtype: Any) -> None:
    p = tree(dtype)
    assert set(dtypes(gx.scale_by_adam().init(p).nu)) == {jnp.dtype(F32)}
    assert set(dtypes(gx.scale_by_adam().init(p).mu)) == {jnp.dtype(dtype)}
    for asked in (BF16, F16, F32):
        state = gx.scale_by_adam(mu_dtype=asked, nu_dtype=asked).init(p)
        assert set(dtypes((state.mu, state.nu))) == {jnp.dtype(asked)}
    assert set(dtypes(gx.scale_by_lion().init(p).mu)) == {jnp.dtype(dtype)}
    assert set(dtypes(gx.trace(0.9).init(p).trace)) == {jnp.dtype(dtype)}


TWINS: dict[str, tuple[Any, Any]] = {
    "sgd": (gx.sgd(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "sgd, plain": (gx.sgd(0.1), optax.sgd(0.1)),
    "adam": (gx.adam(0.1), optax.adam(0.1)),
    "adamw": (gx.adamw(0.1), optax.adamw(0.1)),
    "adamw, schedules": (
        gx.adamw(FALL, weight_decay=FALL),
        optax.adamw(optax.linear_schedule(0.9, 0.1, 10), weight_decay=optax.linear_schedule(0.9, 0.1, 10)),
    ),
    "nadamw": (gx.nadamw(0.1), optax.nadamw(0.1)),
    "lion": (gx.lion(0.1), optax.lion(0.1)),
    "scale_by_adam": (gx.scale_by_adam(), optax.scale_by_adam()),
    "clip": (gx.clip(1.0), optax.clip(1.0)),
    "norm": (gx.clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_trees_classes_and_fields_are_optax_s(name: str, dtype: Any) -> None:
    """Only the dtype of a 16-bit second moment differs."""
    mine, others = (tx.init(tree(dtype)) for tx in TWINS[name])
    assert jax.tree.structure(mine) == jax.tree.structure(others)
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(mine)[0], jax.tree.leaves(others), strict=True
    ):
        assert a.shape == b.shape
        assert a.dtype == (F32 if ".nu" in jax.tree_util.keystr(path) else b.dtype)


def test_a_restored_state_keeps_its_dtypes() -> None:
    """A checkpoint of Optax brings a bfloat16 nu; another, float32 moments for bfloat16 parameters."""
    p, g = jnp.ones(3, BF16), jnp.full(3, 0.5, BF16)
    tx = gx.adamw(1e-2)
    for kind in (BF16, F32, F16):
        state = jax.tree.map(lambda x, k=kind: x.astype(k) if x.dtype != jnp.int32 else x, tx.init(p))
        updates, new = jax.jit(tx.update)(g, state, p)
        assert dtypes(new) == dtypes(state)
        assert updates.dtype == BF16
    state = optax.adamw(1e-2).init(p)
    assert dtypes(tx.update(g, state, p)[1]) == dtypes(state)


# ---------------------------------------------------------------------------------------- wide, complex, weak, whole


def test_a_state_in_float64_is_float32_without_double_precision() -> None:
    state = gx.scale_by_adam(mu_dtype=np.float64, nu_dtype="float64").init(jnp.ones(2))
    assert state.mu.dtype == state.nu.dtype == jnp.float32


@by_name
@pytest.mark.usefixtures("x64")
def test_float64_parameters_get_float64_everything(name: str) -> None:
    tx = TRANSFORMS[name]()
    p = tree(jnp.float64)
    state = tx.init(p)
    updates, new = jax.eval_shape(tx.update, tree(jnp.float64), state, p)
    assert set(dtypes(updates)) == {jnp.dtype(jnp.float64)}
    asked = {jnp.dtype(x) for x in (BF16, F32)} if "stored" in name or "refined" in name else set()
    assert set(dtypes(new)) <= {jnp.dtype(jnp.float64), jnp.dtype(jnp.int32)} | asked
    assert avals(new) == avals(jax.eval_shape(lambda: state))
    updates, _ = jax.eval_shape(tx.update, tree(F32), state, p)
    assert set(dtypes(updates)) == {jnp.dtype(jnp.float64)}


@pytest.mark.usefixtures("x64")
def test_a_float32_leaf_under_x64_stays_float32() -> None:
    p = {"a": jnp.ones(2, F32), "b": jnp.ones(2, jnp.float64)}
    tx = gx.chain(
        gx.clip_by_global_norm(gx.constant_schedule(0.1)), gx.adamw(gx.linear_schedule(1.0, 0.0, 9))
    )
    state = tx.init(p)
    updates, new = tx.update(p, state, p)
    assert dtypes(updates) == [jnp.dtype(F32), jnp.dtype(jnp.float64)]
    assert dtypes(new) == dtypes(state)
    np.testing.assert_allclose(updates["a"], updates["b"], rtol=1e-6)


COMPLEX = {
    "adam": (gx.adam(0.1, b2=0.9), optax.adam(0.1, b2=0.9)),
    "sgd": (gx.sgd(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "lion": (gx.lion(0.1), optax.lion(0.1)),
    "sign": (gx.scale_by_sign(), optax.scale_by_sign()),
    "clip": (gx.clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_leaves_as_optax(name: str) -> None:
    rng = np.random.default_rng(5)
    p = jnp.asarray(rng.normal(size=4) + 1j * rng.normal(size=4), jnp.complex64)
    mine, others = COMPLEX[name]
    state, other = mine.init(p), others.init(p)
    with jax.numpy_dtype_promotion("standard"):
        step = jax.jit(others.update)
        for _ in range(4):
            g = jnp.asarray(rng.normal(size=4) + 1j * rng.normal(size=4), jnp.complex64)
            want, other = step(g, other, p)
            with jax.numpy_dtype_promotion("strict"):
                got, state = mine.update(g, state, p)
            assert got.dtype == jnp.complex64
            np.testing.assert_allclose(got, want, rtol=2e-6)
    if name == "adam":
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["recipe adamw", "recipe sgd", "recipe lion", "standard"])
def test_D10_a_weakly_typed_parameter_compiles_once(name: str) -> None:
    tx = TRANSFORMS[name]() if name != "recipe adamw" else gx.adamw(FALL, weight_decay=0.1)
    for p, g in (
        (jnp.asarray(2.0), jnp.asarray(1.0)),
        (jnp.asarray(2.0), jnp.ones((), F32)),
        (jnp.ones(2, BF16), jnp.ones(2, F32)),
    ):
        traces = [0]  # counted here: the table behind `_cache_size` is one of the process, and forgets

        @jax.jit
        def step(p: Any, s: Any, g: Any, traces: list[int] = traces) -> Any:
            traces[0] += 1
            u, t = tx.update(g, s, p)
            return gx.apply_updates(p, u), t

        state = tx.init(p)
        for _ in range(4):
            p, state = step(p, state, g)
        assert traces == [1], (p, g)


@pytest.mark.parametrize(
    "hole",
    [None, optax.MaskedNode(), np.zeros((2,), jax.dtypes.float0)],
    ids=["None", "MaskedNode", "float0"],
)
@pytest.mark.parametrize("name", ["recipe adamw", "recipe sgd", "recipe lion", "standard", "identity"])
def test_integer_leaves_are_carried(name: str, hole: Any) -> None:
    """With a gradient that says "none" an integer parameter passes through every step, state and all."""
    tx = TRANSFORMS[name]()
    p = {"m": jnp.ones((2, 2)), "table": jnp.arange(2)}
    g = {"m": jnp.ones((2, 2)), "table": hole}
    state = tx.init(p)
    for _ in range(2):
        updates, new = tx.update(g, state, p)
        assert avals(new) == avals(state)
        p, state = gx.apply_updates(p, updates), new
    assert p["table"].tolist() == [0, 1]
    assert p["table"].dtype == jnp.int32
    assert np.all(p["m"] != 1) or name == "identity"


def test_apply_updates_rounds_once() -> None:
    """bfloat16 and float16 sums are the float32 sum rounded once, for every kind of update."""
    rng = np.random.default_rng(0)
    for dtype in (BF16, F16):
        p = jnp.asarray(rng.normal(size=20_000) * np.exp(2 * rng.normal(size=20_000)), dtype)
        for kind in (dtype, F32):
            u = jnp.asarray(rng.normal(size=20_000) * np.exp(2 * rng.normal(size=20_000)), kind)
            want = (p.astype(F32) + u.astype(F32)).astype(dtype)
            for add in (gx.apply_updates, jax.jit(gx.apply_updates)):
                got = add(p, u)
                assert got.dtype == dtype
                assert np.array_equal(got, want)


# ---------------------------------------------------------------------------------------- defects that do not occur


def test_A3_a_bfloat16_second_moment_decays() -> None:
    """Optax: 0.5 for ever, because 0.999 is 1.0 in bfloat16."""
    tx = gx.scale_by_adam()

    def many(state: Any, g: float, steps: int) -> Any:
        grads = jnp.full(1, g, BF16)
        return jax.lax.fori_loop(0, steps, lambda _, s: tx.update(grads, s)[1], state)

    state = jax.jit(lambda s: many(many(s, 1.0, 10_000), 0.01, 10_000))(tx.init(jnp.zeros(1, BF16)))
    small = float(jnp.asarray(0.01, BF16)) ** 2
    exact = small * (1 - 0.999**10_000) + 0.999**10_000 * (1 - 0.999**10_000)
    assert float(state.nu[0]) == pytest.approx(exact, rel=1e-3)


def test_A8_the_norm_of_many_small_leaves() -> None:
    """Optax: a norm of 16, from 256 leaves on."""
    leaves = [jnp.ones(1, BF16)] * 300
    updates, _ = jax.jit(gx.clip_by_global_norm(1.0).update)(leaves, ())
    norm = np.sqrt(sum(float(u[0]) ** 2 for u in updates))
    assert norm == pytest.approx(1.0, rel=4e-3)


@pytest.mark.parametrize(("dtype", "size"), [(F16, 300.0), (F16, 65504.0), (BF16, 1e14), (F32, 1e18)])
def test_A9_a_large_gradient_is_clipped_not_zeroed(dtype: Any, size: float) -> None:
    """Optax: zeros, for float16 from a norm of 256 on."""
    updates, _ = gx.clip_by_global_norm(1.0).update(jnp.full(4, size, dtype), ())
    np.testing.assert_allclose(np.asarray(updates, np.float64), 0.5, rtol=4e-3)


@by_name
def test_A11_a_zero_gradient_in_float16(name: str) -> None:
    """Optax: NaN for 28 of 64 transforms."""
    tx, p = TRANSFORMS[name](), tree(F16)
    updates, state = tx.update(tree(F16, 0.0), tx.init(p), p)
    assert all(np.all(np.isfinite(np.asarray(x, F32))) for x in jax.tree.leaves((updates, state)))


def test_A17_gradients_are_not_broadcast() -> None:
    for p, g in (
        (jnp.ones((3, 2)), jnp.ones(2)),
        (jnp.ones((3, 2)), jnp.ones((1, 2))),
        (jnp.ones(3), jnp.ones(())),
    ):
        tx = gx.adamw(1e-3)
        with pytest.raises(ValueError, match="shape"):
            tx.update(g, tx.init(p), p)
        with pytest.raises(ValueError, match="shape"):
            gx.trace(0.9).update(g, gx.trace(0.9).init(p))


def test_A18_a_larger_update_does_not_reshape_a_parameter() -> None:
    with pytest.raises(ValueError, match="nothing is broadcast"):
        gx.apply_updates(jnp.ones((1, 2)), jnp.ones((3, 2)))


def test_A21_a_strong_scalar_does_not_change_the_update_s_dtype() -> None:
    p = jnp.ones(2, BF16)
    for tx in (
        gx.sgd(F32(0.1)),
        gx.sgd(jnp.float32(0.1)),
        gx.add_decayed_weights(jnp.float32(0.1)),
        gx.add_decayed_weights(lambda count: jnp.float32(0.1)),
        gx.clip(jnp.float32(0.1)),
        gx.scale_by_adam(jnp.float32(0.9)),
    ):
        assert tx.update(p, tx.init(p), p)[0].dtype == BF16


def test_B9_infinite_gradients_and_a_limit_of_zero() -> None:
    """Optax: NaN where the Inf was, and NaN for a limit of zero and no gradient. Here Inf stays Inf, to be seen."""
    tx = gx.clip_by_global_norm(1.0)
    updates, _ = tx.update(jnp.array([jnp.inf, 1.0, -jnp.inf]), ())
    assert np.isposinf(updates[0])
    assert np.isneginf(updates[2])
    assert abs(float(updates[1])) < 1e-30
    assert np.all(np.isnan(tx.update(jnp.array([jnp.nan, 1.0]), ())[0]))
    assert gx.clip_by_global_norm(0.0).update(jnp.zeros(1), ())[0].tolist() == [0.0]
    assert gx.clip_by_global_norm(0.0).update(jnp.ones(1), ())[0].tolist() == [0.0]


def test_C2_bfloat16_parameters_and_float32_gradients_in_a_scan() -> None:
    tx = gx.adam(0.1)
    state, _ = jax.lax.scan(
        lambda s, _: (tx.update(jnp.ones(2), s)[1], None), tx.init(jnp.ones(2, BF16)), None, length=2
    )
    assert int(state[0].count) == 2


def test_C5_a_float32_limit_for_a_bfloat16_leaf() -> None:
    g = {"a": jnp.ones(2, BF16), "b": jnp.ones(2)}
    updates, _ = gx.clip_by_global_norm(jnp.float32(1.0)).update(g, ())
    assert dtypes(updates) == [jnp.dtype(BF16), jnp.dtype(F32)]
    np.testing.assert_allclose(np.asarray(updates["b"]), 0.5, rtol=1e-6)


def test_C15_a_mask_by_dtype() -> None:
    """Optax asks the gradients at update and finds another mask than at init; the parameters are asked here."""
    p, g = {"a": jnp.ones(1, BF16), "b": jnp.ones(1)}, {"a": jnp.ones(1), "b": jnp.ones(1)}
    tx = gx.masked(gx.trace(0.9), lambda t: jax.tree.map(lambda x: x.dtype == BF16, t))
    state = tx.init(p)
    for _ in range(2):
        updates, state = tx.update(g, state, p)
    assert float(updates["a"][0]) == pytest.approx(1.9, rel=4e-3)
    assert float(updates["b"][0]) == 1.0


def test_the_references_agree_in_sixteen_bits() -> None:
    """Adam on bfloat16 leaves is the reference on the same numbers, rounded once at the end."""
    rng = np.random.default_rng(8)
    p = jnp.asarray(rng.normal(size=50), BF16)
    tx, method = gx.adamw(1e-2, weight_decay=0.1), reference.adamw(1e-2, weight_decay=0.1)
    state = tx.init({"p": p})
    for _ in range(20):
        g = {"p": jnp.asarray(rng.normal(size=50), BF16)}
        old = reference.as_reference(state)
        updates, state = tx.update(g, state, {"p": p})
        want = method.update(reference.as_reference(g), old, {"p": np.asarray(p, np.float64)})[1]["p"]
        exact = jnp.asarray(np.asarray(want, np.float32)).astype(BF16)
        close = np.asarray(updates["p"], np.float64) - np.asarray(exact, np.float64)
        assert np.max(np.abs(close) / np.abs(want)) <= 2.0**-7
        assert np.mean(close == 0) > 0.95
