"""The page: numbers, pictures, words and script in one file that loads nothing."""

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..._core.errors import check_integer, kind, say, short
from ..landscapes import RAVINE, ROSENBROCK, SADDLE, Landscape
from . import figures
from .entrants import ENTRANTS, FIRST, STOPS
from .packing import ABSENT, DECADE, FLOOR, area, pack_paths, squeeze
from .runs import ADAM, ADAM_FIELDS, ADAM_FIRST, ADAM_STEPS, adam_steps, race

LANDSCAPES = (ROSENBROCK, SADDLE, RAVINE)
#: What the page says of them.
ABOUT = {
    ROSENBROCK.name: "f(x, y) = (1 - x)² + 100 (y - x²)². A bent valley with steep walls and an almost flat ground; "
    "the lowest point is (1, 1).",
    SADDLE.name: "f(x, y) = x²/2 - y²/2 + y⁴/4. Paths begin almost on the ridge, where the way down is a hundredth as "
    "steep as the way along it; the lowest points are (0, 1), which is shown, and (0, -1).",
    RAVINE.name: "f(x, y) = (u²/10 + 10 v²)/2, where u and v are x and y turned by 30 degrees: 100 times as steep "
    "across as along. Every gradient has noise of standard deviation 0.5, the same for all methods.",
}
#: Larger pages are refused: they are sent by mail, and opened on phones.
MOST_BYTES, MOST_STEPS = 5_000_000, 1000
#: The data of a page stand between these.
_OPENS, _CLOSES = '<script type="application/json" id="data">', "</script>"


def write(
    path: Any, *, steps: int = 300, landscapes: Sequence[Landscape] | Landscape = LANDSCAPES, key: Any = None
) -> Path:
    """Writes the race of seven methods and Adam step by step, as one HTML file that needs no network.

    SGD, momentum, RMSprop, Adam, AdamW, Lion and Muon walk on each landscape, with play, speed, a slider for the step,
    and sliders for the learning rate, b1 and b2. For every stop of the sliders the library itself walks when the file
    is written: 1,157 paths a landscape. The page shows them. Its second part is Adam on `f(w) = w^2` from `w = 5`:
    g, m, v, both corrected, and the step, at each of 60 steps, in float32.

    Args:
        path: where to write; an existing file is replaced. The folder must exist.
        steps: how many steps each path has, from 1 to 1000. 300 steps on three landscapes make a page of 4 MB, and 5 MB
            is the most that is written.
        landscapes: functions of two numbers with a lowest point, or one of them; by default Rosenbrock's valley, the
            saddle and the noisy ravine of `gradxform.diagnostics.landscapes`.
        key: of the noise: a `jax.random.key`; by default that of 0.

    Returns:
        The path, as a `pathlib.Path`.

    Raises:
        ImportError: without Bokeh, which draws: `pip install 'gradxform[page]'`.
        TypeError: for something that is no landscape.
        ValueError: for no landscape, two of one name, one without a lowest point, steps out of range, a page that
            would be larger than 5 MB.

    Example:
        >>> import pathlib, tempfile
        >>> from gradxform.diagnostics import landscapes, race
        >>> path = pathlib.Path(tempfile.mkdtemp(), "race.html")
        >>> race.write(path, steps=5, landscapes=[landscapes.SADDLE]).name
        'race.html'
        >>> path.stat().st_size < 5_000_000
        True
    """
    who = "diagnostics.race.write"
    check_integer(who, "steps", steps, low=1)
    if steps > MOST_STEPS:
        fact = f"gx.{who}(steps={short(steps)}): wanted at most {MOST_STEPS:,}"
        raise ValueError(say(fact, "a longer path is seen by gx.plots.paths"))
    chosen = _landscapes(landscapes)
    figures.require(f"gx.{who}")
    key = jax.random.key(0) if key is None else key
    text = _page(data(chosen, int(steps), key), chosen, int(steps)).encode("utf-8")
    if len(text) > MOST_BYTES:
        most = f"{MOST_BYTES / 1e6:g} MB is the most"
        fact = f"gx.{who}(steps={steps}): the page would have {len(text) / 1e6:.1f} MB, {most}"
        raise ValueError(say(fact, f"take fewer steps than {steps}, or fewer landscapes than {len(chosen)}"))
    where = Path(path)
    where.write_bytes(text)
    return where


def _landscapes(landscapes: Any) -> tuple[Landscape, ...]:
    who = "gx.diagnostics.race.write(landscapes)"
    if isinstance(landscapes, Landscape):
        landscapes = (landscapes,)
    if not isinstance(landscapes, list | tuple):
        raise TypeError(f"{who}: wanted a list of landscapes, got {kind(landscapes)}")
    for landscape in landscapes:
        if not isinstance(landscape, Landscape):
            raise TypeError(f"{who}: wanted landscapes, got {kind(landscape)}")
        if landscape.minimum is None:
            fact = f"{who}: {landscape.name!r} has no lowest point"
            raise ValueError(
                say(fact, "losses are shown as what is above it: Landscape(..., minimum=(x, y))")
            )
    names = [landscape.name for landscape in landscapes]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{who}: wanted at least one, each with a name of its own, got {names}")
    return tuple(landscapes)


def data(landscapes: Sequence[Landscape], steps: int, key: Any) -> dict[str, Any]:
    """Everything that the page knows, as JSON can hold it."""
    lands: list[dict[str, Any]] = []
    for landscape in landscapes:
        runs = [race(entrant, landscape, steps, key) for entrant in ENTRANTS]
        noise = f" Gradients have noise of standard deviation {landscape.noise:g}." if landscape.noise else ""
        lands.append(
            {
                "name": landscape.name,
                "about": ABOUT.get(landscape.name, f"Start at {landscape.start}.{noise}"),
                "box": landscape.box,
                "area": area(landscape.box).tolist(),
                "start": landscape.start,
                "minimum": landscape.minimum,
                "best": [run.best for run in runs],
                "paths": [pack_paths(run.positions, run.gaps, landscape.box) for run in runs],
            }
        )
    methods = [
        {
            "name": entrant.name,
            "axes": entrant.axes,
            "call": entrant.text(),
            "note": entrant.note,
            **look,
        }
        for entrant, look in zip(ENTRANTS, figures.looks(len(ENTRANTS)), strict=True)
    ]
    return {
        "steps": steps,
        "stops": dict(STOPS),
        "first": FIRST,
        "absent": ABSENT,
        "decade": DECADE,
        "floor": FLOOR,
        "methods": methods,
        "landscapes": lands,
        "adam": {
            "steps": ADAM_STEPS,
            "fields": ADAM_FIELDS,
            "first": ADAM_FIRST,
            "axes": ADAM.axes,
            "rows": squeeze(np.asarray(adam_steps(), np.float32)),
        },
    }


def _page(known: dict[str, Any], landscapes: Sequence[Landscape], steps: int) -> str:
    """The template with everything in its place. What is put in holds no marks that would be taken for others."""
    parts = {
        "style": _file("page.css"),
        "bokeh": figures.script(),
        "items": _json(figures.items(landscapes, steps, len(ENTRANTS))),
        "data": _json(known),
        "script": "\n".join(_file(name) for name in ("shared.js", "race.js", "adam.js")),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _file("page.html"))


def _file(name: str) -> str:
    return resources.files(__package__ or "").joinpath(name).read_text("utf-8")


def _json(value: Any) -> str:
    """As it may stand inside of a script element, which the characters `</` would end."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def data_of(text: str) -> dict[str, Any]:
    """The data of a page that `write` has made."""
    begin = text.find(_OPENS)
    if begin < 0:
        raise ValueError("gx.diagnostics.race.read: this is no page that race.write has made")
    begin += len(_OPENS)
    return json.loads(text[begin : text.index(_CLOSES, begin)])
