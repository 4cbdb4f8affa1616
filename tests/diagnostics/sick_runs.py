"""Small trainings, compiled once a shape: a two-layer network on points of a noisy teacher, in batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

Rows = list[dict[str, Any]]
SIZES = (4, 8, 1)


def start(seed: int = 0, dtype: Any = jnp.float32) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        f"layer_{i}": {
            "kernel": (jax.random.normal(key, (m, n)) * m**-0.5).astype(dtype),
            "bias": jnp.zeros(n, dtype),
        }
        for i, (key, m, n) in enumerate(zip(keys, SIZES[:-1], SIZES[1:], strict=True))
    }


def batches(seed: int, steps: int, size: int, noise: float) -> tuple[Any, Any]:
    """Inputs and targets for every step. Of a size of 0 all steps have the same points."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(steps if size else 1, size or 32, SIZES[0])).astype(np.float32)
    y = np.sin(x.sum(-1, keepdims=True)) + noise * random.normal(size=(*x.shape[:2], 1))
    shape = (steps, *x.shape[1:])
    return jnp.array(np.broadcast_to(x, shape)), jnp.array(
        np.broadcast_to(y, (steps, *x.shape[1:2], 1)), jnp.float32
    )


def loss_of(params: Any, x: Any, y: Any) -> Any:
    a, b = params["layer_0"], params["layer_1"]
    x = x.astype(a["kernel"].dtype)
    hidden = jnp.tanh(x @ a["kernel"] + a["bias"][None])
    return jnp.mean((hidden @ b["kernel"] + b["bias"][None] - y.astype(x.dtype)).astype(jnp.float32) ** 2)


@partial(jax.jit, static_argnames=("tx", "loss", "leaves", "edit"))
def readings(tx: Any, loss: Callable[..., Any], leaves: bool, edit: Any, params: Any, data: Any) -> Any:
    """The readings of every step; `edit` changes gradients."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, *batch)
        grads = grads if edit is None else edit(grads)
        updates, new = tx.update(grads, state, params)
        read = {"loss": value, **gx.metrics(new)}
        if leaves:
            read |= gx.leaf_readings(params=params, grads=grads, updates=updates, state=new)
        return (gx.apply_updates(params, updates), new), read

    return jax.lax.scan(step, (params, tx.init(params)), data)[1]


def train(
    tx: Any,
    steps: int = 200,
    *,
    seed: int = 0,
    size: int = 16,
    noise: float = 0.1,
    dtype: Any = jnp.float32,
    loss: Callable[..., Any] = loss_of,
    leaves: bool = False,
    data: Any = None,
    params: Any = None,
) -> dict[str, np.ndarray]:
    """The readings of a run as a dict of arrays."""
    data = batches(seed, steps, size, noise) if data is None else data
    params = start(seed, dtype) if params is None else params
    return {k: np.asarray(v, np.float64) for k, v in readings(tx, loss, leaves, None, params, data).items()}


def rows(history: dict[str, np.ndarray]) -> Rows:
    """The same as a list of dicts."""
    length = len(history["loss"])
    return [{"step": i, **{k: float(v[i]) for k, v in history.items()}} for i in range(length)]


def rules(history: Any, tx: Any = None, **more: Any) -> list[str]:
    """The names of the rules that find something."""
    return [finding.rule for finding in gx.diagnose(history, tx, **more).findings]
