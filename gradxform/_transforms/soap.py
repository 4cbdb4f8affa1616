"""SOAP: Adam in the eigenbasis of Shampoo's averages, and Adam as it is for what is no matrix.

    G'_t = Q_L^H G_t Q_R                             where rounding leaves more than noise, else 0
    m_t = b1 m_{t-1} + (1 - b1) G'_t                 `mu` in the state, in the basis
    v_t = b2 v_{t-1} + (1 - b2) |G'_t|^2             `nu`, in the basis
    u_t = Q_L (m_hat_t / (sqrt(v_hat_t) + eps)) Q_R^H
    L_t = b L_{t-1} + (1 - b) G_t G_t^H              `gram_left`, `basis_left` is Q_L
    R_t = b R_{t-1} + (1 - b) G_t^H G_t              `gram_right`, `basis_right` is Q_R

G is the gradient, an m x n matrix, t = 1, 2, ... the step, b `shampoo_beta`; hats are corrections for having started at
zero. Bases are made behind the update, so that no gradient is seen in a basis of its own, in which it would be
diagonal: at step 1 the eigenvectors of L and R, and then every `precondition_frequency` steps one step of orthogonal
iteration, see the head of `_linalg/bases.py`. m is brought along into the new basis; v cannot be, and is put in the
order of the columns. Algorithm 3 of the paper keeps m in the axes of G and rotates it at every step. Kept in the basis,
as in the authors' code, it is the same m with two of eight products less, and next to its own v in fewer bits.

With `kl`, each average is of what the other has whitened, which is where the two together are nearest to the covariance
of gradients in the sense of Kullback and Leibler:

    L_t = b L_{t-1} + (1 - b) G_t R^-1 G_t^H / n      l_t = b l_{t-1} + (1 - b) diag(Q_L^H G_t R^-1 G_t^H Q_L) / n
    R_t = b R_{t-1} + (1 - b) G_t^H L^-1 G_t / m      r_t = b r_{t-1} + (1 - b) diag(Q_R^H G_t^H L^-1 G_t Q_R) / m

with R^-1 = Q_R diag(1 / r_{t-1}) Q_R^H and L^-1 alike; l is `values_left`, r `values_right`. They start at the mean
square of the first gradient, which is not whitened, and are put in the order of the columns with v. The authors start
them at a constant, 0.1, which knows nothing of the size of gradients; the eigenvalues of the averages at step 1 would
be zero in most directions, and what they divide would drown what follows for hundreds of steps.

Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson & Kakade, SOAP: improving and stabilizing Shampoo using Adam, 2024,
arXiv:2409.11321. Lin, Lowe, Dangel, Eschenhagen, Xu & Grosse, Understanding and improving Shampoo and SOAP via
Kullback-Leibler minimization, 2025, arXiv:2509.03378.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core import automatic
from .._core.errors import check_flag, check_integer, check_number
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.roles import Basis, Count, Factor, Gram, Moment, SecondMoment
from .._core.transform import GradientTransformation
from .._linalg.bases import back, first_bases, followed, reordered, rotated
from .._linalg.dims import finder, resolved, seen_if
from .._linalg.products import gram_of
from .._linalg.sides import Sides, makers, named, pair, sides_of
from .._linalg.whiten import whitened
from .decay import add_decayed_weights, check_decay


class SoapState(NamedTuple):
    """`mu` and `nu` are in the bases. An array of one number stands where there is no basis."""

    count: Count
    mu: Moment
    nu: SecondMoment
    gram_left: Gram
    gram_right: Gram
    basis_left: Basis
    basis_right: Basis


class KLSoapState(NamedTuple):
    """As `SoapState`; `values_left` and `values_right` are the averages of diagonals of the grams in their bases."""

    count: Count
    mu: Moment
    nu: SecondMoment
    gram_left: Gram
    gram_right: Gram
    basis_left: Basis
    basis_right: Basis
    values_left: Factor
    values_right: Factor


#: What is done about bases at a step.
STAY, MAKE, FOLLOW = range(3)


@factory
def scale_by_soap(
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
    *,
    shampoo_beta: Any = 0.95,
    precondition_frequency: int = 10,
    max_precondition_dim: int = 10_000,
    kl: bool = False,
    skip_first: bool = False,
    nu_dtype: Any = None,
    weight_dimension_numbers: Any = None,
):
    """SOAP's direction, without learning rate and still uphill.

    **Update**: as at this module's head. What is no matrix, or of both sides too large, has Adam's.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root; in the unit of a gradient.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        shampoo_beta: decay of the averages that bases are made of, in [0, 1).
        precondition_frequency: how many steps a basis is kept. 1 is best and dearest: a product, a QR decomposition and
            two products of the matrix a side.
        max_precondition_dim: a longer side of a matrix has no basis and is not rotated; a vocabulary, say.
        kl: whether each average is of what the other has whitened (KL-SOAP).
        skip_first: whether the first step makes bases and nothing else, as in the authors' code. False takes a step of
            Adam's. From the second step on both are the same: bases come with new averages.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter.
        weight_dimension_numbers: which axes of an array are the matrix, in every form that `scale_by_muon` takes;
            leaves for which they are None have Adam's update. Without any, arrays of two axes are matrices.

    State: `SoapState(count, mu, nu, gram_left, gram_right, basis_left, basis_right)`: two numbers a parameter, and
    2 m^2 + 2 n^2 of an m x n matrix; roles count, moment, second moment, gram, basis. With `kl`, `KLSoapState`: m + n
    more, of role factor. Grams and bases of 16-bit parameters are float32.

    Reach: leaf. A stack of layers in one array needs `gx.per_layer` or dimension numbers.

    Returns:
        A transform whose update is about as large as Adam's.

    Raises:
        ValueError: for a decay outside [0, 1), a negative epsilon or size, a frequency below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_soap()
        >>> g = jnp.array([[3.0, 0.0], [0.0, -0.1]])
        >>> tx.update(g, tx.init(g))[0].round(3).tolist()  # the first step is Adam's
        [[1.0, 0.0], [0.0, -1.0]]
    """
    who = "scale_by_soap"
    for name, value in (("b1", b1), ("b2", b2), ("shampoo_beta", shampoo_beta)):
        check_number(who, name, value, low=0, high=1, open_high=True)
    check_number(who, "eps", eps, low=0)
    check_integer(who, "precondition_frequency", precondition_frequency, low=1)
    check_integer(who, "max_precondition_dim", max_precondition_dim, low=0)
    check_flag(who, "kl", kl)
    check_flag(who, "skip_first", skip_first)
    over, every = ratio(eps), np.int32(int(precondition_frequency))

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        later = jnp.maximum(c.t - one, one)  # steps since moments began in a basis
        t = later if skip_first else c.t
        first, turn = c.count == 0, c.count % every == 0
        found = {"c1": 1 / debias(c.b1, t), "c2": 1 / debias(c.b2, t), "first": first}
        found |= {"d1": 1 / debias(c.b1, later), "d2": 1 / debias(c.b2, later)}
        found["which"] = jnp.where(first, np.int32(MAKE), jnp.where(turn, np.int32(FOLLOW), np.int32(STAY)))
        return found

    def rule(dims: Any) -> GradientTransformation:
        find = finder(who, dims)

        def sides(leaf: Any) -> Sides | None:
            return sides_of(seen_if(who, dims, find, leaf), int(max_precondition_dim))

        def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
            del p
            seen = sides(leaf)
            if seen is None:
                m, v = ema(g, s.mu, k.b1), ema(abs_sq(g), s.nu, k.b2)
                found = (over(k.c1 * m, jnp.sqrt(k.c2 * v) + k.eps), m, v)
                u, m, v = (_skipped(x, k.first) for x in found) if skip_first else found
                return u, {"mu": m, "nu": v}

            def work(g: Any, slots: dict[str, Any], k: dict[str, Any]) -> Any:
                u, slots = _soap(seen, g, slots, SimpleNamespace(**k), over)
                return (_skipped(u, k["first"]) if skip_first else u), slots

            def specs() -> Any:
                return automatic.spec_in_type(g), {n: automatic.spec_in_type(x) for n, x in mine.items()}

            mine = {name: x for name, x in vars(s).items() if seen.has(name)}
            return automatic.run_cut(work, specs, g, mine, dict(vars(k)))

        return leafwise(
            step,
            once=once,
            state=KLSoapState if kl else SoapState,
            decays={"b1": b1, "b2": b2, "shampoo_beta": shampoo_beta},
            scalars={"eps": eps},
            dtypes={"mu": mu_dtype, "nu": nu_dtype},
            init=makers(sides, **_starts(kl)),
            wide=("gram_left", "gram_right", "basis_left", "basis_right"),
            own=("mu", "nu"),
            sees=lambda leaf: _told(sides(leaf)),
            call=who,
        )

    return resolved(who, rule, weight_dimension_numbers)


def _told(seen: Sides | None) -> str:
    return "no matrix: Adam" if seen is None else f"{seen.fold}, bases {' and '.join(seen.sides)}"


def _starts(kl: bool) -> dict[str, Any]:
    """What a side starts with: an average of zero, the basis of the axes, values of zero."""
    starts: dict[str, Any] = {"gram": lambda n: jnp.zeros((n, n)), "basis": jnp.eye}
    return starts | ({"values": jnp.zeros} if kl else {})


def _skipped(x: Any, first: Any) -> Any:
    return jnp.where(first, jnp.zeros_like(x), x)


def _soap(seen: Sides, g: Any, slots: Mapping[str, Any], k: Any, over: Callable[[Any, Any], Any]) -> Any:
    """The update of one leaf of matrices, and its slots."""
    fold, dtypes = seen.fold, {name: x.dtype for name, x in slots.items()}
    grams, bases = pair(slots, "gram"), pair(slots, "basis")
    values = tuple(None if x is None else x.real for x in pair(slots, "values"))
    G, m, v = fold.matrices(g), fold.matrices(slots["mu"]), fold.matrices(slots["nu"].real)
    inside = jnp.where(k.first, G, rotated(G, *bases))
    m, v = ema(inside, m, k.b1), ema(abs_sq(inside), v, k.b2)
    c1, c2 = (jnp.where(k.first, c, d) for c, d in ((k.c1, k.d1), (k.c2, k.d2)))
    u = over(c1 * m, (jnp.sqrt(c2 * v) + k.eps).astype(m.dtype))
    u = jnp.where(k.first, u, back(u, *bases))
    halves = (G, G)
    if values != (None, None):
        halves, squares = whitened(G, inside, bases, values)
        values = _averaged(values, squares, k.shampoo_beta)
    fresh = [gram_of(half, side) for half, side in zip(halves, (-2, -1), strict=True)]
    grams = _averaged(grams, fresh, k.shampoo_beta)
    known = Known(_skipped(m, k.first), _skipped(v, k.first), grams, bases, values)
    known = jax.lax.switch(k.which, (_stay, _make, _follow), known, G)
    made = {"mu": fold.array(known.m), "nu": fold.array(known.v)}
    made |= named("gram", known.grams) | named("basis", known.bases) | named("values", known.values)
    return fold.array(u), {name: made[name].astype(dtypes[name]) for name in slots}


def _averaged(old: Any, new: Any, decay: Any) -> Any:
    return tuple(None if x is None else ema(y, x, decay) for x, y in zip(old, new, strict=True))


class Known(NamedTuple):
    """What is known of a leaf behind its update: moments in its bases, and of each side what a method keeps."""

    m: Any
    v: Any
    grams: Any
    bases: Any
    values: Any


def _stay(known: Known, G: Any) -> Known:
    del G
    return known


def _make(known: Known, G: Any) -> Known:
    bases, square = first_bases(G, *known.grams), jnp.mean(abs_sq(G), axis=(-2, -1))
    flat = (
        None if x is None else jnp.broadcast_to(jnp.expand_dims(square, -1), x.shape) for x in known.values
    )
    return known._replace(bases=bases, values=tuple(flat))


def _follow(known: Known, G: Any) -> Known:
    del G
    rows = zip(known.grams, known.bases, strict=True)
    found = [(None, None) if gram is None else followed(gram, basis) for gram, basis in rows]
    orders, bases = zip(*found, strict=True)
    m, v = rotated(back(known.m, *known.bases), *bases), reordered(known.v, *orders)
    rows = zip(known.values, orders, strict=True)
    values = tuple(None if x is None else jnp.take_along_axis(x, order, axis=-1) for x, order in rows)
    return Known(m, v, known.grams, bases, values)


@factory
def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
    mask: Any = None,
    mu_dtype: Any = None,
    *,
    shampoo_beta: Any = 0.95,
    precondition_frequency: int = 10,
    max_precondition_dim: int = 10_000,
    kl: bool = False,
    skip_first: bool = False,
    nu_dtype: Any = None,
    weight_dimension_numbers: Any = None,
):
    """SOAP: AdamW in the axes in which gradients of a matrix are least related.

    **Advice.** AdamW's schedule and decay, and 3e-3 for its rate. It takes fewer steps than AdamW, the more so the
    larger the batch. Of a square matrix it keeps six numbers a weight where AdamW keeps two; a step has six products of
    the matrix with its sides more, and every tenth two QR decompositions. Of weights with heads in an axis of their own
    say by dimension numbers what the matrix is, or they have Adam's update.

    Args:
        learning_rate: a number or a schedule; about the root mean square of a step.
        b1, b2, eps, mu_dtype, nu_dtype, shampoo_beta, kl, skip_first: as in `scale_by_soap`.
        precondition_frequency, max_precondition_dim, weight_dimension_numbers: as there.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_soap(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.soap(gx.warmup_cosine(3e-3, 100, 10_000), mask=gx.matrices(), kl=True)
        gx.soap(gx.warmup_cosine(0.003, 100, 10000), mask=gx.matrices(), kl=True)
    """
    check_rate("soap", learning_rate)
    check_decay("soap", weight_decay)
    first = scale_by_soap(
        b1,
        b2,
        eps,
        mu_dtype,
        shampoo_beta=shampoo_beta,
        precondition_frequency=precondition_frequency,
        max_precondition_dim=max_precondition_dim,
        kl=kl,
        skip_first=skip_first,
        nu_dtype=nu_dtype,
        weight_dimension_numbers=weight_dimension_numbers,
    )
    return chain(first, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))
