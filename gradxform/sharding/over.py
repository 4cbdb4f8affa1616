"""`reduce_over`: a transform inside `shard_map`, on shards, with the numbers that it has on whole arrays."""

from typing import Any

from .._core.factory import factory
from .._core.over import CALL, OverBody, check_takes_shards
from .._core.spec import Example
from .._core.transform import as_transform, wrap


@factory(label="", sample={"tx": Example("scale_by_adam"), "axis_names": "data"})
def reduce_over(tx: Any, axis_names: Any):
    """A transform inside `shard_map`, on leaves that are shards: its numbers are those of the whole leaves.

    **Update**: that of `tx` on whole arrays, of which each device makes its shard. Every norm, mean or sum over
    elements or leaves is summed over the shards: clips, trust ratios, factored moments, a guard's norm, readings.

    Args:
        tx: any transform of ours; of others, what is declared to be of reach `element`.
        axis_names: how leaves are cut. A mesh axis or several: over those of them on which a leaf varies. A mapping
            from patterns on the path to axes, which also serves `check_vma=False`. Or, so that also sums over some
            dimensions are known (factored moments, norms of rows, stacks of `gx.per_layer`), `jax.P(...)`: in a mapping
            from patterns, or a tree like the parameters, such as `in_specs` has them. What a link or a wrapper inside
            has in its own `axis_names=` goes before. `()` says that each device holds whole arrays.

    State: that of `tx`; inside `shard_map`, of the shards. Its specs are those of `gx.sharding.state_shardings`.
    A state of `gx.lowbit.quantized` notes sizes of the whole arrays: make it outside, by `gx.sharding.init_sharded`.

    Reach: that of `tx`. Outside of `shard_map` arrays are whole, and it is `tx`.

    Raises:
        ValueError: when built, for what sees whole leaves and cannot be told of shards, naming the link.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.sharding.reduce_over(gx.clip_by_global_norm(1.0), "data")
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> clip = lambda grads: tx.update(grads, tx.init(grads))[0]
        >>> clip = jax.shard_map(clip, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
        >>> [round(float(u), 6) for u in clip(jnp.array([3.0, 4.0]))]
        [0.6, 0.8]

    Differs from Optax: it has none; its clip inside `shard_map` sees the norm of one shard.
    """
    inner = as_transform(tx, f"{CALL}(tx)")
    body = OverBody(inner, axis_names)
    if body.axis_names != ():
        for link in inner.plan.flat:
            check_takes_shards(link, CALL)
    return wrap(body)
