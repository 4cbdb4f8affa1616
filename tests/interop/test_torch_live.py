"""Runs move between a torch that is there and here: GRADXFORM_TORCH is the interpreter of an environment with it.

`make check-torch` installs one and runs this. What needs no torch is in `test_torch.py`.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradxform.interop import from_optax, from_torch, restore_into, to_torch

from .problem import optax_s_own
from .torch_cases import NAMES, OPTIMIZERS, case

PYTHON = os.environ.get("GRADXFORM_TORCH")
SEEDS = range(*map(int, os.environ.get("GRADXFORM_TORCH_SEEDS", "0:4").split(":")))
SIDE = Path(__file__).with_name("torch_side.py")
HALF = 50

pytestmark = pytest.mark.skipif(PYTHON is None, reason="GRADXFORM_TORCH names no interpreter with torch")


def torch_does(what: str, folder: Path, cases: list[dict[str, Any]]) -> None:
    (folder / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [str(PYTHON), str(SIDE), what, str(folder), str(folder / "cases.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def like(case: dict[str, Any]) -> dict[str, Any]:
    """The parameters as they lie here: kernels are torch's weights transposed."""
    dtype = jnp.dtype(case["dtype"])
    pairs = itertools.pairwise(case["sizes"])
    bias = {} if case["matrices"] else {"bias": 0}
    return {
        f"layer{i}": {"kernel": jnp.zeros((a, b), dtype)} | {k: jnp.zeros(b, dtype) for k in bias}
        for i, (a, b) in enumerate(pairs)
    }


def loss(params: Any, x: Any, y: Any) -> Any:
    for i, layer in enumerate(params.values()):
        x = (x if i == 0 else jnp.tanh(x)) @ layer["kernel"]
        x = x + jnp.expand_dims(layer["bias"], 0) if "bias" in layer else x
    return jnp.mean(jnp.square(x - y))


def train(case: dict[str, Any], tx: Any, state: Any, params: Any, first: int, last: int) -> tuple[Any, Any]:
    draw = np.random.default_rng(case["seed"])
    x = draw.normal(size=(2 * HALF, 16, case["sizes"][0]))
    y = draw.normal(size=(2 * HALF, 16, case["sizes"][-1]))

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    dtype = jnp.dtype(case["dtype"])
    batches = (jnp.asarray(x[first:last], dtype), jnp.asarray(y[first:last], dtype))
    return jax.jit(lambda c: jax.lax.scan(step, c, batches))((params, state))[0]


def distance(got: Any, want: Any, start: Any) -> float:
    """How far weights are from others: as a part of the way that those have gone, in float32 of themselves."""

    def of_leaf(x: Any, y: Any, z: Any) -> float:
        x, y, z = np.asarray(x), np.asarray(y), np.asarray(z)
        size = np.max(np.abs(y if y.dtype == np.float32 else y - z)) + 1e-30
        return float(np.max(np.abs(x - y)) / size)

    return max(jax.tree.leaves(jax.tree.map(of_leaf, got, want, start)))


def bound(case: dict[str, Any]) -> float:
    return 1e-10 if case["dtype"] == "float64" else 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_moves_from_torch_and_to_it(optimizer: str, dtype: str, tmp_path: Path) -> None:
    """50 steps there and 50 here are 100 there, and 50 here and 50 there."""
    cases = [case(optimizer, seed, dtype) for seed in SEEDS]
    torch_does("begin", tmp_path, cases)
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        starts = [_there_and_here(i, one, tmp_path) for i, one in enumerate(cases)]
        torch_does("go_on", tmp_path, cases)
        for i, one in enumerate(cases):
            _returned(i, one, *starts[i], tmp_path)
    finally:
        jax.config.update("jax_enable_x64", False)


def _there_and_here(i: int, one: dict[str, Any], folder: Path) -> tuple[Any, float]:
    new = from_torch(folder / f"{i}-start.npz", None, like(one), **NAMES)
    half = from_torch(folder / f"{i}-half.npz", None, like(one), **NAMES)
    assert all(x.dtype == one["dtype"] for x in jax.tree.leaves(half.params))
    params, _ = train(one, half.transform, half.state, half.params, HALF, 2 * HALF)
    assert distance(params, back(folder / f"{i}-end.npz"), new.params) < bound(one), one
    params, state = train(one, new.transform, new.state, new.params, 0, HALF)
    run = to_torch(new.transform, state, params, folder / f"{i}-start.npz", **NAMES, step=HALF)
    run.save(folder / f"{i}-moved-here-{HALF}.npz")
    # A gradient of nearly zero at the first step of Adagrad is a step of plus or minus the rate: in float32 runs part
    # before anything is moved, and what is asked is that the move adds nothing to that.
    apart = distance(params, half.params, new.params) if one["dtype"] == "float32" else 0.0
    return new.params, bound(one) + 10 * apart


def _returned(i: int, one: dict[str, Any], start: Any, most: float, folder: Path) -> None:
    got, want = (back(folder / name) for name in (f"{i}-returned-here-{HALF}.npz", f"{i}-end.npz"))
    assert distance(got, want, start) < most, one


def back(path: Path) -> Any:
    """Weights of torch's as they lie here."""
    found: dict[str, dict[str, Any]] = {}
    with np.load(path) as file:
        for key in file.files:
            layer, kind = key.split(".")
            found.setdefault(layer, {})["kernel" if kind == "weight" else kind] = file[key].T
    return found


#: What torch calls it, with what options, and who goes on with it in Optax.
THROUGH_OPTAX: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "AdamW": (
        {"lr": 3e-3, "betas": [0.8, 0.97], "weight_decay": 0.05},
        lambda: optax.inject_hyperparams(optax.adamw)(3e-3, b1=0.8, b2=0.97, weight_decay=0.05),
    ),
    "Adam": (
        {"lr": 2e-3, "eps": 1e-6},
        lambda: optax.apply_if_finite(optax.chain(optax.scale_by_adam(eps=1e-6), optax.scale(-2e-3)), 3),
    ),
    "SGD": (
        {"lr": 0.02, "momentum": 0.8},
        lambda: optax.partition(
            {"kernel": optax.sgd(0.02, 0.8), "bias": optax.sgd(0.02, 0.8)},
            lambda p: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, p),
        ),
    ),
    "RMSprop": (
        {"lr": 1e-3, "alpha": 0.95, "eps": 1e-5},
        lambda: optax.masked(
            optax.rmsprop(1e-3, 0.95, 1e-5, eps_in_sqrt=False), lambda p: jax.tree.map(lambda _: True, p)
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", THROUGH_OPTAX)
@pytest.mark.usefixtures("x64")
def test_a_run_goes_through_optax_and_back_to_torch(optimizer: str, tmp_path: Path) -> None:
    """torch 50 steps, gradxform 12, Optax 13, gradxform 12, torch 13: where torch alone is after 100."""
    options, made = THROUGH_OPTAX[optimizer]
    one = case(optimizer, 11) | {"options": options, "scheduler": None}
    one["groups"] = [{"names": [name for group in one["groups"] for name in group["names"]]}]
    torch_does("begin", tmp_path, [one])
    start = from_torch(tmp_path / "0-start.npz", None, like(one), **NAMES).params
    found = from_torch(tmp_path / "0-half.npz", None, like(one), **NAMES)
    tx, other = found.transform, made()
    with optax_s_own():
        params, state = train(one, tx, found.state, found.params, 50, 62)
        state, report = restore_into(other, params, state, saved_by=tx)
        assert not report.dropped, report
        params, state = train(one, other, state, params, 62, 75)
        state, _ = from_optax(state, tx, params, made_by=other)
        params, state = train(one, tx, state, params, 75, 87)
    to_torch(tx, state, params, tmp_path / "0-half.npz", **NAMES, step=87).save(
        tmp_path / "0-moved-chain-87.npz"
    )
    torch_does("go_on", tmp_path, [one])
    assert distance(back(tmp_path / "0-returned-chain-87.npz"), back(tmp_path / "0-end.npz"), start) < 1e-10


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_scheduler_that_is_called_once_an_epoch(tmp_path: Path) -> None:
    """And the file as safetensors."""
    one = case("SGD", 3) | {"scheduler": ["StepLR", {"step_size": 2, "gamma": 0.5}], "steps_per_epoch": 8}
    torch_does("begin", tmp_path, [one])
    start = from_torch(tmp_path / "0-start.npz", None, like(one), **NAMES, steps_per_epoch=8)
    half = from_torch(tmp_path / "0-half.npz", None, like(one), **NAMES, steps_per_epoch=8, step=HALF)
    params, _ = train(one, half.transform, half.state, half.params, HALF, 2 * HALF)
    assert distance(params, back(tmp_path / "0-end.npz"), start.params) < 1e-10
