"""`reduce_over`: a transform inside `shard_map`, on shards, with the numbers that it has on whole arrays."""

from dataclasses import replace
from typing import Any

from .._core import shards
from .._core.errors import say
from .._core.factory import factory
from .._core.foreign import link_reach, twins
from .._core.plan import Body, Link, Lowering, Route
from .._core.spec import Example
from .._core.transform import GradientTransformation, as_transform, wrap

_CALL = "gx.sharding.reduce_over"


class OverBody(Body):
    """A transform whose leaves are cut inside `shard_map`; its links are in the passes in which they would be."""

    def __init__(self, inner: GradientTransformation, axis_names: Any) -> None:
        self.inner, self.axis_names = inner, shards.read(axis_names, f"{_CALL}(axis_names)")
        self.label, self.rate, self.uncoupled = inner.label, inner.body.rate, inner.body.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        with shards.made_of(self.axis_names):
            return self.inner.body.init(params, stacked)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        return route.after(self.inner.body.lower(lowering, replace(route, shards=self.axis_names)))

    def split(self, state: Any, address: str) -> list[Any]:
        return self.inner.body.split(state, address)

    def join(self, state: Any, parts: list[Any]) -> Any:
        return self.inner.body.join(state, parts)


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
            has in its own `axis_names=` goes before. `()` says that each device holds whole arrays, as under `pmap`
            once gradients are averaged.

    State: that of `tx`; inside `shard_map`, of the shards. Its specs are those of `gx.sharding.state_shardings`.

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
    inner = as_transform(tx, f"{_CALL}(tx)")
    body = OverBody(inner, axis_names)
    if body.axis_names != ():
        for link in inner.plan.flat:
            _check(link)
    return wrap(body)


def _check(link: Link) -> None:
    """Refuses what would take the numbers of one shard for those of the leaf."""
    if link.rule is not None and not link.rule.takes_shards:
        fact = f"{_CALL}(tx): {link.address} sees whole leaves and does not say that it sums by `leaf` alone"
        raise ValueError(
            say(fact, f"if it does, build it with build.{_LIFTS[link.rule.reach]}(..., sharded=True)")
        )
    if link.foreign and link_reach(link) != "element":
        fact = f"{_CALL}(tx): {link.address} is somebody's function that may sum over elements, and would see shards"
        ours = twins(getattr(link.whole, "update_fn", None))
        remedy = f"use {ours}" if ours else "run it under jit, outside of shard_map"
        raise ValueError(
            say(fact, f"{remedy}; if no element sees another, gx.build.declare(factory, reach='element')")
        )


_LIFTS = {"leaf": "leafwise", "tree": "treewise"}
