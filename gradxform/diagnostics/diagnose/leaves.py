"""Readings of single leaves, which `probe` does not make: `leaf_readings`."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._core import roles
from ..._core.numerics import compute_dtype, root
from ..._core.observe import number, reading, square
from ..._core.packed import opened
from ..._core.roles import roles_of
from ..._core.states import nodes, unboxed
from ..._core.tree import view


def leaf_readings(
    *, params: Any = None, grads: Any = None, updates: Any = None, state: Any = None
) -> dict[str, Any]:
    """The norm of every leaf by its path, for a logger and for `gx.diagnose`.

    `gx.probe` measures links and groups in the step; this measures leaf by leaf what is passed, inside of `jit` or
    outside of it. Take it every so many steps: it reads all of the arrays once more.

    Args:
        params: the parameters. Gives `PATH/param_norm` and, for the whole tree, `parameters`, how many there are.
        grads: the gradients. Gives `PATH/grad_norm`.
        updates: what `tx.update` returned. Gives `PATH/update_norm`.
        state: the state of any transform, ours or Optax's, in few bits or many. Gives `PATH/second_moment`, the norm of
            the first field of each link that holds second moments.

    Returns:
        float32 scalars by name. The path of a tree that is one array is `leaf`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.array([3.0, 4.0])}
        >>> readings = gx.leaf_readings(params=params, grads={"w": jnp.array([0.0, 2.0])})
        >>> {name: float(x) for name, x in readings.items()}
        {'parameters': 2.0, 'w/param_norm': 5.0, 'w/grad_norm': 2.0}
    """
    found: dict[str, Any] = {}
    if params is not None:
        sizes = [jnp.asarray(x).size for x in view(unboxed(params)).places if number(x)]
        found["parameters"] = reading(np.float32(sum(sizes)))
    for name, tree in (("param_norm", params), ("grad_norm", grads), ("update_norm", updates)):
        if tree is not None:
            found.update(_norms(unboxed(tree), name))
    if state is not None:
        for _, node in nodes(opened(unboxed(state))):
            field = next((n for n, role in roles_of(type(node)).items() if role is roles.SECOND_MOMENT), None)
            for key, norm in {} if field is None else _norms(getattr(node, field), "second_moment").items():
                found.setdefault(key, norm)
    return found


def _norms(tree: Any, name: str) -> dict[str, Any]:
    rows = view(tree)
    return {
        f"{path or 'leaf'}/{name}": reading(root(square(x, compute_dtype(jnp.asarray(x).dtype))))
        for path, x in zip(rows.paths, rows.places, strict=True)
        if number(x)
    }
