"""AdEMAMix: Adam with a second, much slower average of the gradient beside the first.

    m_t = b1 m_{t-1} + (1 - b1) g_t      `m1` in the state
    l_t = b3 l_{t-1} + (1 - b3) g_t      `m2`, the slow one
    v_t = b2 v_{t-1} + (1 - b2) g_t^2    `nu`
    u_t = (m_hat_t + alpha l_t) / (sqrt(v_hat_t + eps_root) + eps)

g is the gradient; hats are corrections by 1 - b^t, t = 1, 2, ... the step. The slow average is not corrected: it fills
by itself, over some 1 / (1 - b3) steps. One average cannot both follow the loss and remember ten thousand gradients;
two can. With `warmup_steps` T, alpha rises in a line from 0, and b3 from b1 so that its half-life does:

    alpha_t = alpha min(t / T, 1)        1 / ln b3_t = (1 - t / T) / ln b1 + (t / T) / ln b3    for t < T

Pagliardini, Ablin & Grangier, The AdEMAMix optimizer: better, faster, older, 2024, arXiv:2409.03137.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import ScaleByAdemamixState

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_integer, check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.roles import Count, Moment, SecondMoment, declare_roles
from .._core.scalars import Decay
from .decay import add_decayed_weights, check_decay

declare_roles(ScaleByAdemamixState, count=Count, count_m2=Count, m1=Moment, m2=Moment, nu=SecondMoment)


@factory
def scale_by_ademamix(
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 6.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    m2_dtype: Any = None,
    nu_dtype: Any = None,
    warmup_steps: int = 0,
):
    """AdEMAMix's direction, without learning rate and still uphill.

    **Update**: as at this module's head.

    Args:
        b1: decay of the fast average, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        b3: decay of the slow average, in [0, 1); 0.9999 remembers half of what was 6,931 steps ago. With few steps
            take less: the paper's 0.999 for runs of some thousand.
        alpha: the weight of the slow average; 0 is Adam. 4 to 10 in the paper.
        eps: added to the root; in the unit of a gradient.
        eps_root: added under the root.
        mu_dtype: storage of `m1`; None is the parameter's dtype.
        m2_dtype: storage of `m2`; None is the parameter's dtype, but float32 for a 16-bit parameter: in bfloat16 an
            average that keeps 0.9999 of itself takes nothing up any more.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter.
        warmup_steps: over how many steps alpha and b3 rise. The paper takes all steps of the run; with 0 the first
            thousands of steps of a large alpha may diverge.

    State: `optax.contrib.ScaleByAdemamixState(count, count_m2, m1, m2, nu)`: three numbers a parameter; roles count,
    count, moment, moment, second moment. The counts are equal; ours asks the first.

    Reach: element.

    Returns:
        A transform whose update grows from about 1 to about 1 + alpha where gradients keep their sign.

    Raises:
        ValueError: for a decay outside [0, 1), a negative epsilon or alpha, or a negative number of steps.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_ademamix(b3=0.5, alpha=2.0)
        >>> round(float(tx.update(3.0, tx.init(0.0))[0]), 4)  # 1 + 2 * 0.5
        2.0

    Differs from Optax: the corrections lose nothing to cancellation; `mu_dtype` is that of the fast average only;
    `warmup_steps`.
    """
    who = "scale_by_ademamix"
    for name, value in (("b1", b1), ("b2", b2), ("b3", b3)):
        check_number(who, name, value, low=0, high=1, open_high=True)
    for name, value in (("alpha", alpha), ("eps", eps), ("eps_root", eps_root)):
        check_number(who, name, value, low=0)
    check_integer(who, "warmup_steps", warmup_steps, low=0)
    over, rises = ratio(eps, eps_root), int(warmup_steps)

    def once(c: Any) -> dict[str, Any]:
        found = {"c1": 1 / debias(c.b1, c.t), "c2": 1 / debias(c.b2, c.t), "slow": c.b3}
        if rises:
            share = jnp.minimum(c.t / np.asarray(rises, c.dtype), np.asarray(1, c.dtype))
            found |= {"alpha": c.alpha * share, "slow": _between(c.b1, c.b3, share)}
        return found

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m1 = ema(g, s.m1, k.b1)
        m2 = ema(g, s.m2, k.slow)
        v = ema(abs_sq(g), s.nu, k.b2)
        u = over(k.c1 * m1 + k.alpha * m2, jnp.sqrt(k.c2 * v + k.eps_root) + k.eps)
        return u, {"m1": m1, "m2": m2, "nu": v}

    return elementwise(
        step,
        once=once,
        state=ScaleByAdemamixState,
        decays={"b1": b1, "b2": b2, "b3": b3},
        scalars={"alpha": alpha, "eps": eps, "eps_root": eps_root},
        dtypes={"m1": mu_dtype, "m2": m2_dtype, "nu": nu_dtype},
        wide=("m2",),
    )


def _between(low: Decay, high: Decay, share: Any) -> Decay:
    """The decay whose half-life is between those of two; a half-life is -ln 2 / ln b."""

    def lives(decay: Decay) -> Any:
        return -1 / jnp.log1p(-decay.complement)

    one = np.asarray(1, share.dtype)
    rate = -1 / ((one - share) * lives(low) + share * lives(high))
    return Decay(jnp.exp(rate), -jnp.expm1(rate))


@factory
def ademamix(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    m2_dtype: Any = None,
    nu_dtype: Any = None,
    warmup_steps: int = 0,
):
    """AdEMAMix: AdamW that also remembers gradients of many thousand steps ago.

    **Advice.** AdamW's rate, decay and schedule, and `warmup_steps` of the whole run. It pays in long runs; in one of a
    few thousand steps take `b3=0.999`. One array a parameter more than AdamW.

    Args:
        learning_rate: a number or a schedule; the step of a weight whose gradients agree grows to 1 + alpha of them.
        b1, b2, b3, alpha, eps, eps_root, mu_dtype, m2_dtype, nu_dtype, warmup_steps: as in `scale_by_ademamix`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_ademamix(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.ademamix(1e-3, weight_decay=0.1, warmup_steps=10_000)
        gx.ademamix(0.001, weight_decay=0.1, warmup_steps=10000)
    """
    check_rate("ademamix", learning_rate)
    check_decay("ademamix", weight_decay)
    more = {"m2_dtype": m2_dtype, "nu_dtype": nu_dtype, "warmup_steps": warmup_steps}
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype, **more),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
