"""Rprop: each weight has its own step, which grows while the gradient keeps its sign and shrinks when it turns.

    a_t = a_{t-1} eta_plus    if g_t g_{t-1} > 0     `step_sizes` in the state, within [min, max]
    a_t = a_{t-1} eta_minus   if g_t g_{t-1} < 0, and then g_t counts as 0, also for the next step
    u_t = a_t sign(g_t)                              `prev_updates`

g is the gradient of the *whole* data: a method for full batches. On noisy ones every change of sign is noise.
Riedmiller & Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm, ICNN 1993.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import scale
from .._core.errors import check_flag, check_number, concrete, leaf as place, say
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import filled
from .._core.roles import History, SecondMoment, declare_roles

# A step size is no square, but like one it is never negative and spans many decades; the role says how it is stored.
declare_roles(optax.ScaleByRpropState, step_sizes=SecondMoment, prev_updates=History)


@factory
def scale_by_rprop(
    learning_rate: Any,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    *,
    lagged: bool = False,
):
    """The sign of the gradient times a step size of each weight's own.

    **Update**: `a = clip(a eta, min_step_size, max_step_size)` with eta by the signs of this gradient and the last,
    then `u = a sign(g)`, or 0 where the sign has changed.

    Args:
        learning_rate: the first step of every weight, a number within the bounds.
        eta_minus: factor after a change of sign, in (0, 1).
        eta_plus: factor while the sign stays, above 1.
        min_step_size, max_step_size: the bounds, in the unit of a weight.
        lagged: True returns the update of the step before, and nothing at the first, as Optax 0.2.8 does.

    State: `optax.ScaleByRpropState(step_sizes, prev_updates)`: two numbers a parameter; roles second moment, history.

    Reach: element.

    Returns:
        A transform; the size of the gradient does not matter.

    Raises:
        ValueError: for factors or bounds in the wrong order, or a first step outside the bounds.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_rprop(0.125, eta_plus=2.0)
        >>> state, seen = tx.init(0.0), []
        >>> for g in (3.0, 1.0, -7.0, -7.0):
        ...     u, state = tx.update(g, state)
        ...     seen.append(float(u))
        >>> seen
        [0.125, 0.25, 0.0, -0.125]

    Differs from Optax: the update is of this step, not of the one before (`lagged=True` gives that); signs are compared
    instead of a product that can underflow; a first step outside the bounds is refused.
    """
    _check("scale_by_rprop", learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    check_flag("scale_by_rprop", "lagged", lagged)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p
        if jnp.iscomplexobj(g):
            raise TypeError(
                f"gx.scale_by_rprop: {place(leaf.path)} is complex; a complex number has no sign to keep"
            )
        zero, turned = np.asarray(0, g.dtype), jnp.sign(g) * jnp.sign(s.prev_updates)
        grown = jnp.clip(
            s.step_sizes * jnp.where(turned > 0, k.eta_plus, k.eta_minus), k.min_step_size, k.max_step_size
        )
        a = jnp.where(turned == 0, s.step_sizes, grown)
        u = jnp.where(turned < 0, zero, a * jnp.sign(g))
        late = jnp.where(turned < 0, zero, s.prev_updates) if lagged else u
        return late, {"step_sizes": a, "prev_updates": u}

    return elementwise(
        step,
        state=optax.ScaleByRpropState,
        scalars={
            "eta_minus": eta_minus,
            "eta_plus": eta_plus,
            "min_step_size": min_step_size,
            "max_step_size": max_step_size,
        },
        init={"step_sizes": filled(learning_rate)},
        rate=1,
    )


@factory(presets={"torch": {}})
def rprop(
    learning_rate: Any,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    *,
    lagged: bool = False,
    like: str = "optax",
):
    """Rprop, for full batches.

    **Advice.** The first step (0.01) hardly matters: steps grow by a fifth each time. Give it the gradient of all data;
    with minibatches it stalls or wanders, and `rmsprop`, which was made to mend that, is the method to take.

    Args:
        learning_rate: the first step of every weight, a number; not a schedule, since each weight makes its own.
        eta_minus, eta_plus, min_step_size, max_step_size, lagged: as in `scale_by_rprop`.
        like: whose defaults: "optax" or "torch", which are the same.

    Returns:
        `chain(scale_by_rprop(...), scale(-1.0))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.rprop(0.125)
        >>> float(tx.update(1e-9, tx.init(1.0))[0])
        -0.125
    """
    del like
    _check("rprop", learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size, lagged=lagged),
        scale(-1.0),
    )


def _check(call: str, rate: Any, minus: Any, plus: Any, low: Any, high: Any) -> None:
    check_number(call, "learning_rate", rate, low=0, open_low=True, schedule=False)
    check_number(call, "eta_minus", minus, low=0, high=1, open_low=True, open_high=True)
    check_number(call, "eta_plus", plus, low=1, open_low=True)
    check_number(call, "min_step_size", low, low=0)
    check_number(call, "max_step_size", high, low=0, open_low=True)
    first, least, most = concrete(rate), concrete(low), concrete(high)
    if first is None or least is None or most is None:
        return
    if not least <= first <= most:
        fact = f"gx.{call}(learning_rate={rate!r}): the first step lies outside [{least:g}, {most:g}]"
        raise ValueError(say(fact, "choose it within min_step_size and max_step_size"))
