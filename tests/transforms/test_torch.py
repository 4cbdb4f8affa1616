"""Double precision against what torch did with the same gradients: 1e-9 of the way that a leaf has gone.

What each of torch's options is called here is `gradxform.interop.torch_kinds`, by which runs move.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.interop import torch_kinds
from tests import reference

#: What torch's constructors take for what is not said.
DEFAULTS = json.loads((reference.golden.FOLDER / "torch_defaults.json").read_text("utf-8"))["optimizers"]
FILES = [
    *("torch_sgd.npz", "torch_sgd_more.npz", "torch_adam.npz", "torch_adam_more.npz"),
    *("torch_adamw.npz", "torch_adamw_more.npz", "torch_nadam.npz", "torch_radam.npz", "torch_adamax.npz"),
    *(
        "torch_adagrad.npz",
        "torch_adadelta.npz",
        "torch_rmsprop.npz",
        "torch_rprop.npz",
        "torch_adafactor.npz",
    ),
]
#: All but the first of a file are marked slow.
RUNS = [
    pytest.param(file, name, marks=pytest.mark.slow if i else ())
    for file in FILES
    for i, name in enumerate(reference.Golden.load(file).meta["runs"])
]


def table(values: Any) -> Callable[[Any], Any]:
    """A schedule that looks its value up."""
    return lambda count: jnp.asarray(values)[count]


def transform(optimizer: str, options: dict[str, Any], rates: Any = None) -> gx.GradientTransformation:
    """torch's options in our words. `rates` are learning rates that were set step by step."""
    options = DEFAULTS[optimizer] | options
    changes = options.pop("rates", False)
    return torch_kinds.make(optimizer, options, table(rates) if changes else options["lr"])


@pytest.mark.parametrize(("file", "name"), RUNS)
@pytest.mark.usefixtures("x64")
def test_every_step_of_torch(file: str, name: str) -> None:
    golden = reference.Golden.load(file)
    rates = golden.arrays.get(f"{name}/rates")
    tx = transform(golden.meta["optimizer"], golden.meta["runs"][name], rates)
    start = {k: jnp.asarray(v) for k, v in golden.tree("start").items()}
    gradients = {k: jnp.asarray(v) for k, v in golden.tree("gradients").items()}

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), params

    _, path = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g))((start, tx.init(start)), gradients)
    wanted = golden.tree(f"{name}/params")
    kept = np.array(golden.meta.get("kept", range(1, golden.meta["steps"] + 1))) - 1
    for leaf, want in wanted.items():
        assert path[leaf].dtype == jnp.float64
        got = np.asarray(path[leaf])[kept]
        gone = np.max(np.abs(want - np.asarray(start[leaf])), axis=tuple(range(1, want.ndim)))
        error = np.max(np.abs(got - want), axis=tuple(range(1, want.ndim)))
        assert np.all(error <= 1e-9 * gone), (leaf, np.max(error / gone))
