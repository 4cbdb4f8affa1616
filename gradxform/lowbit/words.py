"""Two moments of one number in one word of 32 bits: bfloat16 each, rounded by one draw.

    word = bfloat16(m) << 16 | bfloat16(v)

A float32 word is cut after its upper 16 bits, and rounded by adding a number of 16 bits to the lower ones first: the
carry comes as often as the number is nearer to the upper of both. Adding to the magnitude rounds both signs alike.

One array for both, because of how XLA plans a step on a CPU: it has no loop with two results, and where m and v are
arrays of their own it makes each again, from the old state, in the loop that needs it; then the old state must outlive
the new one, a copy of each. One word is made in one loop, and read by the one that writes the parameters.

The draw of element i at the t-th writing is hash(i) + t * TURN, where t starts at another number for each leaf. Its
upper half rounds v and goes on by the root of 2, its lower half rounds m and goes on by the golden ratio; why these,
and why not a new hash each time, see `stored`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORD = np.uint32
_UPPER, _LOWER = _WORD(0xFFFF0000), _WORD(0x0000FFFF)
#: The largest finite bfloat16.
_MOST = _WORD(0x7F7F0000).view(np.float32)
#: By how much draws go on. Odd, so that the lower half comes to all of its 2^16 numbers.
_TURN = _WORD(0x6A099E37)
#: The factors of the hash, those of lowbias32 (C. Wellons, hash-prospector, 2018).
_FIRST, _SECOND = _WORD(0x7FEB352D), _WORD(0x846CA68B)
#: Up to how many numbers of a row are worth a constant in the program.
_LONG = 2**13


@dataclass(frozen=True)
class WordCodec:
    """One half of a word: the upper one, in the field that holds the words; the lower one is of the field beside it."""

    upper: bool
    dtype: str = "bfloat16"
    bits: int = 16


def packed(m: Any, v: Any, draw: Any = None) -> Any:
    """The words of two float32 arrays: rounded by these draws, or to nearest."""
    upper = _rounded(m, None if draw is None else draw & _LOWER)
    lower = _rounded(v, None if draw is None else draw >> _WORD(16))
    return (upper & _UPPER) | (lower >> _WORD(16))


def unpacked(word: Any) -> tuple[Any, Any]:
    """Both arrays, in float32."""
    return _float(word & _UPPER), _float(word << _WORD(16))


def draws(salt: Any, step: Any, shape: tuple[int, ...], offset: Any = 0) -> Any:
    """32 bits an element; `offset` is the number of the first one, `step` that of the writing."""
    # Cheap, for on a CPU a longer hash takes as long as the memory that is saved. Tests hold the quality.
    start = jnp.asarray(offset, jnp.uint32) + jnp.asarray(salt, jnp.uint32)
    x = _products(shape) + start * _FIRST
    x = (x ^ (x >> _WORD(15))) * _SECOND
    return (x ^ (x >> _WORD(16))) + step.astype(jnp.uint32) * _TURN


def _products(shape: tuple[int, ...]) -> Any:
    """The number of each element times `_FIRST`, modulo 2^32."""
    row = shape[-1] if len(shape) > 1 else 0
    if not 0 < row <= _LONG:  # the number counts up with the loop, and so does the product
        size = int(np.prod(shape, dtype=np.int64))
        return jnp.arange(size, dtype=jnp.uint32).reshape(shape) * _FIRST
    # In a loop over rows it would be made anew for each element. Those of a row are read, those of rows are added.
    within = (np.arange(row, dtype=np.uint64) * np.uint64(_FIRST)).astype(np.uint32)
    rows = jnp.arange(int(np.prod(shape[:-1], dtype=np.int64)), dtype=jnp.uint32).reshape((*shape[:-1], 1))
    first = jnp.broadcast_to(rows * _WORD(row * int(_FIRST) % 2**32), shape)
    return first + jnp.broadcast_to(jnp.asarray(within).reshape((1,) * (len(shape) - 1) + (row,)), shape)


def _rounded(x: Any, draw: Any) -> Any:
    """The float32 word of which the upper half is what `x` is rounded to."""
    word = jax.lax.bitcast_convert_type(x, jnp.uint32)
    if draw is None:  # to the nearest one, and of two to the even one
        draw = _WORD(0x7FFF) + ((word >> _WORD(16)) & _WORD(1))
    # Beyond the largest one it is cut: what is finite stays finite, and a carry would make NaN of infinity.
    return jnp.where(jnp.abs(x) < _MOST, word + draw, word)


def _float(word: Any) -> Any:
    return jax.lax.bitcast_convert_type(word, jnp.float32)
