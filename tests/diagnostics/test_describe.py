"""`describe`: when it warns that a chain climbs."""

from typing import Any

import jax.numpy as jnp
import optax
import pytest

import gradxform as gx

PARAMS = {"a": jnp.ones(2), "b": jnp.ones(3)}

DOWNHILL = {
    "recipe": gx.adamw(0.1),
    "two recipes side by side": gx.chain(gx.masked(gx.sgd(0.1), "a"), gx.masked(gx.sgd(0.2), "b")),
    "groups": gx.param_groups({"a": gx.sgd(0.1), "b": gx.adam(0.1)}),
    "frozen": gx.param_groups({"a": gx.sgd(0.1), "b": None}),
    "what cannot be read": gx.chain(optax.adam(0.1)),
}


@pytest.mark.parametrize("name", DOWNHILL)
def test_what_goes_downhill_is_not_warned_of(name: str) -> None:
    assert "WARNING" not in str(gx.describe(DOWNHILL[name], PARAMS))


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (gx.scale_by_adam(), "WARNING: this ends uphill"),
        (gx.chain(gx.sgd(0.1), gx.scale(-1.0)), "WARNING: this ends uphill"),
        (gx.masked(gx.sgd(0.1), "a"), "WARNING: b ends uphill"),
        (gx.param_groups({"a": gx.sgd(0.1), "b": gx.scale_by_sign()}), "WARNING: b ends uphill"),
    ],
)
def test_what_ends_uphill_is_named(tx: Any, words: str) -> None:
    assert words in str(gx.describe(tx, PARAMS))
