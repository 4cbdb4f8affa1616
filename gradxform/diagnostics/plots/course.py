"""What a transform does with one parameter, step by step: its moments and updates, read from its own states."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._core.apply import apply_updates
from ..._core.packed import opened
from ..._core.roles import MOMENT, SECOND_MOMENT
from ..._core.transform import GradientTransformation
from ..fields import fields

#: By how many units in the last place a moment may differ from the average that it is held against.
_ULPS = 8


@dataclass(frozen=True)
class Trail:
    """One moment after each step, and the decay of which it is the average: None if it is no such average."""

    address: str
    squares: bool
    values: Any
    decay: float | None

    @property
    def corrections(self) -> Any:
        """What the average divides by because it began at 0: `1 - decay^t`."""
        t = np.arange(1, len(self.values) + 1)
        return -np.expm1(t * np.log(self.decay)) if self.decay else np.ones(len(t))

    @property
    def corrected(self) -> Any:
        """The average of the gradients so far, with weights that add up to 1."""
        return self.values / self.corrections


@dataclass(frozen=True)
class Course:
    """A run on one parameter, an entry a step: gradients, what the transform made of them, its moments."""

    gradients: Any
    updates: Any
    trails: tuple[Trail, ...]


def course(tx: GradientTransformation, gradients: Any, start: float, steps: int) -> Course:
    """Runs `tx` on one number. `gradients` is a function of it, or an array of `steps` gradients."""
    w = jnp.asarray(start, dtype=float)
    fn, given = (gradients, None) if callable(gradients) else (None, jnp.asarray(gradients, dtype=w.dtype))
    run = _run if tx.spec.holds_array else _compiled  # a transform of arrays is no value to compile for
    found, made, states = run(tx, fn, steps, given, w)
    g = np.asarray(found, np.float64)
    trails: list[Trail] = []
    for field in fields(tx, states):
        if field.role not in (MOMENT.name, SECOND_MOMENT.name):
            continue
        for array in field.arrays:
            values = np.asarray(array, np.float64)
            squares = field.role == SECOND_MOMENT.name
            decay = decay_of(values, g**2 if squares else g, float(jnp.finfo(array.dtype).eps))
            trails.append(Trail(field.address, squares, values, decay))
    return Course(g, np.asarray(made, np.float64), tuple(trails))


def _run(tx: GradientTransformation, fn: Any, steps: int, given: Any, start: Any) -> Any:
    """Gradients, updates and states after each step, stacked."""

    def step(carry: Any, t: Any) -> Any:
        w, state = carry
        g = fn(w) if given is None else given[t]
        updates, state = tx.update(g, state, w)
        return (apply_updates(w, updates), state), (g, updates, opened(state))

    return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))[1]


_compiled = jax.jit(_run, static_argnums=(0, 1, 2))


def decay_of(values: Any, inputs: Any, eps: float) -> float | None:
    """The decay b of `m_t = b m_{t-1} + (1 - b) x_t` with `m_0 = 0`, if `values` is that average of `inputs`.

    It is read from the first input that is not 0 and then held against every step. A moment of something else (clipped
    gradients, a maximum, a sum, a decay that changes) does not hold, and nothing is said of its correction.
    """
    (some,) = np.nonzero(inputs)
    if not len(some) or not np.isfinite(values).all() or not np.isfinite(inputs).all():
        return None
    first = some[0]
    weight = values[first] / inputs[first]
    if np.any(values[:first]) or not 0 < weight < 1:
        return None
    before = np.concatenate([[0.0], values[:-1]])
    wanted = before + weight * (inputs - before)
    room = _ULPS * eps * (np.abs(before) + weight * np.abs(inputs))
    return float(1 - weight) if np.all(np.abs(values - wanted) <= room) else None
