"""Where numbers stopped being numbers: the first step, and the leaf and link of it."""

import numpy as np

from ..history import Column
from .finding import Case, Finding, rule
from .run import Run

#: Readings that are finite as long as the run is.
_WATCHED = ("loss", "grad_norm", "update_norm", "param_norm", "norm_in", "norm_out")


@rule("not-finite", "loss|grad_norm|update_norm|param_norm|*/norm_in|*/grad_norm")
def not_finite(case: Case) -> list[Finding]:
    """The first NaN or infinity, traced as far as the readings go."""
    run = case.run
    loss = run.columns.get("loss")
    bad = {
        name: row
        for name, column in run.columns.items()
        if name.rsplit("/", 1)[-1] in _WATCHED and (row := _wrong(column, loss)) is not None
    }
    if not bad:
        return []
    row = min(bad.values())
    names = sorted(name for name, at in bad.items() if at == row)
    what, reading, change = _origin(run, row, names)
    return [
        Finding(
            "not-finite",
            what,
            reading,
            run.step(row),
            float(run.columns[reading].values[row]),
            float(np.finfo(np.float32).max),
            "a reading that was finite until then" if row else "there is no finite step before it",
            change,
        )
    ]


def _wrong(column: Column, loss: Column | None) -> int | None:
    """The first row at which the number went wrong; None if none did, or if it was only padded.

    NaN is padding where it comes and goes in a column that has a number in at most 6 of 10 rows, or before its first
    number, and where it stays to the end while the loss, which cannot outlive the weights, goes on. Infinity is never
    padding.
    """
    bad = np.flatnonzero(column.present & ~np.isfinite(column.values))
    infinite = [int(row) for row in bad if np.isinf(column.values[row])][:1]
    good = np.flatnonzero(column.finite)
    first, last = (good[0], good[-1]) if good.size else (-1, -1)
    sparse = good.size > 1 and good.size <= 0.6 * (last + 1)
    inside = [int(row) for row in bad if first < row < last and not sparse][:1]
    after = [int(row) for row in bad if row > last][:1]
    if after:
        goes_on = loss is not None and loss is not column and bool(loss.finite[after[0] + 1 :].any())
        usual = sparse and len(column.values) - last <= int(np.diff(good).max())
        after = [] if goes_on or usual else after
    return min([*infinite, *inside, *after], default=None)


def _origin(run: Run, row: int, names: list[str]) -> tuple[str, str, str]:
    """What went wrong, the reading that shows it, and what to do: the earliest place in the order of a step."""
    leaves = [n for n in names if n.endswith("/grad_norm") and n[:-10] not in ("train", "optimizer")]
    lost = [n for n in names if n.endswith("/param_norm")]
    links = [
        n
        for n in names
        if n.endswith("/norm_out") and _fine(run, n.removesuffix("norm_out") + "norm_in", row)
    ]
    if "param_norm" in names or lost:
        reading = lost[0] if lost else "param_norm"
        what = f"parameters are not finite{_listed(lost, '/param_norm')}: the update of the step before broke them"
        return what, reading, "start again from the last checkpoint and put gx.guard(tx) around the transform"
    if "grad_norm" in names or leaves:
        reading = leaves[0] if leaves else "grad_norm"
        forward = (
            "; so is the loss"
            if "loss" in names
            else "; the loss is finite"
            if _fine(run, "loss", row)
            else ""
        )
        what = f"the gradients are not finite{_listed(leaves, '/grad_norm')}{forward}"
        if run.has("*/skipped"):
            change = (
                "look at the batch of that step; the guard has skipped it, and the weights are as they were"
            )
        elif forward == "; the loss is finite":
            change = "look for sqrt, norm or division at zero in the backward pass there; gx.guard(tx) skips the step"
        else:
            change = "put gx.guard(tx) around the transform, and gx.loss_scale(tx) around that in float16"
        return what, reading, change
    if links:
        link = links[0].removesuffix("/norm_out")
        what = f"the link {link!r} takes finite numbers and gives others"
        return what, links[0], f"look at the eps and the dtype of the state of {link!r}: 1e-8 is 0 in float16"
    if names == ["loss"] and _fine(run, "grad_norm", row):
        return (
            "the loss is not finite, the gradients are",
            "loss",
            "look at how the loss is averaged and logged",
        )
    first = "loss" if "loss" in names else names[0]
    change = "log gx.metrics of gx.probe(tx), which tells gradients, links and weights apart; gx.guard(tx) skips it"
    return f"{first} is not finite", first, change


def _fine(run: Run, name: str, row: int) -> bool:
    return name in run.columns and bool(run.columns[name].finite[row])


def _listed(names: list[str], tail: str) -> str:
    """The leaves or groups in a message."""
    if not names:
        return ""
    shown = ", ".join(repr(name.removesuffix(tail)) for name in names[:3])
    return f" in {shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
