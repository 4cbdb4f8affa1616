"""Loops of Flax Linen, Flax NNX and Equinox on a mesh: with their own jit and with `make_step` layouts stay."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx

pytestmark = pytest.mark.slow

KINDS = ["Auto", "Explicit"]


def _weights(kind: str):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    w = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, jax.P("data", "model")))
    return mesh, w, jax.device_put(jnp.ones(3), jax.NamedSharding(mesh, jax.P()))


def _loss(w, b, x):
    return jnp.mean((w * x) ** 2) + jnp.mean((b - x) ** 2)


def _tx():
    return gx.guard(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)))


def _layouts(tree):
    return [x.sharding for x in jax.tree.leaves(tree)]


def _turns(step, tree, mesh, w):
    """Three steps of `tree -> tree`, after each of which it lies as it lay; `w` finds the weights in it."""
    with jax.set_mesh(mesh):
        tree = step(tree)  # a count that `tx.init` has made lies on one device until here
        before = _layouts(tree)
        for _ in range(2):
            tree = step(tree)
            assert _layouts(tree) == before
    assert w(tree).sharding == jax.NamedSharding(mesh, jax.P("data", "model"))
    assert float(jnp.max(w(tree))) < 0.8, "three steps of 0.1 downhill"


def _held(step, tree):
    """`make_step` of a loop that keeps everything in one tree."""
    compiled = gx.sharding.make_step(lambda tree, nothing: (step(tree), nothing), tree, ())
    return lambda tree: compiled(tree, ())[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["jit", "make_step"])
def test_a_linen_train_state(kind, how):
    mesh, w, b = _weights(kind)
    start = TrainState.create(apply_fn=None, params={"w": w, "b": b}, tx=_tx())

    def step(held):
        grads = jax.grad(lambda p: _loss(p["w"], p["b"], 2.0))(held.params)
        return held.apply_gradients(grads=grads)

    turn = jax.jit(step) if how == "jit" else _held(step, start)
    _turns(turn, start, mesh, lambda held: held.params["w"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["jit", "make_step"])
def test_an_nnx_optimizer(kind, how):
    class Model(nnx.Module):
        def __init__(self, w, b):
            self.w, self.b = nnx.Param(w), nnx.Param(b)

    mesh, w, b = _weights(kind)
    with jax.set_mesh(mesh):
        model = Model(w, b)
        graph, start = nnx.split((model, nnx.Optimizer(model, _tx(), wrt=nnx.Param)))

    def step(held):
        model, optimizer = nnx.merge(graph, held)
        grads = nnx.grad(lambda model: _loss(model.w[...], model.b[...], 2.0))(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer))

    turn = jax.jit(step) if how == "jit" else _held(step, start)
    _turns(turn, start, mesh, lambda held: nnx.merge(graph, held)[0].w[...])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["jit", "make_step"])
def test_an_equinox_module(kind, how):
    class Model(eqx.Module):
        w: jax.Array
        b: jax.Array
        name: str

    mesh, w, b = _weights(kind)
    arrays, rest = eqx.partition(Model(w, b, "two"), eqx.is_array)
    tx = _tx()

    def step(held):
        arrays, state = held
        grads = eqx.filter_grad(lambda m: _loss(m.w, m.b, 2.0))(eqx.combine(arrays, rest))
        updates, state = tx.update(eqx.filter(grads, eqx.is_array), state, arrays)
        return eqx.apply_updates(arrays, updates), state

    start = (arrays, tx.init(arrays))
    turn = jax.jit(step) if how == "jit" else _held(step, start)
    _turns(turn, start, mesh, lambda held: held[0].w)
