"""The pictures of the page, as Bokeh has them; what moves in them is filled in by the page's own script."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._core.errors import say
from ..landscapes import Landscape, surface
from ..plots.canvas import COLOURS
from .packing import FLOOR
from .runs import ADAM_STEPS, W0

#: Of an entrant's line and mark, beside its colour: for eyes that see none. The signs are the marks in the page's text.
DASHES = ("solid", "dashed", "dotdash", "solid", "dashed", "dotdash", "dotted")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x")
SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖")
#: Greys on which all colours are seen.
_GREYS = (
    "#ffffff",
    "#fbfbfb",
    "#f7f7f7",
    "#f3f3f3",
    "#efefef",
    "#ebebeb",
    "#e7e7e7",
    "#e3e3e3",
    "#dfdfdf",
    "#dbdbdb",
)
_TEXT, _LINE = "#333333", "#9a9a9a"


def require(call: str) -> None:
    """Raises unless Bokeh is there."""
    try:
        import bokeh  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as problem:
        raise ImportError(
            say(f"{call}: bokeh is not installed", "pip install 'gradxform[page]'")
        ) from problem


def _models() -> Any:
    """Bokeh's parts of pictures. Its types say less than its documentation, so they are left at the door."""
    from bokeh import models

    return models


def _plotting() -> Any:
    """Bokeh's figures, likewise."""
    from bokeh import plotting

    return plotting


def script() -> str:
    """Bokeh's own code, to stand in the page."""
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)


def items(landscapes: Sequence[Landscape], steps: int, entrants: int) -> dict[str, Any]:
    """Every picture as what Bokeh's `embed_item` reads, by the place in the page where it stands."""
    from bokeh.embed import json_item

    made = {
        "race-paths": _paths(landscapes, entrants),
        "race-losses": _losses(steps, entrants),
        "adam-curve": _curve(),
        "adam-step": _lines("step t", "step = change of w", ("step",)),
        "adam-m": _lines("step t", "first moment", ("g", "m", "m_hat")),
        "adam-v": _lines("step t", "second moment", ("g2", "v", "v_hat")),
    }
    return {place: json_item(figure) for place, figure in made.items()}


def _figure(x: str, y: str, **options: Any) -> Any:
    """A figure that is only looked at: no tools, as wide as its place, so that a finger on it scrolls the page."""
    common = {"tools": "", "toolbar_location": None, "sizing_mode": "stretch_width", "height": 260}
    made = _plotting().figure(x_axis_label=x, y_axis_label=y, **{**common, **options})
    made.toolbar.logo = None
    made.outline_line_color = None
    made.min_border_right = 14
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = _TEXT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
        axis.axis_line_color = axis.major_tick_line_color = _LINE
    return made


def looks(entrants: int) -> list[dict[str, str]]:
    """How each entrant is drawn."""
    rows = list(zip(COLOURS, DASHES, MARKERS, SIGNS, strict=True))[:entrants]
    return [dict(zip(("color", "dash", "marker", "sign"), row, strict=True)) for row in rows]


def _movers(made: Any, prefix: str, entrants: int) -> None:
    """The lines of all entrants and the mark at the end of each, empty as yet."""
    drawn, nothing = looks(entrants), [[] for _ in range(entrants)]
    lines = {
        "xs": nothing,
        "ys": nothing,
        **{name: [look[name] for look in drawn] for name in ("color", "dash")},
    }
    heads = {"x": [], "y": [], "color": [], "marker": []}
    made.multi_line(
        "xs",
        "ys",
        line_color="color",
        line_dash="dash",
        line_width=2,
        source=_models().ColumnDataSource(lines, name=f"{prefix}-lines"),
    )
    made.scatter(
        "x",
        "y",
        marker="marker",
        fill_color="color",
        line_color="color",
        line_width=2,
        size=11,
        source=_models().ColumnDataSource(heads, name=f"{prefix}-heads"),
    )


def _paths(landscapes: Sequence[Landscape], entrants: int) -> Any:
    (left, right), (bottom, top) = landscapes[0].box
    made = _figure(
        "x",
        "y",
        x_range=_models().Range1d(left, right, name="x"),
        y_range=_models().Range1d(bottom, top, name="y"),
        height=None,
        sizing_mode="scale_width",
        aspect_ratio=(right - left) / (top - bottom),
        name="picture",
    )
    made.grid.visible = False
    for number, landscape in enumerate(landscapes):
        x, y, z = surface(landscape, 121)
        levels = np.unique(np.quantile(z[np.isfinite(z)], np.linspace(0, 1, len(_GREYS) + 1) ** 2.5))
        drawn = made.contour(
            x, y, z, levels, fill_color=list(_GREYS[: len(levels) - 1]), line_color="#bdbdbd", line_width=0.7
        )
        drawn.name, drawn.visible = f"contours-{number}", number == 0
    ends = {"x": [], "y": [], "marker": []}
    made.scatter(
        "x",
        "y",
        marker="marker",
        size=15,
        fill_color="white",
        line_color="black",
        line_width=1.5,
        source=_models().ColumnDataSource(ends, name="ends"),
    )
    _movers(made, "path", entrants)
    return made


def _losses(steps: int, entrants: int) -> Any:
    made = _figure(
        "step",
        "loss above its lowest",
        height=300,
        y_axis_type="log",
        x_range=_models().Range1d(0, steps),
        y_range=_models().Range1d(FLOOR, 1e3, name="y"),
    )
    made.add_layout(
        _models().Span(name="now", location=0, dimension="height", line_color=_TEXT, line_width=1)
    )
    _movers(made, "loss", entrants)
    return made


def _curve() -> Any:
    made = _figure(
        "w", "f(w) = w²", x_range=_models().Range1d(-W0 - 1, W0 + 1), y_range=_models().Range1d(-2, W0**2 + 5)
    )
    w = np.linspace(-W0 - 1, W0 + 1, 121)
    made.line(w, w**2, line_color=_LINE, line_width=2)
    walked = _models().ColumnDataSource({"x": [], "y": []}, name="walked")
    made.scatter("x", "y", size=6, fill_color="white", line_color=COLOURS[0], source=walked)
    here = _models().ColumnDataSource({"x": [], "y": []}, name="here")
    made.scatter("x", "y", size=12, fill_color=COLOURS[1], line_color=COLOURS[1], source=here)
    return made


#: What the lines of the second part are called; their names are those of the columns.
LEGENDS = {"step": "step", "g": "g", "m": "m", "m_hat": "m̂", "g2": "g²", "v": "v", "v_hat": "v̂"}


def _lines(x: str, y: str, columns: Sequence[str]) -> Any:
    """Lines over the steps of the second part; the corrected moment is the bold one."""
    made = _figure(
        x, y, x_range=_models().Range1d(0, ADAM_STEPS + 1), y_range=_models().Range1d(0, 1, name="y")
    )
    source = _models().ColumnDataSource({"t": [], **{column: [] for column in columns}}, name="rows")
    colours = {"g": _LINE, "g2": _LINE, "m": COLOURS[0], "v": COLOURS[0]}
    dashes = {"g": "dotted", "g2": "dotted", "m": "dashed", "v": "dashed"}
    for column in columns:
        made.line(
            "t",
            column,
            source=source,
            line_width=2,
            line_color=colours.get(column, COLOURS[1]),
            line_dash=dashes.get(column, "solid"),
            legend_label=LEGENDS[column],
        )
    made.add_layout(
        _models().Span(name="now", location=0, dimension="height", line_color=_TEXT, line_width=1)
    )
    (legend,) = made.legend
    made.add_layout(legend, "above")  # beside the lines, which cross all of the panel
    legend.orientation, legend.border_line_color = "horizontal", None
    legend.label_text_font_size, legend.padding, legend.margin = "12px", 2, 0
    return made
