"""A mask leaves the holes that Optax leaves: one `MaskedNode` for a branch that is turned off as a whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

PARAMS = {
    "a": [jnp.ones(1), (jnp.ones(2), jnp.ones(3))],
    "b": {"c": jnp.ones(4), "d": jnp.ones(5)},
    "none": None,
    "empty": {},
}
MASKS = {
    "a branch": {"a": [True, (True, False)], "b": False, "none": None, "empty": {}},
    "an empty branch": {"a": False, "b": True, "none": None, "empty": False},
    "all": True,
    "none": False,
    "a function": lambda tree: jax.tree.map(lambda x: x.size > 2, tree),
}
INNER: dict[str, Callable[[Any], Any]] = {
    "rules": lambda library: library.adam(0.1),
    "foreign": lambda library: optax.scale_by_yogi(),
    "both": lambda library: library.chain(library.trace(0.9), optax.scale_by_yogi(), library.scale(-1.0)),
}


def same_structure(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b)


@pytest.mark.interop
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("mask", MASKS)
def test_a_masked_state_is_that_of_optax(mask: str, inner: str) -> None:
    ours, theirs = gx.masked(INNER[inner](gx), MASKS[mask]), optax.masked(INNER[inner](optax), MASKS[mask])
    grads = jax.tree.map(lambda x: 0.5 * x, PARAMS)
    state, other = ours.init(PARAMS), theirs.init(PARAMS)
    assert same_structure(state, other)
    for _ in range(3):
        updates, state = ours.update(grads, state, PARAMS)
        with jax.numpy_dtype_promotion("standard"):
            wanted, other = theirs.update(grads, other, PARAMS)
        assert same_structure(state, other)
        assert same_structure(updates, wanted)
        for got, want in zip(jax.tree.leaves(updates), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4)
    ours.update(grads, other, PARAMS)  # a run that Optax has started


@pytest.mark.parametrize("inner", INNER)
def test_masks_inside_masks(inner: str) -> None:
    def nested(library: Any) -> Any:
        return library.masked(library.masked(INNER[inner](library), MASKS["a branch"]), MASKS["a function"])

    grads = jax.tree.map(lambda x: 0.5 * x, PARAMS)
    state = nested(gx).init(PARAMS)
    assert same_structure(state, nested(optax).init(PARAMS))
    updates, new = jax.jit(nested(gx).update)(grads, state, PARAMS)
    assert same_structure(new, state)
    np.testing.assert_array_equal(updates["b"]["d"], grads["b"]["d"])  # the inner mask hides it
    np.testing.assert_array_equal(updates["a"][0], grads["a"][0])  # the outer one hides it
