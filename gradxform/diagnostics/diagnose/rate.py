"""Rules about a rate that does not fit the run: it ends early, never arrives, or carries the weights away."""

import numpy as np

from .finding import Case, Finding, rule
from .run import Run

#: A loss above this share of the first one has not fallen.
STILL = 0.75


def stands(run: Run) -> float | None:
    """The median loss of the last third, if it is hardly below the first ones; None if the run has learned."""
    _, loss = run.numbers("loss")
    if len(loss) < 60 or loss.min() < 0:
        return None
    late = float(np.median(loss[-len(loss) // 3 :]))
    return late if late > STILL * float(loss[:3].mean()) else None


@rule("rate-ends-early", "update_norm|learning_rate", least=40)
def ended(case: Case) -> list[Finding]:
    """A rate that is zero for the last part of the run."""
    run = case.run
    reading = "learning_rate" if run.has("learning_rate") else "update_norm"
    rows, sizes = run.numbers(reading)
    moving = np.flatnonzero(sizes)
    if len(moving) < 2:
        return []
    rest, pause = len(sizes) - 1 - int(moving[-1]), int(np.diff(moving).max()) - 1
    if rest <= max(20, 0.1 * len(sizes), 2 * pause):  # an accumulation stands still between its steps
        return []
    tail = rows[moving[-1] + 1 :]
    if (
        run.has("grad_norm") and not (run.columns["grad_norm"].values[tail] > 0).any()
    ):  # nothing is left to learn
        return []
    if any(
        np.ptp(c.values[tail][c.finite[tail]]) > 0
        for c in run.ending("*/skipped").values()
        if c.finite[tail].any()
    ):
        return []
    what = "learning rate" if reading == "learning_rate" else "update"
    return [
        Finding(
            "rate-ends-early",
            f"the {what} is 0 for the last {rest} of {len(sizes)} steps, while there are gradients",
            reading,
            run.step(tail[0]),
            float(rest),
            float(max(20, round(0.1 * len(sizes)), 2 * pause)),
            "a schedule that fits ends with the run; longer than a tenth of it, or twice the longest pause before",
            "give the schedule the number of updates of the run: an accumulation makes fewer, two counts of one step "
            "more",
        )
    ]


@rule("rate-still-rises", "learning_rate", "loss", least=200)
def rising(case: Case) -> list[Finding]:
    """A warmup that is longer than the run, while nothing is learned.

    Somebody may look at a run in its warmup; there the loss falls already.
    """
    run = case.run
    rows, rate = run.numbers("learning_rate")
    late = stands(run)
    if len(rate) < 200 or late is None or (np.diff(rate) < 0).any():
        return []
    before = float(rate[-len(rate) // 10])
    if rate[-1] <= 1.05 * before:
        return []
    return [
        Finding(
            "rate-still-rises",
            f"the learning rate has risen for the whole run, and the loss has not fallen: it is {late:.4g} in the last "
            "third",
            "learning_rate",
            run.step(rows[-1]),
            float(rate[-1]),
            1.05 * before,
            f"5 % more than at the start of the last tenth; the loss is not below {100 * STILL:.0f} % of the first one",
            "give the schedule the number of steps of the run; 1 to 10 % of them are usual for the warmup",
        )
    ]


@rule("weights-run-away", "loss", "param_norm", "update_norm", least=60)
def away(case: Case) -> list[Finding]:
    """Steps so long that they carry the weights far from their start, where nothing is learned."""
    run = case.run
    rows, norms, updates = run.numbers("param_norm", "update_norm")
    late = stands(run)
    if len(norms) < 60 or late is None or norms[0] <= 2 * updates[0]:  # weights of 0 grow by any step
        return []
    step = float(np.median(updates[len(updates) // 2 :]))
    if norms[-1] < 4 * norms[0] or step < 0.02 * norms[0]:
        return []
    return [
        Finding(
            "weights-run-away",
            f"the weights grow {norms[-1] / norms[0]:.3g}-fold, and the loss has not fallen: it is {late:.4g} in the "
            "last third",
            "param_norm",
            run.step(rows[int(np.argmax(norms >= 4 * norms[0]))]),
            float(norms[-1]),
            4 * float(norms[0]),
            f"four times the norm at the start, with steps of {100 * step / norms[0]:.2g} % of it; the loss is not "
            f"below {100 * STILL:.0f} % of the first one",
            "divide the learning rate by 10, from the step on at which it was raised",
        )
    ]
