"""A transform inside `shard_map` whose leaves are shards, and which links are right there.

An element rule always is. A rule that sees more is, if its numbers over elements all go through `Leaf` or `reduce`, as
its author says with `sharded=True`. Somebody's functions are if no element sees another, as far as that is declared.
"""

from dataclasses import replace
from typing import Any

from . import shards
from .errors import say
from .foreign import link_reach, twins
from .plan import Body, Link, Lowering, Route
from .transform import GradientTransformation

CALL = "gx.sharding.reduce_over"
_LIFTS = {"leaf": "leafwise", "tree": "treewise"}


class OverBody(Body):
    """A transform whose leaves are cut inside `shard_map`; its links are in the passes in which they would be."""

    def __init__(self, inner: GradientTransformation, axis_names: Any) -> None:
        self.inner, self.axis_names = inner, shards.read(axis_names, f"{CALL}(axis_names)")
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


def check_takes_shards(link: Link, who: str) -> None:
    """Refuses a link that would take the numbers of one shard for those of the leaf."""
    if link.rule is not None and not link.rule.takes_shards:
        fact = f"{who}(tx): {link.address} sees whole leaves and does not say that it sums by `leaf` alone"
        raise ValueError(
            say(fact, f"if it does, build it with build.{_LIFTS[link.rule.reach]}(..., sharded=True)")
        )
    if link.foreign and link_reach(link) != "element":
        fact = f"{who}(tx): {link.address} is somebody's function that may sum over elements, and would see shards"
        ours = twins(getattr(link.whole, "update_fn", None))
        remedy = f"use {ours}" if ours else "run it under jit, outside of shard_map"
        raise ValueError(
            say(fact, f"{remedy}; if no element sees another, gx.build.declare(factory, reach='element')")
        )
