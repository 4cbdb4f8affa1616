"""Somebody's `init` and `update` on a mesh of explicit axes, on which not every program is legal.

On such a mesh a product of two arrays that are cut alike, a reshape across a cut axis, a QR decomposition of one need
to be told how their result is cut; functions that were written without a mesh in mind do not say it. They are traced as
they are first, since many work and some have been written for explicit axes. What does not trace runs with the axes
taken for automatic ones, and its results are cut as the parameters and the state are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from . import compat
from .tree import is_absent, key_text


class Changed(Exception):
    """The new state has another structure than the old one, so that its layout is unknown."""


def explicit_mesh(*trees: Any) -> Any:
    """The mesh on whose explicit axes the arrays of some trees lie, as their types say; else None."""
    for x in jax.tree.leaves(trees):
        sharding = compat.explicit_sharding(x)
        if sharding is not None:
            return sharding.mesh
    return None


def _axes(mesh: Any) -> tuple[str, ...]:
    pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in pairs if kind == AxisType.Explicit)


def spec_in_type(x: Any) -> PartitionSpec:
    """How the type of an array says that it is cut; on every device, if it says nothing."""
    sharding = compat.explicit_sharding(x)
    return PartitionSpec() if sharding is None else sharding.spec


def _specs(tree: Any) -> Any:
    return jax.tree.map(spec_in_type, tree)


def run_init(fn: Callable[[Any], Any], params: Any) -> Any:
    """`fn(params)`, also where it is no legal program on explicit axes."""
    mesh = explicit_mesh(params)
    if mesh is None:
        return fn(params)
    try:
        return fn(params)
    except Exception:  # whatever is wrong with it, that shows again if it is not the layout
        axes = _axes(mesh)
    with jax.sharding.use_abstract_mesh(mesh):
        without = mesh.update_axis_types(dict.fromkeys(axes, AxisType.Auto))
        with jax.sharding.use_abstract_mesh(without):
            bare = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
            shapes = jax.eval_shape(fn, bare)
        return jax.sharding.auto_axes(fn, axes=axes, out_sharding=_by_path(shapes, params))(params)


def _by_path(shapes: Any, params: Any) -> Any:
    """The spec of a parameter for what is shaped like it and has its path at the end of its own."""
    known: dict[tuple[str, ...], Any] = {}
    for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
        known[tuple(map(key_text, path))] = p

    def one(path: Sequence[Any], x: Any) -> PartitionSpec:
        keys = tuple(map(key_text, path))
        for start in range(len(keys) + 1):
            p = known.get(keys[start:])
            if p is not None and p.shape == x.shape:
                return spec_in_type(p)
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(one, shapes)


def run_update(
    fn: Callable[..., Any], updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
) -> tuple[Any, Any]:
    """`fn(updates, state, params, **extra)`; updates are cut as the parameters, the new state as the old one."""
    mesh = explicit_mesh(updates, state, params)
    if mesh is None:
        return fn(updates, state, params, **extra)
    like = _like(updates, params)
    try:
        jax.eval_shape(lambda: fn(updates, state, params, **extra))
    except Exception:
        try:
            return _automatic(fn, mesh, like, updates, state, params, extra)
        except Changed:
            pass
    new, fresh = fn(updates, state, params, **extra)
    return laid_like(new, like), laid_like(fresh, state)


def _like(updates: Any, params: Any) -> Any:
    """What tells the layout of each update: its parameter, or what came in."""
    if params is None:
        return updates
    try:
        return jax.tree.map(
            lambda u, p: u if is_absent(u) or is_absent(p) else p, updates, params, is_leaf=is_absent
        )
    except (ValueError, TypeError):  # trees of different structure are the function's own affair
        return updates


def laid_like(new: Any, old: Any) -> Any:
    """A tree cut as another one of its structure is; of another structure, as it is."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        return new
    return jax.tree.map(laid, new, old)


def laid(x: Any, like: Any) -> Any:
    """`x`, cut as the type of `like` says on a mesh of explicit axes; elsewhere as it is."""
    its = compat.explicit_sharding(like)
    return x if its is None or len(like.shape) != np.ndim(x) else cut(x, its)


def cut(x: Any, sharding: Any) -> Any:
    """`x` on explicit axes, cut as the sharding says."""
    mine = compat.explicit_sharding(x)
    return x if mine is None or mine.spec == sharding.spec else jax.reshard(x, sharding)


def run_cut(fn: Callable[..., Any], specs: Callable[[], Any], *args: Any) -> Any:
    """`fn(*args)`; on explicit axes with these taken for automatic ones, and results cut as `specs()` says."""
    mesh = explicit_mesh(args)
    if mesh is None:
        return fn(*args)
    with jax.sharding.use_abstract_mesh(mesh):
        call: Any = jax.sharding.auto_axes(fn, axes=_axes(mesh), out_sharding=specs())
        return call(*args)


def shape_of(x: Any, like: Any) -> jax.ShapeDtypeStruct:
    """The shape and the dtype of an array, cut as the type of `like` says."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=compat.explicit_sharding(like))


def _automatic(
    fn: Any, mesh: Any, like: Any, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
) -> tuple[Any, Any]:
    axes = _axes(mesh)
    arrays = {n: x for n, x in extra.items() if _is_data(x)}
    others = {
        n: _explicit(x, axes, params) if callable(x) else x for n, x in extra.items() if n not in arrays
    }

    def inside(updates: Any, state: Any, params: Any, arrays: Any) -> tuple[Any, Any]:
        new, fresh = fn(updates, state, params, **arrays, **others)
        same = jax.tree.structure((new, fresh)) == jax.tree.structure((updates, state))
        if not same:
            raise Changed
        return new, fresh

    with jax.sharding.use_abstract_mesh(mesh):
        call: Any = jax.sharding.auto_axes(inside, axes=axes, out_sharding=(_specs(like), _specs(state)))
        return call(updates, state, params, arrays)


def _is_data(x: Any) -> bool:
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)


def _explicit(fn: Any, axes: tuple[str, ...], params: Any) -> Any:
    """A loss that was written where the axes are explicit, callable where they are taken for automatic ones."""
    structure = jax.tree.structure(params)

    def call(*args: Any, **kwargs: Any) -> Any:
        known = (params if jax.tree.structure(x) == structure else None for x in args)
        specs = tuple(
            jax.tree.map(lambda _: PartitionSpec(), x) if p is None else _specs(p)
            for x, p in zip(args, known, strict=True)
        )
        return jax.sharding.explicit_axes(fn, axes=axes, in_sharding=specs)(*args, **kwargs)

    return call
