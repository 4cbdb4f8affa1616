"""In which dtype a leaf is worked, whether it is, and how its update leaves."""

from typing import Any

import jax.numpy as jnp

from . import compat
from .numerics import canonical, cast, compute_dtype
from .rule import Rule
from .tree import is_absent, is_float0, is_inexact


def workable(u: Any, rule: Rule) -> bool:
    """Whether a rule does arithmetic on a leaf."""
    return not is_absent(u) and not is_float0(u) and (rule.any_dtype or is_inexact(u))


def out_dtype(u: Any, p: Any) -> Any:
    """The dtype of a leaf's update: its parameter's, or that of what came in."""
    if is_absent(u) or is_float0(u) or not is_inexact(u):
        return None
    return canonical(p.dtype if not is_absent(p) and is_inexact(p) else u.dtype)


def work_dtype(u: Any, p: Any) -> Any:
    """The dtype in which a leaf is worked, at least float32."""
    if is_absent(u) or is_float0(u):
        return None
    if not is_inexact(u):
        return jnp.dtype(u.dtype)
    return compute_dtype(u.dtype, None if is_absent(p) else p.dtype)


def leave(u: Any, dtype: Any) -> Any:
    """An update in its dtype: rounded once."""
    if dtype is None or is_absent(u) or u.dtype == dtype:
        return u
    return cast(jnp.asarray(u), dtype)


def promotion(dtype: Any) -> Any:
    """Rules are strict about dtypes, except that a complex leaf meets real scalars."""
    return compat.promotion("standard" if jnp.issubdtype(dtype, jnp.complexfloating) else "strict")
