"""`apply_updates`: the only write to parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import compat
from .eager import Compiled
from .errors import describe_array, kind, leaf, say, short
from .numerics import cast, compute_dtype, leaf_number, random_bits, stochastic_round
from .tree import as_array, difference, is_absent, is_float0, is_inexact, view

_ROUNDINGS = ("nearest", "stochastic")


def apply_updates(
    params: Any, updates: Any, rounding: str = "nearest", *, step: Any = None, seed: Any = 0
) -> Any:
    """Adds updates to parameters.

    The sum is formed in at least float32 and rounded once, to the parameter's own dtype. A leaf whose update is None,
    `MaskedNode` or float0 is returned as it is.

    An update below half a step of bfloat16, about 1/512 of the parameter, does nothing when it is rounded to nearest,
    at any number of steps. `rounding="stochastic"` rounds up or down at random, in proportion to the distance: a
    bfloat16 parameter then moves by its updates on average, without any further state. (`gx.lowbit.exact_master` moves
    by all of them, for 2 bytes a parameter.)

    Args:
        params: a tree of parameters.
        updates: what `tx.update` returned: the same structure, the same shapes.
        rounding: "nearest", or "stochastic" for bfloat16 parameters; those of other dtypes are rounded to nearest in
            either case. An exact sum stays, NaN and Inf stay, and a finite sum never becomes Inf.
        step: the number of the step, which "stochastic" needs: an integer of at least 0 or a traced integer, such as
            the count of the training loop. Each step has bits of its own.
        seed: an integer, which may be traced; other seeds, other bits. The bits are a function of seed, step, the
            parameter's path and the place of the number in the whole array: the same on any mesh, and the same again
            after a restart. Inside `shard_map` the array is the shard, so give each its own:
            `seed=jax.lax.axis_index("x")` for parameters that are cut over "x".

    Returns:
        The new parameters: structure, shapes and dtypes of `params`.

    Raises:
        ValueError: if structures or shapes differ. Nothing is broadcast: an update of shape (3, 2) does not turn a
            parameter of shape (1, 2) into another one. For another `rounding`, or a stochastic one without `step`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.apply_updates({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.5, -0.5])})
        {'w': Array([1.5, 1.5], dtype=float32)}
        >>> w, u = jnp.ones(10_000, jnp.bfloat16), jnp.full(10_000, 0.001)  # the step of bfloat16 here is 0.0078
        >>> float(gx.apply_updates(w, u).astype(jnp.float32).mean())
        1.0
        >>> round(float(gx.apply_updates(w, u, "stochastic", step=0).astype(jnp.float32).mean()), 4)
        1.001
    """
    random = _checked(rounding, step, seed)
    return _NEAREST(params, updates) if random is None else _added(params, updates, random)


def _added(params: Any, updates: Any, random: tuple[Any, Any] | None = None) -> Any:
    rows, new = view(params), view(updates)
    problem = difference(new, rows, "the updates", "the parameters")
    if problem is not None:
        pair = "the updates are a pair: updates, state = tx.update(grads, state, params)"
        hint = pair if isinstance(updates, tuple) and len(updates) == 2 else "the parameters come first"
        raise ValueError(say(f"gx.apply_updates(params, updates): {problem}", hint))
    added = [_add(path, p, u, random) for path, p, u in zip(rows.paths, rows.places, new.places, strict=True)]
    return rows.treedef.unflatten(added)


_NEAREST = Compiled(_added)


def _checked(rounding: Any, step: Any, seed: Any) -> tuple[Any, Any] | None:
    """Seed and step of a stochastic rounding; None for the other one."""
    if rounding not in _ROUNDINGS:
        fact = f"gx.apply_updates(rounding={short(rounding)}): wanted 'nearest' or 'stochastic'"
        raise ValueError(fact)
    if rounding == "nearest":
        return None
    if step is None:
        fact = "gx.apply_updates(rounding='stochastic'): missing step"
        raise ValueError(
            say(fact, "pass step=, the number of this step, so that each has random bits of its own")
        )
    return _counter("seed", seed), _counter("step", step)


def _counter(name: str, value: Any) -> Any:
    """An integer as 32 bits."""
    text = f"gx.apply_updates({name}={short(value)})"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"{text}: wanted an integer of at least 0, got {value}")
        return np.uint32(int(value) % 2**32)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"{text}: wanted an integer, which may be traced, got {kind(value)}")
    return jnp.asarray(value).astype(jnp.uint32)


def _add(path: str, p: Any, u: Any, random: tuple[Any, Any] | None) -> Any:
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
    at_random = random is not None and p.dtype == jnp.bfloat16
    if p.dtype == u.dtype and not at_random:
        return compat.like_weak(p + u, p)
    wide = compute_dtype(p.dtype, u.dtype)
    total = p.astype(wide) + u.astype(wide)
    if jnp.iscomplexobj(total) and not jnp.iscomplexobj(p):
        raise ValueError(say(text, "a real parameter has a real update: was its real part meant?"))
    if random is not None and at_random:
        bits = random_bits(*random, leaf_number(path), p.shape)
        return stochastic_round(cast(total, jnp.dtype(jnp.float32)), bits)
    return compat.like_weak(jax.lax.convert_element_type(total, p.dtype), p)
