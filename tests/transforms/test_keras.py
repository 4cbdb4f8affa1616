"""Double precision against what Keras did with the same gradients: 1e-9 of the way that a leaf has gone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference

GOLDEN = reference.Golden.load("keras.npz")
RUNS = [(optimizer, name) for optimizer, runs in GOLDEN.meta["runs"].items() for name in runs]
WORDS = {"beta_1": "b1", "beta_2": "b2", "epsilon": "eps", "rho": "decay"}

#: By Keras' name. Where Keras' rule and defaults are ours, the preset is empty or there is none (Lion).
RECIPES: dict[str, Callable[..., Any]] = {
    "SGD": gx.sgd,
    "Adam": gx.adam,
    "AdamW": gx.adamw,
    "Nadam": gx.nadam,
    "Adamax": gx.adamax,
    "Adagrad": gx.adagrad,
    "Adadelta": gx.adadelta,
    "RMSprop": gx.rmsprop,
    "Lion": gx.lion,
}


def from_keras(optimizer: str, options: dict[str, Any], rates: Any = None) -> gx.GradientTransformation:
    """Keras' options in our words. `rates` are learning rates that were set step by step.

    `rho` is RMSprop's decay; Adadelta calls it rho here too. Keras' Lion has no weight decay by default (ours: 1e-3).
    """
    options = {
        k if optimizer == "Adadelta" and k == "rho" else WORDS.get(k, k): v for k, v in options.items()
    }
    rate = options.pop("learning_rate")
    if options.pop("rates", False):
        rate = lambda count: jnp.asarray(rates)[count]  # noqa: E731
    if optimizer == "Lion":
        return gx.lion(rate, **{"weight_decay": 0.0} | options)
    return RECIPES[optimizer](rate, **options, like="keras")


@pytest.mark.parametrize(("optimizer", "name"), RUNS)
@pytest.mark.usefixtures("x64")
def test_every_step_of_keras(optimizer: str, name: str) -> None:
    key = f"{optimizer}:{name}"
    tx = from_keras(optimizer, GOLDEN.meta["runs"][optimizer][name], GOLDEN.arrays.get(f"{key}/rates"))
    start = {k: jnp.asarray(v) for k, v in GOLDEN.tree("start").items()}
    gradients = {k: jnp.asarray(v) for k, v in GOLDEN.tree("gradients").items()}

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), params

    _, path = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g))((start, tx.init(start)), gradients)
    for leaf, want in GOLDEN.tree(f"{key}/params").items():
        assert path[leaf].dtype == jnp.float64
        gone = np.max(np.abs(want - np.asarray(start[leaf])), axis=tuple(range(1, want.ndim)))
        error = np.max(np.abs(np.asarray(path[leaf]) - want), axis=tuple(range(1, want.ndim)))
        assert np.all(error <= 1e-9 * gone), (leaf, np.max(error / gone))
