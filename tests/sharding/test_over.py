"""Inside `shard_map`, on shards: the numbers of whole arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

import gradxform as gx

AXES = ("data", "model")
#: Weights that are cut over two axes, over one along either dimension, over both along one, and not at all.
SPECS = {
    "both": P("data", "model"),
    "rows": P("data", None),
    "columns": P(None, "model"),
    "one": P(("data", "model"), None),
    "whole": P(),
    "bias": P("model"),
    "stack": P("data", None, "model"),
}
SHAPES = {
    "both": (8, 6),
    "rows": (8, 4),
    "columns": (4, 6),
    "one": (8, 4),
    "whole": (4, 4),
    "bias": (4,),
    "stack": (4, 6, 4),
}
STEPS = 3


def _mesh():
    return jax.make_mesh((4, 2), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


def _tree(seed: int, *lead: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(*lead, *shape)) * 3, jnp.float32) for name, shape in SHAPES.items()
    }


PARAMS, GRADS = _tree(0), _tree(1, STEPS)


def _train(tx):
    def train(params, grads):
        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0], value=jnp.float32(1.0))
            return (gx.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), grads)[0]

    return train


def _state_specs(tx, mesh):
    shapes = {
        n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, SPECS[n]))
        for n, x in PARAMS.items()
    }
    return jax.tree.map(lambda s: s.spec, gx.sharding.state_shardings(tx, shapes, mesh))


def _check(tx, names, check_vma):
    """Parameters and state after some steps on shards are those on whole arrays."""
    mesh, over = _mesh(), gx.sharding.reduce_over(tx, names)
    many = {name: P(None, *spec) for name, spec in SPECS.items()}
    sharded = jax.shard_map(
        _train(over),
        mesh=mesh,
        in_specs=(SPECS, many),
        out_specs=(SPECS, _state_specs(tx, mesh)),
        check_vma=check_vma,
    )
    got, wanted = jax.jit(lambda p, g: (sharded(p, g), _train(tx)(p, g)))(PARAMS, GRADS)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert x.dtype == y.dtype
        scale = max(1.0, float(np.max(np.abs(y), initial=0.0)))
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6 * scale, err_msg=jax.tree_util.keystr(path))


FEW = {"min_dim_size_to_factor": 4}
TRANSFORMS = {
    "clip": gx.clip_by_global_norm(0.5),
    "block": gx.clip_by_block_rms(0.5),
    "unitwise": gx.adaptive_grad_clip(0.01, axis=0),
    "lamb": gx.per_layer(gx.lamb(0.1), "stack"),
    "lars": gx.lars(1.0, 1e-3),
    "adafactor": gx.adafactor(0.1, **FEW),
    "layers": gx.per_layer(gx.adafactor(0.1, **FEW), "stack"),
    "torch": gx.adafactor(0.1, like="torch"),
    "vision": gx.adafactor(0.1, like="big_vision", min_dim_size_to_factor=4),
    "sizes": gx.chain(gx.scale_by_param_block_rms(), gx.scale_by_param_block_norm(), gx.scale(0.1)),
    "held": gx.project(
        gx.project(gx.sgd(0.1), "both", gx.max_norm(1.0, axis=0)), "rows", gx.unit_norm(axis=1)
    ),
    "cautious": gx.per_layer(gx.cautious(gx.adam(0.1)), "stack"),
    "guard": gx.guard(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), spike=3.0),
    "scaled": gx.loss_scale(gx.adam(0.1), initial=2.0),
    "probe": gx.probe(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1))),
}


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_shards_give_what_whole_arrays_give(name, check_vma):
    _check(TRANSFORMS[name], SPECS, check_vma)
