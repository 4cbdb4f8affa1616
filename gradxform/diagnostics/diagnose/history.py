"""Histories as people keep them, read into one form: a `Run`.

Two kinds of nothing are kept apart. A reading that was not logged at a step is *missing*: an absent key, None, an empty
cell. A NaN that was logged is a number that went wrong, unless the column as a whole shows that somebody padded it:
see `Column.wrong`.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._core.errors import kind, say, short

#: Each reading under the names by which loggers know it; the first is ours. A prefix (`train/`) is looked through.
NAMES = {
    "step": ("step", "steps", "global_step", "iteration", "iter", "_step"),
    "loss": ("loss", "train_loss", "training_loss", "loss_value", "total_loss"),
    "grad_norm": ("grad_norm", "gradient_norm", "grads_norm", "global_norm", "global_grad_norm", "gnorm"),
    "learning_rate": ("learning_rate", "lr", "rate"),
    "update_norm": ("update_norm", "updates_norm"),
    "param_norm": ("param_norm", "params_norm", "weight_norm"),
    "update_ratio": ("update_ratio",),
    "unmoved": ("unmoved",),
    "cosine": ("cosine",),
    "parameters": ("parameters", "num_params", "n_params"),
}
_PREFIXES = ("", "train/", "training/", "optim/", "optimizer/")
_REMEDY = "a list of dicts, a dict of arrays, or the path of a .jsonl or .csv file"


@dataclass(frozen=True, eq=False)
class Column:
    """One reading: a number for each row, and which rows have one."""

    values: np.ndarray
    present: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The rows with a finite number."""
        return self.present & np.isfinite(self.values)

    def wrong(self, others: "Column | None") -> int | None:
        """The first row at which the number went wrong; None if none did, or if it was only padded.

        NaN is padding where it comes and goes in a column that has a number in at most 6 of 10 rows, or before its
        first number, and where it stays to the end while the loss (`others`), which cannot outlive the weights, goes
        on. Infinity is never padding.
        """
        bad = np.flatnonzero(self.present & ~np.isfinite(self.values))
        infinite = [int(row) for row in bad if np.isinf(self.values[row])][:1]
        good = np.flatnonzero(self.finite)
        first, last = (good[0], good[-1]) if good.size else (-1, -1)
        sparse = good.size > 1 and good.size <= 0.6 * (last + 1)
        inside = [int(row) for row in bad if first < row < last and not sparse][:1]
        after = [int(row) for row in bad if row > last][:1]
        if after:
            goes_on = others is not None and others is not self and bool(others.finite[after[0] + 1 :].any())
            usual = sparse and len(self.values) - last <= int(np.diff(good).max())
            after = [] if goes_on or usual else after
        return min([*infinite, *inside, *after], default=None)


@dataclass(frozen=True, eq=False)
class Run:
    """A history: the number of each row's step, and the readings by name."""

    steps: np.ndarray
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.steps)

    def has(self, name: str) -> bool:
        """Whether a reading was logged; `*/clipped` asks for any that ends so."""
        return bool(self.ending(name)) if name.startswith("*") else name in self.columns

    def ending(self, pattern: str) -> dict[str, Column]:
        """The readings whose names end as `*/clipped` does, by what stands before."""
        tail = pattern[1:]
        return {name[: -len(tail)]: c for name, c in self.columns.items() if name.endswith(tail)}

    def numbers(self, *names: str) -> tuple[np.ndarray, ...]:
        """The rows at which all of these readings are finite, then their values there."""
        rows = np.arange(len(self))
        for name in names:
            rows = rows[self.columns[name].finite[rows]]
        return rows, *(self.columns[name].values[rows] for name in names)

    def step(self, row: Any) -> int:
        """The number of the step of a row."""
        return int(self.steps[row])


def read_history(history: Any, names: Mapping[str, str] | None) -> Run:
    """A run from what the user has; `names` says what the user calls our readings."""
    table = _table(history)
    columns = {name: column for name, cells in table.items() if (column := _column(cells)) is not None}
    columns = _renamed(columns, names or {})
    step = columns.pop("step", None)
    length = max((len(c.values) for c in columns.values()), default=0)
    steps = np.arange(length)
    if step is not None and length and step.finite.all():
        steps = step.values.astype(np.int64)
    return Run(steps, columns)


def _table(history: Any) -> dict[str, list[Any]]:
    if isinstance(history, str | Path):
        return _by_rows(rows_of(Path(history)))
    if isinstance(history, Mapping):
        return _by_columns(history)
    if isinstance(history, Iterable):
        return _by_rows(history)
    raise TypeError(say(f"gx.diagnose(history): got {kind(history)}", f"wanted {_REMEDY}"))


def rows_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a JSONL, CSV or TSV file; the cells of the last two are texts."""
    call = f"gx.diagnose({str(path)!r})"
    if not path.is_file():
        raise FileNotFoundError(say(f"{call}: there is no such file", f"wanted {_REMEDY}"))
    ending = path.suffix.lower()
    if ending not in (".jsonl", ".ndjson", ".json", ".csv", ".tsv"):
        raise ValueError(
            say(f"{call}: cannot tell the format from {ending!r}", "wanted .jsonl, .csv or .tsv")
        )
    text = path.read_text(encoding="utf-8-sig")
    if ending in (".csv", ".tsv"):
        yield from csv.DictReader(text.splitlines(), delimiter="\t" if ending == ".tsv" else ",")
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as problem:
            fact = f"{call}: line {number} is not JSON: {problem.msg}"
            raise ValueError(
                say(fact, "wanted one object a line; if the run was cut off, drop that line")
            ) from None


def _by_rows(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """Columns of equal length, None where a row lacks the key."""
    found: dict[str, list[Any]] = {}
    number = -1
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            fact = f"gx.diagnose(history): entry {number} is {kind(row)}, wanted a dict of numbers by name"
            raise TypeError(say(fact, f"a history is {_REMEDY}"))
        for name, cell in _flat(row):
            cells = found.setdefault(name, [])
            cells.extend([None] * (number - len(cells)))
            cells.append(cell)
    for cells in found.values():
        cells.extend([None] * (number + 1 - len(cells)))
    return found


def _by_columns(history: Mapping[Any, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, column in _flat(history):
        if isinstance(column, str) or not hasattr(column, "__len__") or getattr(column, "ndim", 1) == 0:
            fact = f"gx.diagnose(history): {name!r} is {short(column)}, wanted one number for each step"
            raise TypeError(say(fact, "for a single step pass a list of one dict"))
        found[name] = list(np.asarray(column)) if hasattr(column, "dtype") else list(column)
    lengths = {name: len(cells) for name, cells in found.items()}
    if len(set(lengths.values())) > 1:
        (long, most), (brief, least) = (f(lengths.items(), key=lambda pair: pair[1]) for f in (max, min))
        fact = f"gx.diagnose(history): {long!r} has {most} numbers and {brief!r} has {least}"
        raise ValueError(say(fact, "wanted one of each for every step; None stands for what was not logged"))
    return found


def _flat(row: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = f"{before}/{key}" if before else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _number(cell: Any) -> float | None:
    """The number in a cell; None for nothing, for text and for arrays of several."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _column(cells: Sequence[Any]) -> Column | None:
    numbers = [_number(cell) for cell in cells]
    if all(x is None for x in numbers):
        return None
    present = np.array([x is not None for x in numbers], bool)
    return Column(np.array([np.nan if x is None else x for x in numbers], np.float64), present)


def _renamed(columns: dict[str, Column], names: Mapping[str, str]) -> dict[str, Column]:
    """The columns under our names. What the user says counts before what we guess."""
    for ours, theirs in names.items():
        if ours not in NAMES:
            fact = f"gx.diagnose(names={{{ours!r}: ...}}): no such reading"
            raise ValueError(say(fact, f"wanted one of {', '.join(NAMES)}"))
        if theirs not in columns:
            fact = f"gx.diagnose(names={{{ours!r}: {theirs!r}}}): the history has no {theirs!r}"
            raise ValueError(say(fact, f"it has {', '.join(sorted(columns)) or 'no numbers at all'}"))
    found = dict(columns)
    lower = {name.lower(): name for name in reversed(columns)}
    for ours, known in NAMES.items():
        guesses = (lower.get(prefix + name) for prefix in _PREFIXES for name in known)
        theirs = names.get(ours) or next((name for name in guesses if name is not None), None)
        if theirs is not None and theirs != ours:
            found[ours] = columns[theirs]
            found.pop(theirs, None)
    return found
