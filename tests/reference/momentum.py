"""Methods with at most one buffer: identity (plain SGD), heavy ball, Nesterov, sign, Lion."""

from dataclasses import dataclass

import numpy as np

from .scalars import Array, Hyper, State, advance, count_of, counter, hyper


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
    """

    decay: Hyper
    nesterov: bool = False

    def init(self, p: Array) -> State:
        return {**counter(self.decay), "trace": np.zeros_like(p, np.float64)}

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        mu = hyper(self.decay, count_of(state))
        m = mu * state["trace"] + g
        return {**advance(state), "trace": m}, g + mu * m if self.nesterov else m


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
