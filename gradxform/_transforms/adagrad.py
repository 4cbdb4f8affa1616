"""Adagrad: a gradient divided by the root of the sum of all squares before it.

    s_t = s_{t-1} + g_t^2                            `sum_of_squares` in the state
    u_t = g_t / sqrt(s_t + eps)                      Optax, Keras
    u_t = g_t / (sqrt(s_t) + eps)                    the paper, torch: `eps_in_sqrt=False`

g is the gradient. The sum only grows: with gradients of size 10 the step after t of them is 0.1 / sqrt(t) of the rate.
Duchi, Hazan & Singer, Adaptive subgradient methods for online learning and stochastic optimization, JMLR 2011.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, filled


@factory
def scale_by_rss(initial_accumulator_value: Any = 0.1, eps: Any = 1e-7, *, eps_in_sqrt: bool = True):
    """Divides by the root of the sum of squares.

    **Update**: `s = s + g^2`, then `u = g / sqrt(s + eps)`, or `u = g / (sqrt(s) + eps)` with `eps_in_sqrt=False`; 0
    where s is 0.

    Args:
        initial_accumulator_value: where the sum starts, at least 0; larger means smaller first steps.
        eps: at least 0; in the unit of a squared gradient, or of a gradient with `eps_in_sqrt=False`.
        eps_in_sqrt: where epsilon stands.

    State: `optax.ScaleByRssState(sum_of_squares)`: one number a parameter; role second moment.

    Reach: element.

    Returns:
        A transform whose update shrinks like 1 / sqrt(t).

    Raises:
        ValueError: for a negative number.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_rss(initial_accumulator_value=0.0, eps=0.0)
        >>> state = tx.init(0.0)
        >>> for _ in range(4):
        ...     u, state = tx.update(10.0, state)
        >>> float(u)
        0.5

    Differs from Optax: the sum of a 16-bit parameter is float32, since bfloat16 stops counting at 256.
    """
    check_number(
        "scale_by_rss", "initial_accumulator_value", initial_accumulator_value, low=0, schedule=False
    )
    check_number("scale_by_rss", "eps", eps, low=0)
    check_flag("scale_by_rss", "eps_in_sqrt", eps_in_sqrt)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        total = s.sum_of_squares + abs_sq(g)
        root = jax.lax.rsqrt(total + k.eps) if eps_in_sqrt else 1 / (jnp.sqrt(total) + k.eps)
        return g * jnp.where(total > 0, root, np.asarray(0, root.dtype)), {"sum_of_squares": total}

    return elementwise(
        step,
        state=optax.ScaleByRssState,
        scalars={"eps": eps},
        init={"sum_of_squares": filled(initial_accumulator_value)},
    )


_OUTSIDE = {"initial_accumulator_value": 0.0, "eps_in_sqrt": False}


@factory(presets={"torch": {**_OUTSIDE, "eps": 1e-10}, "paper": {**_OUTSIDE, "eps": 1e-8}, "keras": {}})
def adagrad(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: Any = 0.1,
    eps: Any = 1e-7,
    *,
    eps_in_sqrt: bool = True,
    like: str = "optax",
):
    """Adagrad: large steps for what is rarely seen.

    **Advice.** For sparse gradients (embeddings of rare words, click models) and convex problems, at a rate of 0.01 to
    0.5. Its steps die: with gradients of size 10 the effective rate is 0.01, 0.003, 0.001, 0.0003 of the nominal one
    after 100, 1,000, 10,000, 100,000 steps. For deep networks and long runs take `rmsprop` or `adam`, which forget.

    Args:
        learning_rate: a number or a schedule; the first step of a weight is at most this. For torch's `lr_decay` pass
            the schedule `lambda count: rate / (1 + count * lr_decay)`.
        initial_accumulator_value, eps, eps_in_sqrt: as in `scale_by_rss`.
        like: whose defaults: "optax", "keras" (the same), "torch" (start 0, epsilon 1e-10 outside the root), "paper"
            (start 0, epsilon outside the root).

    Returns:
        `chain(scale_by_rss(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> gx.adagrad(0.1, like="torch")
        gx.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-10, eps_in_sqrt=False)
    """
    check_rate("adagrad", learning_rate)
    del like
    return chain(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt),
        scale_by_learning_rate(learning_rate),
    )
