"""Buckets: what shares one, the way in and out, gradients, files, meshes, and what is refused."""

import re

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

import gradxform as gx
from gradxform.fused import Buckets, bucketed, pack, unpack

TX = bucketed(gx.adamw(1e-2, mask=gx.matrices()))


def _tree():
    def some(*shape, dtype="float32"):
        return jnp.linspace(-1.0, 2.0, int(np.prod(shape)), dtype="float32").reshape(shape).astype(dtype)

    return {
        "a": {"kernel": some(3, 4), "bias": some(4), "frozen": None},
        "b": [some(2, 2, 3), some(5, dtype="bfloat16"), jnp.arange(3)],
        "c": optax.MaskedNode(),
        "d": some(),
        "e": some(0, 4),
        "f": some(2, dtype="complex64"),
        "g": 7,
    }


def _same(got, wanted) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("stack", [False, True])
def test_the_way_in_and_out(stack: bool):
    tree = _tree()
    b = pack(tree, TX, stack=stack)
    _same(unpack(b), tree)
    _same(b.unpack(), tree)
    _same(pack(unpack(b), b), b)
    _same(jax.tree.map(lambda x: x, b), b)


def test_what_shares_a_bucket():
    paths = pack(_tree(), TX).paths
    assert list(paths.values()) == [["a/bias", "d"], ["e", "a/kernel", "b/0"], ["b/1"], ["f"]]
    assert [re.sub(r"_[0-9a-f]{8}$", "", name) for name in paths] == [
        "flat_float32",
        "flat_float32",
        "flat_bfloat16",
        "flat_complex64",
    ]
    assert list(pack(_tree(), TX).arrays) == [*paths, "b/2", "g"]


def test_leaves_that_a_link_looks_at_as_a_whole_are_stacked_and_others_not():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3), "c": jnp.ones((2, 3)), "d": jnp.ones(4)}
    tx = gx.chain(gx.adam(1e-2), gx.masked(gx.scale_by_trust_ratio(), gx.matrices()))
    b = pack(params, tx)
    assert list(b.paths.values()) == [["a", "c"], ["b", "d"]]
    assert [x.shape for x in b.children] == [(2, 2, 3), (7,)]
    frozen = gx.param_groups({"a": None, "*": gx.lamb(1e-2)})
    assert list(pack(params, frozen).paths.values()) == [["a"], ["b"], ["c"], ["d"]]


def test_leaves_of_whole_blocks_come_first():
    params = {"a": jnp.ones(3), "b": jnp.ones(256), "c": jnp.ones(5), "d": jnp.ones((2, 256))}
    assert list(pack(params, gx.scale(1.0)).paths.values()) == [["b", "d", "a", "c"]]


def test_gradients_arrive_flat_by_one_concatenation_a_bucket():
    params = {"w": jnp.ones((3, 2)), "v": jnp.ones((2, 2)), "b": jnp.ones(3)}
    b = pack(params, TX)

    def loss(tree):
        return jnp.sum(tree["w"] ** 3) + jnp.sum(tree["b"]) * 2.0  # of `v` there is none

    gradient = jax.grad(lambda b: loss(b.unpack()))
    text = str(jax.make_jaxpr(gradient)(b))
    assert text.count("concatenate[") == 1  # a bucket of one leaf needs none
    assert "pad[" not in text
    got = gradient(b)
    assert isinstance(got, Buckets)
    assert got.layout is b.layout
    _same(got.unpack(), jax.grad(loss)(params))
    _, slope = jax.jvp(lambda b: loss(b.unpack()), (b,), (b,))
    assert float(slope) == 3 * 6 + 2 * 3
    twice = jax.vmap(lambda b: loss(b.unpack()))(jax.tree.map(lambda x: jnp.stack([x, 2 * x]), b))
    np.testing.assert_allclose(np.asarray(twice), [12.0, 60.0])


def test_an_equal_layout_compiles_nothing_again():
    count = 0

    @jax.jit
    def step(b):
        nonlocal count
        count += 1
        return jax.tree.map(jnp.negative, b)

    first, second = (pack({"w": jnp.ones((3, 2)), "b": jnp.ones(i)}, TX) for i in (3, 3))
    assert first.layout == second.layout
    assert hash(first.layout) == hash(second.layout)
    step(first)
    step(second)
    assert count == 1
    assert pack({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, TX).layout != first.layout


def test_a_state_moves_in_and_out():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3), "n": None}
    inner = gx.adamw(1e-2, mask=gx.matrices())
    b = pack(params, TX)
    _, state = TX.update(b, TX.init(b), b)
    plain = unpack(state)
    assert jax.tree.structure(plain) == jax.tree.structure(inner.init(params))
    _same(pack(plain, TX.init(b)), state)
    _same(pack(plain, jax.eval_shape(TX.init, b)), state)
    updates, _ = inner.update(params, plain, params)
    _same(unpack(TX.update(b, state, b)[0]), updates)


def test_slots_of_other_shapes_go_along():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((3, 4)), "c": jnp.ones(2)}
    inner = gx.scale_by_factored_rms(min_dim_size_to_factor=2)
    b = pack(params, inner)
    state = bucketed(inner).init(b)
    assert state.v_row.children[0].shape == (2, 3)
    _same(unpack(state), inner.init(params))
    _same(pack(inner.init(params), state), state)


def test_shapes_and_traces():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3)}
    shapes = jax.eval_shape(lambda: params)
    b = pack(shapes, TX)
    assert b.layout == pack(params, TX).layout
    assert [x.shape for x in b.children] == [(3,), (6,)]
    assert unpack(b) == shapes
    _same(jax.jit(lambda tree: pack(tree, TX))(params), pack(params, TX))


def test_files(tmp_path):
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3), "n": jnp.arange(2)}
    b = pack(params, TX)
    state = TX.init(b)
    _same(flax.serialization.from_bytes(state, flax.serialization.to_bytes(state)), state)
    with orbax.checkpoint.StandardCheckpointer() as files:
        files.save(tmp_path / "state", state)
        files.wait_until_finished()
        shapes = jax.tree.map(orbax.checkpoint.utils.to_shape_dtype_struct, state)
        _same(files.restore(tmp_path / "state", shapes), state)
    other = pack({"v": params["w"], "b": params["b"], "n": params["n"]}, TX)
    with pytest.raises(
        ValueError, match=r"they hold other leaves, or in another order: save gx.fused.unpack"
    ):
        flax.serialization.from_state_dict(other, flax.serialization.to_state_dict(b))


def test_what_is_cut_over_devices_stays_a_tree():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    cut = jax.device_put(jnp.ones((8, 2)), jax.NamedSharding(mesh, jax.P("data")))
    whole = jax.device_put(jnp.ones((8, 2)), jax.NamedSharding(mesh, jax.P()))
    with pytest.raises(ValueError, match=r"the leaf 'w' is cut over 'data'; .*\n.*inside of jax.shard_map"):
        pack({"w": cut}, TX)
    with pytest.raises(ValueError, match="is cut over 'data'"):
        jax.jit(lambda tree: pack(tree, TX))({"w": cut})
    b = pack({"w": whole, "b": jnp.ones(3)}, TX)
    assert b.unpack()["w"].shape == (8, 2)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_inside_shard_map_buckets_are_of_what_is_here(kind: str):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    inner = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam())
    tx = bucketed(gx.sharding.reduce_over(inner, "data"))
    w, v = jnp.arange(16.0).reshape(8, 2), jnp.arange(3.0)

    def step(w, v):
        b = pack({"w": w, "v": v}, tx)
        assert len(b.children) == 2  # a shard and a copy: their sums go over different axes
        updates, _ = tx.update(b, tx.init(b), b)
        return updates.unpack()

    specs = {"w": jax.P("data"), "v": jax.P()}
    run = jax.shard_map(step, mesh=mesh, in_specs=(specs["w"], specs["v"]), out_specs=specs)
    wanted, _ = inner.update({"w": w, "v": v}, inner.init({"w": w, "v": v}))
    here = [
        jax.device_put(x, jax.NamedSharding(mesh, spec)) for x, spec in ((w, specs["w"]), (v, specs["v"]))
    ]
    for name, x in jax.jit(run)(*here).items():
        np.testing.assert_allclose(np.asarray(x), np.asarray(wanted[name]), rtol=1e-6)


def test_refusals():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3)}
    b = pack(params, TX)
    with pytest.raises(
        TypeError, match=r"the tree has been packed already; gx.fused.unpack gives the tree again"
    ):
        pack(b, TX)
    with pytest.raises(TypeError, match=r"like is a dict; give the transform that is to run, or buckets"):
        pack(params, {"a": 1})
    with pytest.raises(ValueError, match=r"missing in the tree: 'b'; like was made of another tree"):
        pack({"w": params["w"]}, b)
    with pytest.raises(
        ValueError, match=r"gx.fused.pack: the leaf 'w' is float32\[2\], wanted shape \(3, 2\)"
    ):
        pack({"w": jnp.ones(2), "b": jnp.ones(3)}, b)
    with pytest.raises(
        ValueError, match=r"share a bucket, and are not of one kind; got bfloat16.* and float32"
    ):
        pack({"w": jnp.ones(2), "b": jnp.ones(2, "bfloat16")}, pack({"w": jnp.ones(2), "b": jnp.ones(2)}, TX))
    with pytest.raises(
        ValueError, match=r"the bucket flat_float32_\w+ is float32\[4\], wanted 3 numbers on the last"
    ):
        Buckets(b.layout, (jnp.ones(4), jnp.ones(6))).unpack()
    with pytest.raises(ValueError, match=r"the leaves of \w+ make \[2, 3\], wanted float32\[3\]"):
        pack({"w": jnp.ones((2, 3, 2)), "b": jnp.ones((2, 3))}, b)
    stacked = pack(params, TX, stack=True)
    with pytest.raises(ValueError, match=r"is float32\[4\], wanted 1 leaves on the first axis"):
        Buckets(stacked.layout, (jnp.ones(4), jnp.ones(6))).unpack()
    with pytest.raises(TypeError, match=r"gx.fused.pack\(stack=1\)"):
        pack(params, TX, stack=1)  # type: ignore[arg-type]
