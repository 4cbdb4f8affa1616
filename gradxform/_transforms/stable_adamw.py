"""StableAdamW: AdamW that makes a smaller step of an array whose gradients are larger than its second moments know.

    m_t = b1 m_{t-1} + (1 - b1) g_t                       `mu` in the state
    v_t = b2 v_{t-1} + (1 - b2) g_t^2                     `nu`
    r_t = sqrt(mean(g_t^2 / max(v_hat_t, eps^2)))         a number for each array
    u_t = (m_hat_t / (sqrt(v_hat_t) + eps) + weight_decay p_t) / max(1, r_t)

g is the gradient, p the parameter; hats are corrections by 1 - b^t, t = 1, 2, ... the step. With b2 near 1 v is old:
when a layer's gradients have grown, AdamW's step is too large by r, and that is what most spikes of the loss begin
with. Here the rate is divided by r, as Adafactor does with its updates; the clip of gradients is no longer needed.
Wortsman et al., Stable and low-precision training for large-scale vision-language models, 2023, arXiv:2304.13013.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.groups import GroupsBody, Halves
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import abs_sq, debias, ema, ratio, root
from .._core.scalars import is_zero
from .._core.transform import wrap
from .decay import check_decay


@factory
def scale_by_stable_adam(
    b1: Any = 0.9,
    b2: Any = 0.99,
    eps: Any = 1e-6,
    *,
    weight_decay: Any = 0.0,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """StableAdamW's direction, without learning rate and still uphill.

    **Update**: as at this module's head.

    Args:
        b1: decay of the average, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root, and the least root that a gradient is measured by; in the unit of a gradient.
        weight_decay: the decay, which is divided by `r` together with the step; a number of at least 0, or a schedule.
            Not to stand beside `add_decayed_weights`.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: `optax.ScaleByAdamState(count, mu, nu)`, Adam's own: two numbers a parameter; roles count, moment, second
    moment.

    Reach: leaf. With a decay, `params` are needed too. A stack of layers in one array is one layer unless
    `gx.per_layer` says otherwise.

    Returns:
        A transform whose update is Adam's, or smaller.

    Raises:
        ValueError: for a decay outside its range or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_stable_adam(b1=0.0, b2=0.5)
        >>> _, state = tx.update(0.0, tx.init(0.0))
        >>> round(float(tx.update(1.0, state)[0]), 4)  # Adam's would be sqrt(1.5)
        1.0

    Differs from Optax, which does not have it.
    """
    who = "scale_by_stable_adam"
    check_number(who, "b1", b1, low=0, high=1, open_high=True)
    check_number(who, "b2", b2, low=0, high=1, open_high=True)
    check_number(who, "eps", eps, low=0)
    check_number(who, "weight_decay", weight_decay, low=0)
    over, decays = ratio(eps), not is_zero(weight_decay)

    def once(c: Any) -> dict[str, Any]:
        return {"c1": 1 / debias(c.b1, c.t), "c2": 1 / debias(c.b2, c.t)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        m, v = ema(g, s.mu, k.b1), ema(abs_sq(g), s.nu, k.b2)
        size = jnp.sqrt(k.c2 * v)
        rms = root(leaf.mean(abs_sq(over(g, jnp.maximum(size, k.eps)))))
        u = over(k.c1 * m, size + k.eps)
        u = u + k.weight_decay * p if decays else u
        return u / jnp.maximum(np.asarray(1, rms.dtype), rms), {"mu": m, "nu": v}

    return leafwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps} | ({"weight_decay": weight_decay} if decays else {}),
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
        needs=("params",) if decays else (),
        coupled=decays,
        sharded=True,
    )


@factory
def stable_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.99,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """StableAdamW: AdamW without spikes, and without a clip of gradients.

    **Advice.** AdamW's rate, decay and schedule, and no `clip_by_global_norm` before it. It pays where the loss of
    AdamW spikes: large batches, low precision, a b2 of 0.99 and above.

    Args:
        learning_rate: a number or a schedule; about the change of one weight in one step, and the most of it.
        b1, b2, eps, mu_dtype, nu_dtype: as in `scale_by_stable_adam`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_stable_adam(...), scale_by_learning_rate(learning_rate))`; with a mask, the former is two
        groups, "decayed" and "rest".

    Example:
        >>> import gradxform as gx
        >>> gx.stable_adamw(1e-3, weight_decay=0.1, mask=gx.matrices())
        gx.stable_adamw(0.001, weight_decay=0.1, mask=gx.matrices())
    """
    check_rate("stable_adamw", learning_rate)
    check_decay("stable_adamw", weight_decay)
    options = {"mu_dtype": mu_dtype, "nu_dtype": nu_dtype}
    direction = scale_by_stable_adam(b1, b2, eps, weight_decay=weight_decay, **options)
    if mask is not None and not is_zero(weight_decay):
        rest = scale_by_stable_adam(b1, b2, eps, **options)
        direction = wrap(
            GroupsBody(Halves(mask, ("decayed", "rest"), "gx.stable_adamw(mask)"), (direction, rest))
        )
    return chain(direction, scale_by_learning_rate(learning_rate))
