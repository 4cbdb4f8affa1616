"""Lion: the sign of an interpolated momentum, so that every weight moves by the same amount.

    u_t = sign(b1 m_{t-1} + (1 - b1) g_t)
    m_t = b2 m_{t-1} + (1 - b2) g_t                  `mu` in the state

Chen et al., Symbolic discovery of optimization algorithms, 2023, arXiv:2302.06675. This file also holds the bare sign
and what came before Lion: the sign of the gradient, and of its average (Signum).
"""

from typing import Any

import jax.numpy as jnp
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import ema
from .average import ema as average
from .decay import add_decayed_weights, check_decay

_MODES = ("hard", "smooth", "refined")


@factory
def scale_by_sign():
    """The sign of each element: 1, -1, or 0 where the gradient is zero.

    Reach: element, no state. Behind `trace` or an average it is Signum (Bernstein et al., 2018, arXiv:1802.04434).

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.scale_by_sign().update(jnp.array([-3.0, 0.0, 0.1]), ())[0].tolist()
        [-1.0, 0.0, 1.0]
    """

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return jnp.sign(g)

    return elementwise(step)


@factory
def scale_by_lion(
    b1: Any = 0.9, b2: Any = 0.99, mu_dtype: Any = None, *, mode: str = "hard", smooth_beta: Any = 1.0
):
    """Lion's direction, without learning rate and still uphill.

    **Update**: `u = f(b1 m + (1 - b1) g)`, then `m = b2 m + (1 - b2) g`.

    Args:
        b1: weight of the momentum in the direction, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        mu_dtype: storage of the momentum; None is the parameter's dtype, but float32 for a 16-bit parameter where
            `mode` shows its size: an average with b2 = 0.99 stops short of its target in bfloat16.
        mode: f: "hard" is the sign, "smooth" `tanh(smooth_beta x)`, "refined" x within [-1, 1] and the sign outside.
        smooth_beta: the steepness of "smooth"; larger is closer to the sign.

    State: `optax.ScaleByLionState(count, mu)`: one number a parameter; roles count, moment.

    Reach: element.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_lion()
        >>> tx.update(jnp.array([2.0, -0.5]), tx.init(jnp.zeros(2)))[0].tolist()
        [1.0, -1.0]
    """
    check_number("scale_by_lion", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_lion", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_lion", "smooth_beta", smooth_beta, low=0, open_low=True)
    if mode not in _MODES:
        raise ValueError(f"gx.scale_by_lion(mode={mode!r}): wanted one of {', '.join(map(repr, _MODES))}")

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        x = ema(g, s.mu, k.b1)
        m = ema(g, s.mu, k.b2)
        if mode == "smooth":
            size = jnp.abs(x)  # written so that a complex number keeps its direction
            return jnp.sign(x) * jnp.tanh(k.smooth_beta * size), {"mu": m}
        u = jnp.sign(x)
        return (u if mode == "hard" else jnp.where(jnp.abs(x) < 1, x, u)), {"mu": m}

    return elementwise(
        step,
        state=optax.ScaleByLionState,
        decays={"b1": b1, "b2": b2},
        scalars={"smooth_beta": smooth_beta},
        dtypes={"mu": mu_dtype},
        wide=() if mode == "hard" else ("mu",),
    )


@factory
def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
):
    """Lion: half the state of AdamW, every weight moved by exactly the learning rate.

    **Advice.** From AdamW take a rate three to ten times smaller and a decay three to ten times larger, so that their
    product stays. It likes large batches; with small noisy ones the sign is mostly noise.

    Args:
        learning_rate: a number or a schedule; the change of every weight in one step.
        b1, b2, mu_dtype: as in `scale_by_lion`.
        weight_decay: the decay per unit of learning rate.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_lion(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.lion(1e-4, weight_decay=0.0)
        >>> round(float(tx.update(7.0, tx.init(1.0), 1.0)[0]), 6)
        -0.0001
    """
    check_rate("lion", learning_rate)
    check_decay("lion", weight_decay)
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def sign_sgd(learning_rate: optax.ScalarOrSchedule):
    """Every weight moves by the learning rate, against the sign of its gradient.

    **Advice.** For large batches, where a sign is not noise, and as the yardstick for the methods that approximate it:
    Adam with b1 = b2 = 0 is this. Rates as for Lion.

    Args:
        learning_rate: a number or a schedule; the change of every weight in one step.

    Returns:
        `chain(scale_by_sign(), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.sign_sgd(0.5)
        >>> float(tx.update(7.0, tx.init(1.0))[0])
        -0.5

    References: Bernstein et al., signSGD: compressed optimisation for non-convex problems, 2018, arXiv:1802.04434.
    """
    check_rate("sign_sgd", learning_rate)
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@factory
def signum(learning_rate: optax.ScalarOrSchedule, beta: Any = 0.9, accumulator_dtype: Any = None):
    """The sign of the average gradient: Lion with one decay.

    **Advice.** Rates as for Lion: three to ten times below AdamW's. For decay, chain `ema(beta, debias=False)`,
    `scale_by_sign()`, `add_decayed_weights(...)` and a rate, or take `lion`, whose two decays nearly always do better.

    Args:
        learning_rate: a number or a schedule; the change of every weight in one step.
        beta: decay of the average, in [0, 1).
        accumulator_dtype: as in `ema`.

    Returns:
        `chain(ema(beta, debias=False), scale_by_sign(), scale_by_learning_rate(learning_rate))`; a correction of the
        average's start would not change its sign.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.signum(0.5, beta=0.75)
        >>> _, state = tx.update(8.0, tx.init(1.0))
        >>> float(tx.update(-1.0, state)[0])
        -0.5

    References: Bernstein et al., 2018, arXiv:1802.04434.
    """
    check_rate("signum", learning_rate)
    check_number("signum", "beta", beta, low=0, high=1, open_high=True)
    return chain(
        average(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )
