"""`tunable`: the same step, numbers that are data, names that find them, and Optax's defects gone."""

import json
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._catalog import entries
from gradxform._combine.numbers import Numbers
from gradxform._combine.tunable import TunableState

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

KEYS = jax.random.split(jax.random.key(0), 26)
PARAMS = {"w": jax.random.normal(KEYS[0], (4, 3)), "b": jax.random.normal(KEYS[1], (3,))}


def _gradient(key: Any) -> Any:
    """Sizes over several orders of magnitude."""
    size = jnp.exp(2 * jax.random.normal(key, ()))
    return {name: jax.random.normal(key, p.shape) * size for name, p in PARAMS.items()}


GRADS = [_gradient(key) for key in KEYS[2:]]
RECIPES: dict[str, Any] = {
    **{entry.name: entry.example for entry in entries("recipe")},
    "sgd, all": gx.sgd(0.1, 0.9, nesterov=True, dampening=0.1),
    "rmsprop, all": gx.rmsprop(0.1, centered=True, momentum=0.9),
    "adafactor, factored": gx.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9, weight_decay_rate=0.01),
    "adamw, scheduled": gx.chain(
        gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine(0.1, 5, 30, end_value=0.01))
    ),
}
QUICK = ("adamw", "adamw, scheduled", "lamb")


def units(a: Any, b: Any) -> float:
    """How far two trees are apart, in units in the last place of the largest number of each leaf."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype != y.dtype or x.shape != y.shape:
            return np.inf
        if x.size == 0:
            continue
        unit = np.spacing(np.max(np.abs(y))) if np.issubdtype(y.dtype, np.floating) else 1
        worst = max(worst, float(np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)) / unit)))
    return worst


def all_of(tx: Any) -> tuple[str, ...]:
    """Every number of a transform that can be tuned."""
    return tuple(Numbers(tx).possible())


# ------------------------------------------------------------------------------------------------ the same step


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_a_step_is_that_of_the_static_transform(name: str, as_users: Any) -> None:
    """All numbers of a recipe at once, 24 steps, each from the state of the static run.

    Operation by operation the two are equal bit by bit. Compiled, XLA folds and contracts what it knows: within 2 units
    in the last place of a leaf's largest entry.
    """
    tx = RECIPES[name]
    numbers = all_of(tx)
    tuned = gx.tunable(tx, *numbers)
    fresh = tuned.init(PARAMS)
    assert len(numbers) >= 1
    assert jax.tree.structure(fresh.inner_state) == jax.tree.structure(tx.init(PARAMS))
    static, dynamic = (jax.jit(t.update, compiler_options=as_users) for t in (tx, tuned))
    params, state = PARAMS, tx.init(PARAMS)
    for step, grads in enumerate(GRADS):
        around = TunableState(fresh.hyperparams, fresh.rest, state)
        if step in (0, 1, 23):
            with jax.disable_jit():
                got, wanted = tuned.update(grads, around, params), tx.update(grads, state, params)
            assert units((got[0], got[1].inner_state), wanted) == 0, "operation by operation"
        updates, after = dynamic(grads, around, params)
        wanted, state = static(grads, state, params)
        assert units(updates, wanted) <= 2
        assert units(after.inner_state, state) <= 2
        assert units(after.hyperparams, fresh.hyperparams) == 0
        params = gx.apply_updates(params, wanted)


def test_the_low_word_is_needed() -> None:
    """The negative control: without `rest`, 1 - b2 is off by 1.3e-5, and so is the first update."""
    tx = gx.tunable(gx.scale_by_adam(), "b2")
    state = tx.init(PARAMS)
    lost = state._replace(rest={"b2": jnp.zeros([])})
    wanted = tx.update(GRADS[0], state, PARAMS)[1].inner_state.nu
    got = tx.update(GRADS[0], lost, PARAMS)[1].inner_state.nu
    assert units(got, wanted) > 100


def test_a_number_set_is_the_transform_built_with_it() -> None:
    """Four recipes' numbers set at once, against the transform built anew."""
    tx = gx.tunable(gx.adamw(1e-3, weight_decay=0.1), "learning_rate", "b1", "b2", "weight_decay")
    new = {"learning_rate": 0.03, "b1": 0.85, "b2": 0.9995, "weight_decay": 0.02}
    state = gx.set_hyperparams(tx.init(PARAMS), new)
    built = gx.adamw(0.03, 0.85, 0.9995, weight_decay=0.02)
    wanted = built.update(GRADS[0], built.init(PARAMS), PARAMS)
    got = tx.update(GRADS[0], state, PARAMS)
    assert units((got[0], got[1].inner_state), wanted) == 0


def test_a_number_written_by_hand_is_not_mixed_with_the_rest_of_the_old_one() -> None:
    """As trainers write it: a Python float in the dictionary. The old low word must not be added to it."""
    tx = gx.tunable(gx.sgd(0.1), "learning_rate")
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = 1e-9
    updates, after = tx.update(GRADS[0], state, PARAMS)
    wanted = jax.tree.map(lambda g: np.float32(-1e-9) * g, GRADS[0])
    assert units(updates, wanted) <= 1
    assert float(state.rest["learning_rate"]) == pytest.approx(-1.5e-9, rel=0.1), (
        "as large as the number itself"
    )
    assert float(after.hyperparams["learning_rate"]) == 1e-9


@pytest.mark.parametrize("x", [0.999, 0.5])
def test_a_decay_s_rate_in_a_schedule_keeps_its_digits(x: float) -> None:
    """A power of n multiplies the error of its base by n: 0.999 rounded to float32 is off by 6e-5 after 5,000 steps."""
    schedule = gx.exponential_decay(0.1, 1, x)
    tx = gx.tunable(gx.sgd(schedule), "decay_rate")
    state = tx.init(PARAMS)
    for count in (0, 1, 100, 5000 if x > 0.9 else 10):
        inner = (state.inner_state[0], optax.ScaleByScheduleState(jnp.asarray(count, jnp.int32)))
        known = gx.get_hyperparams(tx, state._replace(inner_state=inner))
        assert float(known["learning_rate"]) == pytest.approx(float(schedule(count)), rel=3e-7)


def test_in_double_precision_a_step_is_exact_to_48_bits(x64: None) -> None:
    params = {"w": jnp.asarray(np.linspace(0.1, 1, 5))}
    grads = {"w": jnp.asarray(np.linspace(-1, 1, 5) ** 3 + 0.01)}
    plain = gx.adamw(1e-3, weight_decay=0.1)
    tx = gx.tunable(plain, *all_of(plain))
    state = tx.init(params)
    assert state.hyperparams["b2"].dtype == jnp.float32
    wanted = plain.update(grads, plain.init(params), params)[0]
    got = tx.update(grads, state, params)[0]
    assert got["w"].dtype == jnp.float64
    np.testing.assert_allclose(got["w"], wanted["w"], rtol=2e-11)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
    again = tx.update(grads, wide, params)[0]
    np.testing.assert_allclose(again["w"], got["w"], rtol=1e-12)


# ------------------------------------------------------------------------------------------------ data, not program


def test_setting_a_number_compiles_nothing() -> None:
    tx = gx.tunable(gx.adamw(1e-3), "learning_rate", "b1")
    step = jax.jit(tx.update)
    state, sizes = tx.init(PARAMS), []
    for rate in (None, 0.5, np.float32(0.25), np.float64(0.1), jnp.asarray(0.2), jnp.bfloat16(0.5), 2):
        if rate is not None:
            state = gx.set_hyperparams(state, learning_rate=rate)
        updates, state = step(GRADS[0], state, PARAMS)
        sizes.append(float(jnp.max(jnp.abs(updates["w"]))))
        assert state.hyperparams["learning_rate"].dtype == jnp.float32
        assert not state.hyperparams["learning_rate"].weak_type
    assert step._cache_size() == 1
    # The same gradient at every step, so that Adam's direction keeps its size: 1.
    np.testing.assert_allclose(sizes, [0.001, 0.5, 0.25, 0.1, 0.2, 0.5, 2], rtol=2e-3)


def test_setting_a_number_compiles_nothing_on_a_mesh() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = jax.device_put(jnp.ones((8, 2)), rows)
    tx = gx.tunable(gx.sgd(0.1), "learning_rate")
    step = jax.jit(tx.update)
    state = jax.device_put(tx.init(params), everywhere)
    updates, state = step(params, state, params)
    updates, state = step(params, state, params)
    before = step._cache_size()
    state = gx.set_hyperparams(state, learning_rate=0.5)
    assert state.hyperparams["learning_rate"].sharding == everywhere
    updates, state = step(params, state, params)
    assert step._cache_size() == before
    assert updates.sharding.is_equivalent_to(rows, 2)
    assert float(updates[0, 0]) == -0.5


def test_equal_tunables_are_one_program() -> None:
    one, other = (gx.tunable(gx.adam(1e-3), "learning_rate") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one.update is other.update
    assert one != gx.tunable(gx.adam(1e-3), "b1")
    assert one != gx.tunable(gx.adam(1e-2), "learning_rate")


def test_it_is_a_value() -> None:
    tx = gx.tunable(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)), "max_norm", "adamw/learning_rate")
    text = "gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.001))"
    assert repr(tx) == f"gx.tunable({text}, 'max_norm', 'adamw/learning_rate')"
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert gx.from_json(gx.to_json(tx)) == tx
    assert json.loads(gx.to_json(tx))["arguments"]["names"] == {"tuple": ["max_norm", "adamw/learning_rate"]}
    assert [link.address for link in tx.plan.flat] == [
        "tunable",
        "clip",
        "adamw/adam",
        "adamw/decay",
        "adamw/rate",
    ]
    assert tx.body.rate == 1
    with pytest.raises(ValueError, match="applied 2 times"):
        gx.chain(tx, gx.sgd(0.1))


def test_init_on_shapes_and_under_scan_and_donation() -> None:
    tx = gx.tunable(gx.adamw(1e-3), "learning_rate")
    shapes = jax.eval_shape(tx.init, PARAMS)
    state = tx.init(PARAMS)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    assert shapes.hyperparams["learning_rate"].shape == ()

    @jax.jit
    def run(state: Any) -> Any:
        def step(carry: Any, rate: Any) -> Any:
            params, state = carry
            state = gx.set_hyperparams(state, learning_rate=rate)
            updates, state = tx.update(GRADS[0], state, params)
            return (gx.apply_updates(params, updates), state), updates["b"][0]

        return jax.lax.scan(step, (PARAMS, state), jnp.asarray([0.1, 0.2, 0.4]))[1]

    np.testing.assert_allclose(np.abs(run(state)), [0.1, 0.2, 0.4], rtol=1e-3)
    donated = jax.jit(tx.update, donate_argnums=1)
    _, after = donated(GRADS[0], state, PARAMS)
    assert float(after.hyperparams["learning_rate"]) == np.float32(1e-3)


def test_built_inside_of_jit() -> None:
    """Of a transform whose numbers are traced themselves."""

    @jax.jit
    def first(rate: Any) -> Any:
        tx = gx.tunable(gx.adam(rate, eps=rate), "b1", "learning_rate")
        state = tx.init(PARAMS)
        return tx.update(GRADS[0], state, PARAMS)[0], state.hyperparams

    updates, hyperparams = first(0.25)
    assert float(hyperparams["learning_rate"]) == 0.25
    built = gx.adam(0.25, eps=0.25)
    assert units(updates, built.update(GRADS[0], built.init(PARAMS), PARAMS)[0]) <= 2


def test_the_learning_rate_is_learnt_by_its_gradient(x64: None) -> None:
    """d loss / d rate, d b1, d peak through five steps of AdamW, against central differences in float64."""
    target = jnp.asarray(np.linspace(-1, 2, 4))
    tx = gx.tunable(
        gx.adamw(gx.warmup_cosine(0.1, 2, 12), eps=1e-3, eps_root=1e-8, weight_decay=0.1),
        "peak_value",
        "b1",
        "b2",
        "weight_decay",
    )
    fresh = tx.init(target)

    def loss(values: Any) -> Any:
        params, state = jnp.zeros(4), gx.set_hyperparams(fresh, values)
        for _ in range(5):
            grads = jax.grad(lambda p: jnp.sum((p - target) ** 2 * jnp.arange(1.0, 5.0)))(params)
            updates, state = tx.update(grads, state, params)
            params = gx.apply_updates(params, updates)
        return jnp.sum((params - target) ** 2)

    at = {"peak_value": 0.1, "b1": 0.9, "b2": 0.99, "weight_decay": 0.1}
    at = {name: jnp.asarray(value) for name, value in at.items()}
    slopes, value = jax.jit(jax.grad(loss))(at), jax.jit(loss)
    for name, x in at.items():
        h = 1e-5
        high, low = value({**at, name: x + h}), value({**at, name: x - h})
        difference = float(high - low) / (2 * h)
        assert float(slopes[name]) == pytest.approx(difference, rel=1e-5), name
        assert abs(difference) > 1e-3, f"{name} says nothing"


def test_D9_a_sweep_is_one_compilation() -> None:
    """Sixteen rates in one program give what sixteen transforms give; those are sixteen compilations."""
    rates = jnp.logspace(-4, 0, 16)
    tx = gx.tunable(gx.adam(1e-3), "learning_rate")

    @jax.jit
    @jax.vmap
    def step(state: Any) -> Any:
        return tx.update(GRADS[1], tx.update(GRADS[0], state, PARAMS)[1], PARAMS)

    fresh = tx.init(PARAMS)
    got, states = step(jax.vmap(lambda rate: gx.set_hyperparams(fresh, learning_rate=rate))(rates))
    step(jax.vmap(lambda rate: gx.set_hyperparams(fresh, learning_rate=rate))(2 * rates))
    assert step._cache_size() == 1
    assert states.hyperparams["learning_rate"].shape == (16,)
    for i in (0, 7, 15):
        alone = gx.adam(float(rates[i]))
        state = alone.update(GRADS[0], alone.init(PARAMS), PARAMS)[1]
        wanted = alone.update(GRADS[1], state, PARAMS)[0]
        assert units(jax.tree.map(lambda x, i=i: x[i], got), wanted) <= 2


def test_a_stacked_leaf_by_itself_is_mapped_over_by_in_axes() -> None:
    tx = gx.tunable(gx.sgd(0.1), "learning_rate")
    state = gx.set_hyperparams(tx.init(PARAMS), learning_rate=jnp.asarray([0.1, 0.2]))
    assert state.hyperparams["learning_rate"].shape == (2,)
    axes = jax.tree.map(lambda x: 0 if x.ndim else None, state)
    updates, _ = jax.vmap(tx.update, in_axes=(None, axes))(
        jnp.ones(3), state._replace(inner_state=tx.init(1.0)[2])
    )
    np.testing.assert_allclose(updates, [[-0.1] * 3, [-0.2] * 3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"'learning_rate' is float32\[2\], wanted one number"):
        tx.update(GRADS[0], state, PARAMS)


# ------------------------------------------------------------------------------------------------ together with others


def _rate_of(updates: Any) -> float:
    return float(jnp.max(jnp.abs(updates["w"])))


TOGETHER: dict[str, Any] = {
    "chain": lambda t: gx.chain(gx.clip_by_global_norm(1e9), t),
    "masked": lambda t: gx.masked(t, "w"),
    "groups": lambda t: gx.param_groups({"w": t, "*": None}),
    "guard": lambda t: gx.guard(t),
    "accumulate": lambda t: gx.accumulate(t, 1),
    "average": lambda t: gx.average_params(t),
    "probe": lambda t: gx.probe(t),
    "per layer": lambda t: gx.per_layer(t, "w"),
    "optax.chain": lambda t: optax.chain(optax.identity(), t),
    "optax.partition": lambda t: optax.partition({"t": t, "z": optax.set_to_zero()}, {"w": "t", "b": "z"}),
    "optax.MultiSteps": lambda t: optax.MultiSteps(t, 1).gradient_transformation(),
}


@pytest.mark.parametrize("order", ["inside", "around"])
@pytest.mark.parametrize("name", TOGETHER)
def test_in_either_order(name: str, order: str) -> None:
    """A rate that is set arrives, wherever the tunable stands; sign descent moves every weight by the rate."""
    if order == "inside":
        tx = TOGETHER[name](gx.tunable(gx.sign_sgd(0.1), "learning_rate"))
    elif name.startswith("optax"):
        with pytest.raises(ValueError, match="without a spec"):
            gx.tunable(TOGETHER[name](gx.sign_sgd(0.1)), "learning_rate")
        return
    else:
        tx = gx.tunable(TOGETHER[name](gx.sign_sgd(0.1)), "learning_rate")
    state = tx.init(PARAMS)
    with jax.numpy_dtype_promotion("standard" if name.startswith("optax") else "strict"):
        updates, state = tx.update(GRADS[0], state, PARAMS)
        assert _rate_of(updates) == pytest.approx(0.1)
        updates, state = tx.update(GRADS[0], gx.set_hyperparams(state, learning_rate=0.25), PARAMS)
    assert _rate_of(updates) == 0.25
    if not name.startswith("optax"):
        assert float(gx.get_hyperparams(tx, state)["learning_rate"]) == 0.25


def test_a_tunable_of_a_tunable() -> None:
    tx = gx.tunable(gx.tunable(gx.sgd(0.1, 0.9), "momentum"), "learning_rate")
    state = gx.set_hyperparams(tx.init(PARAMS), learning_rate=0.5, momentum=0.0)
    assert list(state.hyperparams) == ["learning_rate"]
    assert list(state.inner_state.hyperparams) == ["momentum"]
    _, state = tx.update(GRADS[0], state, PARAMS)
    updates, _ = tx.update(GRADS[1], state, PARAMS)
    assert units(updates, jax.tree.map(lambda g: -np.float32(0.5) * g, GRADS[1])) <= 1
    flat = gx.tunable(gx.sgd(0.1, 0.9), "momentum", "learning_rate")
    assert gx.get_hyperparams(tx, state)["learning_rate"] == 0.5
    same = gx.set_hyperparams(flat.init(PARAMS), learning_rate=0.5, momentum=0.0)
    _, same = flat.update(GRADS[0], same, PARAMS)
    assert units(flat.update(GRADS[1], same, PARAMS)[0], updates) == 0


def test_a_skipped_step_keeps_the_numbers() -> None:
    tx = gx.guard(gx.tunable(gx.adam(0.1), "learning_rate"))
    state = gx.set_hyperparams(tx.init(PARAMS), learning_rate=0.5)
    bad = jax.tree.map(lambda g: g * jnp.float32(jnp.nan), GRADS[0])
    _, state = tx.update(bad, state, PARAMS)
    assert float(state.inner_state.hyperparams["learning_rate"]) == 0.5
    assert int(state.skipped) == 1


def test_inside_shard_map() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = gx.tunable(
        gx.chain(gx.clip_by_global_norm(1.0, axis_names="x"), gx.sgd(0.1)), "learning_rate", "max_norm"
    )
    rows, whole = jax.sharding.PartitionSpec("x"), jax.sharding.PartitionSpec()
    state = gx.set_hyperparams(tx.init(jnp.zeros(8)), learning_rate=1.0, max_norm=2.0)
    run = jax.shard_map(tx.update, mesh=mesh, in_specs=(rows, whole), out_specs=(rows, whole))
    updates, after = run(jnp.ones(8), state)
    np.testing.assert_allclose(updates, -2.0 / np.sqrt(8) * np.ones(8), rtol=1e-6)
    assert float(after.hyperparams["max_norm"]) == 2.0


# ------------------------------------------------------------------------------------------------ Optax's defects


def test_A1_numbers_are_float32_beside_bfloat16_parameters() -> None:
    half = jnp.ones(2, jnp.bfloat16)
    theirs = optax.inject_hyperparams(optax.adamw)(1e-3)
    with jax.numpy_dtype_promotion("standard"):
        assert np.isnan(np.asarray(theirs.update(half, theirs.init(half), half)[0], np.float32)).all(), (
            "the control"
        )
    tx = gx.tunable(gx.adamw(1e-3), "learning_rate", "b1", "b2", "eps", "weight_decay")
    state = tx.init(half)
    assert {x.dtype for x in state.hyperparams.values()} == {jnp.dtype(jnp.float32)}
    updates, state = tx.update(half, state, half)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(updates, np.float32), -1e-3, rtol=0.01)
    assert {x.dtype for x in state.hyperparams.values()} == {jnp.dtype(jnp.float32)}


def test_A2_integer_parameters_make_no_integer_of_the_rate() -> None:
    whole = {"n": jnp.arange(3)}
    assert int(optax.inject_hyperparams(optax.sgd)(0.1).init(whole).hyperparams["learning_rate"]) == 0, (
        "the control"
    )
    state = gx.tunable(gx.sgd(0.1), "learning_rate").init(whole)
    assert float(state.hyperparams["learning_rate"]) == np.float32(0.1)


def test_C10_init_of_adafactor_compiles() -> None:
    params = jnp.ones((4, 4))
    theirs = optax.inject_hyperparams(optax.adafactor)(1e-3)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(theirs.init)(params)
    tx = gx.tunable(gx.adafactor(1e-3), "learning_rate", "decay_rate")
    state = jax.jit(tx.init)(params)
    _, state = jax.jit(tx.update)(params, state, params)
    assert float(state.hyperparams["learning_rate"]) == np.float32(1e-3)


def test_C11_what_shapes_the_program_stays_what_it_is() -> None:
    """Optax turns every integer into an array, GaLore's rank too; here only what is named, and no such thing."""
    with pytest.raises(TypeError, match="`rank` must be an int"):
        optax.inject_hyperparams(optax.contrib.galore)(0.1).init(jnp.ones((4, 4)))
    tx = gx.tunable(
        gx.guard(gx.adafactor(1e-3, min_dim_size_to_factor=2), spike=6.0, window=8), "learning_rate"
    )
    state = tx.init(jnp.ones((4, 4)))
    assert state.inner_state.norms.shape == (8,)
    assert list(state.hyperparams) == ["learning_rate"]


def test_D6_states_share_no_dictionary() -> None:
    theirs = optax.inject_hyperparams(optax.sgd)(0.1)
    one = theirs.init(jnp.zeros(1))
    other = one._replace(count=one.count)
    other.hyperparams["learning_rate"] = 9.0
    assert one.hyperparams["learning_rate"] == 9.0, "the control: the first state has changed"
    tx = gx.tunable(gx.sgd(0.1), "learning_rate")
    old = tx.init(jnp.zeros(1))
    new = gx.set_hyperparams(old, learning_rate=9.0)
    _, after = tx.update(jnp.ones(1), new, jnp.zeros(1))
    assert float(old.hyperparams["learning_rate"]) == np.float32(0.1)
    after.hyperparams["learning_rate"] = 1.0
    assert float(new.hyperparams["learning_rate"]) == 9.0


def test_D10_weak_and_mixed_dtypes_are_one_compilation() -> None:
    for params, grads in (
        (jnp.asarray(2.0), jnp.asarray(1.0)),
        (jnp.ones(2, jnp.bfloat16), jnp.ones(2)),
    ):
        tx = gx.tunable(gx.adamw(0.1), "learning_rate", "b1")
        step = jax.jit(lambda g, s, p, tx=tx: (lambda u, s: (gx.apply_updates(p, u), s))(*tx.update(g, s, p)))
        state, p = tx.init(params), params
        for rate in (0.1, 0.2, 0.3):
            p, state = step(grads, gx.set_hyperparams(state, learning_rate=rate), p)
        assert step._cache_size() == 1
