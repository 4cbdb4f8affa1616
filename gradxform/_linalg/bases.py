"""Eigenbases of averages of `G G^H` and `G^H G`, found once and then followed; matrices in them and back.

    L = Q_L diag(l) Q_L^H,  Q_R R = G^H Q_L      the first time, if the left side is the shorter one
    Q' R = P Q                                   afterwards: one step of orthogonal iteration, P being L or R

Q has eigenvectors in its columns. At first L and R are grams of one gradient, and their bases its singular vectors. One
side is decomposed, the other one comes of it by a product and a QR decomposition, whose last columns fill the space in
which there is no gradient. An eigendecomposition of the longer side would fill it with rounding, and so differently on
every machine; and it would know the small singular vectors less well, since it sees them squared.

An average moves by a few percent a step, so the old basis is a good start and one product with one QR decomposition
follows it. It does so best where columns stand by eigenvalues, the largest first: QR leaves the first column to itself
and cleans each other one of those before it. Columns are therefore put in order first, by `diag(Q^H P Q)`, and what
belongs to columns is put in the same order by the caller. Bases do not depend on the size of P, which is divided by its
largest number: squares of gradients may lie near either end of float32. Signs, which are free, are chosen so that a
column changes little.

What is rotated has errors of rounding in every element: of the size of its column for the left basis and of its row for
the right one, since a column of a basis has something of every other column in it; and for both at once of the size of
the mean element. What ought to be zero, in a direction that no gradient ever had (an embedding that has not been used),
comes out as noise, and Adam brings noise to the size of a step as it does any gradient. `rotated` therefore makes zero
of what is smaller than rounding.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.numerics import abs_sq, quotient, root
from .products import conjugated, times

#: How many units of rounding of its row, of its column and of the mean an element has to have, to be more than noise.
#: Bases are orthogonal within a few.
NOISE = 8


def first_bases(x: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """The singular vectors of matrices, of whose grams at least one is given, those of the largest values first."""
    if right is None or (left is not None and x.shape[-2] <= x.shape[-1]):
        left = _eigenbasis(left)
        return left, None if right is None else _completed(times(conjugated(x), left, -2, -2))
    right = _eigenbasis(right)
    return None if left is None else _completed(times(x, right)), right


def _eigenbasis(gram: Any) -> Any:
    return _signed(jnp.flip(jnp.linalg.eigh(_unit(gram))[1], -1))


def _completed(columns: Any) -> Any:
    """The columns made orthonormal, the first first, and behind them as many as the space has."""
    return _signed(jnp.linalg.qr(_unit(columns), mode="complete")[0])


def _signed(basis: Any, along: Any = None) -> Any:
    """The basis whose columns have positive products with those of another; without one, with a fixed vector."""
    if along is None:
        fixed = 1 / np.sqrt(
            1 + np.arange(basis.shape[-1])
        )  # which no symmetry of a problem makes orthogonal to them
        along = jnp.asarray(fixed, basis.dtype).reshape((1,) * (basis.ndim - 2) + (-1, 1))
    product = jnp.sum(conjugated(along) * basis, axis=-2, keepdims=True)
    return basis * conjugated(jnp.where(product == 0, jnp.ones_like(product), jnp.sign(product)))


def followed(gram: Any, basis: Any) -> tuple[Any, Any]:
    """The order in which the columns of bases stand by eigenvalues, and the bases after one step from there."""
    moved = times(_unit(gram), basis)
    order = jnp.argsort(-_along(basis, moved), axis=-1)
    old, moved = (reordered(x, None, order) for x in (basis, moved))
    return order, _signed(jnp.linalg.qr(moved)[0], old)


def _along(basis: Any, moved: Any) -> Any:
    return jnp.sum((conjugated(basis) * moved).real, axis=-2)


def _size(gram: Any) -> Any:
    return jnp.max(jnp.abs(gram), axis=(-2, -1), keepdims=True)


def _unit(gram: Any) -> Any:
    """The matrices with 1 for their largest number; zero stays."""
    return quotient(gram, _size(gram).astype(gram.dtype))


def turned(x: Any, left: Any, right: Any) -> Any:
    """`Q_L^H X Q_R`; None in the place of a basis is the identity."""
    x = x if right is None else times(x, right)
    return x if left is None else times(conjugated(left), x, -2, -2)


def rotated(x: Any, left: Any, right: Any) -> Any:
    """`Q_L^H X Q_R` without what is only rounding."""
    x = turned(x, left, right)
    if left is None and right is None:
        return x
    axes = [axis for axis, basis in ((-2, left), (-1, right)) if basis is not None]
    sizes = [root(jnp.sum(abs_sq(x), axis=axis, keepdims=True)) for axis in axes]
    if len(sizes) == 2:
        sizes.append(root(jnp.mean(abs_sq(x), axis=(-2, -1), keepdims=True)))
    least = functools.reduce(jnp.maximum, sizes) * np.asarray(NOISE * jnp.finfo(x.dtype).eps, sizes[0].dtype)
    return jnp.where(jnp.abs(x) < least, jnp.zeros_like(x), x)


def back(x: Any, left: Any, right: Any) -> Any:
    """`Q_L X Q_R^H`, the inverse of `turned`."""
    x = x if right is None else times(x, conjugated(right), -1, -1)
    return x if left is None else times(left, x)


def reordered(x: Any, left: Any, right: Any) -> Any:
    """Rows and columns in another order; None leaves them."""
    x = x if left is None else jnp.take_along_axis(x, jnp.expand_dims(left, -1), axis=-2)
    return x if right is None else jnp.take_along_axis(x, jnp.expand_dims(right, -2), axis=-1)
