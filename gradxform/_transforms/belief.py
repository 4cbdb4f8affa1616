"""AdaBelief: Adam that divides by how far gradients stray from their average, not by their size.

    m_t = b1 m_{t-1} + (1 - b1) g_t                          `mu` in the state
    s_t = b2 s_{t-1} + (1 - b2) (g_t - m_t)^2 + eps_root     `nu`
    u_t = m_hat_t / (sqrt(s_t / (1 - b2^t)) + eps)

g is the gradient, t = 1, 2, ... the step, m_hat Adam's. Where gradients agree with their average the step is large.
Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, NeurIPS 2020,
arXiv:2010.07468.
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
from .._core.roles import declare_own

declare_own(optax.ScaleByBeliefState, "nu")  # of g - m, not of g


@factory
def scale_by_belief(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """AdaBelief's direction, without learning rate and still uphill.

    **Update**: as at this module's head. With `nesterov`, m_hat as in `scale_by_adam`.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the variance, in [0, 1).
        eps: added to the root; in the unit of a gradient.
        eps_root: added to the variance at every step, so that it gathers up to `eps_root / (1 - b2)`. It bounds the
            step where gradients do not change: 1e-8 and 1e-16 are very different optimizers there.
        nesterov, mu_dtype, nu_dtype: as in `scale_by_adam`.

    State: `optax.ScaleByBeliefState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size for noisy gradients, and much larger for steady ones.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_belief()
        >>> round(float(tx.update(3.0, tx.init(0.0))[0]), 4)
        1.1111

    Differs from Optax: as `scale_by_adam`.
    """
    check_number("scale_by_belief", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_belief", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_belief", "eps", eps, low=0)
    check_number("scale_by_belief", "eps_root", eps_root, low=0)
    check_flag("scale_by_belief", "nesterov", nesterov)
    over = ratio(eps, eps_root)

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        c1, c2 = 1 / debias(c.b1, c.t), 1 / debias(c.b2, c.t)
        if not nesterov:
            return {"c1": c1, "c2": c2}
        return {"c1": c.b1.value / debias(c.b1, c.t + one), "c2": c2, "cg": c.b1.complement * c1}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        # g - m without the digits that g and m share.
        surprise = k.b1.value * (g - s.mu)
        v = ema(abs_sq(surprise), s.nu, k.b2) + k.eps_root
        m_hat = k.c1 * m + k.cg * g if nesterov else k.c1 * m
        return over(m_hat, jnp.sqrt(k.c2 * v) + k.eps), {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByBeliefState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps, "eps_root": eps_root},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
    )


@factory
def adabelief(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """AdaBelief: large steps where gradients are predictable.

    **Advice.** Rates as for `adam`. On steady gradients its steps are many times the rate, so warm up, clip, and treat
    `eps_root` as a hyperparameter; for decay put `add_decayed_weights` before a rate of your own.

    Args:
        learning_rate: a number or a schedule; the change of one weight in one step for noisy gradients.
        b1, b2, eps, eps_root, nesterov, mu_dtype, nu_dtype: as in `scale_by_belief`.

    Returns:
        `chain(scale_by_belief(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.adabelief(1e-3)
        >>> round(float(tx.update(3.0, tx.init(1.0))[0]), 6)
        -0.001111
    """
    check_rate("adabelief", learning_rate)
    first = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    return chain(first, scale_by_learning_rate(learning_rate))
