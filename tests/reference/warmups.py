"""Schedules that gradxform adds: a warmup, a stretch, and an end that is named by the total number of steps.

W warmup steps, N total steps; a count of steps below one is a fraction of the total, rounded to the nearest step. All
hold their last value from step N on; a warmup as long as the total therefore climbs until N - 1 and ends at N.
"""

import math
from collections.abc import Callable

from .schedules import Schedule, cosine_wave


def steps_of(steps: float, total: int, name: str = "warmup_steps") -> int:
    """A number of steps, or a fraction of the total; negative and overlong ones are refused."""
    count = round(steps * total) if 0 < steps < 1 else int(steps)
    if count != steps and not 0 < steps < 1:
        raise ValueError(f"{name} must be whole, or a fraction below one, got {steps}")
    if not 0 <= count <= total:
        raise ValueError(f"{name} must lie in 0..{total}, got {steps}")
    return count


def _warm(
    peak: float,
    warmup: int,
    total: int,
    init: float,
    end: float,
    shape: Callable[[float], float],
    decay: int | None = None,
) -> Schedule:
    """init -> peak over `warmup`, peak until `total - decay`, then end + (peak - end) shape(x), x = 0 to 1 at total."""
    length = total - warmup if decay is None else decay

    def schedule(count: int) -> float:
        if count >= total:
            return float(end)
        if count < warmup:
            return init + (peak - init) * (count / warmup)
        if count < total - length:
            return float(peak)
        return end + (peak - end) * shape((count - (total - length)) / length)

    return schedule


def warmup_cosine(
    peak_value: float,
    warmup_steps: float,
    total_steps: int,
    *,
    init_value: float = 0.0,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """E + (P - E) ((1 + cos(pi (t - W) / (N - W))) / 2)^exponent after the warmup (Loshchilov & Hutter 2017)."""
    warmup = steps_of(warmup_steps, total_steps)
    return _warm(peak_value, warmup, total_steps, init_value, end_value, lambda x: cosine_wave(x) ** exponent)


def warmup_linear(
    peak_value: float,
    warmup_steps: float,
    total_steps: int,
    *,
    init_value: float = 0.0,
    end_value: float = 0.0,
) -> Schedule:
    """E + (P - E) (N - t) / (N - W) after the warmup."""
    warmup = steps_of(warmup_steps, total_steps)
    return _warm(peak_value, warmup, total_steps, init_value, end_value, lambda x: 1 - x)


WSD_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": cosine_wave,
    "sqrt": lambda x: 1 - math.sqrt(x),  # the "1-sqrt" cooldown of Haegele et al. 2024
}


def wsd(
    peak_value: float,
    warmup_steps: float,
    total_steps: int,
    decay_steps: float,
    *,
    init_value: float = 0.0,
    end_value: float = 0.0,
    shape: str = "linear",
) -> Schedule:
    """Warmup, stable, decay (Hu et al. 2024): up to P in W steps, P, then down to E over the last `decay_steps`."""
    warmup = steps_of(warmup_steps, total_steps)
    decay = steps_of(decay_steps, total_steps, "decay_steps")
    if warmup + decay > total_steps:
        raise ValueError(f"warmup {warmup} and decay {decay} do not fit into {total_steps} steps")
    return _warm(peak_value, warmup, total_steps, init_value, end_value, WSD_SHAPES[shape], decay)


def inverse_sqrt(
    peak_value: float, warmup_steps: int, *, init_value: float = 0.0, timescale: float | None = None
) -> Schedule:
    """P sqrt(s / (s + t - W)) after the warmup, s the timescale, W (at least 1) by default: then P sqrt(W / t), the
    schedule of Vaswani et al. 2017, section 5.3, there with P = (d W)^(-1/2).
    """
    scale = max(warmup_steps, 1) if timescale is None else timescale

    def schedule(count: int) -> float:
        if count < warmup_steps:
            return init_value + (peak_value - init_value) * (count / warmup_steps)
        return peak_value * math.sqrt(scale / (scale + count - warmup_steps))

    return schedule


def cosine_restarts(
    peak_value: float,
    first_steps: int,
    *,
    multiplier: float = 1.0,
    decay: float = 1.0,
    end_value: float = 0.0,
) -> Schedule:
    """SGDR (Loshchilov & Hutter 2017, equation 5): E + (P_i - E)(1 + cos(pi t_i / T_i)) / 2 in cycle i = 0, 1, ...,
    with T_i = first_steps multiplier^i, P_i = E + (P - E) decay^i and t_i the steps since the last restart.
    """

    def schedule(count: int) -> float:
        start, length, peak = 0.0, float(first_steps), peak_value - end_value
        while count >= start + length:
            start, length, peak = start + length, length * multiplier, peak * decay
        return end_value + peak * cosine_wave((count - start) / length)

    return schedule
