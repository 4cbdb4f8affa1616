"""Wrappers that decide whether, when, or with what numbers the transform inside of them runs.

Such a wrapper is one link of the plan around it. It sees a whole step: gradients in, updates out, and the inner state
as one value that it may put back. The transform inside is lowered where the wrapper stands (its address, its executor,
the declared stack axes), so reports and messages name its links as if the wrapper were not there. A wrapper of several
transforms, of which one runs at a time, keeps each of their states in a field; the field is a level of their addresses.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from . import door, observe
from .errors import say
from .numerics import cast
from .plan import Body, Lowering, Plan, Route
from .run import run
from .skip import no_updates
from .transform import GradientTransformation
from .tree import is_absent, is_float0, is_inexact


class NestedBody(Body):
    """A wrapper whose state holds the inner state in the field `inner_state`."""

    #: The wrapper's factory, for messages and as the last name of its address.
    call: str = ""
    #: How far the wrapper itself sees, without what is inside.
    reach: str = "element"
    #: Whether it may undo the step of what is inside: "" for never; "counts"; "learns" if it changes itself by such a
    #: step (a loss scale falls), so that nothing around it should undo that.
    skips: str = ""
    #: Whether it changes the updates of what is inside.
    alters: bool = False
    #: Whether it computes the state inside in a branch, or keeps the old one.
    branches: bool = False
    #: Whether its updates are differences that `apply_updates` shall complete to the last bit: they keep their dtype,
    #: float32 also for 16-bit parameters, and nothing may change them on the way.
    exact: bool = False

    def __init__(self, inner: GradientTransformation, state: type) -> None:
        self.inner, self.state = inner, state
        self.label = inner.label
        self.rate, self.uncoupled = inner.body.rate, inner.body.uncoupled
        self._check_offloaded(inner)
        if self.alters and (whole := exact_link(inner.plan)):
            fact = f"gx.{self.call}(tx): it changes the updates of {whole}, which {door.EXACT}"
            raise ValueError(say(fact, f"put gx.{self.call} inside"))

    def _check_offloaded(self, inner: GradientTransformation) -> None:
        if self.branches and any(link.offloaded for link in inner.plan.flat):
            fact = f"gx.{self.call}(tx): tx keeps state in the host's memory, which no branch of a step can carry"
            raise ValueError(say(fact, f"put gx.sharding.offload around gx.{self.call}, outermost"))

    # What a wrapper defines -------------------------------------------------------------------------------------

    def start(self, params: Any, inner_state: Any) -> Any:
        """The wrapper's state around a fresh inner state."""
        raise NotImplementedError

    def step(
        self, inner: "Inner", updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        """One step: `inner(updates, inner_state, params, extra)` runs the transform inside."""
        raise NotImplementedError

    @property
    def needs(self) -> tuple[str, ...]:
        """What the wrapper itself asks of `update`."""
        return ()

    @property
    def scalars(self) -> Mapping[str, Any]:
        """The wrapper's own hyperparameters by argument, for reports."""
        return {}

    # What the house asks of a body ------------------------------------------------------------------------------

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self.start(params, self.inner.body.init(params, stacked))

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inner = Inner(self.inner.body, route)
        whole = _Wrapper(self, partial(self.step, inner), {"inner_state": inner})
        return lowering.whole(whole, route, self._asked(whole), self.call, self.reach)

    def _asked(self, whole: "_Wrapper") -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.needs, *whole.plan.needs)))

    def split(self, state: Any, address: str) -> list[Any]:
        who = self.call if address.rpartition(".")[2] in ("", self.call) else f"{address}/{self.call}"
        return [door.check_state_class(self.state, state, who, door.WITHOUT)]

    def join(self, state: Any, parts: list[Any]) -> Any:
        del state
        return parts.pop(0)


def exact_link(plan: Plan) -> str:
    """The address of the first link whose updates keep their dtype; empty if there is none."""
    return next((link.address for link in plan.links if link.whole is not None and link.whole.exact), "")


class Inner:
    """The transform inside of a wrapper, ready to run where the wrapper stands."""

    def __init__(self, body: Body, route: Route) -> None:
        self.body, self.route = body, route
        self.address = "/".join(route.names)
        self._plan: Plan | None = None

    def axis_names(self, own: Any) -> Any:
        """How leaves are cut inside `shard_map`: what the wrapper itself has been told, else what is said around it."""
        return self.route.shards if own is None else own

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            self._plan = self.of(self.body)
        return self._plan

    def of(self, body: Body) -> Plan:
        """The plan of another body in the same place: the same transform with other numbers."""
        lowering = Lowering()
        around = self.route
        kept: Any = {"shards": around.shards, "execute": around.execute, "sorts": around.sorts}
        body.lower(lowering, Route(around.names, (), around.executor, around.stacked, **kept))
        return Plan(tuple(lowering.links), tuple(lowering.segments), body is self.body)

    def __call__(
        self,
        updates: Any,
        state: Any,
        params: Any,
        extra: Mapping[str, Any],
        body: Body | None = None,
        plan: Plan | None = None,
    ) -> tuple[Any, Any]:
        """One step of the transform inside, or of `body` in its place; `plan`, if it is lowered in another way."""
        if plan is None:
            plan = self.plan if body is None else self.of(body)
        observe.also(plan, self.plan)
        return run(body or self.body, updates, state, params, extra, self.address, plan)

    def none(self, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> Any:
        """Updates of zero, of the dtypes that a step of the transform inside would give."""
        if not exact_link(self.plan):
            return no_updates(updates, params)
        with observe.unwatched():
            like, _ = jax.eval_shape(lambda: self(updates, state, params, extra))
        return no_updates(updates, like)

    def suited(self, updates: Any, params: Any, like: Any) -> Any:
        """Updates computed in float32 as the transform inside expects them; `like` are those that came from outside.

        Our rules take float32 for any parameter. A few of Optax's (novograd, galore, mechanize) fail unless gradients
        and parameters agree, and so what is not made of rules gets the dtype of the parameter.
        """
        if not any(link.foreign for link in self.plan.flat):
            return updates

        def one(u: Any, x: Any) -> Any:
            fits = is_absent(u) or is_float0(u) or not is_inexact(u) or is_absent(x) or not is_inexact(x)
            return u if fits else cast(u, x.dtype)

        return jax.tree.map(one, updates, like if params is None else params, is_leaf=is_absent)


class ThroughBody(NestedBody):
    """A wrapper without a state of its own: its state is that of the transform inside, and so are saved states."""

    def __init__(self, inner: GradientTransformation) -> None:
        super().__init__(inner, tuple)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inner = Inner(self.inner.body, route)
        whole = _Through(self, partial(self.step, inner), {"": inner})
        return lowering.whole(whole, route, self._asked(whole), self.call, self.reach)

    def decided(self, params: Any) -> Body:
        """What stands inside for these parameters, where they decide it."""
        del params
        return self.inner.body

    def split(self, state: Any, address: str) -> list[Any]:
        del address
        return [state]


class EitherBody(NestedBody):
    """A wrapper of several transforms, by the field of the state that holds the state of each; one runs at a time."""

    branches = True

    def __init__(self, inners: Mapping[str, GradientTransformation], state: type) -> None:
        super().__init__(next(iter(inners.values())), state)
        self.inners, self.label = inners, ""
        for tx in inners.values():
            self._check_offloaded(tx)
        self.rate = max(tx.body.rate for tx in inners.values())
        self.uncoupled = any(tx.body.uncoupled for tx in inners.values())

    def start(self, params: Any, inner_state: Any) -> Any:
        """The wrapper's state around the fresh inner states, a dictionary by field."""
        raise NotImplementedError

    def run_one(
        self, inners: Mapping[str, "Inner"], updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        """One step, in the place of `step`."""
        raise NotImplementedError

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self.start(params, {name: tx.body.init(params, stacked) for name, tx in self.inners.items()})

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inners = {
            name: Inner(tx.body, replace(route, names=(*route.names, name)))
            for name, tx in self.inners.items()
        }
        whole = _Wrapper(self, partial(self.run_one, inners), inners)
        return lowering.whole(whole, route, self._asked(whole), self.call, self.reach)


class _Wrapper:
    """A wrapper as a link that sees the whole tree. `inners` are the transforms inside, by field of its state."""

    def __init__(self, body: Any, step: Any, inners: Mapping[str, Inner]) -> None:
        self.body, self.update, self.inners = body, step, inners

    @property
    def plan(self) -> Plan:
        plans = [inner.plan for inner in self.inners.values()]
        links = tuple(link for plan in plans for link in plan.links)
        return plans[0] if len(plans) == 1 else Plan(links, ())

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.inners)

    @property
    def skips(self) -> str:
        return self.body.skips

    @property
    def alters(self) -> bool:
        return self.body.alters

    @property
    def asks(self) -> tuple[str, ...]:
        return tuple(self.body.needs)

    @property
    def exact(self) -> bool:
        return self.body.exact or exact_link(self.plan) != ""

    def alternatives(self, state: Any, params: Any = None) -> list[tuple[Plan, list[Any]]]:
        """The plan of each transform inside, with the states of its links."""
        del params
        found: list[tuple[Plan, list[Any]]] = []
        for name, inner in self.inners.items():
            found.append((inner.plan, inner.body.split(getattr(state, name), inner.address)))
        return found

    def parts(self, state: Any) -> list[Any]:
        return [part for _, parts in self.alternatives(state) for part in parts]


class _Through(_Wrapper):
    """A wrapper whose state is that of the transform inside."""

    @property
    def fields(self) -> tuple[str, ...]:
        return ()

    def alternatives(self, state: Any, params: Any = None) -> list[tuple[Plan, list[Any]]]:
        (inner,) = self.inners.values()
        body = inner.body if params is None else self.body.decided(params)
        return [(inner.plan if body is inner.body else inner.of(body), body.split(state, inner.address))]
