"""One row of the tables: a line of wrong code, the error that answers it, and what its message must contain.

The code is text, evaluated with the names of `scope`, so that a row reads as the user wrote it and can be evaluated
with arrays or with values that are being traced.
"""

import functools
import pickle
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx
from gradxform import build


class Misuse(NamedTuple):
    """`says`: the factory or link, the leaf, what came, what was wanted, the remedy; as far as there are such."""

    code: str
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.code


def wrong(code: str, error: type[Exception], *says: str) -> Misuse:
    return Misuse(code, error, says)


def arrays() -> dict[str, Any]:
    """Parameters and gradients as a user has them."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    return {"params": params, "grads": jax.tree.map(lambda p: 0.5 * p, params)}


@build.factory
def polyak() -> Any:
    """A transform that asks for a loss."""

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return g

    return build.elementwise(step, needs=("params", "value"))


@build.factory
def returns(what: str = "flat") -> Any:
    """A rule whose author was careless."""

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return {"flat": g.reshape(-1), "none": None, "slot": (g, {"velocity": g})}[what]

    return build.elementwise(step)


NAMES: dict[str, Any] = {
    "gx": gx,
    "build": build,
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "optax": optax,
    "re": re,
    "functools": functools,
    "pickle": pickle,
    "nan": float("nan"),
    "inf": float("inf"),
    "polyak": polyak,
    "returns": returns,
    "float0": jax.dtypes.float0,
}


def scope(params: Any, grads: Any) -> dict[str, Any]:
    """The names that a row may use: `tx` is `gx.adamw(1e-3)`, `state` its state for `params`."""
    tx = gx.adamw(1e-3)
    mixed = {"w": params["w"], "n": jnp.arange(3)}
    return {**NAMES, "params": params, "grads": grads, "tx": tx, "state": tx.init(params), "mixed": mixed}


def evaluate(code: str, params: Any, grads: Any) -> Any:
    return eval(code, scope(params, grads))
