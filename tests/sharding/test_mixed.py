"""Gradients, parameters and state of one leaf that are cut in three ways, on a mesh of explicit axes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

pytestmark = pytest.mark.slow

AXES = ("data", "model")
TRANSFORMS = {
    "adamw": lambda: gx.adamw(0.1, weight_decay=0.1),
    "sgd": lambda: gx.sgd(0.1, 0.9),
    "clip and lamb": lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(0.1)),
    "adafactor": lambda: gx.adafactor(0.1, min_dim_size_to_factor=2),
    "guard": lambda: gx.guard(gx.adamw(0.1)),
    "accumulate": lambda: gx.accumulate(gx.adamw(0.1), 2),
    "average_params": lambda: gx.average_params(gx.adamw(0.1), 0.9),
    "masked": lambda: gx.masked(gx.adamw(0.1), gx.matrices()),
    "groups": lambda: gx.param_groups({"w": gx.adamw(0.1), "*": gx.sgd(0.1, 0.9)}),
    "tunable": lambda: gx.tunable(gx.adamw(0.1), "learning_rate"),
    "project": lambda: gx.project(gx.adamw(0.1), "*", gx.max_norm(1.0)),
    "cautious": lambda: gx.cautious(gx.adamw(0.1)),
    "switch_at": lambda: gx.switch_at(1, gx.adamw(0.1), gx.sgd(0.1, 0.9)),
    "apply_when": lambda: gx.apply_when(gx.adamw(0.1), lambda count: count > 0),
    "loss_scale": lambda: gx.loss_scale(gx.adamw(0.1), 2.0),
    "nothing": gx.identity,
    "optax.adamw": lambda: gx.chain(optax.adamw(0.1)),
    "optax.muon": lambda: gx.chain(optax.contrib.muon(0.1)),
    "8 bits": lambda: gx.lowbit.quantized(gx.adamw(0.1), min_size=0),
    "exact_master": lambda: gx.lowbit.exact_master(gx.adamw(0.1)),
}


def _mesh():
    return jax.make_mesh((4, 2), AXES)


def _trees():
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in {"w": (8, 16), "b": (16,)}.items()}
    params["none"] = None
    return params, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def _laid(tree, mesh, *names):
    def one(x):
        size = int(np.prod([mesh.shape[a] for a in jax.tree.leaves(names)])) if names else 1
        fits = x.ndim and x.shape[0] % size == 0
        return jax.device_put(x, jax.NamedSharding(mesh, jax.P(*names) if fits else jax.P()))

    return jax.tree.map(one, tree)


def types(tree):
    return list(map(jax.typeof, jax.tree.leaves(tree)))


def two_steps(tx):
    def run(grads, state, params):
        first, state = tx.update(grads, state, params)
        second, state = tx.update(grads, state, gx.apply_updates(params, first))
        return first, second, state

    return run


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("cut", ["state", "parameters"])
def test_updates_lie_as_parameters_and_the_state_stays_where_it_is(name, cut):
    tx, mesh = TRANSFORMS[name](), _mesh()
    params, grads = _trees()
    wanted = two_steps(tx)(grads, tx.init(params), params)
    with jax.set_mesh(mesh):
        everywhere = ("data", "model")
        state = _laid(tx.init(params), mesh, everywhere if cut == "state" else "data")
        params = _laid(params, mesh, *(() if cut == "state" else (everywhere,)))
        grads = _laid(grads, mesh, "model")
        first, second, new = jax.jit(two_steps(tx))(grads, state, params)
    assert types(first) == types(second) == types(params)
    assert types(new) == types(state)
    for x, y in zip(jax.tree.leaves((first, second)), jax.tree.leaves(wanted[:2]), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
