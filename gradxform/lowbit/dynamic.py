"""The dynamic map of bitsandbytes and torchao as a codec, to nearest as theirs or with thresholds."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import automatic
from .._core.eight_bits import BLOCK
from .bitsandbytes import decode, encode
from .maps import dynamic_map


@dataclass(frozen=True)
class DynamicCodec:
    """Bytes on the dynamic map and a float32 scale for 256 of them, in row-major order without regard to axes.

    The unsigned map has a zero, to which small numbers are rounded: a second moment that becomes zero makes its next
    step hundreds of times too large. It is here to compare with, and for states that come from there.
    """

    signed: bool
    bits: int = 8

    def encode(self, x: Any, threshold: Any) -> tuple[Any, Any]:
        """Codes (uint8, shaped like `x`) and the largest magnitude of every block."""
        # Blocks go across axes, and only the compiler knows how these are cut.
        return automatic.run_cut(self._encode, lambda: (automatic.spec_in_type(x), jax.P()), x, threshold)

    def _encode(self, x: Any, threshold: Any) -> tuple[Any, Any]:
        codes, absmax = encode(x, self.signed)
        if threshold is None:
            return codes, absmax
        table = jnp.asarray(dynamic_map(signed=self.signed))
        scale = jnp.repeat(absmax, BLOCK)[: x.size].reshape(x.shape)
        y = x / jnp.where(scale > 0, scale, np.float32(1))
        low = jnp.clip(codes.astype(jnp.int32) - (table[codes] > y).astype(jnp.int32), 0, len(table) - 2)
        share = (y - table[low]) / (table[low + 1] - table[low])
        return (low + (share > threshold).astype(jnp.int32)).astype(jnp.uint8), absmax

    def decode(self, codes: Any, scales: Any) -> Any:
        """The numbers, in float32."""
        signed = self.signed
        return automatic.run_cut(
            lambda c, s: decode(c, s, signed), lambda: automatic.spec_in_type(codes), codes, scales
        )
