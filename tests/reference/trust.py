"""Methods that look at a whole array: LARS and LAMB's trust ratio, Adafactor's scale of the parameter."""

import math
from dataclasses import dataclass

import numpy as np

from .scalars import Array, Hyper, State, advance, count_of, counter, hyper


def norm(x: Array) -> float:
    """Euclidean, over all elements."""
    return math.sqrt(math.fsum(float(v) ** 2 for v in np.ravel(x)))


def _given(p: Array | None) -> Array:
    if p is None:
        raise ValueError("this method needs the parameters")
    return p


@dataclass(frozen=True)
class TrustRatio:
    """One learning rate a layer, in proportion to its weights: u = r g with

        r = c phi(|p|) / (max(|g|, min_norm) + eps),  phi(x) = min(max(x, min_norm), max_norm);  1 if a norm is 0

    You et al. 2020, algorithm 2 (LAMB: c = 1, and phi bounds the norm of the weights); with a `weight_decay` lambda
    You et al. 2017, equation 6 (LARS): r = c |p| / (|g| + lambda |p| + eps), u = r (g + lambda p).
    """

    min_norm: Hyper = 0.0
    trust_coefficient: Hyper = 1.0
    eps: Hyper = 0.0
    max_norm: Hyper | None = None
    weight_decay: Hyper = 0.0

    def init(self, p: Array) -> State:
        del p
        most = 0.0 if self.max_norm is None else self.max_norm
        return counter(self.min_norm, self.trust_coefficient, self.eps, most, self.weight_decay)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        p, count = _given(p), count_of(state)
        least, c, eps = (hyper(h, count) for h in (self.min_norm, self.trust_coefficient, self.eps))
        decay = hyper(self.weight_decay, count)
        size, step = max(norm(p), least), max(norm(g), least)
        phi = size if self.max_norm is None else min(size, hyper(self.max_norm, count))
        ratio = 1.0 if size == 0 or step == 0 else c * phi / (step + decay * size + eps)
        return advance(state), ratio * (g + decay * p)


@dataclass(frozen=True)
class ParamBlockRms:
    """u = max(rms(p), min_scale) g: Shazeer & Stern 2018, section 8, relative step sizes."""

    min_scale: Hyper = 1e-3

    def init(self, p: Array) -> State:
        del p
        return counter(self.min_scale)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        rms = norm(_given(p)) / math.sqrt(max(_given(p).size, 1))
        return advance(state), max(rms, hyper(self.min_scale, count_of(state))) * g


@dataclass(frozen=True)
class ParamBlockNorm:
    """u = max(|p|, min_scale) g."""

    min_scale: Hyper = 1e-3

    def init(self, p: Array) -> State:
        del p
        return counter(self.min_scale)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        return advance(state), max(norm(_given(p)), hyper(self.min_scale, count_of(state))) * g
