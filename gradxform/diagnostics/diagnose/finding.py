"""What a rule is, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .run import Run


@dataclass(frozen=True)
class Finding:
    """One fault that the numbers show.

    Attributes:
        rule: the name of the rule.
        what: the fault, in one line.
        reading: the name of the reading, as in the history.
        step: the number of the step at which it shows; None if it is a matter of the transform alone.
        figure: the number that triggered the rule.
        threshold: the number that it was held against.
        why: where the threshold comes from.
        change: one suggested change.
    """

    rule: str
    what: str
    reading: str
    step: int | None
    figure: float
    threshold: float
    why: str
    change: str

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        figure = f"{self.reading} {self.figure:.4g}{at}, threshold {self.threshold:.4g}"
        return "\n".join(
            [
                f"{self.rule}: {self.what}",
                f"  figure  {figure}",
                f"  why     {self.why}",
                f"  change  {self.change}",
            ]
        )


@dataclass(frozen=True)
class Case:
    """What a rule may look at: the run, the transform (None if it was not given), and leaves meant to be frozen."""

    run: Run
    tx: Any = None
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One small function, the readings that it needs, and the least number of steps that it can judge."""

    name: str
    needs: tuple[str, ...]
    least: int
    find: Callable[[Case], list[Finding]]

    def missing(self, case: Case) -> tuple[str, ...]:
        """What the case lacks: readings, the transform as `tx`, steps."""
        lacks = [name for name in self.needs if not _has(case, name)]
        if not lacks and len(case.run) < self.least:
            lacks = [f"{self.least} steps"]
        return tuple(lacks)


def _has(case: Case, name: str) -> bool:
    """Whether a reading is there; `a|b` takes one of two."""
    return any((case.tx is not None) if n == "tx" else case.run.has(n) for n in name.split("|"))


RULES: list[Rule] = []


def rule(name: str, *needs: str, least: int = 0) -> Callable[[Any], Any]:
    """Puts a function on the list of rules."""

    def add(find: Callable[[Case], list[Finding]]) -> Callable[[Case], list[Finding]]:
        RULES.append(Rule(name, needs, least, find))
        return find

    return add
