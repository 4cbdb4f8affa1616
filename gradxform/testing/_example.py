"""Trees as code that can be pasted, and the loss that belongs to a gradient."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core.compat import is_key
from .._core.tree import is_absent, is_float0


def quadratic(params: Any, grads: Any) -> Any:
    """The loss `|q - params + grads|^2 / 2`, whose gradient at `params` is `grads`.

    A transform that asks for `value`, `grad` or `value_fn` is given those of this loss.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import testing
        >>> float(testing.quadratic(jnp.ones(2), jnp.array([3.0, 4.0]))(jnp.ones(2)))
        12.5
    """

    def one(q: Any, p: Any, g: Any) -> Any:
        if is_absent(p) or is_absent(g) or is_float0(g) or not jnp.issubdtype(p.dtype, jnp.inexact):
            return jnp.zeros((), jnp.float32)
        wide = jnp.promote_types(p.dtype, jnp.float32)
        off = q.astype(wide) - p.astype(wide) + g.astype(wide)
        return 0.5 * jnp.sum(jnp.square(jnp.abs(off)))

    def loss(q: Any) -> Any:
        parts = jax.tree.leaves(jax.tree.map(one, q, params, grads, is_leaf=is_absent))
        return sum(parts[1:], parts[0]) if parts else jnp.zeros((), jnp.float32)

    return loss


def _number(x: Any) -> str:
    return repr(complex(x)) if isinstance(x, complex | np.complexfloating) else repr(float(x))


def _array(x: Any) -> str:
    if isinstance(x, jax.ShapeDtypeStruct):
        return f"jax.ShapeDtypeStruct({x.shape}, {_dtype(x.dtype)})"
    if is_float0(x):
        return f"np.zeros({x.shape}, jax.dtypes.float0)"
    if is_key(x):
        return "jax.random.key(0)"
    if getattr(x, "weak_type", False) and np.ndim(x) == 0:
        return f"jnp.asarray({_number(x)})"
    values = np.asarray(x)
    if values.size == 0:
        return f"jnp.zeros({values.shape}, {_dtype(x.dtype)})"
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        return f"jnp.asarray({values.tolist()}, {_dtype(x.dtype)})"
    wide = values.astype(np.complex128 if jnp.iscomplexobj(values) else np.float64)
    if values.ndim and np.all(wide == wide.flat[0]):
        return f"jnp.full({values.shape}, {_text(wide.flat[0])}, {_dtype(x.dtype)})"
    return f"jnp.asarray({_nested(wide)}, {_dtype(x.dtype)})"


def _text(x: Any) -> str:
    text = _number(x)
    return f"float('{text}')" if text.strip("-") in ("nan", "inf") else text


def _nested(x: Any) -> str:
    return f"[{', '.join(map(_nested, x))}]" if getattr(x, "ndim", 0) else _text(x)


def _dtype(dtype: Any) -> str:
    return f"jnp.{jnp.dtype(dtype).name}"


def code(tree: Any) -> str:
    """A tree of small arrays as Python."""
    if tree is None:
        return "None"
    if isinstance(tree, optax.MaskedNode):
        return "optax.MaskedNode()"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{key!r}: {code(value)}' for key, value in tree.items())}}}"
    if isinstance(tree, tuple | list):
        inside = ", ".join(map(code, tree))
        if isinstance(tree, list):
            return f"[{inside}]"
        return f"({inside},)" if len(tree) == 1 else f"({inside})"
    if isinstance(tree, str | int | float | complex):
        return repr(tree)
    return _array(tree) if hasattr(tree, "dtype") else "..."


def example(trees: Mapping[str, Any], then: str | None, extra: tuple[str, ...]) -> str:
    """The whole example: each tree under its name, and the call that shows the fact."""
    if not trees:
        return then or ""
    lines = [f"{name} = {code(tree)}" for name, tree in trees.items()]
    last = "tx.update(grads, tx.init(params), params)" if then is None else then
    if extra and "tx.update(" in last and {"params", "grads"} <= set(trees):
        lines.append("loss = testing.quadratic(params, grads)")
        values = {"value": "loss(params)", "grad": "grads", "value_fn": "loss", "obj_fn": "loss"}
        given = ", ".join(f"{name}={values.get(name, 'jax.random.key(0)')}" for name in extra)
        last = last.replace(", params)", f", params, {given})")
    return "\n".join([*lines, last])
