"""`cautious`: the mask against NumPy, which way is downhill, odd leaves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._combine.cautious import CautiousState

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(0)
GRADS = [
    {"w": RANDOM.normal(size=(3, 4)), "b": RANDOM.normal(size=5), "s": RANDOM.normal(size=())}
    for _ in range(6)
]
PARAMS = {"w": jnp.ones((3, 4)), "b": jnp.zeros(5), "s": jnp.ones(())}


def masked(u: np.ndarray, g: np.ndarray, xi: float, downhill: bool) -> np.ndarray:
    keep = u * g * (-1 if downhill else 1) > 0
    return np.where(keep, u * keep.size / (keep.sum() + xi), 0.0)


def run(tx: Any, grads: Any = GRADS, params: Any = PARAMS) -> list[Any]:
    """The updates of every step; the parameters stay where they are."""
    stack = jax.tree.map(lambda *xs: jnp.asarray(np.stack(xs), jnp.float32), *grads)
    _, found = jax.jit(lambda s: jax.lax.scan(lambda s, g: tx.update(g, s, params)[::-1], s, stack))(
        tx.init(params)
    )
    return [jax.tree.map(lambda x, t=t: np.asarray(x[t]), found) for t in range(len(grads))]


@pytest.mark.parametrize(
    ("tx", "downhill", "xi"),
    [
        (gx.sgd(0.1, momentum=0.9), True, 0.0),
        (gx.adamw(0.1, weight_decay=0.1), True, 1.0),
        (gx.scale_by_adam(), False, 1.0),
        (gx.trace(0.9), False, 0.0),
        (gx.chain(gx.trace(0.9), gx.scale(-0.1)), True, 1.0),
        (gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(0.1, flip_sign=False)), False, 1.0),
        (gx.guard(gx.lion(0.1)), True, 1.0),
    ],
)
def test_the_mask_is_the_paper_s(tx, downhill, xi):
    bare, found = run(tx), run(gx.cautious(tx, xi))
    kept = 0.0
    for g, u, v in zip(GRADS, bare, found, strict=True):
        for name in PARAMS:
            wanted = masked(u[name].astype(np.float64), np.asarray(g[name]), xi, downhill)
            np.testing.assert_allclose(v[name], wanted, rtol=2e-6, atol=1e-9)
            kept += (v[name] != 0).mean() / 18
            assert np.all(v[name] * g[name] * (-1 if downhill else 1) >= 0)
    assert 0.5 < kept < 1.0, "some were masked"


def test_the_mean_size_stays_where_some_are_masked():
    """With xi = 0 the factor is what was left out, so updates of one size keep their mean size."""
    tx = gx.chain(gx.trace(0.9), gx.scale_by_sign(), gx.scale_by_learning_rate(0.1))
    for u in run(gx.cautious(tx, 0.0)):
        for name in PARAMS:
            if np.any(u[name]):
                assert np.abs(u[name]).mean() == pytest.approx(0.1, rel=1e-6)


def test_each_group_has_its_own_direction():
    groups = {"w": gx.sgd(0.1, momentum=0.9), "*": gx.trace(0.9)}
    bare, found = run(gx.param_groups(groups)), run(gx.cautious(gx.param_groups(groups)))
    for g, u, v in zip(GRADS, bare, found, strict=True):
        for name in PARAMS:
            wanted = masked(u[name], np.asarray(g[name]), 1.0, name == "w")
            np.testing.assert_allclose(v[name], wanted, rtol=2e-6, atol=1e-8)


def test_around_optax_the_direction_is_said():
    ours, theirs = run(gx.cautious(gx.adam(0.1))), run(gx.cautious(optax.adam(0.1), downhill=True))
    for a, b in zip(ours, theirs, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-7), a, b)


@pytest.mark.parametrize(
    "tx",
    [
        optax.adam(0.1),
        gx.chain(gx.scale_by_adam(), gx.scale_by_schedule(lambda count: -0.1 * count)),
        gx.chain(gx.scale_by_adam(), optax.scale(-0.1)),
        gx.guard(optax.adam(0.1)),
    ],
)
def test_a_direction_that_cannot_be_seen_has_to_be_said(tx):
    with pytest.raises(ValueError, match=r"whether .* turns the sign cannot be seen") as caught:
        gx.cautious(tx)
    assert "downhill=True" in str(caught.value)
    gx.cautious(tx, downhill=True)


def test_layers_of_a_stack_are_arrays_of_their_own():
    tx = gx.cautious(gx.trace(0.5), 0.0)
    layers, stack = [jnp.array([1.0, 1.0, 1.0, 1.0]), jnp.array([2.0, 2.0, 2.0, 2.0])], "layers"
    steps = [jnp.array([-0.1, 1.0, 1.0, 1.0]), jnp.array([-0.1, -0.1, -0.1, 2.0])]

    def second(tx: Any, first: Any, then: Any) -> Any:
        state = tx.update(first, tx.init(first))[1]
        return tx.update(then, state)[0]

    whole = second(gx.per_layer(tx, stack), {stack: jnp.stack(layers)}, {stack: jnp.stack(steps)})
    alone = [second(tx, a, b) for a, b in zip(layers, steps, strict=True)]
    np.testing.assert_allclose(whole[stack], jnp.stack(alone), rtol=1e-6)


def test_products_that_underflow_have_a_sign():
    tx = gx.cautious(gx.scale(1e-30), 0.0)
    u, _ = tx.update(jnp.array([1e-30, -1e-8]), tx.init(jnp.zeros(2)))
    assert float(u[1]) == pytest.approx(-1e-38, rel=1e-3)


def test_what_is_not_a_number_is_seen():
    tx = gx.cautious(gx.sgd(0.1, momentum=0.9))
    u, _ = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    assert np.isnan(u[0])


def test_sixteen_bits_complex_numbers_and_holes():
    params = {"h": jnp.ones(3, jnp.bfloat16), "c": jnp.ones(2, jnp.complex64), "n": jnp.arange(2), "x": None}
    grads = {"h": jnp.ones(3, jnp.bfloat16), "c": jnp.array([1 + 1j, 2.0]), "n": None, "x": None}
    tx = gx.cautious(gx.sgd(0.5, momentum=0.5), 0.0)
    _, state = tx.update(grads, tx.init(params), params)
    u, _ = tx.update({**grads, "c": jnp.array([-0.9j, -2.0 + 0.1j])}, state, params)
    assert u["h"].dtype == jnp.bfloat16
    assert u["n"] is None
    # 0.5 + 0.5j - 0.9j points with -0.9j, 1 - 2 + 0.1j with -2 + 0.1j: both are kept.
    np.testing.assert_allclose(u["c"], [-0.25 + 0.2j, 0.5 - 0.05j], rtol=1e-5)
    u, _ = tx.update({**grads, "c": jnp.array([-0.1j - 0.1, 2.0])}, state, params)
    np.testing.assert_allclose(u["c"][0], 0.0)


def test_the_state_adds_nothing():
    tx = gx.cautious(gx.adamw(1e-3))
    state = tx.init(PARAMS)
    assert isinstance(state, CautiousState)
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(gx.adamw(1e-3).init(PARAMS)))
    assert [link.address for link in tx.plan.flat] == ["cautious", "adam", "decay", "rate"]
    assert gx.from_json(gx.to_json(tx)) == tx


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"gx\.cautious\(xi=-1"):
        gx.cautious(gx.sgd(0.1), -1.0)
    with pytest.raises(TypeError, match=r"gx\.cautious\(downhill='yes'"):
        gx.cautious(gx.sgd(0.1), downhill="yes")


def test_across_shards_the_counts_are_those_of_the_whole_array():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    tx = gx.cautious(gx.trace(0.9), axis_names=("data",))
    first, then = jnp.ones(4), jnp.array([1.0, -0.1, -0.1, -0.1])

    def two(a: Any, b: Any) -> Any:
        _, state = tx.update(a, tx.init(a))
        return tx.update(b, state)[0]

    cut = jax.jit(jax.shard_map(two, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(first, then)
    np.testing.assert_allclose(cut, two(first, then), rtol=1e-6)
