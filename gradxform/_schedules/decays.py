"""The schedules that Optax has, under its names and with its arguments: functions of the step count.

Each is held at its last value beyond its end; the first step has the count 0. See `warmups.py` for those that are named
by the total number of steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.errors import check_flag, check_schedule, concrete, kind, say, short
from .._core.factory import schedule
from .count import (
    as_count,
    check_value,
    cosine_wave,
    float_dtype,
    geometric,
    line,
    number,
    power as raised,
    progress,
    remaining,
    rounds,
    since,
    whole,
    within,
)


@schedule(sample={"value": 0.5})
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

    def rounded(count: Any) -> Any:
        del count
        return number(value)

    def exact(count: Any) -> Any:
        del count
        return value

    return rounded, exact


@schedule(sample={"init_value": 1.0, "end_value": 0.1, "power": 2, "transition_steps": 10})
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
    check_value("polynomial_schedule", "transition_steps", transition_steps)
    check_value("polynomial_schedule", "transition_begin", transition_begin)
    if transition_steps <= 0:
        return constant_schedule(init_value)
    begin = max(0, transition_begin)

    def value(count: Any) -> Any:
        if concrete(power) == 1:
            return line(init_value, end_value, count, begin, transition_steps)
        x = progress(count, begin, transition_steps)
        left = remaining(count, begin, transition_steps) ** number(power)
        # 1 - left loses its digits as long as left is near 1, log1p and expm1 as soon as it is near 0.
        early = -jnp.expm1(number(power) * jnp.log1p(-jnp.minimum(x, 0.5)))
        return number(init_value) * left + number(end_value) * jnp.where(x < 0.5, early, 1 - left)

    return value


@schedule(sample={"init_value": 1.0, "end_value": 0.1, "transition_steps": 10})
def linear_schedule(init_value: Any, end_value: Any, transition_steps: int, transition_begin: int = 0):
    """A straight line from `init_value` to `end_value`.

    **Value**: `init_value + (end_value - init_value) x`, where x runs from 0 at `transition_begin` to 1
    `transition_steps` later.

    Args:
        init_value: the value up to `transition_begin`.
        end_value: the value from the end of the transition on.
        transition_steps: the length in steps; 0 or less holds `init_value` for ever, as in Optax.
        transition_begin: the first step of the transition.

    Example:
        >>> import gradxform as gx
        >>> schedule = gx.linear_schedule(1.0, 0.0, transition_steps=10)
        >>> [float(schedule(count)) for count in (0, 5, 10, 11)]
        [1.0, 0.5, 0.0, 0.0]
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


@schedule(sample={"init_value": 1.0})
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
    if not isinstance(boundaries_and_scales, Mapping | None):
        raise TypeError(
            f"gx.piecewise_constant_schedule(boundaries_and_scales={short(boundaries_and_scales)}): wanted a "
            "dictionary from steps to factors, {30: 0.1, 60: 0.1}"
        )
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


@schedule(sample={"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.5})
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

    Example:
        >>> import gradxform as gx
        >>> schedule = gx.exponential_decay(1.0, transition_steps=10, decay_rate=0.5)
        >>> [float(schedule(count)) for count in (0, 10, 20)]
        [1.0, 0.5, 0.25]
    """
    for name, value in (("init_value", init_value), ("decay_rate", decay_rate)):
        check_value("exponential_decay", name, value)
    check_value("exponential_decay", "transition_steps", transition_steps)
    check_value("exponential_decay", "transition_begin", transition_begin)
    check_flag("exponential_decay", "staircase", staircase)
    if transition_steps <= 0 or concrete(decay_rate) == 0:
        return constant_schedule(init_value)
    begin = max(0, transition_begin)

    def value(count: Any) -> Any:
        full, begun, _ = rounds(count, begin, transition_steps)
        factor = geometric(decay_rate, full)
        if not staircase:
            factor = factor * geometric(decay_rate, begun)
        if end_value is None:
            return number(init_value) * factor
        # Growth without bound would put Inf into the branch not taken, and NaN into its gradient.
        now = number(init_value) * jnp.minimum(factor, np.asarray(jnp.finfo(float_dtype()).max))
        end = number(end_value)
        return jnp.where(number(decay_rate) < 1, jnp.maximum(now, end), jnp.minimum(now, end))

    return value


@schedule(sample={"init_value": 1.0, "decay_steps": 10})
def cosine_decay_schedule(init_value: Any, decay_steps: int, alpha: Any = 0.0, exponent: Any = 1.0):
    """Half a cosine from `init_value` down to `alpha * init_value`.

    **Value**: `init_value ((1 - alpha) (0.5 (1 + cos(pi x)))^exponent + alpha)`, `x = min(count / decay_steps, 1)`.

    Args:
        init_value: the value at step 0.
        decay_steps: the length, at least 1.
        alpha: the floor, as a part of `init_value`.
        exponent: larger values fall faster at first.

    Example:
        >>> import gradxform as gx
        >>> schedule = gx.cosine_decay_schedule(1.0, 100, alpha=0.1)
        >>> [round(float(schedule(count)), 3) for count in (0, 50, 100, 500)]
        [1.0, 0.55, 0.1, 0.1]

    References: Loshchilov & Hutter, SGDR, 2017, arXiv:1608.03983.
    """
    for name, value in (("init_value", init_value), ("alpha", alpha), ("exponent", exponent)):
        check_value("cosine_decay_schedule", name, value)
    check_value("cosine_decay_schedule", "decay_steps", decay_steps)
    if not decay_steps > 0:
        raise ValueError(
            f"gx.cosine_decay_schedule(decay_steps={decay_steps}): cosine_decay_schedule requires positive decay_steps"
        )

    def value(count: Any) -> Any:
        wave = raised(cosine_wave(remaining(count, 0, decay_steps)), exponent)
        floor = number(alpha)
        return number(init_value) * ((1 - floor) * wave + floor)

    return value


@schedule(sample={"schedules": (constant_schedule(1.0), constant_schedule(0.5)), "boundaries": (5,)})
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
    for name, given in (("schedules", schedules), ("boundaries", boundaries)):
        if not hasattr(given, "__len__"):
            raise TypeError(f"gx.join_schedules({name}={short(given)}): wanted a list, got {kind(given)}")
    if len(schedules) == 0 or len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"gx.join_schedules: {len(schedules)} schedules and {len(boundaries)} boundaries; wanted at least one "
            "schedule and one boundary fewer than schedules"
        )
    for i, part in enumerate(schedules):
        text = f"gx.join_schedules(schedules): number {i}"
        if not callable(part):
            remedy = "a constant is gx.constant_schedule(...)"
            raise TypeError(say(f"{text} is {kind(part)}, wanted a schedule", remedy))
        check_schedule(text, part)
    edges = [whole("join_schedules", "boundaries", edge) for edge in boundaries]
    if edges != sorted(edges):
        raise ValueError(f"gx.join_schedules(boundaries={list(boundaries)}): wanted ascending steps")

    def value(count: Any) -> Any:
        count = as_count(count)
        starts = [0, *edges]
        now: Any = None
        for i, part in enumerate(schedules):
            local = within(count, starts[i], edges[i] - starts[i] if i < len(edges) else None)
            part_value = number(part(local))
            now = part_value if now is None else jnp.where(since(count, starts[i]) < 0, now, part_value)
        return now

    return value
