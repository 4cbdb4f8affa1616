"""LaProp: the gradient is divided by the root of v first and averaged afterwards; Adam does it the other way round.

    v_t = b2 v_{t-1} + (1 - b2) g_t^2                        `nu` in the state
    m_t = b1 m_{t-1} + (1 - b1) g_t / (sqrt(v_hat_t) + eps)  `mu`
    u_t = m_t / (1 - b1^t)

g is the gradient, v_hat = v / (1 - b2^t), t = 1, 2, ... the step. A gradient is measured by the v of its own time, so
b1 and b2 can be chosen freely, and no step is larger than the quotients that have gone into it.
Ziyin, Wang & Ueda, LaProp: separating momentum and adaptivity in Adam, 2020, arXiv:2002.04839.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.roles import Count, Moment, SecondMoment, declare_own
from .decay import add_decayed_weights, check_decay


class ScaleByLapropState(NamedTuple):
    """`mu` is an average of divided gradients: not Adam's, whose state does not fit."""

    count: Count
    mu: Moment
    nu: SecondMoment


declare_own(ScaleByLapropState, "mu")


@factory
def scale_by_laprop(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-15, *, mu_dtype: Any = None, nu_dtype: Any = None
):
    """LaProp's direction, without learning rate and still uphill.

    **Update**: `u = m / (1 - b1^t)` with the moments of this module's head.

    Args:
        b1: decay of the average, in [0, 1); larger means smoother and slower.
        b2: decay of the second moment, in [0, 1); 0 is the average of signs.
        eps: added to the root; in the unit of a gradient. With 0, a weight that has never had a gradient stays.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: `ScaleByLapropState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size wherever gradients keep their sign.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_laprop(b1=0.5, b2=0.0)
        >>> _, state = tx.update(3.0, tx.init(0.0))
        >>> round(float(tx.update(-1e-3, state)[0]), 4)  # two signs, the later one counts twice
        -0.3333

    Differs from Optax, which does not have it.
    """
    check_number("scale_by_laprop", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_laprop", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_laprop", "eps", eps, low=0)
    over = ratio(eps)

    def once(c: Any) -> dict[str, Any]:
        return {"c1": 1 / debias(c.b1, c.t), "c2": 1 / debias(c.b2, c.t)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        v = ema(abs_sq(g), s.nu, k.b2)
        m = ema(over(g, jnp.sqrt(k.c2 * v) + k.eps), s.mu, k.b1)
        return k.c1 * m, {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=ScaleByLapropState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
    )


@factory
def laprop(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-15,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """LaProp: Adam that stays calm when gradients change their size.

    **Advice.** AdamW's rate, decay and schedule are good first values; 4e-4 is the authors'. It pays where Adam needs a
    small b2 or diverges at a large b1: here any b1 goes with any b2.

    Args:
        learning_rate: a number or a schedule; about the change of one weight in one step.
        b1, b2, eps, mu_dtype, nu_dtype: as in `scale_by_laprop`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_laprop(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.laprop(4e-4, weight_decay=0.1, mask=gx.matrices())
        gx.laprop(0.0004, weight_decay=0.1, mask=gx.matrices())
    """
    check_rate("laprop", learning_rate)
    check_decay("laprop", weight_decay)
    return chain(
        scale_by_laprop(b1, b2, eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
