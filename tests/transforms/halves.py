"""The reference of a recipe of two groups: one method for the leaves that are named, another for the rest."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .forced import SHAPES


@dataclass(frozen=True)
class Halves:
    """Two methods by the labels of their groups; `names` are the leaves of the first. The state is `PartitionState`."""

    names: Collection[str]
    methods: dict[str, Any]

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates: dict[str, Any] = {}
        states: dict[str, Any] = {}
        for i, (label, method) in enumerate(self.methods.items()):
            names = [name for name in grads if (name in self.names) == (i == 0)]
            old = _only(state["inner_states"][label], names)
            g, p = ({name: tree[name] for name in names} for tree in (grads, params))
            states[label], made = method.update(g, old, p)
            updates |= made
        return {"inner_states": states}, {name: updates[name] for name in grads}


def _only(state: Any, names: list[str]) -> Any:
    """A state without the places of the other leaves."""
    if isinstance(state, list):
        return [_only(link, names) for link in state]
    if isinstance(state, dict):
        trees = set(state) <= set(SHAPES)
        return {k: _only(v, names) for k, v in state.items() if not trees or k in names}
    return state
