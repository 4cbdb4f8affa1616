"""Adan: moments of the gradient, of its change, and of the gradient extrapolated by its change."""

from dataclasses import dataclass

import numpy as np

from .scalars import MAX_COUNT, Array, Hyper, State, bias_correction, hyper


@dataclass(frozen=True)
class Adan:
    """Xie et al. 2022, algorithm 1, in the letters of a decay (the paper's beta is 1 - b):

        d = g - g_before, zero at the first step;  w = 1 - b2, or b2 with `weigh_by_b2`
        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) d;  n = b3 n + (1 - b3) (g + w d)^2
        u = (m_hat + w v_hat) / (sqrt(n_hat + eps_root) + eps),  x_hat = x / (1 - b^t)

    In the paper the change is weighed by 1 - beta2, that is by b2 in these letters: `weigh_by_b2` is the paper.
    """

    b1: Hyper = 0.98
    b2: Hyper = 0.92
    b3: Hyper = 0.99
    eps: Hyper = 1e-8
    eps_root: Hyper = 0.0
    weigh_by_b2: bool = False

    def init(self, p: Array) -> State:
        return {name: np.zeros_like(p, np.float64) for name in ("m", "v", "n", "g")} | {"t": 0}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = int(state["t"])
        b1, b2, b3, eps, root = (
            hyper(h, count) for h in (self.b1, self.b2, self.b3, self.eps, self.eps_root)
        )
        t = min(count + 1, MAX_COUNT)
        d = g - state["g"] if count else np.zeros_like(g)
        weight = b2 if self.weigh_by_b2 else 1 - b2
        m = b1 * state["m"] + (1 - b1) * g
        v = b2 * state["v"] + (1 - b2) * d
        n = b3 * state["n"] + (1 - b3) * np.square(g + weight * d)
        top = m / bias_correction(b1, t) + weight * v / bias_correction(b2, t)
        u = top / (np.sqrt(n / bias_correction(b3, t) + root) + eps)
        return {"m": m, "v": v, "n": n, "g": g, "t": t}, u
