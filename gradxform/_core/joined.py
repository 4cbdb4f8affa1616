"""Trees whose arrays each hold several leaves of another tree, and what is asked about these leaves.

Masks and groups go by paths, shapes and dtypes of the parameters as the model has them. Of a joined tree they are asked
about that one; leaves that share an array have to get the same answer.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from .errors import kind, say
from .tree import is_absent, listed, paths_of, view

#: Takes the arrays whose first axis counts leaves of one shape, as `gx.per_layer` takes stacked layers.
STACKS = re.compile(r"^stack_\w+_[0-9a-f]{8}$")
#: How the names of arrays begin in which leaves stand one behind the other.
FLAT = "flat_"
REMEDY = "buckets are made for one transform: gx.fused.pack(params, tx) with the one that runs"


class Original(NamedTuple):
    """The tree that has been joined: its shapes and holes, and in which array each of its places is now."""

    treedef: Any
    shapes: tuple[Any, ...]
    #: The number of the array, or -1 for a hole.
    homes: tuple[int, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The slash path of every place."""
        return paths_of(self.treedef)

    def of(self, home: int) -> list[str]:
        """The paths of the leaves in one array."""
        return [path for path, other in zip(self.paths, self.homes, strict=True) if other == home]


class Joined:
    """A node of such a tree. What comes with it knows its `original`."""

    original: Original

    @property
    def members(self) -> dict[str, tuple[str, Any]]:
        """The first leaf of each array by the path of that: its own path, its shape."""
        found: dict[int, tuple[str, Any]] = {}
        for path, x, home in zip(self.original.paths, self.original.shapes, self.original.homes, strict=True):
            found.setdefault(home, (path, x))
        return {path: found[i] for i, path in enumerate(view(self).paths)}

    def answers(self, ask: Callable[[Any, Sequence[str], Sequence[Any]], list[Any]], who: str) -> list[Any]:
        """What `ask(tree, paths, places)` answers of the original tree, for each array here.

        Arrays that are hidden here are hidden there.
        """
        first = self.original
        here = jax.tree.leaves(self, is_leaf=is_absent)
        gone = {i for i, x in enumerate(here) if is_absent(x)}
        places = [
            optax.MaskedNode() if home in gone else x
            for x, home in zip(first.shapes, first.homes, strict=True)
        ]
        given = ask(first.treedef.unflatten(places), first.paths, places)
        found: dict[int, tuple[str, Any]] = {}
        for path, home, answer in zip(first.paths, first.homes, given, strict=True):
            other, known = found.setdefault(home, (path, answer))
            if known != answer and home >= 0:
                fact = (
                    f"{who}: it takes one of {listed([other, path])} and not the other, which share a bucket"
                )
                raise ValueError(say(fact, REMEDY))
        nothing = -1 if given and type(given[0]) is int else False
        return [nothing if i in gone else found[i][1] for i in range(len(here))]

    def check(self, link: Any, chosen: Sequence[bool]) -> None:
        """Refuses a link that looks at whole leaves where it would see several at once."""
        if link.foreign or link.reach != "leaf":
            return
        rows = view(self)
        for path, x, take in zip(rows.paths, rows.places, chosen, strict=True):
            one = not STACKS.match(path) and not path.startswith(FLAT)
            if not take or one or is_absent(x):
                continue
            if STACKS not in link.stacked:
                fact = f"{link.address} looks at whole leaves, and each array of these buckets holds several"
                raise ValueError(say(fact, "put gx.fused.bucketed around the transform"))
            if not STACKS.match(path):
                inside = self.original.of(rows.paths.index(path))
                fact = f"{link.address} looks at whole leaves, and {path!r} has {listed(inside)} in one row"
                raise ValueError(say(fact, REMEDY))


def check_joined(tree: Any) -> None:
    """Refuses a tree where buckets are wanted; a placeholder without leaves asks for the layout of a state."""
    if isinstance(tree, Joined) or not jax.tree.leaves(tree):
        return
    fact = f"gx.fused.bucketed: got {kind(tree)}, wanted gx.fused.Buckets"
    made = "params = gx.fused.pack(params, tx), once"
    raise TypeError(say(fact, f"{made}; differentiate the loss of params.unpack() with respect to params"))
