"""Adam's kin: two moments and a quotient, each with one thing done otherwise. Letters as in `adam.Adam`.

NAdam, AMSGrad, RAdam, Adamax, AdaBelief, Yogi. All point uphill and leave the learning rate to the next link.
"""

import math
from dataclasses import dataclass

import numpy as np

from .adam import corrected_mean
from .scalars import MAX_COUNT, Array, Hyper, State, bias_correction, count_of, hyper, quotient


def _zeros(p: Array, *names: str) -> State:
    return {"count": 0} | {name: np.zeros_like(p, np.float64) for name in names}


@dataclass(frozen=True)
class Nadam:
    """Dozat 2016 with its warmed momentum, as torch and Keras have it:

        mu_t = b1 (1 - 0.96^(t psi) / 2),  P_t = mu_1 mu_2 ... mu_t                    psi = `momentum_decay`
        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
        u = (mu_{t+1} m / (1 - P_{t+1}) + (1 - mu_t) g / (1 - P_t)) / (sqrt(v / (1 - b2^t)) + eps)

    The state keeps the product P_t, one number for all leaves.
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    momentum_decay: Hyper = 4e-3

    def init(self, p: Array) -> State:
        return _zeros(p, "mu", "nu") | {"mu_product": 1.0}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps, psi = (hyper(h, count) for h in (self.b1, self.b2, self.eps, self.momentum_decay))
        t = min(count + 1, MAX_COUNT)
        now, ahead = (b1 * (1 - 0.96 ** (s * psi) / 2) for s in (t, min(t + 1, MAX_COUNT)))
        product = float(state["mu_product"]) * now
        m = b1 * state["mu"] + (1 - b1) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        m_hat = ahead * m / (1 - product * ahead) + (1 - now) * g / (1 - product)
        new = {"count": t, "mu_product": product, "mu": m, "nu": v}
        return new, m_hat / (np.sqrt(v / bias_correction(b2, t)) + eps)


@dataclass(frozen=True)
class Amsgrad:
    """Reddi et al. 2018, algorithm 2: the root of the largest v so far. The paper corrects no bias; if one does, then

    v_max = max(v_max, v / (1 - b2^t)),  v_eff = v_max                  the maximum of what is corrected (Optax)
    v_max = max(v_max, v),  v_eff = v_max / (1 - b2^t)                  `raw_max`: the maximum, corrected (torch)

    which differ, since the correction shrinks with t; u = m_hat / (sqrt(v_eff + eps_root) + eps).
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    eps_root: Hyper = 0.0
    bias_correction_mu: bool = True
    bias_correction_nu: bool = True
    raw_max: bool = False

    def init(self, p: Array) -> State:
        return _zeros(p, "mu", "nu", "nu_max")

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps, eps_root = (hyper(h, count) for h in (self.b1, self.b2, self.eps, self.eps_root))
        t = min(count + 1, MAX_COUNT)
        c1 = bias_correction(b1, t) if self.bias_correction_mu else 1.0
        c2 = bias_correction(b2, t) if self.bias_correction_nu else 1.0
        m = b1 * state["mu"] + (1 - b1) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        v_max = np.maximum(state["nu_max"], v if self.raw_max else v / c2)
        v_eff = v_max / c2 if self.raw_max else v_max
        new = {"count": t, "mu": m, "nu": v, "nu_max": v_max}
        return new, (m / c1) / (np.sqrt(v_eff + eps_root) + eps)


def sma_length(b2: float, t: int) -> float:
    """rho_t: the length of the simple average whose centre of mass is that of t steps of the exponential one.

    A simple average over n steps has its centre at age (n + 1) / 2, so n = 2 (mean age) - 1, the newest being of age 1:

        rho_t = 2 sum_{j=1..t} j b2^(j-1) / sum_{j=1..t} b2^(j-1) - 1

    Liu et al. 2020, section 4, give the closed form rho_inf - 2 t b2^t / (1 - b2^t) with rho_inf = 2 / (1 - b2) - 1. It
    subtracts two numbers near 2 / (1 - b2) to get one near t; the sum of positive terms subtracts nothing.
    """
    weights = [b2**j for j in range(min(t, 20_000))]
    return 2 * math.fsum((j + 1) * w for j, w in enumerate(weights)) / math.fsum(weights) - 1


@dataclass(frozen=True)
class Radam:
    """Liu et al. 2020, algorithm 2: Adam times r_t once the variance of 1 / sqrt(v_hat) is tractable, before it m_hat.

        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        u = r m_hat / (sqrt(v_hat + eps_root) + eps)  if rho >= threshold, else m_hat

    The paper has eps = 0 and the threshold 4; 5 is what its code and all libraries have. `nesterov` and `eps_hat` as in
    `Adam`.
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    eps_root: Hyper = 0.0
    threshold: Hyper = 5.0
    nesterov: bool = False
    eps_hat: bool = False

    def init(self, p: Array) -> State:
        return _zeros(p, "mu", "nu")

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps, eps_root = (hyper(h, count) for h in (self.b1, self.b2, self.eps, self.eps_root))
        t = min(count + 1, MAX_COUNT)
        m = b1 * state["mu"] + (1 - b1) * g
        v = b2 * state["nu"] + (1 - b2) * np.square(g)
        new = {"count": t, "mu": m, "nu": v}
        m_hat, c2 = corrected_mean(m, g, b1, t, self.nesterov), bias_correction(b2, t)
        rho, rho_inf = sma_length(b2, t), 2 / (1 - b2) - 1
        if rho < hyper(self.threshold, count):
            return new, m_hat
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        if self.eps_hat:
            return new, quotient(r * math.sqrt(c2) * m_hat, np.sqrt(v + eps_root) + eps)
        return new, quotient(r * m_hat, np.sqrt(v / c2 + eps_root) + eps)


@dataclass(frozen=True)
class Adamax:
    """Kingma & Ba 2015, algorithm 2: the second moment in the limit of the p-norm, p to infinity; 0 / 0 is 0.

    n = max(b2 n, |g| + eps);  u = m_hat / n                    `eps_in_max`: Optax, torch
    n = max(b2 n, |g|);        u = m_hat / (n + eps)            else: Keras; with eps = 0 the paper
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    eps_in_max: bool = True

    def init(self, p: Array) -> State:
        return _zeros(p, "mu", "nu")

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps = (hyper(h, count) for h in (self.b1, self.b2, self.eps))
        t = min(count + 1, MAX_COUNT)
        m = b1 * state["mu"] + (1 - b1) * g
        n = np.maximum(b2 * state["nu"], np.abs(g) + (eps if self.eps_in_max else 0.0))
        m_hat = m / bias_correction(b1, t)
        return {"count": t, "mu": m, "nu": n}, quotient(m_hat, n if self.eps_in_max else n + eps)


@dataclass(frozen=True)
class Belief:
    """Zhuang et al. 2020, algorithm 2: the second moment is about the mean, and epsilon is added to it at every step.

    s = b2 s + (1 - b2) (g - m)^2 + eps_root;  u = m_hat / (sqrt(s / (1 - b2^t)) + eps)      m being this step's mean
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-16
    eps_root: Hyper = 1e-16
    nesterov: bool = False

    def init(self, p: Array) -> State:
        return _zeros(p, "mu", "nu")

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps, eps_root = (hyper(h, count) for h in (self.b1, self.b2, self.eps, self.eps_root))
        t = min(count + 1, MAX_COUNT)
        m = b1 * state["mu"] + (1 - b1) * g
        # g - m = b1 (g - m_old), without the rounding of m
        s = b2 * state["nu"] + (1 - b2) * np.square(b1 * (g - state["mu"])) + eps_root
        m_hat = corrected_mean(m, g, b1, t, self.nesterov)
        root = np.sqrt(s / bias_correction(b2, t))
        return {"count": t, "mu": m, "nu": s}, quotient(m_hat, root + eps)


@dataclass(frozen=True)
class Yogi:
    """Zaheer et al. 2018, algorithm 2: v moves by at most (1 - b2) g^2 a step, up or down.

    v = v - (1 - b2) sign(v - g^2) g^2;  u = m_hat / (sqrt(v_hat + eps_root) + eps)

    v starts at `initial_accumulator_value`. The bias corrections are not the paper's but the libraries', which also
    start m there (`seed_mu`), so that a weight without any gradient moves.
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-3
    eps_root: Hyper = 0.0
    initial_accumulator_value: float = 1e-6
    seed_mu: bool = False

    def init(self, p: Array) -> State:
        seed = np.full_like(p, self.initial_accumulator_value, np.float64)
        return {"count": 0, "mu": seed if self.seed_mu else 0 * seed, "nu": seed}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        b1, b2, eps, eps_root = (hyper(h, count) for h in (self.b1, self.b2, self.eps, self.eps_root))
        t = min(count + 1, MAX_COUNT)
        m = b1 * state["mu"] + (1 - b1) * g
        v = state["nu"] - (1 - b2) * np.sign(state["nu"] - np.square(g)) * np.square(g)
        m_hat, v_hat = m / bias_correction(b1, t), v / bias_correction(b2, t)
        return {"count": t, "mu": m, "nu": v}, m_hat / (np.sqrt(v_hat + eps_root) + eps)
