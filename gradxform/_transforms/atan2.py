"""Adam-atan2: Adam without an epsilon, whose quotient is an angle.

    m_t = b1 m_{t-1} + (1 - b1) g_t            `mu` in the state
    v_t = b2 v_{t-1} + (1 - b2) g_t^2          `nu`
    u_t = a atan2(m_hat_t, b sqrt(v_hat_t))

g is the gradient; hats are corrections by 1 - b^t, t = 1, 2, ... the step. The arctangent of a quotient is nearly the
quotient where that is small, is defined where both sides are 0, and never above pi / 2. So the update does not change
at all when the loss is multiplied by a number, however small gradients are; an epsilon is felt from there on where it
is no longer far below them, which the width of a model decides.
Everett et al., Scaling exponents across parameterizations and optimizers, 2024, arXiv:2407.05872.
"""

from typing import Any

import jax.numpy as jnp
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, debias, ema, quotient
from .decay import add_decayed_weights, check_decay


@factory
def scale_by_adam_atan2(
    b1: Any = 0.9,
    b2: Any = 0.999,
    a: Any = 1.27,
    b: Any = 1.0,
    *,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """The direction of Adam-atan2, without learning rate and still uphill.

    **Update**: `u = a atan2(m_hat, b sqrt(v_hat))`; of a complex gradient with the direction of `m` and the size of it
    in the place of `m_hat`.

    Args:
        b1: decay of the average, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        a: what the angle is multiplied by, above 0. With 1.27, about 4 / pi, the update is 1 where Adam's is 1; with 1,
            the paper's choice, it is 0.79 there.
        b: what the root is multiplied by, above 0; small updates are `a / b` times Adam's.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: `optax.ScaleByAdamState(count, mu, nu)`, Adam's own: two numbers a parameter; roles count, moment, second
    moment. A run of Adam can go on with this rule, and the other way round.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size where gradients keep their sign, and never above `a pi / 2`.

    Raises:
        ValueError: for a decay outside [0, 1), or `a` or `b` that is not positive.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adam_atan2()
        >>> [round(float(tx.update(g, tx.init(0.0))[0]), 4) for g in (3.0, -1e-15, 0.0)]
        [0.9975, -0.9975, 0.0]

    Differs from Optax, which does not have it.
    """
    who = "scale_by_adam_atan2"
    check_number(who, "b1", b1, low=0, high=1, open_high=True)
    check_number(who, "b2", b2, low=0, high=1, open_high=True)
    check_number(who, "a", a, low=0, open_low=True)
    check_number(who, "b", b, low=0, open_low=True)

    def once(c: Any) -> dict[str, Any]:
        return {"c1": 1 / debias(c.b1, c.t), "c2": 1 / debias(c.b2, c.t)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m, v = ema(g, s.mu, k.b1), ema(abs_sq(g), s.nu, k.b2)
        u = k.a * _angle(k.c1 * m, k.b * jnp.sqrt(k.c2 * v))
        return u, {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"a": a, "b": b},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
    )


def _angle(y: Any, x: Any) -> Any:
    if not jnp.iscomplexobj(y):
        return jnp.arctan2(y, x)
    size = jnp.abs(y)
    return quotient(y, size) * jnp.arctan2(size, x)


@factory
def adam_atan2(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    a: Any = 1.27,
    b: Any = 1.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Adam-atan2: AdamW without an epsilon to tune.

    **Advice.** AdamW's rate, decay and schedule. It pays in wide models and in low precision, where gradients come near
    AdamW's epsilon, and where a rate is carried from a small model to a large one.

    Args:
        learning_rate: a number or a schedule; about the change of one weight in one step.
        b1, b2, a, b, mu_dtype, nu_dtype: as in `scale_by_adam_atan2`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_adam_atan2(...), add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.adam_atan2(3e-4, weight_decay=0.1, mask=gx.matrices())
        gx.adam_atan2(0.0003, weight_decay=0.1, mask=gx.matrices())
    """
    check_rate("adam_atan2", learning_rate)
    check_decay("adam_atan2", weight_decay)
    return chain(
        scale_by_adam_atan2(b1, b2, a, b, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
