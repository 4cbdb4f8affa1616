"""`paths`: the ways of optimizers over a landscape of two parameters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..._core.address import listed
from ..._core.errors import check_integer, kind, say, short
from ..._core.transform import as_transform, is_foreign
from ..landscapes import RAVINE, ROSENBROCK, SADDLE, Landscape, surface, trajectory
from .canvas import BESIDE, axes, entry, figure_of, legend, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The width of a figure, of which the legend takes what is beyond the panel, and the width of that panel, in inches.
_WIDE, _PANEL = 7.6, 5.2
_KNOWN = {"rosenbrock": ROSENBROCK, "saddle": SADDLE, "ravine": RAVINE}


def paths(
    txs: Any,
    landscape: Any = "rosenbrock",
    *,
    steps: int = 100,
    key: Any = None,
    shape: Any = (2,),
    ax: Any = None,
) -> "Figure":
    """Draws the paths of transforms over a landscape, on its contours.

    The library itself walks, one compiled scan a transform. The legend says at which loss each ends. A cross on black
    marks the start, a star the lowest point; a mark on a path is a tenth of the steps.

    Args:
        txs: a transform, a list of them, or a dictionary of them by the names that the legend shall have.
        landscape: "rosenbrock", "saddle", "ravine", or a `gradxform.diagnostics.landscapes.Landscape`.
        steps: how many each walks, at least 1.
        key: of the noise, if the landscape has any: a `jax.random.key`. All walk with the same noise.
        shape: how the transforms see the two parameters: `(2,)`; `(1, 2)` or `(2, 1)` for methods of matrices.
        ax: matplotlib Axes to draw in; by default a figure is made.

    Returns:
        The figure.

    Raises:
        TypeError: for something that is no transform or no landscape.
        ValueError: for no transform, a landscape that is not known, fewer than one step.

    Example:
        >>> import gradxform as gx
        >>> figure = gx.plots.paths({"SGD": gx.sgd(0.1), "Adam": gx.adam(0.1)}, "saddle", steps=50)
        >>> [line.get_label() for line in figure.axes[0].lines[:2]]
        ['SGD: -0.212', 'Adam: -0.246']
    """
    entries = _entries(txs)
    land = _landscape(landscape)
    check_integer("plots.paths", "steps", steps, low=1)
    runs = {name: trajectory(tx, land, int(steps), key=key, shape=shape) for name, tx in entries.items()}
    (left, right), (bottom, top) = land.box
    high = min(max(_PANEL * (top - bottom) / (right - left), 2.5), 8.0) + 0.7
    (panel,) = axes("paths", ax, 1, 1, (_WIDE, high), layout="compressed")
    handles: list[Any] = []
    for number, (name, (positions, losses)) in enumerate(runs.items()):
        handles += _path(panel, number, name, np.asarray(positions), float(losses[-1]))
    marks = _ground(panel, land)
    title: dict[str, Any] = {"title": f"loss after {steps:,} steps", "alignment": "left"}
    if ax is None:
        legend(panel, "right", handles=handles + marks, title_fontsize="small", **title)
    else:
        legend(panel, "tight", handles=handles, title_fontsize="x-small", **title)
    return figure_of(panel)


def _entries(txs: Any) -> dict[str, Any]:
    """Transforms by the names in the legend."""
    who = "gx.plots.paths(txs)"
    if isinstance(txs, Mapping):
        entries = {str(name): as_transform(tx, who) for name, tx in cast("Mapping[Any, Any]", txs).items()}
    else:
        several = list(txs) if isinstance(txs, list | tuple) and not hasattr(txs, "update") else [txs]
        entries: dict[str, Any] = {}
        for tx in several:
            transform = as_transform(tx, who)
            name = f"transform {len(entries) + 1}" if is_foreign(transform) else repr(transform)
            entries[name] = transform
    if not entries:
        raise ValueError(say(f"{who}: there is no transform", "gx.plots.paths({'Adam': gx.adam(0.1)})"))
    return entries


def _landscape(landscape: Any) -> Landscape:
    if isinstance(landscape, Landscape):
        return landscape
    who = f"gx.plots.paths(landscape={short(landscape)})"
    if not isinstance(landscape, str):
        raise TypeError(f"{who}: wanted a Landscape or the name of one, got {kind(landscape)}")
    if landscape not in _KNOWN:
        raise ValueError(f"{who}: wanted {listed(list(_KNOWN))} or a Landscape of your own")
    return _KNOWN[landscape]


def _ground(panel: Any, land: Landscape) -> list[Any]:
    """What is there before anybody walks: heights, start and lowest point, of which the marks are returned."""
    _contours(panel, land)
    look: dict[str, Any] = {"color": "black", "markeredgecolor": "white", "linestyle": "none", "zorder": 4}
    marks = panel.plot(*land.start, marker="X", markersize=10, label="start", **look)
    if land.minimum is not None:
        marks += panel.plot(*land.minimum, marker="*", markersize=13, label="lowest point", **look)
    (left, right), (bottom, top) = land.box
    panel.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y", aspect="equal")
    panel.set_title(land.name, loc="left", fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
    return marks


def _contours(panel: Any, land: Landscape) -> None:
    """Lines of equal height, more of them where it is low, which is where paths end."""
    x, y, z = surface(land)
    finite = z[np.isfinite(z)]
    if not len(finite) or finite.min() == finite.max():
        return
    levels = np.unique(np.quantile(finite, np.linspace(0, 1, 16)[1:-1] ** 2.5))
    panel.contour(x, y, z, levels=levels, colors=BESIDE, linewidths=0.6, alpha=0.6, linestyles="solid")


def _path(panel: Any, number: int, name: str, positions: Any, loss: float) -> list[Any]:
    look = style(number)
    finite = np.isfinite(positions).all(axis=1)
    last = len(positions) if finite.all() else int(np.argmin(finite))
    return panel.plot(
        *positions[:last].T,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        markevery=max(1, (len(positions) - 1) // 10),
        linewidth=1.4,
        label=entry(f"{name}: {loss:.3g}" if np.isfinite(loss) else f"{name}: diverges"),
    )
