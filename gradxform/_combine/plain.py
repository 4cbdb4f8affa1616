"""The transforms that combinators themselves need: nothing, zero, and a scalar times the update.

A learning rate is applied here and nowhere else; the sign is turned in the same place.
"""

from typing import Any

import jax.numpy as jnp
import optax

from .._core.errors import check_flag, check_number, check_schedule, concrete, kind, say, short
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.scalars import is_schedule


@factory
def identity():
    """Passes updates through, integers included.

    Returns:
        A transform of reach `element` without state. (As every transform of ours it gives an update the dtype of its
        parameter, if parameters are passed.)

    Example:
        >>> import gradxform as gx
        >>> gx.identity().update(2.0, gx.identity().init(1.0))[0]
        Array(2., dtype=float32, weak_type=True)
    """

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return g

    return elementwise(step, any_dtype=True)


@factory(label="zero")
def set_to_zero():
    """Replaces every update by zero, so that the parameters stay where they are.

    For leaves that shall never move, `gx.freeze` or a `None` in `gx.param_groups` also keeps no state for them.

    Returns:
        A transform of reach `element` without state; integer leaves get an integer zero.

    Example:
        >>> import gradxform as gx
        >>> float(gx.set_to_zero().update(4.0, gx.set_to_zero().init(0.0))[0])
        0.0
    """

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return jnp.zeros_like(g)

    return elementwise(step, any_dtype=True)


def _times(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
    del s, p, leaf
    return k.factor * g


@factory(sample={"step_size": 0.5})
def scale(step_size: Any):
    """Multiplies updates by a number.

    **Update**: `u = step_size * g`.

    Args:
        step_size: the factor; a number, a 0-d array or a schedule. For a learning rate use `scale_by_learning_rate`,
            which also turns the direction downhill.

    Returns:
        A transform of reach `element`, without state unless `step_size` is a schedule.

    Example:
        >>> import gradxform as gx
        >>> float(gx.scale(-0.5).update(4.0, gx.scale(-0.5).init(0.0))[0])
        -2.0
    """
    check_number("scale", "step_size", step_size)
    number = concrete(step_size)
    flips = number is not None and number < 0
    asked = {"factor": "step_size"}
    return elementwise(_times, scalars={"factor": step_size}, call="scale", flips=flips, arguments=asked)


def _falling(count: Any) -> Any:
    return 0.5 ** jnp.asarray(count, float)


@factory(sample={"step_size_fn": _falling})
def scale_by_schedule(step_size_fn: Any):
    """Multiplies updates by a function of the step count.

    **Update**: `u = step_size_fn(count) * g`, with `count = 0` at the first step. The sign is the schedule's own: for a
    learning rate use `scale_by_learning_rate`.

    Args:
        step_size_fn: a schedule of ours or any function from the step count to one number.

    Returns:
        A transform of reach `element`.

    State: `optax.ScaleByScheduleState(count)`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_schedule(gx.linear_schedule(0.0, 1.0, 10))
        >>> _, state = tx.update(4.0, tx.init(0.0))
        >>> round(float(tx.update(4.0, state)[0]), 3)
        0.4
    """
    text = f"gx.scale_by_schedule(step_size_fn={short(step_size_fn)})"
    if not is_schedule(step_size_fn) or isinstance(step_size_fn, type):
        remedy = "for a number use gx.scale or gx.scale_by_learning_rate"
        raise TypeError(say(f"{text}: wanted a function of the step count, got {kind(step_size_fn)}", remedy))
    check_schedule(text, step_size_fn)
    return elementwise(
        _times,
        scalars={"factor": step_size_fn},
        state=optax.ScaleByScheduleState,
        call="scale_by_schedule",
        arguments={"factor": "step_size_fn"},
    )


@factory(label="rate", sample={"learning_rate": 1e-3})
def scale_by_learning_rate(learning_rate: Any = None, *, flip_sign: bool = True):
    """Multiplies updates by the learning rate and turns them downhill: the last link of most chains.

    **Update**: `u = -learning_rate(count) * g`, `count = 0` at the first step.

    Args:
        learning_rate: a number of at least 0, a 0-d array or a schedule. Its unit is that of the links before it:
            behind Adam about the largest change of one weight in one step, behind Lion exactly that, behind a
            plain gradient parameter per gradient. None means no scaling at all, as in Optax.
        flip_sign: False leaves the direction uphill (maximisation).

    Returns:
        A transform of reach `element`.

    State: `optax.ScaleByScheduleState(count)` for a schedule, none for a number, as in Optax.

    Raises:
        ValueError: for a negative or NaN rate.

    Example:
        >>> import gradxform as gx
        >>> gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(1e-3))
        gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(learning_rate=0.001))
    """
    check_flag("scale_by_learning_rate", "flip_sign", flip_sign)
    if learning_rate is None:
        return identity()
    check_number("scale_by_learning_rate", "learning_rate", learning_rate, low=0, why=_DOWNHILL)

    def once(c: Any) -> dict[str, Any]:
        return {"factor": -c.rate if flip_sign else c.rate}

    state = optax.ScaleByScheduleState if is_schedule(learning_rate) else optax.EmptyState
    return elementwise(
        _times,
        once=once,
        scalars={"rate": learning_rate},
        state=state,
        call="scale_by_learning_rate",
        rate=1,
        flips=flip_sign,
        arguments={"rate": "learning_rate"},
    )


_DOWNHILL = (
    "the sign is turned downhill here; to climb, end with gx.scale_by_learning_rate(rate, flip_sign=False)"
)


def check_rate(call: str, learning_rate: Any) -> None:
    """The check of a recipe's learning rate: unlike `scale_by_learning_rate`, a recipe refuses None."""
    check_number(call, "learning_rate", learning_rate, low=0, why=_DOWNHILL)
