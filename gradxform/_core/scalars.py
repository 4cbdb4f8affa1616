"""Hyperparameters at a step: a number, a 0-d array or a schedule, read at the count in the state.

A hyperparameter is never stored in the parameters' dtype, and a step's scalars are float32, or float64 when a leaf is
worked in float64. A decay rate is read as a `Decay`, so that 1 - b keeps its digits; a schedule of ours that knows its
value to more than float32 says so through `exact`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import compat
from .errors import say, short
from .numerics import Decay, TwoFloat, decay_of


def is_schedule(value: Any) -> bool:
    """Whether a hyperparameter must be evaluated at the step count."""
    return callable(value)


def is_others(value: Any) -> bool:
    """Whether it is a function that is not a value of ours, and so may look at more than its arguments."""
    return callable(value) and not hasattr(value, "spec")


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is known, when the transform is built, to be exactly zero."""
    return isinstance(value, int | float) and value == 0


def _at(call: str, name: str, value: Any, count: Any) -> Any:
    """The hyperparameter's number at this count: a Python or NumPy number, a `TwoFloat`, or a 0-d floating array."""
    if callable(value):
        return _checked(call, name, value, _asked(call, name, value, count))
    return _checked(call, name, None, value)


_BY_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _asked(call: str, name: str, schedule: Any, count: Any) -> Any:
    """The value of a schedule, which may be anybody's function."""
    who = f"gx.{call}({name}={short(schedule)}): the schedule"
    exact = getattr(schedule, "exact", None)
    try:
        return schedule(count) if exact is None else exact(count)
    except _BY_VALUE as problem:
        remedy = "use jnp.where(count < n, a, b) or gx.join_schedules"
        raise TypeError(
            say(f"{who} decides by the value of the step count, which is traced", remedy)
        ) from problem
    except Exception as problem:
        problem.add_note(f"while {who} was asked for its value")
        raise


def _checked(call: str, name: str, schedule: Any, got: Any) -> Any:
    if isinstance(got, np.ndarray) and got.shape == ():
        got = got[
            ()
        ]  # a NumPy number, with all its digits; as an array of JAX it would be rounded to float32
    if isinstance(got, TwoFloat | int | float | np.number) and not isinstance(got, bool):
        return got
    who = (
        f"gx.{call}({name}={short(schedule)}): the schedule"
        if schedule is not None
        else f"gx.{call}({name}): the value"
    )
    shape, dtype = getattr(got, "shape", None), getattr(got, "dtype", None)
    if shape is None or dtype is None:
        remedy = "call what makes the schedule first" if callable(got) else ""
        raise TypeError(say(f"{who} gave {short(got)}, wanted one number a step", remedy))
    if shape != ():
        raise ValueError(f"{who} has shape {shape}, wanted one number a step, shape ()")
    array = jnp.asarray(got)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        if jnp.issubdtype(array.dtype, jnp.integer):
            return array.astype(jnp.float32)
        raise TypeError(f"{who} has dtype {array.dtype}, wanted a real number")
    return array


def resolve(call: str, name: str, value: Any, count: Any, dtype: Any) -> Any:
    """A plain scalar in `dtype`."""
    got = _at(call, name, value, count)
    if isinstance(got, TwoFloat):
        return jnp.asarray(got.hi, dtype) + jnp.asarray(got.lo, dtype)
    if isinstance(got, jax.Array):
        return got.astype(dtype)
    return np.asarray(got, dtype)[()]


def resolve_decay(call: str, name: str, value: Any, count: Any, dtype: Any) -> Decay:
    """A decay rate with its complement in `dtype`."""
    return decay_of(_at(call, name, value, count), dtype)


def at_dtype(scalar: Any, dtype: Any) -> Any:
    """One scalar of a step in the dtype of a leaf; integers, booleans and keys are left as they are."""
    if isinstance(scalar, Decay):
        return Decay(at_dtype(scalar.value, dtype), at_dtype(scalar.complement, dtype))
    if isinstance(scalar, float):
        return np.asarray(scalar, dtype)[()]
    have = getattr(scalar, "dtype", None)
    if have is None or have == dtype or not jnp.issubdtype(have, jnp.floating):
        return scalar
    return scalar.astype(dtype)


def apart(ks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scalars of a traced step, computed before anything that reads them, on a CPU.

    XLA copies what makes a scalar into each loop that reads it, schedules and corrections into three loops a leaf, and
    then compiles it there: half of all instructions of AdamW. Nor does a barrier help, which is gone by then. What
    comes out of a branch it cannot take apart, so the scalars pass through one that is always taken; that it is, no
    compiler knows.
    """
    leaves, treedef = jax.tree.flatten(ks)
    picked = [i for i, x in enumerate(leaves) if _traced_float(x)]
    if not picked or jax.default_backend() != "cpu":
        return ks
    given = tuple(leaves[i] for i in picked)
    one, zero = np.asarray(1, given[0].dtype), np.asarray(0, given[0].dtype)
    never = (given[0] > one) & (given[0] < zero)  # of NaN too
    got = jax.lax.cond(never, lambda xs: tuple(map(jnp.zeros_like, xs)), lambda xs: xs, given)
    for i, x in zip(picked, got, strict=True):
        leaves[i] = x
    return treedef.unflatten(leaves)


def _traced_float(x: Any) -> bool:
    traced = isinstance(x, compat.Tracer) and getattr(x, "shape", None) == ()
    return traced and jnp.issubdtype(x.dtype, jnp.floating)
