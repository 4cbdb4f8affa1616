"""`flax.serialization` of nodes that are no NamedTuples: it has to be told how, once it is there."""

import sys
from typing import Any

import jax

from .._core.errors import say

_TOLD: set[type] = set()


def tell_flax(kind: type) -> None:
    """Registers a class of nodes with `codes`, `scales` and `step` beside what is static, if the program uses Flax.

    Importing it here would take seconds, so it is looked for whenever a node is made.
    """
    flax: Any = sys.modules.get("flax.serialization")
    if kind in _TOLD or not hasattr(flax, "register_serialization_state"):
        return
    _TOLD.add(kind)

    def written(x: Any) -> dict[str, Any]:
        return {name: flax.to_state_dict(getattr(x, name)) for name in ("codes", "scales", "step")}

    def read(like: Any, saved: Any) -> Any:
        for name in ("codes", "scales"):
            wanted, got = _forms(getattr(like, name)), _forms(saved[name])
            if wanted != got:
                fact = f"flax.serialization: the {name} of {like!r} are {got}, wanted {wanted}"
                raise ValueError(
                    say(fact, "read them with the transform that wrote them, then gx.restore_into")
                )
        parts = (
            flax.from_state_dict(getattr(like, n), saved[n], name=n) for n in ("codes", "scales", "step")
        )
        return kind(like.form, *parts)

    flax.register_serialization_state(kind, written, read)


def _forms(x: Any) -> str:
    return ", ".join(f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves(x)) or "none"
