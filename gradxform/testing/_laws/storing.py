"""A state can be written to a file, and says which of its arrays belong to which parameter."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..._core.compat import is_key
from .._law import Broken, law
from .._subject import Subject, difference, form_difference, rows


@law("a state survives a file bit by bit: a run goes on as if it had not stopped")
def file(s: Subject) -> None:
    params = s.params("bfloat16")
    grads = s.grads(params)
    state = s.step(grads, s.init(params), params)[1]
    trees = {"params": params, "grads": grads}
    wanted = s.step(grads, state, params)
    for how, restored in _restored(s, state, params):
        then = "jax.tree.map(lambda x: np.asarray(x).tobytes(), tx.init(params))"
        if how == "Flax":
            then = (
                "flax.serialization.from_bytes(tx.init(params), flax.serialization.to_bytes(tx.init(params)))"
            )
        again = s.attempt(restored, then, **trees)
        fact = form_difference(again, state, f"restored by {how}, the state", weak=False)
        fact = fact or difference(s.step(grads, again, params), wanted, f"restored by {how}, the next step")
        if fact:
            raise Broken(fact, trees, then)


def _restored(s: Subject, state: Any, params: Any) -> list[tuple[str, Any]]:
    def by_bytes() -> Any:
        leaves, treedef = jax.tree.flatten(state)
        return treedef.unflatten(map(_through_bytes, leaves))

    ways = [("bytes", by_bytes)]
    flax = sys.modules.get(
        "flax.serialization"
    )  # if the program uses it; importing it here would take seconds
    if flax is not None and not any(map(is_key, jax.tree.leaves(state))):
        written = flax.to_bytes
        ways.append(("Flax", lambda: flax.from_bytes(s.init(params), written(state))))
    return ways


def _through_bytes(x: Any) -> Any:
    if is_key(x):
        return jax.random.wrap_key_data(_through_bytes(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    if not hasattr(x, "dtype"):
        raise TypeError(f"the state holds {x!r}, which is no array")
    host = np.asarray(x)
    return jnp.asarray(np.frombuffer(host.tobytes(), host.dtype).reshape(host.shape))


@law("what tree_map_params takes for a parameter's has its shape")
def labels(s: Subject) -> None:
    params = s.params()
    state = s.init(params)
    wrong: list[str] = []

    def look(x: Any, p: Any) -> Any:
        if isinstance(x, optax.MaskedNode):
            return x
        if tuple(np.shape(x)) != tuple(np.shape(p)):
            wrong.append(
                f"an array of shape {tuple(np.shape(x))} for a parameter of shape {tuple(np.shape(p))}"
            )
        return x

    then = "optax.tree_map_params(tx, lambda x, p: (x.shape, p.shape), tx.init(params), params)"
    s.attempt(
        lambda: optax.tree_map_params(
            s.tx, look, state, params, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
        ),
        then,
        params=params,
    )
    if wrong:
        raise Broken(f"it labels {wrong[0]}", {"params": params}, then)


@law("the path of an array of the state that belongs to a parameter ends with the parameter's", "own trees")
def addresses(s: Subject) -> None:
    """Shapes that occur nowhere else tell whose an array is."""
    params = {"deep": {"w": jnp.ones((5, 7))}, "b": jnp.ones((11,))}
    for path, x in rows(s.init(params)):
        for owner, p in rows(params):
            if np.shape(x) == p.shape and not f"/{path}".endswith(f"/{owner}"):
                fact = f"{path!r} is shaped like {owner!r} and does not end with it"
                raise Broken(fact, {"params": params}, "tx.init(params)")
