"""States read and changed from outside, as a trainer holds them.

A state comes as `init` made it, as `nnx.Optimizer.opt_state` keeps it (every array in a variable of its own), as a
Flax `TrainState.opt_state`, or out of a checkpoint. What is looked for is a *node*: a NamedTuple of a known class, or
one with known roles, wherever wrappers and chains have put it. The trees inside of per-parameter fields are data.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import optax

from .roles import roles_of
from .tree import is_absent, is_box

#: What can be done with every node: (address, node) -> new node, or the same.
Change = Callable[[str, Any], Any]


def unboxed(tree: Any) -> Any:
    """A tree with the arrays in the place of the boxes (NNX variables) that hold them."""

    def one(x: Any) -> Any:
        inside = jax.tree.leaves(x) if is_box(x) else [x]
        return inside[0] if inside else optax.MaskedNode()  # the box of a leaf that is hidden

    return jax.tree.map(one, tree, is_leaf=is_box)


def boxed(new: Any, like: Any) -> Any:
    """The array `new` in a box like `like`, or `new` itself where that is none."""
    if not is_box(like):
        return new
    return jax.tree.unflatten(jax.tree.structure(like), [new])


def nodes(state: Any, address: str = "") -> Iterator[tuple[str, Any]]:
    """Every NamedTuple of a state, outermost first, with the path of fields, positions and names that leads to it.

    Of a training loop's object (a `TrainState`, an `nnx.Optimizer`) it is the state that it holds.
    """
    if not hasattr(state, "_fields") and hasattr(state, "opt_state"):
        state = state.opt_state
    if is_absent(state) or is_box(state):
        return
    if hasattr(state, "_fields"):
        yield address, state
    for name, child, _ in _children(state):
        yield from nodes(child, f"{address}/{name}" if address else name)


def changed(state: Any, change: Change, address: str = "") -> Any:
    """The state with every node replaced by what `change` makes of it; children come before their parents."""
    if is_absent(state) or is_box(state):
        return state
    children = list(_children(state))
    new = {
        key: changed(child, change, f"{address}/{name}" if address else name) for name, child, key in children
    }
    if any(new[key] is not child for _, child, key in children):
        state = _with(state, new)
    return change(address, state) if hasattr(state, "_fields") else state


def _children(state: Any) -> Iterator[tuple[str, Any, Any]]:
    """What is inside of a container: name, child, key. Per-parameter fields are left out."""
    if hasattr(state, "_fields"):
        known = roles_of(type(state))
        for name in state._fields:
            if not known[name].per_parameter:
                yield name, getattr(state, name), name
    elif isinstance(state, tuple | list):
        yield from ((str(i), child, i) for i, child in enumerate(state))
    elif isinstance(state, Mapping):
        yield from ((str(key), child, key) for key, child in state.items())


def _with(state: Any, new: Mapping[Any, Any]) -> Any:
    if hasattr(state, "_fields"):
        return state._replace(**new)
    if isinstance(state, tuple | list):
        return type(state)(new[i] for i in range(len(state)))
    return type(state)(new)
