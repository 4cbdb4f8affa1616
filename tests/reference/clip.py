"""Clipping: by value, by a leaf's root mean square, by the norm of the whole tree, by the norm of each unit."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .scalars import Array, Hyper, State, advance, count_of, counter, hyper
from .tree import flatten, map_tree


@dataclass(frozen=True)
class Clip:
    """u = min(max(g, -delta), delta), element by element."""

    max_delta: Hyper

    def init(self, p: Array) -> State:
        del p
        return counter(self.max_delta)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        delta = hyper(self.max_delta, count_of(state))
        return advance(state), np.clip(g, -delta, delta)


@dataclass(frozen=True)
class ClipByBlockRms:
    """u = g / max(1, rms(g) / threshold), one leaf a block (Shazeer & Stern 2018, update clipping)."""

    threshold: Hyper

    def init(self, p: Array) -> State:
        del p
        return counter(self.threshold)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        del p
        rms = math.sqrt(np.mean(np.square(g))) if g.size else 0.0
        return advance(state), g / max(1.0, rms / hyper(self.threshold, count_of(state)))


@dataclass(frozen=True)
class ClipByGlobalNorm:
    """u = g min(1, max_norm / |g|), |g| over all leaves of the tree (Pascanu et al. 2013). A method of trees."""

    max_norm: Hyper

    def init(self, params: Any) -> State:
        del params
        return counter(self.max_norm)

    def update(self, grads: Any, state: State, params: Any = None) -> tuple[State, Any]:
        del params
        leaves = [g for g in flatten(grads).values() if g is not None]
        norm = math.sqrt(math.fsum(float(x) ** 2 for g in leaves for x in np.ravel(g)))
        max_norm = hyper(self.max_norm, count_of(state))
        factor = 1.0 if norm <= max_norm else max_norm / norm
        return advance(state), map_tree(lambda g: None if g is None else factor * g, grads)


def unitwise_norm(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """The Euclidean norm of each unit (all weights that feed one output), spread over the unit's elements.

    Brock et al. 2021, section 4.1, with the layout of JAX layers, output axis last: a scalar, a vector and any array
    with one axis longer than 1 are one unit; matrices (in, out) and 3-d kernels reduce axis 0; convolutions HWIO (4-d)
    and DHWIO (5-d) all axes but the last. Reducing a 3-d array over axis 0 only is Optax's convention, not the paper's.
    """
    if axis is None:
        if np.squeeze(x).ndim <= 1:
            axis = tuple(range(x.ndim))
        elif x.ndim in (2, 3):
            axis = 0
        elif x.ndim in (4, 5):
            axis = tuple(range(x.ndim - 1))
        else:
            raise ValueError(f"no convention for the units of an array of shape {x.shape}")
    return np.broadcast_to(np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True)), x.shape)


@dataclass(frozen=True)
class AdaptiveGradClip:
    """For every unit i: u_i = g_i min(1, c max(|p_i|, eps) / |g_i|)  (Brock et al. 2021, equation 3)."""

    clipping: Hyper
    eps: Hyper = 1e-3
    axis: int | tuple[int, ...] | None = None

    def init(self, p: Array) -> State:
        del p
        return counter(self.clipping, self.eps)

    def update(self, g: Array, state: State, p: Array | None = None) -> tuple[State, Array]:
        if p is None:
            raise ValueError("adaptive clipping needs the parameters")
        count = count_of(state)
        limit = hyper(self.clipping, count) * np.maximum(unitwise_norm(p, self.axis), hyper(self.eps, count))
        norm = unitwise_norm(g, self.axis)
        # Optax's floor for the division, reached only where the limit itself is below 1e-6.
        return advance(state), np.where(norm < limit, g, g * limit / np.maximum(norm, 1e-6))
