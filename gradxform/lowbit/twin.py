"""The float32 twin of a transform whose state is in few bits: the same value with `quantized` taken out.

Transforms are values, so the twin is made of the call that made the transform: wherever an argument is a call of
`quantized`, what it wraps is put in its place, and what is around is called again. What a closure hides (a chain of
Optax's) cannot be taken apart.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from .._core.roles import MOMENT, SECOND_MOMENT, Role
from .._core.spec import Spec
from .._core.states import nodes
from .._core.transform import GradientTransformation
from .._core.tree import is_absent, path_text
from .quantized import quantized, roles_in
from .storage import is_stored

#: A moment of one parameter: the field's address in the state, the path of the parameter, the role.
Key = tuple[str, str, Role]


def float32_twin(tx: Any) -> Any:
    """`tx` without `quantized`, wherever it stands; `tx` itself where it does not."""
    if isinstance(tx, GradientTransformation):
        if tx.spec.factory is quantized.entry:  # type: ignore[attr-defined]
            return float32_twin(tx.spec.arguments["tx"])
        new = {name: float32_twin(value) for name, value in tx.spec.arguments.items()}
        if all(new[name] is value for name, value in tx.spec.arguments.items()):
            return tx
        return Spec(tx.spec.factory, new).rebuild()
    if isinstance(tx, dict):
        made = {key: float32_twin(value) for key, value in tx.items()}
        return tx if all(made[key] is value for key, value in tx.items()) else made
    if type(tx) is tuple or type(tx) is list:
        items = [float32_twin(item) for item in tx]
        return tx if all(a is b for a, b in zip(items, tx, strict=True)) else type(tx)(items)
    return tx


def moments(state: Any, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[Key, Any]]:
    """The moments of a state that are arrays or are stored as such, with what they are of."""
    for address, node in nodes(state):
        for name, role in roles_in(node, shapes).items():
            if role not in (MOMENT, SECOND_MOMENT):
                continue
            rows = jax.tree_util.tree_flatten_with_path(
                getattr(node, name), is_leaf=lambda x: is_stored(x) or is_absent(x)
            )[0]
            for path, x in rows:
                if not is_absent(x) and hasattr(x, "shape"):
                    yield ("/".join(filter(None, (address, name))), path_text(path), role), x
