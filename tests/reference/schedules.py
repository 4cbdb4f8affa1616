"""Schedules that Optax has, in closed form: functions of the 0-based step count that return a float.

I initial value, E end value, T transition steps, B the step at which the transition begins. Counts are Python integers,
so that large edges lose nothing.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def cosine_wave(x: float) -> float:
    """(1 + cos(pi x)) / 2 for x clipped to [0, 1], as cos^2(pi x / 2): relative accuracy down to the zero at x = 1."""
    return 0.0 if x >= 1 else math.cos(math.pi * max(x, 0.0) / 2) ** 2


def _power(base: float, exponent: float) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def constant_schedule(value: float) -> Schedule:
    return lambda count: float(value)


def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """(I - E)(1 - (t - B) / T)^power + E, held at I before B, at E after B + T. T <= 0 holds I; B < 0 counts as 0."""
    begin = max(transition_begin, 0)

    def schedule(count: int) -> float:
        if transition_steps <= 0:
            return float(init_value)
        left = transition_steps - min(max(count - begin, 0), transition_steps)
        return (init_value - end_value) * (left / transition_steps) ** power + end_value

    return schedule


def linear_schedule(
    init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """A straight line from I at B to E at B + T."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def piecewise_constant_schedule(
    init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """I times all scales whose boundary b has been reached, t >= b."""
    steps = boundaries_and_scales or {}
    return lambda count: init_value * math.prod(scale for bound, scale in steps.items() if count >= bound)


def exponential_decay(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """I rate^((t - B) / T) from B on, the exponent rounded down with `staircase`; `end_value` bounds it from below
    where the rate is below one, from above otherwise. T <= 0 or a rate of zero hold I.
    """
    begin = max(transition_begin, 0)

    def schedule(count: int) -> float:
        if transition_steps <= 0 or decay_rate == 0:
            return float(init_value)
        after = max(count - begin, 0)
        exponent = after // transition_steps if staircase else after / transition_steps
        value = init_value * _power(decay_rate, exponent)
        if end_value is None:
            return value
        return max(value, end_value) if decay_rate < 1 else min(value, end_value)

    return schedule


def cosine_decay_schedule(
    init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    """I ((1 - alpha) w^exponent + alpha), w = (1 + cos(pi t / T)) / 2 (Loshchilov & Hutter 2017, one cycle)."""
    if decay_steps <= 0:
        raise ValueError(f"decay_steps must be positive, got {decay_steps}")
    return lambda count: init_value * ((1 - alpha) * cosine_wave(count / decay_steps) ** exponent + alpha)


def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """A line from I to the peak at `warmup_steps`, then a cosine to E at `decay_steps`, which includes the warmup.

    A peak of zero gives zero, whatever E is (Optax)."""
    alpha = 0.0 if peak_value == 0 else end_value / peak_value
    line = linear_schedule(init_value, peak_value, warmup_steps)
    return join_schedules(
        [line, cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)], [warmup_steps]
    )


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Half a cosine from peak / div up to the peak at int(pct T), half a cosine down to peak / (div final_div) at T
    (Smith & Topin 2018).
    """
    top, first = int(pct_start * transition_steps), peak_value / div_factor
    last = first / final_div_factor

    def schedule(count: int) -> float:
        if count >= transition_steps:
            return last
        if count < top:
            return peak_value + (first - peak_value) * cosine_wave(count / top)
        return last + (peak_value - last) * cosine_wave((count - top) / (transition_steps - top))

    return schedule


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """schedules[i](t - boundaries[i - 1]) with i the number of boundaries reached, t >= b; ascending boundaries."""

    def schedule(count: int) -> float:
        i = bisect_right(boundaries, count)
        return schedules[i](count - boundaries[i - 1] if i else count)

    return schedule
