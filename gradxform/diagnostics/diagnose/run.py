"""A history as the rules see it: a `Run`, whose readings have our names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._core.errors import say
from ..history import Column, read

#: Each reading under the names by which loggers know it; the first is ours. A prefix (`train/`) is looked through.
NAMES = {
    "step": ("step", "steps", "global_step", "iteration", "iter", "_step"),
    "loss": (
        "loss",
        "train_loss",
        "training_loss",
        "loss_value",
        "total_loss",
        "loss_step",
        "train_loss_step",
    ),
    "grad_norm": (
        *("grad_norm", "gradient_norm", "grads_norm", "global_norm", "global_grad_norm", "gnorm"),
        *("grad/norm/total", "grad_norm/total"),
    ),
    "learning_rate": ("learning_rate", "lr", "rate", "current_learning_rate"),
    "update_norm": ("update_norm", "updates_norm"),
    "param_norm": ("param_norm", "params_norm", "weight_norm"),
    "update_ratio": ("update_ratio",),
    "unmoved": ("unmoved",),
    "cosine": ("cosine",),
    "parameters": ("parameters", "num_params", "n_params"),
}
_PREFIXES = ("", "train/", "training/", "learning/", "optim/", "optimizer/")
#: What stands between the words of a name, as ours has it.
_SPELLED = str.maketrans({".": "/", ":": "/", "-": "_", " ": "_"})


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


def read_run(history: Any, names: Mapping[str, str] | None) -> Run:
    """A run from what the user has; `names` says what the user calls our readings."""
    columns = _renamed(read("gx.diagnose", history), names or {})
    step = columns.pop("step", None)
    length = max((len(c.values) for c in columns.values()), default=0)
    if step is None or not length or not step.finite.any():
        return Run(np.arange(length), columns)
    return _joined(_numbered(step), columns)


def _numbered(step: Column) -> np.ndarray:
    """The step of every row; one that names none is of the step before it."""
    rows = np.flatnonzero(step.finite)
    last = np.maximum(np.searchsorted(rows, np.arange(len(step.values)), "right") - 1, 0)
    return step.values[rows[last]].astype(np.int64)


def _joined(steps: np.ndarray, columns: Mapping[str, Column]) -> Run:
    """One row for each step, where a logger has written the readings of a step in several."""
    start = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
    of_row = np.cumsum(np.diff(steps, prepend=steps[0] - 1) != 0) - 1
    joined: dict[str, Column] = {}
    for name, column in columns.items():
        rows = np.flatnonzero(column.present)
        place = of_row[rows]
        if len(np.unique(place)) < len(
            rows
        ):  # a reading has two numbers at a step: these rows are not halves of one
            return Run(steps, columns)
        values, present = np.full(len(start), np.nan), np.zeros(len(start), bool)
        values[place], present[place] = column.values[rows], True
        joined[name] = Column(values, present)
    return Run(steps[start], joined)


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
    plain = {_plain(name): name for name in reversed(columns)}
    for ours, known in NAMES.items():
        guesses = (plain.get(prefix + name) for prefix in _PREFIXES for name in known)
        theirs = names.get(ours) or next((name for name in guesses if name is not None), None)
        if theirs is not None and theirs != ours:
            found[ours] = columns[theirs]
            found.pop(theirs, None)
    return found


def _plain(name: str) -> str:
    """A name without what loggers do to it: `Train Loss`, `train.loss`, `my-run - train/loss` of a table of runs."""
    return name.rsplit(" - ", 1)[-1].strip().lower().translate(_SPELLED)
