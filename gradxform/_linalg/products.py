"""Products of matrices whose precision is pinned: whatever the machine's default, float32 is multiplied as float32.

Accelerators shorten the factors of a float32 product to 10 or to 7 bits of fraction unless they are told not to. A
basis that is rotated so is no longer orthogonal, and of an average of squares the small half of the spectrum is gone.
"""

from typing import Any

import jax
import jax.numpy as jnp


def times(x: Any, y: Any, over: int = -1, with_: int = -2) -> Any:
    """The products of matrices, summed over axis `over` of the one and `with_` of the other, in float32 or wider.

    The axes are counted from the end; by default it is `X Y`. Axes in front of the last two count matrices.
    """
    batch = tuple(range(x.ndim - 2))
    short = jnp.finfo(x.dtype).bits < 32
    axes = (((x.ndim + over,), (y.ndim + with_,)), (batch, batch))
    return jax.lax.dot_general(
        x,
        y,
        axes,
        precision=None if short else jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32 if short else None,
    )


def conjugated(x: Any) -> Any:
    """`conj(X)`, which is `X` itself where numbers are real."""
    return jnp.conj(x) if jnp.iscomplexobj(x) else x


def gram_of(x: Any, side: int) -> Any:
    """`X X^H` (side -2) or `X^H X` (side -1), in float32 or wider."""
    other = -1 if side == -2 else -2
    return times(x, conjugated(x), other, other) if side == -2 else times(conjugated(x), x, other, other)
