"""`schedule`: learning rates over the steps of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._core.errors import check_integer, check_schedule, concrete, kind, say, short
from ..._core.schedule import Schedule
from .canvas import axes, clean, count_axis, entry, figure_of, legend, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (6.4, 3.6)


def schedule(
    *schedules: Any, steps: int, labels: Sequence[str] | None = None, log: bool = False, ax: Any = None
) -> "Figure":
    """Draws schedules: the value of each at every step of a run.

    Args:
        schedules: schedules of ours, functions of the step count, or numbers, which stay what they are.
        steps: the length of the run; drawn is every step from 0 to `steps - 1`.
        labels: what the legend says; by default the calls that made them.
        log: whether the values are on a logarithmic axis, on which 0 cannot be seen.
        ax: matplotlib Axes to draw in; by default a figure is made.

    Returns:
        The figure; `figure.savefig("rates.png")` writes it.

    Raises:
        TypeError: for something that is no schedule.
        ValueError: for no schedule, fewer than two steps, a value that is not one number, a wrong number of labels.

    Example:
        >>> import gradxform as gx
        >>> rate = gx.warmup_cosine(1e-3, warmup_steps=100, total_steps=1000)
        >>> figure = gx.plots.schedule(rate, 5e-4, steps=1000)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['gx.warmup_cosine(0.001, 100, 1000)', '0.0005']
    """
    check_integer("plots.schedule", "steps", steps, low=2)
    if not schedules:
        raise ValueError(
            say("gx.plots.schedule(): there is no schedule", "gx.plots.schedule(rate, steps=1000)")
        )
    if labels is not None and len(labels) != len(schedules):
        fact = f"gx.plots.schedule(labels): wanted {len(schedules)}, one a schedule, got {len(labels)}"
        raise ValueError(fact)
    found = [_values(rate, int(steps)) for rate in schedules]
    names = [_label(rate) for rate in schedules] if labels is None else list(labels)
    (panel,) = axes("schedule", ax, 1, 1, _SIZE)
    for number, (name, values) in enumerate(zip(names, found, strict=True)):
        look = style(number)
        panel.plot(
            np.arange(len(values)), values, color=look.color, linestyle=look.linestyle, label=entry(name)
        )
    if log:
        panel.set_yscale("log")
    count_axis(panel)
    panel.set_ylabel("learning rate")
    clean(panel)
    legend(panel, "above" if ax is None else "tight")
    return figure_of(panel)


def _label(rate: Any) -> str:
    if isinstance(rate, Schedule):
        return repr(rate)
    number = concrete(rate)
    return f"{number:g}" if number is not None else str(getattr(rate, "__name__", type(rate).__name__))


def _values(rate: Any, steps: int) -> Any:
    """A value for each step, as NumPy's float64."""
    number = concrete(rate)
    if number is not None:
        return np.full(steps, number)
    who = f"gx.plots.schedule({short(rate)})"
    if not callable(rate) or hasattr(rate, "update"):
        remedy = "pass the schedule of its learning rate" if hasattr(rate, "update") else ""
        raise TypeError(say(f"{who}: wanted a schedule or a number, got {kind(rate)}", remedy))
    check_schedule(who, rate)
    try:
        values = jax.vmap(rate)(jnp.arange(steps))
    except (jax.errors.JAXTypeError, TypeError, ValueError):
        # One with ifs or with NumPy inside wants its steps one by one, as plain integers.
        values = np.stack([np.asarray(rate(step), np.float64) for step in range(steps)])
    values = np.asarray(values, np.float64)
    if values.shape != (steps,):
        raise ValueError(f"{who}: wanted one number a step, got an array of shape {values.shape[1:]}")
    return values
