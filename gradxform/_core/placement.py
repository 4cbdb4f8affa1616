"""Where arrays lie on a mesh: read from what is there, or found by tracing `init` on an abstract mesh of explicit axes.

On explicit axes an array's type says how it is cut, so that a trace of `init` tells the layout of every leaf of a state
without a rule per method: zeros made of a parameter are cut like it, and a sum over one of its axes loses that one. The
same trace answers for a mesh of automatic axes, on which a trace sees no layout at all.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from . import compat
from .automatic import laid as laid, run_init
from .axes import box_mesh, boxes, by_rules, checked, names_of, pairs_of
from .errors import leaf as place, say
from .tree import is_absent, is_box, path_text, view


def spec_of(x: Any) -> PartitionSpec | None:
    """How an array, a shape or a tracer is cut, or None if that cannot be seen."""
    sharding = getattr(x, "sharding", None)
    if isinstance(x, compat.Tracer):
        sharding = getattr(jax.typeof(x), "sharding", None)
        if sharding is None or not compat.has_explicit(sharding.mesh):
            return None
    return getattr(sharding, "spec", None)


def mesh_of(trees: Sequence[Any], mesh: Any, who: str) -> Any:
    """The one mesh of all leaves, or the mesh that is said, or that of `jax.set_mesh`."""
    if mesh is not None:
        return mesh
    found: dict[Any, str] = {}
    for tree in trees:
        for path, x in zip(*_rows(tree), strict=True):
            sharding = getattr(x, "sharding", None)
            if isinstance(sharding, NamedSharding):
                found.setdefault(sharding.mesh, path)
        for path, box in boxes(tree):
            if box_mesh(box) is not None:
                found.setdefault(box_mesh(box), path)
    if len(found) > 1:
        fact = f"{who}: {' and '.join(map(place, found.values()))} lie on different meshes"
        raise ValueError(say(fact, "say which one is meant: mesh="))
    if found:
        return next(iter(found))
    known = compat.current_mesh()
    if known is None:
        fact = f"{who}: no parameter says on which mesh it lies"
        raise ValueError(
            say(
                fact,
                "pass mesh=, call it under jax.set_mesh(mesh), or give the shapes a sharding=NamedSharding(...)",
            )
        )
    return known


def _rows(tree: Any) -> tuple[Sequence[str], Sequence[Any]]:
    rows = view(tree)
    return rows.paths, rows.places


def abstract(mesh: Any) -> AbstractMesh:
    """The mesh without its devices, all axes explicit."""
    return AbstractMesh(
        mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names)
    )


def specs(tree: Any, mesh: Any, rules: Any = None, who: str = "gx.sharding") -> Any:
    """How each array of a tree is cut: as it lies, or as the names on its box say; what tells nothing is everywhere."""
    known = pairs_of(rules, mesh, who)

    def one(path: Any, x: Any) -> Any:
        if is_absent(x):
            return x
        where, names = path_text(path), names_of(x) if is_box(x) else None

        def spec(array: Any) -> PartitionSpec:
            found = spec_of(array)
            if found is None and names is not None:
                own = known if rules is not None else pairs_of(getattr(x, "rules", None), mesh, who)
                found = by_rules(names, own, mesh, where, who)
            return checked(found or PartitionSpec(), array, mesh, where, who)

        return jax.tree.map(lambda a: spec(a) if hasattr(a, "shape") else a, x)

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=lambda x: is_absent(x) or is_box(x))


def typed(tree: Any, mesh: Any, rules: Any = None, who: str = "gx.sharding") -> Any:
    """The shapes of a tree, each with its layout as a type on the abstract mesh; what tells none is on every device."""
    flat = abstract(mesh)

    def one(x: Any, spec: Any) -> Any:
        if is_absent(x) or not hasattr(x, "shape"):
            return x
        weak = getattr(x, "weak_type", False)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(flat, spec), weak_type=weak)

    return jax.tree.map(one, tree, specs(tree, mesh, rules, who), is_leaf=is_absent)


def state_on_mesh(tx: Any, params: Any, mesh: Any, rules: Any, who: str) -> Any:
    """The state as shapes, each with the sharding on `mesh` that a trace of `init` gives it."""
    with compat.on_mesh(abstract(mesh)):
        state = compat.shapes_in_memory(lambda p: run_init(tx.init, p), typed(params, mesh, rules, who))

    def one(x: Any) -> Any:
        kind = compat.HOST if compat.in_host(x) else None
        return x.update(sharding=NamedSharding(mesh, spec_of(x) or PartitionSpec(), memory_kind=kind))

    return jax.tree.map(one, state)


def state_shardings(tx: Any, params: Any, mesh: Any = None, rules: Any = None) -> Any:
    """A `NamedSharding` for every leaf of `tx.init(params)`; see `gradxform.sharding.state_shardings`."""
    who = "gx.sharding.state_shardings(tx, params)"
    mesh = mesh_of([params], mesh, who)
    return jax.tree.map(lambda x: x.sharding, state_on_mesh(tx, params, mesh, rules, who))
