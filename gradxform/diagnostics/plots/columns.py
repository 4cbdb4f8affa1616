"""A run's readings as curves: numbers by name, each with the steps at which it was read."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..._core.address import listed, unknown
from ..._core.errors import kind, say
from ..history import read

#: A column of this name says at which step each row was read.
STEP = "step"


class Column(NamedTuple):
    """One reading: where it was taken, and what it was."""

    steps: Any
    values: Any


def columns(call: str, history: Any) -> dict[str, Column]:
    """The numbers of a history by name, at the steps at which they were read; a row that names no step is left out."""
    who = f"gx.plots.{call}"
    found = read(who, history)
    step = found.pop(STEP, None)
    if not found:
        fact = f"{who}(history): there is no reading in it"
        raise ValueError(say(fact, "gx.metrics(state) of a gx.probe has some"))
    drawn: dict[str, Column] = {}
    for name, column in found.items():
        rows = np.flatnonzero(column.present if step is None else column.present & step.finite)
        if len(rows):
            drawn[name] = Column(rows if step is None else step.values[rows], column.values[rows])
    return drawn


def chosen(call: str, keys: Any, known: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The keys of each panel: a name is a panel, a tuple or list of names is one with several lines."""
    entries: Sequence[Any] = [keys] if isinstance(keys, str) else keys
    for x in (entries, *entries) if isinstance(entries, list | tuple) else (entries,):
        if not isinstance(x, str | list | tuple):
            remedy = "several in a tuple share a panel"
            raise TypeError(say(f"gx.plots.{call}(keys): wanted names of readings, got {kind(x)}", remedy))
    panels = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in entries]
    if not panels or not all(panels):
        raise ValueError(f"gx.plots.{call}(keys): there is no key; the history has {listed(list(known))}")
    for key in (key for panel in panels for key in panel):
        if key not in known:
            raise ValueError(unknown(f"gx.plots.{call}(keys)", str(key), known, "the history has"))
    return panels


def natural(name: str) -> list[Any]:
    """The order in which people number: layer_2 before layer_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
