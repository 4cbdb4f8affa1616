"""States read and changed from outside, as a trainer holds them.

A state comes as `init` made it, as `nnx.Optimizer.opt_state` keeps it (every array in a variable of its own), as a
Flax `TrainState.opt_state`, or out of a checkpoint. What is looked for is a *node*: a NamedTuple of a known class, or
one with known roles, wherever wrappers and chains have put it. The trees inside of per-parameter fields are data.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from . import compat
from .errors import describe_array, leaf, say
from .roles import roles_of
from .tree import View, is_absent, is_box, is_inexact, listed, spread, view

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


def beside(who: str, fn: Any, params: Any, second: Any, name: str) -> Any:
    """The parameters with `fn(p, second)` in the place of every floating one that has a second value in the state.

    `second` is the per-parameter field `name` of a state, boxed or bare; `who` asks, for messages.
    """
    boxes, treedef = jax.tree.flatten(params, is_leaf=lambda x: is_absent(x) or is_box(x))
    bare = unboxed(params)
    rows = view(bare)
    if len(boxes) != len(rows.places):  # a box with several arrays or none
        boxes, treedef = rows.places, rows.treedef
    made: list[Any] = []
    theirs = _aligned(who, rows, unboxed(second), name)
    for path, box, p, m in zip(rows.paths, boxes, rows.places, theirs, strict=True):
        if is_absent(p) or is_absent(m) or is_box(m) or not is_inexact(p):  # a box that is left has no array
            made.append(box)
            continue
        p = p if hasattr(p, "dtype") else jnp.asarray(p)
        if jnp.shape(m) != p.shape:
            fact = f"{who}: {leaf(path)} is {describe_array(p)}, its {name} in the state {describe_array(m)}"
            raise ValueError(say(fact, "pass the parameters that belong to this state"))
        # What is kept in the host's memory comes to where the parameters are.
        made.append(boxed(fn(p, compat.moved(m, host=False)), box))
    return treedef.unflatten(made)


def _aligned(who: str, rows: View, second: Any, name: str) -> list[Any]:
    """The second value of every place of `rows`: by position, or by path where the containers differ."""
    try:
        return spread(second, rows)
    except (ValueError, TypeError):
        theirs = view(second)
        known = dict(zip(theirs.paths, theirs.places, strict=True))
        hidden = [path for path, place in known.items() if is_absent(place)]
    missing = [p for p in rows.paths if p not in known and not any(p.startswith(f"{h}/") for h in hidden)]
    if missing or len(known) != len(theirs.paths):
        fact = f"{who}: the {name} in the state has no {listed(missing)} of the parameters"
        raise ValueError(say(fact, "pass the parameters that belong to this state"))
    return [known.get(path) for path in rows.paths]
