"""`readings`: what a run has measured, over its steps."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import BESIDE, WRONG, axes, clean, count_axis, entry, figure_of, legend, style
from .columns import Column, chosen, columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (6.4, 2.2)
#: What is drawn if nothing is asked for.
_USUAL = ("loss", "train_loss", "value", "grad_norm", "update_ratio", "learning_rate")
#: An axis is logarithmic where the largest number is so many times the smallest.
_DECADES = 30.0
#: The counter of a guard, at any depth of names: `guard/skipped`, `guard_1/skipped`.
_SKIPPED = "skipped"


def readings(history: Any, keys: Any = None, *, ax: Any = None) -> "Figure":
    """Draws readings over the steps of a run, a panel each: the loss, norms, the learning rate.

    An axis is logarithmic where all numbers are positive and the largest is over 30 times the smallest. A number that
    is not finite is a cross at the upper edge of its panel, a step that a `gx.guard` has skipped a triangle at the
    lower edge.

    Args:
        history: a list of dictionaries, one a step, such as `{"loss": loss, **gx.metrics(state)}`; a dictionary or a
            table of arrays, as `jax.lax.scan` stacks them; the path of a .jsonl, .csv or .tsv file. A column `step`
            says which step a row is; without one rows are counted from 0. A row need not have every reading.
        keys: names of readings; several in a tuple share a panel. By default the loss, `grad_norm`, `update_ratio` and
            `learning_rate` of the whole tree, as far as they are there, and else all there are, six at most.
        ax: matplotlib Axes to draw in, as many as there are panels; by default a figure is made.

    Returns:
        The figure.

    Raises:
        TypeError: for a history of another form.
        ValueError: for a name that is not there, columns of different length, a history without numbers, a line that is
            not JSON.
        FileNotFoundError: there is no such file.

    Example:
        >>> import gradxform as gx
        >>> history = [{"loss": 2.0, "grad_norm": 1.5}, {"loss": float("nan"), "grad_norm": 90.0}]
        >>> figure = gx.plots.readings(history, keys=["loss", "grad_norm"])
        >>> [panel.get_ylabel() for panel in figure.axes]
        ['loss', 'grad_norm']
    """
    known = columns("readings", history)
    panels = chosen("readings", _usual(known) if keys is None else keys, known)
    drawn = axes("readings", ax, len(panels), 1, _SIZE)
    counters = [column for name, column in known.items() if name.rsplit("/", 1)[-1] == _SKIPPED]
    skipped = _Skipped([_rises(counter) for counter in counters])
    ends = [end for column in known.values() for end in (column.steps.min(), column.steps.max())]
    for number, (panel, names) in enumerate(zip(drawn, panels, strict=True)):
        _panel(panel, {name: known[name] for name in names}, skipped, first=number == 0)
        if ends and min(ends) < max(ends):
            panel.set_xlim(_widened(min(ends), max(ends)))
    if ax is None:
        for panel in drawn[:-1]:  # the steps are the same in all panels, and stand below the last
            panel.set_xlabel("")
            panel.tick_params(labelbottom=False)
    return figure_of(drawn[0])


def _widened(low: float, high: float) -> tuple[float, float]:
    return low - 0.02 * (high - low), high + 0.02 * (high - low)


def _usual(known: dict[str, Column]) -> list[str]:
    return [name for name in _USUAL if name in known] or list(known)[:6]


class _Skipped:
    """Where guards have skipped steps, and how many: a row may stand for several."""

    def __init__(self, rises: list[Column]) -> None:
        self.steps = np.unique(np.concatenate([rise.steps for rise in rises] or [np.zeros(0)]))
        self.number = int(sum(rise.values.sum() for rise in rises))


def _rises(counter: Column) -> Column:
    """Where a counter is higher than a row before, and by how much. A run that goes on brings its count with it."""
    before = 0.0 if counter.values[0] <= 1 else counter.values[0]
    rise = np.diff(counter.values, prepend=before)
    return Column(counter.steps[rise > 0], rise[rise > 0])


def _panel(panel: Any, shown: dict[str, Column], skipped: _Skipped, first: bool) -> None:
    edge = panel.get_xaxis_transform()  # across in steps, up and down in parts of the panel
    wrong = np.unique(np.concatenate([c.steps[~np.isfinite(c.values)] for c in shown.values()]))
    finite = [c.values[np.isfinite(c.values)] for c in shown.values()]
    handles: list[Any] = []
    for number, (name, column) in enumerate(shown.items()):
        look = style(number)
        few = len(column.values) <= 30 or len(shown) > 1  # a mark every so often tells lines apart
        handles += panel.plot(
            column.steps,
            np.where(np.isfinite(column.values), column.values, np.nan),
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker if few else None,
            markersize=3.5,
            markevery=max(1, len(column.values) // 15),
            linewidth=1.3,
            label=entry(name),
        )
    if _spans_decades(np.concatenate(finite)):
        panel.set_yscale("log")
    mark = {"transform": edge, "linestyle": "none", "clip_on": False, "markersize": 6}
    if len(wrong):
        text = f"not finite: {_times(len(wrong))}"
        handles += panel.plot(wrong, np.full(len(wrong), 0.95), marker="x", color=WRONG, label=text, **mark)
    if len(skipped.steps):
        text = f"skipped: {_times(skipped.number)}"
        low = np.full(len(skipped.steps), 0.05)
        triangles = panel.plot(skipped.steps, low, marker="^", color=BESIDE, label=text, **mark)
        handles += triangles if first else []  # they are the same in all panels
    count_axis(panel)
    clean(panel)
    if len(shown) == 1:  # its name is that of the axis
        panel.set_ylabel(next(iter(shown)))
        handles.pop(0)
    if handles:
        legend(panel, "row", handles=handles)


def _times(number: int) -> str:
    return "1 step" if number == 1 else f"{number:,} steps"


def _spans_decades(values: Any) -> bool:
    return bool(len(values)) and values.min() > 0 and values.max() > _DECADES * values.min()
