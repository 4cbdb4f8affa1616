"""Rules about averages of squares that 16 bits hold still."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._core import roles
from ..._core.packed import opened
from ..._core.roles import roles_of
from ..._core.states import nodes, unboxed
from ..._core.transform import GradientTransformation
from .finding import Case, Finding, rule
from .run import Run

_CHANGE = "keep it in float32 (nu_dtype), or in 8 bits by gx.lowbit.quantized, which rounds so that it moves"


@rule("second-moment-stalled", "*/second_moment", "grad_norm", least=30)
def stalled(case: Case) -> list[Finding]:
    """A second moment that stays the same to the last bit while the gradients change."""
    found: list[Finding] = []
    for leaf, column in sorted(case.run.ending("*/second_moment").items()):
        own = f"{leaf}/grad_norm" if case.run.has(f"{leaf}/grad_norm") else "grad_norm"
        at = _standstill(case.run, column.values, column.finite, own)
        if at is None:
            continue
        row, count = at
        found.append(
            Finding(
                "second-moment-stalled",
                f"the second moment of {leaf!r} is the same for {count} steps while its gradients change",
                f"{leaf}/second_moment",
                case.run.step(row),
                float(count),
                float(STEPS),
                "an average with 1 - b2 of 0.001 moves by less than half an ulp of bfloat16 unless a gradient is "
                "about twice its root; in float32 the norm would change at every step",
                _CHANGE,
            )
        )
    return found[:1] if len(found) < 2 else [_together(found)]


STEPS = 20


def _together(found: list[Finding]) -> Finding:
    first = max(found, key=lambda x: x.figure)
    return replace(first, what=f"{first.what}; so it is with {len(found) - 1} more")


def _standstill(run: Run, v: np.ndarray, known: np.ndarray, gradient: str) -> tuple[int, int] | None:
    """The longest stretch of equal numbers over which the gradient does change: its first row, its steps."""
    counts = known & run.columns[gradient].finite
    if run.has("update_norm"):  # a micro-step or a step that a guard skipped changes no state
        u = run.columns["update_norm"]
        counts &= u.finite & (u.values > 0)
    rows = np.flatnonzero(counts)
    g = run.columns[gradient].values[rows]
    usual = float(np.median(g)) if len(g) else 0.0
    best: tuple[int, int] | None = None
    start = 0
    for i in range(1, len(rows) + 1):
        if i < len(rows) and v[rows[i]] == v[rows[start]]:
            continue
        count, here = i - 1 - start, g[start:i]
        moving = count >= STEPS and v[rows[start]] > 0 and here.max() > 0.01 * usual
        if moving and np.ptp(here) > 0.05 * here.max() and (best is None or count > best[1]):
            best = int(rows[start]), count
        start = i
    return best


@rule("second-moment-keeps", "tx")
def keeps(case: Case) -> list[Finding]:
    """A second moment of 16 bits that does not fall when the gradients are gone, tried on two numbers.

    With many weights there are always some that move, so that the norm of a leaf is not still for long.
    """
    if case.run.has("grad_norm") and case.run.has("*/second_moment") and stalled(case):
        return []
    dtype = _holds(case.tx)
    if dtype is None:
        return []
    return [
        Finding(
            "second-moment-keeps",
            f"the second moment is kept in {dtype} and does not fall any more: what was large once stays large",
            "second moment behind a step without gradient, by the one before it",
            None,
            1.0,
            1.0,
            f"1 - b2 is below half an ulp of {dtype}, so that b2 times a number is rounded to the number itself; in "
            "float32 the figure is b2",
            _CHANGE,
        )
    ]


def _holds(tx: GradientTransformation) -> Any:
    """The 16-bit dtype of a second moment that stays what it is without gradients; None if there is none."""
    params: Any = {"x": jnp.array(np.ones(2, np.float32))}
    still: Any = {"x": jnp.array(np.zeros(2, np.float32))}
    try:
        state, taken = tx.init(params), 0
        while taken < 8 and not any(np.any(x) for x in _seconds(state)):  # an accumulation waits for several
            state, taken = tx.update(params, state, params)[1], taken + 1
        before = _seconds(state)
        for _ in range(2 * taken):
            state = tx.update(still, state, params)[1]
        after = _seconds(state)
    except Exception:  # it is anybody's, and may want other parameters or more arguments
        return None
    same = [x.dtype for x, y in zip(before, after, strict=True) if np.any(x) and np.array_equal(x, y)]
    return next((dtype for dtype in same if dtype.itemsize == 2), None)


def _seconds(state: Any) -> list[Any]:
    """The arrays of the first field of each link that holds second moments."""
    found: list[Any] = []
    for _, node in nodes(opened(unboxed(state))):
        field = next((n for n, role in roles_of(type(node)).items() if role is roles.SECOND_MOMENT), None)
        found += [] if field is None else [np.asarray(x) for x in jax.tree.leaves(getattr(node, field))]
    return found
