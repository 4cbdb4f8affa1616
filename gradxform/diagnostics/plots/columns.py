"""A run's readings as columns: numbers by name, each with the steps at which it was read."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from ..._core.address import listed, unknown
from ..._core.errors import kind, say

#: A column of this name says at which step each row was read.
STEP = "step"


class Column(NamedTuple):
    """One reading: where it was taken, and what it was."""

    steps: Any
    values: Any


def columns(call: str, history: Any) -> dict[str, Column]:
    """The numbers of a history by name: a list of dictionaries, or a dictionary (a table) of arrays.

    What is nested gets names with slashes, what is no number is left out, and so is a row that lacks the reading.
    """
    who = f"gx.plots.{call}(history)"
    if isinstance(history, str | bytes):
        fact = f"{who}: got a string; wanted a list of dictionaries or a dictionary of arrays"
        raise TypeError(say(fact, "read the file first, for example with json.loads line by line"))
    if hasattr(history, "keys"):
        found = _of_arrays(who, history)
    elif isinstance(history, Iterable):
        found = _of_rows(who, cast("Iterable[Any]", history))
    else:
        fact = f"{who}: got {kind(history)}; wanted a list of dictionaries or a dictionary of arrays"
        raise TypeError(say(fact, "one dictionary a step: history.append(jax.device_get(gx.metrics(state)))"))
    steps = found.pop(STEP, None)
    if not found:
        raise ValueError(say(f"{who}: there is no reading in it", "gx.metrics(state) of a gx.probe has some"))
    if steps is not None:
        of_row = dict(zip(steps.steps.tolist(), steps.values.tolist(), strict=True))
        found = {name: _placed(column, of_row) for name, column in found.items()}
    return {name: column for name, column in found.items() if len(column.values)}


def _placed(column: Column, of_row: Mapping[float, float]) -> Column:
    """A column at the steps that its rows name; a row that names none is left out."""
    known = np.array([row in of_row for row in column.steps.tolist()], bool)
    steps = [of_row[row] for row in column.steps[known].tolist()]
    return Column(np.array(steps, float), column.values[known])


def _of_rows(who: str, rows: Iterable[Any]) -> dict[str, Column]:
    found: dict[str, tuple[list[int], list[float]]] = {}
    for place, row in enumerate(rows):
        if not hasattr(row, "keys"):
            fact = f"{who}: row {place} is {kind(row)}; wanted a dictionary of readings by name"
            raise TypeError(fact)
        for name, value in _flat(row):
            number = _number(value)
            if number is not None:
                steps, values = found.setdefault(name, ([], []))
                steps.append(place)
                values.append(number)
    return {name: Column(np.array(steps), np.array(values)) for name, (steps, values) in found.items()}


def _of_arrays(who: str, table: Any) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name, value in _flat(table):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" and not _extended(array):
            continue
        if array.ndim != 1:
            remedy = "a history has a number a step; one step alone is no history" if not array.ndim else ""
            raise ValueError(
                say(f"{who}: {name!r} has the shape {array.shape}, wanted one axis of steps", remedy)
            )
        found[name] = Column(np.arange(len(array)), array.astype(np.float64))
    lengths = {name: len(column.values) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:6])
        raise ValueError(f"{who}: the columns differ in length: {shown}")
    return found


def _extended(array: Any) -> bool:
    """Whether these are floats that NumPy does not know by itself, such as bfloat16."""
    return (
        array.dtype.kind == "V"
        and array.dtype.fields is None
        and array.dtype.name.startswith(("bf", "float"))
    )


def _flat(node: Any, behind: str = "") -> Iterable[tuple[str, Any]]:
    for name in node.keys():  # noqa: SIM118  # a table has keys and goes through its columns, or its rows
        value = node[name]
        if isinstance(value, Mapping):
            yield from _flat(value, f"{behind}{name}/")
        else:
            yield f"{behind}{name}", value


def _number(value: Any) -> float | None:
    """A number as a float; None for what is none: text, nothing, an array."""
    if value is None or isinstance(value, str | bytes) or np.ndim(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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
