"""`schedule_free`: the identities of the method, its numbers, odd leaves, 16 bits, donation, what is around it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import ScheduleFreeState

import gradxform as gx
from gradxform import build
from tests.interop.problem import optax_s_own

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

STEPS = 60
PARAMS = {"w": jnp.array([[1.0, -2.0, 0.5]]), "layers": [{"b": jnp.ones(3)}, {"b": jnp.full(3, 2.0)}]}


def gradients(seed: int = 0, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, 3)) + 0.3


def follow(
    tx: Any, dtype: Any = jnp.float32, steps: int = STEPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, z and x after each step with gradients that are given."""

    def step(carry: Any, g: Any) -> Any:
        p, state = carry
        u, state = tx.update(g, state, p)
        p = gx.apply_updates(p, u)
        return (p, state), (p, state.z, gx.eval_params(state, p))

    p = jnp.array([1.0, -2.0, 0.5], dtype)
    _, seen = jax.lax.scan(step, (p, tx.init(p)), jnp.asarray(gradients(steps=steps), dtype))
    return tuple(np.asarray(each, np.float64) for each in seen)


def slope(p: Any) -> Any:
    return jax.tree.map(lambda x: 0.5 * x + 0.1, p)


def train(tx: Any, params: Any = PARAMS, steps: int = 5) -> tuple[Any, Any]:
    """Compiled steps whose state is donated."""
    state = jax.jit(tx.init)(params)
    step = jax.jit(lambda p, s: tx.update(slope(p), s, p), donate_argnums=1)
    for _ in range(steps):
        updates, state = step(params, state)
        params = gx.apply_updates(params, updates)
    return params, state


def assert_close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


BASE = gx.schedule_free(gx.sgd(0.1), 0.1)

# ---------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("b1", [0.3, 0.9, 1.0])
def test_without_powers_x_is_the_mean_of_all_z(b1: float) -> None:
    """Polyak and Ruppert; where the gradients are given, whatever b1 is."""
    y, z, x = follow(gx.schedule_free(gx.sgd(0.1), 0.1, b1, 0.0))
    np.testing.assert_allclose(x, np.cumsum(z, 0) / np.arange(1, STEPS + 1)[:, None], atol=3e-6)
    np.testing.assert_allclose(y, b1 * x + (1 - b1) * z, atol=3e-6)
    # z is what the base makes of the gradients.
    np.testing.assert_allclose(z, [1.0, -2.0, 0.5] - 0.1 * np.cumsum(gradients(), 0), atol=3e-6)


def test_with_b1_of_1_the_parameters_are_the_average() -> None:
    """Primal averaging: x' = (1 - 1/t) x + 1/t z' with the gradient at x."""
    tx = gx.schedule_free(gx.sgd(0.1), 0.1, 1.0)
    params, state = train(tx, steps=30)
    assert_close(gx.eval_params(state, params), params, 3e-7)

    def by_hand(p: np.ndarray) -> np.ndarray:
        x = z = p
        for t in range(1, 31):
            z = z - 0.1 * (0.5 * x + 0.1)
            x = x + (z - x) / t
        return x

    assert_close(params, jax.tree.map(lambda p: by_hand(np.asarray(p, np.float64)), PARAMS))


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_a_step_power_weighs_by_powers_of_the_step(power: float) -> None:
    _, z, x = follow(gx.schedule_free(gx.sgd(0.1), 0.1, 0.7, weight_step_power=power))
    w = np.arange(1, STEPS + 1.0)[:, None] ** power
    np.testing.assert_allclose(x, np.cumsum(w * z, 0) / np.cumsum(w, 0), atol=5e-6)


def test_a_rate_that_falls_lowers_no_weight() -> None:
    """The weights are powers of the largest rate so far, at the count at which the base has its own."""
    rate = gx.join_schedules([gx.linear_schedule(0.0, 0.2, 20), gx.linear_schedule(0.2, 0.0, 40)], [20])
    _, z, x = follow(gx.schedule_free(gx.sgd(rate), rate))
    at = np.array([float(rate(t)) for t in range(STEPS)])
    w = (np.maximum.accumulate(at) ** 2)[:, None]
    np.testing.assert_array_equal(x[0], [1.0, -2.0, 0.5])  # a rate of 0 has no weight, and moves nothing
    np.testing.assert_allclose(
        x[1:], (np.cumsum(w * z, 0) / np.maximum(np.cumsum(w, 0), 1e-30))[1:], atol=5e-6
    )


def test_x_stays_where_b1_changes() -> None:
    """x and z do not depend on b1 where the gradients do not; with a schedule, and set between steps."""
    _, z, x = follow(gx.schedule_free(gx.sgd(0.1), 0.1, 0.5))
    y, same_z, same_x = follow(gx.schedule_free(gx.sgd(0.1), 0.1, gx.linear_schedule(0.5, 0.95, 40)))
    np.testing.assert_allclose(same_z, z, atol=1e-6)
    np.testing.assert_allclose(same_x, x, atol=5e-6)
    b1 = np.minimum(0.5 + 0.45 * np.arange(STEPS)[:, None] / 40, 0.95)
    np.testing.assert_allclose(y, b1 * x + (1 - b1) * z, atol=5e-6)
    tx = gx.tunable(gx.schedule_free(gx.sgd(0.1), 0.1, 0.5), "b1")
    p, state = jnp.array([1.0, -2.0, 0.5]), tx.init(jnp.array([1.0, -2.0, 0.5]))
    for t, g in enumerate(jnp.asarray(gradients()[:20], jnp.float32)):
        state = gx.set_hyperparams(state, b1=0.9) if t == 10 else state
        u, state = tx.update(g, state, p)
        p = gx.apply_updates(p, u)
    np.testing.assert_allclose(gx.eval_params(state, p), x[19], atol=3e-6)
    assert float(state.inner_state.b1) == np.float32(0.9)


# ---------------------------------------------------------------------------------------------- Optax


@pytest.mark.parametrize("make", [lambda lib: lib.sgd(0.1), lambda lib: lib.adam(0.01, b1=0.0)])
def test_it_is_optax_s_around_either_library_s_transform(make: Any) -> None:
    with optax_s_own():
        wanted = follow(optax.contrib.schedule_free(make(optax), 0.1, b1=0.8))
        for base in (make(gx), make(optax)):
            for got, want in zip(follow(gx.schedule_free(base, 0.1, b1=0.8)), wanted, strict=True):
                np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_a_run_of_optax_in_bfloat16_goes_on() -> None:
    """Its state has b1 in bfloat16, with which its x is found; y is made with the same, and nothing grows."""
    with optax_s_own():
        theirs = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
        p = jnp.ones(3, jnp.bfloat16)
        state = theirs.init(p)
        assert state.b1.dtype == state.weight_sum.dtype == jnp.bfloat16
        state = state._replace(weight_sum=jnp.asarray(100.0, jnp.bfloat16))  # as after many steps
        state = state._replace(z=jnp.asarray([2.0, 0.0, 1.0], jnp.bfloat16))
        before = gx.eval_params(state, p)
        ours, wide = gx.schedule_free(gx.sgd(0.1), 0.1), p.astype(jnp.float32)
        for _ in range(300):
            u, state = ours.update(jnp.zeros(3), state, wide)
            wide = wide + u
    assert state.b1.dtype == jnp.bfloat16
    np.testing.assert_allclose(gx.eval_params(state, wide), before.astype(jnp.float32), atol=0.05)


def test_the_sum_of_the_weights_does_not_stall_in_16_bits() -> None:
    """Optax's, in the dtype of the parameters, stops at 256 of its terms: each later step has a weight of 1 / 256."""
    p, n = jnp.ones(1, jnp.bfloat16), 600

    def sums(tx: Any) -> Any:
        state = jax.jit(tx.init)(p)
        loop = jax.jit(
            lambda s: jax.lax.fori_loop(0, n, lambda _, s: tx.update(jnp.zeros_like(p), s, p)[1], s)
        )
        return loop(state).weight_sum

    assert float(sums(gx.schedule_free(gx.sgd(1.0), 1.0))) == n
    with optax_s_own():
        assert float(sums(optax.contrib.schedule_free(optax.sgd(1.0), 1.0))) == 256


def test_z_of_16_bits_is_float32_unless_asked_otherwise() -> None:
    p = jnp.ones(1, jnp.bfloat16)
    wide, narrow = BASE, gx.schedule_free(gx.sgd(0.1), 0.1, state_dtype=jnp.bfloat16)
    assert wide.init(p).z.dtype == jnp.float32
    assert narrow.init(p).z.dtype == jnp.bfloat16
    assert (
        gx.schedule_free(gx.sgd(0.1), 0.1, state_dtype=jnp.bfloat16).init(jnp.ones(1)).z.dtype == jnp.bfloat16
    )
    # Steps of 1e-3, each below half a step of bfloat16.
    for tx, want in ((wide, 0.9), (narrow, 1.0)):
        state = tx.init(p)
        for _ in range(100):
            u, state = tx.update(jnp.full(1, 0.01, jnp.bfloat16), state, p)
            assert u.dtype == jnp.bfloat16
        assert float(state.z[0]) == pytest.approx(want, abs=2e-3)


def test_16_bit_weights_with_a_master_are_trained_as_float32_ones() -> None:
    rate = 0.003
    params = {"w": jnp.array([1.0, -2.0, 0.5])}
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    given = [{"w": jnp.asarray(g, jnp.bfloat16)} for g in gradients(steps=300)]

    def run(tx: Any, p: Any, dtype: Any) -> tuple[Any, Any]:
        state, step = tx.init(p), jax.jit(tx.update)
        for g in given:
            u, state = step(jax.tree.map(lambda x: x.astype(dtype), g), state, p)
            p = gx.apply_updates(p, u)
        return p, state

    tx = gx.schedule_free_sgd(rate)
    full, wanted = run(tx, params, jnp.float32)
    x = gx.eval_params(wanted, full)["w"]
    master = gx.lowbit.exact_master(tx)
    p, state = run(master, half, jnp.bfloat16)
    found = gx.eval_params(state, gx.lowbit.master_params(state, p))["w"]
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-5)
    # Without, the average stops at some distance.
    p, state = run(tx, half, jnp.bfloat16)
    assert float(jnp.max(jnp.abs(gx.eval_params(state, p)["w"].astype(jnp.float32) - x))) > 1e-3


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("b1", [0.5, 0.9, 0.98])
def test_float32_is_enough_for_a_thousand_steps(b1: float) -> None:
    """x, found from y and z, is off by less than 1e-5 of its size."""
    _, _, x = follow(gx.schedule_free(gx.sgd(0.1), 0.1, b1), steps=1000)
    z = [1.0, -2.0, 0.5] - 0.1 * np.cumsum(gradients(steps=1000), 0)
    wanted = np.cumsum(z, 0) / np.arange(1, 1001)[:, None]
    assert np.max(np.abs(x - wanted)) < 1e-5 * np.max(np.abs(wanted))


def test_a_small_update_keeps_its_digits() -> None:
    """Beside weights of 1000, a difference of two sums has none of a step of 1e-6 left."""
    tx, p = gx.schedule_free(gx.sgd(1e-6), 1e-6), jnp.full(1, 1000.0)
    u, _ = tx.update(jnp.ones(1), tx.init(p), p)
    assert float(u[0]) == pytest.approx(-1e-6, rel=1e-6)
    with optax_s_own():
        theirs = optax.contrib.schedule_free(optax.sgd(1e-6), 1e-6)
        assert float(theirs.update(jnp.ones(1), theirs.init(p), p)[0][0]) == 0.0


def test_no_rate_at_all_is_no_nan() -> None:
    tx = gx.schedule_free(gx.sgd(0.0), 0.0)
    y, _, x = follow(tx)
    np.testing.assert_array_equal(y, np.broadcast_to([1.0, -2.0, 0.5], y.shape))
    np.testing.assert_array_equal(x, y)


def test_what_is_no_number_is_seen() -> None:
    p = jnp.ones(1)
    u, _ = BASE.update(jnp.array([jnp.nan]), BASE.init(p), p)
    assert np.isnan(u[0])
    broken = BASE.init(p)._replace(weight_sum=jnp.asarray(jnp.nan))
    assert np.isnan(BASE.update(jnp.ones(1), broken, p)[0][0])


@pytest.mark.usefixtures("x64")
def test_double_precision_is_kept() -> None:
    state = BASE.init({"w": jnp.ones(2, jnp.float32), "d": jnp.ones(2, jnp.float64)})
    assert {x.dtype for x in (state.b1, state.weight_sum, state.max_lr, state.z["d"])} == {
        jnp.dtype("float64")
    }
    single = BASE.init({"w": jnp.ones(2, jnp.float32)})
    assert single.weight_sum.dtype == single.z["w"].dtype == jnp.float32


# ---------------------------------------------------------------------------------------------- leaves and trees


def test_odd_leaves_and_a_donated_state() -> None:
    params = {
        "w": jnp.ones((2, 3)),
        "n": jnp.arange(2),
        "h": jnp.ones(2, jnp.float16),
        "c": jnp.array([1.0 + 2.0j]),
        "e": jnp.zeros((0, 3)),
        "x": None,
    }
    grads = jax.tree.map(jnp.ones_like, params) | {"n": None}
    tx = gx.schedule_free(optax.sgd(0.1), 0.1)
    state = tx.init(params)
    updates, new = jax.jit(tx.update, donate_argnums=1)(grads, state, params)
    assert float(params["w"].sum()) == 6.0, "z shares nothing with the parameters"
    old = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(new)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(old)
    ]
    assert updates["n"] is None
    assert complex(new.z["c"][0]) == pytest.approx(0.9 + 2.0j)
    found = gx.eval_params(new, gx.apply_updates(params, updates))
    np.testing.assert_array_equal(found["n"], params["n"])
    assert found["x"] is None
    assert found["h"].dtype == jnp.float16
    # Parameters and state are donated together: no array is in both.
    both = jax.jit(lambda p, s: (p, tx.update(grads, s, p)), donate_argnums=(0, 1))
    both(params, tx.init(params))


def test_runs_side_by_side_under_vmap() -> None:
    starts = jnp.arange(6.0).reshape(2, 3)
    rates = jnp.array([0.1, 0.3])

    def run(p: Any, rate: Any) -> Any:
        tx = gx.schedule_free(gx.sgd(rate), rate, weight_step_power=1.0)
        state = tx.init(p)
        for _ in range(4):
            u, state = tx.update(slope(p), state, p)
            p = gx.apply_updates(p, u)
        return p, state

    params, state = jax.vmap(run)(starts, rates)
    for i in range(2):
        p, alone = run(starts[i], float(rates[i]))
        np.testing.assert_allclose(gx.eval_params(state, params)[i], gx.eval_params(alone, p), rtol=1e-6)


def test_nothing_is_renamed_and_the_pass_is_shared() -> None:
    tx = gx.schedule_free(gx.adamw(1e-2, b1=0.0), 1e-2)
    assert [link.address for link in tx.plan.links] == ["adam", "decay", "rate", "schedule_free"]
    assert len(tx.plan.segments) == 1
    roles = {name: role.name for name, role in build.roles_of(ScheduleFreeState).items()}
    assert roles["z"] == "iterate"
    assert roles["step_count"] == "count"
    assert build.reach_of(tx) == "element"
    # What the base keeps is told once.
    assert "moment 36 B, second moment 36 B, iterate 36 B" in str(gx.describe(tx, PARAMS))
    assert "state 128 B" in str(gx.describe(tx, PARAMS))


# ---------------------------------------------------------------------------------------------- what is around it


AROUND = {
    "guard": lambda tx: gx.guard(tx, spike=6.0),
    "chain": lambda tx: gx.chain(gx.clip_by_global_norm(1e9), tx),
    "named_chain": lambda tx: gx.named_chain(("first", gx.identity()), ("second", tx)),
    "per_layer": lambda tx: gx.per_layer(tx, "layers/*"),
    "loss_scale": lambda tx: gx.loss_scale(tx, 1.0),
    "tunable": lambda tx: gx.tunable(tx, "b1"),
    "probe": gx.probe,
    "accumulate": lambda tx: gx.accumulate(tx, 1),
    "param_groups": lambda tx: gx.param_groups({"w": tx, "*": tx}),
    "masked": lambda tx: gx.chain(gx.masked(tx, "w"), gx.masked(tx, "layers/*")),
    "apply_when": lambda tx: gx.apply_when(tx, lambda count: count >= 0),
    "switch_at": lambda tx: gx.switch_at(100, tx, gx.sgd(0.1)),
    "bits of a momentum": lambda tx: gx.lowbit.quantized(tx, 8),
    "optax.chain": optax.chain,
    "optax.masked": lambda tx: optax.masked(tx, True),
    "optax.apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "optax.MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
}


@pytest.mark.parametrize("name", AROUND)
def test_x_is_found_through(name: str) -> None:
    """Where `schedule_free_eval_params` sees the bare state only."""
    plain, bare = train(BASE)
    with optax_s_own():
        params, state = train(AROUND[name](BASE))
        assert_close(params, plain)
        assert_close(gx.eval_params(state, params), gx.eval_params(bare, plain))


@pytest.mark.parametrize(
    "base",
    [
        gx.chain(gx.clip(0.3), gx.sgd(0.1)),
        gx.param_groups({"w": gx.sgd(0.1), "*": gx.adam(0.01, b1=0.0)}),
        gx.accumulate(gx.sgd(0.1), 1),
        gx.guard(gx.sgd(0.1)),
        gx.tunable(gx.sgd(0.1), "learning_rate"),
        gx.adafactor(0.1, min_dim_size_to_factor=2),
        optax.lion(0.01, b1=0.0),
        optax.contrib.prodigy(1.0),
    ],
    ids=lambda tx: getattr(tx, "label", "") or "optax",
)
def test_any_transform_is_a_base(base: Any) -> None:
    """z is what the base makes of the parameters that it is given, and x the mean of all z."""
    tx = gx.schedule_free(base, 1.0)
    with optax_s_own():
        params, state, base_state = PARAMS, tx.init(PARAMS), base.init(PARAMS)
        z = total = PARAMS
        for t in range(1, 5):
            grads = slope(params)
            own, base_state = base.update(grads, base_state, params)
            z = jax.tree.map(lambda z, u: z + u, z, own)
            total = z if t == 1 else jax.tree.map(lambda a, b: a + b, total, z)
            updates, state = tx.update(grads, state, params)
            params = gx.apply_updates(params, updates)
        assert_close(state.z, z, 3e-6)
        assert_close(gx.eval_params(state, params), jax.tree.map(lambda a: a / 4, total), 3e-6)


def test_a_masked_leaf_is_trained_without() -> None:
    tx = gx.param_groups({"w": BASE, "*": gx.sgd(0.1)})
    params, state = train(tx)
    found = gx.eval_params(state, params)
    assert_close(found["layers"], params["layers"], 0.0)
    alone, own = train(BASE)
    assert_close(found["w"], gx.eval_params(own, alone)["w"])


def test_groups_with_a_b1_of_their_own_evaluate_as_one() -> None:
    params, state = train(gx.param_groups({"w": gx.schedule_free(gx.sgd(0.1), 0.1, 0.5), "*": BASE}))
    found = gx.eval_params(state, params)
    for name, tx in (("w", gx.schedule_free(gx.sgd(0.1), 0.1, 0.5)), ("layers", BASE)):
        alone, own = train(tx)
        assert_close(found[name], gx.eval_params(own, alone)[name])


def test_an_average_of_a_window_is_a_step() -> None:
    params, state = train(gx.accumulate(BASE, 2), steps=8)
    assert int(state.inner_state.step_count) == 4
    alone, own = train(BASE, steps=4)
    assert_close(gx.eval_params(state, params), gx.eval_params(own, alone))


def test_a_skipped_step_has_never_happened() -> None:
    tx = gx.guard(BASE)
    p, state = jnp.ones(1), tx.init(jnp.ones(1))
    for g in (1.0, float("nan"), 2.0):
        u, state = tx.update(jnp.array([g]), state, p)
        p = gx.apply_updates(p, u)
    q, bare = jnp.ones(1), BASE.init(jnp.ones(1))
    for g in (1.0, 2.0):
        u, bare = BASE.update(jnp.array([g]), bare, q)
        q = gx.apply_updates(q, u)
    assert_close((p, state.inner_state), (q, bare))


def test_a_run_without_goes_on_with_it() -> None:
    """Put around a run of AdamW: its moments stay, z begins at the parameters."""
    tx, bare = gx.schedule_free(gx.adamw(1e-2), 1e-2), gx.adamw(1e-2)
    params, saved = train(bare)
    with pytest.raises(ValueError, match="schedule_free: wanted the state ScheduleFreeState"):
        tx.update(slope(params), saved, params)
    state, _ = gx.restore_into(tx, params, saved)
    assert_close(state.base_optimizer_state[0].nu, saved[0].nu, 0.0)
    assert_close(state.z, params, 0.0)


def test_orders_that_mean_something_else_are_told() -> None:
    def said(tx: Any) -> str:
        return "\n".join(x for x in str(gx.describe(tx, PARAMS)).splitlines() if x.startswith("WARNING"))

    assert said(gx.chain(gx.clip(1.0), BASE)) == ""
    assert "put it last" in said(gx.chain(BASE, gx.clip(1.0)))
    assert "put it outside" in said(gx.cautious(BASE))
    assert "ends uphill" in said(gx.schedule_free(gx.scale_by_adam(), 0.1))
    with pytest.raises(ValueError, match="the learning rate is applied 2 times"):
        gx.chain(BASE, gx.scale_by_learning_rate(0.1))
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = gx.schedule_free(gx.lowbit.exact_master(gx.sgd(0.1)), 0.1)
    with pytest.raises(ValueError, match="put it inside"):
        tx.update(params, tx.init(params), params)


# ---------------------------------------------------------------------------------------------- devices


def test_z_is_cut_as_its_parameter_is() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.P("x"))
    params = {"w": jax.device_put(jnp.arange(32.0).reshape(8, 4), sharding)}
    tx = gx.schedule_free_adamw(0.1)
    state = gx.sharding.init_sharded(tx, params)
    for x in (state.z, state.base_optimizer_state[0].nu):
        assert x["w"].sharding.is_equivalent_to(sharding, 2)
    assert state.weight_sum.sharding.is_fully_replicated
    updates, new = jax.jit(tx.update)(params, state, params)
    for x in (new.z, updates):
        assert x["w"].sharding.is_equivalent_to(sharding, 2)


def test_inside_of_shard_map_a_shard_is_a_part_of_the_whole() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": jnp.arange(32.0).reshape(8, 4)}
    tx = gx.schedule_free_adamw(0.1, weight_decay=0.1)

    def steps(p: Any) -> Any:
        state = tx.init(p)
        for _ in range(3):
            u, state = tx.update(slope(p), state, p)
            p = gx.apply_updates(p, u)
        return p, gx.eval_params(state, p)

    cut = jax.shard_map(steps, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))
    assert_close(jax.jit(cut)(params), jax.jit(steps)(params))


def test_zero_and_offload_take_z_and_the_base_s_state_by_their_addresses() -> None:
    params = {"w": jnp.ones((8, 4)), "b": jnp.ones(16)}
    tx = gx.schedule_free_adamw(0.1, weight_decay=0.1)
    wanted, bare = train(tx, params)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        got, state = train(gx.sharding.zero(tx, "data"), params)
        assert state.z["w"].sharding.spec == jax.P("data")
        assert_close(gx.eval_params(state, got), gx.eval_params(bare, wanted))
    for pattern, host in (("schedule_free/z/*", {"z"}), ("rms/nu/*", {"nu"}), ("*", {"z", "nu"})):
        offloaded = gx.sharding.offload(tx, pattern)
        got, state = params, offloaded.init(params)
        for _ in range(5):
            updates, state = offloaded.update(slope(got), state, got)
            got = gx.apply_updates(got, updates)
        kinds = {"z": state.z["w"], "nu": state.base_optimizer_state[0].nu["w"]}
        assert {name for name, x in kinds.items() if "host" in x.sharding.memory_kind} == host
        assert_close(gx.eval_params(state, got), gx.eval_params(bare, wanted))


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_fewer_bits_are_for_the_base_s_moments(bits: int) -> None:
    params = {"w": jnp.ones((8, 512))}
    tx = gx.lowbit.quantized(gx.schedule_free_adamw(0.1), bits, min_size=1)
    got, state = train(tx, params)
    assert isinstance(state.z["w"], jax.Array)
    assert state.z["w"].dtype == jnp.float32
    assert not isinstance(state.base_optimizer_state[0].nu["w"], jax.Array)
    wanted, bare = train(gx.schedule_free_adamw(0.1), params)
    assert_close(gx.eval_params(state, got), gx.eval_params(bare, wanted), 0.02)


def test_buckets_are_trained_as_their_leaves() -> None:
    tx = gx.schedule_free_adamw(0.1, weight_decay=0.1)
    bucketed = gx.fused.bucketed(tx)
    params, state = train(bucketed, gx.fused.pack(PARAMS, bucketed))
    wanted, bare = train(tx)
    assert_close(gx.fused.unpack(gx.eval_params(state, params)), gx.eval_params(bare, wanted))


# ---------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b1": 0.0}, "so that b1=0 leaves no weights to evaluate with"),
        ({"b1": 1.1}, "b1=1.1"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"weight_lr_power": -1.0}, "weight_lr_power=-1.0"),
        ({"weight_step_power": -1.0}, "weight_step_power=-1.0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"gx\.schedule_free") as caught:
        gx.schedule_free(**{"base_optimizer": gx.sgd(0.1), "learning_rate": 0.1} | options)
    assert message in str(caught.value)


def test_what_is_of_another_type() -> None:
    with pytest.raises(TypeError, match=r"(?s)state_dtype=.*wanted a floating dtype"):
        gx.schedule_free(gx.sgd(0.1), 0.1, state_dtype=jnp.int32)
    with pytest.raises(TypeError, match=r"gx\.schedule_free\(base_optimizer\)"):
        gx.schedule_free(0.1, 0.1)
    with pytest.raises(TypeError, match=r"learning_rate=None"):
        gx.schedule_free(gx.sgd(0.1), None)


def test_parameters_are_asked_for() -> None:
    with pytest.raises(ValueError, match="missing params for schedule_free"):
        BASE.update(jnp.ones(2), BASE.init(jnp.ones(2)))


def test_a_value() -> None:
    tx = gx.schedule_free(gx.adamw(1e-2, b1=0.0), 1e-2, 0.95, weight_step_power=1.0)
    assert repr(tx) == "gx.schedule_free(gx.adamw(0.01, b1=0.0), 0.01, b1=0.95, weight_step_power=1.0)"
    assert gx.from_json(gx.to_json(tx)) == tx
