"""What a method keeps of the two sides of a matrix: grams, bases, roots, n x n where the matrix is m x n.

In a state they are fields of their own, `gram_left`, `gram_right` and so on, each with an array in the place of every
parameter: square ones for a side that has them, one number for a side that is too long and for what is no matrix.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from .._core import compat
from .fold import Fold

SIDES = ("left", "right")


class Sides(NamedTuple):
    """A leaf as matrices, and which of their two sides have something of their own."""

    fold: Fold
    sides: tuple[str, ...]

    def has(self, field: str) -> bool:
        """Whether this leaf uses a slot."""
        side = field.rpartition("_")[2]
        return side not in SIDES or side in self.sides

    def axes(self, side: str) -> tuple[int, ...]:
        """The axes of the leaf that make up a side."""
        return self.fold.rows if side == SIDES[0] else self.fold.columns


def sides_of(fold: Fold | None, longest: int) -> Sides | None:
    """The sides of at most this length; None where there is none, or no element."""
    if fold is None or 0 in fold.shape:
        return None
    sides = tuple(side for side, n in zip(SIDES, fold.size, strict=True) if n <= longest)
    return Sides(fold, sides) if sides else None


def pair(slots: Mapping[str, Any], what: str) -> tuple[Any, Any]:
    """A slot of each side, None where there is none."""
    left, right = (slots.get(f"{what}_{side}") for side in SIDES)
    return left, right


def named(what: str, both: Sequence[Any]) -> dict[str, Any]:
    """The inverse of `pair`."""
    return {f"{what}_{side}": x for side, x in zip(SIDES, both, strict=True) if x is not None}


def makers(find: Callable[[Any], Sides | None], **starts: Callable[[int], Any]) -> dict[str, Any]:
    """`init=` of a rule: for each kind of slot, of each side, what a side of this length starts with.

    Args:
        find: the sides of a leaf, None where it has none.
        starts: by the name of a field without its side, `start(n)` for one matrix.
    """

    def maker(start: Callable[[int], Any], side: str) -> Any:
        def make(p: Any, leaf: Any) -> Any:
            seen = find(leaf)
            if seen is None or side not in seen.sides:
                return jnp.zeros((1,))
            one = start(seen.fold.size[SIDES.index(side)])
            counted = tuple(leaf.shape[i] for i in seen.fold.counted)
            return _laid(jnp.broadcast_to(one, (*counted, *one.shape)), p, seen, side)

        return make

    return {f"{what}_{side}": maker(start, side) for what, start in starts.items() for side in SIDES}


def _laid(x: Any, p: Any, seen: Sides, side: str) -> Any:
    """On explicit axes, cut as the parameter: its counted axes, and the side's axis if it is one.

    The rows of a basis are the side's axis. Cut like it they take a share of the memory, and the update, which is
    multiplied by them last, comes out cut as the parameter.
    """
    its = compat.explicit_sharding(p)
    if its is None:
        return x
    entries = [*its.spec, *[None] * (len(seen.fold.shape) - len(its.spec))]
    mine = seen.axes(side)
    first = entries[mine[0]] if len(mine) == 1 else None
    spec = PartitionSpec(*(entries[i] for i in seen.fold.counted), first)
    return jax.reshard(x, NamedSharding(its.mesh, spec))
