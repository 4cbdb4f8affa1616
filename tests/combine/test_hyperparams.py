"""`get_hyperparams` and `set_hyperparams` on every state that people hold."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx
from gradxform._catalog import entries
from gradxform._combine.hyperparams import Hyperparams

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def stepped(tx: Any, steps: int = 1) -> Any:
    """The state after some steps."""
    state = tx.init(PARAMS)
    for _ in range(steps):
        _, state = tx.update(PARAMS, state, PARAMS)
    return state


# ------------------------------------------------------------------------------------------------ reading


def test_every_number_of_every_link_by_its_path() -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3, weight_decay=0.1, mask=gx.matrices()))
    assert dict(gx.get_hyperparams(tx, tx.init(PARAMS))) == {
        "clip/max_norm": 1.0,
        "adamw/adam/b1": 0.9,
        "adamw/adam/b2": 0.999,
        "adamw/adam/eps": 1e-8,
        "adamw/adam/eps_root": 0.0,
        "adamw/decay/weight_decay": 0.1,
        "adamw/rate/learning_rate": 1e-3,
    }


def test_groups_named_chains_and_wrappers() -> None:
    tx = gx.chain(
        gx.guard(
            gx.param_groups(
                {
                    "b": gx.named_chain(("go", gx.sgd(0.5, 0.9))),
                    "*": gx.tunable(gx.masked(gx.sgd(0.1), "w"), "learning_rate"),
                }
            )
        ),
        gx.scale(2.0),
        gx.scale(3.0),
    )
    state = gx.set_hyperparams(stepped(tx), learning_rate=0.25)
    known = gx.get_hyperparams(tx, state)
    assert dict(known) == {
        "[b]/go/trace/decay": 0.9,
        "[b]/go/rate/learning_rate": 0.5,
        "[*]/sgd/rate/learning_rate": 0.25,
        "scale/step_size": 2.0,
        "scale_1/step_size": 3.0,
        "window": 128,
    }
    assert known["go/learning_rate"] == 0.5
    assert known["[*]/learning_rate"] == 0.25


def test_a_schedule_is_read_at_the_count_in_the_state() -> None:
    """The rate of the next step, positive; against the schedule itself and against what the next step does."""
    schedule = gx.warmup_cosine(0.5, 3, 10)
    tx = gx.chain(gx.sign_sgd(schedule))
    state = tx.init(PARAMS)
    for step in range(6):
        rate = gx.get_hyperparams(tx, state)["learning_rate"]
        assert float(rate) == float(schedule(step))
        updates, state = tx.update(PARAMS, state, PARAMS)
        assert float(updates["b"][0]) == pytest.approx(
            -float(rate), rel=1e-6
        )  # one program, so another last bit


def test_schedules_in_any_argument_and_any_function() -> None:
    fall = gx.linear_schedule(0.9, 0.5, 4)
    tx = gx.chain(gx.adamw(lambda count: 0.5 ** jnp.asarray(count, jnp.float32), b1=fall, weight_decay=fall))
    known = gx.get_hyperparams(tx, stepped(tx, 2))
    np.testing.assert_allclose(known["learning_rate"], 0.25)
    np.testing.assert_allclose(known["b1"], 0.7)
    np.testing.assert_allclose(known["weight_decay"], 0.7)
    plain = optax.scale_by_schedule(lambda count: 0.5)
    assert dict(gx.get_hyperparams(plain, plain.init(PARAMS))) == {}, "of somebody's closure nothing is known"


def test_a_number_inside_of_a_schedule_is_read_too() -> None:
    tx = gx.tunable(gx.sgd(gx.warmup_cosine(0.5, 2, 10)), "peak_value")
    state = gx.set_hyperparams(stepped(tx), peak_value=0.25)
    known = gx.get_hyperparams(tx, state)
    assert float(known["peak_value"]) == 0.25
    assert float(known["rate/learning_rate"]) == 0.125


@pytest.mark.parametrize("name", [entry.name for entry in entries("recipe")])
def test_every_recipe_says_its_rate_as_it_was_given(name: str) -> None:
    tx = next(entry for entry in entries("recipe") if entry.name == name).example
    known = gx.get_hyperparams(tx, tx.init(PARAMS))
    assert known
    given = tx.spec.arguments.get("learning_rate")
    if given is not None:
        rates = [path for path in known if path.endswith("learning_rate")]
        assert rates
        assert all(known[path] == given for path in rates)  # Muon has two, of which each belongs to a group
        assert len(rates) > 1 or known["learning_rate"] == given
    for name, value in tx.spec.arguments.items():
        if isinstance(value, float) and name in known:
            assert known[name] == value, name


def test_the_argument_s_own_name_is_understood() -> None:
    """`gx.sgd(momentum=0.9)` is `trace(decay=0.9)` inside: both names say it."""
    tx = gx.chain(gx.clip(1.0), gx.sgd(0.1, 0.9))
    known = gx.get_hyperparams(tx, tx.init(PARAMS))
    assert known["momentum"] == known["trace/decay"] == known["sgd/momentum"] == 0.9
    tuned = gx.tunable(tx, "momentum")
    known = gx.get_hyperparams(tuned, gx.set_hyperparams(tuned.init(PARAMS), momentum=0.5))
    assert float(known["momentum"]) == float(known["decay"]) == 0.5
    fall = gx.sgd(0.1, gx.linear_schedule(0.8, 0.4, 4))
    assert float(gx.get_hyperparams(fall, stepped(fall))["momentum"]) == pytest.approx(0.7)


def test_what_no_link_reads_is_said_too() -> None:
    """Sizes, numbers that init alone has used, numbers of wrappers: those in the state as they are there."""
    rprop = gx.rprop(0.01)
    assert gx.get_hyperparams(rprop, rprop.init(PARAMS))["learning_rate"] == 0.01
    tx = gx.guard(gx.adafactor(0.1), spike=6.0)
    known = gx.get_hyperparams(tx, tx.init(PARAMS))
    assert known["min_dim_size_to_factor"] == 128
    assert known["spike"] == 6.0
    tx = gx.tunable(tx, "spike")
    known = gx.get_hyperparams(tx, gx.set_hyperparams(tx.init(PARAMS), spike=3.0))
    assert float(known["spike"]) == 3.0


def test_the_mapping() -> None:
    tx = gx.chain(gx.adamw(1e-3), gx.scale(0.5))
    known = gx.get_hyperparams(tx, tx.init(PARAMS))
    assert isinstance(known, Hyperparams)
    assert "learning_rate" in known
    assert "rate" not in known
    assert known.get("b3", 7) == 7
    assert len(known) == 7
    assert repr(known).startswith("Hyperparams({'adamw/adam/b1': 0.9, ")
    with pytest.raises(
        KeyError, match=r"there is no 'lerning_rate'; did you mean 'adamw/rate/learning_rate'\?"
    ):
        known["lerning_rate"]
    with pytest.raises(TypeError):
        known["b1"] = 3  # type: ignore[index]
    two = gx.chain(gx.scale(1.0), gx.scale(2.0))
    with pytest.raises(KeyError, match="'step_size' may be 'scale/step_size', 'scale_1/step_size'"):
        gx.get_hyperparams(two, two.init(PARAMS))["step_size"]


def test_it_goes_through_jit_and_vmap() -> None:
    tx = gx.tunable(gx.adamw(gx.linear_schedule(0.4, 0.0, 4)), "b1")
    state = stepped(tx)
    got = jax.jit(lambda state: gx.get_hyperparams(tx, state))(state)
    want = gx.get_hyperparams(tx, state)
    assert list(got) == list(want)
    for path in want:
        np.testing.assert_allclose(got[path], want[path], rtol=1e-6)
    states = jax.vmap(lambda b1: gx.set_hyperparams(state, b1=b1))(jnp.asarray([0.1, 0.2]))
    stacked = jax.vmap(lambda state: gx.get_hyperparams(tx, state))(states)
    np.testing.assert_allclose(stacked["b1"], [0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(stacked["learning_rate"], [0.3, 0.3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        gx.get_hyperparams(tx, states)


# ------------------------------------------------------------------------------------------------ setting


def test_the_old_state_stays_and_the_new_one_is_of_its_form() -> None:
    tx = gx.tunable(gx.adamw(1e-3), "learning_rate", "b1")
    old = tx.init(PARAMS)
    new = gx.set_hyperparams(old, learning_rate=0.1)
    assert float(old.hyperparams["learning_rate"]) == np.float32(1e-3)
    assert new.hyperparams is not old.hyperparams
    assert float(new.hyperparams["learning_rate"]) + float(new.rest["learning_rate"]) == pytest.approx(
        0.1, rel=1e-14
    )
    assert new.hyperparams["b1"] is old.hyperparams["b1"]
    assert jax.tree.structure(new) == jax.tree.structure(old)
    avals = [jax.tree.map(lambda x: jax.typeof(x), state) for state in (old, new)]
    assert avals[0] == avals[1]
    assert gx.set_hyperparams(old) == old or jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), gx.set_hyperparams(old), old)
    )


def test_several_holders() -> None:
    tx = gx.param_groups(
        {
            "b": gx.tunable(gx.sgd(0.1), "learning_rate"),
            "*": gx.tunable(gx.adamw(1e-3), "learning_rate", "b1"),
        }
    )
    state = tx.init(PARAMS)
    with pytest.raises(
        ValueError, match=r"'learning_rate' may be 'inner_states/b/inner_state/learning_rate', "
    ):
        gx.set_hyperparams(state, learning_rate=0.5)
    new = gx.set_hyperparams(state, {"b/learning_rate": 0.5}, b1=0.8)
    known = gx.get_hyperparams(tx, new)
    assert float(known["sgd/learning_rate"]) == 0.5
    assert float(known["adamw/learning_rate"]) == np.float32(1e-3)
    assert float(known["b1"]) == np.float32(0.8)
    with pytest.raises(ValueError, match="given twice, by two names"):
        gx.set_hyperparams(state, {"b1": 0.1, "*/inner_state/b1": 0.2})


TUNED = gx.tunable(gx.chain(gx.clip(1.0), gx.adamw(1e-3)), "adamw/learning_rate", "b1")

REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("unknown", {"b2": 0.1}, ValueError, r"there is no 'b2'; the state holds 'adamw/learning_rate', 'b1'\n  for "
     r"others, make them part of it: gx.tunable\(tx, 'learning_rate'\), and init again"),
    ("near", {"lerning_rate": 0.1}, ValueError, r"did you mean 'adamw/learning_rate'\?"),
    ("nan", {"b1": float("nan")}, ValueError, r"set_hyperparams\(b1=nan\): wanted a finite number$"),
    ("inf in an array", {"b1": jnp.asarray([0.1, jnp.inf])}, ValueError, r"wanted a finite number$"),
    ("too large", {"b1": 1e39}, ValueError, r"wanted a finite number, within the range of float32"),
    ("a string", {"b1": "0.1"}, TypeError, r"wanted a number or an array of them, got a string"),
    ("a flag", {"b1": True}, TypeError, r"got a boolean"),
    ("none", {"b1": None}, TypeError, r"got None"),
    ("a complex number", {"b1": 1j}, TypeError, r"got a complex"),
    ("a list", {"b1": [0.1, 0.2]}, TypeError, r"got a list"),
    ("booleans", {"b1": jnp.asarray([True])}, TypeError, r"got bool\[1\]"),
    ("a schedule", {"b1": gx.constant_schedule(0.1)}, TypeError, r"a schedule is given when the transform is built"),
    ("a function", {"b1": lambda count: 0.1}, TypeError, r"got a lambda\n? ?.*a schedule is given when"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "error", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refusals(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        gx.set_hyperparams(TUNED.init(PARAMS), values)
    assert len(str(caught.value).splitlines()) <= 5


def test_more_refusals() -> None:
    with pytest.raises(ValueError, match=r"this state holds no hyperparameters\n  make them part of it"):
        gx.set_hyperparams(gx.adam(1e-3).init(PARAMS), b1=0.1)
    with pytest.raises(TypeError, match="'b1' is given twice"):
        gx.set_hyperparams(TUNED.init(PARAMS), {"b1": 0.1}, b1=0.2)
    stacked = gx.set_hyperparams(TUNED.init(PARAMS), b1=jnp.ones(3))
    assert gx.set_hyperparams(stacked, b1=0.5).hyperparams["b1"].shape == (3,)
    with pytest.raises(ValueError, match="2 values for a state of 3"):
        gx.set_hyperparams(stacked, b1=jnp.ones(2))


def test_the_end_of_a_name_is_enough() -> None:
    state = gx.set_hyperparams(TUNED.init(PARAMS), learning_rate=0.5)
    assert float(state.hyperparams["adamw/learning_rate"]) == 0.5


# ------------------------------------------------------------------------------------------------ as trainers hold it


def test_nnx_optimizer_as_it_is() -> None:
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    tx = gx.guard(gx.tunable(gx.sign_sgd(0.5), "learning_rate"))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    traces = []

    @nnx.jit
    def train_step(model: Any, optimizer: Any) -> None:
        traces.append(1)
        optimizer.update(model, nnx.grad(lambda m: jnp.sum(m(jnp.ones((1, 2)))))(model))

    before = np.asarray(model.bias[...])
    train_step(model, optimizer)
    for rate in (0.25, 0.125):
        kinds = jax.tree.structure(optimizer.opt_state)
        optimizer.opt_state = gx.set_hyperparams(optimizer.opt_state, learning_rate=rate)
        assert jax.tree.structure(optimizer.opt_state) == kinds, "every number in a box of its own"
        assert float(gx.get_hyperparams(tx, optimizer.opt_state)["learning_rate"]) == rate
        train_step(model, optimizer)
    np.testing.assert_allclose(model.bias[...], before - 0.875)
    assert len(traces) == 1


def test_a_train_state_as_it_is() -> None:
    tx = gx.tunable(gx.sgd(gx.linear_schedule(0.5, 0.0, 10), momentum=0.9), "momentum")
    train = TrainState.create(apply_fn=lambda *_: None, params=PARAMS, tx=tx)
    train = train.apply_gradients(grads=PARAMS)
    train = train.replace(opt_state=gx.set_hyperparams(train.opt_state, momentum=0.5))
    known = gx.get_hyperparams(train.tx, train.opt_state)
    assert float(known["momentum"]) == 0.5
    assert float(known["learning_rate"]) == pytest.approx(0.45)


def test_optax_s_injected_hyperparameters() -> None:
    """Its state is read and set as ours; but a schedule there would overwrite what is set, which Optax does not say."""
    schedule = optax.linear_schedule(0.9, 0.0, 10)
    tx = optax.inject_hyperparams(optax.adamw)(1e-3, b1=schedule)
    inside = gx.chain(gx.clip_by_global_norm(1.0), tx)
    old = inside.init(PARAMS)
    new = gx.set_hyperparams(old, learning_rate=0.5)
    assert float(old[1].hyperparams["learning_rate"]) == np.float32(1e-3), "D6: not in place"
    known = gx.get_hyperparams(inside, new)
    assert float(known["learning_rate"]) == 0.5
    assert known["max_norm"] == 1.0
    step = jax.jit(inside.update)
    step(PARAMS, old, PARAMS)
    updates, _ = step(PARAMS, new, PARAMS)
    assert float(updates["b"][0]) == pytest.approx(-0.5, rel=1e-3)
    assert step._cache_size() == 1
    control = new[1]._replace(hyperparams={**new[1].hyperparams, "b1": jnp.asarray(0.1)})
    with jax.numpy_dtype_promotion("standard"):
        _, after = tx.update(PARAMS, control, PARAMS)
    assert float(after.hyperparams["b1"]) == np.float32(0.9), "the control: silently overwritten"
    with pytest.raises(ValueError, match="has a schedule there, which would overwrite it"):
        gx.set_hyperparams(new, b1=0.1)


def test_a_logger_takes_it() -> None:
    tx = gx.tunable(gx.adamw(gx.warmup_cosine(1e-3, 2, 10)), "peak_value")
    flat = {path: float(value) for path, value in gx.get_hyperparams(tx, stepped(tx)).items()}
    assert json.loads(json.dumps(flat))["rate/learning_rate"] == pytest.approx(5e-4)


def test_a_saved_state_goes_on_with_its_numbers() -> None:
    from flax import serialization

    tx = gx.tunable(gx.adamw(1e-3), "learning_rate")
    state = gx.set_hyperparams(stepped(tx), learning_rate=0.3)
    back = serialization.from_bytes(tx.init(PARAMS), serialization.to_bytes(state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), back, state)))
    assert float(gx.get_hyperparams(tx, back)["learning_rate"]) == np.float32(0.3)
    step = jax.jit(tx.update)
    wanted, got = (
        step(PARAMS, state, PARAMS),
        step(PARAMS, gx.set_hyperparams(back, learning_rate=0.3), PARAMS),
    )
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), got, wanted)))
