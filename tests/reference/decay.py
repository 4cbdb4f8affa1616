"""Weight decay, decoupled from the gradient's moments."""

from dataclasses import dataclass

import numpy as np

from .scalars import Array, Hyper, State, advance, count_of, counter, hyper


@dataclass(frozen=True)
class AddDecayedWeights:
    """Loshchilov & Hutter 2019. Which optimizer it makes depends on where the link stands:

    before the moments   g + lambda p        L2 regularisation: the decay passes through the moments;
    before the rate      u + lambda p        coupled (AdamW of torch, Optax): p shrinks by eta lambda a step;
    after the rate       u - lambda p        `independent`: p shrinks by lambda a step, whatever the learning rate is.
                                             There the update points downhill already, hence the minus. With lambda a
                                             function of the count this is the paper's eta_t lambda (its eta_t is the
                                             schedule's multiplier without the base rate alpha).

    `proximal_rate` eta: (u + lambda p) / (1 + eta lambda). The rate behind it takes p to (p - eta u) / (1 + eta lambda)
    which minimises <u, q> + |q - p|^2 / (2 eta) + lambda |q|^2 / 2 over q: implicit decay (Xie et al. 2022, Adan).
    `cautious`: lambda 1[u p >= 0] p, where u is uphill (Chen et al. 2025, algorithm 1).
    """

    weight_decay: Hyper = 0.0
    independent: bool = False
    proximal_rate: Hyper | None = None
    cautious: bool = False

    def init(self, p: Array) -> State:
        del p
        return counter(self.weight_decay, 0.0 if self.proximal_rate is None else self.proximal_rate)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        if p is None:
            raise ValueError("weight decay needs the parameters")
        count = count_of(state)
        decay = hyper(self.weight_decay, count)
        if self.cautious:
            p = np.where((g * p <= 0) if self.independent else (g * p >= 0), p, 0.0)
        if self.independent:
            return advance(state), g - decay * p
        shrink = 0.0 if self.proximal_rate is None else hyper(self.proximal_rate, count) * decay
        return advance(state), (g + decay * p) / (1 + shrink)
