"""What `check_lowbit` found: a row a figure with its bound, and the whole as a table."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.report import align

OK, BAD, NO_BOUND = "ok", "bad", "-"
#: A measure of which the table shows the worst stream only.
ZEROS = "zero codes"


class LowbitUnfit(AssertionError):
    """A state in few bits is not fit for use; `report` says in which figure and what to do.

    Example:
        >>> import gradxform as gx
        >>> issubclass(gx.lowbit.LowbitUnfit, AssertionError)
        True
    """

    def __init__(self, report: "LowbitReport") -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class LowbitRow:
    """One figure: what was measured, on which gradients, of what, and the bounds that it should keep.

    Args:
        measure: "direction", "largest step", "forgets, quiet", "forgets, loud", "quiet steps", "stalled", "zero codes",
            "correlation" or "stored".
        gradients: the stream of gradients, "flat", "wild", ..., or "given".
        leaf: the path of the parameter.
        moment: the address of a moment in the state; empty for a figure of the steps.
        value: the figure.
        low, high: its bounds; infinite ones are none.
        worst: the largest of the last steps, for a figure that is a median of them.
        advice: what to do if the bounds are not kept.

    Example:
        >>> import gradxform as gx
        >>> gx.lowbit.LowbitRow("correlation", "drift turns", "kernel", "0/mu", 0.55, low=0.94).verdict
        'bad'
    """

    measure: str
    gradients: str
    leaf: str
    moment: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    worst: float | None = None
    advice: str = ""

    @property
    def verdict(self) -> str:
        """ "ok", "bad", or "-" where there is no bound; what is not a number is bad."""
        if math.isinf(self.low) and math.isinf(self.high):
            return NO_BOUND
        return OK if self.low <= self.value <= self.high else BAD

    @property
    def of(self) -> str:
        """What it is a figure of: a leaf, or a moment of it."""
        return "/".join(filter(None, (self.moment, self.leaf)))

    @property
    def excess(self) -> float:
        """How far it is from the middle of its bounds, for the choice of the worst of many leaves."""
        if math.isnan(self.value):
            return math.inf
        if math.isinf(self.low) or math.isinf(self.high):
            return self.value if math.isinf(self.low) else -self.value
        return abs(math.log(max(self.value, 1e-30) / math.sqrt(self.low * self.high)))

    @property
    def bound(self) -> str:
        """The bounds as text."""
        if self.verdict == NO_BOUND:
            return ""
        if math.isinf(self.low) or math.isinf(self.high):
            return f">= {self.low:.3g}" if math.isinf(self.high) else f"<= {self.high:.3g}"
        return f"{self.low:.3g} to {self.high:.3g}"

    @property
    def figure(self) -> str:
        """The value as text, the worst one in brackets."""
        return _text(self.value) + ("" if self.worst is None else f" ({_text(self.worst)})")


def _text(x: float) -> str:
    return f"{x:#.3g}".removesuffix(".") if x else "0"


@dataclass(frozen=True)
class LowbitReport:
    """What `check_lowbit` found of one transform. Printed, it is a table; it is true if no figure is out of bounds.

    The table shows the worst leaf of each figure; `rows` has all of them.

    Args:
        transform, reference: what was compared, as text.
        seed: of the gradients.
        bytes, reference_bytes: what the two states take, bytes a parameter.
        time_constants: after how many steps without gradients the float32 moments have fallen by a factor e.
        rows: the figures.
        notes: what else there is to say: what was checked in the place of what, what could not be measured.
        seconds: how long it took.

    Example:
        >>> import gradxform as gx
        >>> row = gx.lowbit.LowbitRow("zero codes", "wild", "kernel", "0/nu", 0.17, high=0.0)
        >>> report = gx.lowbit.LowbitReport("theirs", "adamw", 0, 2.03, 8.0, (), (row,), (), 1.2)
        >>> bool(report), [row.measure for row in report.bad]
        (False, ['zero codes'])
    """

    transform: str
    reference: str
    seed: int
    bytes: float
    reference_bytes: float
    time_constants: tuple[tuple[str, float], ...]
    rows: tuple[LowbitRow, ...]
    notes: tuple[str, ...]
    seconds: float

    def __iter__(self) -> Iterator[LowbitRow]:
        return iter(self.rows)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """Whether every figure keeps its bounds."""
        return not self.bad

    def of(self, measure: str) -> tuple[LowbitRow, ...]:
        """The rows of one measure."""
        return tuple(row for row in self.rows if row.measure == measure)

    @property
    def bad(self) -> tuple[LowbitRow, ...]:
        """The figures that are out of bounds."""
        return tuple(row for row in self.rows if row.verdict == BAD)

    @property
    def worst(self) -> tuple[LowbitRow, ...]:
        """Of every figure the leaf that is furthest from what it should be."""
        found: dict[tuple[str, str, str], LowbitRow] = {}
        for row in self.rows:
            key = (row.measure, "" if row.measure == ZEROS else row.gradients, row.moment)
            if key not in found or (row.verdict == BAD, row.excess) > (
                found[key].verdict == BAD,
                found[key].excess,
            ):
                found[key] = row
        return tuple(found.values())

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do about the figures that are out of bounds, each remedy once."""
        return tuple(dict.fromkeys(row.advice for row in self.worst if row.verdict == BAD and row.advice))

    @property
    def summary(self) -> tuple[str, ...]:
        """What was compared with what, and what the two states take."""
        speeds = ", ".join(
            f"{name} {'never' if math.isinf(n) else f'{n:,.0f} steps'}" for name, n in self.time_constants
        )
        lines = [
            f"{self.transform}    seed {self.seed}, {self.seconds:.1f} s",
            f"  beside {self.reference}: {self.bytes:.2f} bytes a parameter in place of {self.reference_bytes:.2f}",
        ]
        return tuple([*lines, f"  time constants: {speeds}"] if speeds else lines)

    @property
    def conclusion(self) -> str:
        """The last line of the table."""
        number = len(self.bad)
        if not number:
            return "healthy: every figure is within its bounds"
        return f"not healthy: {number} figure{'s' if number > 1 else ''} out of bounds"

    def raise_if_bad(self) -> None:
        """Raises `LowbitUnfit`, an AssertionError with the whole report, if a figure is out of bounds."""
        if self.bad:
            raise LowbitUnfit(self)

    def __str__(self) -> str:
        head = ("measure", "gradients", "of", "figure", "bound", "verdict")
        rows = [(r.measure, r.gradients, r.of, r.figure, r.bound, r.verdict) for r in self.worst]
        lines = [*self.summary, "", *(f"  {line}" for line in align([head, *rows])), ""]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  what to do: {text}" for text in self.advice]
        return "\n".join([*lines, self.conclusion])
