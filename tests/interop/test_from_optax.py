"""`from_optax`: a run that was started with Optax's wrappers goes on under ours as it would have gone on there."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax.training.train_state import TrainState

import gradxform as gx
from gradxform.interop import from_optax
from tests.interop.problem import optax_s_own

pytestmark = pytest.mark.interop

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.full(3, 0.5)}


@pytest.fixture(autouse=True)
def relaxed() -> Iterator[None]:
    with optax_s_own():
        yield


def run(tx: Any, params: Any, state: Any, steps: int, bad: int = -1) -> tuple[Any, Any]:
    """`steps` calls of update, all in one program; call number `bad` gets a NaN."""

    def step(carry: Any, number: Any) -> Any:
        params, state = carry
        scale = jnp.where(number == bad, jnp.nan, 1.0).astype(jnp.float32)
        grads = jax.tree.map(lambda p: (jnp.cos(3 * p) + 0.1 * number) * scale, params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps, dtype=jnp.float32))[0])((params, state))


RATE = optax.linear_schedule(0.1, 0.0, 20)
#: What made the state, and what goes on.
MOVES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "a window that is open": (
        lambda: optax.MultiSteps(optax.adamw(0.1), 4),
        lambda: gx.accumulate(gx.adamw(0.1), 4),
    ),
    "a window around a scheduled chain": (
        lambda: optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE)), 2),
        lambda: gx.accumulate(
            gx.chain(gx.clip_by_global_norm(1.0), gx.adam(gx.linear_schedule(0.1, 0.0, 20))), 2
        ),
    ),
    "steps that were skipped": (
        lambda: optax.apply_if_finite(optax.adam(0.1), 10),
        lambda: gx.guard(gx.adam(0.1)),
    ),
    "numbers that were set": (
        lambda: optax.inject_hyperparams(optax.adamw)(0.1, b1=0.8),
        lambda: gx.tunable(gx.adamw(0.1, b1=0.8), "learning_rate"),
    ),
    "a schedule that was injected": (
        lambda: optax.inject_hyperparams(optax.adam)(RATE),
        lambda: gx.adam(gx.linear_schedule(0.1, 0.0, 20)),
    ),
    "groups": (
        lambda: optax.partition({"m": optax.adam(0.1), "v": optax.sgd(0.1, 0.9)}, {"w": "m", "b": "v"}),
        lambda: gx.param_groups({"w": gx.adam(0.1), "b": gx.sgd(0.1, 0.9)}),
    ),
    "a mask": (
        lambda: optax.chain(optax.adam(0.1), optax.masked(optax.trace(0.5), {"w": True, "b": False})),
        lambda: gx.chain(gx.adam(0.1), gx.masked(gx.trace(0.5), gx.matrices())),
    ),
    "contrib": (
        lambda: optax.MultiSteps(optax.contrib.ademamix(0.1), 2),
        lambda: gx.accumulate(optax.contrib.ademamix(0.1), 2),
    ),
    "schedule-free in groups": (
        lambda: optax.chain(optax.clip(1.0), optax.contrib.schedule_free_adamw(0.1)),
        lambda: gx.chain(gx.clip(1.0), optax.contrib.schedule_free_adamw(0.1)),
    ),
    "muon": (lambda: optax.contrib.muon(0.1), lambda: gx.muon(0.1)),
}
SLOW = {"contrib", "schedule-free in groups", "muon", "a mask"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MOVES])
def test_the_run_goes_on_as_it_would_have(name: str) -> None:
    """Three calls there, five here; against eight there."""
    make, twin = MOVES[name]
    theirs, ours = make(), twin()
    bad = 1 if "skipped" in name else -1
    params, state = run(theirs, PARAMS, theirs.init(PARAMS), 3, bad)
    moved, report = from_optax(state, ours, params)
    wanted, _ = run(theirs, params, state, 5)
    got, after = run(ours, params, moved, 5)
    for path in PARAMS:
        assert float(jnp.abs(wanted[path] - params[path]).max()) > 0.01, "it has moved"
        np.testing.assert_allclose(got[path], wanted[path], rtol=2e-5, atol=2e-6)
    assert jax.tree.structure(after) == jax.tree.structure(ours.init(PARAMS))
    assert not any("mu" in row.source for row in report.dropped)


def test_a_number_that_was_set_comes_along() -> None:
    theirs = optax.inject_hyperparams(optax.adamw)(0.1)
    state = theirs.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(0.3, jnp.float32)
    moved, report = from_optax(state, gx.tunable(gx.adamw(0.1), "learning_rate"), PARAMS)
    assert moved.hyperparams["learning_rate"] == np.float32(0.3)
    assert {"hyperparams/b1", "hyperparams/weight_decay"} <= {row.source for row in report.dropped}


def test_counters_come_along() -> None:
    theirs = optax.apply_if_finite(optax.sgd(0.1), 10)
    state = theirs.init(PARAMS)
    nan = jax.tree.map(lambda p: p * jnp.nan, PARAMS)
    for _ in range(2):
        _, state = theirs.update(nan, state, PARAMS)
    moved, _ = from_optax(state, gx.guard(gx.sgd(0.1), spike=6.0), PARAMS)
    assert (int(moved.skipped), int(moved.consecutive), int(moved.seen)) == (2, 2, 0)


def test_optax_s_state_stays_in_optax_s_wrapper() -> None:
    """Where the transform that goes on keeps the same class, it is taken as it is."""
    theirs = optax.MultiSteps(optax.adam(0.1), 4)
    params, state = run(theirs, PARAMS, theirs.init(PARAMS), 3)
    moved, _ = from_optax(state, optax.MultiSteps(gx.adam(0.1), 4), params)
    assert isinstance(moved, optax.MultiStepsState)
    np.testing.assert_array_equal(moved.acc_grads["w"], state.acc_grads["w"])


def test_a_training_loop_s_state_is_taken() -> None:
    theirs = optax.MultiSteps(optax.adam(0.1), 4)
    loop = TrainState.create(apply_fn=None, params=PARAMS, tx=theirs)
    loop = loop.apply_gradients(grads=PARAMS)
    moved, _ = from_optax(loop.opt_state, gx.accumulate(gx.adam(0.1), 4), loop.params)
    np.testing.assert_array_equal(moved.acc_grads["w"], PARAMS["w"])


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (gx.sgd(0.1), ["acc_grads/w", "inner_opt_state/0/mu/w", "and 2 more"]),
        (gx.accumulate(gx.lion(0.1), 4), ["inner_state/0/nu/w", "nothing here keeps it"]),
        (gx.guard(gx.adam(0.1)), ["acc_grads/b"]),
    ],
)
def test_what_would_be_lost_is_an_error(tx: Any, words: list[str]) -> None:
    """A window that is open, as this one is; of a closed one nothing would be."""
    theirs = optax.MultiSteps(optax.adam(0.1), 4)
    window = theirs.init(PARAMS)._replace(mini_step=jnp.int32(1), acc_grads=PARAMS)
    with pytest.raises(
        ValueError, match=r"from_optax\(state, tx, params\): arrays of parameters would be"
    ) as raised:
        from_optax(window, tx, PARAMS)
    for word in [*words, "gx.restore_into(tx, params, state)"]:
        assert word in str(raised.value)
