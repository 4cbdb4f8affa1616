"""Arrays of any rank as matrices: which axes are summed over, which are made, and which count matrices.

A weight of attention `[embed, heads, width]` is a matrix from `embed` to `(heads, width)`, or one matrix a head. Nobody
can see from its shape which; whoever knows says it, and here it becomes a product of matrices and comes back.
"""

import math
from typing import Any, NamedTuple


class Fold(NamedTuple):
    """How an array is seen as matrices `[..., rows, columns]`; axes in neither count matrices."""

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def counted(self) -> tuple[int, ...]:
        """The axes that count matrices."""
        return tuple(i for i in range(len(self.shape)) if i not in (*self.rows, *self.columns))

    @property
    def _order(self) -> tuple[int, ...]:
        return (*self.counted, *self.rows, *self.columns)

    @property
    def size(self) -> tuple[int, int]:
        """The numbers of rows and of columns of one matrix."""
        return self._product(self.rows), self._product(self.columns)

    def __str__(self) -> str:
        """The matrices in words: `3 x 8 of 64 x 256` are 24 of 64 rows and 256 columns."""
        counted = " x ".join(str(self.shape[i]) for i in self.counted)
        return f"{counted + ' of ' if counted else ''}{self.size[0]} x {self.size[1]}"

    def _product(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[i] for i in axes)

    def matrices(self, x: Any) -> Any:
        """The matrices of an array; a matrix itself is returned as it is."""
        order = self._order
        x = x if order == tuple(range(len(order))) else x.transpose(order)
        shape = (*(self.shape[i] for i in self.counted), *self.size)
        return x if x.shape == shape else x.reshape(shape)

    def array(self, x: Any) -> Any:
        """The inverse of `matrices`."""
        order = self._order
        x = x.reshape(tuple(self.shape[i] for i in order))
        back = tuple(order.index(i) for i in range(len(order)))
        return x if back == tuple(range(len(order))) else x.transpose(back)


def fold(shape: tuple[int, ...], rows: Any, columns: Any) -> Fold:
    """The `Fold` of an array of this shape; axes are numbers or several, counted from the end if negative.

    Raises:
        ValueError: for an axis that the array has not, or one that is named twice.
    """
    rank = len(shape)
    found: list[tuple[int, ...]] = []
    for axes in (rows, columns):
        several = (axes,) if isinstance(axes, int) else tuple(axes)
        for axis in several:
            if not -rank <= axis < rank:
                raise ValueError(f"there is no axis {axis} in the shape {shape}")
        found.append(tuple(axis % rank for axis in several))
    both = (*found[0], *found[1])
    if len(set(both)) < len(both):
        raise ValueError(f"the axes {rows} and {columns} of the shape {shape} meet")
    return Fold(shape, *found)
