"""Scalars of a step: hyperparameters that may follow the count, the count itself, and 1 - b^t without cancellation."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Hyper: TypeAlias = float | Callable[[int], float]
State: TypeAlias = dict[str, Any]

MAX_COUNT = 2**31 - 1  # counts are int32 in the library and saturate there


def hyper(value: Hyper, count: int) -> float:
    """The value of a hyperparameter at the 0-based step `count`."""
    return float(value(count)) if callable(value) else float(value)


def bias_correction(decay: float, t: int) -> float:
    """1 - decay^t, as -expm1(t log decay): no digits are lost when decay^t is close to one.

    Kingma & Ba 2015, section 3: the share of an exponential moving average's weights that t steps have filled.
    `decay - 1` is exact for decay in [0.5, 1], so log1p sees the decay as it was given.
    """
    return 1.0 if decay == 0.0 else -math.expm1(t * math.log1p(decay - 1.0))


def counter(*hypers: Hyper) -> State:
    """An initial state that counts steps if any of the hyperparameters is a function of the count, else empty."""
    return {"count": 0} if any(callable(h) for h in hypers) else {}


def count_of(state: State) -> int:
    """The number of steps taken before this one; zero where nothing is counted."""
    return int(state.get("count", 0))


def quotient(a: Array, b: Array) -> Array:
    """a / b, where 0 / 0 is 0: a number that never had a gradient does not move."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.zeros(a.shape), where=(a != 0) | (b != 0))


def advance(state: State) -> State:
    """The counting part of the next state."""
    return {"count": min(count_of(state) + 1, MAX_COUNT)} if "count" in state else {}
