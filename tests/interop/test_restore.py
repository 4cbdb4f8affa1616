"""`restore_into`: what is carried over into another transform, what is not, and that the report says all of it."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx
from gradxform import interop

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}


@pytest.fixture(autouse=True)
def relaxed() -> Iterator[None]:
    """Optax's own code multiplies floats by integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def train(tx: Any, params: Any = None, steps: int = 3, state: Any = None) -> tuple[Any, Any]:
    """Parameters and state after some steps; a run that starts where all start is made once."""
    if params is None and state is None and steps == 3 and isinstance(tx, gx.GradientTransformation):
        return _started(tx)
    return _trained(tx, PARAMS if params is None else params, steps, state)


@functools.cache
def _started(tx: Any) -> tuple[Any, Any]:
    return _trained(tx, PARAMS, 3, None)


def _trained(tx: Any, params: Any, steps: int, state: Any) -> tuple[Any, Any]:
    @jax.jit
    def run(params: Any, state: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            params, state = carry
            grads = jax.tree.map(lambda p: jnp.cos(p) + jnp.asarray(0.5, p.dtype), params)
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, state))

    return run(params, tx.init(params) if state is None else state)


def equal(a: Any, b: Any) -> bool:
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and x.shape == y.shape and bool(np.all(x == y)), a, b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(same))


def outcomes(report: Any, name: str) -> set[str]:
    return {row.address or row.source for row in getattr(report, name)}


def accounted(report: Any, state: Any, saved: Any) -> None:
    """No leaf of either state is missing from the report."""
    assert len(report.matched) + len(report.reset) == len(jax.tree.leaves(state))
    sources = {row.source for row in report.matched} | {row.source for row in report.dropped}
    assert len(sources) == len(jax.tree.leaves(saved))
    assert len(report.rows) == len(report.matched) + len(report.reset) + len(report.dropped)


# ------------------------------------------------------------------------------------------------ the same transform

RECIPES = {
    "adamw": gx.adamw(1e-2),
    "adamw, scheduled": gx.adamw(gx.warmup_cosine(1e-2, 5, 50), b1=gx.linear_schedule(0.8, 0.9, 10)),
    "sgd": gx.sgd(1e-2, momentum=0.9),
    "adafactor": gx.adafactor(1e-2, min_dim_size_to_factor=2),
    "yogi of optax": optax.yogi(1e-2),
    "guarded average": gx.guard(gx.average_params(gx.adamw(1e-2)), spike=6.0),
    "guarded": gx.guard(gx.sgd(1e-2, momentum=0.9)),
    "groups": gx.param_groups({"w": gx.adamw(1e-2), "b": gx.sgd(1e-2, momentum=0.9)}),
    "averages in a chain": gx.chain(gx.ema(0.9), gx.ema(0.99), gx.scale_by_learning_rate(1e-2)),
    "multi steps": optax.MultiSteps(gx.adamw(1e-2), 2),
    "sam, whose state has an opt_state": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
    "schedule free": optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_state_restored_into_its_own_transform_is_itself(name):
    tx = RECIPES[name]
    _, saved = train(tx)
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert equal(state, saved)
    assert report.reset == report.dropped == ()
    accounted(report, state, saved)


@pytest.mark.parametrize("name", ["adamw, scheduled", "guarded average", "guarded", "groups"])
@pytest.mark.parametrize("form", ["flax", "orbax", "lists"])
def test_a_checkpoint_without_a_target_is_read(name, form, tmp_path):
    tx = RECIPES[name]
    _, saved = train(tx)
    if form == "flax":
        plain = flax.serialization.msgpack_restore(flax.serialization.to_bytes(saved))
    elif form == "orbax":
        with orbax.checkpoint.StandardCheckpointer() as keeper:
            keeper.save(tmp_path / "state", saved)
            keeper.wait_until_finished()
            plain = keeper.restore(tmp_path / "state")
    else:
        plain = _plain(saved)
    state, report = gx.restore_into(tx, PARAMS, plain)
    assert equal(state, saved)
    assert report.reset == report.dropped == ()


def _plain(x: Any) -> Any:
    """NamedTuples as dictionaries, tuples as lists."""
    if hasattr(x, "_fields"):
        return {name: _plain(getattr(x, name)) for name in x._fields}
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, tuple | list):
        return [_plain(item) for item in x]
    return None if x is None else np.asarray(x)


# ------------------------------------------------------------------------------------------------ wrappers on and off

WRAPS = {
    "guard": lambda tx: gx.guard(tx, spike=6.0),
    "average": lambda tx: gx.average_params(tx),
    "both": lambda tx: gx.guard(gx.average_params(tx)),
    "chain": lambda tx: gx.chain(gx.clip_by_global_norm(1.0), tx),
    "named": lambda tx: gx.named_chain(("one", tx)),
    "groups": lambda tx: gx.param_groups({"*": tx}),
    "two groups": lambda tx: gx.param_groups({"w": tx, "b": tx}),
    "masked": lambda tx: gx.masked(tx, True),
    "project": lambda tx: gx.project(tx, "w", gx.max_norm(9.0)),
    "cautious": lambda tx: gx.cautious(tx, downhill=True),
    "accumulate": lambda tx: gx.accumulate(tx, 2),
    "loss scale": lambda tx: gx.loss_scale(tx),
    "tunable": lambda tx: gx.tunable(tx, "learning_rate"),
    "probe": lambda tx: gx.probe(tx),
    "now and then": lambda tx: gx.apply_when(tx, lambda count: count % 2 == 0),
    "before a switch": lambda tx: gx.switch_at(9, tx, gx.sgd(0.1)),
    "multi steps": lambda tx: optax.MultiSteps(tx, 1),
    "finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_wrapper_put_around_a_saved_state_changes_nothing_in_it(name):
    """Adam's moments and count, on and off, from NamedTuples and from dictionaries."""
    bare, wrapped = gx.adamw(1e-2), WRAPS[name](gx.adamw(1e-2))
    _, saved = train(bare)
    for source in (saved, flax.serialization.to_state_dict(saved)):
        state, report = gx.restore_into(wrapped, PARAMS, source)
        assert jax.tree.structure(state) == jax.tree.structure(wrapped.init(PARAMS))
        back, again = gx.restore_into(bare, PARAMS, state)
        assert equal(back, saved)
        assert again.reset == ()
        assert report.dropped == ()
        accounted(report, state, saved)


def test_a_run_that_gets_a_guard_and_an_average_goes_on_bit_for_bit():
    params, saved = train(gx.adamw(1e-2))
    wanted, _ = train(gx.adamw(1e-2), params, 4, saved)
    tx = gx.guard(gx.average_params(gx.adamw(1e-2)))
    state, _ = gx.restore_into(tx, params, saved)
    assert equal(state.inner_state[1].average, params), "an average starts where the run stands"
    found, _ = train(tx, params, 4, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), found, wanted)


# ------------------------------------------------------------------------------------------------ another optimizer


def test_adam_into_sgd_carries_no_average_into_a_sum():
    _, saved = train(gx.adamw(1e-2))
    state, report = gx.restore_into(gx.sgd(1e-2, momentum=0.9), PARAMS, saved)
    assert equal(state, gx.sgd(1e-2, momentum=0.9).init(PARAMS))
    assert not report.matched
    assert outcomes(report, "reset") == {"trace/trace/w", "trace/trace/b"}
    for row in report.reset:
        assert "the saved mu is an average of gradients, trace is a sum" in row.note
        assert "1 / (1 - momentum)" in row.note
    accounted(report, state, saved)


def test_what_is_beside_the_moments_goes_on_when_the_optimizer_changes():
    """Guard, average and schedule of an AdamW run serve the SGD that follows."""
    rate = gx.warmup_cosine(1e-2, 5, 50)
    _, saved = train(gx.guard(gx.average_params(gx.adamw(rate)), spike=6.0))
    tx = gx.guard(gx.average_params(gx.sgd(rate, momentum=0.9)), spike=6.0)
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert equal(state._replace(inner_state=()), saved._replace(inner_state=()))
    assert equal(state.inner_state[1], saved.inner_state[1])
    assert int(state.inner_state[0][1].count) == 3
    assert outcomes(report, "reset") == {"trace/trace/w", "trace/trace/b"}
    accounted(report, state, saved)


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (gx.adamw(1e-2), gx.lion(1e-3), {"mu", "count"}),
        (gx.adamw(1e-2), gx.adabelief(1e-2), set()),  # its nu is of g - m, and mu needs a nu
        (gx.adamw(1e-2), gx.amsgrad(1e-2), {"mu", "nu", "count"}),
        (gx.amsgrad(1e-2), gx.adam(1e-2), {"mu", "nu", "count"}),
        (gx.adamw(1e-2), gx.rmsprop(1e-2), {"nu"}),
        (gx.lion(1e-2), gx.adamw(1e-2), set()),
        (gx.rmsprop(1e-2), gx.adamw(1e-2), set()),
        (gx.sgd(1e-2, momentum=0.9), gx.adamw(1e-2), set()),
        (gx.adagrad(1e-2), gx.adamw(1e-2), set()),
        (optax.adamw(1e-2), gx.lion(1e-3), {"mu", "count"}),
        (gx.adamw(1e-2), optax.nadam(1e-2), {"mu", "nu", "count"}),
    ],
)
def test_between_methods_equal_roles_and_names_are_carried(old, new, kept):
    """An average goes with its count, and with its denominator: neither alone, or first steps would be too large."""
    _, saved = train(old)
    state, report = gx.restore_into(new, PARAMS, saved)
    parts = [part.split("/") for part in outcomes(report, "matched")]
    assert {part for address in parts for part in address if part in ("mu", "nu", "count", "nu_max")} == kept
    accounted(report, state, saved)


def test_a_first_step_after_a_change_is_of_the_usual_size():
    """The figure behind that rule: Lion's mu under Adam's count, but without nu, would make it 3 times as large."""
    params, saved = train(gx.lion(1e-3), steps=50)
    tx = gx.adam(1e-2)
    state, _ = gx.restore_into(tx, params, saved)
    grads = jax.tree.map(lambda p: jnp.cos(p) + 0.5, params)
    first, _ = tx.update(grads, state, params)
    assert max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(first)) <= 1e-2 * 1.001
    naive = (state[0]._replace(mu=saved[0].mu, count=saved[0].count), state[1])
    wrong, _ = tx.update(grads, naive, params)
    assert max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(wrong)) > 0.03


def test_a_new_schedule_goes_on_and_can_be_started_anew():
    _, saved = train(gx.adamw(1e-2))
    tx = gx.adamw(gx.warmup_cosine(1e-2, 5, 50))
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert int(state[2].count) == 3
    assert "rate/count" in outcomes(report, "matched")
    state, report = gx.restore_into(tx, PARAMS, saved, fresh="rate/*")
    assert int(state[2].count) == 0
    assert [row.note for row in report.reset] == ["asked for by fresh="]
    with pytest.raises(ValueError, match="no address is taken") as caught:
        gx.restore_into(tx, PARAMS, saved, fresh="schedule")
    assert "rate/count" in str(caught.value)


# ------------------------------------------------------------------------------------------------ changed parameters


def test_a_new_shape_or_name_starts_anew_alone():
    _, saved = train(gx.adamw(1e-2))
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(5), "c": jnp.ones(2)}
    state, report = gx.restore_into(gx.adamw(1e-2), params, saved)
    assert outcomes(report, "matched") == {"adam/mu/w", "adam/nu/w", "adam/count"}
    notes = {row.address: row.note for row in report.reset}
    assert "its shape is (5,), the saved one's (3,)" in notes["adam/mu/b"]
    assert "nothing was saved for a parameter of this path" in notes["adam/nu/c"]
    assert all("under a count that goes on" in note for note in notes.values())
    assert outcomes(report, "dropped") == {"0/mu/b", "0/nu/b"}
    np.testing.assert_array_equal(state[0].mu["w"], saved[0].mu["w"])
    np.testing.assert_array_equal(state[0].nu["b"], jnp.zeros(5))


def test_a_parameter_that_is_gone_is_reported():
    _, saved = train(gx.adamw(1e-2))
    _, report = gx.restore_into(gx.adamw(1e-2), {"w": PARAMS["w"]}, saved)
    assert {row.note for row in report.dropped} == {"there is no parameter of this path"}
    assert outcomes(report, "dropped") == {"0/mu/b", "0/nu/b"}


def test_an_undeclared_class_is_matched_by_the_parameters_path_too():
    _, saved = train(optax.yogi(1e-2))
    params = {**PARAMS, "c": jnp.ones(2)}
    state, report = gx.restore_into(optax.yogi(1e-2), params, saved)
    np.testing.assert_array_equal(state[0].mu["w"], saved[0].mu["w"])
    assert any(row.address.endswith("mu/c") for row in report.reset)


def test_dtypes_are_cast_and_reported():
    _, saved = train(gx.adamw(1e-2))
    tx = gx.adamw(1e-2, mu_dtype=jnp.bfloat16)
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert state[0].mu["w"].dtype == jnp.bfloat16
    assert {row.note for row in report.matched if "/mu/" in row.address} == {"float32 to bfloat16"}
    assert {row.note for row in report.matched if "/nu/" in row.address} == {""}


def test_frozen_leaves_have_no_state():
    _, saved = train(gx.adamw(1e-2))
    tx = gx.param_groups({"w": gx.adamw(1e-2), "b": None})
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert report.reset == ()
    assert outcomes(report, "dropped") == {"0/mu/b", "0/nu/b"}
    back, again = gx.restore_into(gx.adamw(1e-2), PARAMS, state)
    np.testing.assert_array_equal(back[0].mu["w"], saved[0].mu["w"])
    assert outcomes(again, "reset") == {"adam/mu/b", "adam/nu/b"}


# ------------------------------------------------------------------------------------------------ what goes together


def test_D4_equal_states_that_cannot_be_told_apart_start_anew():
    """Of two averages that were saved, which is the one that is left? Nothing in a state says so."""
    _, saved = train(gx.chain(gx.ema(0.9), gx.ema(0.999)))
    state, report = gx.restore_into(gx.ema(0.9), PARAMS, saved)
    assert equal(state, gx.ema(0.9).init(PARAMS))
    assert not report.matched
    assert any("which is which cannot be told" in row.note for row in report.reset)
    _, one = train(gx.ema(0.9))
    _, report = gx.restore_into(gx.chain(gx.ema(0.9), gx.ema(0.999)), PARAMS, one)
    assert not report.matched


def test_averages_of_different_ages_do_not_get_one_count():
    """Two groups, of which one is younger, become one."""
    groups = gx.param_groups({"w": gx.adamw(1e-2), "b": gx.adamw(1e-2)})
    _, saved = train(groups)
    state, report = gx.restore_into(gx.adamw(1e-2), PARAMS, saved)
    assert report.reset == (), "of one age they do"
    assert outcomes(report, "dropped") == {"inner_states/w/inner_state/0/count"}
    young = groups.init(PARAMS).inner_states["b"]
    mixed = saved._replace(inner_states={**saved.inner_states, "b": young})
    state, report = gx.restore_into(gx.adamw(1e-2), {**PARAMS, "v": PARAMS["w"]}, mixed)
    assert int(state[0].count) in (0, 3)
    assert any("another number of steps" in row.note for row in report.reset)


def test_keys_and_numbers_of_python_are_taken():
    tx = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(7)), optax.scale(-0.1))
    _, saved = _trained(tx, PARAMS, 3, None)
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert report.reset == ()
    assert bool(jnp.all(jax.random.key_data(state[0].rng_key) == jax.random.key_data(saved[0].rng_key)))
    state, _ = gx.restore_into(
        gx.adamw(1e-2), {"w": jnp.zeros(())}, [{"count": 3, "mu": {"w": 0.5}, "nu": {"w": 0.25}}]
    )
    assert (int(state[0].count), float(state[0].mu["w"])) == (3, 0.5)
    assert not any(x.weak_type for x in jax.tree.leaves(state))


def test_a_window_of_another_length_starts_anew_with_its_counter():
    """A ring of zeros that counts as full would make every norm a spike."""
    _, saved = train(gx.guard(gx.sgd(1e-2), spike=6.0, window=16), steps=20)
    tx = gx.guard(gx.sgd(1e-2), spike=6.0, window=8)
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert int(state.seen) == 0
    assert any("goes together with norms" in row.note for row in report.reset)
    _, after = train(tx, state=state)
    assert int(after.skipped) == 0


def test_a_mean_with_a_hole_starts_anew():
    saved = optax.MultiSteps(gx.sgd(1e-2), 4).init(PARAMS)
    _, saved = train(optax.MultiSteps(gx.sgd(1e-2), 4), steps=3)
    params = {"w": PARAMS["w"], "b": jnp.zeros(5)}
    state, report = gx.restore_into(optax.MultiSteps(gx.sgd(1e-2), 4), params, saved)
    assert int(state.mini_step) == 0
    assert float(jnp.abs(state.acc_grads["w"]).sum()) == 0.0
    assert "acc_grads" in str(report)


def test_a_window_of_a_class_that_is_not_known_is_not_taken_for_ours():
    """Optax's MultiSteps keeps a mean in `acc_grads`, `gx.accumulate` a sum; a dictionary does not say whose it is."""
    _, made = train(optax.MultiSteps(gx.adamw(1e-2), 2))
    tx = gx.accumulate(gx.adamw(1e-2), 2)
    assert int(made.mini_step) == 1, "in the middle of a window"
    state, report = gx.restore_into(tx, PARAMS, made._asdict())
    assert float(jnp.abs(state.acc_grads["w"]).sum()) == float(state.weight) == int(state.mini_step) == 0
    assert equal(state.inner_state, made.inner_opt_state)
    assert {"acc_grads/w", "acc_grads/b", "mini_step"} <= outcomes(report, "dropped")


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_a_window_that_is_open_goes_on_with_another_length(steps):
    _, saved = train(gx.accumulate(gx.adamw(1e-2), 4))
    tx = gx.accumulate(gx.adamw(1e-2), steps)
    state, report = gx.restore_into(tx, PARAMS, saved)
    assert report.reset == ()
    assert int(state.mini_step) == 3
    _, after = _trained(tx, PARAMS, 2, state)
    assert int(after.inner_state[0].count) == 1


# ------------------------------------------------------------------------------------------------ whose states


def test_flax_train_states_are_taken_as_they_are():
    ts = TrainState.create(apply_fn=None, params=PARAMS, tx=gx.adamw(1e-2))
    ts = ts.apply_gradients(grads=PARAMS)
    state, report = gx.restore_into(gx.guard(gx.adamw(1e-2)), PARAMS, ts.opt_state)
    assert equal(state.inner_state, ts.opt_state)
    assert report.dropped == ()


def test_nnx_states_are_taken_as_they_are():
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w, self.b = nnx.Param(PARAMS["w"]), nnx.Param(PARAMS["b"])

    model = Model()
    optimizer = nnx.Optimizer(model, gx.adamw(1e-2), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    optimizer.update(model, params)
    state, report = gx.restore_into(gx.guard(gx.adamw(1e-2)), params, optimizer.opt_state)
    assert report.dropped == ()
    np.testing.assert_array_equal(state.inner_state[0].mu["w"][...], optimizer.opt_state[0].mu["w"][...])
    plain, report = gx.restore_into(gx.adamw(1e-2), PARAMS, optimizer.opt_state)
    assert report.reset == report.dropped == ()
    np.testing.assert_array_equal(plain[0].mu["w"], optimizer.opt_state[0].mu["w"][...])


class TheirState(NamedTuple):
    velocity: Any
    extra: Any


def test_a_class_of_somebody_s_own():
    def init(params: Any) -> Any:
        return TheirState(jax.tree.map(jnp.zeros_like, params), {"seed": jnp.zeros([], jnp.int32)})

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        velocity = jax.tree.map(jnp.add, state.velocity, updates)
        return velocity, TheirState(velocity, {"seed": state.extra["seed"] + 1})

    tx = optax.GradientTransformation(init, update)
    _, saved = train(gx.chain(tx, gx.scale(-0.1)))
    state, report = gx.restore_into(gx.guard(gx.chain(tx, gx.scale(-0.1))), PARAMS, saved)
    assert equal(state.inner_state, saved)
    assert report.dropped == ()


def test_arrays_are_put_where_the_new_state_is():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None))
    _, saved = train(gx.adamw(1e-2), {"w": PARAMS["w"]})
    params = {"w": jax.device_put(PARAMS["w"], where)}
    state, _ = gx.restore_into(gx.adamw(1e-2), params, jax.device_get(saved))
    assert state[0].mu["w"].sharding.device_set == gx.adamw(1e-2).init(params)[0].mu["w"].sharding.device_set


# ------------------------------------------------------------------------------------------------ report and refusals


def test_the_report_is_a_table():
    _, saved = train(gx.adamw(1e-2))
    _, report = gx.restore_into(gx.guard(gx.lion(1e-3), spike=6.0), PARAMS, saved)
    assert repr(report) == str(report)
    lines = str(report).splitlines()
    assert lines[0] == "matched 3, reset 7, dropped 2"
    assert lines[1].split() == ["outcome", "field", "leaves", "from", "note"]
    assert [line.split()[:3] for line in lines[2:]] == [
        ["reset", "guard/*", "7"],
        ["matched", "lion/mu", "2"],
        ["matched", "lion/count", "1"],
        ["dropped", "2", "0/nu"],
    ]
    assert isinstance(report, interop.Restored)
    assert report.matched[0] == interop.RestoredLeaf("matched", "lion/mu/b", "0/mu/b", "", "lion/mu", "0/mu")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((gx.adamw(1e-2), PARAMS, gx.adamw(1e-2)), TypeError, "saved_state is a transform"),
        ((PARAMS, gx.adamw(1e-2), ()), TypeError, "wanted a transform"),
        ((gx.adamw(1e-2), gx.adamw(1e-2), ()), TypeError, "params is a transform"),
        ((gx.adamw(1e-2), PARAMS, PARAMS), ValueError, "saved_state has the leaves of the parameters"),
        ((gx.adamw(1e-2), gx.adamw(1e-2).init(PARAMS), PARAMS), TypeError, "params is a state"),
        ((gx.adamw(1e-2), PARAMS, "checkpoint/100"), TypeError, "saved_state is a string, wanted a state"),
        ((gx.adamw(1e-2), PARAMS, None), TypeError, "saved_state is None, wanted a state"),
    ],
)
def test_what_is_no_state_is_refused(arguments, error, message):
    with pytest.raises(error) as caught:
        gx.restore_into(*arguments)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_training_loop_s_object_is_refused_with_the_remedy():
    ts = TrainState.create(apply_fn=None, params=PARAMS, tx=gx.adamw(1e-2))
    with pytest.raises(TypeError, match="pass its opt_state"):
        gx.restore_into(gx.adamw(1e-2), PARAMS, ts)


def _rates(tx: Any, state: Any) -> list[float]:
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    updates, _ = tx.update(params, state, params)
    return [float(updates["b"][0]), float(updates["w"][0])]


@pytest.mark.parametrize("how", ["eager", "jit", "bytes"])
@pytest.mark.parametrize("lib", ["ours", "optax"])
def test_groups_of_one_kind_are_told_apart_by_their_names(how: str, lib: str) -> None:
    """The order of a dictionary is another one before `jit` and behind it."""
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    if lib == "ours":
        slow, fast = (gx.tunable(gx.sgd(rate), "learning_rate") for rate in (1e-3, 1.0))
        tx = gx.param_groups({"b": slow, "*": fast})
    else:
        inject = optax.inject_hyperparams(optax.sgd)
        tx = optax.multi_transform({"z": inject(1e-3), "a": inject(1.0)}, {"b": "z", "w": "a"})
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        saved: Any = jax.jit(tx.init)(params) if how == "jit" else tx.init(params)
        if how == "bytes":
            saved = flax.serialization.msgpack_restore(flax.serialization.to_bytes(saved))
        state, report = gx.restore_into(tx, params, saved)
        assert _rates(tx, state) == pytest.approx([-1e-3, -1.0])
    assert not report.reset


def test_groups_of_other_names_are_not_guessed() -> None:
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    old = gx.param_groups(
        {"b": gx.tunable(gx.sgd(1e-3), "learning_rate"), "*": gx.tunable(gx.adam(1.0), "learning_rate")}
    )
    new = gx.param_groups(
        {"w": gx.tunable(gx.adam(1.0), "learning_rate"), "*": gx.tunable(gx.sgd(1e-3), "learning_rate")}
    )
    state, report = gx.restore_into(new, params, jax.jit(old.init)(params))
    assert _rates(new, state) == pytest.approx([-1e-3, -1.0], rel=1e-4)
    assert any("which is which" in row.note for row in report.reset)


def test_a_chain_that_has_grown_keeps_the_order_of_its_links() -> None:
    params = jnp.zeros(2)
    old = gx.chain(gx.trace(0.5), gx.trace(0.9))
    _, saved = old.update(jnp.ones(2), old.init(params), params)
    _, saved = old.update(jnp.ones(2), saved, params)
    state, _ = gx.restore_into(gx.chain(gx.clip(1.0), gx.trace(0.5), gx.trace(0.9)), params, saved)
    assert [float(x.trace[0]) for x in state[1:]] == [float(x.trace[0]) for x in saved]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (gx.scale_by_laprop(), gx.scale_by_adam(), "mu"),
        (gx.scale_by_adam(), gx.scale_by_laprop(), "mu"),
        (gx.scale_by_belief(), gx.scale_by_adam(), "nu"),
    ],
    ids=["laprop to adam", "adam to laprop", "belief to adam"],
)
def test_a_field_that_is_its_method_s_own_is_not_carried(old: Any, new: Any, field: str) -> None:
    """LaProp's mu is an average of divided gradients: in Adam it would make the first step 9,000 times too large."""
    params = jnp.zeros(2)
    saved = old.init(params)
    for _ in range(50):
        _, saved = old.update(jnp.full(2, 1e-4), saved, params)
    state, report = gx.restore_into(new, params, saved)
    assert not np.any(getattr(state, field))
    updates, _ = new.update(jnp.full(2, 1e-4), state, params)
    assert np.all(np.abs(updates) < 1.5)
    assert any(row.address.endswith(field) for row in report.reset)


@pytest.mark.parametrize(
    ("old", "new"), [("yogi", "adam"), ("adamax", "adam"), ("adam", "adamax"), ("adamax", "yogi")]
)
def test_methods_that_share_a_state_class_are_told_apart_by_the_transform(old: str, new: str) -> None:
    """Adamax keeps the largest |g| where Adam keeps the mean of g^2: carried over, the first step is far off."""
    before, after = getattr(gx, old)(1.0), getattr(gx, new)(1.0)
    params = jnp.zeros(2)
    saved = before.init(params)
    for _ in range(50):
        _, saved = before.update(jnp.full(2, 1e-2), saved, params)
    state, report = gx.restore_into(after, params, saved, saved_by=before)
    assert not np.any(state[0].mu)
    np.testing.assert_array_equal(state[0].nu, after.init(params)[0].nu)
    assert "nu starts at zero, and a mu that does not" in str(report)
    updates, _ = after.update(jnp.full(2, 1e-2), state, params)
    assert np.all(np.abs(updates) < 1.5)
    itself, report = gx.restore_into(before, params, saved, saved_by=before)
    assert equal(itself, saved)
    assert report.reset == ()


def test_the_same_state_class_is_taken_for_the_same_method_with_a_word_about_it() -> None:
    params = jnp.zeros(2)
    _, saved = gx.adamax(1.0).update(jnp.ones(2), gx.adamax(1.0).init(params), params)
    state, report = gx.restore_into(gx.guard(gx.adamax(1.0)), params, saved)
    assert equal(state.inner_state, saved)
    assert [row.note for row in report.matched if row.field.endswith("nu")] == [
        "if it is of scale_by_adamax; else say saved_by="
    ]
    assert "saved_by" not in str(
        gx.restore_into(gx.guard(gx.adamax(1.0)), params, saved, saved_by=gx.adamax(1.0))[1]
    )


@pytest.mark.parametrize("form", ["as it was", "dictionaries"])
def test_the_transform_that_saved_is_held_against_the_state(form: str) -> None:
    _, saved = train(gx.adamax(1e-2))
    plain = saved if form == "as it was" else flax.serialization.to_state_dict(saved)
    state, _ = gx.restore_into(gx.adamax(1e-2), PARAMS, plain, saved_by=gx.adamax(1e-2))
    assert equal(state[0].nu, saved[0].nu)
    state, _ = gx.restore_into(gx.adam(1e-2), PARAMS, plain, saved_by=gx.adamax(1e-2))
    assert not any(map(np.any, jax.tree.leaves(state[0].nu)))
    with pytest.raises(ValueError, match=r"saved_by\): it makes no .* at 0 of saved_state"):
        gx.restore_into(gx.adam(1e-2), PARAMS, plain, saved_by=gx.lion(1e-2))


def test_a_tuned_rate_stays_with_its_method() -> None:
    saved = gx.set_hyperparams(gx.tunable(gx.adam(1e-3), "learning_rate").init(PARAMS), learning_rate=0.5)
    for same in (gx.adam(1e-3), gx.chain(gx.clip(1.0), gx.adam(1e-3)), gx.average_params(gx.adam(1e-3))):
        state, _ = gx.restore_into(gx.tunable(same, "learning_rate"), PARAMS, saved)
        assert float(state.hyperparams["learning_rate"]) == 0.5
    state, report = gx.restore_into(gx.tunable(gx.lion(1e-4), "learning_rate"), PARAMS, saved)
    assert float(state.hyperparams["learning_rate"]) == np.float32(1e-4)
    assert "it was set for another method" in str(report)
    theirs = optax.inject_hyperparams(optax.adam)(0.25)
    state, _ = gx.restore_into(optax.inject_hyperparams(optax.lion)(1e-4), PARAMS, theirs.init(PARAMS))
    assert float(state.hyperparams["learning_rate"]) == np.float32(1e-4)


def test_one_more_tuned_number_does_not_lose_the_others() -> None:
    saved = gx.set_hyperparams(gx.tunable(gx.adam(1e-3), "learning_rate").init(PARAMS), learning_rate=0.5)
    state, _ = gx.restore_into(gx.tunable(gx.adam(1e-3), "learning_rate", "b1"), PARAMS, saved)
    assert [float(x) for x in state.hyperparams.values()] == [np.float32(0.9), 0.5]  # b1, learning_rate
    assert float(state.rest["learning_rate"]) == 0.0


def test_sums_and_norms_keep_their_unit() -> None:
    """A window and a history of norms are of gradients, which a loss scale multiplies."""
    scaled = gx.guard(gx.accumulate(gx.loss_scale(gx.sgd(1.0)), 4), spike=6.0)
    _, saved = train(scaled, steps=2)
    assert any(map(np.any, jax.tree.leaves(saved.inner_state.acc_grads)))
    state, report = gx.restore_into(gx.guard(gx.accumulate(gx.sgd(1.0), 4), spike=6.0), PARAMS, saved)
    assert not any(
        map(np.any, jax.tree.leaves((state.inner_state.acc_grads, state.norms, state.inner_state.mini_step)))
    )
    assert "it was of gradients with another loss scale" in str(report)
    plain = flax.serialization.to_state_dict(saved)
    for by in (None, scaled):
        state, _ = gx.restore_into(
            gx.guard(gx.accumulate(gx.sgd(1.0), 4), spike=6.0), PARAMS, plain, saved_by=by
        )
        assert not any(map(np.any, jax.tree.leaves((state.inner_state.acc_grads, state.norms))))
    state, _ = gx.restore_into(scaled, PARAMS, saved, fresh="*loss_scale/*")
    assert not any(map(np.any, jax.tree.leaves((state.inner_state.acc_grads, state.norms))))
    assert equal(gx.restore_into(scaled, PARAMS, saved)[0], saved)
    outside = gx.loss_scale(gx.guard(gx.accumulate(gx.sgd(1.0), 4), spike=6.0))
    _, saved = train(outside, steps=2)  # here guard and window see gradients without the scale
    state, _ = gx.restore_into(gx.guard(gx.accumulate(gx.sgd(1.0), 4), spike=6.0), PARAMS, saved)
    assert equal(state, saved.inner_state)


def _weighed(steps: int, tokens: float) -> Any:
    tx = gx.accumulate(gx.sgd(1.0), 2, weight="tokens")
    state = tx.init(PARAMS)
    for _ in range(steps):
        _, state = tx.update(PARAMS, state, PARAMS, tokens=tokens)
    return state


@pytest.mark.parametrize("done", [1, 2])
def test_weights_are_not_put_into_an_open_window(done: int) -> None:
    plain, weighs = gx.accumulate(gx.sgd(1.0), 2), gx.accumulate(gx.sgd(1.0), 2, weight="tokens")
    _, unweighed = train(plain, steps=done)
    cases = [
        (plain, _weighed(done, 50.0), None),
        (weighs, unweighed, plain),
        (plain, _weighed(done, 1.0), weighs),
    ]
    for tx, saved, by in cases:
        state, report = gx.restore_into(tx, PARAMS, saved, saved_by=by)
        assert int(state.mini_step) == 0
        assert int(state.gradient_step) == done // 2
        assert ("weights were put in or taken out in the middle" in str(report)) == (done == 1)


@pytest.mark.parametrize("tokens", [1.0, 3.0])
def test_an_open_window_with_weights_goes_on(tokens: float) -> None:
    tx, saved = gx.accumulate(gx.sgd(1.0), 2, weight="tokens"), _weighed(1, tokens)
    for by in (None, tx):
        assert equal(gx.restore_into(tx, PARAMS, saved, saved_by=by)[0], saved)
    nested = gx.accumulate(tx, 2, weight="tokens")
    _, saved = nested.update(PARAMS, nested.init(PARAMS), PARAMS, tokens=tokens)
    assert equal(gx.restore_into(nested, PARAMS, saved)[0], saved)


@pytest.mark.parametrize("saved_by", [gx.accumulate(gx.sgd(0.1), 2), optax.MultiSteps(gx.sgd(0.1), 2)])
def test_a_schedule_of_windows_goes_on(saved_by: Any) -> None:
    _, saved = train(saved_by, steps=6)
    grown = gx.accumulate(gx.sgd(0.1), gx.linear_schedule(1.0, 10.0, 10))
    for tx in (grown, gx.accumulate(gx.sgd(0.1), 1)):
        assert int(gx.restore_into(tx, PARAMS, saved)[0].gradient_step) == 3
    _, saved = train(gx.adam(0.1), steps=6)
    assert int(gx.restore_into(grown, PARAMS, saved)[0].gradient_step) == 6


def test_keys_with_slashes_are_not_mixed_up() -> None:
    params = {"a/b": jnp.zeros(2), "a": {"b": jnp.ones(2)}}
    with pytest.raises(ValueError, match="two leaves are called 'a/b'"):
        gx.restore_into(gx.adam(0.1), params, gx.adam(0.1).init(params))


@pytest.mark.parametrize(
    "old", [optax.adamax(1.0), optax.yogi(1.0), optax.chain(gx.scale_by_yogi(), optax.scale(-1.0))]
)
@pytest.mark.parametrize("new", [gx.adam(1.0), optax.adam(1.0)], ids=["ours", "optax"])
def test_optax_s_methods_are_told_apart_too(old: Any, new: Any) -> None:
    params = jnp.zeros(2)
    saved = old.init(params)
    for _ in range(20):
        _, saved = old.update(jnp.full(2, 1e-2), saved, params)
    state, _ = gx.restore_into(new, params, saved, saved_by=old)
    updates, _ = new.update(jnp.full(2, 1e-2), state, params)
    np.testing.assert_allclose(updates, -1.0, rtol=1e-3)
    assert equal(gx.restore_into(old, params, saved, saved_by=old)[0], saved)


def test_dictionaries_of_wrappers_are_recognised() -> None:
    tx = gx.cautious(gx.adam(0.1))
    _, saved = train(tx)
    plain = flax.serialization.to_state_dict(saved)
    assert equal(gx.restore_into(tx, PARAMS, plain, saved_by=tx)[0], saved)


def test_other_ways_to_mix_up_the_arguments() -> None:
    state = gx.adam(0.1).init(PARAMS)
    with pytest.raises(TypeError, match="params is a state"):
        gx.restore_into(gx.adam(0.1), flax.serialization.to_state_dict(state), PARAMS)
    ts = TrainState.create(apply_fn=None, params=PARAMS, tx=gx.adamw(1e-2))
    with pytest.raises(TypeError, match="pass its params"):
        gx.restore_into(gx.adam(0.1), ts, state)
