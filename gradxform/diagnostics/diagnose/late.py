"""Rules about what a run has come to in its second half: rough, lost again, standing still."""

import numpy as np

from .finding import Case, Finding, rule
from .loss import WON, diverges, learned, noise, oscillates
from .run import Run
from .weights import strong

_LOWER = "divide the learning rate by 3 to 10, or let it fall towards the end (gx.warmup_cosine)"


def smooth(series: np.ndarray, width: int) -> np.ndarray:
    """The running median over `width` numbers, fewer at the ends."""
    half = width // 2
    return np.array([np.median(series[max(0, i - half) : i + half + 1]) for i in range(len(series))])


@rule("late-oscillation", "loss", least=60)
def rough(case: Case) -> list[Finding]:
    """The steps are so long that the weights jump about to the end.

    How rough a loss is says little: small batches make the loss of a good run as rough. But a batch knows nothing of
    the one before, and weights that jump remember: four figures show it, and each is held against what noise gives.
    """
    rows, loss = case.run.numbers("loss")
    if len(loss) < 60 or loss.min() < 0 or diverges(case) or oscillates(case):
        return []
    if learned(case.run):  # it is not thrown about
        return []
    half = len(loss) // 2
    found = _thrown(case.run, rows, loss) or _against(case.run) or _memory(case.run, rows[half:], loss[half:])
    shrunk = case.run.has("param_norm") and strong(case)  # any step is large for weights that shrank
    found = found or (None if shrunk else _strides(case.run))
    return [found] if found else []


def _finding(what: str, reading: str, step: int, figure: float, threshold: float, why: str) -> Finding:
    what = f"{what}, and the loss is not below {100 * WON:.0f} % of the first one"
    return Finding("late-oscillation", what, reading, step, figure, threshold, why, _LOWER)


def _thrown(run: Run, rows: np.ndarray, loss: np.ndarray) -> Finding | None:
    """First steps that throw the weights so far away that they never come back to where they were."""
    late = loss[len(loss) // 2 :]
    usual, least = float(np.median(late)), float(late.min())
    spread = float(np.log(np.maximum(late, 1e-30)).std())
    if loss[0] <= 0 or spread > 1:  # of a batch of one point any loss may be small, the first one too
        return None
    bound = max(1.5, float(np.exp(3.5 * spread))) * float(loss[0])
    if least <= loss[0] or usual <= bound or np.median(loss[:12]) <= 1.5 * loss[0]:
        return None
    what = f"the first steps throw the loss up from {loss[0]:.4g}, and it never comes back: it is {usual:.4g} later"
    return Finding(
        "late-oscillation",
        what,
        "loss",
        run.step(rows[len(loss) // 2]),
        usual,
        bound,
        "the first loss, times 1.5 or three and a half deviations of the later ones; none of them is below the first",
        _LOWER,
    )


def _against(run: Run) -> Finding | None:
    """Gradients that point against the average of those before: each step has gone past the valley."""
    if not run.has("cosine"):
        return None
    rows, cosine = run.numbers("cosine")
    late = cosine[len(cosine) // 2 :]
    if len(late) < 30 or np.median(late) > -0.25:
        return None
    return _finding(
        "the gradients point against their own average in the second half of the run",
        "cosine",
        run.step(rows[-len(late)]),
        float(np.median(late)),
        -0.25,
        "gradients that are mostly noise are at right angles to their average, 0; where a step goes past the valley "
        "the next gradient points back",
    )


def _strides(run: Run) -> Finding | None:
    """Updates that are a large part of the weights, to the end."""
    if not run.has("update_ratio"):
        return None
    rows, ratio = run.numbers("update_ratio")
    late = ratio[len(ratio) // 2 :]
    if len(late) < 30 or np.median(late) < 0.05:
        return None
    return _finding(
        f"every step changes the weights by {100 * np.median(late):.2g} % of their norm in the second half of the run",
        "update_ratio",
        run.step(rows[-len(late)]),
        float(np.median(late)),
        0.05,
        "about 0.001 is usual; of 0.05 a few dozen steps replace the weights by others",
    )


def _memory(run: Run, rows: np.ndarray, loss: np.ndarray) -> Finding | None:
    """A rough loss in which a step looks like the one before, or like its opposite."""
    logs = np.log(np.maximum(loss, 1e-3 * np.median(loss) + 1e-30))
    rest = logs - smooth(logs, 21)
    if rest.std() < 0.3:
        return None
    alike = float(np.corrcoef(rest[:-1], rest[1:])[0, 1])
    bound = max(0.3, 4 / np.sqrt(len(loss)))
    if abs(alike) < bound:
        return None
    how = "as it was at the step before" if alike > 0 else "the opposite of what it was at the step before"
    return _finding(
        f"the loss jumps by a factor of {np.exp(rest.std()):.2g} and is {how}",
        "loss from step to step, correlation",
        run.step(rows[0]),
        alike,
        float(np.copysign(bound, alike)),
        "noise of batches has no memory: the correlation of one loss with the next is 0, and by chance below the "
        "threshold",
    )


@rule("loss-rises-again", "loss", least=60)
def rises(case: Case) -> list[Finding]:
    """A run that has lost again what it had won."""
    rows, loss = case.run.numbers("loss")
    if len(loss) < 60 or diverges(case):
        return []
    width = max(5, len(loss) // 20)
    course = smooth(loss, width)
    best = int(np.argmin(course))
    start, least = float(np.median(loss[:width])), float(course[best])
    end = min(float(np.median(loss[-len(loss) // k :])) for k in (5, 10))
    around = loss[max(0, best - 2 * width) : best + width // 2 + 1]  # what comes behind may be the fault
    bound = least + max((start - least) / 3, 2 * noise(around), float(np.quantile(around, 0.9)) - least)
    if not 2 * width <= best < 0.8 * len(loss) or start - least < 4 * noise(around) or end <= bound:
        return []
    return [
        Finding(
            "loss-rises-again",
            f"the loss fell from {start:.4g} to {least:.4g} at step {case.run.step(rows[best])} and ends at {end:.4g}",
            "loss",
            case.run.step(rows[-1]),
            end,
            bound,
            "a third of what was won is lost again, over the last fifth of the run, by more than twice the noise",
            f"continue a checkpoint from about step {case.run.step(rows[best])} at a third of the rate; if the data "
            "changed there, nothing is wrong",
        )
    ]


@rule("steps-skipped", "*/skipped", least=40)
def skipped(case: Case) -> list[Finding]:
    """A guard or a loss scale that throws many steps away."""
    run = case.run
    found: list[Finding] = []
    for name, column in sorted(run.ending("*/skipped").items()):
        rows = np.flatnonzero(column.finite)
        if len(rows) < 40:
            continue
        first, last = rows[len(rows) // 2], rows[-1]
        count = float(column.values[last] - column.values[first])
        share = count / max(1, run.step(last) - run.step(first))
        if count < 10 or share <= 0.1:
            continue
        found.append(
            Finding(
                "steps-skipped",
                f"{name!r} has skipped {count:.0f} steps in the second half of the run, {100 * share:.0f} % of them",
                f"{name}/skipped",
                run.step(last),
                share,
                0.1,
                "a guard against rare accidents skips a few steps in a thousand, and a loss scale one in 2,000",
                "look at why the gradients are not finite or too large there; if they are larger for good, raise spike "
                "or empty the window of the guard",
            )
        )
    return found
