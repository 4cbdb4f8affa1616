"""The gradients of a window on their way: what `accumulate` has stored, and this micro-step's beside it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core import automatic, compat, door
from .._core.errors import describe_array, leaf, say
from .._core.numerics import compute_dtype, real_dtype, widen
from .._core.tree import View, difference, gather, is_absent, is_float0, is_inexact, spread, view


class Window:
    """The state, the gradients of this micro-step and the sums beside them as rows, and their weight."""

    def __init__(self, who: str, state: Any, updates: Any, weight: Any) -> None:
        self.state, self.rows = state, view(updates)
        self.stored = _stored(who, state, self.rows)
        self.weight = np.float32(1) if weight is None else weight
        self.weighs = weight is not None

    def sums(self, begun: Any, divisor: Any = None) -> list[Any]:
        """The sums with this gradient: added to what is stored if the window has begun, else the first of it."""
        weight = self.weight if self.weighs else None
        sums = [_add(a, g, weight, begun) for a, g in zip(self.stored, self.rows.places, strict=True)]
        if divisor is None:
            return sums
        return [_divided(a, g, divisor) for a, g in zip(sums, self.rows.places, strict=True)]

    def means(self, sums: list[Any]) -> Any:
        """The gradients of the step, where `sums` have been divided; what is not added up is as it came."""
        pairs = zip(sums, self.rows.places, strict=True)
        return self.rows.treedef.unflatten(a if _summed(a, g) else g for a, g in pairs)

    def gathered(self, sums: list[Any]) -> Any:
        return gather(sums, self.state.acc_grads, self.rows)


def _stored(who: str, state: Any, rows: View) -> list[Any]:
    """The sums as rows, held against the updates."""
    try:
        stored = spread(state.acc_grads, rows)
    except (ValueError, TypeError):
        problem = difference(rows, view(state.acc_grads), "the updates", "the state's acc_grads")
        raise ValueError(say(f"{who}: {problem or 'they differ'}", door.REMEDY)) from None
    for path, g, a in zip(rows.paths, rows.places, stored, strict=True):
        if is_absent(g) or is_float0(g):
            continue
        if is_absent(a):
            fact = f"{who}: {leaf(path)} has an update {describe_array(g)} and no acc_grads in the state"
            raise ValueError(say(fact, "it was masked or absent when init was called"))
        if np.shape(a) != np.shape(g):
            fact = f"{who}: {leaf(path)} has an update of shape {np.shape(g)}, its acc_grads {np.shape(a)}"
            raise ValueError(say(fact, f"{door.EQUAL}: {door.REMEDY}"))
    return stored


def _summed(a: Any, g: Any) -> bool:
    """Whether a leaf is added up: not where there is no gradient, and integers are carried."""
    return not (is_absent(g) or is_float0(g) or not is_inexact(g) or is_absent(a) or not is_inexact(a))


def _add(a: Any, g: Any, weight: Any, begun: Any) -> Any:
    if not _summed(a, g):
        return a
    a, g = jnp.asarray(a), jnp.asarray(g)
    # A sum of two numbers near 2^127, where bfloat16 ends, is infinite; rules see 16-bit gradients bounded as here.
    g = automatic.laid(compat.strong(widen(g, compute_dtype(g.dtype)), a.dtype), a)
    known = compat.known_flag(begun)
    if known is False:
        if weight is not None:
            g = jnp.where(weight > 0, weight.astype(a.dtype) * g, jnp.zeros_like(g))
        # Not `g` alone: `jit` takes away an argument that nothing reads, and then donates others in its place.
        return jnp.where(begun, a, g)
    a = a if known else jnp.where(begun, a, jnp.zeros_like(a))
    if weight is None:
        return a + g
    return jnp.where(weight > 0, a + weight.astype(a.dtype) * g, a)


def _divided(a: Any, g: Any, divisor: Any) -> Any:
    return a / divisor.astype(real_dtype(a.dtype)) if _summed(a, g) else a
