"""NAdam: Adam with a look ahead and Dozat's schedule of the momentum, as in torch and Keras. Both forms as recipes.

    mu_t = b1 (1 - 0.96^(momentum_decay t) / 2)
    Pi_t = mu_1 mu_2 ... mu_t                        `mu_product` in the state
    m_t = b1 m_{t-1} + (1 - b1) g_t                  `mu`
    v_t = b2 v_{t-1} + (1 - b2) g_t^2                `nu`
    d_t = mu_{t+1} / (1 - Pi_{t+1}) m_t + (1 - mu_t) / (1 - Pi_t) g_t
    u_t = d_t / (sqrt(v_t / (1 - b2^t)) + eps)

g is the gradient, t = 1, 2, ... the step. Optax's `nadam` leaves the schedule out: Adam with a look ahead, which is
`scale_by_adam(nesterov=True)`. Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_flag, check_number, concrete
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.roles import Count, Moment, Reading, SecondMoment
from .adam import scale_by_adam


class ScaleByNadamState(NamedTuple):
    """The product of the momenta so far, and Adam's moments."""

    count: Count
    mu_product: Reading
    mu: Moment
    nu: SecondMoment


@factory
def scale_by_nadam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    momentum_decay: Any = 4e-3,
    mu_dtype: Any = None,
    *,
    nu_dtype: Any = None,
):
    """NAdam's direction with a momentum that warms up, without learning rate and still uphill.

    **Update**: as at this module's head.

    Args:
        b1: decay of the first moment, in [0, 1), and the momentum's final value.
        b2: decay of the second moment, in [0, 1).
        eps: added to the root; in the unit of a gradient.
        momentum_decay: how fast the momentum rises from b1 / 2 to b1: half of the gap is closed after
            17 / momentum_decay steps. 4e-3 in torch, 1 in Keras.
        mu_dtype, nu_dtype: storage, as in `scale_by_adam`.

    State: `ScaleByNadamState(count, mu_product, mu, nu)`: two numbers a parameter; roles count, reading, moment, second
    moment.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size wherever gradients keep their sign.

    Raises:
        ValueError: for a decay outside [0, 1), or a negative epsilon or momentum_decay.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_nadam()
        >>> round(float(tx.update(3.0, tx.init(0.0))[0]), 4)
        1.0565

    Differs from Optax, which has no such transform; the state is ours.
    """
    check_number("scale_by_nadam", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_nadam", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_nadam", "eps", eps, low=0)
    check_number("scale_by_nadam", "momentum_decay", momentum_decay, low=0)
    over = ratio(eps)

    def once(c: Any) -> Any:
        one = np.asarray(1, c.dtype)
        # Half of what the momentum lacks, so that 1 - mu_t is a sum and loses nothing.
        lack, lack_next = (0.5 * 0.96 ** (c.momentum_decay * t) for t in (c.t, c.t + one))
        product = c.state.mu_product.astype(c.dtype) * (c.b1.value * (one - lack))
        mu_next = c.b1.value * (one - lack_next)
        k = {
            "cg": (c.b1.complement + c.b1.value * lack) / (one - product),
            "cm": mu_next / (one - product * mu_next),
            "c2": 1 / debias(c.b2, c.t),
        }
        return k, {"mu_product": product}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        v = ema(abs_sq(g), s.nu, k.b2)
        return over(k.cm * m + k.cg * g, jnp.sqrt(k.c2 * v) + k.eps), {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=ScaleByNadamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps, "momentum_decay": momentum_decay},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
        fields={"mu_product": lambda: jnp.ones([], float)},
    )


@factory(presets={"torch": {"momentum_decay": 4e-3}, "keras": {"momentum_decay": 1.0, "eps": 1e-7}})
def nadam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nu_dtype: Any = None,
    nesterov: bool = True,
    momentum_decay: Any = None,
    like: str = "optax",
):
    """Adam with Nesterov's look ahead.

    **Advice.** Rates as for `adam`; with decay take `nadamw`. The look ahead is worth a little in most comparisons and
    costs nothing. The schedule of the momentum is slow: with torch's 4e-3 it is 0.67 at step 4,000 and 0.81 at 10,000,
    so `like="torch"` is another optimizer for thousands of steps.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov: as in `scale_by_adam`.
        momentum_decay: None for a constant momentum; a number takes `scale_by_nadam`, which knows neither `eps_root`
            nor `nesterov=False`.
        like: whose defaults: "optax", "torch" (momentum_decay 4e-3), "keras" (momentum_decay 1, epsilon 1e-7).

    Returns:
        `chain(scale_by_adam(..., nesterov=True), scale_by_learning_rate(learning_rate))`, whose state is Optax's; or
        the same with `scale_by_nadam`.

    Raises:
        ValueError: for `eps_root` or `nesterov=False` together with `momentum_decay`.

    Example:
        >>> import gradxform as gx
        >>> gx.nadam(2e-3, like="torch")
        gx.nadam(0.002, momentum_decay=0.004)
    """
    check_rate("nadam", learning_rate)
    check_flag("nadam", "nesterov", nesterov)
    del like
    if momentum_decay is None:
        first = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype, nesterov=nesterov)
        return chain(first, scale_by_learning_rate(learning_rate))
    if not nesterov or (concrete(eps_root) or 0) != 0:
        lacks = "nesterov=False" if not nesterov else f"eps_root={eps_root}"
        raise ValueError(
            f"gx.nadam({lacks}): cannot stand beside momentum_decay={momentum_decay}; leave one out"
        )
    first = scale_by_nadam(b1, b2, eps, momentum_decay, mu_dtype, nu_dtype=nu_dtype)
    return chain(first, scale_by_learning_rate(learning_rate))
