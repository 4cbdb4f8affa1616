"""Flax (Linen, NNX), Haiku, Equinox, haliax: their training loops, their serialisation, the names in their trees."""

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import flax.serialization
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx
from tests.interop.problem import X, Y, assert_close, optax_s_own

pytestmark = pytest.mark.interop

RECIPES: dict[str, Callable[[], Any]] = {
    "standard": lambda: gx.chain(
        gx.clip_by_global_norm(5.0),
        gx.scale_by_adam(),
        gx.add_decayed_weights(1e-3, mask=gx.matrices()),
        gx.warmup_cosine(0.1, 3, 1000),
    ),
    "groups": lambda: gx.param_groups({"*/b*": gx.sgd(0.05, momentum=0.9), "*": gx.adamw(0.1)}),
    "ours around optax": lambda: gx.chain(gx.clip_by_global_norm(5.0), optax.adam(0.1)),
    "optax around ours": lambda: optax.chain(optax.clip_by_global_norm(5.0), gx.lion(0.02)),
    "accumulated": lambda: optax.MultiSteps(gx.adam(0.1), 2).gradient_transformation(),
}
recipe = pytest.mark.parametrize("name", RECIPES)
STEPS = 40


class Linen(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(nn.relu(nn.Dense(8)(x)))


# ---------------------------------------------------------------------------------------- Linen


@jax.jit
def _linen_step(state: TrainState) -> tuple[TrainState, Any]:
    def loss(p: Any) -> Any:
        return jnp.mean(jnp.square(state.apply_fn({"params": p}, X) - Y))

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


def _linen(tx: Any, steps: int = STEPS) -> tuple[TrainState, list[float]]:
    model = Linen()
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), X)["params"], tx=tx)
    values: list[float] = []
    with optax_s_own():  # Flax's layers and optax.apply_updates promote
        for _ in range(steps):
            state, value = _linen_step(state)
            values.append(float(value))
    return state, values


@recipe
def test_a_train_state_trains(name: str) -> None:
    _, values = _linen(RECIPES[name]())
    assert values[-1] < values[0] / 4


def test_a_rebuilt_train_state_hits_the_cache() -> None:
    """`tx` is a static field and `apply_fn` another; equal transforms are one entry."""
    model, p = Linen(), Linen().init(jax.random.key(0), X)["params"]
    apply = model.apply
    traces = 0

    @jax.jit
    def step(state: TrainState) -> Any:
        nonlocal traces
        traces += 1
        return state.apply_gradients(grads=state.params).params

    for _ in range(5):
        step(TrainState.create(apply_fn=apply, params=p, tx=RECIPES["standard"]()))
    assert traces == 1


@recipe
def test_flax_serialization_brings_the_state_back(name: str) -> None:
    tx = RECIPES[name]()
    state, _ = _linen(tx, 3)
    fresh = TrainState.create(
        apply_fn=state.apply_fn, params=jax.tree.map(jnp.zeros_like, state.params), tx=RECIPES[name]()
    )
    back = flax.serialization.from_bytes(fresh, flax.serialization.to_bytes(state))
    assert_close(jax.tree.map(jnp.asarray, back.opt_state), state.opt_state, rtol=0, atol=0)
    with optax_s_own():
        assert_close(_linen_step(back)[0].params, _linen_step(state)[0].params, rtol=0, atol=0)
    as_dict = flax.serialization.to_state_dict(state)
    restored = flax.serialization.from_state_dict(fresh, as_dict)
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(state.opt_state)


# ---------------------------------------------------------------------------------------- Haiku


def _haiku(tx: Any) -> list[float]:
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 2])(x)))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(p: Any) -> Any:
            return jnp.mean(jnp.square(model.apply(p, X) - Y))

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    values: list[float] = []
    with optax_s_own():  # Haiku's layers promote
        params = model.init(jax.random.key(0), X)
        state = tx.init(params)
        for _ in range(STEPS):
            params, state, value = step(params, state)
            values.append(float(value))
    return values


@recipe
def test_haiku_s_loop_trains(name: str) -> None:
    """The loop of its own examples, where params are two levels of dictionaries."""
    values = _haiku(RECIPES[name]())
    assert values[-1] < values[0] / 4


# ---------------------------------------------------------------------------------------- NNX


class Nnx(nnx.Module):
    """The same model."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(3, 8, rngs=rngs)
        self.last = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.relu(self.first(x)))


@nnx.jit
def _nnx_step(model: Nnx, optimizer: nnx.Optimizer) -> Any:
    value, grads = nnx.value_and_grad(lambda m: jnp.mean(jnp.square(m(X) - Y)))(model)
    optimizer.update(model, grads)
    return value


@recipe
def test_an_nnx_optimizer_trains(name: str) -> None:
    with optax_s_own():  # Flax's layers and optax.apply_updates promote
        model = Nnx(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, RECIPES[name](), wrt=nnx.Param)
        values = [float(_nnx_step(model, optimizer)) for _ in range(STEPS)]
    assert values[-1] < values[0] / 4


def test_nnx_and_linen_and_plain_arrays_take_the_same_steps() -> None:
    tx = RECIPES["standard"]()
    model = Nnx(nnx.Rngs(0))
    boxed = nnx.state(model, nnx.Param)
    plain = {"first": dict(nnx.to_pure_dict(boxed)["first"]), "last": dict(nnx.to_pure_dict(boxed)["last"])}
    got, _ = tx.update(boxed, tx.init(boxed), boxed)
    wanted, _ = tx.update(plain, tx.init(plain), plain)
    assert_close(jax.tree.leaves(got), jax.tree.leaves(wanted), rtol=1e-6)


# ---------------------------------------------------------------------------------------- Equinox


class Net(eqx.Module):
    """A module with a function, a number and a missing bias among its fields."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    activation: Callable[[Any], Any]
    name: str
    depth: int = 2

    def __init__(self, key: Any) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(3, 8, key=one)
        self.last = eqx.nn.Linear(8, 2, use_bias=False, key=two)
        self.activation, self.name = jax.nn.relu, "net"

    def __call__(self, x: Any) -> Any:
        return self.last(self.activation(self.first(x)))


@eqx.filter_jit
def _equinox_step(model: Net, state: Any, tx: Any) -> Any:
    value, grads = eqx.filter_value_and_grad(lambda m: jnp.mean(jnp.square(jax.vmap(m)(X) - Y)))(model)
    updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
    return eqx.apply_updates(model, updates), state, value


@recipe
def test_an_equinox_module_with_holes_trains(name: str) -> None:
    tx = RECIPES[name]()
    model = Net(jax.random.key(0))
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    values = []
    with optax_s_own():  # Equinox's initialisers and eqx.apply_updates promote
        for _ in range(STEPS):
            model, state, value = _equinox_step(model, state, tx)
            values.append(float(value))
    assert values[-1] < values[0] / 4
    assert model.depth == 2


def test_a_partitioned_equinox_module_trains_strictly() -> None:
    tx = RECIPES["standard"]()
    params, static = eqx.partition(Net(jax.random.key(0)), eqx.is_inexact_array)
    assert any(x is None for x in jax.tree.leaves(params, is_leaf=lambda x: x is None))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(
            lambda p: jnp.mean(jnp.square(jax.vmap(eqx.combine(p, static))(X) - Y))
        )(params)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, value

    state = tx.init(params)
    values = []
    for _ in range(STEPS):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < values[0] / 4


@recipe
def test_equinox_serialisation_brings_the_state_back(name: str, tmp_path: Any) -> None:
    tx = RECIPES[name]()
    params = eqx.filter(Net(jax.random.key(0)), eqx.is_inexact_array)
    state = tx.init(params)
    with optax_s_own():
        _, state = tx.update(params, state, params)
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
    back = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", RECIPES[name]().init(params))
    assert_close(back, state, rtol=0, atol=0)


def test_a_mask_that_is_a_module_is_never_called() -> None:
    """`eqx.tree_at` and `tree_map` give masks of the model's own class, whose `__call__` is the forward pass."""
    params = eqx.filter(Net(jax.random.key(0)), eqx.is_inexact_array)
    mask = jax.tree.map(lambda p: p.ndim == 2, params)
    assert callable(mask)
    tx = gx.adamw(0.1, weight_decay=0.5, mask=mask)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    assert not np.any(updates.first.bias)
    assert np.all(updates.first.weight)


# ---------------------------------------------------------------------------------------- names in trees


def _boxed_params() -> dict[str, Any]:
    with optax_s_own():
        dense = nn.Dense(
            2,
            kernel_init=nn.with_partitioning(nn.initializers.ones, ("in", "out")),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("out",)),
        )
        linen = dense.init(jax.random.key(0), X)["params"]
        variables = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    found: dict[str, Any] = {"Linen": {"dense": linen}, "NNX": {"dense": variables}}
    found["plain"] = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
    return found


@pytest.mark.parametrize("name", ["Linen", "NNX", "plain"])
def test_boxes_do_not_appear_in_paths(name: str) -> None:
    params = _boxed_params()[name]
    seen: list[str] = []

    def kernel(path: str, leaf: Any) -> bool:
        seen.append(path)
        return path == "dense/kernel"

    by_predicate = gx.param_groups({kernel: gx.sgd(1.0), "*": None})
    by_glob = gx.param_groups({"dense/kernel": gx.sgd(1.0), "*/bias": None})
    by_expression = gx.param_groups({re.compile("^dense/kernel$"): gx.sgd(1.0), re.compile("bias$"): None})
    ones = jax.tree.map(jnp.ones_like, params)
    for tx in (by_predicate, by_glob, by_expression):
        updates, _ = tx.update(ones, tx.init(params), params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert sorted(float(jnp.sum(x)) for x in jax.tree.leaves(updates)) == [-6.0, 0.0]
    assert set(seen) == {"dense/kernel", "dense/bias"}
    text = str(gx.describe(gx.adamw(0.1, mask=gx.matrices(exclude="dense/bias")), params))
    assert "dense/kernel" in text
    assert "value" not in text.replace("values", "")


def test_named_arrays_of_haliax_do_not_appear_in_paths() -> None:
    haliax = pytest.importorskip("haliax", reason="no haliax that this JAX can import", exc_type=ImportError)
    inputs, outputs = haliax.Axis("in", 3), haliax.Axis("out", 2)
    params = {"dense": {"kernel": haliax.ones((inputs, outputs)), "bias": haliax.zeros(outputs)}}
    tx = gx.param_groups({"dense/kernel": gx.sgd(1.0), "*/bias": None})
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert sorted(float(jnp.sum(x)) for x in jax.tree.leaves(updates)) == [-6.0, 0.0]


def test_a_named_array_is_known_by_its_module_and_name() -> None:
    """haliax itself may be missing: a class of its module and name stands for it."""

    @jax.tree_util.register_pytree_with_keys_class
    class NamedArray:
        def __init__(self, array: Any) -> None:
            self.array = array

        def tree_flatten_with_keys(self) -> Any:
            return [(jax.tree_util.GetAttrKey("array"), self.array)], None

        @classmethod
        def tree_unflatten(cls, _: Any, children: Any) -> Any:
            return cls(*children)

    NamedArray.__module__ = "haliax.core"
    params = {"dense": {"kernel": NamedArray(jnp.ones((3, 2)))}, "top": NamedArray(jnp.ones(1))}
    tx = gx.param_groups({"dense/kernel": gx.sgd(1.0), "top": None})
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(jnp.sum(updates["dense"]["kernel"].array)) == -6.0
    assert float(updates["top"].array[0]) == 0.0
