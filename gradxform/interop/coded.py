"""States of which arrays are kept in codes: taken over code by code where both keep them alike, as floats elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from .._core.packed import closed, is_packed, opened, packed_leaves
from .._core.states import unboxed
from .._core.tree import path_text
from .matching import Found
from .reading import Node


class Coded:
    """A new and a saved state, as they are to be matched.

    They are opened, so that the arrays that codes stand for are matched, unless both hold the same codes for the same
    arrays. Codes in a checkpoint without classes are matched as they are: what they mean is not known there.
    """

    def __init__(self, started: Any, saved: Any, rename: Callable[[str], str]) -> None:
        self.started = started
        saved = unboxed(saved) if any(map(is_packed, packed_leaves(saved))) else saved
        mine, theirs = packed_leaves(started), packed_leaves(saved)
        # One name alone (of a node that is within another one's arrays) can be in any dictionary.
        names = [parts for parts in map(parts_of, filter(is_packed, mine)) if len(parts) > 1]
        raw = not any(map(is_packed, theirs)) and any(_is_raw(saved, parts) for parts in names)
        self.opened = not raw and set(_written(started)) != {
            ((field, rename(path)), how) for (field, path), how in _written(saved)
        }
        self.new, self.saved = (opened(started), opened(saved)) if self.opened else (started, saved)
        self._kinds = {i: x.kind for i, x in enumerate(mine) if is_packed(x)} if self.opened else {}
        self._theirs = dict[int, str]()
        if self.opened:
            pairs = zip(jax.tree.leaves(self.saved), theirs, strict=True)
            self._theirs = {id(new): old.kind for new, old in pairs if is_packed(old)}
        self._coded = set[int]() if self.opened else set(_numbers(started))

    def note(self, value: Any, number: int, note: str) -> str:
        """What was changed about a saved array that is now leaf `number`."""
        before, after = self._theirs.get(id(value), ""), self._kinds.get(number, "")
        if before == after:
            return note
        wide = str(getattr(value, "dtype", "a number"))
        return f"{before or wide} to {after or wide}"

    def closed(self, state: Any) -> Any:
        """The new state with its arrays in codes."""
        return closed(state, self.started) if self.opened else state

    def settle(self, new: Sequence[Node], decided: Mapping[int, Found], leaves: Sequence[Any]) -> None:
        """Gives up codes without the scales that say what they mean, of all fields of a parameter."""
        for node in new:
            found = decided[id(node)]
            places = {
                n: (f.name, rest) for f in node.slots for rest, n in f.leaves.items() if n in self._coded
            }
            lost = {
                rest.rpartition("/")[0]
                for n, (name, rest) in places.items()
                if not _same(found.taken.get((name, rest)), leaves[n])
            }
            for name, rest in places.values():
                if rest.rpartition("/")[0] in lost:
                    found.taken.pop((name, rest), None)
                    found.reasons[name, rest] = (
                        "it is kept in other codes, which cannot be read without a state"
                    )


def _same(taken: Any, like: Any) -> bool:
    return taken is not None and getattr(taken[2], "dtype", None) == like.dtype


def parts_of(x: Any) -> set[str]:
    """The names of the arrays of a packed one."""
    return {str(path[0].name) for path, _ in jax.tree_util.tree_flatten_with_path(x)[0]}


def _is_raw(state: Any, names: set[str]) -> bool:
    """Whether some dictionary inside has these names."""
    if isinstance(state, Mapping):
        return names <= set(map(str, state)) or any(_is_raw(x, names) for x in state.values())
    return isinstance(state, tuple | list) and any(_is_raw(x, names) for x in state)


def _written(state: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Which arrays are kept in which codes: the innermost field and the path below it, the codes."""
    for path, x in jax.tree_util.tree_flatten_with_path(state, is_leaf=is_packed)[0]:
        if is_packed(x):
            ends = [i + 1 for i, key in enumerate(path) if isinstance(key, jax.tree_util.GetAttrKey)]
            start = ends[-1] if ends else 0
            yield (path_text(path[start - 1 : start]) if ends else "", path_text(path[start:])), x.written


def _numbers(state: Any) -> Iterator[int]:
    """The numbers of the leaves that are parts of packed arrays."""
    start = 0
    for x in packed_leaves(state):
        size = len(jax.tree.leaves(x))
        if is_packed(x):
            yield from range(start, start + size)
        start += size
