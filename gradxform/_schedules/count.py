"""Step counts and edges: integers are subtracted as integers before anything becomes a float.

A float32 tells whole numbers apart up to 2^24 only; a run of 20 million steps whose decay starts at step 19,999,000 has
to see the last thousand one by one. Edges may lie beyond the int32 range of the counter.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.errors import check_number, concrete
from .._core.scalars import is_schedule


def float_dtype() -> Any:
    """float32, or float64 when double precision is on."""
    return jnp.result_type(float)


def number(x: Any) -> Any:
    """A value of a schedule in the working dtype."""
    return jnp.asarray(x, float_dtype())


def since(count: Any, start: Any) -> Any:
    """`count - start` as a float, exact where the integers are within the counter's range."""
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        return count.astype(float_dtype()) - np.asarray(start, float_dtype())
    top = int(jnp.iinfo(count.dtype).max)
    near = min(int(start), top)
    steps = (count - jnp.asarray(near, count.dtype)).astype(float_dtype())
    return steps if near == start else steps - np.asarray(int(start) - near, float_dtype())


def progress(count: Any, start: Any, length: Any) -> Any:
    """How far a stretch of `length` steps from `start` has come: 0 before it, 1 at its end and after."""
    steps = jnp.clip(since(count, start), 0, None)
    return jnp.minimum(steps / np.asarray(length, float_dtype()), 1)


def whole(call: str, name: str, steps: Any, low: int = 0) -> int:
    """A number of steps as an int; floats that are whole are accepted."""
    if isinstance(steps, bool) or not isinstance(steps, int | float | np.integer | np.floating):
        raise TypeError(
            f"gx.{call}({name}={steps!r}): wanted a whole number of steps, got a {type(steps).__name__}"
        )
    if steps != int(steps):
        raise ValueError(f"gx.{call}({name}={steps}): wanted a whole number of steps")
    if steps < low:
        raise ValueError(f"gx.{call}({name}={steps}): wanted at least {low} steps")
    return int(steps)


def part_of(call: str, name: str, steps: Any, total: int) -> int:
    """A number of steps, or (below 1) a fraction of the total rounded to the nearest step."""
    if isinstance(steps, float | np.floating) and 0 < steps < 1:
        return round(float(steps) * total)
    count = whole(call, name, steps)
    if count > total:
        raise ValueError(
            f"gx.{call}({name}={steps}): wanted at most total_steps={total}, or a fraction below 1"
        )
    return count


def check_value(call: str, name: str, value: Any) -> None:
    """Raises unless `value` is a finite number or a 0-d array; a schedule of schedules is not a value."""
    if is_schedule(value):
        raise TypeError(
            f"gx.{call}({name}): wanted a number, got a schedule; join schedules with gx.join_schedules"
        )
    check_number(call, name, value, schedule=False)
    known = concrete(value)
    if known is not None and not np.isfinite(known):
        raise ValueError(f"gx.{call}({name}={value}): wanted a finite number")


def cosine_wave(x: Any) -> Any:
    """Half a cosine: 1 at x = 0, 0 at x = 1."""
    return 0.5 * (1 + jnp.cos(np.asarray(np.pi, float_dtype()) * x))
