"""AMSGrad: Adam whose second moment never falls, so that steps never grow back.

    m_t = b1 m_{t-1} + (1 - b1) g_t                  `mu` in the state
    v_t = b2 v_{t-1} + (1 - b2) g_t^2                `nu`
    w_t = max(w_{t-1}, v_t / (1 - b2^t))             `nu_max`; Optax
    u_t = m_hat_t / (sqrt(w_t + eps_root) + eps)

torch takes the maximum of the raw v_t and corrects it afterwards (`raw_max=True`); the paper corrects nothing.
Reddi, Kale & Kumar, On the convergence of Adam and beyond, ICLR 2018, arXiv:1904.09237.
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


@factory
def scale_by_amsgrad(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    nu_dtype: Any = None,
    raw_max: bool = False,
):
    """AMSGrad's direction, without learning rate and still uphill.

    **Update**: `u = m_hat / (sqrt(w + eps_root) + eps)`; w is the largest corrected v so far, or, with `raw_max`, the
    largest v so far, corrected by this step's `1 - b2^t`.

    Args:
        b1, b2, eps, eps_root, mu_dtype, nu_dtype: as in `scale_by_adam`; `nu_dtype` is that of `nu_max` too.
        bias_correction_mu: whether m is corrected for its start at zero; the paper's is not.
        bias_correction_nu: the same for v.
        raw_max: torch's order. The corrected v is largest at the first steps, where it is noise, so Optax's order keeps
            that noise for ever and torch's does not.

    State: `optax.ScaleByAmsgradState(count, mu, nu, nu_max)`: three numbers a parameter; roles count, moment, second
    moment twice.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size, and a few times that when a gradient suddenly grows.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_amsgrad(b1=0.0, b2=0.5)
        >>> _, state = tx.update(4.0, tx.init(0.0))
        >>> round(float(tx.update(1.0, state)[0]), 4)  # the 4 is not forgotten
        0.25

    Differs from Optax: as `scale_by_adam`.
    """
    check_number("scale_by_amsgrad", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_amsgrad", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_amsgrad", "eps", eps, low=0)
    check_number("scale_by_amsgrad", "eps_root", eps_root, low=0)
    check_flag("scale_by_amsgrad", "bias_correction_mu", bias_correction_mu)
    check_flag("scale_by_amsgrad", "bias_correction_nu", bias_correction_nu)
    check_flag("scale_by_amsgrad", "raw_max", raw_max)
    over = ratio(eps, eps_root)

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        c1 = 1 / debias(c.b1, c.t) if bias_correction_mu else one
        c2 = 1 / debias(c.b2, c.t) if bias_correction_nu else one
        before, after = (one, c2) if raw_max else (c2, one)
        return {"c1": c1, "before": before, "after": after}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        v = ema(abs_sq(g), s.nu, k.b2)
        w = jnp.maximum(s.nu_max, k.before * v)
        u = over(k.c1 * m, jnp.sqrt(k.after * w + k.eps_root) + k.eps)
        return u, {"mu": m, "nu": v, "nu_max": w}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAmsgradState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps, "eps_root": eps_root},
        dtypes={"mu": mu_dtype, "nu": nu_dtype, "nu_max": nu_dtype},
    )


@factory(
    presets={
        "torch": {"raw_max": True},
        "paper": {"bias_correction_mu": False, "bias_correction_nu": False},
    }
)
def amsgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    nu_dtype: Any = None,
    raw_max: bool = False,
    like: str = "optax",
):
    """AMSGrad: Adam that converges where Adam need not.

    **Advice.** Rates as for `adam`. It helps where rare large gradients carry the information that Adam forgets (the
    counterexample of its authors); on neural networks it is seldom better, and one early spike of a gradient slows a
    weight for good: clip, and prefer `like="torch"`.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu, nu_dtype, raw_max: as in
            `scale_by_amsgrad`.
        like: whose defaults: "optax", "torch" (`raw_max=True`), "paper" (no bias corrections).

    Returns:
        `chain(scale_by_amsgrad(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> gx.amsgrad(1e-3, like="torch")
        gx.amsgrad(0.001, raw_max=True)
    """
    check_rate("amsgrad", learning_rate)
    del like
    return chain(
        scale_by_amsgrad(
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            bias_correction_mu,
            bias_correction_nu,
            nu_dtype=nu_dtype,
            raw_max=raw_max,
        ),
        scale_by_learning_rate(learning_rate),
    )
