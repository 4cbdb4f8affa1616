"""Weight decay: the parameter itself, scaled, added to the update.

    u_t = g_t + weight_decay(t) p_t                                      coupled: before the rate
    u_t = g_t - weight_decay(t) p_t                                      independent: behind the rate
    u_t = (g_t + weight_decay(t) p_t) / (1 + rate(t) weight_decay(t))    proximal: before the rate
    u_t = g_t + weight_decay(t) p_t  or g_t                              cautious: where g_t p_t >= 0, or not

The learning rate scales what stands before it. Behind Adam and before the rate this is AdamW (decoupled from the
moments, coupled to the rate, as in Optax and torch). Before Adam it is L2 regularisation, which divides the
decay by the root of v: another method.
Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019. Chen et al., Cautious weight decay, 2025,
arXiv:2510.12402.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.mask import MaskedBody
from .._core.errors import check_flag, check_number, concrete, short
from .._core.factory import factory
from .._core.foreign import WeightDecaySchedule
from .._core.lift import elementwise
from .._core.numerics import side
from .._core.scalars import is_schedule, is_zero
from .._core.transform import wrap


@factory(label="decay")
def add_decayed_weights(
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    coupled: bool = True,
    proximal_rate: Any = None,
    cautious: bool = False,
):
    """Adds the decayed parameters to the update.

    **Update**: `u = g + weight_decay p`; with `coupled=False`, `u = g - weight_decay p`; with a `proximal_rate`,
    `u = (g + weight_decay p) / (1 + rate weight_decay)`.

    Args:
        weight_decay: a number or a schedule. Coupled, each step shrinks a weight by `rate * weight_decay`,
            so 0.1 at a rate of 3e-4 forgets within 33,000 steps; independent, by `weight_decay` itself. A negative
            number with `coupled=True` is how Optax's chains write an independent decay, and belongs behind the rate.
        mask: which leaves decay; every form of `gx.masked`, usually `gx.matrices()`. None decays all.
        coupled: True stands before the learning rate in the chain, False behind it (`chain` refuses the other order).
        proximal_rate: the learning rate that follows, a number or a schedule: the step then ends at
            `(p - rate g) / (1 + rate weight_decay)`, which never overshoots zero however large the decay.
        cautious: True decays a weight only where the update takes it towards zero too, or is 0. The decay then never
            works against the gradient, so it moves no minimum of the loss; it chooses among them.

    State: none for numbers, Optax's `WeightDecaySchedule(count)` for a schedule; inside `MaskedState` with a mask.

    Reach: element. Needs `params`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.add_decayed_weights(0.5)
        >>> float(tx.update(1.0, tx.init(4.0), 4.0)[0])
        3.0
    """
    check_number("add_decayed_weights", "weight_decay", weight_decay, low=-np.inf if coupled else 0)
    check_flag("add_decayed_weights", "coupled", coupled)
    check_flag("add_decayed_weights", "cautious", cautious)
    known = concrete(weight_decay) or 0
    uncoupled = known < 0 or not coupled
    proximal = proximal_rate is not None
    if proximal:
        check_number("add_decayed_weights", "proximal_rate", proximal_rate, low=0)
        if not coupled or known < 0:
            hint = "a proximal decay stands before the rate and is not negative"
            raise ValueError(f"gx.add_decayed_weights(proximal_rate={short(proximal_rate)}): {hint}")
        if cautious:
            raise ValueError(
                "gx.add_decayed_weights(cautious=True): a proximal decay is not cautious; choose one"
            )

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        return {"shrink": one / (one + c.proximal_rate * c.weight_decay)} if proximal else {}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, leaf
        if is_zero(weight_decay):
            return g
        if proximal:
            return k.shrink * (g + k.weight_decay * p)
        if cautious:
            # Behind the rate the update points downhill.
            with_it = side(g, p) <= 0 if uncoupled else side(g, p) >= 0
            p = jnp.where(with_it, p, jnp.zeros_like(p))
        return g + k.weight_decay * p if coupled else g - k.weight_decay * p

    scalars = {"weight_decay": weight_decay} | ({"proximal_rate": proximal_rate} if proximal else {})
    decayed = elementwise(
        step,
        once=once,
        state=WeightDecaySchedule if any(map(is_schedule, scalars.values())) else optax.EmptyState,
        scalars=scalars,
        needs=("params",),
        uncoupled=uncoupled,
        coupled=known > 0 and coupled,
        call="add_decayed_weights",
    )
    if mask is None:
        return decayed
    return wrap(MaskedBody(decayed, mask, "gx.add_decayed_weights(mask)", mask_extra=False))


def check_decay(call: str, weight_decay: Any) -> None:
    """The check of a recipe's decay: it stands before the learning rate, so below 0 it would grow the weights."""
    check_number(call, "weight_decay", weight_decay, low=0)
