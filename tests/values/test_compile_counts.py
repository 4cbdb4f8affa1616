"""How often a step is compiled: once for equal transforms wherever they stand, once for a thousand steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gradxform as gx

PARAMS = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
REBUILDS = 5


def standard() -> Any:
    """The standard recipe, built anew on every call."""
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b2=0.95),
        gx.add_decayed_weights(0.1, mask=gx.matrices(exclude="embed*")),
        gx.warmup_cosine(3e-4, 10, 100),
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "standard": standard,
    "adamw": lambda: gx.adamw(3e-4, b1=gx.linear_schedule(0.8, 0.9, 10), mask={"w": True, "b": False}),
    "groups": lambda: gx.param_groups({"b": None, "*": gx.sgd(0.1, momentum=0.9)}),
    "array": lambda: gx.sgd(jnp.float32(0.1)),
}


class Traces:
    """A step of training that counts how often it is traced."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, tx: Any, params: Any) -> Any:
        self.count += 1
        return tx.update(params, tx.init(params), params)[0]


def count_static(make: Callable[[], Any], wrap: Any) -> int:
    """Traces for rebuilt transforms as the first argument of a wrapped function."""
    traces = Traces()
    step = wrap(lambda tx, params: traces(tx, params))
    for _ in range(REBUILDS):
        step(make(), PARAMS)
    return traces.count


class Trainer(eqx.Module):
    """A module with a transform among its fields."""

    tx: Any
    params: Any


class StaticTrainer(eqx.Module):
    """The same with the transform in the treedef."""

    params: Any
    tx: Any = eqx.field(static=True)


def count_field(make: Callable[[], Any], module: Any, wrap: Any) -> int:
    traces = Traces()
    step = wrap(lambda trainer: traces(trainer.tx, trainer.params))
    for _ in range(REBUILDS):
        step(module(tx=make(), params=PARAMS))
    return traces.count


FORMS: dict[str, Callable[[Callable[[], Any]], int]] = {
    "jit, static argument": lambda make: count_static(make, partial(jax.jit, static_argnums=0)),
    "jit, ordinary argument": lambda make: count_static(make, jax.jit),
    "eqx.filter_jit": lambda make: count_static(make, eqx.filter_jit),
    "nnx.jit": lambda make: count_static(make, nnx.jit),
    "nnx.jit, static": lambda make: count_static(make, partial(nnx.jit, static_argnums=0)),
    "field, filter_jit": lambda make: count_field(make, Trainer, eqx.filter_jit),
    "field, jit": lambda make: count_field(make, Trainer, jax.jit),
    "static field, filter_jit": lambda make: count_field(make, StaticTrainer, eqx.filter_jit),
    "static field, jit": lambda make: count_field(make, StaticTrainer, jax.jit),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MAKERS)
def test_an_equal_transform_compiles_once(name: str, form: str) -> None:
    assert FORMS[form](MAKERS[name]) == 1


@pytest.mark.parametrize("form", FORMS)
def test_another_transform_compiles_again(form: str) -> None:
    rates = iter(range(1, 100))
    assert FORMS[form](lambda: gx.sgd(float(next(rates)))) == REBUILDS


@pytest.mark.parametrize(
    "form", ["eqx.filter_jit", "field, filter_jit", "static field, filter_jit", "jit, static argument"]
)
def test_closures_compile_every_time(form: str) -> None:
    """The harness can tell: Optax's own transforms are traced once a rebuild."""
    with jax.numpy_dtype_promotion("standard"):  # Optax's formulas promote
        assert FORMS[form](lambda: optax.adamw(3e-4)) == REBUILDS


def test_jit_of_update_compiles_once_while_an_equal_one_lives() -> None:
    traced = 0

    def count(count: Any) -> Any:
        nonlocal traced
        traced += 1
        return 0.1 + 0 * jnp.asarray(count, jnp.float32)

    alive = gx.sgd(count)
    for _ in range(REBUILDS):
        tx = gx.sgd(count)
        jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    assert traced == 1
    assert alive.update is tx.update


def test_schedules_on_every_hyperparameter_compile_once_for_a_thousand_steps() -> None:
    ramp = partial(gx.linear_schedule, transition_steps=1000)
    tx = gx.chain(
        gx.clip_by_global_norm(ramp(1.0, 2.0)),
        gx.clip(ramp(1.0, 0.5)),
        gx.trace(ramp(0.1, 0.2)),
        gx.scale_by_adam(
            b1=ramp(0.8, 0.9), b2=ramp(0.9, 0.999), eps=ramp(1e-6, 1e-8), eps_root=ramp(1e-12, 0.0)
        ),
        gx.add_decayed_weights(ramp(0.1, 0.0), mask=gx.matrices()),
        gx.scale_by_learning_rate(gx.warmup_cosine(1e-2, 100, 1000)),
    )
    recipe = gx.sgd(ramp(1e-2, 1e-3), momentum=ramp(0.8, 0.9), nesterov=True)
    traces = 0

    @jax.jit
    def step(params: Any, states: Any) -> Any:
        nonlocal traces
        traces += 1
        grads = jax.tree.map(lambda p: 2 * p, params)
        new = []
        for one, state in zip((tx, recipe), states, strict=True):
            updates, state = one.update(grads, state, params)
            params = gx.apply_updates(params, updates)
            new.append(state)
        return params, tuple(new)

    params, states = PARAMS, (tx.init(PARAMS), recipe.init(PARAMS))
    for _ in range(1000):
        params, states = step(params, states)
    assert traces == 1
    assert int(states[0][3].count) == 1000
    assert all(bool(jnp.all(jnp.abs(leaf) < 1e-2)) for leaf in jax.tree.leaves(params))


def test_a_schedule_as_an_argument_compiles_once() -> None:
    traces = 0

    @jax.jit
    def step(schedule: Any, count: Any) -> Any:
        nonlocal traces
        traces += 1
        return schedule(count)

    for count in range(5):
        step(gx.warmup_cosine(1.0, 10, 100), count)
    assert traces == 1
