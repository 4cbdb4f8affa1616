"""Step counts and edges: integers are subtracted as integers before anything becomes a float.

A float32 tells whole numbers apart up to 2^24 only; a run of 20 million steps whose decay starts at step 19,999,000 has
to see the last thousand one by one. Edges may lie beyond the int32 range of the counter.

A stretch is measured from both of its ends. What is left of it is `remaining`, never `1 - progress`: near the end the
difference has lost its digits, and with them the last steps of every decay to zero.
"""

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from .._core.errors import check_number, concrete, kind, say, short
from .._core.numerics import INT32_MAX, TwoFloat
from .._core.scalars import is_schedule


def float_dtype() -> Any:
    """float32, or float64 when double precision is on."""
    return jnp.result_type(float)


def number(x: Any) -> Any:
    """A value of a schedule in the working dtype."""
    if isinstance(x, TwoFloat):
        return number(x.hi) + number(x.lo)
    return jnp.asarray(x, float_dtype())


def as_count(count: Any) -> Any:
    """A count as an array; Python's and NumPy's integers beyond the counter's range stay exact, as NumPy's int64."""
    if isinstance(count, int | np.integer | np.ndarray) and np.asarray(count).dtype.kind in "iuO":
        exact = np.asarray(count, object)  # np.int32(3) cannot be compared with the largest int64
        known = np.asarray(np.minimum(exact, np.iinfo(np.int64).max)).astype(np.int64)
        if np.any(np.abs(known) > jnp.iinfo(jnp.result_type(int)).max):
            return np.asarray(known)
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.unsignedinteger):
        top = np.asarray(min(INT32_MAX, int(jnp.iinfo(count.dtype).max)), count.dtype)
        return jnp.minimum(count, top).astype(jnp.int32)
    return count


def top_of(count: Any) -> int:
    """The largest edge that a count of this dtype can be compared with."""
    return int(jnp.iinfo(count.dtype).max) if jnp.issubdtype(count.dtype, jnp.integer) else 2**62


def since(count: Any, start: Any) -> Any:
    """`count - start` as a float, exact where the integers are within the counter's range."""
    count = as_count(count)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        return count.astype(float_dtype()) - np.asarray(start, float_dtype())
    near = min(int(start), top_of(count))
    steps = number(count - np.asarray(near, count.dtype))
    return steps if near == start else steps - np.asarray(start - near, float_dtype())


def part(steps: Any, length: Any) -> Any:
    """`steps / length` within [0, 1]. It is exactly 1 at the end: XLA multiplies by 1 / length, which may miss that."""
    full = np.asarray(length, float_dtype()) if isinstance(length, int | float) else length
    return jnp.where(steps >= full, np.asarray(1, float_dtype()), jnp.maximum(steps, 0) / full)


def progress(count: Any, start: Any, length: Any) -> Any:
    """How far a stretch of `length` steps from `start` has come: 0 before it, 1 at its end and after."""
    return part(since(count, start), length)


def remaining(count: Any, start: Any, length: Any) -> Any:
    """What is left of a stretch of `length` steps from `start`: 1 before it, 0 at its end and after."""
    return part(-since(count, start + length), length)


def line(init: Any, end: Any, count: Any, start: Any, length: Any) -> Any:
    """A straight line from `init` at `start` to `end` after `length` steps, each end with all its digits."""
    return number(init) * remaining(count, start, length) + number(end) * progress(count, start, length)


def within(count: Any, start: int, length: int | None = None) -> Any:
    """`count - start` as a count of its own, held within a stretch."""
    count = as_count(count)
    maths: Any = np if isinstance(count, np.ndarray) else jnp
    local = maths.maximum(count - np.asarray(min(start, top_of(count)), count.dtype), 0)
    return (
        local if length is None else maths.minimum(local, np.asarray(min(length, top_of(count)), local.dtype))
    )


def rounds(count: Any, start: int, length: int) -> tuple[Any, Any, Any]:
    """How many stretches of `length` steps lie behind since `start`, and of the present one the parts done and left."""
    local = within(count, start)
    if not jnp.issubdtype(local.dtype, jnp.integer) or length != int(length):
        done = number(local) / np.asarray(length, float_dtype())
        return jnp.floor(done), done - jnp.floor(done), 1 - (done - jnp.floor(done))
    if length > top_of(local):
        return number(0), progress(local, 0, length), remaining(local, 0, length)
    size = np.asarray(length, local.dtype)
    begun = local % size
    return (
        number(local // size),
        part(number(begun), float(length)),
        part(number(size - begun), float(length)),
    )


@lru_cache(maxsize=64)
def _starts(first: int, factor: float, top: int) -> NDArray[np.float64]:
    """The first steps of all cycles that begin up to `top`, and of the one after."""
    starts, length = [0.0], float(first)
    while starts[-1] <= top:
        starts.append(starts[-1] + length)
        length *= factor
    return np.asarray(starts)


def cycle_of(count: Any, first: int, factor: float) -> tuple[Any, Any]:
    """The number of the cycle that a count is in, and what is left of it."""
    count = within(count, 0)
    maths: Any = np if isinstance(count, np.ndarray | np.integer) else jnp
    top = min(top_of(count), 2**62)
    starts = _starts(first, factor, top)
    edges: Any = np.ceil(starts[:-1]).astype(count.dtype).reshape(-1, *(1,) * count.ndim)
    cycle = maths.sum(maths.asarray(count)[None] >= edges, axis=0) - 1
    near: Any = np.minimum(np.floor(starts[1:]), top).astype(count.dtype)
    left = number(maths.asarray(near)[cycle] - count) + number(starts[1:] - near)[cycle]
    return number(cycle), part(left, number(np.diff(starts))[cycle])


def whole(call: str, name: str, steps: Any, low: int = 0) -> int:
    """A number of steps as an int; floats that are whole are accepted."""
    text = f"gx.{call}({name}={short(steps)})"
    if isinstance(steps, bool) or not isinstance(steps, int | float | np.integer | np.floating):
        raise TypeError(f"{text}: wanted a whole number of steps, got {kind(steps)}")
    if not np.isfinite(steps) or steps != int(steps):
        raise ValueError(f"{text}: wanted a whole number of steps, got {steps:g}")
    if steps < low:
        raise ValueError(f"{text}: wanted at least {low} steps, got {steps:g}")
    return int(steps)


def part_of(call: str, name: str, steps: Any, total: int) -> int:
    """A number of steps, or (below 1) a fraction of the total rounded to the nearest step."""
    if isinstance(steps, float | np.floating) and 0 < steps < 1:
        return round(float(steps) * total)
    if isinstance(steps, float | np.floating) and steps != np.floor(steps):
        raise ValueError(
            f"gx.{call}({name}={steps}): wanted a whole number of steps, or a fraction of the run below 1"
        )
    count = whole(call, name, steps)
    if count > total:
        raise ValueError(
            f"gx.{call}({name}={steps}): wanted at most total_steps={total}, or a fraction of the run below 1"
        )
    return count


def check_value(call: str, name: str, value: Any) -> None:
    """Raises unless `value` is a finite number or a 0-d array; a schedule of schedules is not a value."""
    if is_schedule(value):
        text = f"gx.{call}({name}={short(value)}): wanted a number, got {kind(value)}"
        raise TypeError(say(text, "one schedule after the other is gx.join_schedules"))
    check_number(call, name, value, schedule=False)


def static(call: str, name: str, value: Any, low: float) -> float:
    """A number that has to be known when the schedule is made."""
    check_number(call, name, value, low=low, schedule=False)
    known = concrete(value)
    if known is None:
        raise TypeError(
            f"gx.{call}({name}={short(value)}): wanted a number that is known when the schedule is made"
        )
    return known


def cosine_wave(left: Any) -> Any:
    """Half a cosine, `0.5 (1 + cos(pi (1 - left)))`, as a square of sines: 1 + cos would cancel towards the end."""
    return jnp.square(jnp.sin(np.asarray(np.pi / 2, float_dtype()) * left))


def geometric(rate: Any, n: Any) -> Any:
    """`rate ** n`. A rate that is known is not rounded to float32: a power of n multiplies that error by n."""
    known = concrete(rate)
    factor = jnp.power(number(rate), n)
    if isinstance(rate, TwoFloat):
        base = jnp.where(number(rate) > 0, number(rate), 1)
        lost = ((number(rate.hi) - number(rate)) + number(rate.lo)) / base
        return jnp.where(number(rate) > 0, factor * jnp.exp(lost * n), factor)
    if known is None or known <= 0:
        return factor
    lost = float(np.log(known) - np.log(float(float_dtype().type(known))))
    return factor * jnp.exp(np.asarray(lost, float_dtype()) * n) if lost else factor


def power(x: Any, exponent: Any) -> Any:
    """`x ** exponent` for x in [0, 1]."""
    return x if concrete(exponent) == 1 else x ** number(exponent)
