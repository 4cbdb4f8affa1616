"""Yogi: Adam whose second moment falls by steps, not in proportion, so that it cannot forget in a hurry.

    m_t = b1 m_{t-1} + (1 - b1) g_t                         `mu` in the state
    v_t = v_{t-1} - (1 - b2) sign(v_{t-1} - g_t^2) g_t^2    `nu`, at first small and positive
    u_t = m_hat_t / (sqrt(v_hat_t + eps_root) + eps)

g is the gradient. Adam's v moves by (1 - b2)(v - g^2), Yogi's by (1 - b2) g^2 towards g^2, however far that is.
Zaheer et al., Adaptive methods for nonconvex optimization, NeurIPS 2018.
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
from .._core.numerics import abs_sq, debias, ema, filled, ratio


@factory
def scale_by_yogi(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    eps_root: Any = 0.0,
    initial_accumulator_value: Any = 1e-6,
    *,
    seed_mu: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Yogi's direction, without learning rate and still uphill.

    **Update**: as at this module's head; both moments are corrected for their start as Adam's are.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: in [0, 1); 1 - b2 is the largest share of a squared gradient by which v moves in one step.
        eps: added to the root; in the unit of a gradient, and much larger than Adam's.
        eps_root: added under the root.
        initial_accumulator_value: where v starts, at least 0.
        seed_mu: True starts m there too, as Optax does; a weight then moves before it has had a gradient.
        mu_dtype, nu_dtype: storage, as in `scale_by_adam`.

    State: `optax.ScaleByAdamState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size for gradients well above `eps`.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative number.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_yogi()
        >>> float(tx.update(0.0, tx.init(0.0))[0])
        0.0

    Differs from Optax: m starts at zero (`seed_mu`), and as `scale_by_adam`.
    """
    check_number("scale_by_yogi", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_yogi", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_yogi", "eps", eps, low=0)
    check_number("scale_by_yogi", "eps_root", eps_root, low=0)
    start = initial_accumulator_value
    check_number("scale_by_yogi", "initial_accumulator_value", start, low=0, schedule=False)
    check_flag("scale_by_yogi", "seed_mu", seed_mu)
    over = ratio(eps, eps_root)

    def once(c: Any) -> dict[str, Any]:
        return {"c1": 1 / debias(c.b1, c.t), "c2": 1 / debias(c.b2, c.t)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        square = abs_sq(g)
        # Never negative but for rounding: where v is above g^2 it loses a share of g^2.
        v = s.nu - k.b2.complement * jnp.sign(s.nu - square) * square
        v = jnp.maximum(v, np.asarray(0, v.dtype))
        return over(k.c1 * m, jnp.sqrt(k.c2 * v + k.eps_root) + k.eps), {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps, "eps_root": eps_root},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
        own=("nu",),
        init={"mu": filled(start if seed_mu else 0.0), "nu": filled(start)},
    )


@factory
def yogi(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    *,
    seed_mu: bool = False,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Yogi: Adam for gradients that come in bursts.

    **Advice.** 1e-2 is the paper's rate, three to ten times Adam's, because of the large epsilon. It helps where v
    would otherwise collapse between rare large gradients; elsewhere it behaves as Adam with `eps=1e-3` does.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, eps, seed_mu, mu_dtype, nu_dtype: as in `scale_by_yogi`.

    Returns:
        `chain(scale_by_yogi(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.yogi(1e-2)
        >>> round(float(tx.update(3.0, tx.init(1.0))[0]), 6)
        -0.009996
    """
    check_rate("yogi", learning_rate)
    first = scale_by_yogi(b1, b2, eps, seed_mu=seed_mu, mu_dtype=mu_dtype, nu_dtype=nu_dtype)
    return chain(first, scale_by_learning_rate(learning_rate))
