"""What the page shows, computed by the library: a path for every stop of the sliders, and Adam step by step.

All paths of a method on a landscape are one compiled scan under `vmap`: its rate and decays are rows of numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._core.apply import apply_updates
from ..._core.numerics import debias, decay_of
from ..landscapes import Landscape, trajectory
from .entrants import ENTRANTS, FIRST, STOPS, Entrant

#: The landscape of the second part: f(w) = w^2 from w = 5.
W0 = 5.0
#: The entrant of the second part, and its defaults: it looks at Adam as it is, 60 steps long.
ADAM = next(entrant for entrant in ENTRANTS if entrant.name == "Adam")
ADAM_STEPS = 60
ADAM_FIELDS = ("g", "m", "v", "m_hat", "v_hat", "step", "w", "loss")
ADAM_FIRST = {"rate": 0.01, "b1": 0.9, "b2": 0.999}


@dataclass(frozen=True)
class Paths:
    """All paths of a method on one landscape.

    Args:
        positions: of shape `(stops of the rate, of each decay that it has, steps + 1, 2)`.
        gaps: how far the loss is above its lowest value; the same shape without the last axis.
        best: the place of the rate at which the method stays lowest in the last tenth of its steps, the decays
            standing at `FIRST`.
    """

    positions: Any
    gaps: Any
    best: int


def race(entrant: Entrant, landscape: Landscape, steps: int, key: Any) -> Paths:
    """Runs a method on a landscape from every stop of its sliders."""

    def one(stop: Mapping[str, Any]) -> Any:
        return trajectory(entrant.build(stop), landscape, steps, key=key, shape=entrant.shape)

    positions, losses = jax.jit(jax.vmap(one))(entrant.grid())
    stops = tuple(len(STOPS[axis]) for axis in entrant.axes)
    lowest = landscape.fn(jnp.asarray(landscape.minimum, np.float32))
    gaps = np.asarray(losses).reshape(*stops, steps + 1) - np.asarray(lowest)
    return Paths(np.asarray(positions).reshape(*stops, steps + 1, 2), gaps, _best(entrant, gaps))


def _best(entrant: Entrant, gaps: Any) -> int:
    """The place of the rate whose highest loss in the last tenth of the steps is the lowest: one lucky step is none."""
    at = tuple(STOPS[axis].index(FIRST[axis]) for axis in entrant.axes[1:])
    rows = gaps[(slice(None), *at)]
    worst = rows[:, -max(1, rows.shape[1] // 10) :].max(axis=1)
    return int(np.argmin(np.where(np.isfinite(worst), worst, np.inf)))


def adam_steps() -> Any:
    """Adam on w^2: float32 of shape `(rates, b1, b2, fields, steps + 1)`; entry 0 is the start, before any step."""

    def one(stop: Mapping[str, Any]) -> Any:
        tx = ADAM.build(stop)
        b1, b2 = decay_of(stop["b1"], np.float32), decay_of(stop["b2"], np.float32)

        def step(carry: Any, _: Any) -> Any:
            w, state = carry
            g = jax.grad(lambda w: w**2)(w)
            updates, state = tx.update(g, state, w)
            w = apply_updates(w, updates)
            moments = state[0]
            t = moments.count.astype(np.float32)
            m_hat, v_hat = moments.mu / debias(b1, t), moments.nu / debias(b2, t)
            return (w, state), jnp.stack([g, moments.mu, moments.nu, m_hat, v_hat, updates, w, w**2])

        w = jnp.float32(W0)
        _, rows = jax.lax.scan(step, (w, tx.init(w)), None, ADAM_STEPS)
        start = jnp.zeros(len(ADAM_FIELDS), np.float32).at[-2:].set(jnp.stack([w, w**2]))
        return jnp.concatenate([start[None], rows]).T

    found = jax.jit(jax.vmap(one))(ADAM.grid())
    stops = tuple(len(STOPS[axis]) for axis in ADAM.axes)
    return np.asarray(found).reshape(*stops, len(ADAM_FIELDS), ADAM_STEPS + 1)
