"""Histories as people keep them, read into columns: rows, arrays, tables, JSONL, CSV.

Two kinds of nothing are kept apart. A reading that was not logged at a step is *missing*: an absent key, None, an empty
cell, a word. A NaN that was logged is a number, one that went wrong; whoever reads the column judges it.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from .._core.errors import kind, say, short

_WANTED = "a list of dicts, a dict of arrays, or the path of a .jsonl or .csv file"
_APPEND = "one dict a step: history.append(jax.device_get(gx.metrics(state)))"


@dataclass(frozen=True, eq=False)
class Column:
    """One reading: a number for each row, and which rows have one."""

    values: np.ndarray
    present: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The rows with a finite number."""
        return self.present & np.isfinite(self.values)


def read(call: str, history: Any) -> dict[str, Column]:
    """The numbers of a history by name, all of one length. `call` is who asks, for messages.

    What is nested gets names with slashes. What is no number is missing, and a column without any number is left out.
    """
    table = _table(f"{call}(history)", call, history)
    return {name: column for name, cells in table.items() if (column := _column(cells)) is not None}


def _table(who: str, call: str, history: Any) -> dict[str, Sequence[Any]]:
    if isinstance(history, str | Path):
        return _by_rows(who, rows_of(Path(history), call))
    names = _names(history)
    if names is not None:
        return _by_columns(who, {str(name): history[name] for name in names})
    if isinstance(history, Iterable) and not isinstance(history, bytes):
        return _by_rows(who, cast("Iterable[Any]", history))
    raise TypeError(say(f"{who}: got {kind(history)}", f"wanted {_WANTED}", _APPEND))


def _names(table: Any) -> list[Any] | None:
    """What a mapping or a data frame calls its columns; None for what has none."""
    if hasattr(table, "keys"):
        return list(table.keys())
    found = getattr(table, "columns", None)  # a frame without keys()
    return list(found) if found is not None and hasattr(table, "__getitem__") else None


def rows_of(path: Path, call: str = "gx.diagnose") -> Iterator[Mapping[str, Any]]:
    """The rows of a JSONL, JSON, CSV or TSV file; the cells of the last two are texts."""
    who = f"{call}({str(path)!r})"
    if not path.is_file():
        fact = "this is a folder" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(say(f"{who}: {fact}", f"wanted {_WANTED}"))
    ending = path.suffix.lower()
    if ending not in (".jsonl", ".ndjson", ".json", ".csv", ".tsv"):
        raise ValueError(say(f"{who}: cannot tell the format from {ending!r}", "wanted .jsonl, .csv or .tsv"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(say(f"{who}: this is not text: {problem.reason}", f"wanted {_WANTED}")) from None
    if ending in (".csv", ".tsv"):
        return _lines_of_table(text, "\t" if ending == ".tsv" else ",")
    whole = _document(text) if ending == ".json" else None
    return _lines_of_json(who, text) if whole is None else iter(whole)


def _lines_of_table(text: str, delimiter: str) -> Iterator[Mapping[str, Any]]:
    lines = text.splitlines()
    comma = bool(lines) and delimiter not in lines[0] and ";" in lines[0]
    if comma:
        delimiter = ";"  # as spreadsheets write it where the comma is the decimal point
    for row in csv.DictReader(lines, delimiter=delimiter):
        named = {
            name: cell for name, cell in row.items() if name is not None
        }  # None holds cells without a name
        yield {name: cell.replace(",", ".") if comma and cell else cell for name, cell in named.items()}


def _document(text: str) -> list[Any] | None:
    """The rows of a file that is one JSON value: a list, or an object that keeps one as its `log_history`."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return None
    if isinstance(whole, dict):
        whole = whole.get("log_history")
    return whole if isinstance(whole, list) else None


def _lines_of_json(who: str, text: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as problem:
            fact = f"{who}: line {number} is not JSON: {problem.msg}"
            raise ValueError(
                say(fact, "wanted one object a line; if the run was cut off, drop that line")
            ) from None


def _by_rows(who: str, rows: Iterable[Any]) -> dict[str, Sequence[Any]]:
    """Columns of equal length, None where a row lacks the key."""
    found: dict[str, list[Any]] = {}
    number = -1
    for number, row in enumerate(rows):
        if not hasattr(row, "keys"):
            fact = f"{who}: entry {number} is {kind(row)}, wanted a dict of numbers by name"
            raise TypeError(say(fact, f"a history is {_WANTED}"))
        for name, cell in _flat(row):
            cells = found.setdefault(name, [])
            cells.extend([None] * (number - len(cells)))
            cells.append(cell)
    for cells in found.values():
        cells.extend([None] * (number + 1 - len(cells)))
    return {**found}


def _by_columns(who: str, table: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    found: dict[str, Any] = {}
    for name, column in _flat(table):
        if isinstance(column, str) or not hasattr(column, "__len__") or getattr(column, "ndim", 1) == 0:
            fact = f"{who}: {name!r} is {short(column)}, wanted one number for each step"
            raise TypeError(say(fact, "for a single step pass a list of one dict"))
        found[name] = np.asarray(column) if hasattr(column, "dtype") else list(column)
    lengths = {name: len(cells) for name, cells in found.items()}
    if len(set(lengths.values())) > 1:
        (long, most), (brief, least) = (f(lengths.items(), key=lambda pair: pair[1]) for f in (max, min))
        fact = f"{who}: {long!r} has {most} numbers and {brief!r} has {least}"
        raise ValueError(say(fact, "wanted one of each for every step; None stands for what was not logged"))
    return found


def _flat(row: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for key in row.keys():  # noqa: SIM118  # what has keys need not be a mapping, and may go through its rows
        name = f"{before}/{key}" if before else str(key)
        if isinstance(row[key], Mapping):
            yield from _flat(row[key], name)
        else:
            yield name, row[key]


def _column(cells: Sequence[Any]) -> Column | None:
    if isinstance(cells, np.ndarray) and cells.ndim == 1 and cells.dtype.kind in "biuf":
        return Column(cells.astype(np.float64), np.ones(len(cells), bool)) if len(cells) else None
    numbers = [_number(cell) for cell in cells]
    if all(x is None for x in numbers):
        return None
    present = np.array([x is not None for x in numbers], bool)
    return Column(np.array([np.nan if x is None else x for x in numbers], np.float64), present)


def _number(cell: Any) -> float | None:
    """The number in a cell, which may be text or a list of one; None for nothing, for words, for several numbers."""
    if isinstance(cell, list | tuple) or np.ndim(cell):
        cell = np.asarray(cell)
        if cell.size != 1:
            return None
        cell = cell.reshape(())[()]
    try:
        return None if cell is None else float(cell)
    except (TypeError, ValueError):
        return None
