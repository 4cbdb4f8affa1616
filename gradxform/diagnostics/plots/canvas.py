"""What all pictures share: matplotlib itself, axes to draw in, colours and lines that everybody can tell apart."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..._core.errors import kind, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which differ for all kinds of eyes. Their yellow is left out: it cannot be seen on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Beside the colour, for print without colours and for eyes that see none.
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: What stands beside the data, and what is wrong in it.
BESIDE, WRONG = "#777777", "#D55E00"


class Style(NamedTuple):
    """How one series is drawn."""

    color: str
    linestyle: Any
    marker: str


def style(number: int) -> Style:
    """The style of a series. Seven have colours of their own; then colours come again with other lines and markers."""
    turn, place = divmod(number, len(COLOURS))
    again = (place + turn) % len(COLOURS)
    return Style(COLOURS[place], LINES[again], MARKERS[again])


def require(call: str) -> None:
    """Raises unless matplotlib is there."""
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as problem:
        fact = f"gx.plots.{call}: matplotlib is not installed"
        raise ImportError(say(fact, "pip install 'gradxform[plot]'")) from problem


def axes(
    call: str, ax: Any, rows: int, columns: int, size: tuple[float, float], layout: Any = "constrained"
) -> list[Any]:
    """The Axes of `rows` times `columns` panels, by rows: those that were passed, or those of a new figure.

    `size` is that of a panel, in inches; `layout` is "compressed" for a panel whose sides have a fixed ratio.
    """
    require(call)
    if ax is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout=layout)
        return list(figure.subplots(rows, columns, squeeze=False).flat)
    return _passed(call, ax, rows * columns)


def _passed(call: str, ax: Any, number: int) -> list[Any]:
    """The Axes that somebody passed: one, or as many as there are panels."""
    from matplotlib.axes import Axes

    flat = getattr(ax, "flat", ax)  # of an array, as `subplots` makes it
    several = list(cast("Iterable[Any]", flat)) if isinstance(flat, Iterable) else [ax]
    for one in several:
        if not isinstance(one, Axes):
            hint = "figure, ax = plt.subplots() gives a figure and its Axes: pass the second"
            fact = f"gx.plots.{call}(ax): wanted matplotlib Axes, got {kind(one)}"
            raise TypeError(say(fact, hint))
    if len(several) != number:
        wanted = "one Axes" if number == 1 else f"{number} Axes, one a panel"
        raise ValueError(f"gx.plots.{call}(ax): wanted {wanted}, got {len(several)}")
    return several


def figure_of(ax: Any) -> "Figure":
    """The figure in which Axes are, also if they are in a part of it."""
    return ax.figure.figure


def count_axis(ax: Any, label: str = "step") -> None:
    """The horizontal axis of whole steps: no halves, and thousands apart."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def clean(ax: Any) -> None:
    """Without the lines that say nothing, with those that help to read a value."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color=BESIDE, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)


def entry(name: str) -> str:
    """A name as an entry of a legend. matplotlib leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


#: Where a legend can stand. In Axes of others it is inside: a layout that makes room for one outside shrinks them all.
_PLACES: dict[str, dict[str, Any]] = {
    "inside": {"loc": "best", "framealpha": 0.85, "fontsize": "small"},
    "tight": {"loc": "best", "framealpha": 0.85, "fontsize": "x-small", "handlelength": 1.6},
    "above": {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "fontsize": "small", "frameon": False},
    "row": {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "fontsize": "small", "frameon": False},
    "right": {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": "small", "frameon": False},
}


#: How many letters of a legend stand beside each other above a panel, its lines counted as letters.
_LETTERS = 84


def legend(ax: Any, place: str = "inside", **options: Any) -> None:
    """A legend that covers as little as it can; in a row as many entries as there is room for."""
    if place == "row":
        handles = options["handles"]
        longest = max(len(handle.get_label()) for handle in handles)
        options["ncols"] = max(1, min(len(handles), _LETTERS // (longest + 8)))
    ax.legend(**_PLACES[place], borderaxespad=0.3, **options)
