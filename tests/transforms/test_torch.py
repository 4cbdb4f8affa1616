"""Double precision against what torch did with the same gradients: 1e-9 of the way that a leaf has gone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference

RUNS = [
    (file, name)
    for file in ("torch_sgd.npz", "torch_adam.npz", "torch_adamw.npz")
    for name in reference.Golden.load(file).meta["runs"]
]


def from_torch(optimizer: str, options: dict[str, Any]) -> gx.GradientTransformation:
    """torch's options in our words. Its `weight_decay` is L2 but for AdamW, where its default is 0.01."""
    kwargs = dict(options)
    rate = kwargs.pop("lr")
    if optimizer == "SGD":
        decay = kwargs.pop("weight_decay", 0.0)
        tx = gx.sgd(rate, **kwargs)
    else:
        b1, b2 = kwargs.pop("betas", (0.9, 0.999))
        decay = kwargs.pop("weight_decay", 0.01 if optimizer == "AdamW" else 0.0)
        if optimizer == "AdamW":
            return gx.adamw(rate, b1, b2, weight_decay=decay, **kwargs)
        tx = gx.chain(gx.scale_by_adam(b1, b2, **kwargs), gx.scale_by_learning_rate(rate))
    return gx.chain(gx.add_decayed_weights(decay), tx) if decay else tx


@pytest.mark.parametrize(("file", "name"), RUNS)
@pytest.mark.usefixtures("x64")
def test_every_step_of_torch(file: str, name: str) -> None:
    golden = reference.Golden.load(file)
    tx = from_torch(golden.meta["optimizer"], golden.meta["runs"][name])
    start = {k: jnp.asarray(v) for k, v in golden.tree("start").items()}
    gradients = {k: jnp.asarray(v) for k, v in golden.tree("gradients").items()}

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), params

    _, path = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g))((start, tx.init(start)), gradients)
    wanted = golden.tree(f"{name}/params")
    for leaf, want in wanted.items():
        assert path[leaf].dtype == jnp.float64
        gone = np.max(np.abs(want - np.asarray(start[leaf])), axis=tuple(range(1, want.ndim)))
        error = np.max(np.abs(np.asarray(path[leaf]) - want), axis=tuple(range(1, want.ndim)))
        assert np.all(error <= 1e-9 * gone), (leaf, np.max(error / gone))
