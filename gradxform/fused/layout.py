"""Where each leaf of a tree is in buckets: decided once, from paths, shapes, dtypes and the transform that runs.

Leaves share a bucket if every link of the transform takes all of them or none, and their dtypes are the same. In a
*flat* bucket they stand one behind the other in one row. In a *stack*, leaves of one shape lie on each other, so that
what looks at a whole leaf is mapped over the first axis; leaves that such a link takes are stacked, others are not, for
a row holds any shapes and a model has fewer dtypes than shapes.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import jax
import numpy as np

from .._core import compat, placement
from .._core.errors import describe_array, leaf as place, say
from .._core.foreign import hides, link_reach, makers, twins
from .._core.joined import FLAT, STACKS, Original
from .._core.numerics import canonical
from .._core.plan import Link, Plan, selected
from .._core.specs import names_at
from .._core.tree import View, is_absent, is_inexact, spread, view

#: Leaves whose sizes are multiples of it stand first, so that no block of a low-bit state lies on two of them.
_BLOCK = 256


@dataclass(frozen=True)
class Bucket:
    """One array: its leaves, by their numbers among the places of the tree, in order."""

    name: str
    dtype: str
    stacked: bool
    members: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each leaf has."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return (len(self.members), *self.shapes[0]) if self.stacked else (sum(self.sizes),)


class Layout:
    """What is static of `Buckets`: hashable, equal where the same leaves are in the same places.

    `buckets` come first among the children of the node, then, by number, the leaves of the tree that are carried.
    """

    def __init__(self, original: Original, buckets: tuple[Bucket, ...], carried: tuple[int, ...]) -> None:
        self.original, self.buckets, self.carried = original, buckets, carried
        self._key: Hashable = (original.treedef, _text(original.shapes), original.homes, buckets)
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Layout) and self._hash == other._hash and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Layout({', '.join(bucket.name for bucket in self.buckets)})"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the children, buckets first."""
        paths = self.original.paths
        return (*(bucket.name for bucket in self.buckets), *(paths[i] for i in self.carried))


def _text(shapes: Sequence[Any]) -> tuple[str, ...]:
    return tuple(type(x).__name__ if is_absent(x) else describe_array(x) for x in shapes)


def layout_of(tree: Any, plan: Plan, stack: bool, who: str) -> Layout:
    """The buckets for a tree of parameters and what a plan does with its leaves."""
    rows = view(tree)
    takes: list[list[Hashable]] = [[] for _ in rows.places]
    whole = [stack] * len(rows.places)
    _read(plan, rows, tree, takes, whole)
    groups: dict[Hashable, list[int]] = {}
    carried: list[int] = []
    for i, (path, x) in enumerate(zip(rows.paths, rows.places, strict=True)):
        if is_absent(x):
            continue
        if not hasattr(x, "dtype") or not is_inexact(x):
            carried.append(i)
            continue
        check_whole(path, x, who)
        shape = tuple(x.shape) if whole[i] else ()
        key = (
            str(canonical(x.dtype)),
            whole[i],
            shape,
            tuple(takes[i]),
            tuple(sorted(compat.varying_axes(x))),
        )
        groups.setdefault(key, []).append(i)
    buckets = tuple(_bucket(key, members, rows) for key, members in groups.items())
    homes = [-1] * len(rows.places)
    for number, bucket in enumerate(buckets):
        for i in bucket.members:
            homes[i] = number
    for number, i in enumerate(carried):
        homes[i] = len(buckets) + number
    shapes = tuple(x if is_absent(x) else _shape(x) for x in rows.places)
    return Layout(Original(rows.treedef, shapes, tuple(homes)), buckets, tuple(carried))


def _shape(x: Any) -> Any:
    x = x if hasattr(x, "dtype") else np.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, canonical(x.dtype))


def _bucket(key: Any, members: list[int], rows: View) -> Bucket:
    dtype, stacked = key[:2]
    if not stacked:
        members = sorted(members, key=lambda i: rows.places[i].size % _BLOCK != 0)
    shapes = tuple(tuple(rows.places[i].shape) for i in members)
    # The name tells the contents, so that a file is not read into buckets of other leaves or of another order.
    told = repr([(rows.paths[i], shape) for i, shape in zip(members, shapes, strict=True)])
    digest = blake2b(told.encode(), digest_size=4).hexdigest()
    return Bucket(f"{'stack_' if stacked else FLAT}{dtype}_{digest}", dtype, stacked, tuple(members), shapes)


def _read(plan: Plan, rows: View, tree: Any, takes: list[list[Hashable]], whole: list[bool]) -> None:
    """Adds to `takes` which leaves each link works on and how they are stored; marks those that one sees as a whole."""
    places, cache = spread(tree, rows), dict[Any, Any]()
    for link in plan.links:
        for i, take in enumerate(selected(replace(link, stacked=()), tree, rows.paths, places, cache)):
            sorts = tuple(sort(rows.paths[i], places[i]) for sort in link.sorts) if take else ()
            takes[i].append((take, sorts))
            whole[i] = whole[i] or (take and link.reach == "leaf")
        if link.inside is None:
            continue
        hidden = tree
        for selector in link.selectors:
            hidden = selector.hide(tree, rows.paths, places, hidden)
        hidden = rows.treedef.unflatten(
            spread(hidden, rows)
        )  # one hole a leaf, where a mask makes one a branch
        _read(link.inside, rows, hidden, takes, whole)


def check_whole(path: str, x: Any, who: str) -> None:
    """Refuses an array that is cut over devices: joined with others it would have to be gathered."""
    sharding = getattr(x, "sharding", None)
    whole = not isinstance(x, compat.Tracer) and getattr(sharding, "is_fully_replicated", False)
    spec = None if whole else placement.spec_of(x)
    names = sorted({name for entry in spec or () for name in names_at(entry)})
    if names:
        fact = f"{who}: {place(path)} is cut over {', '.join(map(repr, names))}"
        told = "a bucket has leaves side by side, and so would have to bring all parts to every device"
        raise ValueError(say(f"{fact}; {told}", "keep it as a tree, or make buckets inside of jax.shard_map"))


def refusals(plan: Plan) -> Iterator[tuple[Link, str]]:
    """The links that cannot work on buckets, and why."""
    for link in plan.flat:
        if link.foreign:
            fn = getattr(link.whole, "update_fn", None)
            ours = twins(fn)
            use = f"use {ours}" if ours else "keep the parameters as a tree"
            if hides(fn):
                yield (
                    link,
                    f"({' '.join(makers(fn))}) has masks of its own, and would ask them of buckets; {use}",
                )
            elif link_reach(link) != "element":
                made = " ".join(dict.fromkeys(makers(fn)))
                yield link, f"({made}) is not known to work element by element; {use}"
        elif link.rule is not None and link.reach == "tree" and not link.rule.sharded:
            yield (
                link,
                "does not say sharded=True, so its sums may be those of whole leaves; say it if they are not",
            )
        elif link.reach == "leaf" and any(pattern is not STACKS for pattern in link.stacked):
            yield (
                link,
                "is mapped over layers by gx.per_layer, which have no axis in buckets; keep them as a tree",
            )
