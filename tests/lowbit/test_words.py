"""Two moments in one word: what is rounded and how, of what the step is made, and that such a state is like others."""

import pickle
from functools import partial
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.lowbit.stored import Quantized
from gradxform.lowbit.words import WordCodec, draws, packed, unpacked

Q = gx.lowbit.quantized
WORDS = jax.jit(packed)
DRAWS = jax.jit(draws, static_argnums=2)
SIZE = 1 << 18


def floats(words: Any) -> np.ndarray:
    return np.stack(unpacked(words))


# ------------------------------------------------------------------------------------------------ rounding


def test_to_nearest_is_what_a_cast_does_and_draws_leave_what_fits() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4096)).astype(np.float32)
    near = floats(packed(*jnp.asarray(x)))
    np.testing.assert_array_equal(near, x.astype(jnp.bfloat16).astype(np.float32))
    drawn = floats(packed(*jnp.asarray(near), jnp.arange(4096, dtype=jnp.uint32) * np.uint32(0xFFFF8001)))
    np.testing.assert_array_equal(drawn, near)


def test_what_is_not_finite_stays_and_does_not_touch_its_partner() -> None:
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-40, 1.0], np.float32)
    plain = np.full_like(odd, 1.5)
    for draw in (np.uint32(0), np.uint32(0xFFFFFFFF)):
        for m, v in ((odd, plain), (plain, odd)):
            got = floats(packed(jnp.asarray(m), jnp.asarray(v), jnp.full(odd.shape, draw)))
            ours, other = got if m is odd else got[::-1]
            np.testing.assert_array_equal(other, plain)
            np.testing.assert_array_equal(ours[:5], odd[:5])
            np.testing.assert_array_equal(np.signbit(ours[:4]), np.signbit(odd[:4]))
            assert np.isfinite(ours[5:]).all()
            np.testing.assert_allclose(ours[5:7], odd[5:7], rtol=2.0**-7)


def test_the_mean_over_writings_is_the_value() -> None:
    x = np.exp(np.random.default_rng(1).standard_normal((2, 64))).astype(np.float32)
    x[0] *= np.where(np.arange(64) % 2, 1, -1)

    @jax.jit
    def mean(x: Any, first: Any) -> Any:
        def one(t: Any) -> Any:
            return jnp.stack(unpacked(packed(x[0], x[1], draws(np.uint32(5), first + t, (64,)))))

        return jnp.mean(jax.vmap(one)(jnp.arange(4096)) - x[None], 0) / x

    # A 4096th of the distance of two numbers, as for points that are spread evenly; by chance it would be a 128th.
    for first in (0, 10**6, 2**31 - 5000):
        assert np.abs(mean(x, jnp.int32(first))).max() < 4 * 2.0**-7 / 4096


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """In standard deviations of what chance gives."""
    return float(np.mean(a * b) * 12 * np.sqrt(a.size))


def test_draws_are_as_good_as_random_ones() -> None:
    """Bits, neighbours at the distances that rows have, both halves; over writings they are spread more evenly."""
    now, later = (np.asarray(DRAWS(np.uint32(77), jnp.int32(t), (SIZE,))) for t in (3, 4))
    bits = (now[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    assert np.abs(bits.mean(0) - 0.5).max() * 2 * np.sqrt(SIZE) < 5
    halves = [(x / 2.0**16 - 0.5) for x in (now & np.uint32(0xFFFF), now >> np.uint32(16))]
    assert abs(correlation(*halves)) < 4
    for far in (1, 2, 8, 64, 127, 768, 1024, 4096):
        for a in halves:
            for b in halves:
                assert abs(correlation(a[:-far], b[far:])) < 6, far
    for half, shift, turn in zip(halves, (0, 16), (0x9E37, 0x6A09), strict=True):
        after = ((later >> np.uint32(shift)) & np.uint32(0xFFFF)) / 2.0**16 - 0.5
        a = turn / 2**16
        assert np.mean(half * after) * 12 == pytest.approx(1 - 6 * a * (1 - a), abs=0.01)


def test_a_part_has_the_draws_of_the_whole() -> None:
    whole = DRAWS(np.uint32(9), jnp.int32(2), (8, 16))
    part = draws(np.uint32(9), jnp.int32(2), (3, 16), 5 * 16)
    np.testing.assert_array_equal(whole[5:], part)
    np.testing.assert_array_equal(whole.reshape(-1), DRAWS(np.uint32(9), jnp.int32(2), (128,)))
    np.testing.assert_array_equal(whole.reshape(2, 4, 16), DRAWS(np.uint32(9), jnp.int32(2), (2, 4, 16)))


# ------------------------------------------------------------------------------------------------ what is stored


def params_of() -> dict[str, Any]:
    w = jax.random.normal(jax.random.key(0), (32, 64))
    return {"embed": w, "w": w + 1, "b": jnp.ones(5)}


TX = Q(gx.adamw(1e-2), 16, min_size=64)


def test_the_state_is_that_of_adam_with_words_in_one_field() -> None:
    state = TX.init(params_of())[0]
    assert type(state) is optax.ScaleByAdamState
    assert not isinstance(state.mu["embed"], Quantized)
    assert not isinstance(state.nu["b"], Quantized)
    mu, nu = state.mu["w"], state.nu["w"]
    assert (mu.codes.dtype, mu.codes.shape, nu.codes) == (jnp.uint32, (32, 64), None)
    assert mu.shape == nu.shape == (32, 64)
    assert mu.dtype == nu.dtype == jnp.float32
    assert mu.nbytes + nu.nbytes == 4 * 32 * 64 + 8
    assert repr(nu) == "Quantized(float32[32, 64] in bfloat16, two in a word)"
    assert jnp.asarray(mu).shape == (32, 64)
    with pytest.raises(
        TypeError, match=r"this array is in the words of mu beside it; gx\.lowbit\.dequantized"
    ):
        jnp.asarray(nu)
    assert "bfloat16, two in a word" in str(gx.describe(TX, params_of()))


def test_the_step_is_made_of_what_is_stored() -> None:
    params = params_of()
    state, step = TX.init(params), jax.jit(TX.update)
    for _ in range(3):
        updates, state = step(params, state, params)
    held = gx.lowbit.dequantized(state)[0]
    m, v = (np.asarray(x["w"], np.float64) for x in (held.mu, held.nu))
    want = m / (1 - 0.9**3) / (np.sqrt(v / (1 - 0.999**3)) + 1e-8) + 1e-4 * np.asarray(params["w"])
    np.testing.assert_allclose(updates["w"], -1e-2 * want, rtol=2e-6)
    exact = gx.adamw(1e-2)
    free = exact.init(params)
    for _ in range(3):
        other, free = exact.update(params, free, params)
    assert np.abs(other["w"] - updates["w"]).max() > 1e-5  # the control: it is not that of float32
    for x, y in ((held.mu, free[0].mu), (held.nu, free[0].nu)):
        np.testing.assert_allclose(x["w"], y["w"], rtol=2.0**-6)


def test_derivatives_pass_the_rounding() -> None:
    """As they pass that of codes, of which no update is made: bits of a word have none, and would stop them unseen."""
    params, grads = params_of(), jax.tree.map(jnp.sin, params_of())
    words = gx.lowbit.quantized(gx.scale_by_adam(b1=0.5, eps=1.0), 16, min_size=1)

    def total(tx: Any, grads: Any) -> Any:
        updates, _ = tx.update(grads, tx.init(params), params)
        return sum(jnp.sum(u**2) for u in jax.tree.leaves(updates))

    for tx in (words, gx.guard(words)):
        got, wanted = (
            jax.jit(jax.grad(partial(total, x)))(grads) for x in (tx, gx.scale_by_adam(b1=0.5, eps=1.0))
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2.0**-5, atol=1e-3), got, wanted)
        assert all(np.abs(x).max() > 0.1 for x in jax.tree.leaves(got))


def test_compiled_as_outside_of_jit() -> None:
    params = params_of()
    state = jax.jit(TX.init)(params)
    for a, b in zip(
        *(jax.tree.leaves(f(params, state, params)) for f in (TX.update, jax.jit(TX.update))), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_no_temporary_and_nothing_copied(as_users: Any) -> None:
    """In place, and one loop for the words and one for the parameters, that reads them."""
    params = {"w": jnp.ones((256, 512)), "v": jnp.ones(70_000)}
    tx = gx.chain(gx.clip_by_global_norm(1.0), Q(gx.adamw(gx.warmup_cosine(1e-3, 10, 100)), 16))

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), params).compile(as_users)
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < 4096
    assert memory.alias_size_in_bytes >= 8 * (256 * 512 + 70_000)


@pytest.mark.parametrize("wrap", [gx.guard, lambda tx: gx.accumulate(tx, 2)])
def test_a_skipped_step_writes_nothing(wrap: Any) -> None:
    params, tx = params_of(), wrap(TX)
    bad = jax.tree.map(lambda p: p * np.float32(np.nan), params)
    step = jax.jit(tx.update)
    _, before = step(params, tx.init(params), params)
    _, after = step(bad if wrap is gx.guard else params, before, params)
    words = [[x for x in jax.tree.leaves(s) if x.dtype == jnp.uint32] for s in (before, after)]
    assert len(words[0]) == 1
    assert (np.asarray(words[0][0]) == np.asarray(words[1][0])).all() == (wrap is gx.guard)


# ------------------------------------------------------------------------------------------------ which slots


def test_by_roles_and_not_by_names() -> None:
    p = {"w": jnp.ones((64, 64))}
    alone = Q(gx.trace(0.9), 16, min_size=0).init(p).trace["w"]
    assert alone.codes.dtype == jnp.bfloat16
    three = Q(gx.scale_by_amsgrad(), 16, min_size=0).init(p)
    assert [type(x["w"].form.codec) is WordCodec for x in (three.mu, three.nu, three.nu_max)] == [
        True,
        True,
        False,
    ]
    assert three.nu_max["w"].codes.dtype == jnp.bfloat16
    apart = Q(gx.scale_by_adam(), 16, moment=8, min_size=0).init(p)
    assert apart.nu["w"].codes.dtype == jnp.bfloat16
    assert apart.mu["w"].codes.dtype == jnp.int8
    with pytest.raises(TypeError, match="'nu/w' is complex64"):
        Q(gx.scale_by_adam(), 16, min_size=0).init({"w": jnp.ones((64, 64), jnp.complex64)})


def test_of_another_library_and_three_slots() -> None:
    p = {"w": jax.random.normal(jax.random.key(1), (64, 64))}
    for low, exact in ((optax.adam(1e-2), gx.adam(1e-2)), (gx.amsgrad(1e-2), gx.amsgrad(1e-2))):
        tx = Q(low, 16, min_size=0)
        state, true = tx.init(p), exact.init(p)
        for _ in range(2):
            updates, state = tx.update(p, state, p)
            want, true = exact.update(p, true, p)
        assert any(x.dtype == jnp.uint32 for x in jax.tree.leaves(state))
        np.testing.assert_allclose(updates["w"], want["w"], rtol=0.02)


# ------------------------------------------------------------------------------------------------ through files


def stepped() -> tuple[Any, Any]:
    params = params_of()
    return params, TX.update(params, TX.init(params), params)[1]


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert np.asarray(x).dtype == np.asarray(y).dtype


def test_through_files(tmp_path: Any) -> None:
    params, state = stepped()
    fresh = TX.init(params)
    same(pickle.loads(pickle.dumps(state)), state)
    same(flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(state)), state)
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        same(checkpointer.restore(tmp_path / "state", fresh), state)


def test_to_floats_and_back_and_into_other_forms() -> None:
    params, state = stepped()
    same(
        gx.lowbit.requantized(gx.lowbit.dequantized(state), TX.init(params))[0].mu["w"].codes,
        state[0].mu["w"].codes,
    )
    held, wide = gx.lowbit.dequantized(state)[0], gx.adamw(1e-2)
    opened, _ = gx.restore_into(wide, params, state)
    same(opened[0].nu, held.nu)
    back, _ = gx.restore_into(TX, params, opened)
    same(gx.lowbit.dequantized(back)[0].mu, held.mu)
    kept, _ = gx.restore_into(TX, params, state)
    same(kept, state)
    coarse, report = gx.restore_into(Q(wide, 8, min_size=64), params, state)
    assert coarse[0].mu["w"].codes.dtype == jnp.int8
    assert "bfloat16, two in a word to 8 bits" in str(report)


# ------------------------------------------------------------------------------------------------ on meshes


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_the_same_words_on_any_mesh(kind: Any) -> None:
    params = {"w": jax.random.normal(jax.random.key(3), (64, 128))}

    @jax.jit
    def run(params: Any) -> Any:
        state = TX.init(params)
        for _ in range(2):
            updates, state = TX.update(params, state, params)
        return updates, state

    want = run(params)
    for spec in (jax.P("x"), jax.P(None, "x")):
        mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            got = run(jax.device_put(params, jax.NamedSharding(mesh, spec)))
        same(
            jax.tree.map(np.asarray, jax.tree.leaves(got[1])),
            jax.tree.map(np.asarray, jax.tree.leaves(want[1])),
        )
        if kind is jax.sharding.AxisType.Explicit:
            assert got[1][0].mu["w"].codes.sharding.spec == jax.P(*spec, *[None] * (2 - len(spec)))


@pytest.mark.slow
def test_inside_of_shard_map_from_the_whole_state() -> None:
    params = {"w": jax.random.normal(jax.random.key(3), (64, 128))}
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    state = TX.init(params)
    specs = jax.tree.map(lambda x: jax.P("x") if x.ndim else jax.P(), state)
    spec = {"w": jax.P("x")}
    step = jax.shard_map(TX.update, mesh=mesh, in_specs=(spec, specs, spec), out_specs=(spec, specs))
    updates, state = jax.jit(step)(params, state, params)
    want, _ = TX.update(params, TX.init(params), params)
    np.testing.assert_allclose(updates["w"], want["w"], rtol=0.02)


# ------------------------------------------------------------------------------------------------ over many steps


@pytest.mark.slow
def test_second_moments_fall_and_forget_as_in_float32() -> None:
    """At b2 = 0.999 a step changes v by an eighth of the distance of two bfloat16: to nearest it never moves again."""
    start, steps = jnp.ones((16, 256)), 3000
    txs = [
        gx.scale_by_adam(),
        *(Q(gx.scale_by_adam(), 16, rounding=r, min_size=0) for r in ("stochastic", "nearest")),
    ]

    @jax.jit
    def run(states: Any) -> Any:
        def step(t: Any, states: Any) -> Any:
            g = start * jnp.where(t < 200, np.float32(1), np.float32(0.05))
            return [tx.update(g, s)[1] for tx, s in zip(txs, states, strict=True)]

        return jax.lax.fori_loop(0, steps, step, states)

    exact, words, nearest = (gx.lowbit.dequantized(s) for s in run([tx.init(start) for tx in txs]))
    ratio = np.asarray(words.nu) / np.asarray(exact.nu)
    assert abs(ratio.mean() - 1) < 0.01
    assert ratio.std() < 0.05
    assert ratio.min() > 0.8
    np.testing.assert_allclose(words.mu, exact.mu, rtol=0.05)
    assert (np.asarray(nearest.nu) > 1.3 * np.asarray(exact.nu)).all()  # the control


@pytest.mark.parametrize("bits", [8, 16])
def test_on_explicit_axes_of_a_mesh_that_nobody_has_set(bits: int) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    plain = {"w": jax.random.normal(jax.random.key(0), (16, 256))}
    params = jax.device_put(plain, jax.NamedSharding(mesh, jax.P("data", "model")))
    tx = Q(gx.adamw(1e-2), bits, min_size=1)
    step = jax.jit(tx.update)
    got, wanted = (step(p, tx.init(p), p)[0]["w"] for p in (params, plain))
    assert jax.typeof(got).sharding.spec == jax.P("data", "model")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
