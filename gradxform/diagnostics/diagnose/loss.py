"""Rules that loss and gradient norm alone can serve."""

import numpy as np

from .finding import Case, Finding, rule
from .run import Run

#: A loss below this share of the first one has been learned from.
WON = 0.3


def learned(run: Run) -> bool:
    """Whether the loss of the second half is well below the first one."""
    _, loss = run.numbers("loss") if run.has("loss") else (None, np.zeros(0))
    return len(loss) >= 10 and loss.min() >= 0 and float(np.median(loss[len(loss) // 2 :])) <= WON * loss[0]


def _ends(loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last tenth of a series, at least three of each."""
    n = max(3, len(loss) // 10)
    return loss[:n], loss[-n:]


def noise(series: np.ndarray) -> float:
    """The standard deviation of what differs from one step to the next, by the median, so that jumps do not count."""
    steps = np.diff(series)
    return float(1.4826 * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2)) if len(steps) else 0.0


@rule("loss-diverges", "loss", least=10)
def diverges(case: Case) -> list[Finding]:
    """The loss ends well above where it began."""
    rows, loss = case.run.numbers("loss")
    if len(loss) < 10:
        return []
    first, last = _ends(loss)
    start, end = float(np.median(first)), float(np.median(last))
    bound = start + 4 * noise(loss[: max(4, len(loss) // 2)]) + 0.25 * abs(start)
    if end <= bound or end <= float(first.max()):
        return []
    best = int(np.argmin(loss))
    return [
        Finding(
            "loss-diverges",
            f"the loss ends at {end:.4g}; it began at {start:.4g} and was lowest, {loss[best]:.4g}, at step "
            f"{case.run.step(rows[best])}",
            "loss",
            case.run.step(rows[-1]),
            end,
            bound,
            "a quarter and four times the noise from step to step above the first tenth of the run",
            "divide the learning rate by 10, or continue a checkpoint from before the lowest loss at half the rate",
        )
    ]


@rule("early-oscillation", "loss", least=22)
def oscillates(case: Case) -> list[Finding]:
    """The loss jumps up and down in the first steps: each step goes past the valley."""
    rows, loss = case.run.numbers("loss")
    if len(loss) < 22:
        return []
    found = _zigzag(case.run, rows, loss) or _peaks(case.run, rows, loss) or _jump(case.run, rows, loss)
    return [found] if found else []


_LOWER = "divide the learning rate by 2 to 10, or warm it up over the first 1 to 10 % of the steps"


TURNS = 20


def _zigzag(run: Run, rows: np.ndarray, loss: np.ndarray) -> Finding | None:
    """Up, down, up, down, for the first 80 losses. Differences of pure noise change their sign 2 times in 3."""
    steps = np.diff(loss[:80])
    turns = steps[1:] * steps[:-1] < 0
    size = np.abs(steps) > 0.05 * np.abs(loss[1:80][: len(steps)])
    for at in range(len(turns) - TURNS + 1):
        here = slice(at, at + TURNS + 1)
        if turns[at : at + TURNS].all() and size[here].all():
            return Finding(
                "early-oscillation",
                f"the loss goes up and down {TURNS} times one after the other",
                "loss",
                run.step(rows[at + 1]),
                float(np.abs(steps[here]).mean()),
                0.05 * float(np.abs(loss[here]).mean()),
                f"every change is more than 5 % of the loss; noise turns {TURNS} times in a row in one run of 300",
                _LOWER,
            )
    return None


def _peaks(run: Run, rows: np.ndarray, loss: np.ndarray) -> Finding | None:
    """Several hills that are gone later. What stays is noise, what stays up is divergence."""
    early = max(12, len(loss) // 4)
    head, tail = loss[:early], loss[early:]
    if len(tail) < 8 or loss[0] <= 0 or loss.min() < 0:
        return None
    start = float(np.median(head[:3]))
    hills, top = _hills(head, 0.3 * start)
    calm = _wobble(head) > 3 * _wobble(tail[-max(8, len(tail) // 2) :])
    if hills < 3 or not calm or np.median(tail) > start:
        return None
    return Finding(
        "early-oscillation",
        f"the loss doubles {hills} times on its way through the first {early} steps, and calms down later",
        "loss",
        run.step(rows[top]),
        float(head[top]),
        2 * float(head[:top].min()),
        "three hills twice as high as the valley before; noise would be as large later, relative to the loss",
        _LOWER,
    )


def _jump(run: Run, rows: np.ndarray, loss: np.ndarray) -> Finding | None:
    """First steps that throw the weights far away, from where the loss comes back."""
    if loss.min() < 0 or loss[0] <= 0:
        return None
    head, tail = loss[: max(12, len(loss) // 10)], loss[len(loss) // 2 :]
    base = max(float(loss[0]), float(np.median(loss)))
    top = int(np.argmax(head))
    later = float(tail.max() / max(np.median(tail), 1e-30))
    if head[top] <= 3 * base or head[top] / base <= 3 * later or np.median(tail) > loss[0]:
        return None
    return Finding(
        "early-oscillation",
        f"the first steps throw the loss up from {loss[0]:.4g} before it comes back",
        "loss",
        run.step(rows[top]),
        float(head[top]),
        3 * base,
        "three times the loss at the start; of noise there would be as much in the second half of the run",
        _LOWER,
    )


def _hills(loss: np.ndarray, least: float) -> tuple[int, int]:
    """How often a series rises to twice its last valley, and where it stands highest above one."""
    count, best, at = 0, 0.0, 0
    valley, peak, rising = loss[0], loss[0], False
    for i, x in enumerate(loss):
        if rising and x < peak / 2:
            valley, rising = x, False
        elif not rising and x > 2 * valley and x > least:
            count, peak, rising = count + 1, x, True
        valley, peak = min(valley, x), max(peak, x)
        if rising and x > best:
            best, at = x, i
    return count, at


def _wobble(loss: np.ndarray) -> float:
    """How much the logarithm of the loss changes from step to step."""
    return float(np.std(np.diff(np.log(np.maximum(loss, 1e-30)))))


@rule("gradient-spikes", "grad_norm", least=20)
def spikes(case: Case) -> list[Finding]:
    """Single gradients many times larger than those before, that nothing holds back."""
    run = case.run
    rows, norms = run.numbers("grad_norm")
    held = _held(run)
    found: list[tuple[int, float, float]] = []
    for i in range(10, len(norms)):
        before = norms[max(0, i - 50) : i]
        middle = float(np.median(before))
        if middle <= 0 or held[rows[i]]:
            continue
        logs = np.log(np.maximum(before, 1e-30))
        spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
        bound = middle * max(10.0, float(np.exp(min(6 * spread, 50.0))))
        # A run that leaves a plateau has large gradients from then on: a spike is over after a few steps.
        after = norms[i + 1 : i + 6]
        alone = norms[i] > before.max() * 2 and len(after) > 0 and after.min() < bound / 2
        if norms[i] > bound and alone and (norms[i] > 50 * middle or _felt(run, rows[i])):
            found.append((i, float(norms[i]), bound))
    if not found:
        return []
    i, norm, bound = max(found, key=lambda x: x[1])
    times = "once" if len(found) == 1 else f"{len(found)} times"
    return [
        Finding(
            "gradient-spikes",
            f"the gradient norm jumps {times}; at the worst it is {norm / np.median(norms):.0f} times the median",
            "grad_norm",
            run.step(rows[i]),
            norm,
            bound,
            "10 times the median of the 50 steps before, or 6 deviations of its logarithm if that is more; below "
            "50 times only where the loss shows it too",
            "put gx.clip_by_global_norm(1.0) in front, or skip such steps with gx.guard(tx, spike=6.0)",
        )
    ]


def _felt(run: Run, row: int) -> bool:
    """Whether the loss leaves its usual range with a gradient, or within three steps: rare batches of a model that has
    learned have gradients 30 times as large as the rest, and do no harm.
    """
    if not run.has("loss"):
        return True
    before, after = (
        run.columns["loss"].values[part] for part in (slice(max(0, row - 50), row), slice(row, row + 4))
    )
    before = before[np.isfinite(before)]
    return len(before) < 5 or not bool((after <= before.mean() + 4 * before.std()).all())


def _held(run: Run) -> np.ndarray:
    """The rows at which a clip took hold, or a guard skipped the step."""
    held = np.zeros(len(run), bool)
    for column in run.ending("*/clipped").values():
        held |= column.finite & (column.values > 0)
    for column in run.ending("*/skipped").values():
        values = np.where(column.finite, column.values, 0)
        held[1:] |= np.diff(values) > 0
    return held
