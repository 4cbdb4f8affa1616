"""Gradients whitened on one side, whose grams on the other side are KL-Shampoo's.

    H = G R^{-1/2} / sqrt(n)    H H^H = G R^{-1} G^H / n

of an m x n matrix G, and for the other side alike. R is known by a basis and the values in it, and only as far as that:
the root is taken of the values, not of R. A value that is small against the largest is rounding, and is not divided by.
Lin et al., Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization, 2025, arXiv:2509.03378.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.numerics import SQUARABLE, abs_sq
from .bases import turned

#: An eigenvalue is not divided by where it is less than this share of the largest one: of an average that is kept in
#: float32, what is smaller is mostly rounding.
LEAST = 1e-6


def whitened(G: Any, inside: Any, bases: Any, values: Any) -> tuple[Any, Any]:
    """Of each side the factor H whose gram is that of gradients whitened on the other side, and `diag(Q^H H H^H Q)`."""
    left, right = (None if x is None else _inverse_root(x) for x in values)
    rows, columns = (np.asarray(1 / n, abs_sq(G).dtype) for n in G.shape[-2:])
    of_left, of_right = turned(G, None, bases[1]), turned(G, bases[0], None)
    seen_left = seen_right = inside
    if right is not None:
        of_left, seen_left = (_limited(x * jnp.expand_dims(right, -2)) for x in (of_left, inside))
    if left is not None:
        of_right, seen_right = (_limited(x * jnp.expand_dims(left, -1)) for x in (of_right, inside))
    halves = of_left * jnp.sqrt(columns), of_right * jnp.sqrt(rows)
    return halves, (jnp.sum(abs_sq(seen_left), -1) * columns, jnp.sum(abs_sq(seen_right), -2) * rows)


def _inverse_root(values: Any) -> Any:
    """`1 / sqrt(r)`; where all are zero, 1."""
    top = jnp.max(values, axis=-1, keepdims=True)
    known = top >= np.asarray(jnp.finfo(values.dtype).tiny, values.dtype)
    top = jnp.where(known, top, jnp.ones_like(top))
    share = jnp.where(
        known, jnp.maximum(values / top, np.asarray(LEAST, values.dtype)), jnp.ones_like(values)
    )
    return jax.lax.rsqrt(share) * jax.lax.rsqrt(top)


def _limited(x: Any) -> Any:
    """`x`, shortened where its square would not fit into float32: after a jump from gradients of 1e-18, say."""
    size = jnp.abs(x)
    bound = np.asarray(SQUARABLE, size.dtype)
    return x * (bound / jnp.maximum(size, bound)).astype(x.dtype)
