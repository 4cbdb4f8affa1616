"""Numbers about all updates: the norm over the tree, and whether everything is finite."""

from typing import Any

import jax.numpy as jnp

from . import automatic
from .numerics import abs_sq, compute_dtype, real_dtype, widen
from .reduce import axes_of, reduce_leaves
from .tree import as_array, is_absent, is_float0, is_inexact, view


def _numbers(tree: Any, who: str) -> list[tuple[str, Any]]:
    """The arrays of floating or complex numbers of some updates, with their paths."""
    rows = view(tree)
    found: list[tuple[str, Any]] = []
    for path, x in zip(rows.paths, rows.places, strict=True):
        if not is_absent(x) and not is_float0(x) and is_inexact(x):
            found.append((path, jnp.asarray(as_array(x, path, who, "the updates"))))
    return found


def squared_norm(tree: Any, axis_names: Any, who: str) -> Any:
    """The sum of squares over all floating leaves, in float32 or wider; Inf where a square overflows, NaN where one is.

    Inside `shard_map` each leaf's part is summed over the axes of `axis_names` on which it varies.
    """
    leaves = _numbers(tree, who)
    if not leaves:
        return jnp.zeros([], jnp.float32)
    widest = real_dtype(compute_dtype(*(x.dtype for _, x in leaves)))
    partials = [jnp.sum(_squares(x)).astype(widest) for _, x in leaves]
    return reduce_leaves(partials, [axes_of(path, x, axis_names, who) for path, x in leaves], "sum")


def all_finite(tree: Any, axis_names: Any, who: str) -> Any:
    """Whether the square of every number is finite, on all shards; `axis_names` as for `squared_norm`."""
    leaves = _numbers(tree, who)
    if not leaves:
        return jnp.asarray(True)
    partials = [_any_bad(_squares(x)).astype(jnp.float32) for _, x in leaves]
    bad = reduce_leaves(partials, [axes_of(path, x, axis_names, who) for path, x in leaves], "sum")
    # Without the root XLA would form the sum over all leaves again in the loop of each, which takes minutes to compile.
    return jnp.sqrt(bad) == 0


def _squares(x: Any) -> Any:
    return abs_sq(widen(x, compute_dtype(x.dtype)))


#: So many numbers XLA takes together in one loop with what they are made of. A longer reduction it cuts into windows
#: on a CPU, for which it writes down all numbers first.
_TOGETHER = (32, 16, 8)


def _any_bad(x: Any) -> Any:
    finite = jnp.isfinite(x)
    size = next((n for n in _TOGETHER if x.ndim and x.shape[-1] % n == 0), 0)
    if size and automatic.explicit_mesh(x) is None:
        finite = jnp.all(finite.reshape(*x.shape[:-1], x.shape[-1] // size, size), axis=-1)
    # Not `all` again: XLA would make one reduction of the two.
    return jnp.any(~finite)
