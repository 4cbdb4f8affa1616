"""What will run, decided when a transform is built: links with addresses, and the passes that carry them.

A body is what stands behind a transform: one rule, a chain, a mask, groups, somebody else's functions. Lowering a body
flattens whatever is nested into *links*, each with its address, and sorts their stages into *segments*. Within a
segment every leaf is read once and goes through all its stages; a new segment starts only where a reduction needs
something that does not exist before the leaves have been worked: the input of a `reduce` that stands behind another
step, or the whole tree for a transform that is not made of rules.

    chain(clip_by_global_norm(1.0), scale_by_adam(), scale_by_learning_rate(1e-3))     one segment
    chain(scale(10.0), clip_by_global_norm(1.0), ...)                                  two: the clip needs 10 g, not g
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import jax

from .joined import STACKS, Joined, check_joined
from .leaf import Leaf
from .numerics import cast
from .rule import Rule
from .scalars import is_others
from .tree import is_absent


class Executor:
    """How the slots of a leaf are stored: as arrays. Low-bit and ZeRO put their own in its place.

    The slots of one leaf come together, by field, so that one may be stored in terms of another.
    """

    def decode(self, stored: Mapping[str, Any], dtypes: Mapping[str, Any]) -> dict[str, Any]:
        """The stored forms as arrays in the compute dtypes."""
        return {name: cast(x, dtypes[name]) for name, x in stored.items()}

    def encode(
        self, new: Mapping[str, Any], stored: Mapping[str, Any], part: Leaf | None = None
    ) -> dict[str, Any]:
        """The stored forms of those slots that are new; `stored` are the old ones, all of them.

        `part` is what is known of a leaf that is a shard inside `shard_map`, its stack axes included.
        """
        del part
        return {name: kept(x, stored[name]) for name, x in new.items()}

    def stepped(
        self,
        step: Callable[..., tuple[Any, dict[str, Any]]],
        args: tuple[Any, ...],
        stored: Mapping[str, Any],
        part: Leaf | None = None,
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """`step(*args)` on a leaf: the update, the new slots, and of these in stored form what was stored on the way.

        An executor may store a slot where it is made, so that the update is made of what is stored, see `through`.
        """
        del stored, part
        return *step(*args), {}

    def enclosed(
        self, work: Any, u: Any, stored: dict[str, Any], last: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        """`work(u, stored)`, the step of one leaf from stored slots to stored slots, and what the next leaf waits for.

        An executor may set it apart, and let it wait for `last`, which the leaf before has given.
        """
        return *work(u, stored), last

    def encloses(self, u: Any, stored: Mapping[str, Any]) -> bool:
        """Whether `enclosed` sets this leaf apart."""
        del u, stored
        return False

    def cuttable(self, part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
        """Whether a part of this shape of an array can be stored by itself, as it is stored in the whole."""
        del part, whole
        return True

    def form(self, stored: Any) -> Any:
        """What has the shape and the dtype of the array that is stored; None if that is within another slot."""
        return stored

    def opened(self, state: Any) -> Any:
        """The state of somebody's pair of functions, with arrays in the place of what is stored."""
        return state

    def closed(self, new: Any, old: Any) -> Any:
        """The inverse of `opened`; `old` is what is stored now."""
        del old
        return new


def kept(new: Any, old: Any) -> Any:
    """A new value with the dtype of the old one, saturating; strong, though a slot that is its gradient may be weak."""
    if new.dtype == old.dtype:
        return jax.lax.convert_element_type(new, old.dtype) if getattr(new, "weak_type", False) else new
    return cast(new, old.dtype)


PLAIN = Executor()


class Selector(Protocol):
    """Which leaves a link works on."""

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[bool]: ...

    def hide(self, tree: Any, paths: Sequence[str], places: Sequence[Any], target: Any) -> Any:
        """`target` with `MaskedNode` wherever it does not work; the other arguments are those of `select`."""
        ...


class Whole(Protocol):
    """A transform that is not made of rules: it sees the whole tree at once."""

    @property
    def plan(self) -> "Plan | None":
        """The plan of what is inside, if it is a wrapper; None for somebody's pair of functions."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the wrapper's state that hold the states of what is inside."""
        ...

    @property
    def skips(self) -> str:
        """Whether it is a wrapper that may undo the step of what is inside, see `NestedBody`."""
        ...

    @property
    def asks(self) -> tuple[str, ...]:
        """What a wrapper itself asks of `update`, without what is inside."""
        ...

    @property
    def alters(self) -> bool:
        """Whether it is a wrapper that changes the updates of what is inside."""
        ...

    @property
    def exact(self) -> bool:
        """Whether its updates, or those of something inside, are made for one sum, see `NestedBody`."""
        ...

    def update(self, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> tuple[Any, Any]: ...

    def parts(self, state: Any) -> list[Any]:
        """The states of the links of `plan`."""
        ...

    def alternatives(self, state: Any, params: Any = None) -> "list[tuple[Plan, list[Any]]]":
        """The transforms inside, of which one runs at a step: their plans and the states of their links.

        `params`, where they are known: what is inside may depend on them.
        """
        ...


@dataclass(frozen=True, eq=False)
class Route:
    """Where lowering stands: the names above, the masks and the executor around, the segment reached so far.

    `shards` is what a wrapper around knows of how leaves are cut inside `shard_map`, in the forms of `shards.py`.
    """

    names: tuple[str, ...] = ()
    selectors: tuple[Selector, ...] = ()
    executor: Executor = PLAIN
    stacked: tuple[Any, ...] = ()
    mask_extra: bool = False
    #: Whether some of the state is kept in the host's memory between steps.
    offloaded: bool = False
    shards: Any = None
    #: How a leaf's pass is run, if not as it is by default, see `program.py`.
    execute: Any = None
    #: What executors around ask of a path and a leaf: leaves with other answers are not kept in one array.
    sorts: tuple[Any, ...] = ()
    segment: int = 0
    worked: bool = False

    def after(self, other: "Route") -> "Route":
        """This surrounding with the position that `other` has reached."""
        return replace(self, segment=other.segment, worked=other.worked)


@dataclass(frozen=True, eq=False)
class Link:
    """One step of the flattened chain. Exactly one of `rule` and `whole` is there."""

    address: str
    rule: Rule | None
    whole: Whole | None
    selectors: tuple[Selector, ...]
    executor: Executor
    stacked: tuple[Any, ...]
    mask_extra: bool
    needs: tuple[str, ...]
    reach: str = "tree"
    offloaded: bool = False
    shards: Any = None
    execute: Any = None
    sorts: tuple[Any, ...] = ()

    @property
    def axis_names(self) -> Any:
        """How its leaves are cut inside `shard_map`: what its rule says itself, else what is said around it."""
        own = None if self.rule is None else self.rule.axis_names
        return self.shards if own is None else own

    @property
    def inside(self) -> "Plan | None":
        """The plan that a wrapper runs as a whole, when it runs it."""
        return None if self.whole is None else self.whole.plan

    @property
    def foreign(self) -> bool:
        """Whether the link is a pair of functions, of which nothing is known."""
        return self.rule is None and self.inside is None


@dataclass(frozen=True, eq=False)
class Segment:
    """Stages that share one pass over the leaves, as `(link, stage)` numbers, and whole-tree links on other leaves."""

    stages: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    wholes: list[int] = field(default_factory=list[int])


def _asks_others(selector: Selector) -> bool:
    """Whether leaves are chosen by somebody's function."""
    known = vars(getattr(selector, "family", selector)).values()
    each = [y for x in known for y in (x if isinstance(x, tuple | list) else (x,))]
    return any(map(is_others, each))


@dataclass(frozen=True, eq=False)
class Plan:
    """The links and segments of a body. Static: it depends on the spec and on nothing that happens later."""

    links: tuple[Link, ...]
    segments: tuple[Segment, ...]
    #: Whether it is there for more than one step, so that it pays to compile something for it.
    lasting: bool = True
    #: What has been traced for its leaves, see `program.py`.
    programs: dict[Any, Any] = field(default_factory=dict[Any, Any], repr=False)

    @property
    def needs(self) -> dict[str, list[str]]:
        """What has to be passed to `update`, and which links ask for it."""
        found: dict[str, list[str]] = {}
        for link in self.links:
            for name in link.needs:
                found.setdefault(name, []).append(link.address)
        return found

    @cached_property
    def ruled(self) -> bool:
        """Whether all of its links are rules, run on devices as the engine does by default, that ask nobody's function.

        A schedule or a mask that is not ours may look at more than its arguments, so that it is called at every step.
        """
        return all(
            x.rule is not None
            and x.execute is None
            and not x.offloaded
            and not x.rule.asked_of_others
            and not any(map(_asks_others, x.selectors))
            for x in self.links
        )

    def again(self) -> bool:
        """Notes a step; whether it is not the first one. What is made for one step alone is not worth compiling."""
        steps = self.programs["steps"] = min(self.programs.get("steps", 0) + 1, 2)
        return steps > 1

    @property
    def flat(self) -> tuple[Link, ...]:
        """All links, those inside of wrappers behind the wrapper's own."""
        found: list[Link] = []
        for link in self.links:
            found.append(link)
            found.extend(link.inside.flat if link.inside is not None else ())
        return tuple(found)


class Lowering:
    """Collects links and segments while bodies are flattened."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.segments: list[Segment] = []
        self._names: dict[tuple[str, ...], dict[str, int]] = {}

    def enter(self, route: Route, label: str) -> Route:
        """The route below a link called `label`; a second one of that name becomes `label_1`. No label, no level."""
        if not label:
            return route
        known = self._names.setdefault(route.names, {})
        number = known.get(label, 0)
        known[label] = number + 1
        return replace(route, names=(*route.names, label if number == 0 else f"{label}_{number}"))

    def _segment(self, number: int) -> Segment:
        while len(self.segments) <= number:
            self.segments.append(Segment())
        return self.segments[number]

    def _link(
        self,
        address: str,
        route: Route,
        rule: Rule | None,
        whole: Whole | None,
        needs: tuple[str, ...],
        reach: str,
    ) -> int:
        around = (route.selectors, route.executor, route.stacked, route.mask_extra)
        known: dict[str, Any] = {"offloaded": route.offloaded, "shards": route.shards}
        known |= {"execute": route.execute, "sorts": route.sorts}
        self.links.append(Link(address, rule, whole, *around, needs, reach, **known))
        return len(self.links) - 1

    def rule(self, rule: Rule, route: Route) -> Route:
        address = "/".join(route.names) or rule.call
        number = self._link(address, route, rule, None, rule.needs, rule.reach)
        segment, worked = route.segment, route.worked
        for i, stage in enumerate(rule.stages):
            if stage.reduce is not None and (worked or i > 0):
                segment, worked = segment + 1, False
            self._segment(segment).stages.append((number, i))
            worked = worked or stage.step is not None
        return replace(route, segment=segment, worked=worked)

    def whole(
        self, whole: Whole, route: Route, needs: tuple[str, ...] = (), label: str = "", reach: str = "tree"
    ) -> Route:
        names = (*route.names, label) if label else route.names
        number = self._link("/".join(names) or "transform", route, None, whole, needs, reach)
        segment = route.segment + (1 if route.worked else 0)
        self._segment(segment).wholes.append(number)
        return replace(route, segment=segment + 1, worked=False)


class Body:
    """What stands behind a transform. States are nested as bodies are; `split` and `join` flatten and nest them."""

    #: How often a learning rate is applied on the way through.
    rate: int = 0
    #: Whether it holds a decay that is independent of the learning rate and so has to stand behind it.
    uncoupled: bool = False
    #: The name of a link made of this body when its factory gives none.
    label: str = ""

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        raise NotImplementedError

    def lower(self, lowering: Lowering, route: Route) -> Route:
        raise NotImplementedError

    def split(self, state: Any, address: str) -> list[Any]:
        raise NotImplementedError

    def join(self, state: Any, parts: list[Any]) -> Any:
        raise NotImplementedError

    @property
    def plan(self) -> Plan:
        found = self.__dict__.get("_plan")
        if found is None:
            lowering = Lowering()
            self.lower(lowering, Route())
            found = self.__dict__["_plan"] = Plan(tuple(lowering.links), tuple(lowering.segments))
        return found


def selected(
    link: Link, tree: Any, paths: Sequence[str], places: Sequence[Any], cache: dict[Any, Any]
) -> list[bool]:
    """Which places a link works on: all of its selectors agree, and there is an array."""
    chosen = [not is_absent(place) for place in places]
    for selector in link.selectors:
        family = getattr(
            selector, "family", selector
        )  # the selectors of one set of groups share their answer
        answer = cache.get(id(family))
        if answer is None:
            answer = cache[id(family)] = family.select(tree, paths, places)
        if family is not selector:
            answer = [number == selector.index for number in answer]  # type: ignore[attr-defined]
        chosen = [a and b for a, b in zip(chosen, answer, strict=True)]
    if isinstance(tree, Joined):
        tree.check(link, chosen)
    elif STACKS in link.stacked:
        check_joined(tree)
    return chosen
