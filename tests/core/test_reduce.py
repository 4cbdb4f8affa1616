"""Reductions across shards: each leaf over its own varying axes, and an error where that cannot be known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import gradxform as gx

WHOLE = {"sharded": np.arange(1.0, 9.0, dtype=np.float32), "replicated": np.asarray([3.0], np.float32)}
NORM = float(np.sqrt(sum(np.sum(x**2) for x in WHOLE.values())))
SPECS = {"sharded": P("model"), "replicated": P()}


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((8,), ("model",), axis_types=(kind,))


def inside(tx, check_vma=True):
    def update(grads):
        return tx.update(grads, tx.init(grads))[0]

    return jax.jit(
        jax.shard_map(update, mesh=mesh(), in_specs=(SPECS,), out_specs=SPECS, check_vma=check_vma)
    )


def assert_clipped(got):
    for name, x in WHOLE.items():
        np.testing.assert_allclose(got[name], x / NORM, rtol=1e-6)


def test_a_clip_inside_shard_map_sees_the_whole_norm():
    """A replicated leaf counts once, not once a device."""
    assert_clipped(inside(gx.clip_by_global_norm(1.0, axis_names=("model",)))(WHOLE))


def test_a_psum_of_everything_would_count_replicas():
    """The negative control: the naive reduction differs visibly from the true norm."""
    naive = np.sqrt(np.sum(WHOLE["sharded"] ** 2) + 8 * WHOLE["replicated"][0] ** 2)
    assert abs(naive - NORM) > 1.0


def test_unbound_axes_are_an_error_that_names_leaf_and_axes():
    with pytest.raises(
        ValueError, match=r"clip.*'sharded' varies over the mesh axes \['model'\].*axis_names"
    ):
        inside(gx.clip_by_global_norm(1.0))(WHOLE)


def test_an_empty_binding_means_each_device_its_own():
    tx = gx.clip_by_global_norm(1.0, axis_names=())
    update = jax.shard_map(
        lambda g: tx.update(g, tx.init(g))[0], mesh=mesh(), in_specs=P("model"), out_specs=P("model")
    )
    np.testing.assert_allclose(jax.jit(update)(WHOLE["sharded"]), np.ones(8), rtol=1e-6)


def test_without_tracking_the_axes_have_to_be_said_by_leaf():
    with pytest.raises(ValueError, match="check_vma=False"):
        inside(gx.clip_by_global_norm(1.0, axis_names=("model",)), check_vma=False)(WHOLE)
    said = gx.clip_by_global_norm(1.0, axis_names={"sharded": ("model",), "*": ()})
    assert_clipped(inside(said, check_vma=False)(WHOLE))


def test_a_mapping_that_misses_a_leaf_is_an_error():
    with pytest.raises(ValueError, match="no pattern of axis_names takes the leaf 'replicated'"):
        inside(gx.clip_by_global_norm(1.0, axis_names={"sharded": ("model",)}))(WHOLE)


@pytest.mark.parametrize("names", ["model", {"sharded": "model", "*": ()}])
def test_one_axis_is_named_without_a_tuple(names):
    tx = gx.clip_by_global_norm(1.0, axis_names=names)
    assert_clipped(inside(tx, check_vma=isinstance(names, str))(WHOLE))


def test_an_axis_that_the_mesh_does_not_have_is_an_error():
    with pytest.raises(ValueError, match=r"no axis \['data'\]; its axes are \('model',\)"):
        inside(gx.clip_by_global_norm(1.0, axis_names=("data",)))(WHOLE)


def test_block_rms_of_a_sharded_leaf_is_that_of_the_whole():
    tx = gx.clip_by_block_rms(1.0, axis_names=("model",))
    got = inside(tx)(WHOLE)
    want, _ = gx.clip_by_block_rms(1.0).update(WHOLE, tx.init(WHOLE))
    for name in WHOLE:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)


def test_elementwise_transforms_need_no_axes():
    tx = gx.chain(gx.scale_by_adam(), gx.scale(0.5))
    got = inside(tx)(WHOLE)
    want, _ = jax.jit(tx.update)(WHOLE, tx.init(WHOLE))
    for name in WHOLE:
        np.testing.assert_allclose(got[name], want[name], rtol=3e-7)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_under_jit_on_a_mesh_the_recipe_equals_one_device(kind):
    """Arrays are whole under `jit`; the update and the state keep the parameters' sharding on an explicit mesh."""
    here = mesh(kind)
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-2, weight_decay=0.1))
    place = {name: jax.NamedSharding(here, spec) for name, spec in SPECS.items()}
    with jax.set_mesh(here):
        params = jax.device_put(WHOLE, place)
        state = jax.jit(tx.init)(params) if kind is AxisType.Explicit else tx.init(params)
        updates, state = jax.jit(tx.update)(params, state, params)
        updates, state = jax.jit(tx.update)(params, state, params)
        if kind is AxisType.Explicit:
            for name in WHOLE:
                assert jax.typeof(updates[name]).sharding.spec == jax.typeof(params[name]).sharding.spec
                assert (
                    jax.typeof(state[1][0].mu[name]).sharding.spec == jax.typeof(params[name]).sharding.spec
                )
    want, want_state = tx.update(WHOLE, tx.init(WHOLE), WHOLE)
    want, want_state = tx.update(WHOLE, want_state, WHOLE)
    for name in WHOLE:
        np.testing.assert_allclose(updates[name], want[name], rtol=1e-6)
        np.testing.assert_allclose(state[1][0].nu[name], want_state[1][0].nu[name], rtol=1e-6)


def test_pmap_takes_averaged_gradients_without_any_axes():
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(1.0))

    def step(params, grads):
        grads = jax.lax.pmean(grads, "batch")
        updates, _ = tx.update(grads, tx.init(params), params)
        return gx.apply_updates(params, updates)

    params = jnp.zeros((8, 2))
    grads = jnp.asarray(np.arange(16.0, dtype=np.float32).reshape(8, 2))
    got = jax.pmap(step, axis_name="batch")(params, grads)
    mean = np.asarray(grads).mean(0)
    np.testing.assert_allclose(got, np.tile(-mean / np.linalg.norm(mean), (8, 1)), rtol=1e-6)


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_partials_combine_by_sum_or_maximum(combine):
    from gradxform import build

    def reduce(g, s, p, k, leaf):
        return jnp.max(jnp.abs(g)) if combine == "max" else jnp.sum(g)

    def once(c):
        return {"total": c.sums}

    def step(g, s, p, k, leaf):
        return g / k.total

    tx = build.treewise(step, reduce=reduce, once=once, combine=combine, axis_names=("model",))
    got = inside(tx)(WHOLE)
    total = 8.0 if combine == "max" else sum(float(x.sum()) for x in WHOLE.values())
    np.testing.assert_allclose(got["sharded"], WHOLE["sharded"] / total, rtol=1e-6)
