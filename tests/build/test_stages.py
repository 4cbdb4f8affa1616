"""The stages carry more than Adam: a clip, a trust ratio, Adafactor and Prodigy, each written as an author would.

None of these methods is part of the package yet; they are here to prove that `reduce`, `once`, `step` and a list of
stages say enough, before a catalogue grows on them. The oracle is Optax's own implementation, or NumPy.
L-BFGS is done on paper in `docs/design/stages.md`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build


def tree(seed: int, scale: float = 1.0):
    """Three leaves, in the default precision."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (6, 4), "b": (4,), "s": ()}
    return {name: jnp.asarray(scale * rng.standard_normal(shape), float) for name, shape in shapes.items()}


def trajectory(tx, steps: int, **extra):
    params = tree(0)
    state = tx.init(params)

    def loss(p):
        return sum(jnp.sum(jnp.square(x - 0.3)) for x in jax.tree.leaves(p))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params, **extra)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    seen = []
    for _ in range(steps):
        params, state = step(params, state)
        seen.append(params)
    return seen, state


def assert_close(ours, theirs, rtol=2e-6):
    for mine, other in zip(ours, theirs, strict=True):
        for name in mine:
            np.testing.assert_allclose(mine[name], other[name], rtol=rtol, atol=1e-7)


# ------------------------------------------------------------------------------------------------ clip


@pytest.mark.parametrize("front", [[], [gx.scale(10.0)], [gx.clip(0.5)], [optax.scale(10.0)]])
def test_a_clip_reduces_its_own_input(front):
    """Behind another link the norm is that link's output's; reducing the raw gradient there is the bug to avoid."""
    tx = gx.chain(*front, gx.clip_by_global_norm(1.0), gx.scale(3.0))
    theirs = optax.chain(
        *(optax.scale(10.0) if f == gx.scale(10.0) else f for f in front), optax.clip_by_global_norm(1.0)
    )
    grads = tree(1)
    got, _ = tx.update(grads, tx.init(grads))
    with jax.numpy_dtype_promotion("standard"):
        want, _ = theirs.update(grads, theirs.init(grads))
    for name in grads:
        np.testing.assert_allclose(got[name], 3.0 * want[name], rtol=1e-6)


def test_only_a_reduction_behind_a_step_costs_a_pass():
    standard = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    assert len(standard.plan.segments) == 1
    assert len(gx.chain(gx.scale(2.0), standard).plan.segments) == 2
    assert len(gx.chain(gx.clip_by_global_norm(1.0), gx.clip_by_global_norm(1.0)).plan.segments) == 2
    grouped = gx.param_groups({"w": standard, "*": gx.chain(gx.clip_by_global_norm(2.0), gx.sgd(0.1))})
    assert len(grouped.plan.segments) == 1, "groups share no leaf, so their reductions share a pass"


# ------------------------------------------------------------------------------------------------ trust ratio


@build.factory
def trust_ratio(eps=0.0):
    def step(g, s, p, k, leaf):
        weight, size = leaf.norm(p), leaf.norm(g)
        ratio = weight / (size + k.eps)
        return g * jnp.where((weight == 0) | (size == 0), np.float32(1), ratio)

    return build.leafwise(step, scalars={"eps": eps}, needs=("params",))


def test_a_trust_ratio_reduces_behind_adam_in_the_same_pass():
    ours = gx.chain(gx.scale_by_adam(eps=1e-6), trust_ratio(), gx.scale_by_learning_rate(0.01))
    theirs = optax.chain(
        optax.scale_by_adam(eps=1e-6), optax.scale_by_trust_ratio(), optax.scale_by_learning_rate(0.01)
    )
    assert len(ours.plan.segments) == 1
    assert build.reach_of(ours) == "leaf"
    mine, state = trajectory(ours, 20)
    with jax.numpy_dtype_promotion("standard"):
        other, their_state = trajectory(theirs, 20)
    assert_close(mine, other, rtol=2e-4)  # Optax's first bias corrections are off by 1e-5
    assert jax.tree.structure(state) == jax.tree.structure(their_state)


# ------------------------------------------------------------------------------------------------ Adafactor


class FactoredState(NamedTuple):
    count: build.Count
    v_row: build.Factor
    v_col: build.Factor
    v: build.SecondMoment


@build.factory
def factored_rms(decay_rate=0.8, epsilon=1e-30):
    """Shazeer & Stern 2018: row and column means of g^2 stand for the whole second moment of a matrix."""

    def row(p, leaf):
        return jnp.zeros(p.shape[:-1] if p.ndim > 1 else (1,), p.dtype)

    def column(p, leaf):
        return jnp.zeros(p.shape[:-2] + p.shape[-1:] if p.ndim > 1 else (1,), p.dtype)

    def whole(p, leaf):
        return jnp.zeros((1,) if p.ndim > 1 else p.shape, p.dtype)

    def once(c):
        return {"b": 1 - c.t ** (-c.decay_rate)}

    def step(g, s, p, k, leaf):
        square = g * g + k.epsilon
        if g.ndim < 2:
            v = k.b * s.v + (1 - k.b) * square
            return g / jnp.sqrt(v), {"v": v}
        r = k.b * s.v_row + (1 - k.b) * leaf.mean(square, -1)
        c = k.b * s.v_col + (1 - k.b) * leaf.mean(square, -2)
        scale = jnp.expand_dims(r / jnp.mean(r), -1) * jnp.expand_dims(c, -2)
        return g / jnp.sqrt(scale), {"v_row": r, "v_col": c}

    return build.leafwise(
        step,
        once=once,
        state=FactoredState,
        scalars={"decay_rate": decay_rate, "epsilon": epsilon},
        init={"v_row": row, "v_col": column, "v": whole},
    )


def test_adafactor_keeps_slots_of_other_shapes():
    ours = gx.chain(factored_rms(), gx.scale_by_learning_rate(0.01))
    theirs = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=1, decay_rate=0.8),
        optax.scale_by_learning_rate(0.01),
    )
    mine, state = trajectory(ours, 20)
    with jax.numpy_dtype_promotion("standard"):
        other, _ = trajectory(theirs, 20)
    assert_close(mine, other, rtol=1e-5)
    assert state[0].v_row["w"].shape == (6,)
    assert state[0].v_col["w"].shape == (4,)


def test_a_leaf_rule_is_mapped_over_declared_stack_axes():
    """One array of the stack at a time, in init as in update; the layout of the state is the stacked one."""
    stacked = {"layers": {"w": jnp.asarray(np.random.default_rng(3).standard_normal((5, 6, 4)), jnp.float32)}}
    tx = gx.per_layer(factored_rms(), "layers/*")
    state = tx.init(stacked)
    assert state.v_row["layers"]["w"].shape == (5, 6)
    got, _ = tx.update(stacked, state)
    single = factored_rms()
    for i in range(5):
        want, _ = single.update(stacked["layers"]["w"][i], single.init(stacked["layers"]["w"][i]))
        np.testing.assert_allclose(got["layers"]["w"][i], want, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ Prodigy


class ProdigyState(NamedTuple):
    mu: build.Moment
    nu: build.SecondMoment
    grad_sum: build.Moment
    start: build.Iterate
    estimate: build.Reading
    numerator: build.Reading
    count: build.Count


@build.factory
def prodigy(learning_rate=1.0, b1=0.9, b2=0.999, eps=1e-8, first=1e-6):
    """Mishchenko & Defazio 2024: the moments first, then their sums over the tree, then the step with the new estimate.

    Two stages: the sums of the second need the slots that the first has just written.
    """

    def before(c):
        b3 = jnp.sqrt(c.b2.value)
        return {"d": c.state.estimate, "b3": b3, "rate": c.learning_rate * c.state.estimate}

    def gather(g, s, p, k, leaf):
        d = k.d
        m = k.b1.value * s.mu + d * k.b1.complement * g
        v = k.b2.value * s.nu + d * d * k.b2.complement * g * g
        total = k.b3 * s.grad_sum + (k.rate * d / k.first) * g
        return g, {"mu": m, "nu": v, "grad_sum": total}

    def sums(g, s, p, k, leaf):
        along = (k.rate * k.d / k.first) * jnp.sum(g * (s.start - p))
        return {"along": along, "size": jnp.sum(jnp.abs(s.grad_sum))}

    def estimate(c):
        b3 = jnp.sqrt(c.b2.value)
        numerator = b3 * c.state.numerator + c.sums["along"]
        grown = numerator / jnp.where(c.sums["size"] > 0, c.sums["size"], np.asarray(1, c.dtype))
        fresh = jnp.maximum(c.state.estimate, grown)
        return {"d_new": fresh}, {"estimate": fresh, "numerator": numerator}

    def move(g, s, p, k, leaf):
        return -k.rate * s.mu / (jnp.sqrt(s.nu) + k.d * k.eps)

    return build.treewise(
        stages=[build.Stage(gather, before), build.Stage(move, estimate, sums)],
        state=ProdigyState,
        scalars={"learning_rate": learning_rate, "eps": eps, "first": first},
        decays={"b1": b1, "b2": b2},
        init={"start": lambda p, leaf: jnp.copy(p)},
        fields={"estimate": lambda: jnp.asarray(first, float), "numerator": lambda: jnp.zeros([], float)},
        needs=("params",),
    )


def prodigy_by_hand(steps: int):
    """The same method in NumPy, on the flat vector of all parameters."""
    shapes = {name: x.shape for name, x in tree(0).items()}
    p = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tree(0).values()])
    start, m, v, s, d, num, b1, b2 = p.copy(), 0 * p, 0 * p, 0 * p, 1e-6, 0.0, 0.9, 0.999
    for _ in range(steps):
        g, b3 = 2 * (p - 0.3), np.sqrt(b2)
        m, v = b1 * m + d * (1 - b1) * g, b2 * v + d * d * (1 - b2) * g * g
        s, num = b3 * s + d / 1e-6 * d * g, b3 * num + d / 1e-6 * d * (g @ (start - p))
        fresh = max(d, num / np.abs(s).sum()) if np.abs(s).sum() > 0 else d
        p = p - d * m / (np.sqrt(v) + d * 1e-8)
        d = fresh
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    return {n: part.reshape(shapes[n]) for n, part in zip(shapes, np.split(p, ends[:-1]), strict=True)}, d


def test_prodigy_steps_then_reduces_then_steps(x64):
    tx = prodigy()
    assert [len(segment.stages) for segment in tx.plan.segments] == [1, 1]
    seen, state = trajectory(tx, 30)
    want, d = prodigy_by_hand(30)
    np.testing.assert_allclose(state.estimate, d, rtol=1e-9)  # it grows by doubling, and errors with it
    for name, value in want.items():
        np.testing.assert_allclose(seen[-1][name], value, rtol=1e-9)


def test_prodigy_is_finite_on_a_zero_first_gradient():
    tx = prodigy()
    params = tree(0)
    state = tx.init(params)
    for grads in (jax.tree.map(jnp.zeros_like, params), tree(2)):
        updates, state = tx.update(grads, state, params)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((updates, state)))


# ------------------------------------------------------------------------------------------------ whatever else


def test_no_leaf_at_all_still_gives_sums():
    clip = gx.clip_by_global_norm(1.0)
    assert clip.update({}, clip.init({})) == ({}, optax.EmptyState())


def test_a_step_that_fails_says_where():
    @build.factory
    def broken():
        def step(g, s, p, k, leaf):
            return jnp.dot(g, jnp.ones((99,)))

        return build.elementwise(step)

    tx = gx.chain(gx.scale(2.0), broken())
    with pytest.raises(TypeError) as caught:
        tx.update({"layer": {"w": jnp.ones((3,))}}, tx.init(None))
    assert "while broken worked on the leaf 'layer/w'" in "\n".join(caught.value.__notes__)


def test_the_executor_hook_sees_every_slot_and_the_rule_does_not_see_it():
    """A toy executor keeps every moment halved: the rule is unchanged, the stored numbers are its own business."""
    from dataclasses import replace

    from gradxform._core.plan import Executor
    from gradxform._core.transform import wrap

    seen = set()

    class Halved(Executor):
        def decode(self, stored, dtypes):
            seen.add(tuple(stored))
            got = super().decode(stored, dtypes)
            return {**got, "mu": got["mu"] * 2.0}

        def encode(self, new, stored, part=None):
            assert set(new) == set(stored)
            return super().encode({**new, "mu": new["mu"] * 0.5}, stored)

    plain = gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
    body = plain.body

    class Around(type(body)):
        def lower(self, lowering, route):
            return route.after(super().lower(lowering, replace(route, executor=Halved())))

    around = wrap(Around(body.links, body.names, named=False))
    params = tree(0)
    mine, state = trajectory(around, 5)
    other, want = trajectory(plain, 5)
    assert_close(mine, other)
    for name in params:
        np.testing.assert_allclose(2 * state[0].mu[name], want[0].mu[name], rtol=1e-6)
    assert seen == {("mu", "nu")}


class Averaged(NamedTuple):
    average: build.Iterate


@build.factory
def averaged():
    def step(g, s, p, k, leaf):
        return g, {"average": 0.5 * s.average + 0.5 * g}

    return build.elementwise(step, state=Averaged, init={"average": lambda p, leaf: p})


def test_a_slot_that_starts_as_the_parameter_shares_no_memory_with_it():
    params = tree(0)
    state = averaged().init(params)
    for p, z in zip(jax.tree.leaves(params), jax.tree.leaves(state.average), strict=True):
        assert p.unsafe_buffer_pointer() != z.unsafe_buffer_pointer()
