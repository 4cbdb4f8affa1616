"""RAdam: Adam whose step is divided by the root of v only once v is known well enough.

    m_t, v_t                                         as Adam's: `mu`, `nu` in the state
    rho_inf = 2 / (1 - b2) - 1
    rho_t = rho_inf - 2 t b2^t / (1 - b2^t)          how many gradients v_t is worth
    r_t = sqrt((rho_t - 4)(rho_t - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho_t))
    u_t = r_t m_hat_t / (sqrt(v_hat_t + eps_root) + eps)    if rho_t >= threshold, else m_hat_t

g is the gradient, t = 1, 2, ... the step. Written so, rho_t is the small difference of large numbers: for b2 = 0.999
float32 loses four digits. With x = -log b2 and the Langevin function L(z) = coth z - 1/z it is, exactly,

    rho_t = t (1 - L(t x / 2)) + L(x / 2)

Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020, arXiv:1908.03265.
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
from .._core.numerics import Decay, abs_sq, debias, ema, ratio

# The series of coth z - 1/z, for z below 1/2, where the difference itself loses digits; good for float64.
_SERIES = (
    1 / 3,
    -1 / 45,
    2 / 945,
    -1 / 4725,
    2 / 93555,
    -1382 / 638512875,
    4 / 18243225,
    -3617 / 162820783125,
)


def _langevin(z: Any) -> Any:
    """`coth z - 1 / z` for z > 0."""
    small, z2 = jnp.minimum(z, 0.5), jnp.square(jnp.minimum(z, 0.5))
    series = jnp.zeros_like(z)
    for coefficient in reversed(_SERIES):
        series = series * z2 + coefficient
    large = jnp.maximum(z, 0.5)
    return jnp.where(z < 0.5, small * series, 1 / jnp.tanh(large) - 1 / large)


def _worth(b2: Decay, t: Any) -> tuple[Any, Any]:
    """`(rho_t, rho_inf)`."""
    x = -jnp.log1p(-b2.complement)
    half = jnp.asarray(0.5 * x, t.dtype)
    return t * (1 - _langevin(t * half)) + _langevin(half), (1 + b2.value) / b2.complement


@factory
def scale_by_radam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
    eps_hat: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """RAdam's direction, without learning rate and still uphill.

    **Update**: as at this module's head; a step of momentum without a denominator while `rho_t < threshold`.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1). At 0.6 and below rho never reaches 4 and Adam never begins.
        eps, eps_root, nesterov, mu_dtype, nu_dtype: as in `scale_by_adam`.
        threshold: from how many gradients on v is trusted, at least 4; 5 in most code, 4 in the paper. For b2 = 0.999
            Adam begins at step 6.
        eps_hat: torch's place of epsilon, `sqrt(1 - b2^t) / (sqrt(v + eps_root) + eps)`.

    State: `optax.ScaleByAdamState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment.

    Reach: element.

    Returns:
        A transform whose update has the size of a gradient in the first steps, and then grows to Adam's.

    Raises:
        ValueError: for a decay or a threshold out of range, or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_radam()
        >>> round(float(tx.update(3.0, tx.init(0.0))[0]), 4)  # still the gradient itself
        3.0

    Differs from Optax: rho is accurate to float32's last digits (Optax: 1e-4 in the first steps).
    """
    check_number("scale_by_radam", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_radam", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_radam", "eps", eps, low=0)
    check_number("scale_by_radam", "eps_root", eps_root, low=0)
    check_number("scale_by_radam", "threshold", threshold, low=4)
    check_flag("scale_by_radam", "nesterov", nesterov)
    check_flag("scale_by_radam", "eps_hat", eps_hat)
    over = ratio(eps, eps_root)

    def once(c: Any) -> dict[str, Any]:
        one, gathered = np.asarray(1, c.dtype), debias(c.b2, c.t)
        rho, limit = _worth(c.b2, c.t)
        warm = rho >= c.threshold
        # Where it never gets warm, a number whose root is not used stands in, so that gradients through it exist.
        limit = jnp.where(limit > c.threshold, limit, c.threshold + 1)
        safe = jnp.where(warm, rho, limit)
        r = jnp.sqrt((safe - 4) * (safe - 2) * limit / ((limit - 4) * (limit - 2) * safe))
        c1 = (c.b1.value / debias(c.b1, c.t + one)) if nesterov else 1 / debias(c.b1, c.t)
        return {
            "warm": warm,
            "r": r * jnp.sqrt(gathered) if eps_hat else r,
            "c1": c1,
            "cg": c.b1.complement / debias(c.b1, c.t),
            "c2": one if eps_hat else 1 / gathered,
        }

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        v = ema(abs_sq(g), s.nu, k.b2)
        m_hat = k.c1 * m + k.cg * g if nesterov else k.c1 * m
        root = jnp.sqrt(k.c2 * v + k.eps_root) + k.eps
        adam = k.r * over(m_hat, root)
        return jnp.where(k.warm, adam, m_hat), {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps, "eps_root": eps_root, "threshold": threshold},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
    )


@factory(presets={"torch": {"eps_hat": True}, "paper": {"eps": 0.0, "threshold": 4.0}})
def radam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: Any = 5.0,
    *,
    nesterov: bool = False,
    eps_hat: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    like: str = "optax",
):
    """RAdam: Adam with a warmup of its own.

    **Advice.** Rates as for `adam`, without a warmup schedule, or with a short one. The first steps (five for b2 =
    0.999) are momentum without a denominator: their size is the rate times the gradient, so clip.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step, once warm.
        b1, b2, eps, eps_root, threshold, nesterov, eps_hat, mu_dtype, nu_dtype: as in `scale_by_radam`.
        like: whose defaults: "optax", "torch" (`eps_hat=True`), "paper" (no epsilon, threshold 4).

    Returns:
        `chain(scale_by_radam(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> gx.radam(1e-3, like="paper")
        gx.radam(0.001, eps=0.0, threshold=4.0)
    """
    check_rate("radam", learning_rate)
    del like
    return chain(
        scale_by_radam(
            b1,
            b2,
            eps,
            eps_root,
            threshold,
            nesterov=nesterov,
            eps_hat=eps_hat,
            mu_dtype=mu_dtype,
            nu_dtype=nu_dtype,
        ),
        scale_by_learning_rate(learning_rate),
    )
