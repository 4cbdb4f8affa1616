"""Codes: one array as integers of 8 or 4 bits and one 16-bit word a block that says what they mean.

A code is a float32 word with its last bits cut off and its first ones agreed upon. Of x >= 0,

    word(x) = the float32 word as an integer: about 2^23 (log2 x + 127), and linear between two powers of two
    n(x)    = word(x) >> (23 - m)               2^m numbers an octave
    code    = n(x) - n(base) + 1                0 is zero itself and nothing else

so that neighbours differ by a share of 2^-m to 2^-(m+1) of their size. `m` and `base` are those of the block: m is as
large as the codes of the block's range allow. The second moment, whose root divides, needs just that: a logarithmic
map means the same on v and on its root, and has no zero that a number above zero could be rounded to.

A signed number is counted from an offset c, code = sign(x) (n(|x| + c) - n(c)): linear in steps of c / 2^m up to c, a
share of x beyond, and zero is zero. m is chosen by how far the numbers of a block spread, and c so that the largest
one is in reach.

Both are integer arithmetic: no table, no search, no logarithm. What is between two codes goes to the upper one if it is
further than a threshold in [0, 1), which is right on average over thresholds that are spread evenly; and a value that
is on the lattice stays where it is, also when the block's lattice becomes finer. A value that falls all the time, each
step from what the last one has stored, goes to the next code when the chance of it has summed up to one: the chance is
that at the upper code, so that it falls too far, by about 2^-m / 4 for each octave.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORD = np.uint32
_ONE_EIGHTH = 20  # the shift after which words count eighths of octaves
#: The scale of a block with a number that is not finite. It is no block's own: m is at most 9.
_BROKEN = np.uint16(0xFFFF)
#: The words of the smallest number that is not subnormal, and of infinity. What is subnormal counts as zero.
_NORMAL, _INFINITE = _WORD(0x00800000), _WORD(0x7F800000)
_HUGE = np.float32(2.0**127)


def to_blocks(x: Any, block: int) -> Any:
    """`x` as (..., blocks, block): the last axis cut, short axes folded into it first, the rest filled with zeros."""
    lead, size = fold(x.shape, block)
    flat = jnp.reshape(_whole(x, len(lead), block), (*lead, size))
    short = -size % block
    if short:
        flat = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, short)])
    return jnp.reshape(flat, (*lead, (size + short) // block, block))


def _whole(x: Any, lead: int, block: int) -> Any:
    """`x` with the axes that are cut whole on each device, if a mesh has cut them elsewhere than between two blocks."""
    # On a mesh with explicit axes a reshape has to be told; on others, where no spec is known, XLA finds it out.
    sharding: Any = getattr(jax.typeof(x), "sharding", None)
    spec = getattr(sharding, "spec", None)
    if spec is None or all(names is None for names in spec[lead:]):
        return x
    sizes = sharding.mesh.shape  # that of the array: it need not be the one that is set
    names = spec[-1] if isinstance(spec[-1], tuple) else (spec[-1],)
    shards = int(np.prod([sizes[name] for name in names if name is not None]))
    if lead == x.ndim - 1 and x.shape[-1] % (shards * block) == 0:
        return x
    return jax.sharding.reshard(x, sharding.update(spec=jax.P(*spec[:lead], *[None] * (x.ndim - lead))))


def from_blocks(y: Any, shape: tuple[int, ...]) -> Any:
    """The inverse of `to_blocks` for an array of this shape."""
    lead, size = fold(shape, int(y.shape[-1]))
    flat = jnp.reshape(y, (*lead, y.shape[-2] * y.shape[-1]))
    return jnp.reshape(flat[..., :size], shape)


def fold(shape: tuple[int, ...], block: int) -> tuple[tuple[int, ...], int]:
    """The leading axes, and the size of what is cut into blocks: the last axis, or several if it is short.

    Example:
        >>> fold((3, 512), 64), fold((3, 512, 8), 64), fold((5,), 64)
        (((3,), 512), ((3,), 4096), ((), 5))
    """
    axes = len(shape) - 1
    while axes > 0 and int(np.prod(shape[axes:])) < block:
        axes -= 1
    return tuple(shape[:axes]), int(np.prod(shape[axes:]))


def _word(x: Any) -> Any:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _magnitude(x: Any) -> Any:
    """The word without its sign: in the order of |x|, with what is not finite at the end."""
    return _word(x) & _WORD(0x7FFFFFFF)


def _float(word: Any) -> Any:
    return jax.lax.bitcast_convert_type(word.astype(jnp.uint32), jnp.float32)


def _above(word: Any, shift: Any) -> Any:
    """The number of the lattice to which a word is rounded up."""
    return (word + ((_WORD(1) << shift) - _WORD(1))) >> shift


def _of_block(combine: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Two numbers of each block, folded together from all of its elements."""
    # XLA on a CPU cuts the reduction of one array in two and writes what it reduces to memory first; one of a pair is
    # a single vectorised loop into which that is fused, and takes a fifth of the time.
    start = (np.zeros([], x.dtype), np.asarray(0x7F7FFFFF if combine is _most_and_least else 0, y.dtype))
    most, other = jax.lax.reduce((x, y), start, combine, (x.ndim - 1,))
    return most[..., None], other[..., None]


def _most_and_least(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    return jnp.maximum(a[0], b[0]), jnp.minimum(a[1], b[1])


def _most_and_sum(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    return jnp.maximum(a[0], b[0]), a[1] + b[1]


@dataclass(frozen=True)
class RootCodec:
    """Numbers of at least 0 on a logarithmic lattice; 0 is 0, and nothing else is.

    A block has room for (2^bits - 2) / 2^m octaves; what lies below the room of the smallest m is stored at its lower
    end, so that a step is too small and never too large.
    """

    bits: int = 8
    block: int = 64

    @property
    def _octaves(self) -> tuple[int, ...]:
        """The choices of m, coarsest first."""
        return tuple(range(2, 9)) if self.bits == 8 else tuple(range(-1, 4))

    def encode(self, x: Any, threshold: Any) -> tuple[Any, Any]:
        """Codes (uint8, one an element, in blocks) and scales (uint16, one a block) of float32 blocks."""
        most, word = _WORD(2**self.bits - 1), _magnitude(x)
        positive = (x > 0) & (word >= _NORMAL)
        least = jnp.where(positive, word, _WORD(0x7F7FFFFF))
        top, low = _of_block(_most_and_least, word, least)
        low = jnp.minimum(low, top)
        base, m = low >> _ONE_EIGHTH, jnp.full_like(top, _field(self._octaves[0]))
        for choice in self._octaves[1:]:
            shift = _WORD(23 - choice)
            codes = _above(top, shift) + _WORD(1) - ((base << _ONE_EIGHTH) >> shift)
            m = jnp.where(codes <= most, _WORD(_field(choice)), m)
        shift = _WORD(24) - m
        end = _above(top, shift) + _WORD(1)
        lifted = jnp.where(end > most, end - most, _WORD(0)) << shift
        up = (lifted + _WORD(2**_ONE_EIGHTH - 1)) >> _ONE_EIGHTH
        base = jnp.maximum(base, up)
        first = ((base << _ONE_EIGHTH) >> shift).astype(jnp.int32)
        code = jnp.clip(self._rounded(word, shift, threshold).astype(jnp.int32) - first + 1, 1, int(most))
        scale = jnp.where(top < _INFINITE, (base << _WORD(4)) | m, _WORD(_BROKEN))[..., 0]
        return jnp.where(positive, code, 0).astype(jnp.uint8), scale.astype(jnp.uint16)

    def _rounded(self, word: Any, shift: Any, threshold: Any) -> Any:
        """The number of the lattice to which a word is rounded."""
        half, n = np.float32(0.5) if threshold is None else threshold, word >> shift
        if self.bits == 4:  # codes can be two octaves apart
            low, high = _float(n << shift), _float((n + _WORD(1)) << shift)
            share = (_float(word) - low) / (high - low)
        else:  # within an octave the share is in the last bits of the word
            rest = (word - (n << shift)).astype(jnp.int32).astype(jnp.float32)
            share = rest * _float((_WORD(127) - shift) << _WORD(23))
        up = (share > half) & ((n + _WORD(1)) << shift < _INFINITE)
        return n + up.astype(jnp.uint32)

    def decode(self, codes: Any, scales: Any) -> Any:
        """The blocks as float32."""
        word = scales[..., None].astype(jnp.uint32)
        shift = _WORD(24) - (word & _WORD(15))
        first = ((word >> _WORD(4)) << _ONE_EIGHTH) >> shift
        x = _float((first + codes.astype(jnp.uint32) - _WORD(1)) << shift)
        x = jnp.where(codes > 0, x, np.float32(0))
        return jnp.where(scales[..., None] == _BROKEN, np.float32(np.nan), x)


@dataclass(frozen=True)
class SignedCodec:
    """Signed numbers, in even steps near zero and in proportion to their size beyond an offset."""

    bits: int = 8
    block: int = 64

    @property
    def _octaves(self) -> tuple[tuple[int, float], ...]:
        """The choices of m, finest first, each with the spread of a block from which on the next one is taken."""
        if self.bits == 8:
            return ((6, 3.0), (5, 4.5), (4, 7.0), (3, np.inf))
        return ((2, 2.6), (1, 4.5), (0, np.inf))

    def encode(self, x: Any, threshold: Any) -> tuple[Any, Any]:
        """Codes (int8, one an element, in blocks) and scales (uint16, one a block) of float32 blocks."""
        most, word = 2 ** (self.bits - 1) - 1, _magnitude(x)
        m, reach, end = self._chosen(word)
        size, top = (jnp.minimum(_float(w), _HUGE) for w in (word, end))  # so that size + c is finite
        # The offset is the next number of the form 2^k or 1.5 2^k from which the largest number is in reach.
        offset = (_word(top / reach) + _WORD(2**22 - 1)) >> _WORD(22)
        offset = jnp.where(
            m > _WORD(_field(0)), offset, (offset + _WORD(1)) & _WORD(0xFFFFFFFE)
        )  # on the lattice
        offset = jnp.clip(offset, 2, 2 * 0xFE)
        c, shift = _float(offset << _WORD(22)), _WORD(24) - m
        n = _word(size + c) >> shift
        low, high = _float(n << shift), _float((n + _WORD(1)) << shift)
        # Both are in one octave, so that high - low is a power of two and the product exact.
        half = np.float32(0.5) if threshold is None else threshold
        n = n + (size - (low - c) > half * (high - low)).astype(jnp.uint32)
        code = jnp.minimum((n - (_word(c) >> shift)).astype(jnp.int32), most)
        scale = jnp.where(end < _INFINITE, (offset << _WORD(4)) | m, _WORD(_BROKEN))[..., 0]
        return jnp.where(x < 0, -code, code).astype(jnp.int8), scale.astype(jnp.uint16)

    def _chosen(self, word: Any) -> tuple[Any, Any, Any]:
        """m of every block, as it is stored, the largest number in reach as a multiple of the offset, and its word."""
        there = (word >= _NORMAL).astype(jnp.int32)
        top, count = _of_block(_most_and_sum, word, there)
        exponents = [(jnp.minimum(x, _word(_HUGE)) >> _WORD(23)).astype(jnp.int32) for x in (word, top)]
        below = jnp.where(there > 0, jnp.minimum(exponents[1] - exponents[0], 40), 0)
        top, below = _of_block(_most_and_sum, word, below)
        spread = below.astype(jnp.float32) / jnp.maximum(count, 1).astype(jnp.float32)
        finest = self._octaves[0][0]
        m = jnp.full(spread.shape, _field(finest), jnp.uint32)
        reach = jnp.full(spread.shape, self._reach(finest), jnp.float32)
        for (_, from_here), (choice, _) in zip(self._octaves, self._octaves[1:], strict=False):
            m = jnp.where(spread < from_here, m, _WORD(_field(choice)))
            reach = jnp.where(spread < from_here, reach, self._reach(choice))
        return m, reach, top

    def _reach(self, m: int) -> np.float32:
        """The number of the last code over the offset; the less of both kinds of offset."""
        most, ends = 2 ** (self.bits - 1) - 1, list[float]()
        for c in (np.float32(1), np.float32(1.5)):
            n = (int(c.view(np.uint32)) >> (23 - m)) + most
            ends.append(float(np.uint32(n << (23 - m)).view(np.float32) / c - 1))
        return np.float32(
            min(ends) * (1 + 2.0**-20)
        )  # what is stored as the last code must be in reach of it

    def decode(self, codes: Any, scales: Any) -> Any:
        """The blocks as float32."""
        word = scales[..., None].astype(jnp.uint32)
        shift, c = _WORD(24) - (word & _WORD(15)), _float((word >> _WORD(4)) << _WORD(22))
        steps = codes.astype(jnp.int32)
        size = _float(((_word(c) >> shift) + jnp.abs(steps).astype(jnp.uint32)) << shift) - c
        return jnp.where(scales[..., None] == _BROKEN, np.float32(np.nan), jnp.where(steps < 0, -size, size))


def _field(m: int) -> int:
    """m as the last four bits of a scale hold it."""
    return m + 1
