"""The schedules that Optax has, under its names and with its arguments: functions of the step count.

Each is held at its last value beyond its end; the first step has the count 0. See `warmups.py` for those that are named
by the total number of steps.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.errors import concrete
from .._core.factory import schedule
from .count import check_value, cosine_wave, float_dtype, number, progress, since, whole


@schedule
def constant_schedule(value: Any):
    """The same value at every step.

    **Value**: `value`.

    Args:
        value: a number or a 0-d array. A Python number reaches a rule with all its digits, as if it had been passed
            without a schedule.

    Example:
        >>> import gradxform as gx
        >>> float(gx.constant_schedule(0.5)(123))
        0.5
    """
    check_value("constant_schedule", "value", value)
    return (lambda count: number(value)), (lambda count: value)


@schedule
def polynomial_schedule(
    init_value: Any, end_value: Any, power: Any, transition_steps: int, transition_begin: int = 0
):
    """From `init_value` to `end_value` along a power of the remaining stretch.

    **Value**: `(init_value - end_value) (1 - x)^power + end_value`, where x runs from 0 at `transition_begin` to 1
    `transition_steps` later.

    Args:
        init_value: the value up to `transition_begin`.
        end_value: the value from the end of the transition on.
        power: 1 is a straight line, 2 falls fast first.
        transition_steps: the length in steps; 0 or less holds `init_value` for ever, as in Optax.
        transition_begin: the first step of the transition; negative counts as 0, as in Optax.

    Example:
        >>> import gradxform as gx
        >>> float(gx.polynomial_schedule(1.0, 0.0, 2, transition_steps=10)(5))
        0.25
    """
    for name, value in (("init_value", init_value), ("end_value", end_value), ("power", power)):
        check_value("polynomial_schedule", name, value)
    if transition_steps <= 0:
        return lambda count: number(init_value)
    begin = max(0, transition_begin)

    def value(count: Any) -> Any:
        left = 1 - progress(count, begin, transition_steps)
        end = number(end_value)
        return (number(init_value) - end) * left ** number(power) + end

    return value


@schedule
def linear_schedule(init_value: Any, end_value: Any, transition_steps: int, transition_begin: int = 0):
    """A straight line from `init_value` to `end_value`.

    **Value**: `init_value + (end_value - init_value) x`, where x runs from 0 at `transition_begin` to 1
    `transition_steps` later.

    Args:
        init_value: the value up to `transition_begin`.
        end_value: the value from the end of the transition on.
        transition_steps: the length in steps; 0 or less holds `init_value` for ever, as in Optax.
        transition_begin: the first step of the transition.
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


@schedule
def piecewise_constant_schedule(init_value: Any, boundaries_and_scales: Any = None):
    """Steps: at each boundary the value is multiplied by that boundary's scale.

    **Value**: `init_value` times the scales of all boundaries `b <= count`.

    Args:
        init_value: the value before the first boundary.
        boundaries_and_scales: a dictionary from steps to factors of at least 0.

    Example:
        >>> import gradxform as gx
        >>> schedule = gx.piecewise_constant_schedule(1.0, {30: 0.5, 60: 0.5})
        >>> [float(schedule(count)) for count in (29, 30, 60)]
        [1.0, 0.5, 0.25]
    """
    check_value("piecewise_constant_schedule", "init_value", init_value)
    steps = dict(boundaries_and_scales or {})
    for boundary, factor in steps.items():
        whole("piecewise_constant_schedule", "boundaries_and_scales", boundary)
        check_value("piecewise_constant_schedule", "boundaries_and_scales", factor)
        if (concrete(factor) or 0) < 0:
            raise ValueError(
                f"gx.piecewise_constant_schedule: expects non-negative scale factors, got {factor} at {boundary}"
            )

    def value(count: Any) -> Any:
        now = number(init_value)
        for boundary, factor in sorted(steps.items()):
            now = jnp.where(since(count, boundary) >= 0, now * number(factor), now)
        return now

    return value


@schedule
def exponential_decay(
    init_value: Any,
    transition_steps: int,
    decay_rate: Any,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Any = None,
):
    """Multiplies by `decay_rate` every `transition_steps` steps, smoothly or at once.

    **Value**: `init_value * decay_rate^x` with `x = (count - transition_begin) / transition_steps`, at least 0, rounded
    down if `staircase`; never past `end_value`.

    Args:
        init_value: the value up to `transition_begin`.
        transition_steps: steps for one factor; 0 or less holds `init_value` for ever, as in Optax.
        decay_rate: the factor; 0 holds `init_value` for ever, as in Optax.
        transition_begin: the first step of the decay; negative counts as 0.
        staircase: whether the value changes only every `transition_steps` steps.
        end_value: a lower bound if `decay_rate < 1`, else an upper bound.
    """
    for name, value in (("init_value", init_value), ("decay_rate", decay_rate)):
        check_value("exponential_decay", name, value)
    if transition_steps <= 0 or concrete(decay_rate) == 0:
        return lambda count: number(init_value)
    begin = max(0, transition_begin)

    def value(count: Any) -> Any:
        x = jnp.maximum(since(count, begin), 0) / np.asarray(transition_steps, float_dtype())
        rate = number(decay_rate)
        now = number(init_value) * jnp.power(rate, jnp.floor(x) if staircase else x)
        if end_value is None:
            return now
        end = number(end_value)
        return jnp.where(rate < 1, jnp.maximum(now, end), jnp.minimum(now, end))

    return value


@schedule
def cosine_decay_schedule(init_value: Any, decay_steps: int, alpha: Any = 0.0, exponent: Any = 1.0):
    """Half a cosine from `init_value` down to `alpha * init_value`.

    **Value**: `init_value ((1 - alpha) (0.5 (1 + cos(pi x)))^exponent + alpha)`, `x = min(count / decay_steps, 1)`.

    Args:
        init_value: the value at step 0.
        decay_steps: the length, at least 1.
        alpha: the floor, as a part of `init_value`.
        exponent: larger values fall faster at first.

    References: Loshchilov & Hutter, SGDR, 2017, arXiv:1608.03983.
    """
    for name, value in (("init_value", init_value), ("alpha", alpha), ("exponent", exponent)):
        check_value("cosine_decay_schedule", name, value)
    if not decay_steps > 0:
        raise ValueError(
            f"gx.cosine_decay_schedule(decay_steps={decay_steps}): the cosine_decay_schedule requires positive decay_steps"
        )

    def value(count: Any) -> Any:
        wave = cosine_wave(progress(count, 0, decay_steps)) ** number(exponent)
        floor = number(alpha)
        return number(init_value) * ((1 - floor) * wave + floor)

    return value


@schedule
def join_schedules(schedules: Sequence[Any], boundaries: Sequence[int]):
    """One schedule after the other, each counting from its own start.

    **Value**: the first schedule at `count` before the first boundary, then the second at `count - boundaries[0]`, ...

    Args:
        schedules: functions of the step count.
        boundaries: where the next one begins: one fewer than schedules, ascending.

    Raises:
        ValueError: for a wrong number of boundaries or boundaries out of order (Optax accepts both and never reaches
            the last schedule, or picks the wrong one).

    A schedule that is not in force is evaluated inside its own stretch only, so that its gradient stays finite.

    Example:
        >>> import gradxform as gx
        >>> warm = gx.linear_schedule(0.0, 1.0, 10)
        >>> float(gx.join_schedules([warm, gx.constant_schedule(1.0)], [10])(4))
        0.4000000059604645
    """
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"gx.join_schedules: {len(schedules)} schedules need {len(schedules) - 1} boundaries, got {len(boundaries)}"
        )
    for part in schedules:
        if not callable(part):
            raise TypeError(
                f"gx.join_schedules: {part!r} is not a schedule; for a number use gx.constant_schedule"
            )
    edges = [whole("join_schedules", "boundaries", edge) for edge in boundaries]
    if edges != sorted(edges):
        raise ValueError(f"gx.join_schedules(boundaries={list(boundaries)}): wanted ascending steps")

    def value(count: Any) -> Any:
        count = jnp.asarray(count)
        starts = [0, *edges]
        now: Any = None
        for i, part in enumerate(schedules):
            local = count - jnp.asarray(min(starts[i], _top(count)), count.dtype)
            local = jnp.maximum(local, 0) if i > 0 else local
            if i < len(edges):
                local = jnp.minimum(local, jnp.asarray(min(edges[i] - starts[i], _top(count)), count.dtype))
            part_value = number(part(local))
            now = part_value if now is None else jnp.where(since(count, starts[i]) < 0, now, part_value)
        return now

    return value


def _top(count: Any) -> int:
    return int(jnp.iinfo(count.dtype).max) if jnp.issubdtype(count.dtype, jnp.integer) else 2**62
