"""`quantized` where it is used: odd leaves, bad numbers, other wrappers, Flax, parts of arrays, changes of bits."""

import pickle
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradxform as gx
from gradxform.lowbit import Quantized

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

BF16 = jnp.bfloat16
Q = gx.lowbit.quantized
ADAM = gx.scale_by_adam()


def noise(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def stored_in(state: Any) -> int:
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Quantized))
    return sum(isinstance(x, Quantized) for x in leaves)


# ------------------------------------------------------------------------------------------------ leaves


@pytest.mark.parametrize("bits", [8, 4])
def test_odd_leaves(bits: int) -> None:
    params = {
        "short": noise(63),
        "long": noise(65),
        "thin": noise(5, 13, 1),
        "one": noise(1, 1),
        "half": noise(2, 33).astype(jnp.float16),
        "bf16": noise(2, 33).astype(BF16),
        "no rows": jnp.zeros((0, 4)),
        "no columns": jnp.zeros((4, 0)),
        "number": jnp.float32(1),
        "whole": jnp.arange(6),
        "complex": jnp.ones((8, 8), jnp.complex64),
        "none": None,
        "masked": optax.MaskedNode(),
        "frozen": noise(2, 64),
    }
    grads = {**params, "whole": np.zeros(6, jax.dtypes.float0), "frozen": None}
    tx = Q(ADAM, bits, min_size=0, wide=["complex"], rounding="nearest")
    state = tx.init(params)
    updates, new = tx.update(grads, state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    same(new.mu["frozen"], state.mu["frozen"])
    wide = gx.lowbit.dequantized(new)
    for name in ("short", "long", "thin", "one", "half", "bf16"):
        assert isinstance(new.nu[name], Quantized)
        assert wide.mu[name].shape == wide.nu[name].shape == params[name].shape == updates[name].shape
        assert updates[name].dtype == wide.mu[name].dtype == params[name].dtype
        exact = np.sqrt(1e-3) * np.abs(np.asarray(params[name], np.float32))
        np.testing.assert_allclose(np.sqrt(wide.nu[name]), exact, rtol=0.07 if bits == 8 else 0.5)
    assert not isinstance(new.nu["no rows"], Quantized)
    for tree in ({}, ()):
        same(tx.update(tree, tx.init(tree))[0], tree)


def test_double_precision(x64: None) -> None:
    params = {"w": jnp.ones((64, 128), jnp.float64)}
    tx = Q(ADAM)
    updates, state = tx.update(params, tx.init(params))
    assert updates["w"].dtype == gx.lowbit.dequantized(state).nu["w"].dtype == jnp.float64
    assert state.nu["w"].nbytes < 1.04 * 64 * 128


def test_a_bad_number_stays_in_its_block_and_a_guard_keeps_it_out() -> None:
    params = {"w": jnp.ones((64, 128)), "v": jnp.ones((64, 128))}
    bad = {"w": params["w"].at[3, 5].set(np.nan).at[10, 70].set(np.inf), "v": params["v"]}
    tx = gx.guard(Q(ADAM))
    step = jax.jit(tx.update)
    start = tx.init(params)
    _, alone = jax.jit(Q(ADAM).update)(bad, start.inner_state)
    wide = gx.lowbit.dequantized(alone)
    for moment in (wide.mu, wide.nu):
        lost = ~np.isfinite(np.asarray(moment["w"]))
        assert lost.sum() == 128
        assert lost[3, :64].all()
        assert lost[10, 64:].all()
        assert np.isfinite(moment["v"]).all()
    _, skipped = step(bad, start, params)
    _, after = step(params, skipped, params)
    _, want = step(params, start, params)
    same(after.inner_state, want.inner_state)


# ------------------------------------------------------------------------------------------------ with others


def test_what_is_stored_stays_as_it_is_stored() -> None:
    """Of two, the inner one decides; the outer one takes what it has left."""
    params = {"w": noise(64, 128), "b": noise(256)}
    for inner in (Q(ADAM, 16), Q(ADAM, like="bitsandbytes"), Q(ADAM, 4)):
        tx = Q(inner, 8, min_size=200)
        state = tx.init(params)
        assert state.nu["w"].form == inner.init(params).nu["w"].form
        assert state.nu["b"].kind == "8 bits"
        _, new = tx.update(params, state)
        assert jax.tree.structure(new) == jax.tree.structure(state)


@pytest.mark.parametrize("order", ["inside", "around"])
def test_with_exact_masters(order: str) -> None:
    params = {"w": noise(64, 128).astype(BF16)}
    inner = gx.chain(ADAM, gx.scale(-1e-4))
    wrap = gx.lowbit.exact_master
    tx = wrap(Q(inner)) if order == "inside" else Q(wrap(inner))
    plain = wrap(inner)

    @jax.jit
    def run(params: Any) -> Any:
        def step(carry: Any, seed: Any) -> Any:
            g = jax.random.normal(jax.random.key(seed), (64, 128))
            moved = []
            for t, (p, s) in zip((tx, plain), carry, strict=True):
                updates, s = t.update({"w": g}, s, p)
                moved.append((gx.apply_updates(p, updates), s))
            return moved, None

        return jax.lax.scan(step, [(params, tx.init(params)), (params, plain.init(params))], jnp.arange(5))[0]

    (mine, state), (theirs, exact) = run(params)
    assert stored_in(state) == 2
    got, want = (
        gx.lowbit.master_params(s, p)["w"] - params["w"].astype(jnp.float32)
        for s, p in ((state, mine), (exact, theirs))
    )
    assert float(jnp.linalg.norm(got - want)) < 0.02 * float(jnp.linalg.norm(want))


def test_a_rule_that_leaves_slots_as_they_are() -> None:
    """Adafactor keeps `v` for what it does not factor, beside rows and columns of one number that stand still."""
    params = {"w": noise(8, 16)}
    tx = Q(gx.scale_by_factored_rms(), min_size=0)
    state = tx.init(params)
    assert stored_in(state) == 1
    updates, new = jax.jit(tx.update)(params, state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    want, _ = tx.update(params, state, params)
    np.testing.assert_allclose(updates["w"], want["w"], rtol=1e-5)
    assert np.asarray(new.v["w"].codes).all()


def test_described() -> None:
    params = {"w": jnp.ones((64, 128)), "v": jnp.ones((64, 128))}
    assert "4 arrays in 8 bits" in str(gx.describe(Q(gx.adamw(1e-3)), params))
    assert "2 arrays in 4 bits, 2 arrays in 8 bits" in str(gx.describe(Q(ADAM, paths={"v": 4}), params))
    assert "arrays" not in str(gx.describe(gx.adamw(1e-3), params))


def test_init_leaves_no_constant_to_a_compiler() -> None:
    """XLA would work out the codes of a constant zero at its own pace: ten seconds for 512 x 1024 numbers."""
    text = jax.jit(lambda: Q(ADAM).init(jnp.zeros((64, 64)))).lower().as_text()
    assert text.count("optimization_barrier") >= 2


# ------------------------------------------------------------------------------------------------ Flax, files


class Model(nnx.Module):
    def __init__(self) -> None:
        self.w, self.b = nnx.Param(noise(64, 128)), nnx.Param(noise(3))


def test_in_nnx() -> None:
    """The steps are those of plain arrays, and codes are still codes after the second one."""
    with jax.numpy_dtype_promotion("standard"):
        model, tx = Model(), Q(gx.adamw(1e-2))
        params = {"w": model.w[...], "b": model.b[...]}
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        grads, state = jax.tree.map(jnp.sign, nnx.state(model, nnx.Param)), tx.init(params)
        step = nnx.jit(lambda model, optimizer: optimizer.update(model, grads))
        for _ in range(3):
            step(model, optimizer)
            _, state = jax.jit(tx.update)(jax.tree.map(jnp.sign, params), state, params)
        held = optimizer.opt_state
        assert isinstance(held[0].mu["w"], Quantized)
        assert int(held[0].mu["w"].step[...]) == 3
        assert gx.lowbit.dequantized(held)[0].nu["w"][...].shape == (64, 128)
        np.testing.assert_array_equal(held[0].nu["w"].codes[...], state[0].nu["w"].codes)


def test_in_nnx_without_an_optimizer() -> None:
    model, tx = Model(), Q(ADAM)
    params = nnx.state(model, nnx.Param)
    start = tx.init(params)
    updates, state = tx.update(params, start)
    assert jax.tree.structure(state) == jax.tree.structure(start)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    wide = gx.lowbit.dequantized(state)
    assert jax.tree.structure(wide.nu) == jax.tree.structure(params)
    assert jax.tree.structure(gx.lowbit.requantized(wide, start)) == jax.tree.structure(start)


def test_through_files() -> None:
    params = {"w": noise(64, 128), "b": noise(3)}
    for tx in (Q(ADAM), Q(ADAM, 16)):
        _, state = tx.update(params, tx.init(params))
        read = flax.serialization.from_bytes(tx.init(params), flax.serialization.to_bytes(state))
        same(jax.tree.map(jnp.asarray, read), state)
        same(pickle.loads(pickle.dumps(state)), state)
        written = flax.serialization.to_state_dict(state)
        same(gx.restore_into(gx.guard(tx), params, written)[0].inner_state, state)


# ------------------------------------------------------------------------------------------------ restored


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ({"bits": 32}, {}, "float32 to 8 bits"),
        ({}, {"bits": 32}, "8 bits to float32"),
        ({"bits": 4}, {}, "4 bits to 8 bits"),
        ({"like": "bitsandbytes"}, {}, "8 bits, dynamic map to 8 bits"),
        ({}, {}, ""),
    ],
)
def test_restored_into_other_codes(before: Any, after: Any, note: str) -> None:
    params = {"w": noise(64, 128), "b": noise(3)}
    old, new = Q(ADAM, **before), gx.guard(Q(ADAM, **after))
    _, saved = old.update(params, old.init(params))
    state, report = gx.restore_into(new, params, saved)
    assert jax.tree.structure(state) == jax.tree.structure(new.init(params))
    assert {row.outcome for row in report.rows if not row.address.startswith("guard")} == {"matched"}
    assert {row.note for row in report.rows if "u/w" in row.address} == {note}, "of mu and nu"
    want, got = (gx.lowbit.dequantized(s) for s in (saved, state.inner_state))
    coarse = 0.5 if before.get("bits") == 4 else 0.07
    np.testing.assert_allclose(np.sqrt(got.nu["w"]), np.sqrt(want.nu["w"]), rtol=coarse)
    there = want.nu["w"] > 0  # bitsandbytes rounds others to zero, and a moment beside them is cut
    off = jnp.where(there, got.mu["w"] - want.mu["w"], 0.0)
    assert float(jnp.linalg.norm(off)) < 0.02 * float(jnp.linalg.norm(want.mu["w"]))
    if before == after:
        same(state.inner_state, saved)


def test_codes_without_their_meaning_are_not_taken() -> None:
    """A checkpoint without classes: scales of 4 bits fit those of 8, and mean something else."""
    params = {"w": noise(64, 128), "b": noise(3)}
    for old in (Q(ADAM, 4), Q(ADAM, like="bitsandbytes")):
        _, saved = old.update(params, old.init(params))
        written = flax.serialization.to_state_dict(saved)
        state, report = gx.restore_into(Q(ADAM), params, written)
        same(state.nu["w"], Q(ADAM).init(params).nu["w"])
        same(state.nu["b"], saved.nu["b"])
        assert all("in other codes" in row.note for row in report.reset if "/w/" in row.address)
        assert report.reset


# ------------------------------------------------------------------------------------------------ parts of arrays


def in_parts(tx: Any, x: Any, spec: Any, scales: Any) -> Any:
    """One update of a state that was made from the whole array, inside `shard_map` on two devices."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    state = tx.init(x)

    def place(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path[-1:])
        return jax.P() if leaf.ndim == 0 else scales if name == ".scales" else spec

    specs = jax.tree_util.tree_map_with_path(place, state)
    cut = jax.shard_map(tx.update, mesh=mesh, in_specs=(spec, specs), out_specs=(spec, specs))
    return cut(x, state)


def test_parts_of_whole_blocks_have_the_codes_of_the_whole() -> None:
    x, columns = noise(64, 256), jax.P(None, "x")
    tx = Q(ADAM, rounding="nearest")
    got, want = in_parts(tx, x, columns, columns), tx.update(x, tx.init(x))
    same(got[1].nu, want[1].nu)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "scales", "text"),
    [
        ((64, 120), (None, "x"), (None, "x"), r"axes of \[120\] numbers, here they are \[64, 60\]"),
        ((128, 32), (None, "x"), ("x",), r"axes of \[128, 32\] numbers, here they are \[128, 16\]"),
    ],
)
def test_parts_of_blocks_are_refused(shape: Any, axes: Any, scales: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}\n?.*\n?.*multiples of 64"):
        in_parts(Q(ADAM), noise(*shape), jax.P(*axes), jax.P(*scales))


def test_the_whole_array_decides_in_shard_map_too() -> None:
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    seen: list[Any] = []

    def look(x: Any) -> Any:
        seen.append(Q(ADAM).init(x).mu)
        return x

    for rows in (64, 62):  # 4,160 and 4,030 numbers
        jax.shard_map(look, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))(jnp.ones((rows, 65)))
    assert isinstance(seen[0], Quantized)
    assert not isinstance(seen[1], Quantized)


# ------------------------------------------------------------------------------------------------ what is not stored


def test_what_a_difference_is_taken_of_stays() -> None:
    """Centred RMSprop divides by the root of nu - mu^2; of two stored numbers that are nearly equal nothing is left."""
    params = {"w": noise(64, 128)}
    for tx in (gx.rmsprop(0.1, centered=True, momentum=0.9), optax.scale_by_stddev(bias_correction=True)):
        state = Q(tx, min_size=0).init(params)
        stays = [
            node for node in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "nu")) if hasattr(node, "nu")
        ]
        assert len(stays) == 1
        assert {type(x) for x in jax.tree.leaves(stays[0])} == {type(params["w"])}
    with_trace = Q(gx.rmsprop(0.1, centered=True, momentum=0.9), min_size=0).init(params)
    assert stored_in(with_trace) == 1, "the momentum"


@pytest.mark.parametrize("declare", [gx.build.declare_exact, gx.build.declare_own])
def test_a_field_that_there_is_not_is_named(declare: Any) -> None:
    with pytest.raises(ValueError, match=rf"{declare.__name__}\(TraceState\): no field 'nu'; it has trace"):
        declare(optax.TraceState, "nu")


def test_sm3_has_its_momentum_where_others_have_squares() -> None:
    tx, low = optax.scale_by_sm3(), Q(optax.scale_by_sm3())
    params = {"w": noise(64, 128)}
    state, other = tx.init(params), low.init(params)
    for seed in range(3):
        grads = {"w": noise(64, 128) * (1 - seed)}
        want, state = tx.update(grads, state)
        got, other = low.update(grads, other)
    assert isinstance(other.nu["w"], gx.lowbit.Quantized)
    assert float(jnp.linalg.norm(got["w"] - want["w"])) < 0.03 * float(jnp.linalg.norm(want["w"]))


@pytest.mark.parametrize("how", [{"bits": 4}, {"map": "float8"}, {"like": "bitsandbytes"}])
def test_flax_does_not_read_other_codes(how: Any) -> None:
    params = {"w": noise(64, 128)}
    written = flax.serialization.to_bytes(Q(ADAM).init(params))
    with pytest.raises(ValueError, match=r"the codes of Quantized.* wanted|the scales of Quantized.* wanted"):
        flax.serialization.from_bytes(Q(ADAM, **how).init(params), written)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"bits": 4, "map": "dynamic"}, "this map has 8 bits, and nothing is stored in 8"),
        ({"bits": 4, "like": "bitsandbytes"}, "this map has 8 bits, and nothing is stored in 8"),
        ({"bits": 16, "map": "float8"}, "this map has 8 bits, and nothing is stored in 8"),
        ({"bits": 8.0}, "wanted one of 4, 8"),
        ({"paths": [("w", 8)]}, "wanted a mapping from patterns to bits"),
    ],
)
def test_what_cannot_be_meant_is_refused(how: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gx.lowbit.quantized(ADAM, **how)


def test_numpy_reads_a_node() -> None:
    node = Q(ADAM).init({"w": noise(64, 128)}).nu["w"]
    assert (node.ndim, node.size) == (2, 64 * 128)
    np.testing.assert_array_equal(np.asarray(node), jnp.asarray(node))


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(TypeError, match=r"quantized\(wide\): the pattern 3 is int"):
        Q(ADAM, wide=3).init({"w": noise(64, 128)})


def test_requantized_wants_a_state_of_the_same_parameters() -> None:
    like = Q(ADAM).init({"w": noise(64, 128)})
    for state, message in (
        (
            ADAM.init({"w": noise(64, 64)}),
            r"'mu/w' is \[64, 64\], wanted \[64, 128\]\s+both are of one transform",
        ),
        (gx.scale_by_lion().init({"w": noise(64, 128)}), "it has 2 arrays, and `like` stands for 3"),
        (like, "it has 7 arrays, and `like` stands for 3"),
    ):
        with pytest.raises(ValueError, match=message):
            gx.lowbit.requantized(state, like)
