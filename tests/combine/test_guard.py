"""`guard`: a step that must not count has never happened."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._combine.guard import GuardState, Skipped, enough
from tests.interop.problem import optax_s_own

NAN, INF = jnp.nan, jnp.inf


def ones(value: float = 1.0) -> dict[str, Any]:
    return {"a": jnp.full(3, value, jnp.float32), "b": jnp.full((2, 2), value, jnp.float32)}


def poisoned(value: float) -> dict[str, Any]:
    grads = ones()
    return {**grads, "b": grads["b"].at[1, 1].set(value)}


def run(tx: Any, *grads: Any, params: Any = None, **extra: Any) -> tuple[list[Any], Any]:
    params = ones(0.0) if params is None else params
    state, step, updates = tx.init(params), jax.jit(lambda *a, **k: tx.update(*a, **k)), list[Any]()
    for g in grads:
        u, state = step(g, state, params, **extra)
        updates.append(u)
    assert step._cache_size() == 1
    return updates, state


def same(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y, equal_nan=True)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("lib", [gx, optax], ids=["ours", "optax"])
def test_a_bad_step_has_never_happened(lib: Any, value: float) -> None:
    inner = lib.adamw(optax.linear_schedule(0.1, 0.0, 5) if lib is optax else gx.linear_schedule(0.1, 0.0, 5))
    tx = gx.guard(inner)
    updates, state = run(tx, ones(), poisoned(value), ones(2.0))
    with optax_s_own():
        wanted, other = run(inner, ones(), ones(2.0))
    assert not any(np.any(np.asarray(u)) for u in jax.tree.leaves(updates[1]))
    assert same([updates[0], updates[2]], wanted)
    assert same(state.inner_state, other)
    assert (int(state.skipped), int(state.consecutive)) == (1, 0)


def test_the_loss_is_looked_at_when_it_is_passed() -> None:
    tx = gx.guard(gx.sgd(0.1))
    for value, skipped in ((jnp.float32(1.0), 0), (jnp.float32(NAN), 1), (jnp.bfloat16(INF), 1)):
        assert int(run(tx, ones(), value=value)[1].skipped) == skipped
    with pytest.raises(ValueError, match=r"gx.guard: value= has shape \(2,\), wanted the loss, one number"):
        tx.update(ones(), tx.init(ones()), ones(), value=jnp.ones(2))


def test_the_loss_is_handed_on() -> None:
    _, state = run(gx.guard(optax.polyak_sgd()), ones(), value=jnp.float32(1.0))
    assert int(state.skipped) == 0


def test_B6_an_update_that_is_not_finite_is_no_step() -> None:
    inner = gx.chain(gx.scale(1e30), gx.scale(1e30), gx.trace(0.9))
    updates, state = run(gx.guard(inner), ones(), ones())
    assert not np.any(updates[0]["a"])
    assert int(state.skipped) == 2
    assert not np.any(state.inner_state[2].trace["a"]), "and the momentum is what it was"
    theirs = optax.apply_if_finite(optax.chain(optax.scale(1e30), optax.scale(1e30)), 3)
    assert np.all(np.isinf(theirs.update(ones(), theirs.init(ones()))[0]["a"])), (
        "the control: Optax lets it pass"
    )
    cheap, _ = run(gx.guard(inner, check_updates=False), ones())
    assert np.all(np.isinf(cheap[0]["a"])), "the control: this is what is not looked at"


def test_B7_a_skipped_step_does_not_move_the_parameters_by_momentum() -> None:
    updates, _ = run(gx.guard(gx.adam(1.0)), ones(), poisoned(NAN), poisoned(NAN))
    assert [float(u["a"][0]) != 0.0 for u in updates] == [True, False, False]


def test_B8_it_never_gives_up() -> None:
    bad = [poisoned(NAN)] * 4
    updates, state = run(gx.guard(gx.adam(1.0), max_consecutive=2), *bad, ones())
    assert float(updates[-1]["a"][0]) == pytest.approx(-1.0, rel=1e-4)
    assert int(state.skipped) == 4
    with optax_s_own():
        theirs, _ = run(optax.apply_if_finite(optax.adam(1.0), 2), *bad, ones())
    assert np.isnan(theirs[-1]["b"][1, 1]), "the control: Optax writes NaN"


def test_B10_a_norm_in_float16_does_not_overflow() -> None:
    grads = {"a": jnp.full(4, 300.0, jnp.float16)}
    _, state = run(gx.guard(gx.sgd(0.1), spike=6.0), grads, params=grads)
    assert int(state.skipped) == 0
    assert float(state.norms[0]) == 600.0
    assert bool(optax.skip_large_updates(grads, 0, None, 1e6)[0]), "the control"


def test_C3_gradients_of_another_dtype_than_the_parameters() -> None:
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.bfloat16)}
    grads = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    updates, _ = run(gx.guard(gx.adam(1e-3)), grads, params=params)
    assert [u.dtype for u in jax.tree.leaves(updates)] == [jnp.float32, jnp.bfloat16]


# ------------------------------------------------------------------------------------------------------------- spikes


def noisy(i: int) -> dict[str, Any]:
    return ones(1.0 + 0.1 * np.sin(i * 1.7))


def test_a_spike_is_skipped_and_does_not_enter_the_window() -> None:
    steps = [noisy(i) for i in range(20)] + [ones(3.0)] * 3 + [noisy(20)]
    _, state = run(gx.guard(gx.sgd(0.1), spike=6.0, window=16), *steps)
    assert (int(state.skipped), int(state.consecutive)) == (3, 0)
    assert float(jnp.max(state.norms)) < np.sqrt(7) * 1.11


def test_the_threshold_is_that_of_the_window() -> None:
    """Mean and standard deviation of exactly the last norms, by NumPy."""
    window, spike = 8, 3.0
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(size=200) * 0.5)
    tx = gx.guard(gx.identity(), spike=spike, window=window)
    state, step = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    held, skipped = list[float](), 0
    for size in sizes:
        ring = held[-window:]
        if len(ring) >= enough(window):
            spread = max(float(np.std(ring)), 1e-3 * float(np.mean(ring)))
            bad = size > np.mean(ring) + spike * spread
        else:
            bad = False
        skipped += int(bad)
        if not bad:
            held.append(size)
        _, state = step(jnp.full(1, np.float32(size)), state)
        assert int(state.skipped) == skipped
    assert 3 <= skipped <= 60
    assert int(state.seen) < 2 * window


def test_nothing_is_a_spike_before_there_is_something_to_compare_with() -> None:
    _, state = run(gx.guard(gx.sgd(0.1), spike=2.0, window=16), ones(), ones(100.0), ones(1.0))
    assert int(state.skipped) == 0


def test_equal_norms_are_no_spikes() -> None:
    steps = [ones(1.0)] * 10 + [ones(1.0 + 1e-6)] * 3
    _, state = run(gx.guard(gx.sgd(0.1), spike=6.0, window=8), *steps)
    assert int(state.skipped) == 0


def test_one_nan_does_not_blind_the_window() -> None:
    """MaxText's and Levanter's windows hold the NaN, and compare with it for as long as they are."""
    steps = [noisy(i) for i in range(10)] + [poisoned(NAN)] + [noisy(10), ones(50.0), noisy(11)]
    _, state = run(gx.guard(gx.sgd(0.1), spike=6.0, window=8), *steps)
    assert int(state.skipped) == 2, "the NaN and the spike behind it"
    assert np.all(np.isfinite(state.norms))


def test_a_spike_of_the_loss() -> None:
    tx = gx.guard(gx.sgd(0.1), spike=6.0, window=8)
    state, step = tx.init(ones()), jax.jit(tx.update)
    for i, loss in enumerate([1.0, 1.1, 0.9, 1.0, 1.05, 9.0, 1.0]):
        _, state = step(ones(), state, ones(), value=jnp.float32(loss))
        assert int(state.skipped) == int(i >= 5)
    assert float(jnp.max(state.values)) == pytest.approx(1.1)


def test_spikes_only() -> None:
    tx = gx.guard(gx.sgd(1.0), nonfinite="pass", spike=6.0, window=8)
    updates, state = run(tx, *[noisy(i) for i in range(5)], ones(100.0), poisoned(NAN))
    assert int(state.skipped) == 1
    assert np.isnan(updates[-1]["b"][1, 1])
    assert np.all(np.isfinite(state.norms)), "what passes does not enter the window"


def test_without_a_spike_no_window_is_kept() -> None:
    state = gx.guard(gx.sgd(0.1)).init(ones())
    assert state.norms is None
    assert state.values is None


def test_a_window_of_zeros_blinds_nobody() -> None:
    """A frozen start, a head that begins at zero: the first gradients that are not zero are no spikes."""
    steps = [ones(0.0)] * 12 + [ones(1.0)] * 6
    _, state = run(gx.guard(gx.sgd(0.1), spike=6.0, window=8), *steps)
    assert int(state.skipped) == 0


# -------------------------------------------------------------------------------------------------------------- check


def test_check_raises_with_the_counters() -> None:
    tx = gx.chain(gx.clip(1.0), gx.guard(gx.adam(0.1), max_consecutive=2))
    bad = poisoned(NAN)
    gx.check(run(tx, bad, bad, ones(), bad, bad)[1])
    state = run(tx, bad, ones(), bad, bad, bad)[1]
    with pytest.raises(
        Skipped, match=r"the guard at 1 has skipped the last 3 steps \(4 in all\), and 2 in a row"
    ):
        gx.check(state)
    with pytest.raises(RuntimeError):
        gx.check({"opt": state})


def test_without_a_limit_a_window_of_skips_is_too_many() -> None:
    tx = gx.guard(gx.sgd(0.1), window=3)
    gx.check(run(tx, *[poisoned(NAN)] * 3)[1])
    with pytest.raises(Skipped):
        gx.check(run(tx, *[poisoned(NAN)] * 4)[1])


def test_a_changed_limit_holds_for_a_restored_state() -> None:
    _, state = run(gx.guard(gx.sgd(0.1), max_consecutive=100), poisoned(NAN), poisoned(NAN))
    _, state = gx.guard(gx.sgd(0.1), max_consecutive=1).update(poisoned(NAN), state, ones())
    with pytest.raises(Skipped, match="last 3 steps"):
        gx.check(state)


def test_check_takes_what_trainers_hold() -> None:
    from flax import nnx

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, gx.guard(gx.sgd(0.1), max_consecutive=0), wrt=nnx.Param)
        gx.check(optimizer.opt_state)
        optimizer.update(model, jax.tree.map(lambda x: x * NAN, nnx.state(model, nnx.Param)))
        for held in (optimizer.opt_state, optimizer):
            with pytest.raises(Skipped):
                gx.check(held)
        gx.check(gx.adam(0.1).init(ones()))


# --------------------------------------------------------------------------------------------------------- where it is


def test_outside_of_freeze_and_of_groups_without_state() -> None:
    frozen = gx.guard(gx.chain(gx.sgd(1.0), gx.freeze("b")))
    updates, state = run(frozen, ones(), poisoned(NAN), ones())
    assert [float(u["a"][0]) for u in updates] == [-1.0, 0.0, -1.0]
    assert not any(np.any(u["b"]) for u in updates)
    assert int(state.skipped) == 1
    groups = gx.guard(gx.param_groups({"a": gx.adam(1.0), "b": None}))
    assert int(run(groups, poisoned(NAN), ones())[1].skipped) == 1


def test_inside_of_a_group_it_sees_the_group_only() -> None:
    tx = gx.param_groups({"a": gx.guard(gx.sgd(1.0)), "b": gx.sgd(1.0)})
    updates, _ = run(tx, {**ones(NAN), "b": jnp.ones((2, 2))})
    assert not np.any(updates[0]["a"])
    assert np.all(np.asarray(updates[0]["b"]) == -1.0)


def test_in_a_chain_addresses_are_those_of_the_links_inside() -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.guard(gx.adamw(0.1)))
    assert [link.address for link in tx.plan.flat] == [
        "clip",
        "adamw/guard",
        "adamw/adam",
        "adamw/decay",
        "adamw/rate",
    ]
    with pytest.raises(ValueError, match=r"(?s)adamw/guard: wanted the state GuardState.*gx.restore_into"):
        tx.update(ones(), gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)).init(ones()), ones())
    with pytest.raises(ValueError, match="learning rate is applied 2 times"):
        gx.chain(gx.guard(gx.adam(0.1)), gx.scale_by_learning_rate(0.1))


def test_stacked_layers_inside() -> None:
    tx = gx.per_layer(gx.guard(gx.clip_by_block_rms(1.0)), "w")
    grads = {"w": jnp.asarray([[4.0, 4.0], [0.5, 0.5]])}
    assert run(tx, grads, params=grads)[0][0]["w"].tolist() == [[1.0, 1.0], [0.5, 0.5]]


def test_donated_and_in_a_loop() -> None:
    tx, params = gx.guard(gx.adam(0.1), spike=6.0), ones(0.0)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=1)
    _, state = step(ones(), tx.init(params), params)

    def body(state: Any, scale: Any) -> tuple[Any, Any]:
        u, state = tx.update(jax.tree.map(lambda x: x * scale, ones()), state, params)
        return state, u["a"][0]

    state, moved = jax.lax.scan(body, state, jnp.asarray([1.0, NAN, 1.0]))
    assert isinstance(state, GuardState)
    assert int(state.skipped) == 1
    assert [float(x) != 0.0 for x in moved] == [True, False, True]


def test_inside_shard_map_every_device_skips_together() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = gx.guard(gx.sgd(1.0), spike=6.0, axis_names="x")
    spec = jax.P("x")
    params = jnp.zeros(16)
    state = tx.init(params)
    whole = jax.tree.map(lambda _: jax.P(), state)

    def step(g: Any, s: Any, p: Any) -> Any:
        return tx.update(g, s, p)

    run_it = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(spec, whole, spec), out_specs=(spec, whole)))
    updates, state = run_it(jnp.ones(16), state, params)
    assert float(state.norms[0]) == 4.0
    updates, state = run_it(jnp.ones(16).at[3].set(NAN), state, params)
    assert not np.any(updates)
    assert int(state.skipped) == 1
    careless = gx.guard(gx.sgd(1.0))
    bare = jax.tree.map(lambda _: jax.P(), careless.init(params))
    with pytest.raises(ValueError, match="axis_names"):
        jax.shard_map(careless.update, mesh=mesh, in_specs=(spec, bare, spec), out_specs=(spec, bare))(
            jnp.ones(16), careless.init(params), params
        )


def test_a_loss_that_differs_between_devices_is_refused() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = gx.guard(gx.sgd(1.0), axis_names="x")
    state = tx.init(jnp.zeros(2))

    def step(value: Any) -> Any:
        return tx.update(jnp.ones(2), state, value=value[0])[0]

    with pytest.raises(
        ValueError, match=r"value= differs between the devices.*(?s:.)*pmean\(loss, \('x',\)\)"
    ):
        jax.shard_map(step, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P())(jnp.ones(8))


# ------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"nonfinite": "zero"}, "nonfinite='zero'.*wanted 'skip' or 'pass'"),
        ({"spike": 0.0}, "spike"),
        ({"spike": gx.linear_schedule(1.0, 2.0, 3)}, "spike"),
        ({"window": 1}, "window"),
        ({"window": 2.5}, "window"),
        ({"max_consecutive": -1}, "max_consecutive"),
        ({"check_updates": 1}, "check_updates"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        gx.guard(gx.sgd(0.1), **arguments)


def test_what_is_no_transform() -> None:
    with pytest.raises(TypeError, match=r"gx.guard\(tx\): wanted a transform"):
        gx.guard(gx.adam)


def test_it_is_a_value() -> None:
    tx = gx.guard(gx.adamw(1e-3), spike=6.0, max_consecutive=10)
    assert repr(tx) == "gx.guard(gx.adamw(0.001), spike=6.0, max_consecutive=10)"
    assert gx.from_json(gx.to_json(tx)) == tx == eval(repr(tx), {"gx": gx})
