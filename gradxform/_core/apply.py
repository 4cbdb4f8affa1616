"""`apply_updates`: the only write to parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from . import compat
from .errors import describe_array, leaf, say
from .numerics import compute_dtype
from .tree import as_array, difference, is_absent, is_float0, is_inexact, view


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
        pair = "the updates are a pair: updates, state = tx.update(grads, state, params)"
        hint = pair if isinstance(updates, tuple) and len(updates) == 2 else "the parameters come first"
        raise ValueError(say(f"gx.apply_updates(params, updates): {problem}", hint))
    added = [_add(path, p, u) for path, p, u in zip(rows.paths, rows.places, new.places, strict=True)]
    return rows.treedef.unflatten(added)


def _add(path: str, p: Any, u: Any) -> Any:
    if is_absent(p) or is_absent(u) or is_float0(u):
        return p
    p = jnp.asarray(as_array(p, path, "gx.apply_updates", "the parameters"))
    u = jnp.asarray(as_array(u, path, "gx.apply_updates", "the updates"))
    text = f"gx.apply_updates: {leaf(path)} is {describe_array(p)}, its update {describe_array(u)}"
    if p.shape != u.shape:
        raise ValueError(say(text, "shapes must be equal, nothing is broadcast"))
    if not is_inexact(p):
        if is_inexact(u):
            raise TypeError(
                say(text, "an integer parameter is never moved by a fraction: give it the update None")
            )
        return (p + u).astype(p.dtype)
    if p.dtype == u.dtype:
        return compat.like_weak(p + u, p)
    wide = compute_dtype(p.dtype, u.dtype)
    total = p.astype(wide) + u.astype(wide)
    if jnp.iscomplexobj(total) and not jnp.iscomplexobj(p):
        raise ValueError(say(text, "a real parameter has a real update: was its real part meant?"))
    return compat.like_weak(jax.lax.convert_element_type(total, p.dtype), p)
