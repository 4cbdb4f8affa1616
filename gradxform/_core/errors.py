"""Range and kind checks of arguments, made when a transform is built, and the words they share.

Inner code raises the short fact; whoever knows the address adds it. A check looks at concrete values only: a value that
is being traced has none, and a schedule is checked when it gives its first number.
"""

from typing import Any

import jax
import numpy as np


def concrete(value: Any) -> float | None:
    """The number behind a Python number or a concrete 0-d array; None for schedules and traced values."""
    if isinstance(value, bool | np.bool_ | str) or callable(value) or isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, int | float | np.number):
        return float(value)
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        return float(value)
    return None


def check_number(
    call: str,
    name: str,
    value: Any,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    open_low: bool = False,
    open_high: bool = False,
    schedule: bool = True,
    why: str = "",
) -> None:
    """Raises unless `value` is a number within the range, a 0-d array, or (if allowed) a schedule.

    Args:
        call: the factory as the user wrote it, `adamw`.
        name: the argument.
        value: what came.
        low, high: the range, ends included unless `open_low`, `open_high`.
        schedule: whether a function of the step count is accepted.
        why: the usual cause or the remedy, appended to the message.
    """
    text = f"gx.{call}({name}={_short(value)})"
    wanted = "a number" + (", a 0-d array or a schedule" if schedule else " or a 0-d array")
    tail = f"; {why}" if why else ""
    if isinstance(value, type) or (callable(value) and not schedule):
        raise TypeError(f"{text}: wanted {wanted}, got {_kind(value)}{tail}")
    if callable(value) or hasattr(value, "hi"):
        return
    if isinstance(value, bool | np.bool_ | str | bytes | type(None)):
        raise TypeError(f"{text}: wanted {wanted}, got {_kind(value)}{tail}")
    if isinstance(value, int | float | np.number):
        number = float(value)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        if value.shape != ():
            raise ValueError(f"{text}: wanted {wanted}, got an array of shape {value.shape}{tail}")
        if isinstance(value, jax.core.Tracer):
            return
        number = float(value)
    else:
        hint = _looks_like_params(value)
        raise TypeError(f"{text}: wanted {wanted}, got {_kind(value)}{hint or tail}")
    bad_low = number <= low if open_low else number < low
    bad_high = number >= high if open_high else number > high
    if bad_low or bad_high or np.isnan(number):
        raise ValueError(f"{text}: wanted {_range(low, high, open_low, open_high)}, got {number:g}{tail}")


def _looks_like_params(value: Any) -> str:
    if isinstance(value, dict | list | tuple) or not jax.tree_util.all_leaves([value]):
        return (
            "; that looks like a tree of parameters: a transform is built without them, "
            "call tx.init(params) and tx.update(grads, state, params)"
        )
    return ""


def check_integer(call: str, name: str, value: Any, *, low: int = 0, why: str = "") -> None:
    """Raises unless `value` is a whole number of at least `low`."""
    tail = f"; {why}" if why else ""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"gx.{call}({name}={_short(value)}): wanted a whole number, got {_kind(value)}{tail}")
    if value < low:
        raise ValueError(f"gx.{call}({name}={value}): wanted at least {low}, got {value}{tail}")


def check_flag(call: str, name: str, value: Any) -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"gx.{call}({name}={_short(value)}): wanted True or False, got {_kind(value)}")


def _range(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if np.isinf(low) and np.isinf(high):
        return "a number"
    if np.isinf(high):
        return f"a number {'above' if open_low else 'of at least'} {low:g}"
    if np.isinf(low):
        return f"a number {'below' if open_high else 'of at most'} {high:g}"
    return f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"


def _short(value: Any) -> str:
    if isinstance(value, jax.core.Tracer):
        return f"<traced {value.aval}>"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 40 else f"{text[:37]}..."


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool | np.bool_):
        return "a boolean"
    return f"a {type(value).__name__}"


short, kind = _short, _kind


def describe_array(x: Any) -> str:
    """`float32[3, 2]` for an array-like, the type's name for anything else."""
    if x is None:
        return "None"
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or dtype is None:
        return f"a {type(x).__name__}"
    return f"{dtype}[{', '.join(map(str, shape))}]"


def missing_name(name: str) -> Any:
    """The face's `__getattr__`: what is not ours but Optax's is named as such."""
    import optax

    if name.startswith("__"):
        raise AttributeError(f"module 'gradxform' has no attribute {name!r}")
    for module in (optax, optax.contrib, optax.losses, optax.projections):
        if hasattr(module, name):
            where = f"{module.__name__}.{name}"
            raise AttributeError(
                f"gradxform has no {name!r} of its own; {where} works inside our chains and wrappers as it is"
            )
    raise AttributeError(
        f"module 'gradxform' has no attribute {name!r}; is it a typing error, or in a submodule?"
    )
