"""Adan: Adam with Nesterov's momentum built from differences of gradients.

    d_t = g_t - g_{t-1}, and 0 at the first step     `g` in the state is the last gradient
    m_t = b1 m_{t-1} + (1 - b1) g_t                  `m`
    v_t = b2 v_{t-1} + (1 - b2) d_t                  `v`
    n_t = b3 n_{t-1} + (1 - b3) (g_t + w d_t)^2      `n`
    u_t = (m_hat_t + w v_hat_t) / (sqrt(n_hat_t + eps_root) + eps)

g is the gradient; hats are corrections by 1 - b^t, t = 1, 2, ... the step. The b are the shares *kept* (the paper's
betas are the shares renewed). In the paper and its code the weight w of a difference is the share kept, b2; Optax takes
1 - b2. Xie et al., Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models, 2022,
arXiv:2208.06677.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.roles import Count, History, Moment, SecondMoment, declare_roles
from .decay import add_decayed_weights, check_decay

declare_roles(optax.ScaleByAdanState, m=Moment, v=Moment, n=SecondMoment, g=History, t=Count)


@factory
def scale_by_adan(
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    *,
    weigh_by_b2: bool = False,
):
    """Adan's direction, without learning rate and still uphill.

    **Update**: as at this module's head.

    Args:
        b1: decay of the average gradient, in [0, 1).
        b2: decay of the average difference, in [0, 1).
        b3: decay of the second moment, in [0, 1).
        eps: added to the root; in the unit of a gradient.
        eps_root: added under the root.
        weigh_by_b2: True weighs differences by b2, as the paper and its code do, instead of by 1 - b2, as Optax does.
            At the defaults that is 0.92 against 0.08: most of what makes Adan different from Adam.

    State: `optax.ScaleByAdanState(m, v, n, g, t)`: four numbers a parameter; roles moment, moment, second moment,
    history, count.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size wherever gradients keep their sign.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adan()
        >>> round(float(tx.update(3.0, tx.init(0.0))[0]), 4)
        1.0

    Differs from Optax: the corrections lose nothing to cancellation, and the averages of a 16-bit parameter are float32
    (with b1 = 0.98 an average in bfloat16 stops a tenth short of its target).
    """
    for name, value in (("b1", b1), ("b2", b2), ("b3", b3)):
        check_number("scale_by_adan", name, value, low=0, high=1, open_high=True)
    check_number("scale_by_adan", "eps", eps, low=0)
    check_number("scale_by_adan", "eps_root", eps_root, low=0)
    check_flag("scale_by_adan", "weigh_by_b2", weigh_by_b2)
    over = ratio(eps, eps_root)

    def once(c: Any) -> dict[str, Any]:
        return {
            "first": c.count == 0,
            "w": c.b2.value if weigh_by_b2 else c.b2.complement,
            "c1": 1 / debias(c.b1, c.t),
            "c2": 1 / debias(c.b2, c.t),
            "c3": 1 / debias(c.b3, c.t),
        }

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        d = jnp.where(k.first, np.asarray(0, g.dtype), g - s.g)
        m = ema(g, s.m, k.b1)
        v = ema(d, s.v, k.b2)
        n = ema(abs_sq(g + k.w * d), s.n, k.b3)
        u = over(k.c1 * m + k.w * k.c2 * v, jnp.sqrt(k.c3 * n + k.eps_root) + k.eps)
        return u, {"m": m, "v": v, "n": n, "g": g}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdanState,
        decays={"b1": b1, "b2": b2, "b3": b3},
        scalars={"eps": eps, "eps_root": eps_root},
        wide=("m", "v"),
    )


@factory(presets={"paper": {"eps_root": 0.0, "weight_decay": 0.02, "weigh_by_b2": True, "proximal": True}})
def adan(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    eps_root: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    weigh_by_b2: bool = False,
    proximal: bool = False,
    like: str = "optax",
):
    """Adan: for large batches and long runs of vision models.

    **Advice.** The authors use rates five to ten times AdamW's with a decay of 0.02, and a longer memory than Adam's;
    twice AdamW's state. Use `like="paper"` for the published method.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, b3, eps, eps_root, weigh_by_b2: as in `scale_by_adan`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.
        proximal: True decays by division, `p = (p - rate u) / (1 + rate weight_decay)`, as the paper does.
        like: whose defaults: "optax", or "paper" (differences weighed by b2, proximal decay of 0.02, no `eps_root`).

    Returns:
        `chain(scale_by_adan(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.adan(1e-3, like="paper")
        gx.adan(0.001, eps_root=0.0, weight_decay=0.02, weigh_by_b2=True, proximal=True)
    """
    check_rate("adan", learning_rate)
    check_decay("adan", weight_decay)
    check_flag("adan", "proximal", proximal)
    del like
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root, weigh_by_b2=weigh_by_b2),
        add_decayed_weights(weight_decay, mask, proximal_rate=learning_rate if proximal else None),
        scale_by_learning_rate(learning_rate),
    )
