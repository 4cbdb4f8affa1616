"""What can be seen while a step runs: what goes into each link, what comes out of it, how it lies to its momentum.

A probe opens an `Observer` around the transform inside of it. Every run of a plan that the observer knows then hands it
each leaf before and after each stage, within the pass that works the leaf anyway. Where no observer is open, a run
finds none, and the program has not one equation more.

Readings are numbers of one trace. What runs in another (the body of a `lax.cond` that somebody wrote, a jitted
function) is not measured, since its numbers could not leave it; `run_if` carries them out of its branches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import compat, roles
from .foreign import bounds, link_reach
from .numerics import abs_sq, compute_dtype, quotient, root, widen
from .plan import Link, Plan
from .reduce import axes_of, reduce_leaves
from .roles import roles_of
from .rule import Rule
from .shards import ByPath, read
from .states import nodes
from .tree import View, is_absent, is_float0, is_inexact, spread

_OPEN: ContextVar[tuple["Observer", ...]] = ContextVar("open_observers", default=())

#: The readings of a link, behind its name.
NORM_IN, NORM_OUT, CLIPPED, COSINE, RATE = "norm_in", "norm_out", "clipped", "cosine", "learning_rate"


class Sums:
    """Numbers of leaves on their way to one number for the tree, by name."""

    def __init__(self, axis_names: Any, who: str) -> None:
        self.axis_names, self.who = read(axis_names, who), who
        self._found: dict[tuple[str, ...], dict[str, tuple[Any, ...]]] = {}

    def add(self, key: str, path: str, leaf: Any, *numbers: Any) -> None:
        # A name asks what varies: the numbers may do so where the leaf does not. What is said by path is of the leaf.
        like = leaf if isinstance(self.axis_names, ByPath) else sum(numbers[1:], numbers[0])
        part = self._found.setdefault(axes_of(path, like, self.axis_names, self.who), {})
        known = part.get(key)
        part[key] = numbers if known is None else tuple(map(jnp.add, known, numbers))

    def totals(self) -> dict[str, tuple[Any, ...]]:
        """The sums over all leaves and all shards: one collective for each set of axes."""
        total: dict[str, tuple[Any, ...]] = {}
        for axes, part in self._found.items():
            for key, numbers in reduce_leaves([part], [axes], "sum").items():
                known = total.get(key)
                total[key] = numbers if known is None else tuple(map(jnp.add, known, numbers))
        return total


def number(x: Any) -> bool:
    """Whether something is to be measured: an array of floating or complex numbers."""
    return not is_absent(x) and not is_float0(x) and is_inexact(x)


def square(x: Any, dtype: Any) -> Any:
    """The sum of squares of an array, as `dtype`."""
    x = jnp.asarray(x)
    return jnp.sum(abs_sq(widen(x, compute_dtype(x.dtype)))).astype(dtype)


def count(flags: Any, dtype: Any) -> Any:
    """How many flags are set. Counted in integers: a sum of ones in float32 stands still at 2^24."""
    return jnp.sum(flags, dtype=jnp.int32).astype(dtype)


def cosine(dot: Any, one: Any, other: Any) -> Any:
    """The cosine of two vectors by their product and squares; 0 where one of them is 0."""
    x = quotient(dot, root(one) * root(other))
    return jnp.clip(x, np.asarray(-1, x.dtype), np.asarray(1, x.dtype))


# ------------------------------------------------------------------------------------------------ names


def named(plan: Plan) -> list[str]:
    """The names of all links of a plan: their addresses, a second one of a name with a number."""
    taken: dict[str, int] = {}

    def name(address: str) -> str:
        taken[address] = taken.get(address, -1) + 1
        return f"{address}_{taken[address]}" if taken[address] else address

    return [name(link.address) for link in plan.flat]


def _moment(rule: Rule) -> str | None:
    """The field of a rule's state that holds its momentum."""
    return next((name for name, role in rule.roles.items() if role is roles.MOMENT), None)


def _moments(state: Any) -> Any:
    """The momentum somewhere in a state that somebody else's transform keeps, or None."""
    for _, node in nodes(state):
        for name, role in roles_of(type(node)).items():
            if role is roles.MOMENT:
                return getattr(node, name)
    return None


def _rate(rule: Rule) -> str | None:
    """The scalar of a rule that is the learning rate."""
    asked = rule.arguments
    return next((n for n in rule.scalars if rule.rate and asked.get(n, n) == "learning_rate"), None)


def readings_of(link: Link, state: Any) -> list[str]:
    """What can be read of a link. A wrapper has no readings of its own: the links inside of it have."""
    if link.inside is not None:
        return []
    if link.rule is None:
        found = [NORM_IN, NORM_OUT]
        found += [COSINE] if _moments(state) is not None else []
        return [*found, CLIPPED] if bounds(link) else found
    found = [NORM_IN, NORM_OUT] if any(stage.step for stage in link.rule.stages) else []
    found += [CLIPPED] if bounds(link) else []
    found += [COSINE] if _moment(link.rule) else []
    return [*found, RATE] if _rate(link.rule) else found


# ------------------------------------------------------------------------------------------------ one probe


class Observer:
    """The readings of one step, by name: those of the step before until a link has been measured.

    Args:
        readings: the names that are wanted, with their numbers so far.
        plan: the plan that will run.
        names: of its links, as `named` gives them.
        axis_names: as for `clip_by_global_norm`.
    """

    def __init__(
        self, readings: Mapping[str, Any], plan: Plan, names: Sequence[str], axis_names: Any, who: str
    ) -> None:
        self.readings = dict(readings)
        self.axis_names, self.who = axis_names, who
        self._names = {id(link): (link, name) for link, name in zip(plan.flat, names, strict=True)}
        self._trace = compat.trace_now()

    @contextmanager
    def open(self) -> Generator[None]:
        """From here on this observer sees what runs."""
        token = _OPEN.set((*_OPEN.get(), self))
        try:
            yield
        finally:
            _OPEN.reset(token)

    @property
    def here(self) -> bool:
        """Whether what is traced now is what the observer sees."""
        return bool(compat.trace_now() == self._trace)

    def names(self, plan: Plan) -> list[str] | None:
        """The names of the links of a plan, if the plan is known and runs in the trace of the probe."""
        names = [self._names[id(link)][1] if id(link) in self._names else "" for link in plan.links]
        return names if any(names) and self.here else None

    def also(self, other: Plan, plan: Plan) -> None:
        """Makes a plan known that runs in the place of another: links of the same address have the same name."""
        names = {link.address: self._names[id(link)][1] for link in plan.flat if id(link) in self._names}
        for link in other.flat:
            if link.address in names:
                self._names[id(link)] = (link, names[link.address])

    def branch(self, make: Callable[[], Any]) -> Any:
        """What `make()` gives in a trace of its own, and the readings after it."""
        outer = self.readings, self._trace
        self.readings, self._trace = dict(self.readings), compat.trace_now()
        try:
            return make(), self.readings
        finally:
            self.readings, self._trace = outer


def watching() -> int:
    """How many observers are open."""
    return len(_OPEN.get())


@contextmanager
def unwatched() -> Generator[None]:
    """What runs in here has been seen already: it is computed again, and no observer is asked."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)


def also(other: Plan, plan: Plan) -> None:
    """Tells open observers that `other` runs in the place of `plan`."""
    if other is not plan:
        for observer in _OPEN.get():
            observer.also(other, plan)


def carried(choose: Callable[..., Any], *branches: Callable[[], Any]) -> Any:
    """`choose(*branches)`, a choice of JAX between functions, with the readings of the branch that ran."""
    observers = tuple(observer for observer in _OPEN.get() if observer.here)
    if not observers:
        return choose(*branches)

    def watched(make: Callable[[], Any], rest: Sequence[Observer]) -> Any:
        if not rest:
            return make()
        return rest[0].branch(lambda: watched(make, rest[1:]))

    got = choose(*(lambda make=make: watched(make, observers) for make in branches))
    for observer in observers:
        got, observer.readings = got
    return got


# ------------------------------------------------------------------------------------------------ one run


def watches(plan: Plan, rows: View, dtype: Any) -> list["Watch"]:
    """One for every open observer that knows the plan."""
    found: list[Watch] = []
    for observer in _OPEN.get():
        names = observer.names(plan)
        if names is not None:
            found.append(Watch(observer, plan, names, rows, dtype))
    return found


class Watch:
    """One run of a plan, as one observer sees it; `dtype` is that of the step's scalars."""

    def __init__(self, observer: Observer, plan: Plan, names: list[str], rows: View, dtype: Any) -> None:
        self.observer, self.plan, self.names, self.rows, self.dtype = observer, plan, names, rows, dtype
        self.sums = Sums(observer.axis_names, observer.who)
        self._squares: dict[int, tuple[Any, Any]] = {}
        self._pointed: set[int] = set()

    def stage(self, link: int, i: int, row: int, before: Any, after: Any, slots: Any) -> None:
        """One leaf has gone through one stage of a link's rule."""
        rule = self.plan.links[link].rule
        if rule is None:
            return
        steps = [j for j, stage in enumerate(rule.stages) if stage.step is not None]
        moment = _moment(rule)
        if i == steps[0]:
            self._norm(link, NORM_IN, row, before)
            if moment is not None:
                self._cosine(link, row, before, getattr(slots, moment))
        if i == steps[-1]:
            self._norm(link, NORM_OUT, row, after)
            self._clipped(link, row, before, after)

    def whole(
        self, link: int, before: Sequence[Any], after: Sequence[Any], take: Sequence[bool], state: Any
    ) -> None:
        """The whole tree has gone through a link that is not a rule; `state` is what it had before."""
        if self.plan.links[link].inside is not None:
            return
        moments = self._rows_of(_moments(state)) if self._wanted(link, COSINE) else None
        for row, taken in enumerate(take):
            if not taken:
                continue
            self._norm(link, NORM_IN, row, before[row])
            self._norm(link, NORM_OUT, row, after[row])
            self._clipped(link, row, before[row], after[row])
            if moments is not None:
                self._cosine(link, row, before[row], moments[row])

    def _rows_of(self, tree: Any) -> Sequence[Any] | None:
        try:
            return spread(tree, self.rows)
        except (ValueError, TypeError):
            return None

    def _wanted(self, link: int, reading: str) -> bool:
        return f"{self.names[link]}/{reading}" in self.observer.readings

    def _add(self, key: str, row: int, *numbers: Any) -> None:
        self.sums.add(key, self.rows.paths[row], self.rows.places[row], *numbers)

    def _square(self, x: Any) -> Any:
        """What one link gives is what the next one takes: its square is formed once."""
        known = self._squares.get(id(x))
        if known is None:
            known = self._squares[id(x)] = (x, square(x, self.dtype))
        return known[1]

    def _norm(self, link: int, reading: str, row: int, x: Any) -> None:
        if self._wanted(link, reading) and number(x):
            self._add(f"{self.names[link]}/{reading}", row, self._square(x))

    def _clipped(self, link: int, row: int, before: Any, after: Any) -> None:
        if self._wanted(link, CLIPPED) and number(before):
            before, after = jnp.asarray(before), jnp.asarray(after)
            moved = count(before.astype(after.dtype) != after, self.dtype)
            total = jnp.full_like(moved, before.size)
            self._add(f"{self.names[link]}/{CLIPPED}", row, moved, total)

    def _cosine(self, link: int, row: int, g: Any, m: Any) -> None:
        """With the momentum as it was before this gradient went into it."""
        first = COSINE in self.observer.readings and row not in self._pointed
        if not number(g) or not number(m) or not (first or self._wanted(link, COSINE)):
            return
        g, m = jnp.asarray(g), jnp.asarray(m)
        dtype = compute_dtype(g.dtype, m.dtype)
        both = g.astype(dtype) * jnp.conj(m.astype(dtype))
        dot = jnp.sum(jnp.real(both)).astype(self.dtype)
        numbers = (dot, self._square(g), self._square(m))
        if self._wanted(link, COSINE):
            self._add(f"{self.names[link]}/{COSINE}", row, *numbers)
        if first:
            self._pointed.add(row)
            self._add(COSINE, row, *numbers)

    def close(self, scalars: Sequence[Mapping[str, Any] | None]) -> None:
        """The run is over; `scalars` are those of each link's rule at this step."""
        new: dict[str, Any] = {}
        tree = {
            f"{n}/{CLIPPED}"
            for n, x in zip(self.names, self.plan.links, strict=True)
            if link_reach(x) == "tree"
        }
        for key, numbers in self.sums.totals().items():
            new[key] = _finished(key, numbers, key in tree)
        for name, link, k in zip(self.names, self.plan.links, scalars, strict=True):
            rate = None if link.rule is None or k is None else _rate(link.rule)
            if rate is not None and k is not None:
                new[RATE] = new[f"{name}/{RATE}"] = k[rate]
        self.observer.readings.update(
            {key: reading(x) for key, x in new.items() if key in self.observer.readings}
        )


def _finished(key: str, numbers: tuple[Any, ...], tree: bool) -> Any:
    kind = key.rsplit("/", 1)[-1]
    if kind == COSINE:
        return cosine(*numbers)
    if kind != CLIPPED:
        return root(numbers[0])
    # One factor for the whole tree, so all of it or nothing; a factor leaves the zeros among the elements as they are.
    return (numbers[0] > 0).astype(numbers[0].dtype) if tree else quotient(*numbers)


def reading(x: Any) -> Any:
    """A number as a reading is kept: float32, of no weak type."""
    return compat.strong(jnp.asarray(x), jnp.float32)
