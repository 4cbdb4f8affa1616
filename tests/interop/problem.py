"""A small least-squares problem, and loops that train on it under strict settings."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

_RANDOM = np.random.default_rng(0)
X = jnp.asarray(_RANDOM.normal(size=(16, 3)), jnp.float32)
Y = X @ jnp.asarray(_RANDOM.normal(size=(3, 2)), jnp.float32) + 0.5


def params(dtype: Any = jnp.float32) -> dict[str, Any]:
    """Where every run starts."""
    random = np.random.default_rng(1)
    return {
        "w": jnp.asarray(random.normal(size=(3, 2)), dtype),
        "b": jnp.asarray(random.normal(size=2), dtype),
    }


def loss(p: Any) -> Any:
    """The mean of squares."""
    return jnp.mean(jnp.square(X @ p["w"] + jnp.expand_dims(p["b"], 0) - Y))


grad = jax.grad(loss)


@contextlib.contextmanager
def optax_s_own() -> Iterator[None]:
    """Optax multiplies floats by integers: what is Optax's alone runs under JAX's standard promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def stepper(tx: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A compiled step of training; `value`, `grad` and `value_fn` are passed to whoever wants them."""
    extended = hasattr(tx, "update") and isinstance(tx, optax.GradientTransformationExtraArgs)

    def step(p: Any, state: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p)
        extra = {"value": value, "grad": g, "value_fn": loss} if extended else {}
        updates, state = tx.update(g, state, p, **extra)
        return optax.apply_updates(p, updates), state

    return jax.jit(step)


def train(tx: Any, count: int = 30, start: Any = None) -> tuple[Any, Any]:
    """Parameters and state after `count` steps from the start."""
    p = params() if start is None else start
    step, state = stepper(tx), jax.jit(tx.init)(p)
    for _ in range(count):
        p, state = step(p, state)
    return p, state


def fall(p: Any) -> float:
    """By which factor the loss has fallen."""
    return float(loss(params()) / loss(p))


def assert_close(got: Any, wanted: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Same structure, dtypes and nearly the same numbers."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)
