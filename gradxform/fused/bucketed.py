"""`bucketed`: a transform over buckets."""

from dataclasses import replace
from typing import Any

from .._core.factory import factory
from .._core.joined import STACKS, check_joined
from .._core.plan import Body, Lowering, Route
from .._core.spec import Example
from .._core.transform import GradientTransformation, as_transform, wrap
from .buckets import check_plan

_WHO = "gx.fused.bucketed"


class BucketedBody(Body):
    """The transform, told that stacks are there; the engine takes buckets as the leaves that they are."""

    def __init__(self, inner: GradientTransformation) -> None:
        self.inner, self.label = inner, inner.label
        self.rate, self.uncoupled = inner.body.rate, inner.body.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        check_joined(params)
        return self.inner.body.init(params, (*stacked, STACKS))

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inside = replace(route, stacked=(*route.stacked, STACKS))
        return route.after(self.inner.body.lower(lowering, inside))

    def split(self, state: Any, address: str) -> list[Any]:
        return self.inner.body.split(state, address)

    def join(self, state: Any, parts: list[Any]) -> Any:
        return self.inner.body.join(state, parts)


@factory(label="", sample={"tx": Example("scale_by_adam")})
def bucketed(tx: Any):
    """A transform whose parameters, gradients and state are a few long arrays, in the place of a tree of small ones.

    For models of hundreds of arrays of some thousand numbers each, where a step is mostly the start of its loops and
    XLA takes seconds or minutes to compile it. For arrays of millions there is nothing to win.

    **Update**: that of `tx`. What looks at whole leaves (trust ratios, factored moments, clips by block) is mapped
    over stacks of leaves of one shape.

    Args:
        tx: any transform of ours; of Optax's, those that are known to work element by element, without masks of
            their own (`gx.build.declare` says it of others). Parameters, gradients and state are buckets
            (`gx.fused.pack`) that were made for this transform.

    State: that of `tx`, of the same classes and fields; a field that is like the parameters is a `gx.fused.Buckets`.
    `gx.fused.unpack(state)` is the state of `tx`, and `gx.fused.pack(state, like)` the way back.

    Reach: that of `tx`.

    Raises:
        ValueError: when it is built, for a link that cannot work on buckets; at `update`, for buckets that were made
            for another transform.
        TypeError: for a tree that is not packed.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.fused.bucketed(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3, mask=gx.matrices())))
        >>> params = gx.fused.pack({"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}, tx)
        >>> state = tx.init(params)
        >>> def loss(params):
        ...     tree = params.unpack()
        ...     return jnp.sum((tree["w"] @ jnp.ones(2) + tree["b"]) ** 2)
        >>> updates, state = tx.update(jax.grad(loss)(params), state, params)
        >>> params = gx.apply_updates(params, updates)
        >>> params.unpack()["w"].shape
        (3, 2)

    Differs from Optax: `optax.flatten` joins all leaves anew at every step and its transform sees no tree at all, so
    that masks, groups and leaves that are looked at as a whole are lost; it costs more than it saves.
    """
    inner = as_transform(tx, f"{_WHO}(tx)")
    body = BucketedBody(inner)
    check_plan(wrap(body).plan, f"{_WHO}(tx)")
    return wrap(body)
