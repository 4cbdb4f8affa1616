"""Rules about what a step does to the weights."""

import numpy as np

from ..._core.tree import matches
from .finding import Case, Finding, rule
from .loss import learned
from .run import Run


@rule("weights-do-not-move", "unmoved", least=10)
def unmoved(case: Case) -> list[Finding]:
    """Updates below half of what the dtype of the weights can tell apart."""
    rows, share = case.run.numbers("unmoved")
    half = share[len(share) // 2 :]
    bound = 0.9 if learned(case.run) else 0.5
    if len(half) < 5 or _any_link(case, "exact_master") or np.median(half) < bound:
        return []
    at = len(share) - len(half) + int(np.argmax(half >= np.median(half)))
    return [
        Finding(
            "weights-do-not-move",
            f"{100 * np.median(half):.0f} % of the 16-bit weights that the update asks to move stay where they are",
            "unmoved",
            case.run.step(rows[at]),
            float(share[at]),
            bound,
            f"in the second half of the run more than {10 * bound:.0f} of 10 updates are below half an ulp of their "
            "weight, 1/256 to 1/512 of it in bfloat16, and are rounded away; 9 of 10 if the loss has fallen below 30 %",
            "keep exact weights behind the 16-bit ones with gx.lowbit.exact_master(tx), or raise the rate 4-fold",
        )
    ]


@rule("clip-always-on", "*/clipped", least=20)
def clips(case: Case) -> list[Finding]:
    """A clip that has become the step size."""
    found: list[Finding] = []
    for link, column in sorted(case.run.ending("*/clipped").items()):
        norm = case.run.columns.get(f"{link}/norm_in")
        rows = np.flatnonzero(
            column.finite if norm is None else column.finite & norm.finite
        )  # any bound changes NaN
        later = rows[len(rows) // 2 :]
        if len(later) < 10:
            continue
        share = float(column.values[later].mean())
        if share < 0.95:
            continue
        usual = None if norm is None else float(np.median(norm.values[later]))
        change = "raise the bound to about twice the usual norm" + (f", {2 * usual:.2g}" if usual else "")
        found.append(
            Finding(
                "clip-always-on",
                f"{link!r} changes {100 * share:.0f} % of what passes in the second half of the run: no guard against "
                "spikes any more, it fixes the length of every step",
                f"{link}/clipped",
                case.run.step(later[0]),
                share,
                0.95,
                "a bound against outliers acts on a few steps, mostly early ones",
                f"{change}, or leave it if steps of equal length are what you want",
            )
        )
    return found


def _decays(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The links that are named for a decay: rows, and how many times longer the update is behind them."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for link in run.ending("*/norm_out"):
        if link.rsplit("/", 1)[-1].split("_")[0] != "decay" or not run.has(f"{link}/norm_in"):
            continue
        rows, before, after = run.numbers(f"{link}/norm_in", f"{link}/norm_out")
        known = before > 0
        found[link] = rows[known], after[known] / before[known]
    return found


@rule("decay-too-strong", "*decay/norm_in", "*decay/norm_out", "param_norm", least=20)
def strong(case: Case) -> list[Finding]:
    """The decay is the larger part of the update, and the weights shrink."""
    p_rows, norms = case.run.numbers("param_norm")
    if not len(norms) or norms[-1] > 0.7 * norms[0]:
        return []
    fallen = p_rows[int(np.argmax(norms <= 0.7 * norms[0]))]
    found: list[Finding] = []
    for link, (rows, ratio) in _decays(case.run).items():
        here = ratio[rows <= fallen]
        if not len(here) or np.median(here) < 1.5:
            continue
        found.append(
            Finding(
                "decay-too-strong",
                f"the weights shrink from {norms[0]:.4g} to {norms[-1]:.4g}, mostly by the decay",
                f"{link}/norm_out by norm_in",
                case.run.step(fallen),
                float(np.median(here)),
                1.5,
                "until the norm of the weights has fallen by 30 % the update is half as long again behind the decay",
                "divide weight_decay by 10, and keep it off biases and norms with mask=gx.matrices()",
            )
        )
    return found


@rule("decay-too-weak", "*decay/norm_in", "*decay/norm_out", "param_norm", least=300)
def weak(case: Case) -> list[Finding]:
    """Weights that grow and grow, with a decay that cannot be seen."""
    rows_p, norms = case.run.numbers("param_norm")
    for _, ratio in _decays(case.run).values():
        half = np.abs(ratio[len(ratio) // 2 :] - 1)
        late = norms[-max(1, len(norms) // 4)]
        if len(half) < 100 or np.median(half) > 1e-3 or norms[-1] < 3 * norms[0] or norms[-1] < 1.1 * late:
            continue
        return [  # several decays share the weights that grow
            Finding(
                "decay-too-weak",
                f"the weights grew {norms[-1] / norms[0]:.3g}-fold and still grow; the decay changes the length of the "
                f"update by {100 * np.median(half):.2g} %",
                "param_norm",
                case.run.step(rows_p[-1]),
                float(norms[-1]),
                3 * float(norms[0]),
                "three times the norm at the start, more than 10 % of it in the last quarter of the run",
                "multiply weight_decay by 10 (0.01 to 0.1 is usual for transformers)",
            )
        ]
    return []


@rule("frozen-by-accident", "update_norm|*/update_norm", least=10)
def frozen(case: Case) -> list[Finding]:
    """A leaf, a group or a whole model whose update is zero at every step."""
    run = case.run
    parts = {
        **({"": run.columns["update_norm"]} if run.has("update_norm") else {}),
        **run.ending("*/update_norm"),
    }
    still = {name: c for name, c in parts.items() if c.finite.sum() >= 10 and not c.values[c.finite].any()}
    still = {n: c for n, c in still.items() if not any(matches(p, n, None) for p in case.frozen)}
    if "" in still:
        still = {"": still[""]}
    idle = [name for name in sorted(still) if _idle(run, name)]
    held = [name for name in sorted(still) if name not in idle]
    return [_still(run, some, some is idle) for some in (held, idle) if some]


def _idle(run: Run, name: str) -> bool:
    """Whether the gradient is zero as well. NaN is not."""
    gradient = run.columns.get(f"{name}/grad_norm" if name else "grad_norm")
    return gradient is not None and not gradient.values[gradient.present].any()


def _still(run: Run, names: list[str], idle: bool) -> Finding:
    if idle:
        why = "the gradient is zero too: the loss does not depend on it"
        change = "look for a stop_gradient, an unused output or a dead activation behind it"
    else:
        why = "the gradient is not zero, as far as it is known: the transform holds it back"
        change = "look at gx.describe(tx, params) for masks and groups, and at the learning rate"
    who = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    verb = "does not move" if len(names) == 1 else "do not move"
    reading = f"{names[0]}/update_norm" if names[0] else "update_norm"
    rows = np.flatnonzero(run.columns[reading].finite)
    return Finding(
        "frozen-by-accident",
        f"{who} {verb} in {len(rows)} steps" if names[0] else f"no leaf moves in {len(rows)} steps",
        reading,
        run.step(rows[-1]),
        0.0,
        0.0,
        why,
        f"{change}; if it is meant, pass frozen={names[0]!r}" if names[0] else change,
    )


@rule("gradient-dies", "*/grad_norm", least=60)
def dies(case: Case) -> list[Finding]:
    """A leaf that had a gradient and has none any more, while others have."""
    run = case.run
    known = {
        n: c
        for n, c in run.ending("*/grad_norm").items()
        if not any(matches(p, n, None) for p in case.frozen)
    }
    dead: dict[str, int] = {}
    for name, column in known.items():
        rows = np.flatnonzero(column.finite)
        moving = np.flatnonzero(column.values[rows])
        rest = len(rows) - 1 - int(moving[-1]) if len(moving) else 0
        if rest >= max(30, len(rows) // 4) and rest > 2 * (np.diff(moving).max() if len(moving) > 1 else 1):
            dead[name] = int(rows[moving[-1] + 1])
    lost = any((c.present & ~c.finite)[min(dead.values()) :].any() for c in known.values()) if dead else False
    if (
        lost or not dead or len(dead) == len(known)
    ):  # NaN may leave zeros behind; all of them: nothing is left to learn
        return []
    first = min(dead, key=lambda name: (dead[name], name))
    more = f", and later of {len(dead) - 1} more" if len(dead) > 1 else ""
    return [
        Finding(
            "gradient-dies",
            f"the gradient of {first!r} is exactly zero from step {run.step(dead[first])} on{more}; others have one",
            f"{first}/grad_norm",
            run.step(dead[first]),
            0.0,
            0.0,
            "it was not zero before: activations that are cut off for every input, or a switch in the loss",
            "divide the learning rate by 3 to 10, or take an activation with a slope everywhere (gelu, leaky_relu); if "
            f"it is meant, pass frozen={first!r}",
        )
    ]


def _any_link(case: Case, call: str) -> bool:
    return case.tx is not None and call in repr(case.tx)
