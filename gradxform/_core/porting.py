"""What a state of somebody else's class is in ours, where the form differs and the meaning does not.

A wrapper declares of whose states its own can be made, beside its own class; what takes over a saved state asks here,
and neither knows the other.
"""

from collections.abc import Callable
from typing import Any

from .states import changed, nodes

#: By the class that was saved: our class, and what makes one of the other.
_PORTS: dict[type, tuple[type, Callable[[Any, Any], Any]]] = {}


def declare_port(theirs: type, ours: type, convert: Callable[[Any, Any], Any]) -> None:
    """Says that `convert(state, like)` makes a state of class `ours` from one of `theirs`; `like` is a fresh one."""
    _PORTS[theirs] = (ours, convert)


def ported(saved: Any, new: Any) -> Any:
    """The saved state with every node for which only a state of ours has a place in `new` as a node of this class."""
    fresh = {type(node): node for _, node in nodes(new)}

    def one(address: str, node: Any) -> Any:
        del address
        ours, convert = _PORTS.get(type(node), (None, None))
        if convert is None or ours not in fresh or type(node) in fresh:
            return node
        return convert(node, fresh[ours])

    return changed(saved, one)
