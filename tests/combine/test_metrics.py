"""`metrics`: every number that a state keeps for people, wherever the state comes from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState

import gradxform as gx
from gradxform import build
from gradxform._combine.metrics import state_name

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

P = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
G = {"w": jnp.full((2, 3), 2.0), "b": jnp.ones(3)}


def after(tx: Any, *gradients: Any) -> dict[str, Any]:
    state = tx.init(P)
    for g in gradients:
        _, state = tx.update(g, state, P)
    return gx.metrics(state)


@pytest.fixture
def loose() -> Any:
    """The promotion that Optax's transforms expect."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def bad() -> Any:
    return {**G, "b": jnp.array([1.0, jnp.nan, 1.0])}


def test_counters_of_a_guard() -> None:
    got = after(gx.guard(gx.adam(0.1)), G, bad(), bad())
    assert (int(got["guard/skipped"]), int(got["guard/consecutive"])) == (2, 2)


def test_counters_of_accumulation() -> None:
    got = after(gx.accumulate(gx.sgd(0.1), 2), G, G, G)
    assert (int(got["accumulate/mini_step"]), int(got["accumulate/gradient_step"])) == (1, 1)


def test_hyperparameters_in_the_state() -> None:
    got = after(gx.tunable(gx.adam(0.25), "learning_rate", "b1"), G)
    assert (float(got["learning_rate"]), float(got["b1"])) == (0.25, pytest.approx(0.9))


def test_a_loss_scale() -> None:
    got = after(gx.loss_scale(gx.adam(0.25), 2.0**10), G, bad())
    assert float(got["loss_scale/scale"]) == 2.0**9
    assert int(got["loss_scale/skipped"]) == 1


def test_a_state_without_readings_has_none() -> None:
    assert after(gx.chain(gx.clip(1.0), gx.adamw(gx.linear_schedule(0.1, 0.0, 5))), G) == {}
    assert gx.metrics(None) == gx.metrics(optax.EmptyState()) == gx.metrics(()) == {}


def test_the_same_wrapper_twice_is_counted_from_outside() -> None:
    got = after(gx.guard(gx.chain(gx.clip(1.0), gx.guard(gx.adam(0.1)))), G, bad())
    assert (int(got["guard/skipped"]), int(got["guard_1/skipped"])) == (1, 0)


def test_the_outermost_of_two_names_is_the_plain_one() -> None:
    inner = optax.inject_hyperparams(optax.sgd)(0.5)
    got = after(gx.probe(gx.chain(inner, gx.sgd(0.25))), G)
    assert float(got["learning_rate"]) == 0.25
    assert float(got["inject_stateful_hyperparams/learning_rate"]) == 0.5


@pytest.mark.usefixtures("loose")
def test_optax_s_own_wrappers() -> None:
    finite = after(optax.apply_if_finite(optax.adam(0.1), 5), bad(), bad())
    assert (
        int(finite["apply_if_finite/notfinite_count"]) == int(finite["apply_if_finite/total_notfinite"]) == 2
    )
    assert not bool(finite["apply_if_finite/last_finite"])
    steps = after(optax.MultiSteps(optax.adam(0.1), 2), G, G, G)
    assert (int(steps["multi_steps/mini_step"]), int(steps["multi_steps/gradient_step"])) == (1, 1)
    skipping = optax.MultiSteps(optax.sgd(0.1), 2, should_skip_update_fn=optax.skip_not_finite)
    assert int(after(skipping, bad())["num_not_finite"]) == 1
    rates = after(optax.inject_hyperparams(optax.adam)(optax.linear_schedule(0.4, 0.0, 4), b1=0.5), G, G)
    assert float(rates["learning_rate"]) == pytest.approx(0.3)
    assert float(rates["b1"]) == 0.5
    seen = after(optax.chain(optax.snapshot("norm", optax.tree.norm), optax.sgd(0.1)), G)
    assert float(seen["norm"]) == pytest.approx(27**0.5)


class CounterState(NamedTuple):
    total: build.Reading
    hidden: Any


def test_a_state_of_anybody_is_listed_by_its_roles() -> None:
    def update(g: Any, s: Any, p: Any = None) -> Any:
        del p
        return g, CounterState(s.total + 1, s.hidden)

    tx = gx.GradientTransformation(lambda p: CounterState(jnp.zeros([]), jnp.ones([])), update)
    got = after(gx.chain(gx.clip(1.0), tx), G, G)
    assert list(got) == ["counter/total"]
    assert float(got["counter/total"]) == 2


def test_inside_of_jit_and_without_waiting() -> None:
    tx = gx.guard(gx.probe(gx.adam(0.1)))

    @jax.jit
    def step(g: Any, state: Any) -> Any:
        _, state = tx.update(g, state, P)
        return state, gx.metrics(state)

    state = tx.init(P)
    with jax.transfer_guard_device_to_host("disallow"):
        state, inside = step(G, state)
        outside = gx.metrics(state)
    assert list(inside) == list(outside) == sorted(outside)
    for name, x in inside.items():
        assert x.shape == ()
        assert float(x) == float(outside[name])


def test_names_stay_what_they_are() -> None:
    """Whatever stands around a probe, its readings keep their names."""
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    alone = set(gx.metrics(gx.probe(tx).init(P)))
    for wrapped in (gx.guard(gx.probe(tx)), gx.accumulate(gx.guard(gx.probe(tx)), 2), gx.probe(gx.guard(tx))):
        got = {name for name in gx.metrics(wrapped.init(P)) if not name.startswith(("guard/", "accumulate/"))}
        assert got == alone
    named = gx.named_chain(("first", gx.probe(tx)), ("second", gx.scale(1.0)))
    assert set(gx.metrics(named.init(P))) == alone


def test_nnx_optimizer_state() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.ones((2, 3)))

    model = Model()
    tx = gx.guard(gx.probe(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        optimizer.update(model, nnx.grad(lambda m: (m.w[...] ** 2).sum())(model))
        return gx.metrics(optimizer.opt_state)

    with jax.numpy_dtype_promotion("standard"):
        inside = step(model, optimizer)
    outside = gx.metrics(optimizer.opt_state)
    assert float(outside["grad_norm"]) == float(inside["grad_norm"]) == pytest.approx(24**0.5)
    assert int(outside["guard/skipped"]) == 0


def test_train_state_and_a_restored_one() -> None:
    tx = gx.probe(
        gx.chain(gx.clip_by_global_norm(1.0), gx.param_groups({"*b": gx.sgd(0.5), "*": gx.adam(0.1)}))
    )
    state = TrainState.create(apply_fn=lambda: None, params=P, tx=tx)
    state = state.apply_gradients(grads=G)
    got = gx.metrics(state.opt_state)
    assert float(got["grad_norm"]) == pytest.approx(27**0.5)
    restored = serialization.from_bytes(tx.init(P), serialization.to_bytes(state.opt_state))
    again = gx.metrics(restored)
    assert again.keys() == got.keys()
    for name, x in again.items():
        np.testing.assert_array_equal(x, got[name])


def test_many_states_at_once_give_many_numbers() -> None:
    tx = gx.probe(gx.sgd(0.1))
    states = jax.vmap(lambda k: tx.update(jax.tree.map(lambda g: k * g, G), tx.init(P), P)[1])(
        jnp.arange(3.0)
    )
    np.testing.assert_allclose(gx.metrics(states)["grad_norm"], np.arange(3) * 27**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("GuardState", "guard"), ("MultiStepsState", "multi_steps"), ("ApplyIfFiniteState", "apply_if_finite")],
)
def test_names_of_states(name: str, wanted: str) -> None:
    assert state_name(type(name, (), {})) == wanted
