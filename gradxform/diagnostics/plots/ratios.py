"""`ratios`: how far each layer moves at a step, by its size, as a heat map."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._core.address import listed
from ..._core.errors import say
from .canvas import BESIDE, WRONG, axes, count_axis, figure_of, legend
from .columns import Column, columns, natural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATIO = "update_ratio"


def ratios(history: Any, *, ax: Any = None) -> "Figure":
    """Draws the size of the update by the size of the weights, `|u| / |p|`, of every group of parameters over time.

    The readings are those of `gx.probe` around `gx.param_groups`: a group a layer shows every layer. Rows of one colour
    say that all layers learn at one pace; a row that is darker than the others says that its layer stands still, and
    one that is brighter that it is rewritten. Empty cells have a ratio of 0, crosses mark ratios that are not finite.

    Args:
        history: as for `gx.plots.readings`. Of it are taken the readings `.../update_ratio`, a row each; the ratio of
            the whole tree, which has no group before its name, is the lowest row.
        ax: matplotlib Axes to draw in; by default a figure is made.

    Returns:
        The figure; the scale of its colours is beside the rows.

    Raises:
        TypeError: for a history of another form.
        ValueError: if no group has an `update_ratio`, or their steps differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"first": jnp.ones(3), "last": jnp.ones(3)}
        >>> tx = gx.probe(gx.param_groups({"first": gx.sgd(0.1), "last": gx.sgd(0.001)}))
        >>> state, history = tx.init(params), []
        >>> for _ in range(5):
        ...     updates, state = tx.update(params, state, params)
        ...     history.append(gx.metrics(state))
        >>> figure = gx.plots.ratios(history)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['[first]', '[last]', 'all']
    """
    known = columns("ratios", history)
    rows = {name: column for name, column in known.items() if name.endswith(f"/{_RATIO}")}
    if not rows:
        fact = f"gx.plots.ratios(history): no group has a reading {_RATIO}; it has {listed(list(known))}"
        raise ValueError(
            say(fact, "gx.probe(gx.param_groups(...)) measures each group: put each layer in one")
        )
    names = sorted(rows, key=natural)
    if _RATIO in known:
        rows[_RATIO] = known[_RATIO]
        names.append(_RATIO)
    steps = _same_steps(rows)
    values = np.stack([rows[name].values for name in names])
    labels = [name.removesuffix(_RATIO).removesuffix("/") or "all" for name in names]
    (panel,) = axes("ratios", ax, 1, 1, (6.8, max(2.2, 0.9 + 0.26 * len(names))))
    _draw(panel, steps, values)
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    if names[-1] == _RATIO:
        panel.axhline(len(labels) - 1.5, color="white", linewidth=2.5)
    count_axis(panel)
    return figure_of(panel)


def _same_steps(rows: dict[str, Column]) -> Any:
    first = next(iter(rows.values())).steps
    for name, column in rows.items():
        if not np.array_equal(column.steps, first):
            fact = f"gx.plots.ratios(history): {name!r} was read at other steps than {next(iter(rows))!r}"
            raise ValueError(say(fact, "a heat map needs all of them in every row"))
    return first


def _draw(panel: Any, steps: Any, values: Any) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    positive = np.isfinite(values) & (values > 0)
    shown = np.ma.masked_array(values, mask=~positive)
    low, high = (shown.min(), shown.max()) if positive.any() else (1e-3, 1e-3)
    if high < 10 * low:  # a scale of less than a decade would make differences of rounding look large
        middle = np.sqrt(low) * np.sqrt(high)
        low, high = middle / np.sqrt(10), middle * np.sqrt(10)
    cells = panel.pcolormesh(
        _edges(steps),
        np.arange(len(values) + 1) - 0.5,
        shown,
        norm=LogNorm(low, high),
        cmap="cividis",
        rasterized=True,
    )
    bar = panel.figure.colorbar(cells, ax=panel, pad=0.02)
    bar.set_label("norm of the update /\nnorm of the weights")
    handles: list[Any] = []
    if np.any(values == 0):
        handles.append(Patch(facecolor=panel.get_facecolor(), edgecolor=BESIDE, label="0: nothing moves"))
    row, column = np.nonzero(~np.isfinite(values))
    if len(row):
        mark = {
            "marker": "X",
            "linestyle": "none",
            "color": WRONG,
            "markersize": 7,
            "markeredgecolor": "white",
        }
        handles += panel.plot(steps[column], row, label="not finite", **mark)
    if handles:
        legend(panel, "row", handles=handles)


def _edges(steps: Any) -> Any:
    """The borders of the cells, half way between the steps."""
    steps = np.asarray(steps, float)
    middle = (steps[1:] + steps[:-1]) / 2
    first = steps[0] - (middle[0] - steps[0] if len(middle) else 0.5)
    last = steps[-1] + (steps[-1] - middle[-1] if len(middle) else 0.5)
    return np.concatenate([[first], middle, [last]])
