"""States as shapes, each with the sharding that it would have: what reports and readers of checkpoints start from."""

from typing import Any

import jax
from jax.sharding import NamedSharding

from . import compat
from .axes import box_mesh, boxes
from .placement import mesh_of, state_on_mesh
from .tree import is_absent, view


def mesh_if_known(params: Any, mesh: Any, who: str) -> Any:
    """As `mesh_of` for one tree; None where no mesh is said, none is set and nothing lies on one."""
    laid_out = any(isinstance(getattr(x, "sharding", None), NamedSharding) for x in view(params).places)
    laid_out = laid_out or any(box_mesh(box) is not None for _, box in boxes(params))
    if mesh is None and not laid_out and compat.current_mesh() is None:
        return None
    return mesh_of([params], mesh, who)


def bare(tree: Any) -> Any:
    """The shapes of a tree that lie nowhere."""

    def one(x: Any) -> Any:
        if is_absent(x) or not hasattr(x, "shape"):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))

    return jax.tree.map(one, tree, is_leaf=is_absent)


def abstract_state(tx: Any, params: Any, mesh: Any, rules: Any = None) -> Any:
    """The state as shapes, each with the sharding that `state_shardings` gives; where `mesh` is None, without one."""
    if mesh is None:
        return jax.eval_shape(tx.init, bare(params))
    return state_on_mesh(tx, params, mesh, rules, "gx.sharding.state_shardings(tx, params)")
