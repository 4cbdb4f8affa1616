"""Trainings of other kinds than `sick_runs`: classes by a deep network, words, parities, counts, densities."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from tests.diagnostics.sick_runs import readings

Arrays = Any


def dense(seed: int, *sizes: int, scale: float = 1.4) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        f"layer_{i}": {
            "kernel": jnp.array(scale * m**-0.5 * random.normal(size=(m, n)), jnp.float32),
            "bias": jnp.zeros(n),
        }
        for i, (m, n) in enumerate(pairwise(sizes))
    }


def forward(params: Any, x: Any, act: Any = jax.nn.relu) -> Any:
    for i in range(len(params)):
        layer = params[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"][None]
        x = act(x) if i + 1 < len(params) else x
    return x


def crossed(logits: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), labels[:, None], 1))


def classes_loss(params: Any, x: Any, y: Any) -> Any:
    return crossed(forward(params, x.astype(params["layer_0"]["kernel"].dtype)), y)


def classes(seed: int, steps: int, size: int, spread: float = 1.0, points: int = 0) -> Any:
    """Ten clouds in 16 dimensions; of `points` > 0 an epoch has no more than these, in the same order each time."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(10, 16))
    n = points or steps * size
    y = random.integers(10, size=n)
    x = centers[y] + spread * random.normal(size=(n, 16))
    pick = np.arange(steps * size) % n
    return jnp.array(x[pick].reshape(steps, size, 16), jnp.float32), jnp.array(y[pick].reshape(steps, size))


def words(seed: int, steps: int, size: int) -> Any:
    """Pairs of words of 64, of which some are frequent, and what follows."""
    random = np.random.default_rng(seed)
    table = np.random.default_rng(3).dirichlet(np.full(64, 0.1), size=64)
    often = 1 / np.arange(1, 65)
    x = random.choice(64, p=often / often.sum(), size=(steps, size))
    u = random.uniform(size=(steps, size, 1))
    y = (u > np.cumsum(table, 1)[x]).sum(-1).clip(0, 63)
    return jnp.array(x), jnp.array(y)


def words_start(seed: int) -> Any:
    random = np.random.default_rng(seed)
    return {
        "embed": jnp.array(0.3 * random.normal(size=(64, 16)), jnp.float32),
        "norm": {"scale": jnp.ones(16)},
        "head": jnp.array(0.25 * random.normal(size=(16, 64)), jnp.float32),
    }


def words_loss(params: Any, x: Any, y: Any) -> Any:
    h = params["embed"][x]
    h = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6) * params["norm"]["scale"][None]
    return crossed(h @ params["head"], y)


def line(seed: int, steps: int, size: int, noise: float, scale: float = 1.0, heavy: bool = False) -> Any:
    random = np.random.default_rng(seed)
    x = random.normal(size=(steps, size, 8)) * np.geomspace(1, 1 / scale, 8)
    e = random.standard_t(2.5, size=(steps, size)) if heavy else random.normal(size=(steps, size))
    return jnp.array(x, jnp.float32), jnp.array(x @ np.arange(1, 9) / 4 + noise * e, jnp.float32)


def line_loss(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def huber_loss(params: Any, x: Any, y: Any) -> Any:
    r = jnp.abs(x @ params["w"] + params["b"] - y)
    return jnp.mean(jnp.where(r < 1, 0.5 * r * r, r - 0.5))


def line_start(seed: int = 0) -> Any:
    return {"w": jnp.zeros(8), "b": jnp.zeros([])}


def parity(seed: int, steps: int, size: int) -> Any:
    random = np.random.default_rng(seed)
    x = random.choice([-1.0, 1.0], size=(steps, size, 8))
    return jnp.array(x, jnp.float32), jnp.array(x[..., 0] * x[..., 1] * x[..., 2], jnp.float32)


def parity_loss(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((forward(params, x, jnp.tanh)[:, 0] - y) ** 2)


def density_loss(params: Any, x: Any, y: Any) -> Any:
    """The negative log-likelihood of a line with a small spread: it goes below zero."""
    r = (x @ params["w"] + params["b"] - y) * jnp.exp(-params["log_sigma"])
    return jnp.mean(0.5 * r * r) + params["log_sigma"]


def count_loss(params: Any, x: Any, y: Any) -> Any:
    """Poisson regression."""
    z = 0.3 * (x @ params["w"] + params["b"])
    return jnp.mean(jnp.exp(z) - jnp.round(jnp.exp(jnp.clip(0.1 * y, -5, 2))) * z)


def copy_loss(params: Any, x: Any, y: Any) -> Any:
    """An autoencoder."""
    del y
    return jnp.mean((forward(params, x, jnp.tanh) - x) ** 2)


def run(tx: Any, loss: Any, params: Any, data: Any, edit: Any = None) -> dict[str, np.ndarray]:
    """The readings of a run under a probe, with those of the leaves."""
    found = readings(gx.probe(tx), loss, True, edit, params, data)
    return {k: np.asarray(v, np.float64) for k, v in found.items()}
