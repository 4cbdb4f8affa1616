"""SGD: stochastic gradient descent, plain, with heavy-ball momentum, or with Nesterov's look ahead.

    b_t = decay b_{t-1} + (1 - dampening) g_t        `trace` in the state
    u_t = b_t                                        heavy ball
    u_t = g_t + decay b_t                            Nesterov

g is the gradient; the learning rate comes last, so a change of the rate acts at once on all of the momentum. Keras and
the original papers keep the rate inside the buffer, which is the same while the rate does not change.
Polyak, 1964; Nesterov, 1983; Sutskever et al., ICML 2013.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, identity, scale_by_learning_rate
from .._core.errors import check_flag, check_number, short
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.scalars import is_zero


@factory(sample={"decay": 0.9})
def trace(decay: Any, nesterov: bool = False, accumulator_dtype: Any = None, *, dampening: Any = None):
    """Momentum: a decaying *sum* of gradients.

    **Update**: `b = decay b + (1 - dampening) g`, at the first step `b = g`, then `u = b`, or `u = g + decay b` with
    `nesterov`. The sum of a steady gradient is `1 / (1 - decay)` times the gradient: ten times for 0.9. (An average
    would weigh g by `1 - decay`.)

    Args:
        decay: in [0, 1]; larger means more memory, 1 forgets nothing.
        nesterov: whether the gradient counts once more.
        accumulator_dtype: storage of the sum; None is the parameter's dtype.
        dampening: how much of each later gradient is left out, in [0, 1], or None for nothing; torch's argument. With
            `dampening=decay` the sum is an average that starts at the first gradient.

    State: `optax.TraceState(trace)`: one number a parameter; role moment. With a schedule for `decay`, or a dampening,
    the state is `Scheduled(count, TraceState)`.

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

    damped = dampening is not None and not is_zero(dampening)
    if damped:
        check_number("trace", "dampening", dampening, low=0, high=1)

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        return {"take": jnp.where(c.count == 0, one, one - c.dampening)} if damped else {}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        b = (k.take * g if damped else g) + k.decay * s.trace
        return (g + k.decay * b if nesterov else b), {"trace": b}

    return elementwise(
        step,
        once=once,
        state=optax.TraceState,
        scalars={"decay": decay} | ({"dampening": dampening} if damped else {}),
        dtypes={"trace": accumulator_dtype},
        counted=damped,
    )


@factory(presets={"torch": {}, "keras": {"rate_in_momentum": True}})
def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    dampening: Any = None,
    rate_in_momentum: bool = False,
    like: str = "optax",
):
    """Gradient descent, with or without momentum.

    **Advice.** Momentum 0.9 with a rate of 0.1 is the classic start for convolutional networks with batch norm; without
    momentum take ten times the rate. The rate has the unit of parameter per gradient, so it has to be found anew when
    the loss is rescaled. From Adam: 10 to 100 times its rate. Large transformers train badly with it; small
    ones come near to Adam with a clip and a tuned rate.

    Args:
        learning_rate: a number or a schedule.
        momentum: the decay of `trace`, in [0, 1), or None for none.
        nesterov, accumulator_dtype, dampening: as in `trace`.
        rate_in_momentum: True sums what the rate has scaled: after a change of the rate the old steps keep their size.
        like: whose defaults: "optax", "torch" (the same rule), "keras" (`rate_in_momentum=True`).

    Returns:
        `chain(trace(momentum, nesterov), scale_by_learning_rate(learning_rate))`, or the two the other way round; the
        state is Optax's.

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
    check_flag("sgd", "rate_in_momentum", rate_in_momentum)
    if momentum is None and dampening is not None and not is_zero(dampening):
        raise ValueError(
            f"gx.sgd(dampening={short(dampening)}): there is no momentum to dampen; say momentum=0.9"
        )
    del like
    summed = (
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype, dampening=dampening)
    )
    rate = scale_by_learning_rate(learning_rate)
    return chain(rate, summed) if rate_in_momentum else chain(summed, rate)
