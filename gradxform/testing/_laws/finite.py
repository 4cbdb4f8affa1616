"""Finite gradients give finite numbers, down to the smallest and up to the largest of 16 bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._law import Broken, law
from .._subject import Subject, numbers, rows
from .running import plainly_finite


def _check(s: Subject, params: Any, sizes: list[float]) -> None:
    state = s.init(params)
    for size in sizes:
        ones = s.grads(params, 1.0)
        grads = jax.tree.map(lambda g, size=size: jnp.full_like(g, size) * jnp.sign(g), ones)
        before = state
        updates, state = s.attempt(lambda g=grads, b=before: s.step(g, b, params), params=params, grads=grads)
        for what, tree in (("the update", updates), ("the new state", state)):
            if not plainly_finite(tree):
                where, x = next((path, x) for path, x in rows(tree) if not plainly_finite(x))
                fact = f"{what} at {where or 'its leaf'} is {numbers(x).ravel()[:3].tolist()}"
                raise Broken(f"{fact}, for gradients of size {size:g}", {"params": params, "grads": grads})


@law("gradients of zero give finite numbers in float32, bfloat16 and float16")
def zeros_finite(s: Subject) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        _check(s, s.params(dtype), [0.0, 0.0])


@law("the largest and smallest gradients of 16 bits give finite numbers")
def sixteen_finite(s: Subject) -> None:
    for dtype in ("float16", "bfloat16"):
        info = jnp.finfo(dtype)
        sizes = [float(info.max), float(info.max), float(info.tiny), float(info.smallest_subnormal)]
        _check(s, s.params(dtype), sizes)
        for size in sizes[2:4]:  # from a fresh state as well: nothing has been added up yet
            _check(s, s.params(dtype), [size])


@law("zero gradients from a fresh state move nothing (parameters of zero, which do not decay)")
def zeros_still(s: Subject) -> None:
    params = s.zeros(s.params())
    grads = s.zeros(s.grads(params))
    for step, updates in enumerate(s.run([grads] * 3, params)[0], 1):
        moved = [(path, numbers(u)) for path, u in rows(updates) if np.any(numbers(u) != 0)]
        if moved:
            path, u = moved[0]
            fact = f"update {step} at {path or 'its leaf'} is {u.ravel()[:3].tolist()}, wanted zeros"
            raise Broken(fact, {"params": params, "grads": grads})
