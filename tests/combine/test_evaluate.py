"""`eval_params`: one function for averages, Schedule-Free and lookahead, wherever they stand."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

PARAMS = {"w": jnp.ones((2, 3)), "layers": [{"b": jnp.ones(3)}, {"b": jnp.full(3, 2.0)}]}


@pytest.fixture
def relaxed() -> Iterator[None]:
    """Optax's own code multiplies floats by integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def gradient(p: Any) -> Any:
    return jax.tree.map(lambda x: 0.5 * x + 0.1, p)


def train(tx: Any, params: Any = PARAMS, steps: int = 4) -> tuple[Any, Any]:
    @jax.jit
    def run(params: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            params, state = carry
            updates, state = tx.update(gradient(params), state, params)
            return gx.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))

    return run(params)


def same(a: Any, b: Any) -> bool:
    """Equal but for the last bit, which another compilation may round the other way."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.allclose(x, y, rtol=3e-7), a, b))
    )


def plain_average() -> Any:
    _, state = train(gx.average_params(gx.sgd(0.1), 0.5))
    return state[1].average


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        lambda tx: gx.guard(tx),
        lambda tx: gx.chain(gx.identity(), tx),
        lambda tx: gx.named_chain(("first", gx.identity()), ("second", tx)),
        lambda tx: gx.per_layer(tx, "layers/*"),
        lambda tx: gx.loss_scale(tx, 1.0),
        lambda tx: gx.tunable(tx, "learning_rate"),
        lambda tx: gx.probe(tx),
        lambda tx: gx.accumulate(tx, 1),
        lambda tx: gx.param_groups({"*": tx}),
        lambda tx: optax.chain(tx),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.masked(tx, True),
    ],
)
@pytest.mark.usefixtures("relaxed")
def test_the_average_is_found_through(wrap):
    params, state = train(wrap(gx.average_params(gx.sgd(0.1), 0.5)))
    assert same(gx.eval_params(state, params), plain_average())


@pytest.mark.usefixtures("relaxed")
def test_the_average_is_found_inside_of_multi_steps():
    tx = optax.MultiSteps(gx.average_params(gx.sgd(0.1), 0.5), 2)
    params, state = train(tx, steps=8)
    found = gx.eval_params(state, params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    inner = state.inner_opt_state[1]
    assert same(found, inner.average)
    assert int(inner.count) == 4


@pytest.mark.parametrize(
    "mask", ["w", {"w": True, "layers": False}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)]
)
def test_a_masked_leaf_is_the_given_parameter(mask):
    tx = gx.masked(gx.average_params(gx.sgd(0.1), 0.5), mask)
    params, state = train(gx.chain(tx, gx.masked(gx.sgd(0.1), "layers/*")))
    found = gx.eval_params(state, params)
    assert same(found["layers"], params["layers"])
    assert same(found["w"], plain_average()["w"])


def test_sixteen_bits_come_back_in_sixteen():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    params, state = train(gx.average_params(gx.sgd(0.1)), params)
    found = gx.eval_params(state, params)
    assert {x.dtype for x in jax.tree.leaves(state[1].average)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.usefixtures("relaxed")
def test_schedule_free_is_optax_s_own():
    tx = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    params, state = train(tx)
    theirs = optax.contrib.schedule_free_eval_params(state, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gx.eval_params(state, params), theirs
    )
    # Inside of anything else Optax's function does not find it.
    params, state = train(gx.guard(tx))
    with pytest.raises(AttributeError):
        optax.contrib.schedule_free_eval_params(state, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gx.eval_params(state, params), theirs
    )


def test_schedule_free_under_vmap_has_a_b1_for_each_training():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        tx = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)

        def run(x: Any) -> Any:
            return train(tx, {"w": x})

        params, state = jax.vmap(run)(jnp.arange(6.0).reshape(2, 3))
    found = gx.eval_params(state, params)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        single = train(tx, {"w": jnp.arange(6.0).reshape(2, 3)[1]})
        run_alone = optax.contrib.schedule_free_eval_params(single[1], single[0])
    np.testing.assert_allclose(found["w"][1], run_alone["w"], rtol=1e-6)


@pytest.mark.usefixtures("relaxed")
def test_lookahead_gives_the_slow_weights():
    tx = optax.lookahead(optax.sgd(0.1), 3, 0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update(gradient(params.fast), state, params)
        params = optax.apply_updates(params, updates)
    assert same(gx.eval_params(state, params), params.slow)
    with pytest.raises(ValueError, match="LookaheadParams"):
        gx.eval_params(state, params.fast)


def test_flax_states_are_taken_as_they_are():
    tx = gx.guard(gx.average_params(gx.sgd(0.1), 0.5))
    ts = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
    for _ in range(4):
        ts = ts.apply_gradients(grads=gradient(ts.params))
    assert same(gx.eval_params(ts.opt_state, ts.params), plain_average())


def test_nnx_states_are_taken_as_they_are():
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.ones((2, 3)))

    model = Model()
    optimizer = nnx.Optimizer(model, gx.guard(gx.average_params(gx.sgd(0.1), 0.5)), wrt=nnx.Param)
    for _ in range(4):
        optimizer.update(model, gradient(nnx.state(model, nnx.Param)))
    given = nnx.state(model, nnx.Param)
    found = gx.eval_params(optimizer.opt_state, given)
    assert jax.tree.structure(found) == jax.tree.structure(given)
    np.testing.assert_allclose(found["w"][...], plain_average()["w"], rtol=3e-7)
    plain = gx.eval_params(optimizer.opt_state, nnx.to_pure_dict(given))
    np.testing.assert_allclose(plain["w"], plain_average()["w"], rtol=3e-7)


def test_groups_of_an_nnx_model():
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.ones((2, 3)))
            self.b = nnx.Param(jnp.zeros(3))

    model = Model()
    groups = gx.param_groups(
        {"w": gx.average_params(gx.sgd(0.1), 0.5), "*": gx.average_params(gx.sgd(0.1), 0.9)}
    )
    optimizer = nnx.Optimizer(model, groups, wrt=nnx.Param)
    for _ in range(4):
        optimizer.update(model, gradient(nnx.state(model, nnx.Param)))
    found = gx.eval_params(optimizer.opt_state, nnx.state(model, nnx.Param))
    np.testing.assert_allclose(found["w"][...], plain_average()["w"], rtol=3e-7)
    assert not np.array_equal(found["b"][...], model.b[...])


class Weights(NamedTuple):
    w: Any
    b: Any


def test_other_containers_are_matched_by_path():
    params = Weights(jnp.ones(2), jnp.zeros(2))
    _, state = train(gx.average_params(gx.sgd(0.1), 0.5), params)
    found = gx.eval_params(state, {"b": params.b, "w": params.w})
    np.testing.assert_array_equal(found["w"], state[1].average.w)
    with pytest.raises(ValueError, match=r"no 'v' of the parameters"):
        gx.eval_params(state, {"b": params.b, "v": params.w})
    with pytest.raises(
        ValueError, match=r"the leaf 'w' is float32\[3\], its average in the state float32\[2\]"
    ):
        gx.eval_params(state, {"b": params.b, "w": jnp.ones(3)})


def test_nothing_to_evaluate_with_is_an_error():
    tx = gx.adamw(1e-3)
    with pytest.raises(ValueError, match="no second set of weights") as caught:
        gx.eval_params(tx.init(PARAMS), PARAMS)
    for name in ("average_params", "schedule_free", "lookahead"):
        assert name in str(caught.value)


def test_two_averages_have_addresses():
    params, state = train(gx.average_params(gx.average_params(gx.sgd(0.1), 0.5), None))
    with pytest.raises(ValueError, match="at '0/1' and '1'"):
        gx.eval_params(state, params)
    assert same(gx.eval_params(state, params, which="0/1"), plain_average())
    assert same(gx.eval_params(state, params, which="1"), state[1].average)
    with pytest.raises(ValueError, match="there is '0/1' and '1'"):
        gx.eval_params(state, params, which="2")


def test_averages_of_groups_are_one_set_of_weights():
    def averaged(decay):
        return gx.average_params(gx.sgd(0.1), decay)

    params, state = train(gx.param_groups({"w": averaged(0.5), "*": averaged(0.9)}))
    together, other = gx.eval_params(state, params), next(name for name in PARAMS if name != "w")
    for name, decay in (("w", 0.5), (other, 0.9)):
        trained, alone = train(averaged(decay))
        assert same(together[name], gx.eval_params(alone, trained)[name])


def test_what_it_gives_outlives_a_donated_state():
    tx = gx.average_params(gx.sgd(0.1), 0.5)
    params, state = train(tx)
    weights = gx.eval_params(state, params)
    before = jax.tree.map(np.array, weights)
    jax.jit(tx.update, donate_argnums=1)(params, state, params)
    assert same(weights, before)


def test_it_works_under_jit():
    params, state = train(gx.average_params(gx.sgd(0.1), 0.5))
    assert same(jax.jit(gx.eval_params)(state, params), plain_average())
