"""Methods with at most one buffer: identity (plain SGD), heavy ball, Nesterov, an average, sign, Lion."""

from dataclasses import dataclass

import numpy as np

from .scalars import MAX_COUNT, Array, Hyper, State, advance, bias_correction, count_of, counter, hyper


@dataclass(frozen=True)
class Identity:
    """u = g: plain gradient descent, and the first link of `sgd` without momentum."""

    def init(self, p: Array) -> State:
        del p
        return {}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        return state, g


@dataclass(frozen=True)
class Trace:
    """Heavy ball (Polyak 1964): m = decay m + g, u = m.  Nesterov (Sutskever et al. 2013, eq. 7 rearranged for the
    look-ahead point): u = g + decay m. The learning rate stays outside the buffer; the buffer starts at zero.

    With a dampening tau other than zero, torch's rule: m = decay m + (1 - tau) g, but the first gradient enters whole.
    """

    decay: Hyper
    nesterov: bool = False
    dampening: Hyper = 0.0

    @property
    def _damped(self) -> bool:
        return callable(self.dampening) or self.dampening != 0

    def init(self, p: Array) -> State:
        # The first step differs from the others if there is dampening: somebody has to count.
        count = {"count": 0} if self._damped else counter(self.decay)
        return {**count, "trace": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        mu = hyper(self.decay, count)
        share = 1.0 if self._damped and count == 0 else 1 - hyper(self.dampening, count)
        m = mu * state["trace"] + share * g
        return {**advance(state), "trace": m}, g + mu * m if self.nesterov else m


@dataclass(frozen=True)
class Ema:
    """An exponential moving average: m = decay m + (1 - decay) g;  u = m / (1 - decay^t) if `debias`, else m."""

    decay: Hyper
    debias: bool = True

    def init(self, p: Array) -> State:
        return {"count": 0, "ema": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count = count_of(state)
        decay, t = hyper(self.decay, count), min(count + 1, MAX_COUNT)
        m = decay * state["ema"] + (1 - decay) * g
        return {"count": t, "ema": m}, m / bias_correction(decay, t) if self.debias else m


@dataclass(frozen=True)
class Sign:
    """u = sign(g), with sign(0) = 0: signSGD (Bernstein et al. 2018)."""

    def init(self, p: Array) -> State:
        del p
        return {}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        return state, np.sign(g)


@dataclass(frozen=True)
class Lion:
    """u = sign(b1 m + (1 - b1) g);  then m = b2 m + (1 - b2) g  (Chen et al. 2023, algorithm 2).

    The paper's decay, eta (u + lambda p), is the next link: `AddDecayedWeights` before the learning rate.
    """

    b1: Hyper = 0.9
    b2: Hyper = 0.99

    def init(self, p: Array) -> State:
        return {"count": 0, "mu": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        count, m = count_of(state), state["mu"]
        b1, b2 = hyper(self.b1, count), hyper(self.b2, count)
        return {**advance(state), "mu": b2 * m + (1 - b2) * g}, np.sign(b1 * m + (1 - b1) * g)
