"""The one hook through which a number crosses leaves, shards or pipeline stages.

A rule gives one partial a leaf (a sum of squares, say). Under `jit` the arrays are whole and the partials are simply
added. Inside `shard_map` each device sees its shard: a partial is first summed over the mesh axes *on which that leaf
varies*, then the leaves are added. One `psum` of the added partials would count a replicated leaf once a device.

The axes stand in the spec (`axis_names=`), not in a context variable, because the cache of `jit` cannot see the latter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import compat
from .tree import matches

_COMBINE: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "sum": (jnp.add, jax.lax.psum),
    "max": (jnp.maximum, jax.lax.pmax),
}


def axes_of(path: str, leaf: Any, axis_names: Any, who: str) -> tuple[str, ...]:
    """The mesh axes over which a partial of this leaf has to be reduced.

    Args:
        axis_names: None (nothing bound), a name or a sequence of names (each leaf's own varying axes among them), or a
            mapping from patterns on the path to names, for `shard_map(..., check_vma=False)`, where JAX does not track
            them.
    """
    varying = compat.varying_axes(leaf)
    if axis_names is None:
        if varying:
            raise ValueError(
                f"{who}: inside shard_map the leaf {path!r} varies over the mesh axes {sorted(varying)}, so its norm "
                f"here is one shard's; say axis_names={tuple(sorted(varying))} to reduce over the shards, or "
                "axis_names=() if each device is meant to use its own number"
            )
        return ()
    if isinstance(axis_names, Mapping):
        for pattern, names in axis_names.items():
            if matches(pattern, path, leaf):
                return _names(names)
        raise ValueError(
            f"{who}: no pattern of axis_names takes the leaf {path!r}; add '*': () for replicated leaves"
        )
    names = _names(axis_names)
    mesh = compat.mesh_axes() if compat.manual_axes() else ()
    unknown = [name for name in names if mesh and name not in mesh]
    if unknown:
        raise ValueError(f"{who}: axis_names={names}: the mesh has no axis {unknown}; its axes are {mesh}")
    untracked = [name for name in names if name in compat.manual_axes() and not compat.tracks_varying(name)]
    if untracked:
        raise ValueError(
            f"{who}: this shard_map runs with check_vma=False, so it cannot be seen which leaves are shards over "
            f"{untracked}; pass a mapping, axis_names={{'*/kernel': {names}, '*': ()}}"
        )
    return tuple(name for name in names if name in varying)


def _names(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def reduce_leaves(partials: Sequence[Any], axes: Sequence[tuple[str, ...]], combine: str) -> Any:
    """Combines one pytree of partial numbers a leaf into one pytree for the tree.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> float(build.reduce_leaves([jnp.array(3.0), jnp.array(4.0)], [(), ()], "sum"))
        7.0
    """
    pair, across = _COMBINE[combine]
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
