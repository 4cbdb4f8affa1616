"""The one hook through which a number crosses leaves, shards or pipeline stages.

A rule gives one partial a leaf (a sum of squares, say). Under `jit` the arrays are whole and the partials are simply
added. Inside `shard_map` each device sees its shard: a partial is first summed over the mesh axes *on which that leaf
varies*, then the leaves are added. One `psum` of the added partials would count a replicated leaf once a device.

The axes stand in the spec (`axis_names=`, `reduce_over`), not in a context variable, because the cache of `jit` cannot
see the latter.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import compat
from .shards import cut_of

_COMBINE: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "sum": (jnp.add, jax.lax.psum),
    "max": (jnp.maximum, jax.lax.pmax),
}
_OVER: dict[str, Callable[..., Any]] = {"sum": jnp.sum, "max": jnp.max}
#: So many numbers are put into one array and added up there: one equation in the place of one for each.
_MANY = 8


def axes_of(path: str, leaf: Any, axis_names: Any, who: str) -> tuple[str, ...]:
    """The mesh axes over which a partial of this leaf has to be reduced; `axis_names` as in `shards`."""
    return cut_of(path, leaf, axis_names, who).axes


def reduce_leaves(partials: Sequence[Any], axes: Sequence[tuple[str, ...]], combine: str) -> Any:
    """Combines one pytree of partial numbers a leaf into one pytree for the tree.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> float(build.reduce_leaves([jnp.array(3.0), jnp.array(4.0)], [(), ()], "sum"))
        7.0
    """
    pair, across = _COMBINE[combine]
    if len(partials) >= _MANY and not any(axes) and not compat.manual_axes():
        return jax.tree.map(lambda *xs: _OVER[combine](jnp.stack(xs), axis=0), *partials)
    # Leaves with the same axes are added first, so that there is one collective for each set of axes.
    groups: dict[tuple[str, ...], Any] = {}
    for partial, names in zip(partials, axes, strict=True):
        known = groups.get(names)
        groups[names] = partial if known is None else jax.tree.map(pair, known, partial)
    total: Any = None
    for names, partial in groups.items():
        whole = jax.tree.map(lambda x, names=names: across(x, names), partial) if names else partial
        total = whole if total is None else jax.tree.map(pair, total, whole)
    return total
