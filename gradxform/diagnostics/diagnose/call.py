"""`diagnose`: a run's readings held against the rules."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from ..._core.errors import kind, say
from ..._core.transform import as_transform
from . import (
    late as _late,
    loss as _loss,
    moments as _moments,
    numbers as _numbers,
    rate as _rate,
    transform as _transform,
    weights as _weights,
)
from .finding import RULES, Case, Finding
from .run import read_run

del _late, _loss, _moments, _numbers, _rate, _transform, _weights  # imported for their rules


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` says: `str` is a report for people, `to_dict` one for programs.

    Attributes:
        findings: the faults, in the order of the rules.
        tried: the names of the rules that could be tried.
        not_tried: of every other rule the readings that it lacks; `a|b` means one of two, `*/clipped` any that ends so.
        steps: how many steps the history has.

    Example:
        >>> import gradxform as gx
        >>> gx.diagnose([{"loss": 1.0}] * 30).tried
        ('loss-diverges', 'early-oscillation', 'not-finite')
    """

    findings: tuple[Finding, ...]
    tried: tuple[str, ...]
    not_tried: Mapping[str, tuple[str, ...]]
    steps: int

    def __str__(self) -> str:
        count = len(self.findings)
        found = f"{count or 'no'} {'finding' if count == 1 else 'findings'}"
        head = f"{found} in {self.steps} steps; {len(self.tried)} rules tried"
        lines = [head, *(f"\n{finding}" for finding in self.findings)]
        if self.not_tried:
            lines.append("\nnot tried, for want of")
            width = max(map(len, self.not_tried))
            lines += [f"  {name.ljust(width)}  {', '.join(lacks)}" for name, lacks in self.not_tried.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, numbers and text, as JSON has them: a figure that is not finite is its name."""
        findings = [asdict(finding) for finding in self.findings]
        for entry in findings:
            entry.update({k: x if isfinite(x) else str(x) for k, x in entry.items() if isinstance(x, float)})
        return {
            "steps": self.steps,
            "findings": findings,
            "tried": list(self.tried),
            "not_tried": {name: list(lacks) for name, lacks in self.not_tried.items()},
        }


def diagnose(
    history: Any,
    tx: Any = None,
    *,
    names: Mapping[str, str] | None = None,
    frozen: str | Sequence[str] = (),
) -> Diagnosis:
    """Says which known fault the numbers of a run show, by which figure, and what to change.

    Each rule needs some readings. Those of loss and gradient norm need nothing of ours; the others read what
    `gx.metrics` of a `gx.probe` and `gx.leaf_readings` give. A rule whose readings are not there is not tried, and the
    result says which those are: no finding means no finding by the rules in `tried`.

    Args:
        history: a list of dicts, one a step; a dict of arrays; the path of a .jsonl, .csv or .tsv file. Nested dicts
            are flattened with slashes. Values are numbers, arrays of one number or numbers as text; others are left
            out. What was not logged at a step is absent, None or an empty cell; NaN is a number that went wrong, unless
            the column is mostly NaN because somebody padded it. Loggers' usual names are known (`train_loss`, `lr`,
            `global_step`, `train/...`).
        tx: the transform of the run, ours or Optax's, for what a history cannot show: Adam with L2 in the place of
            AdamW, moments that are not bias-corrected.
        names: what the history calls the readings, where that is not guessed: `{"loss": "objective"}`.
        frozen: patterns of leaves that are meant to stand still, as in `gx.freeze`.

    Returns:
        A `Diagnosis`; print it.

    Raises:
        TypeError: the history is something else.
        ValueError: columns of unequal length, a line that is not JSON, a name that is not there.
        FileNotFoundError: there is no such file.

    Example:
        >>> import gradxform as gx
        >>> up = [{"step": i, "loss": 2.0 * 1.1**i} for i in range(40)]
        >>> print(gx.diagnose(up).findings[0])
        loss-diverges: the loss ends at 71.41; it began at 2.31 and was lowest, 2, at step 0
          figure  loss 71.41 at step 39, threshold 3.749
          why     a quarter and four times the noise from step to step above the first tenth of the run
          change  divide the learning rate by 10, or continue a checkpoint from before the lowest loss at half the rate
    """
    patterns: tuple[Any, ...] = (frozen,) if isinstance(frozen, str) else tuple(frozen)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                say(f"gx.diagnose(frozen=...): got {kind(pattern)}", "wanted patterns such as '*/embed'")
            )
    run = read_run(history, names)
    case = Case(run, None if tx is None else as_transform(tx, "gx.diagnose(tx)"), patterns)
    tried: list[str] = []
    not_tried: dict[str, tuple[str, ...]] = {}
    findings: list[Finding] = []
    for known in RULES:
        lacks = known.missing(case)
        if lacks:
            not_tried[known.name] = lacks
            continue
        tried.append(known.name)
        findings += known.find(case)
    return Diagnosis(tuple(findings), tuple(tried), not_tried, len(run))
