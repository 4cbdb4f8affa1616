"""The code of a number by one look-up: the leading bits of its float32 word choose a cell, the others decide inside it.

Encoding is a monotone step function from [-1, 1] to codes. Cut the floats into cells by sign, exponent and the first 7
or so bits of the mantissa: where codes are dense, at the top, they are 0.7 % apart or more, so that no cell holds more
than one step. A cell's entry is the code before the step, the code behind it and the last word before it:

    31       24 23       16 15                0
    [ before   ][ behind   ][ last word before ]

    code(y) = behind if (low bits of y) > (last word before) else before

Exact by construction: whatever function the table was made of comes back, ties and oddities included. One load of four
bytes from a table of some 20 kB instead of eight dependent ones of a binary search, and no branch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

_MAGNITUDE = 0x7FFFFFFF
_ONE = 0x3F800000
_NEGATIVE = 0x80000000


class Search(NamedTuple):
    """A table: `entries` of the cells of positive numbers and, behind them, of negative ones."""

    entries: NDArray[np.uint32]
    first: int
    shift: int


def search_table(code_of: Callable[[NDArray[np.float32]], NDArray[Any]]) -> Search:
    """The table of a monotone function from float32 numbers in [-1, 1] to codes 0 ... 255, which NumPy can compute.

    Args:
        code_of: takes an array, gives whole numbers.

    Returns:
        A `Search` for `find`. What is under 2^-126, zero included, counts as 2^-126 of its sign; what is beyond 1 as 1.

    Raises:
        ValueError: if the steps of `code_of` are closer to each other than 2^-14 of their size.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from gradxform.lowbit.search import find, search_table
        >>> table = search_table(lambda y: np.searchsorted(np.float32([-0.5, 0.1, 0.3]), y))
        >>> find(table, jnp.array([-1.0, -0.5, -0.49, 0.0, 0.1, 0.11, 1.0])).tolist()
        [0, 0, 1, 1, 1, 2, 3]
    """
    for shift in (16, 15, 14, 13, 12, 11, 10, 9):
        starts = np.arange((1 << 23) >> shift, (_ONE >> shift) + 1, dtype=np.uint32) << np.uint32(shift)
        positive, negative = (_side(code_of, starts, shift, sign) for sign in (0, _NEGATIVE))
        if positive is None or negative is None:
            continue
        begun = np.flatnonzero((positive != positive[0]) | (negative != negative[0]))
        first = max(int(begun[0]) - 1, 0) if len(begun) else len(starts) - 1
        entries = np.concatenate([positive[first:], negative[first:]])
        return Search(entries, int(starts[first]) >> shift, shift)
    raise ValueError("lowbit.search_table: two steps of the function are closer than 2^-14 of their size")


def find(table: Search, y: Any) -> Any:
    """The codes (uint8) of an array of float32 numbers in [-1, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from gradxform.lowbit.search import find, search_table
        >>> find(search_table(lambda y: (y > 0.25).astype(int)), jnp.array([0.25, 0.26])).tolist()
        [0, 1]
    """
    u32 = np.uint32
    shift, cells = u32(table.shift), len(table.entries) // 2
    word = jax.lax.bitcast_convert_type(y, jnp.uint32)
    magnitude = word & u32(_MAGNITUDE)
    cell = jnp.clip(magnitude >> shift, u32(table.first), u32(table.first + cells - 1)) - u32(table.first)
    cell = cell + jnp.where(word >= u32(_NEGATIVE), u32(cells), u32(0))
    entry = jnp.asarray(table.entries).at[cell].get(mode="promise_in_bounds")
    behind = (magnitude & u32((1 << table.shift) - 1)) > (entry & u32(0xFFFF))
    return (entry >> jnp.where(behind, u32(16), u32(24))).astype(jnp.uint8)


def _side(
    code_of: Callable[[NDArray[np.float32]], NDArray[Any]], starts: NDArray[np.uint32], shift: int, sign: int
) -> NDArray[np.uint32] | None:
    """The entries of the cells of one sign; None if a cell holds two steps."""

    def code(magnitude: NDArray[np.uint32]) -> NDArray[np.uint32]:
        word = np.minimum(magnitude, np.uint32(_ONE)) | np.uint32(sign)
        return code_of(word.view(np.float32)).astype(np.uint32)

    before = code(starts)
    behind = code(starts + np.uint32((1 << shift) - 1))
    last = np.zeros_like(starts)  # the largest offset whose code is still `before`, bit by bit from the top
    for bit in reversed(range(shift)):
        further = last | np.uint32(1 << bit)
        last = np.where(code(starts + further) == before, further, last)
    following = code(starts + np.minimum(last + np.uint32(1), np.uint32((1 << shift) - 1)))
    if np.any((following != behind) & (before != behind)):
        return None
    return (before << np.uint32(24)) | (behind << np.uint32(16)) | last
