"""NNX variables in a state of codes.

`nnx.Optimizer` puts every array of a state into a variable and writes new states into them array by array; of a
variable that holds a node it keeps the arrays and forgets the node. So codes and scales are in variables of their own,
inside of the node. A step works with the variable around it, as parameters and updates have it.
"""

from typing import Any

import jax

from .._core.tree import is_variable
from .stored import Quantized


def into_variables(x: Quantized, like: Any) -> Quantized:
    """A node with its codes and scales in variables like that of the parameter, which may say how they are sharded."""
    treedef = jax.tree.structure(like)
    if treedef.num_leaves != 1:
        return x
    if x.codes is None:  # the half of words that another node holds
        return Quantized(x.form, None, None, treedef.unflatten([x.step]))
    scales = None if x.scales is None else treedef.unflatten([x.scales])
    return Quantized(x.form, treedef.unflatten([x.codes]), scales, x.step)


def outward(state: Any) -> Any:
    """The state with variables around its nodes and not inside of them; the very same one if there are none."""
    if not any(map(is_variable, jax.tree.leaves(state, is_leaf=is_variable))):
        return state

    def one(x: Any) -> Any:
        box = None if not isinstance(x, Quantized) else x.step if x.codes is None else x.codes
        return jax.tree.structure(box).unflatten([bare(x)]) if is_variable(box) else x

    return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, Quantized))


def inward(state: Any) -> Any:
    """The inverse of `outward`."""
    if not any(map(is_variable, jax.tree.leaves(state, is_leaf=is_variable))):
        return state

    def one(x: Any) -> Any:
        if not is_variable(x):
            return x
        nodes = jax.tree.leaves(x, is_leaf=lambda y: isinstance(y, Quantized))
        if len(nodes) != 1 or not isinstance(nodes[0], Quantized):
            return x
        empty = jax.tree.structure(x, is_leaf=lambda y: isinstance(y, Quantized)).unflatten([0])
        return into_variables(nodes[0], empty)

    return jax.tree.map(one, state, is_leaf=is_variable)


def bare(x: Quantized) -> Quantized:
    """A node without variables."""
    arrays = jax.tree.leaves(x)
    names = [name for name in ("codes", "scales", "step") if getattr(x, name) is not None]
    return Quantized(x.form, **{"codes": None, "scales": None, **dict(zip(names, arrays, strict=True))})


def held(place: Any) -> Any:
    """What stands in a place, without the variable around it."""
    inside = jax.tree.leaves(place) if is_variable(place) else [place]
    return inside[0] if inside else None
