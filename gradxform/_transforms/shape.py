"""What stands behind an orthogonal update: a factor for its shape, and a size for each of its neurons.

    u = sqrt(max(1, fan_out / fan_in)) g            "keller"
    u = 0.2 sqrt(max(fan_in, fan_out)) g            "moonshot"
    u = sqrt(fan_out / fan_in) g                    "spectral"

    v_t = b2 v_{t-1} + (1 - b2) mean(g_t^2)         the mean over what a neuron sums up; `nu` in the state
    u_t = g_t / (sqrt(v_t) + eps)                   and then |g_t| / |u_t| times that

g is an update with singular values of about 1. The learning rates of the three conventions differ by factors of ten:
with "keller" a step's spectral norm is the rate for wide matrices; with "moonshot" its root mean square is 0.2, that of
AdamW's; with "spectral" a step changes what a layer puts out by the rate, whatever the widths, so that a rate found on
a narrow model holds for a wide one. The last two lines are NorMuon: after orthogonalisation all directions move alike
but single neurons do not. Jordan et al., Muon, 2024. Liu et al., Muon is scalable for LLM training, 2025,
arXiv:2502.16982. Bernstein & Newhouse, Modular duality in deep learning, 2024, arXiv:2410.21265. Li et al., NorMuon:
making Muon more efficient and scalable, 2025, arXiv:2510.05491.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat
from .._core.errors import check_number, short
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import abs_sq, ema, quotient, ratio, root
from .._core.roles import Factor
from .._core.transform import GradientTransformation
from .._linalg.dims import finder, resolved, seen_as

CONVENTIONS = ("keller", "moonshot", "spectral")


@factory
def scale_by_shape(
    weight_dimension_numbers: Any = None, consistent_rms: Any = None, *, convention: str | None = None
):
    """Multiplies each matrix by a number that depends on its shape: what an orthogonal update needs behind it.

    **Update**: a line of this module's head, or `u = c sqrt(max(fan_in, fan_out)) g`.

    Args:
        weight_dimension_numbers: as in `scale_by_muon`; rows of a matrix are what is summed over (fan in), columns what
            is made (fan out).
        consistent_rms: c, the root mean square of an update that comes in orthogonal; 0.2 is that of AdamW's
            updates, so that its learning rates can be kept (Liu et al. 2025). None for the `convention`.
        convention: "keller", "moonshot" or "spectral"; None is "keller".

    State: none.

    Reach: leaf.

    Raises:
        ValueError: for an unknown convention, or one beside `consistent_rms`; when parameters arrive, for a leaf that
            is no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> for convention in ("keller", "moonshot", "spectral"):
        ...     tx = gx.scale_by_shape(convention=convention)
        ...     print(round(float(tx.update(jnp.ones((4, 1)), tx.init(None))[0][0, 0]), 3))
        1.0
        0.4
        0.5

    Differs from Optax: `convention`.
    """
    who = "scale_by_shape"
    check_convention(who, convention, consistent_rms)

    def rule(dims: Any) -> GradientTransformation:
        find = finder(who, dims)

        def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
            del s, p
            fan_in, fan_out = seen_as(who, dims, find, leaf).size
            factor = _factor(convention if consistent_rms is None else "moonshot", fan_in, fan_out)
            return g * (np.asarray(factor, k.rms.dtype) * k.rms)

        plain = 0.2 if convention == "moonshot" else 1.0
        scalars = {"rms": plain if consistent_rms is None else consistent_rms}
        named = {"rms": "consistent_rms"}
        return leafwise(step, scalars=scalars, arguments=named, sharded=True, call=who)

    return resolved(who, rule, weight_dimension_numbers)


def _factor(convention: str | None, fan_in: int, fan_out: int) -> float:
    if convention == "moonshot":
        return math.sqrt(max(fan_in, fan_out))
    if convention == "spectral":
        return math.sqrt(fan_out / max(fan_in, 1))
    return math.sqrt(max(1.0, fan_out / max(fan_in, 1)))


def check_convention(call: str, convention: Any, consistent_rms: Any) -> None:
    """Raises unless a convention is known and is the only one that is asked for."""
    if consistent_rms is not None:
        check_number(call, "consistent_rms", consistent_rms, low=0)
    if convention is None:
        return
    if convention not in CONVENTIONS:
        known = ", ".join(map(repr, CONVENTIONS))
        raise ValueError(f"gx.{call}(convention={short(convention)}): wanted {known}")
    if consistent_rms is not None:
        fact = f"gx.{call}(convention={convention!r}, consistent_rms={short(consistent_rms)})"
        raise ValueError(f"{fact}: wanted one of the two; 'moonshot' is consistent_rms=0.2")


class NeuronState(NamedTuple):
    """`nu` is a number for each neuron: an array without the axes that are summed over."""

    nu: Factor


@factory
def normalize_neurons(b2: Any = 0.95, eps: Any = 1e-8, *, weight_dimension_numbers: Any = None):
    """Brings the neurons of a matrix to one size and leaves its norm: what NorMuon puts behind `scale_by_muon`.

    **Update**: the last lines of this module's head.

    Args:
        b2: decay of a neuron's mean square, in [0, 1).
        eps: added to its root; in the unit of what comes in.
        weight_dimension_numbers: as in `scale_by_muon`; a neuron is a column of a matrix, what is made.

    State: `NeuronState(nu)`: a number for each column; role factor. In float32 for a 16-bit parameter.

    Reach: leaf.

    Returns:
        A transform whose update has the norm of what comes in.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon; when parameters arrive, for a leaf that is no
            matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.normalize_neurons()
        >>> g = jnp.array([[3.0, 4.0]])  # two neurons with one input
        >>> [round(float(u), 4) for u in tx.update(g, tx.init(g))[0][0]]
        [3.5355, 3.5355]

    Differs from Optax, which does not have it.
    """
    who = "normalize_neurons"
    check_number(who, "b2", b2, low=0, high=1, open_high=True)
    check_number(who, "eps", eps, low=0)
    over = ratio(eps)

    def rule(dims: Any) -> GradientTransformation:
        find = finder(who, dims)

        def start(p: Any, leaf: Any) -> Any:
            rows = seen_as(who, dims, find, leaf).rows
            # Through the shape of a sum, so that a sharded array gives a sharded one.
            return compat.zeros_as(jax.eval_shape(lambda x: leaf.sum(x, rows), p))

        def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
            del p
            seen = seen_as(who, dims, find, leaf)
            whole = (*seen.rows, *seen.columns)
            v = ema(leaf.mean(abs_sq(g), seen.rows), s.nu, k.b2)
            u = over(g, jnp.expand_dims(jnp.sqrt(v), seen.rows) + k.eps)
            old, new = (root(leaf.sum(abs_sq(x), whole, keepdims=True)) for x in (g, u))
            return u * quotient(old, new), {"nu": v}

        return leafwise(
            step,
            state=NeuronState,
            decays={"b2": b2},
            scalars={"eps": eps},
            init={"nu": start},
            sharded=True,
            call=who,
        )

    return resolved(who, rule, weight_dimension_numbers)
