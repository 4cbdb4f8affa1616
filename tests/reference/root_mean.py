"""The gradient over the root of its squares: Adagrad's sum, RMSprop's average, about the mean or not, Adadelta's ratio.

Where epsilon stands is an option of most: inside the root (`eps_in_sqrt`), or added to it. 0 / 0 is 0.
"""

from dataclasses import dataclass

import numpy as np

from .scalars import (
    MAX_COUNT,
    Array,
    Hyper,
    State,
    advance,
    bias_correction,
    count_of,
    counter,
    hyper,
    quotient,
)


def _over_root(g: Array, v: Array, eps: float, inside: bool) -> Array:
    return quotient(g, np.sqrt(v + eps) if inside else np.sqrt(v) + eps)


@dataclass(frozen=True)
class Rss:
    """Adagrad (Duchi et al. 2011, with the diagonal): s = s + g^2;  u = g / sqrt(s + eps) or g / (sqrt(s) + eps)."""

    initial_accumulator_value: float = 0.1
    eps: Hyper = 1e-7
    eps_in_sqrt: bool = True

    def init(self, p: Array) -> State:
        return {
            **counter(self.eps),
            "sum_of_squares": np.full_like(p, self.initial_accumulator_value, np.float64),
        }

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        s = state["sum_of_squares"] + np.square(g)
        u = _over_root(g, s, hyper(self.eps, count_of(state)), self.eps_in_sqrt)
        return {**advance(state), "sum_of_squares": s}, u


@dataclass(frozen=True)
class Rms:
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5): v = decay v + (1 - decay) g^2;  u = g / sqrt(v + eps)
    or g / (sqrt(v) + eps); `bias_correction` puts v / (1 - decay^t) for v.
    """

    decay: Hyper = 0.9
    eps: Hyper = 1e-8
    initial_scale: float = 0.0
    eps_in_sqrt: bool = True
    bias_correction: bool = False

    def init(self, p: Array) -> State:
        count = {"count": 0} if self.bias_correction else counter(self.decay, self.eps)
        return {**count, "nu": np.full_like(p, self.initial_scale, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        decay, eps = hyper(self.decay, count), hyper(self.eps, count)
        v = decay * state["nu"] + (1 - decay) * np.square(g)
        v_hat = v / bias_correction(decay, min(count + 1, MAX_COUNT)) if self.bias_correction else v
        return {**advance(state), "nu": v}, _over_root(g, v_hat, eps, self.eps_in_sqrt)


@dataclass(frozen=True)
class StdDev:
    """Centered RMSprop (Graves 2013, equation 40): v - m^2 for v, m = decay m + (1 - decay) g, clamped at zero.

    v - m^2 is a variance, of which nothing is left where gradients hardly differ. So it is put together from what it
    was and from how far g is off the old mean, in the shares `kept` and `1 - kept` of the weights gathered.
    """

    decay: Hyper = 0.9
    eps: Hyper = 1e-8
    initial_scale: float = 0.0
    eps_in_sqrt: bool = True
    bias_correction: bool = False

    def init(self, p: Array) -> State:
        count = {"count": 0} if self.bias_correction else counter(self.decay, self.eps)
        nu = np.full_like(p, self.initial_scale, np.float64)
        return {**count, "mu": np.zeros_like(p, np.float64), "nu": nu}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        decay, eps = hyper(self.decay, count), hyper(self.eps, count)
        m = decay * state["mu"] + (1 - decay) * g
        v = decay * state["nu"] + (1 - decay) * np.square(g)
        if self.bias_correction:
            before, now = bias_correction(decay, count), bias_correction(decay, min(count + 1, MAX_COUNT))
        else:
            before, now = 1.0, 1.0
        if before == 0:  # the first gradient is its own mean; a seed of v is all there is
            variance = decay * state["nu"] / now
        else:
            kept, mean = decay * before / now, state["mu"] / before
            variance = kept * (state["nu"] / before - np.square(mean)) + kept * (1 - kept) * np.square(
                g - mean
            )
        variance = np.maximum(variance, 0)
        return {**advance(state), "mu": m, "nu": v}, _over_root(g, variance, eps, self.eps_in_sqrt)


@dataclass(frozen=True)
class Adadelta:
    """Zeiler 2012, algorithm 1: the unit of the parameter comes from the updates made before.

    s = rho s + (1 - rho) g^2;  u = sqrt(d + eps) / sqrt(s + eps) g;  d = rho d + (1 - rho) u^2
    """

    rho: Hyper = 0.9
    eps: Hyper = 1e-6

    def init(self, p: Array) -> State:
        zeros = np.zeros_like(p, np.float64)
        return {**counter(self.rho, self.eps), "e_g": zeros, "e_x": zeros}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        rho, eps = (hyper(h, count_of(state)) for h in (self.rho, self.eps))
        s = rho * state["e_g"] + (1 - rho) * np.square(g)
        u = quotient(np.sqrt(state["e_x"] + eps), np.sqrt(s + eps)) * g
        d = rho * state["e_x"] + (1 - rho) * np.square(u)
        return {**advance(state), "e_g": s, "e_x": d}, u
