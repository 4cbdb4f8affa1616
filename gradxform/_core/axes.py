"""Names of axes: those on the boxes of parameters, what rules make of them, and whether they fit a mesh.

Flax and haliax keep with a parameter the names of its axes: Linen in a `Partitioned`, NNX in the metadata of a
variable, haliax in a `NamedArray`. Rules say on which axes of the mesh a named axis is cut. None of them is imported.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from .errors import leaf, say, short
from .specs import names_at
from .tree import is_box, path_text

Pairs = Sequence[tuple[str, tuple[str, ...]]]


def boxes(tree: Any) -> Iterator[tuple[str, Any]]:
    """The boxes of a tree, each with its path."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]:
        if is_box(x):
            yield path_text(path), x


def _noted(box: Any, *names: str) -> Any:
    """The first note of one of these names: metadata of a variable, or a field."""
    known = box.get_metadata() if hasattr(box, "get_metadata") else vars(box)
    return next((known[name] for name in names if known.get(name) is not None), None)


def box_mesh(box: Any) -> Any:
    """The mesh that a box is noted to belong to."""
    mesh = _noted(box, "mesh")
    return mesh if isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh) else None


def names_of(box: Any) -> tuple[Any, ...] | None:
    """The names of the axes of what is in a box, or None if it has none."""
    names = _noted(box, "names", "out_sharding", "sharding_names", "axes")
    if names is None or isinstance(names, jax.sharding.Sharding):
        return None
    return tuple(getattr(name, "name", name) for name in names)


def pairs_of(rules: Any, mesh: Any, who: str) -> Pairs:
    """Rules, a mapping or pairs of names, as pairs of a name and axes of the mesh."""
    given: Any = rules.items() if isinstance(rules, Mapping) else rules or ()
    pairs = [(name, names_at(entry)) for name, entry in given]
    for name, axes in pairs:
        unknown = [axis for axis in axes if axis not in mesh.axis_names]
        if unknown:
            fact = f"{who}: rules={{{name!r}: {short(axes[0] if len(axes) == 1 else axes)}}}: the mesh has no axis"
            raise ValueError(
                say(
                    f"{fact} {unknown[0]!r}",
                    f"its axes are {mesh.axis_names}; None is for an axis that is not cut",
                )
            )
    return pairs


def by_rules(names: Sequence[Any], pairs: Pairs, mesh: Any, path: str, who: str) -> PartitionSpec:
    """How an array with these names is cut: rules in their order, each axis of the mesh at most once.

    A name without a rule is an axis of the mesh itself.
    """
    entries: list[Any] = [None] * len(names)
    used, done = set[str](), set[int]()
    own = [
        (name, names_at(name))
        for name in names
        if name is not None and set(names_at(name)) <= set(mesh.axis_names)
    ]
    ruled = {name for name, _ in pairs}
    for name, axes in (*pairs, *((name, axes) for name, axes in own if name not in ruled)):
        at = names.index(name) if name in names else -1
        if at < 0 or at in done or used & set(axes):
            continue
        entries[at] = None if not axes else axes[0] if len(axes) == 1 else axes
        done.add(at)
        used |= set(axes)
    unknown = [n for n in names if n is not None and n not in ruled and n not in [name for name, _ in own]]
    if unknown:
        fact = f"{who}: {leaf(path)} has an axis {unknown[0]!r}, for which there is no rule"
        remedy = f"pass rules={{{unknown[0]!r}: <an axis of the mesh, {mesh.axis_names}, or None>}}"
        raise ValueError(say(fact, remedy))
    return PartitionSpec(*entries)


def checked(spec: PartitionSpec, x: Any, mesh: Any, path: str, who: str) -> PartitionSpec:
    """A spec that fits the array and the mesh; others are refused."""
    text = f"{who}: {leaf(path)} of shape {tuple(x.shape)} is to be cut by {spec}"
    if len(spec) > len(x.shape):
        raise ValueError(say(f"{text}, which names {len(spec)} axes", "name as many as it has"))
    for size, entry in zip(x.shape, spec, strict=False):
        unknown = [axis for axis in names_at(entry) if axis not in mesh.axis_names]
        if unknown:
            fact = f"{text}, and the mesh has no axis {unknown[0]!r}"
            raise ValueError(say(fact, f"its axes are {mesh.axis_names}: is another mesh meant?"))
        parts = int(np.prod([mesh.shape[axis] for axis in names_at(entry)], dtype=np.int64))
        if size % parts:
            fact = f"{text}: {size} is no multiple of {parts}"
            raise ValueError(say(fact, "cut another axis of it, or none"))
    return spec
