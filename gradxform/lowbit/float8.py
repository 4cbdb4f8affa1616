"""Eight-bit floats as a codec: e4m3 numbers, and one power of two for a block of 64 of them.

    x ~ code * scale        code: float8_e4m3fn, 2^-9 to 448        scale: bfloat16, a power of two
    v ~ (code * scale)^2    for a second moment, of which the root is stored

They have three bits behind the point where the lattices of `codecs` have up to eight, and a second moment leaves its
sign unused: an error two to seven times as large. They are for hardware and for checkpoints that want this dtype.

A scale is the least power of two with which the largest number of the block is at most 448. Multiplying by it is exact,
so that a number which is stored stays where it is when the scale changes, as long as it is not among the last three
octaves; and what is not on the lattice goes up or down by the same thresholds as elsewhere, in proportion to the share
of x, or of v itself. A second moment above zero is at least the smallest code.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_F32 = np.float32
_DTYPE = jnp.float8_e4m3fn
#: The largest code; the smallest, which is also the distance of those below 2^-6.
_MOST, _LEAST = _F32(448), _F32(2.0**-9)


@dataclass(frozen=True)
class Float8Codec:
    """e4m3 numbers of 64 each under a power of two: signed ones, or the roots of numbers of at least 0."""

    signed: bool
    bits: int = 8
    block: int = 64

    @property
    def dtype(self) -> str:
        """The dtype of the codes."""
        return "float8_e4m3fn"

    def encode(self, x: Any, threshold: Any) -> tuple[Any, Any]:
        """Codes (float8, one an element, in blocks) and scales (bfloat16, one a block) of float32 blocks."""
        size = jnp.abs(x) if self.signed else jnp.sqrt(x)
        top = jnp.max(size, -1, keepdims=True)
        # 448 = 1.75 * 2^8: what is above 1.75 belongs to the next power. No scale is subnormal, and no reciprocal.
        exponent = ((_word(top) + np.uint32(0x1FFFFF)) >> np.uint32(23)).astype(jnp.int32) - np.int32(8)
        exponent = jnp.clip(exponent, 1, 253)
        scale, over = (_power(e) for e in (exponent, np.int32(254) - exponent))
        y = size * over
        low, gap = _floor(y)
        high = low + gap
        if self.signed:
            share = (y - low) / gap
        else:
            share = ((x * over) * over - low * low) / (high * high - low * low)
        up = share > (_F32(0.5) if threshold is None else threshold)
        code = jnp.minimum(jnp.where(up, high, low), jnp.minimum(_MOST, self._end * over))
        if self.signed:
            code = jnp.where((x < 0) & (code > 0), -code, code)  # there is one zero
        else:
            code = jnp.where(x >= _F32(2.0**-126), jnp.maximum(code, _LEAST), _F32(0))
        scale = jnp.where(jnp.isfinite(top), scale, _F32(np.nan))[..., 0]
        return code.astype(_DTYPE), scale.astype(jnp.bfloat16)

    @property
    def _end(self) -> np.float32:
        """The largest number of four bits that is still finite when it is read."""
        return _F32(1.875 * 2.0 ** (127 if self.signed else 63))

    def decode(self, codes: Any, scales: Any) -> Any:
        """The blocks as float32."""
        x = codes.astype(jnp.float32) * scales[..., None].astype(jnp.float32)
        return x if self.signed else x * x


def _floor(y: Any) -> tuple[Any, Any]:
    """The next number of e4m3 below y, and the distance to the one above it."""
    exponent = jnp.maximum((_word(y) >> np.uint32(23)).astype(jnp.int32), 127 - 6)
    gap, over = _power(exponent - np.int32(3)), _power(np.int32(257) - exponent)
    return jnp.floor(y * over) * gap, gap


def _word(x: Any) -> Any:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _power(exponent: Any) -> Any:
    """2^(exponent - 127)."""
    return jax.lax.bitcast_convert_type(exponent.astype(jnp.uint32) << np.uint32(23), jnp.float32)
