"""Rprop: every element has a step size of its own, which only the signs of its gradients change."""

from dataclasses import dataclass

import numpy as np

from .scalars import Array, Hyper, State, advance, count_of, counter, hyper


@dataclass(frozen=True)
class Rprop:
    """Riedmiller & Braun 1993 in the form without weight backtracking (Igel & Huesken 2000, iRprop-; torch's):

        same sign as before       step = min(eta_plus step, max_step);    u = step sign(g)
        the other sign            step = max(eta_minus step, min_step);   u = 0, and g counts as 0 at the next step
        one of the two is zero    step stays;                             u = step sign(g)

    The first step sees no sign before it and moves by `learning_rate`, the initial step size. In the place of the
    gradient before, the state keeps the update before, which has its sign. `lagged` returns that instead: the update
    of the step before, or zero where the sign has just changed (Optax 0.2.8).
    """

    learning_rate: float
    eta_minus: Hyper = 0.5
    eta_plus: Hyper = 1.2
    min_step_size: Hyper = 1e-6
    max_step_size: Hyper = 50.0
    lagged: bool = False

    def init(self, p: Array) -> State:
        return {
            **counter(self.eta_minus, self.eta_plus, self.min_step_size, self.max_step_size),
            "step_sizes": np.full_like(p, self.learning_rate, np.float64),
            "prev_updates": np.zeros_like(p, np.float64),
        }

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count, before = count_of(state), state["prev_updates"]
        minus, plus = hyper(self.eta_minus, count), hyper(self.eta_plus, count)
        least, most = hyper(self.min_step_size, count), hyper(self.max_step_size, count)
        agree = np.sign(g) * np.sign(before)
        moved = np.clip(np.where(agree > 0, plus, minus) * state["step_sizes"], least, most)
        step = np.where(agree == 0, state["step_sizes"], moved)
        u = np.where(agree < 0, 0.0, step * np.sign(g))
        new = {**advance(state), "step_sizes": step, "prev_updates": u}
        return new, np.where(agree < 0, 0.0, before) if self.lagged else u
