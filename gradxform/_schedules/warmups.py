"""Warmup, a stretch, an end: the schedules of training runs, most of them named by the total number of steps.

`warmup_steps` below 1 is a fraction of the total. With W warmup and N total steps the value climbs from `init_value` at
step 0 to the peak at step W, and from step N on it is `end_value`; W = 0 starts at the peak, W = N climbs to the end.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from .._core.errors import check_number, concrete
from .._core.factory import schedule
from .count import (
    check_value,
    cosine_wave,
    cycle_of,
    geometric,
    line,
    number,
    part_of,
    power,
    progress,
    remaining,
    rounds,
    since,
    static,
    whole,
)
from .decays import cosine_decay_schedule, join_schedules, linear_schedule

Shape = Callable[[Any], Any]


def _warm(
    peak: Any, warmup: int, total: int, init: Any, end: Any, shape: Shape, decay: int | None = None
) -> Shape:
    """init -> peak over `warmup`, peak until `total - decay`, then end + (peak - end) shape(left), left = 1 to 0."""
    length = total - warmup if decay is None else decay

    def value(count: Any) -> Any:
        top, floor = number(peak), number(end)
        now = top
        if length > 0:
            now = floor + (top - floor) * shape(remaining(count, total - length, length))
        if warmup > 0:
            now = jnp.where(since(count, warmup) < 0, line(init, peak, count, 0, warmup), now)
        return jnp.where(since(count, total) >= 0, floor, now)

    return value


def _check(call: str, total_steps: Any, **values: Any) -> int:
    for name, value in values.items():
        check_value(call, name, value)
    return whole(call, "total_steps", total_steps, low=1)


@schedule(sample={"peak_value": 1.0, "warmup_steps": 2, "total_steps": 10})
def warmup_cosine(
    peak_value: Any,
    warmup_steps: Any,
    total_steps: int,
    *,
    init_value: Any = 0.0,
    end_value: Any = 0.0,
    exponent: Any = 1.0,
):
    """Linear warmup, then half a cosine down: the standard schedule for transformers.

    **Value**: `init + (peak - init) t / W` for t < W, then `end + (peak - end) (0.5 (1 + cos(pi x)))^exponent`, where
    `x = (t - W) / (N - W)`.

    Args:
        peak_value: the value at step W.
        warmup_steps: W; below 1 a fraction of the total. Usual are 1 to 10 % of the run.
        total_steps: N, the length of the whole run, warmup included.
        init_value: the value at step 0. With 0 the first update does nothing; a small positive value does not waste it.
        end_value: the floor, from step N on.
        exponent: larger values fall faster at first.

    Raises:
        ValueError: for a negative warmup or one longer than the run.

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.warmup_cosine(1.0, 10, 110)(t)), 3) for t in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Differs from `warmup_cosine_decay_schedule`: the peak comes first, W may be a fraction, W = N is allowed.

    References: Loshchilov & Hutter, SGDR, 2017, arXiv:1608.03983.
    """
    total = _check(
        "warmup_cosine",
        total_steps,
        peak_value=peak_value,
        init_value=init_value,
        end_value=end_value,
        exponent=exponent,
    )
    warmup = part_of("warmup_cosine", "warmup_steps", warmup_steps, total)
    return _warm(
        peak_value, warmup, total, init_value, end_value, lambda left: power(cosine_wave(left), exponent)
    )


@schedule(sample={"peak_value": 1.0, "warmup_steps": 2, "total_steps": 10})
def warmup_linear(
    peak_value: Any, warmup_steps: Any, total_steps: int, *, init_value: Any = 0.0, end_value: Any = 0.0
):
    """Linear warmup, then a straight line down.

    **Value**: `init + (peak - init) t / W` for t < W, then `end + (peak - end) (N - t) / (N - W)`.

    Args:
        peak_value, warmup_steps, total_steps, init_value, end_value: as in `warmup_cosine`.

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.warmup_linear(1.0, 10, 110)(t)), 3) for t in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    total = _check(
        "warmup_linear", total_steps, peak_value=peak_value, init_value=init_value, end_value=end_value
    )
    warmup = part_of("warmup_linear", "warmup_steps", warmup_steps, total)
    return _warm(peak_value, warmup, total, init_value, end_value, lambda left: left)


_SHAPES: dict[str, Shape] = {
    "linear": lambda left: left,
    "cosine": cosine_wave,
    # 1 - sqrt(1 - left) without cancellation: the "1 - sqrt" cooldown of Haegele et al., 2024, arXiv:2405.18392.
    "sqrt": lambda left: left / (1 + jnp.sqrt(1 - left)),
}


@schedule(sample={"peak_value": 1.0, "warmup_steps": 2, "total_steps": 10})
def wsd(
    peak_value: Any,
    warmup_steps: Any,
    total_steps: int,
    decay_steps: Any = 0.2,
    *,
    init_value: Any = 0.0,
    end_value: Any = 0.0,
    shape: str = "linear",
):
    """Warmup, stable, decay: up to the peak, along it, and down at the end.

    The stretch before the decay does not depend on the length of the run, so a run can be prolonged from a checkpoint
    taken there.

    **Value**: `init + (peak - init) t / W` for t < W, `peak` until N - D, then `end + (peak - end) shape(x)`,
    `x = (t - (N - D)) / D`.

    Args:
        peak_value, warmup_steps, total_steps, init_value, end_value: as in `warmup_cosine`.
        decay_steps: D, the length of the decay; below 1 a fraction of the total.
        shape: "linear" `1 - x`, "cosine" `0.5 (1 + cos(pi x))`, or "sqrt" `1 - sqrt(x)`.

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.wsd(1.0, 10, 100, decay_steps=0.2)(t)), 3) for t in (0, 5, 10, 80, 90, 100)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    References: Hu et al., MiniCPM, 2024, arXiv:2404.06395; Haegele et al., 2024, arXiv:2405.18392.
    """
    total = _check("wsd", total_steps, peak_value=peak_value, init_value=init_value, end_value=end_value)
    if shape not in _SHAPES:
        raise ValueError(f"gx.wsd(shape={shape!r}): wanted one of {', '.join(map(repr, _SHAPES))}")
    warmup = part_of("wsd", "warmup_steps", warmup_steps, total)
    decay = part_of("wsd", "decay_steps", decay_steps, total)
    if warmup + decay > total:
        raise ValueError(
            f"gx.wsd(warmup_steps={warmup_steps}, total_steps={total}, decay_steps={decay_steps}): {warmup} warmup and "
            f"{decay} decay steps do not fit into {total}; shorten one, or the fraction of one"
        )
    return _warm(peak_value, warmup, total, init_value, end_value, _SHAPES[shape], decay)


@schedule(sample={"peak_value": 1.0, "warmup_steps": 2})
def inverse_sqrt(peak_value: Any, warmup_steps: int, *, init_value: Any = 0.0, timescale: Any = None):
    """Linear warmup, then decay with the inverse square root of the step; it has no end.

    **Value**: `init + (peak - init) t / W` for t < W, then `peak sqrt(s / (s + t - W))`, s the timescale; with `s = W`
    this is `peak sqrt(W / t)`.

    Args:
        peak_value: the value at step W.
        warmup_steps: W, in steps (there is no total to take a fraction of).
        init_value: the value at step 0.
        timescale: s, in steps; W (at least 1) by default.

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.inverse_sqrt(1.0, 100)(t)), 3) for t in (0, 50, 100, 400)]
        [0.0, 0.5, 1.0, 0.5]

    References: Vaswani et al., Attention is all you need, 2017, section 5.3.
    """
    check_value("inverse_sqrt", "peak_value", peak_value)
    check_value("inverse_sqrt", "init_value", init_value)
    warmup = whole("inverse_sqrt", "warmup_steps", warmup_steps)
    scale = max(warmup, 1) if timescale is None else timescale
    check_number("inverse_sqrt", "timescale", scale, low=0, open_low=True, schedule=False)

    def value(count: Any) -> Any:
        s = number(scale)
        now = number(peak_value) * jnp.sqrt(s / (s + jnp.maximum(since(count, warmup), 0)))
        if warmup == 0:
            return now
        return jnp.where(since(count, warmup) < 0, line(init_value, peak_value, count, 0, warmup), now)

    return value


@schedule(sample={"peak_value": 1.0, "first_steps": 5})
def cosine_restarts(
    peak_value: Any, first_steps: int, *, multiplier: Any = 1.0, decay: Any = 1.0, end_value: Any = 0.0
):
    """Half cosines one after the other, each a warm restart (SGDR).

    **Value**: in cycle i of length `T_i = first_steps multiplier^i`, t_i steps after its start:
    `end + (peak - end) decay^i 0.5 (1 + cos(pi t_i / T_i))`.

    Args:
        peak_value: the value at the start of the first cycle.
        first_steps: the length of the first cycle.
        multiplier: each cycle is so many times as long as the one before, at least 1.
        decay: each peak is so many times as high above the floor.
        end_value: the floor.

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.cosine_restarts(1.0, 10, multiplier=2.0, decay=0.5)(t)), 3) for t in (0, 5, 10, 20)]
        [1.0, 0.5, 0.5, 0.25]

    References: Loshchilov & Hutter, SGDR, 2017, arXiv:1608.03983, equation 5.
    """
    for name, value in (("peak_value", peak_value), ("decay", decay), ("end_value", end_value)):
        check_value("cosine_restarts", name, value)
    first = whole("cosine_restarts", "first_steps", first_steps, low=1)
    factor = static("cosine_restarts", "multiplier", multiplier, low=1)

    def value(count: Any) -> Any:
        if factor == 1:
            cycle, _, left = rounds(count, 0, first)
        else:
            cycle, left = cycle_of(count, first, factor)
        floor = number(end_value)
        height = 1 if concrete(decay) == 1 else geometric(decay, cycle)
        return floor + (number(peak_value) - floor) * height * cosine_wave(left)

    return value


@schedule(sample={"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 10})
def warmup_cosine_decay_schedule(
    init_value: Any,
    peak_value: Any,
    warmup_steps: int,
    decay_steps: int,
    end_value: Any = 0.0,
    exponent: Any = 1.0,
):
    """Optax's warmup and cosine, with its arguments: `decay_steps` is the length of the whole schedule.

    **Value**: a line from `init_value` to `peak_value` over `warmup_steps`, then
    `cosine_decay_schedule(peak_value, decay_steps - warmup_steps, end_value / peak_value, exponent)`.

    Args:
        init_value, peak_value: the values at step 0 and at the end of the warmup.
        warmup_steps: the length of the warmup.
        decay_steps: the length of the whole schedule, warmup included; more than `warmup_steps`.
        end_value: the floor.
        exponent: larger values fall faster at first.

    Raises:
        ValueError: for a negative warmup or a `decay_steps` that leaves nothing to decay.

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.warmup_cosine_decay_schedule(0.0, 1.0, 10, 110)(t)), 3) for t in (0, 5, 10, 60, 110)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    call = "warmup_cosine_decay_schedule"
    for name, value in (("init_value", init_value), ("peak_value", peak_value), ("end_value", end_value)):
        check_value(call, name, value)
    whole(call, "warmup_steps", warmup_steps)
    if not decay_steps > warmup_steps:
        raise ValueError(
            f"gx.{call}(warmup_steps={warmup_steps}, decay_steps={decay_steps}): decay_steps counts the warmup too and "
            "must be larger"
        )
    if concrete(peak_value) is None or concrete(end_value) is None:
        top, floor = number(peak_value), number(end_value)
        # A traced peak may be 0; the value is then 0 throughout, as for a number.
        alpha = jnp.where(top == 0, 0, floor / jnp.where(top == 0, 1, top))
    else:
        alpha = 0.0 if concrete(peak_value) == 0 else end_value / peak_value
    return join_schedules(
        [
            linear_schedule(init_value, peak_value, warmup_steps),
            cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent),
        ],
        [warmup_steps],
    )


@schedule(sample={"transition_steps": 10, "peak_value": 1.0})
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Any,
    pct_start: float = 0.3,
    div_factor: Any = 25.0,
    final_div_factor: Any = 1e4,
):
    """One cycle: half a cosine up to the peak, half a cosine down to almost nothing.

    **Value**: from `peak / div_factor` to `peak` over the first `pct_start` of the steps, then to
    `peak / (div_factor final_div_factor)`, each along half a cosine.

    Args:
        transition_steps: the length of the cycle.
        peak_value: the highest value.
        pct_start: the part of the steps that climbs, in (0, 1).
        div_factor: the first value is `peak_value / div_factor`.
        final_div_factor: the last value is the first one over this.

    Raises:
        ValueError: for fewer than one step. When the climb or the descent rounds to no step at all, that part is left
            out (Optax loses the other part too).

    Example:
        >>> import gradxform as gx
        >>> [round(float(gx.cosine_onecycle_schedule(100, 1.0)(t)), 3) for t in (0, 15, 30, 65, 100)]
        [0.04, 0.52, 1.0, 0.5, 0.0]

    References: Smith & Topin, Super-convergence, 2017, arXiv:1708.07120.
    """
    call = "cosine_onecycle_schedule"
    for name, value in (
        ("peak_value", peak_value),
        ("div_factor", div_factor),
        ("final_div_factor", final_div_factor),
    ):
        check_value(call, name, value)
    for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        check_number(call, name, value, low=0, open_low=True, schedule=False)
    total = whole(call, "transition_steps", transition_steps, low=1)
    check_number(call, "pct_start", pct_start, low=0, high=1, schedule=False)
    climb = int(pct_start * total)

    def value(count: Any) -> Any:
        peak = number(peak_value)
        first = peak / number(div_factor)
        last = first / number(final_div_factor)
        now = last + (peak - last) * cosine_wave(remaining(count, climb, max(total - climb, 1)))
        if climb > 0:
            up = first + (peak - first) * cosine_wave(progress(count, 0, climb))
            now = jnp.where(since(count, climb) < 0, up, now)
        return jnp.where(since(count, total) >= 0, last, now)

    return value
