"""Steps on a sphere: an array keeps its norm, and the learning rate is the angle by which it turns.

    d_t = g_t / |g_t|                                       |.| the norm of one array
    q_t = p_t - rate |p_t| d_t
    p_{t+1} = |p_t| q_t / |q_t|

g is what the links before made of the gradient (Adam's direction, Muon's), p the parameter. Behind a norm the size of a
matrix does not matter to the loss, only to how far a step of given length turns it; weight decay is the usual, slow
way to hold that size. Here it is held, and what the rate says happens from the first step to the last.

No difference of near arrays is formed. Let c = <p, d> / |p| and t = d - c p / |p|, the part of d across p, and
r = 1 / sqrt(1 - 2 rate c + rate^2), so that |q| = |p| / r. Then p turns by an angle whose sine is r rate sqrt(1 - c^2):

    p_{t+1} - p_t = -r rate |p| t - r^2 rate^2 (1 - c^2) / (1 + r (1 - rate c)) p

Wen, Dang, Lyu, Ma & Liang, Fantastic pretraining optimizers and where to find them 2.1: hyperball optimization, 2025.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.groups import GroupsBody, Halves
from .._combine.mask import matrices as all_matrices
from .._combine.plain import check_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import quotient
from .._core.transform import wrap
from .adam import adamw, scale_by_adam

_ANGLE = "the rate is the tangent of an angle, below 1"


@factory(sample={"learning_rate": 0.01})
def hyperball(learning_rate: Any):
    """Turns each array away from what comes in and keeps its norm.

    **Update**: as at this module's head.

    **Advice.** It stands last, in the place of decay and `scale_by_learning_rate`, behind `scale_by_adam`,
    `scale_by_muon` or any other direction. `adamh` is the usual recipe.

    Args:
        learning_rate: a number or a schedule, in [0, 1): the length of a step over the norm of the array, so about the
            angle in radians that it turns by. The size of what comes in does not matter.

    State: none for a number, a count for a schedule.

    Reach: leaf. Needs `params`. A stack of layers in one array is one layer unless `gx.per_layer` says otherwise. An
    array of zeros has no direction and stays zero: leave layers that start there, and biases, to another method.

    Returns:
        A transform behind which the norm of every array is what it was.

    Raises:
        ValueError: for a rate outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> w = jnp.array([[3.0, 4.0]])
        >>> tx = gx.param_groups({"*kernel": gx.chain(gx.scale_by_muon(), gx.hyperball(0.1)), "*": gx.adamw(3e-4)})
        >>> params = {"kernel": w, "bias": jnp.ones(2)}
        >>> updates, _ = tx.update(params, tx.init(params), {"kernel": -w[:, ::-1], "bias": jnp.ones(2)})
        >>> round(float(jnp.linalg.norm(updates["kernel"] - w[:, ::-1])), 4)  # its norm is still 5
        5.0

    Differs from Optax, which does not have it.
    """
    check_number("hyperball", "learning_rate", learning_rate, low=0, high=1, open_high=True, why=_ANGLE)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s
        radius, size = leaf.norm(p), leaf.norm(g)
        zero, one = (np.asarray(number, size.dtype) for number in (0, 1))
        rate = jnp.where(size == 0, zero, k.rate)
        d = quotient(g, size)
        c = quotient(leaf.sum((jnp.conj(p) * d).real), radius)
        r = jax.lax.rsqrt(jnp.maximum(one + rate * (rate - 2 * c), np.asarray(_LEAST, rate.dtype)))
        across = d - quotient(c, radius) * p
        back = jnp.square(r * rate) * jnp.maximum((one - c) * (one + c), zero) / (one + r * (one - rate * c))
        return -(r * rate * radius) * across - back * p

    return leafwise(
        step,
        scalars={"rate": learning_rate},
        arguments={"rate": "learning_rate"},
        needs=("params",),
        rate=1,
        flips=True,
        sharded=True,
    )


#: A step of the radius itself straight at the centre would end there.
_LEAST = 1e-6


@factory
def adamh(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    adam_learning_rate: Any = None,
    weight_decay: Any = 0.0,
    matrices: Any = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """AdamH: Adam's direction on a sphere for matrices, AdamW for everything else.

    **Advice.** Rates of 0.005 to 0.02 with a warmup and a decay to zero; no decay of the matrices is needed, since
    their norms stay those of the initialisation. Embeddings and the output layer are matrices and belong to AdamW, as
    in the paper: `matrices=gx.matrices(exclude=("*embed*", "head/*"))`. Layers that start at zero too.

    Args:
        learning_rate: a number or a schedule, in [0, 1); the angle by which a matrix turns in one step.
        b1, b2, eps, mu_dtype, nu_dtype: as in `scale_by_adam`, for all leaves.
        adam_learning_rate: the rate of the rest; None is `learning_rate`, which is large for AdamW.
        weight_decay: the decay of the rest, per unit of `adam_learning_rate`.
        matrices: which leaves keep their norm; every form of `gx.masked`. None: `gx.matrices()`.

    Returns:
        Two groups, "hyperball" and "adam": `chain(scale_by_adam(...), hyperball(learning_rate))` and `adamw`.

    Example:
        >>> import gradxform as gx
        >>> gx.adamh(0.01, adam_learning_rate=3e-4, matrices=gx.matrices(exclude="embed*"))
        gx.adamh(0.01, adam_learning_rate=0.0003, matrices=gx.matrices(exclude='embed*'))
    """
    check_rate("adamh", learning_rate)
    other = learning_rate if adam_learning_rate is None else adam_learning_rate
    check_number("adamh", "adam_learning_rate", other, low=0)
    dtypes = {"nu_dtype": nu_dtype}
    turned = chain(scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, **dtypes), hyperball(learning_rate))
    rest = adamw(other, b1, b2, eps, mu_dtype=mu_dtype, weight_decay=weight_decay, **dtypes)
    taken = Halves(
        all_matrices() if matrices is None else matrices, ("hyperball", "adam"), "gx.adamh(matrices)"
    )
    return wrap(GroupsBody(taken, (turned, rest)))
