"""`moments`: the moments of one parameter step by step, as they are stored and corrected for having begun at zero."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._core.errors import check_integer, concrete, kind, say, short
from ..._core.transform import as_transform
from .canvas import BESIDE, axes, clean, count_axis, figure_of, legend, style
from .course import Course, Trail, course

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (4.6, 3.0)
_DECADES = 100.0
#: Up to so many steps each has a mark.
_FEW = 30


def moments(
    tx: Any, gradients: Any, *, start: float = 0.0, steps: int | None = None, ax: Any = None
) -> "Figure":
    """Draws what a transform does with one parameter: its moments, their bias corrections and its updates.

    The transform itself runs, and the moments are read from its states. Beside a moment that is an average with a
    constant decay b, which is seen from its numbers, stands the same moment divided by `1 - b^t`: what it would be had
    it not begun at zero, whether or not the method divides by it. Panels: each moment with the gradients (or their
    squares) that it averages, the corrections, the updates.

    Args:
        tx: any transform, ours or Optax's.
        gradients: the gradients in order, one number a step; or a function that gives the gradient at a weight, such as
            `jax.grad(lambda w: w**2)`: the weight then moves by the updates.
        start: the weight before the first step.
        steps: how many, if `gradients` is a function: at least 1.
        ax: matplotlib Axes to draw in, as many as there are panels; by default a figure is made.

    Returns:
        The figure.

    Raises:
        TypeError: for something that is no transform; for `steps` beside an array of gradients.
        ValueError: for gradients that are not one number a step, or fewer than one.

    Example:
        >>> import jax
        >>> import gradxform as gx
        >>> figure = gx.plots.moments(gx.adam(0.01), jax.grad(lambda w: w**2), start=5.0, steps=8)
        >>> [panel.get_title(loc="left") for panel in figure.axes]
        ['adam/mu', 'adam/nu', 'bias correction', 'update']
        >>> first = figure.axes[0].lines[1]
        >>> first.get_label(), [round(float(m), 4) for m in first.get_ydata()[:3]]
        ('mu', [1.0, 1.898, 2.7042])
    """
    transform = as_transform(tx, "gx.plots.moments(tx)")
    given, steps = _gradients(gradients, steps)
    if concrete(start) is None or not np.isfinite(concrete(start) or 0.0):
        raise ValueError(f"gx.plots.moments(start={short(start)}): wanted one finite number")
    found = course(transform, given, float(start), steps)
    averaged = [trail for trail in found.trails if trail.decay]
    number = max(1, len(found.trails)) + (1 if averaged else 0) + 1
    grid = _grid(number) if ax is None else (number, 1)
    drawn = axes("moments", ax, *grid, _SIZE)
    for panel in drawn[number:]:
        panel.remove()
    left, place = iter(drawn), "inside" if ax is None else "tight"
    for trail in found.trails:
        _moment(next(left), trail, found, place)
    if not found.trails:
        _frame(next(left), "gradient", steps).plot(
            _counts(steps), found.gradients, **_dots("gradient", steps)
        )
    if averaged:
        _corrections(next(left), averaged, steps, place)
    _updates(next(left), found)
    return figure_of(drawn[0])


def _gradients(gradients: Any, steps: int | None) -> tuple[Any, int]:
    """A function and the number of its steps, or an array and its length."""
    who = "gx.plots.moments"
    if callable(gradients):
        if steps is None:
            fact = f"{who}(steps): missing"
            raise ValueError(say(fact, "gradients that are a function do not say how many steps there are"))
        check_integer("plots.moments", "steps", steps, low=1)
        return gradients, int(steps)
    if steps is not None:
        fact = f"{who}(steps={short(steps)}): the gradients are numbers, and every one is a step"
        raise TypeError(say(fact, "leave steps out, or pass a function of the weight as gradients"))
    try:
        array = np.asarray(gradients, np.float64)
    except (TypeError, ValueError):
        fact = (
            f"{who}(gradients): wanted one number a step or a function of the weight, got {kind(gradients)}"
        )
        raise ValueError(fact) from None
    if array.ndim != 1 or not len(array):
        fact = f"{who}(gradients): wanted one number a step, got shape {array.shape}"
        raise ValueError(
            say(fact, "of an array of parameters take one element: gradients[:, 0]" * (array.ndim > 1))
        )
    return array, len(array)


def _grid(number: int) -> tuple[int, int]:
    return (number + 1) // 2, min(2, number)


def _counts(steps: int) -> Any:
    return np.arange(1, steps + 1)


def _dots(label: str, steps: int) -> dict[str, Any]:
    """How gradients are drawn: rings around the lines that go through them, dots where there are many."""
    if steps > _FEW:
        look = {"marker": ".", "markersize": 4.5, "alpha": 0.5, "zorder": 1.5}
    else:
        look = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "zorder": 3}
    return {"color": BESIDE, "linestyle": "none", "label": label, **look}


def _frame(panel: Any, title: str, steps: int) -> Any:
    count_axis(panel, "step t")
    clean(panel)
    panel.set_title(title, loc="left", fontsize="medium")
    panel.set_xlim(1 - 0.03 * steps, steps + 0.03 * steps)
    return panel


def _moment(panel: Any, trail: Trail, found: Course, place: str) -> None:
    steps = len(trail.values)
    inputs = found.gradients**2 if trail.squares else found.gradients
    name = trail.address.rsplit("/", 1)[-1]
    _frame(panel, trail.address, steps)
    panel.plot(_counts(steps), inputs, **_dots("gradient²" if trail.squares else "gradient", steps))
    lines = [(name, trail.values)]
    if trail.decay:
        power = f"{trail.decay:.6g}$^t$"
        lines.append((f"{name} / (1 − {power})", trail.corrected))
    for number, (label, values) in enumerate(lines):
        look = style(number)
        every = max(1, steps // 10)
        panel.plot(
            _counts(steps),
            values,
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=3.5,
            markevery=every,
            linewidth=1.5,
            label=label,
        )
    shown = np.concatenate([values for _, values in lines])
    shown = shown[np.isfinite(shown)]
    if trail.squares and len(shown) and shown.min() > 0 and shown.max() > _DECADES * shown.min():
        panel.set_yscale("log")
        highest = max(shown.max(), inputs[np.isfinite(inputs)].max())
        panel.set_ylim(shown.min() / 2, 2 * highest)  # not down to the smallest square
    legend(panel, place)


def _corrections(panel: Any, averaged: list[Trail], steps: int, place: str) -> None:
    _frame(panel, "bias correction", steps)
    for number, trail in enumerate(averaged):
        look = style(number)
        panel.plot(
            _counts(steps),
            trail.corrections,
            color=look.color,
            linestyle=look.linestyle,
            linewidth=1.5,
            label=f"{trail.address}: 1 − {trail.decay:.6g}$^t$",
        )
    panel.set_yscale("log")
    panel.set_ylim(top=1.5)
    legend(panel, place)


def _updates(panel: Any, found: Course) -> None:
    _frame(panel, "update", len(found.updates))
    panel.axhline(0.0, color=BESIDE, linewidth=0.8)
    steps = len(found.updates)
    look, dots = style(0), {"marker": ".", "markersize": 6} if steps <= _FEW else {}
    panel.plot(_counts(steps), found.updates, color=look.color, linewidth=0.9, **dots)
    panel.set_ylabel("added to the weight")
