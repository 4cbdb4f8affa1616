"""Arrays of a state that are kept as several, such as codes and scales, for readers that know no codes.

Such a node has the `shape` and `dtype` of the array that it stands for, a `written` that is equal for two nodes if the
arrays of one can be read as those of the other, and a `kind` in words. Its executor has been named to `keep_by`.
"""

from typing import Any

import jax

from .plan import Executor

_KEEPERS: dict[type, Executor] = {}


def keep_by(kind: type, executor: Executor) -> None:
    """Names the executor that opens and closes the nodes of one class."""
    _KEEPERS[kind] = executor


def is_packed(x: Any) -> bool:
    """Whether it is one array kept as several."""
    return type(x) in _KEEPERS


def packed_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, a packed array as one."""
    return jax.tree.leaves(tree, is_leaf=is_packed)


def opened(state: Any) -> Any:
    """A state with arrays in the place of packed ones, leaf for leaf."""
    for executor in dict.fromkeys(_KEEPERS[type(x)] for x in packed_leaves(state) if is_packed(x)):
        state = executor.opened(state)
    return state


def closed(new: Any, old: Any) -> Any:
    """The inverse of `opened`: `new` packed as `old` is."""
    for executor in dict.fromkeys(_KEEPERS[type(x)] for x in packed_leaves(old) if is_packed(x)):
        new = executor.closed(new, old)
    return new
