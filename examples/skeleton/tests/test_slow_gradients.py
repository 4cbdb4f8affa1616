"""The method against NumPy, what every transform should keep, and that it is a value that composes."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_gradients
from slow_gradients import amplify_slow_gradients

import gradxform as gx
from gradxform import testing


def by_hand(gradients, alpha, lamb):
    """From the paper, in float64, an array at a time."""
    h, updates = np.zeros_like(gradients[0]), []
    for g in gradients:
        h = alpha * h + (1 - alpha) * g
        updates.append(g + lamb * h)
    return np.stack(updates)


def test_it_is_the_method():
    gradients = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    tx = amplify_slow_gradients(0.9, 3.0)

    def step(state, g):
        u, state = tx.update(g, state)
        return state, u

    _, updates = jax.lax.scan(step, tx.init(jnp.zeros(3)), gradients)
    np.testing.assert_allclose(updates, by_hand(gradients.astype(np.float64), 0.9, 3.0), rtol=1e-5, atol=1e-6)


def test_it_keeps_the_laws():
    testing.check_transform(amplify_slow_gradients(), seed=0)


def test_it_is_a_value_and_composes():
    tx = gx.chain(gx.clip_by_global_norm(1.0), amplify_slow_gradients(lamb=5.0), gx.adamw(1e-3))
    assert gx.from_json(gx.to_json(tx)) == tx
    assert "amplify_slow_gradients(lamb=5.0)" in repr(tx)
    assert len(tx.plan.segments) == 1  # one pass over each array, the clip included
    params = {"w": jnp.ones((4, 4)), "b": jnp.zeros(4)}
    small = gx.lowbit.quantized(tx, min_size=1)  # its average in 8 bits, by its role
    updates, _ = jax.jit(small.update)(params, small.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == {"w": (4, 4), "b": (4,)}


def test_a_wrong_number_is_refused_where_it_is_given():
    with pytest.raises(ValueError, match=r"amplify_slow_gradients\(lamb=-1\): wanted"):
        amplify_slow_gradients(lamb=-1)
    with pytest.raises(ValueError, match=r"amplify_slow_gradients\(alpha=1.5\): wanted"):
        amplify_slow_gradients(alpha=1.5)


def test_the_example_in_the_docstring():
    assert doctest.testmod(slow_gradients).failed == 0
