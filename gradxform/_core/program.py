"""Programs: what is done to one leaf, traced once for all leaves alike and, outside of `jit`, compiled once a shape.

A transformer has a hundred leaves of ten shapes. Each goes through the same rules, so it is enough to trace these once
a shape: the step around refers to the result a hundred times, and XLA puts it in place, with the same loops and
the same memory as if it had been written out. Without a step around, the same program is compiled and called, in the
place of a kernel for each operation.

A program belongs to a plan and to everything that is no array: the links that work on the leaf, dtypes, shapes, how the
leaf is cut, scalars that are numbers of Python. Not to the path, unless a rule asks for it; that is noticed while it is
traced.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .leaf import Nameless, Place
from .onleaf import Facts, OnLeaf, Task, Way
from .plan import Plan

#: How a leaf's pass is run: `execute(fn, args)`, for `fn(u, p, ks, stored) -> (u, new)`, a pure function of arrays.
#: `ks` and `stored` have one entry a link: a tuple of scalars, and the slots by field. For a tile of the leaf, which
#: only rules whose elements do not see each other allow, `fn` is told the number of its first element as `start`.
Execute = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


class Scalars(NamedTuple):
    """The scalars of a link: those that are arrays, apart from what is known before anything runs."""

    arrays: tuple[Any, ...]
    treedef: Any
    fixed: tuple[Any, ...]
    #: What tells the fixed ones apart; None if they cannot be told apart.
    key: Hashable

    def joined(self, arrays: Sequence[Any]) -> SimpleNamespace:
        """All scalars by name, with these arrays."""
        rest = iter(arrays)
        leaves = [next(rest) if x is _ARRAY else x for x in self.fixed]
        return SimpleNamespace(**self.treedef.unflatten(leaves))


_ARRAY = object()
#: Leaves of so few numbers are reduced together, if there are so many alike, and if that copies no more numbers than
#: this, or a 256th of the tree: one kernel in the place of several for each.
SMALL, _FEW, _COPIED = 4096, 4, 2**17


def scalars_of(k: Mapping[str, Any]) -> Scalars:
    """Sorts the scalars of a step."""
    leaves, treedef = jax.tree.flatten(dict(k))
    fixed = tuple(_ARRAY if isinstance(x, jax.Array) else x for x in leaves)
    arrays = tuple(x for x in leaves if isinstance(x, jax.Array))
    try:
        key = (treedef, tuple(map(_token, fixed)))
        hash(key)
    except TypeError:
        return Scalars(arrays, treedef, fixed, None)
    return Scalars(arrays, treedef, fixed, key)


def _token(x: Any) -> Hashable:
    """What is equal for numbers that are the same to the last bit, and of one type."""
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype, x.shape, x.tobytes()
    return type(x), x.hex() if isinstance(x, float) else x


class Job(NamedTuple):
    """A function of one leaf, as data: what leaves must agree in to share it, but for their scalars and dtypes."""

    kind: type[OnLeaf]
    #: The stages, as numbers of links and of their stages.
    entries: tuple[tuple[int, int], ...]
    #: What each of the links may know of the leaf.
    facts: tuple[Facts, ...]
    way: Way

    @property
    def numbers(self) -> tuple[int, ...]:
        """The links, each once."""
        return tuple(dict.fromkeys(number for number, _ in self.entries))

    def made(self, plan: Plan, place: str | Place) -> OnLeaf:
        """The function, for the leaf of a path or for any leaf at a place."""
        facts = dict(zip(self.numbers, self.facts, strict=True))
        tasks: list[Task] = []
        for number, i in self.entries:
            link, fact = plan.links[number], facts[number]
            path = place if isinstance(place, str) else place.path
            leaf, part = fact.leaf(path), fact.whole(path)
            if isinstance(place, Place):
                leaf, part = Nameless(place, leaf), None if part is None else Nameless(place, part)
            if link.rule is not None:
                tasks.append(Task(link, link.rule, number, i, leaf, fact.depth, part))
        return self.kind(tasks, self.way)


class Program:
    """One function of arrays; `place` tells it which leaf it is traced for."""

    __slots__ = ("call", "fn", "place")

    def __init__(self, work: OnLeaf, ks: Sequence[Scalars], place: Place) -> None:
        fixed = tuple(k._replace(arrays=()) for k in ks)  # what lives as long as a plan holds no traced value

        def fn(u: Any, p: Any, arrays: Any, stored: Any, start: Any = None) -> Any:
            ks = [k.joined(x) for k, x in zip(fixed, arrays, strict=True)]
            return work(u, p, ks, stored, start=start)

        fn.__name__ = fn.__qualname__ = _name(work)
        self.fn, self.call, self.place = fn, jax.jit(fn), place


def _name(work: OnLeaf) -> str:
    """The links that work on the leaf, for profiles."""
    links = dict.fromkeys(task.link.address.rpartition("/")[2] for task in work.tasks)
    return re.sub(r"\W", "_", "_".join((*links, type(work).__name__.lower())))


_BY_PATH = object()


Args = tuple[Any, Any, Any]


def key_of(job: Job, ks: Sequence[Scalars], args: Args) -> Hashable:
    """What leaves agree in that share a program."""
    u, p, _ = args
    return job, u.dtype, getattr(p, "dtype", None), tuple(k.key for k in ks)


def run_program(
    plan: Plan, job: Job, path: str, ks: Sequence[Scalars], args: Args, execute: Execute | None
) -> Any:
    """The result of a job on the update, the parameter and the slots of a leaf."""
    u, p, stored = args
    known, key = plan.programs, key_of(job, ks, args)
    program = known.get(key)
    if program is _BY_PATH:
        program = known.get((key, path))
    fresh = program is None
    if fresh:
        place = Place(path)
        program = Program(job.made(plan, place), ks, place)
    program.place.path = path
    given = u, p, tuple(k.arrays for k in ks), stored
    got = program.call(*given) if execute is None else execute(program.fn, given)
    if program.place.asked:
        known[key], known[key, path] = _BY_PATH, program
    elif fresh:
        known[key] = program
    return got


class _Stack:
    """A reduction of many small leaves alike: what it reads of them is stacked, and mapped over."""

    def __init__(self, work: OnLeaf, ks: Sequence[Scalars], place: Place, args: Args, combine: str) -> None:
        fn = Program(work, ks, place).fn
        u, p, stored = args
        example, self.treedef = jax.tree.flatten((u, p, tuple(k.arrays for k in ks), stored))
        jaxpr = jax.make_jaxpr(fn)(*self.treedef.unflatten(example)).jaxpr
        read = {id(x) for equation in jaxpr.eqns for x in equation.invars} | {id(x) for x in jaxpr.outvars}
        shared = {id(x) for k in ks for x in k.arrays}
        #: Of all arrays, which are stacked.
        self.many = [
            id(v) in read and id(x) not in shared for v, x in zip(jaxpr.invars, example, strict=True)
        ]
        over: Any = {"sum": jnp.sum, "max": jnp.max}[combine]

        def all_of(arrays: Sequence[Any]) -> Any:
            xs = [jnp.stack(x) if many else x for x, many in zip(arrays, self.many, strict=True)]
            axes = [0 if many else None for many in self.many]
            parts = jax.vmap(lambda *xs: fn(*self.treedef.unflatten(xs)), in_axes=axes)(*xs)
            return jax.tree.map(lambda x: over(x, axis=0), parts)

        all_of.__name__ = all_of.__qualname__ = _name(work)
        self.call = jax.jit(all_of)

    def __call__(self, ks: Sequence[Scalars], group: Sequence[Args]) -> Any:
        arrays = tuple(k.arrays for k in ks)
        columns = zip(*(jax.tree.leaves((u, p, arrays, stored)) for u, p, stored in group), strict=True)
        return self.call([c if many else c[0] for c, many in zip(columns, self.many, strict=True)])


def run_stacked(
    plan: Plan, job: Job, path: str, ks: Sequence[Scalars], group: Sequence[Args], combine: str
) -> Any:
    """What `run_program` gives for the leaves of a group, combined; None if they cannot be stacked."""
    leaves, treedef = jax.tree.flatten(group[0])
    key = ("stacked", key_of(job, ks, group[0]), treedef, tuple(x.dtype for x in leaves))
    known = plan.programs.get(key)
    if known is None:
        place = Place(path)
        try:
            known = _Stack(job.made(plan, place), ks, place, group[0], combine)
        except Exception:  # which the leaves will show one by one
            known = False
        known = plan.programs[key] = known if known and any(known.many) and not place.asked else False
    return known(ks, group) if known else None


def stacks(groups: Mapping[Any, list[int]], sizes: Sequence[int]) -> list[list[int]]:
    """The rows that are reduced together. A stack is a copy: all of them are a trifle beside the tree."""
    many = {key: rows for key, rows in groups.items() if len(rows) >= _FEW}
    copied = sum(sizes[row] for rows in many.values() for row in rows)
    if copied > max(_COPIED, sum(sizes) // 256):
        many = {}
    alone = [[row] for key, rows in groups.items() if key not in many for row in rows]
    return sorted([*many.values(), *alone])
