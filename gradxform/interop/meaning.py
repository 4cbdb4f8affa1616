"""What two fields of two states mean to each other, and whether an array fits where another one was."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core import roles
from .._core.errors import describe_array
from .._core.roles import is_own
from .reading import Node

#: What stands below the line of an update.
DENOMINATORS = (roles.SECOND_MOMENT, roles.FACTOR)


def same_class(node: Node, saved: Node) -> bool:
    """Whether two states are of one method: one class, which two methods share only if they mean the same by it."""
    mine, theirs = node.maker, saved.maker
    return node.classes[0] in saved.classes and not (mine and theirs and mine.method != theirs.method)


def same_role(node: Node, saved: Node, name: str) -> bool:
    """Whether two fields of one name mean the same although their classes differ: an average of the same thing.

    A mean on its way, a history or a basis is of its own method only: one keeps a sum where the other keeps a mean. So
    is what a method says is its own.
    """
    mine, theirs = node.fields.get(name), saved.fields.get(name)
    own = any(n.maker and name in n.maker.own for n in (node, saved)) or any(
        is_own(c, name) for c in (*node.classes, *saved.classes)
    )
    if mine is None or theirs is None or own:
        return False
    return mine.role is theirs.role and mine.role in (roles.MOMENT, *DENOMINATORS)


def same_roles(node: Node, saved: Node) -> bool:
    """Whether a slot of `node` means the same as one of `saved`."""
    return any(same_role(node, saved, f.name) for f in node.slots)


def meanings(saved: str, mine: str) -> str:
    """What two fields of one role mean, where that can be said in a few words."""
    words = {
        "trace": "a sum of gradients, about 1 / (1 - momentum) times their mean",
        "mu": "an average of gradients",
        "ema": "an average of gradients",
    }
    if saved not in words or mine not in words:
        return ""
    return f"the saved {saved} is {words[saved]}, {mine} is {words[mine]}"


def unfit(saved: Any, wanted: Any) -> str:
    """Why one array cannot stand in the place of another, or an empty text; a floating dtype is cast."""
    got = saved if hasattr(saved, "dtype") else np.asarray(saved)
    if tuple(got.shape) != tuple(wanted.shape):
        return f"its shape is {tuple(wanted.shape)}, the saved one's {tuple(got.shape)}"
    for kinds in (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_):
        if jnp.issubdtype(wanted.dtype, kinds):
            wider = kinds is jnp.complexfloating and jnp.issubdtype(got.dtype, jnp.floating)
            return "" if jnp.issubdtype(got.dtype, kinds) or wider else _cannot(got, wanted)
    return "" if got.dtype == wanted.dtype else _cannot(got, wanted)


def _cannot(got: Any, wanted: Any) -> str:
    return f"it is {describe_array(wanted)}, the saved one {describe_array(got)}"
