"""Adam: a step of the first moment divided by the root of the second, both corrected for their start at zero."""

from dataclasses import dataclass

import numpy as np

from .scalars import MAX_COUNT, Array, Hyper, State, bias_correction, count_of, hyper


@dataclass(frozen=True)
class Adam:
    """m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  u = m_hat / (sqrt(v_hat + eps_root) + eps)

    with v_hat = v / (1 - b2^t), t = 1, 2, ... the steps taken including this one, and

        m_hat = m / (1 - b1^t)                                          Kingma & Ba 2015, algorithm 1
        m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)         nesterov: Dozat 2016, constant momentum

    `eps_hat`: u = (sqrt(1 - b2^t) / (1 - b1^t)) m / (sqrt(v) + eps), the order of computation that the paper proposes
    at the end of its section 2: epsilon (and eps_root) are added to what belongs to the *uncorrected* v.

    No learning rate and no sign: the update still points uphill. A decay that is a function of the count enters the
    bias correction with its present value (b^t, not the product of the past values).
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    eps_root: Hyper = 0.0
    nesterov: bool = False
    eps_hat: bool = False

    def init(self, p: Array) -> State:
        return {"count": 0, "mu": np.zeros_like(p, np.float64), "nu": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps, eps_root = (hyper(h, count) for h in (self.b1, self.b2, self.eps, self.eps_root))
        t = min(count + 1, MAX_COUNT)
        m = b1 * state["mu"] + (1 - b1) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        m_hat = corrected_mean(m, g, b1, t, self.nesterov)
        c2 = bias_correction(b2, t)
        new = {"count": t, "mu": m, "nu": v}
        if self.eps_hat:
            return new, np.sqrt(c2) * m_hat / (np.sqrt(v + eps_root) + eps)
        return new, m_hat / (np.sqrt(v / c2 + eps_root) + eps)


def corrected_mean(m: Array, g: Array, b1: float, t: int, nesterov: bool) -> Array:
    """m_hat, without or with Nesterov's look ahead."""
    if not nesterov:
        return m / bias_correction(b1, t)
    return b1 * m / bias_correction(b1, min(t + 1, MAX_COUNT)) + (1 - b1) * g / bias_correction(b1, t)
