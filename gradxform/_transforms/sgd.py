"""Stochastic gradient descent, plain, with heavy-ball momentum, or with Nesterov's look ahead.

    b_t = decay b_{t-1} + g_t                        `trace` in the state
    u_t = b_t                                        heavy ball
    u_t = g_t + decay b_t                            Nesterov

g is the gradient; the learning rate comes last, so a change of the rate acts at once on all of the momentum (Keras and
the original papers keep the rate inside the buffer). Polyak, 1964; Nesterov, 1983; Sutskever et al., ICML 2013.
"""

from typing import Any

import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, identity, scale_by_learning_rate
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import elementwise


@factory
def trace(decay: Any, nesterov: bool = False, accumulator_dtype: Any = None):
    """Momentum: a decaying *sum* of gradients.

    **Update**: `b = decay b + g`, then `u = b`, or `u = g + decay b` with `nesterov`. The sum of a steady gradient is
    `1 / (1 - decay)` times the gradient: ten times for 0.9. (An average would weigh g by `1 - decay`.)

    Args:
        decay: in [0, 1]; larger means more memory, 1 forgets nothing.
        nesterov: whether the gradient counts once more.
        accumulator_dtype: storage of the sum; None is the parameter's dtype.

    State: `optax.TraceState(trace)`: one number a parameter; role moment. With a schedule for `decay` the state is
    `Scheduled(count, TraceState)`.

    Reach: element.

    Returns:
        A transform.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.trace(0.5)
        >>> state = tx.init(0.0)
        >>> _, state = tx.update(1.0, state)
        >>> float(tx.update(1.0, state)[0])
        1.5
    """
    check_number("trace", "decay", decay, low=0, high=1)
    check_flag("trace", "nesterov", nesterov)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        b = g + k.decay * s.trace
        return (g + k.decay * b if nesterov else b), {"trace": b}

    return elementwise(
        step, state=optax.TraceState, scalars={"decay": decay}, dtypes={"trace": accumulator_dtype}
    )


@factory
def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
):
    """Gradient descent, with or without momentum.

    **Advice.** Momentum 0.9 with a rate of 0.1 is the classic start for convolutional networks with batch norm; without
    momentum take ten times the rate. The rate has the unit of parameter per gradient, so it has to be found anew when
    the loss is rescaled. From Adam: 10 to 100 times its rate. Transformers train badly with it.

    Args:
        learning_rate: a number or a schedule.
        momentum: the decay of `trace`, in [0, 1), or None for none.
        nesterov, accumulator_dtype: as in `trace`.

    Returns:
        `chain(trace(momentum, nesterov), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.sgd(0.25)
        >>> float(tx.update(4.0, tx.init(1.0))[0])
        -1.0
    """
    check_rate("sgd", learning_rate)
    check_flag("sgd", "nesterov", nesterov)
    if momentum is not None:
        check_number("sgd", "momentum", momentum, low=0, high=1, open_high=True)
    first = identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype)
    return chain(first, scale_by_learning_rate(learning_rate))
