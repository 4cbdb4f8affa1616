"""Gradients that cross devices: how each is cut over the axes of the batch, and the sums over them."""

from typing import Any

import jax
import numpy as np

from .._core import compat
from .._core.errors import leaf, say
from .._core.specs import names_at
from .._core.tree import paths_of


def specs_of(axes: tuple[str, ...], laid: Any, trained: Any) -> list[Any]:
    """How each gradient is cut over the axes that are named; other axes are left out."""
    leaves, treedef = jax.tree.flatten(trained)
    types = [compat.explicit_sharding(p) for p in leaves]
    if laid is None:
        can = [lies is not None and compat.can_scatter(lies, axes) for lies in types]
        return [_over(axes, lies.spec) if yes else jax.P() for yes, lies in zip(can, types, strict=True)]
    found: list[Any] = []
    try:
        jax.tree.map(
            lambda spec, branch: found.extend([spec] * len(jax.tree.leaves(branch))),
            laid,
            trained,
            is_leaf=lambda x: x is None or isinstance(x, jax.P | jax.sharding.Sharding),
        )
    except (ValueError, TypeError):
        fact = "gx.accumulate_gradients(grad_shardings=...): its tree is not that of what is differentiated"
        raise ValueError(say(fact, "give a PartitionSpec for each leaf, or one for all")) from None
    specs = [_over(axes, getattr(spec, "spec", spec)) for spec in found]
    for path, p, spec, lies in zip(paths_of(treedef), leaves, specs, types, strict=True):
        _check_spec(path, np.shape(p), spec, axes, lies)
    return specs


def as_said(axes: tuple[str, ...], laid: Any, grads: Any) -> Any:
    """Gradients on automatic axes, laid as said also over those axes that the sums do not cross."""
    mesh = jax.sharding.get_abstract_mesh()
    if compat.has_explicit(mesh):
        return grads

    def one(said: Any, branch: Any) -> Any:
        spec = getattr(said, "spec", said) or jax.P()
        named = {name for entry in spec for name in names_at(entry)}
        if named <= set(axes) or not named <= set(mesh.axis_names):
            return branch  # of the other axes nothing is said
        return jax.tree.map(lambda g: jax.lax.with_sharding_constraint(g, spec), branch)

    return jax.tree.map(
        one, laid, grads, is_leaf=lambda x: x is None or isinstance(x, jax.P | jax.sharding.Sharding)
    )


def axis_size(name: str) -> int:
    try:
        return int(jax.lax.axis_size(name))
    except NameError:
        fact = f"gx.accumulate_gradients(axis_names={name!r}): there is no such axis here"
        remedy = "say over which devices, by jax.set_mesh(mesh) or inside of jax.shard_map; on one device leave it out"
        raise ValueError(say(fact, remedy)) from None


def varying(p: Any, names: tuple[str, ...]) -> Any:
    """A parameter of which every device has its own copy, so that no gradient is summed over devices on the way."""
    names = tuple(name for name in names if name in compat.manual_axes())
    return jax.lax.pcast(p, names, to="varying") if names else p


def _over(axes: tuple[str, ...], spec: Any) -> Any:
    """The part of a spec that is about these axes."""
    return jax.P(*(tuple(n for n in names_at(entry) if n in axes) or None for entry in spec or ()))


def without(axes: tuple[str, ...], x: Any) -> Any:
    """An array, whole along these axes where they are explicit."""
    lies = compat.explicit_sharding(x)
    if lies is None or _over(axes, lies.spec) == jax.P(*[None] * len(lies.spec)):
        return x
    return jax.reshard(x, _rest(axes, lies.spec))


def by_rows(axes: tuple[str, ...], x: Any) -> Any:
    """An array, cut by rows over these axes where they are explicit."""
    lies = compat.explicit_sharding(x)
    rows = jax.P(axes, *[None] * (np.ndim(x) - 1))
    if lies is None and compat.has_explicit(jax.sharding.get_abstract_mesh()):
        return jax.reshard(x, rows)  # it lies nowhere: an array of the host
    if lies is None or _over(axes, lies.spec) == rows:
        return x
    first, *others = _rest(axes, lies.spec)
    return jax.reshard(x, jax.P((*axes, *names_at(first)), *others))


def _rest(axes: tuple[str, ...], spec: Any) -> Any:
    """A spec without these axes."""
    return jax.P(*(tuple(n for n in names_at(entry) if n not in axes) or None for entry in spec))


def _check_spec(path: str, shape: tuple[int, ...], spec: Any, axes: tuple[str, ...], lies: Any) -> None:
    """Refuses a gradient that cannot be cut into equal parts, or not by JAX."""
    if lies is not None and not compat.can_scatter(lies, axes) and any(map(names_at, spec)):
        fact = (
            f"gx.accumulate_gradients(grad_shardings=...): {leaf(path)} lies on explicit axes as {lies.spec}"
        )
        fact += ", of which JAX can make no reduce-scatter"
        raise ValueError(say(fact, "leave it as it is by jax.P(), and jax.reshard its gradient"))
    for axis, entry in enumerate(spec):
        sizes = jax.sharding.get_abstract_mesh().shape
        parts = int(np.prod([sizes.get(name) or axis_size(name) for name in names_at(entry)]))
        if parts > 1 and (axis >= len(shape) or shape[axis] % parts):
            fact = f"gx.accumulate_gradients(grad_shardings=...): {leaf(path)} of shape {list(shape)}"
            fact += f" cannot be cut along axis {axis} into {parts} equal parts"
            raise ValueError(say(fact, "leave it whole by jax.P()"))


def cuts_of(spec: Any, across: tuple[str, ...]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Along which axis of an array which axes of the mesh, of those over which it is added up, cut it."""
    found = [(i, tuple(name for name in names_at(entry) if name in across)) for i, entry in enumerate(spec)]
    return tuple((i, names) for i, names in found if names)


def summed(sums: list[Any], across: list[tuple[str, ...]], cuts: list[Any]) -> list[Any]:
    """The sums over devices: of what is cut this device's part, of the rest in one reduction for the same axes."""
    new, rest = list(sums), list(across)
    for i, cut in enumerate(cuts):
        for axis, names in cut:
            new[i] = jax.lax.psum_scatter(new[i], names, scatter_dimension=axis, tiled=True)
            rest[i] = tuple(name for name in rest[i] if name not in names)
    for names in dict.fromkeys(filter(None, rest)):
        places = [i for i, axes in enumerate(rest) if axes == names]
        for i, x in zip(places, jax.lax.psum([new[i] for i in places], names), strict=True):
            new[i] = x
    return new
