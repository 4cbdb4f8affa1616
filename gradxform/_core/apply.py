"""`apply_updates`: the only write to parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from .errors import describe_array
from .numerics import compute_dtype
from .tree import difference, is_absent, is_float0, is_inexact, view


def apply_updates(params: Any, updates: Any) -> Any:
    """Adds updates to parameters.

    The sum is formed in at least float32 and rounded once, to the parameter's own dtype. A leaf whose update is None,
    `MaskedNode` or float0 is returned as it is.

    Args:
        params: a tree of parameters.
        updates: what `tx.update` returned: the same structure, the same shapes.

    Returns:
        The new parameters: structure, shapes and dtypes of `params`.

    Raises:
        ValueError: if structures or shapes differ. Nothing is broadcast: an update of shape (3, 2) does not turn a
            parameter of shape (1, 2) into another one.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.apply_updates({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.5, -0.5])})
        {'w': Array([1.5, 1.5], dtype=float32)}
    """
    rows, new = view(params), view(updates)
    problem = difference(new, rows, "the updates", "the parameters")
    if problem is not None:
        raise ValueError(f"apply_updates(params, updates): {problem}; the parameters come first")
    added = [_add(path, p, u) for path, p, u in zip(rows.paths, rows.places, new.places, strict=True)]
    return rows.treedef.unflatten(added)


def _add(path: str, p: Any, u: Any) -> Any:
    if is_absent(p) or is_absent(u) or is_float0(u):
        return p
    p, u = jnp.asarray(p), jnp.asarray(u)
    if p.shape != u.shape:
        raise ValueError(
            f"apply_updates: the leaf {path!r} is {describe_array(p)}, its update {describe_array(u)}; "
            "shapes must be equal, nothing is broadcast"
        )
    if not is_inexact(p):
        return (p + u).astype(p.dtype) if not is_inexact(u) else _refuse(path, p, u)
    if p.dtype == u.dtype:
        return p + u
    wide = compute_dtype(p.dtype, u.dtype)
    total = p.astype(wide) + u.astype(wide)
    if jnp.iscomplexobj(total) and not jnp.iscomplexobj(p):
        raise ValueError(f"apply_updates: the leaf {path!r} is real, its update is complex")
    return jax.lax.convert_element_type(total, p.dtype)


def _refuse(path: str, p: Any, u: Any) -> Any:
    raise TypeError(
        f"apply_updates: the leaf {path!r} is {describe_array(p)}, its update {describe_array(u)}; "
        "an integer parameter is never moved by a fraction: give it the update None"
    )
