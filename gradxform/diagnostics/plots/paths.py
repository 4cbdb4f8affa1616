"""`paths`: the ways of optimizers over a landscape of two parameters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..._core.address import listed
from ..._core.errors import check_integer, kind, say, short
from ..._core.transform import as_transform, is_foreign
from ..landscapes import RAVINE, ROSENBROCK, SADDLE, Landscape, surface, trajectory
from .canvas import BESIDE, axes, clean, figure_of, legend, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (7.6, 4.8)
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
        ['SGD: -0.25', 'Adam: -0.251']
    """
    entries = _entries(txs)
    land = _landscape(landscape)
    check_integer("plots.paths", "steps", steps, low=1)
    runs = {name: trajectory(tx, land, int(steps), key=key, shape=shape) for name, tx in entries.items()}
    (panel,) = axes("paths", ax, 1, 1, _SIZE)
    _contours(panel, land)
    for number, (name, (positions, losses)) in enumerate(runs.items()):
        _path(panel, number, name, np.asarray(positions), float(losses[-1]))
    panel.plot(
        *land.start, marker="X", color="black", markersize=8, linestyle="none", label="start", zorder=4
    )
    if land.minimum is not None:
        star = {"marker": "*", "color": "black", "markeredgecolor": "white", "markersize": 13, "zorder": 4}
        panel.plot(*land.minimum, linestyle="none", label="lowest point", **star)
    (left, right), (bottom, top) = land.box
    panel.set_xlim(left, right)
    panel.set_ylim(bottom, top)
    panel.set_aspect("equal")
    panel.set_xlabel("x")
    panel.set_ylabel("y")
    panel.set_title(land.name, loc="left", fontsize="medium")
    clean(panel)
    panel.grid(visible=False)
    beside = {} if ax is not None else {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "frameon": False}
    legend(panel, title=f"loss after {steps:,} steps", title_fontsize="small", alignment="left", **beside)
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


def _contours(panel: Any, land: Landscape) -> None:
    """Lines of equal height. Between two of them lies an equal share of the box, so that no part of it is empty."""
    x, y, z = surface(land)
    finite = z[np.isfinite(z)]
    if not len(finite) or finite.min() == finite.max():
        return
    levels = np.unique(np.quantile(finite, np.linspace(0, 1, 16)[1:-1] ** 2.5))
    panel.contour(x, y, z, levels=levels, colors=BESIDE, linewidths=0.6, alpha=0.6, linestyles="solid")


def _path(panel: Any, number: int, name: str, positions: Any, loss: float) -> None:
    look = style(number)
    finite = np.isfinite(positions).all(axis=1)
    last = len(positions) if finite.all() else int(np.argmin(finite))
    panel.plot(
        *positions[:last].T,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        markevery=max(1, (len(positions) - 1) // 10),
        linewidth=1.4,
        label=f"{name}: {loss:.3g}" if np.isfinite(loss) else f"{name}: diverges",
    )
