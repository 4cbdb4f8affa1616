"""Adafactor's second moment: the sums over rows and over columns, whose product is the whole to the rank one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .scalars import MAX_COUNT, Array, Hyper, State, count_of, hyper, quotient


@dataclass(frozen=True)
class FactoredRms:
    """Shazeer & Stern 2018, algorithm 4:

        beta_t = 1 - t^-decay_rate                                  0 at the first step: the start is forgotten at once
        R = beta R + (1 - beta) mean over columns of (g^2 + epsilon);  C likewise over rows
        v_hat = R C / mean(R);  u = g / sqrt(v_hat)

    An array is factored over its two largest axes, if both are at least `min_dim_size_to_factor` long; among equals the
    last ones, and the largest of all is the one that R has lost. Otherwise v = beta v + (1 - beta)(g^2 + epsilon).

    step_offset   t counts from here; steps before it are first steps
    beta2_cap     beta = min(cap, beta) (Zhai et al. 2022, section 3.4)
    floor e       mean(R) is at least e, and v_hat (or v) at least e^2 (torch, which adds nothing to the square)
    last_axes     the two last axes are factored, however short, and R has lost the last one (torch)
    """

    factored: bool = True
    decay_rate: Hyper = 0.8
    step_offset: int = 0
    min_dim_size_to_factor: int = 128
    epsilon: Hyper = 1e-30
    decay_rate_fn: Callable[[int, float], float] | None = None
    beta2_cap: Hyper | None = None
    floor: Hyper | None = None
    last_axes: bool = False

    def axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The axis that the columns have lost and the one that the rows have lost; None if nothing is factored."""
        if not self.factored or len(shape) < 2:
            return None
        if self.last_axes:
            return len(shape) - 2, len(shape) - 1
        small, large = sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]
        return None if min(shape[small], shape[large]) < self.min_dim_size_to_factor else (small, large)

    def init(self, p: Array) -> State:
        none, axes = np.zeros((1,)), self.axes(p.shape)
        if axes is None:
            return {"count": 0, "v_row": none, "v_col": none, "v": np.zeros_like(p, np.float64)}
        small, large = axes
        return {
            "count": 0,
            "v_row": np.zeros(p.shape).sum(large),
            "v_col": np.zeros(p.shape).sum(small),
            "v": none,
        }

    def _beta(self, count: int) -> float:
        after, rate = max(count - self.step_offset, 0), hyper(self.decay_rate, count)
        if self.decay_rate_fn is not None:
            beta = float(self.decay_rate_fn(after, rate))
        else:
            beta = 1 - float(after + 1) ** -rate
        return beta if self.beta2_cap is None else min(hyper(self.beta2_cap, count), beta)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        count, axes = count_of(state), self.axes(g.shape if p is None else p.shape)
        beta = self._beta(count)
        floor = 0.0 if self.floor is None else hyper(self.floor, count)
        square = np.square(g) + hyper(self.epsilon, count)
        new = {**state, "count": min(count + 1, MAX_COUNT)}
        if axes is None:
            new["v"] = whole = beta * state["v"] + (1 - beta) * square
        else:
            small, large = axes
            new["v_row"] = beta * state["v_row"] + (1 - beta) * square.mean(large)
            new["v_col"] = beta * state["v_col"] + (1 - beta) * square.mean(small)
            row, col = np.expand_dims(new["v_row"], large), np.expand_dims(new["v_col"], small)
            whole = quotient(row, np.maximum(row.mean(small, keepdims=True), floor)) * col
        return new, quotient(g, np.sqrt(np.maximum(whole, floor**2)))
