"""Adamax: Adam with the largest gradient of late in the place of the root mean square.

    m_t = b1 m_{t-1} + (1 - b1) g_t                  `mu` in the state
    n_t = max(b2 n_{t-1}, |g_t| + eps)               `nu`; Optax, torch
    u_t = m_t / (1 - b1^t) / n_t

The paper has no epsilon; Keras adds it to n_t when dividing (`eps_in_max=False`). n needs no bias correction.
Kingma & Ba, Adam: a method for stochastic optimization, ICLR 2015, section 7.1.
"""

from typing import Any

import jax.numpy as jnp
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import debias, ema, ratio
from .decay import add_decayed_weights, check_decay


@factory
def scale_by_adamax(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_in_max: bool = True,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Adamax's direction, without learning rate and still uphill.

    **Update**: `u = m_hat / max(b2 n, |g| + eps)`, or `u = m_hat / (max(b2 n, |g|) + eps)` with `eps_in_max=False`.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the maximum, in [0, 1); a peak is half forgotten after 0.7 / (1 - b2) steps.
        eps: in the unit of a gradient; 0 is allowed, a weight that never had a gradient then stays.
        eps_in_max: where epsilon stands.
        mu_dtype, nu_dtype: storage, as in `scale_by_adam`.

    State: `optax.ScaleByAdamState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment (it is
    no square, but never negative, and is stored the same way).

    Reach: element.

    Returns:
        A transform whose update is about 1 in size; a sudden fall of gradients makes it larger the smaller b2 is.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adamax()
        >>> round(float(tx.update(3.0, tx.init(0.0))[0]), 5)
        1.0
    """
    check_number("scale_by_adamax", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_adamax", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_adamax", "eps", eps, low=0)
    check_flag("scale_by_adamax", "eps_in_max", eps_in_max)
    over = ratio(eps)

    def once(c: Any) -> dict[str, Any]:
        return {"c1": 1 / debias(c.b1, c.t)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        size = jnp.abs(g)
        n = jnp.maximum(k.b2.value * s.nu, size + k.eps if eps_in_max else size)
        return over(k.c1 * m, n if eps_in_max else n + k.eps), {"mu": m, "nu": n}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
        own=("nu",),
    )


@factory(presets={"torch": {}, "paper": {"eps": 0.0}, "keras": {"eps": 1e-7, "eps_in_max": False}})
def adamax(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_in_max: bool = True,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    like: str = "optax",
):
    """Adamax: Adam that looks at peaks.

    **Advice.** 2e-3 is the paper's rate, twice Adam's. A single spike of a gradient bounds the steps for hundreds of
    steps, which makes it steady on heavy-tailed gradients (embeddings) and slow elsewhere.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, eps, eps_in_max, mu_dtype, nu_dtype: as in `scale_by_adamax`.
        like: whose defaults: "optax" and "torch" (the same), "paper" (no epsilon), "keras" (1e-7 outside the maximum).

    Returns:
        `chain(scale_by_adamax(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.adamax(2e-3)
        >>> round(float(tx.update(-7.0, tx.init(1.0))[0]), 6)
        0.002
    """
    check_rate("adamax", learning_rate)
    del like
    return chain(
        scale_by_adamax(b1, b2, eps, eps_in_max=eps_in_max, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        scale_by_learning_rate(learning_rate),
    )


@factory
def adamaxw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    eps_in_max: bool = True,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Adamax with decoupled weight decay.

    **Advice.** As `adamax`; decay as in `adamw`.

    Args:
        learning_rate, b1, b2, eps, eps_in_max, mu_dtype, nu_dtype: as in `adamax`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_adamax(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.adamaxw(2e-3, weight_decay=0.1, mask=gx.matrices())
        gx.adamaxw(0.002, weight_decay=0.1, mask=gx.matrices())
    """
    check_rate("adamaxw", learning_rate)
    check_decay("adamaxw", weight_decay)
    return chain(
        scale_by_adamax(b1, b2, eps, eps_in_max=eps_in_max, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
