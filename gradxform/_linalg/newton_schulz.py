"""Newton-Schulz: the orthogonal factor of a matrix by matrix products alone.

    X_0 = X / |X|
    A = X X^T,   X <- a X + (b A + c A^2) X                  once for each triple (a, b, c)

A step maps every singular value s to `a s + b s^3 + c s^5` and leaves the singular vectors. Triples are chosen so that
a few steps bring everything in (0, 1] near 1: U S V^T becomes nearly U V^T. They have their largest slope at 0, since
most singular values of a gradient are small, and so those of the result lie in a band around 1 and not at 1.

A is made on the smaller side, so a tall matrix has `A = X^T X` and `X <- a X + X (b A + c A^2)`. The axis is named in
the product; no transposed copy is made. One matrix is a product of two axes, several of one shape are one batch: a
batch of one matrix made XLA copy operands between the products, which cost Optax's form twice the time on CPU.

Products are pinned: in float32 no accelerator may shorten operands, in bfloat16 sums are still made in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.errors import check_integer, say, short
from .._core.numerics import abs_sq, quotient, real_dtype, root
from .products import gram_of, times

Triple = tuple[Any, Any, Any]

#: Keller Jordan's: very steep at 0; five steps bring [0.005, 1] into [0.68, 1.16], and more steps no nearer to 1.
#: https://kellerjordan.github.io/posts/muon
STANDARD = (3.4445, -4.7750, 2.0315)

#: A triple a step, as Optax has them; from modded-nanogpt by way of microsoft/dion.
DION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)

# Amsel, Persson, Musco & Gower, The Polar Express, 2025, arXiv:2505.16932, for singular values from 1e-3: the best
# odd polynomial of degree 5 at each step, from the interval that the step before has left. The last is used for ever.
_EXACT_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def _shrunk(triple: Triple, factor: float) -> Triple:
    """The polynomial of `s / factor`."""
    return triple[0] / factor, triple[1] / factor**3, triple[2] / factor**5


def polar_express(steps: int) -> tuple[Triple, ...]:
    """The triples of Polar Express, with the margin of its authors against rounding: 1 % a step, 2 % at the first."""
    table = [_shrunk(triple, 1.01) for triple in _EXACT_EXPRESS[:-1]] + [_EXACT_EXPRESS[-1]]
    table[0] = _shrunk(table[0], 1.01)  # their code divides by 1.01 |X|
    return tuple((table + [table[-1]] * steps)[:steps])


_SETS: dict[str, Callable[[int], Any]] = {
    "standard": lambda steps: STANDARD,
    "dion": lambda steps: DION,
    "polar_express": polar_express,
}


def coefficients(call: str, ns_coeffs: Any, ns_steps: Any) -> np.ndarray[Any, Any]:
    """The triples as numbers, of shape (3,) for one that is used at every step, else one row a step."""
    check_integer(call, "ns_steps", ns_steps)
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in _SETS:
            known = ", ".join(map(repr, _SETS))
            raise ValueError(f"gx.{call}(ns_coeffs={ns_coeffs!r}): wanted {known} or numbers")
        ns_coeffs = _SETS[ns_coeffs](int(ns_steps))
    try:
        found = np.asarray(ns_coeffs, float)
    except (TypeError, ValueError):
        found = np.zeros(())
    if found.ndim not in (1, 2) or found.shape[found.ndim - 1] != 3:
        wanted = "wanted a triple (a, b, c), a triple for each step, or the name of a set"
        raise ValueError(f"gx.{call}(ns_coeffs={short(ns_coeffs)}): {wanted}")
    if found.ndim == 2 and len(found) > ns_steps:
        fact = f"gx.{call}(ns_steps={ns_steps}): there are triples for {len(found)} steps"
        raise ValueError(say(fact, f"say ns_steps={len(found)}, or leave out triples"))
    return found


PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")


def orthogonalise(
    x: Any,
    triples: Sequence[Triple],
    *,
    eps: Any = 1e-8,
    preconditioning: str = "frobenius",
    dtype: Any = None,
) -> Any:
    """`U V^T` of each matrix `U S V^T` in `x[..., rows, columns]`, nearly.

    Args:
        x: one matrix, or several of a shape.
        triples: the coefficients of each step.
        eps: added to the norm; a matrix of zeros stays one.
        preconditioning: what brings singular values below 1: "frobenius" divides by the root of the sum of squares,
            "spectral" by the largest singular value; "aol" and "schatten" correct the first of them by what the first
            product shows, the rows (of the smaller side) by their sums in |A|, the whole by |A|.
        dtype: in which dtype the factors of products are; None is that of `x`.

    Returns:
        An array like `x`.
    """
    if 0 in x.shape:
        return x
    rows, columns = x.shape[-2:]
    tall, given = rows > columns, x.dtype
    side = -1 if tall else -2  # the axis that gram is of
    size = _size(x, preconditioning) + eps
    x = x / _expanded(jnp.where(size == 0, jnp.ones_like(size), size))
    x = x if dtype is None else x.astype(dtype)
    for i, (a, b, c) in enumerate(triples):
        gram = gram_of(x, side)
        if i == 0 and preconditioning in ("aol", "schatten"):
            x, gram = _rescaled(x, gram, side, preconditioning)
        short = _kept(gram, x.dtype)
        B = _kept(b * gram + c * times(short, short, -1, -2), x.dtype)
        moved = times(x, B, -1, -2) if tall else times(B, x, -1, -2)
        x = _kept(a * _kept(x, moved.dtype) + moved, x.dtype)
    return x.astype(given)


def _size(x: Any, preconditioning: str) -> Any:
    """The number that each matrix is divided by."""
    if preconditioning == "spectral":
        return jnp.linalg.svd(x, compute_uv=False)[..., 0]
    return root(jnp.sum(abs_sq(x), axis=(-2, -1)))


def _expanded(numbers: Any) -> Any:
    return jnp.expand_dims(numbers, (-2, -1))


def _rescaled(x: Any, gram: Any, side: int, preconditioning: str) -> tuple[Any, Any]:
    """The matrices and their gram with smaller factors than the norm's; the rows that are zero stay zero."""
    one = jnp.ones((), real_dtype(gram.dtype))
    if preconditioning == "schatten":
        s = jnp.sqrt(quotient(one, root(jnp.sum(abs_sq(gram), axis=(-2, -1)))))
        return _kept(_expanded(s) * _kept(x, gram.dtype), x.dtype), _expanded(s * s) * gram
    s = jnp.sqrt(quotient(one, jnp.sum(jnp.abs(gram), axis=-1)))
    along = jnp.expand_dims(s, -2 if side == -1 else -1)
    gram = jnp.expand_dims(s, -1) * gram * jnp.expand_dims(s, -2)
    return _kept(along * _kept(x, gram.dtype), x.dtype), gram


def _kept(x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype else x.astype(dtype)
