"""What came of the laws: a row each, and the whole as a table."""

from collections.abc import Iterator
from dataclasses import dataclass

from ._law import Law

KEPT, BROKEN, INAPPLICABLE, NOT_RUN = "kept", "broken", "not applicable", "not run"


class LawBroken(AssertionError):
    """A transform breaks a law; `report` has all of them.

    Example:
        >>> from gradxform import testing
        >>> issubclass(testing.LawBroken, AssertionError)
        True
    """

    def __init__(self, report: "Report") -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class Outcome:
    """One law and what came of it.

    Args:
        law: the law.
        verdict: "kept", "broken", "not applicable" or "not run".
        reason: the fact that breaks it, or why it says nothing here.
        example: code that shows the fact, for a broken law.
        seconds: how long it took.

    Example:
        >>> import gradxform as gx
        >>> from gradxform import testing
        >>> report = testing.check_transform(gx.sgd(0.1), laws="is_value", seed=0)
        check_transform(gx.sgd(0.1), seed=0)
        >>> report["is_value"].verdict
        'kept'
    """

    law: Law
    verdict: str
    reason: str = ""
    example: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """The outcome of each law for one transform. Printed, it is a table; it is true if no law is broken.

    Example:
        >>> import gradxform as gx
        >>> from gradxform import testing
        >>> report = testing.check_transform(gx.sgd(0.1), laws=["is_value", "pure"], seed=0)
        check_transform(gx.sgd(0.1), seed=0)
        >>> bool(report), report.broken
        (True, ())
    """

    transform: str
    seed: int
    outcomes: tuple[Outcome, ...]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __getitem__(self, name: str) -> Outcome:
        for outcome in self.outcomes:
            if outcome.law.name == name:
                return outcome
        raise KeyError(name)

    def __bool__(self) -> bool:
        return not self.broken

    def of(self, verdict: str) -> tuple[Outcome, ...]:
        """The outcomes with one verdict."""
        return tuple(outcome for outcome in self.outcomes if outcome.verdict == verdict)

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The laws that are broken."""
        return self.of(BROKEN)

    @property
    def seconds(self) -> float:
        """How long all laws took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def raise_if_broken(self) -> None:
        """Raises `LawBroken`, an AssertionError with the whole report, if a law is broken."""
        if self.broken:
            raise LawBroken(self)

    def __str__(self) -> str:
        width = max((len(outcome.law.name) for outcome in self.outcomes), default=0)
        lines = [f"{self.transform}    seed {self.seed}, {self.seconds:.1f} s"]
        theme = ""
        for outcome in self.outcomes:
            if outcome.law.theme != theme:
                theme = outcome.law.theme
                lines.append(f"  {theme}")
            about = outcome.reason if outcome.verdict != KEPT else outcome.law.sentence
            lines.append(f"    {outcome.law.name:<{width}}  {outcome.verdict:<14}  {about}")
        for outcome in self.broken:
            lines.append(f"\n{outcome.law.name}: {outcome.law.sentence}.\nIt does not: {outcome.reason}")
            if outcome.example:
                lines.append("\n".join("    " + line for line in outcome.example.splitlines()))
        counts = [f"{len(self.of(v))} {v}" for v in (KEPT, BROKEN, INAPPLICABLE, NOT_RUN) if self.of(v)]
        return "\n".join([*lines, "", ", ".join(counts)])
