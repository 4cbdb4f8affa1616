"""Transforms, schedules and masks are values: text that pastes back, equality, one hash, copies, `_replace`."""

import copy
import functools
import math
import operator
import re
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from tests.values import cases
from tests.values.cases import DIFFERENT, VALUES, with_value

SCOPE = {"gx": gx, "np": np, "re": re, "jax": jax, "functools": functools, "tests": types.SimpleNamespace()}
SCOPE["tests"] = types.SimpleNamespace(values=types.SimpleNamespace(cases=cases))

case = pytest.mark.parametrize("name", VALUES)


@case
def test_the_text_pastes_back(name: str) -> None:
    value = VALUES[name]()
    pasted = eval(repr(value), dict(SCOPE))
    assert type(pasted) is type(value)
    assert pasted == value
    assert repr(pasted) == repr(value)


@case
def test_equal_calls_are_equal_and_have_one_hash(name: str) -> None:
    one, other = VALUES[name](), VALUES[name]()
    assert one == other
    assert operator.ne(one, other) is False
    assert hash(one) == hash(other)
    assert len({one, other}) == 1
    assert {one: 1}[other] == 1


def test_no_two_cases_are_equal() -> None:
    made = [make() for make in VALUES.values()]
    assert len(set(made)) == len(made)
    for i, one in enumerate(made):
        for other in made[i + 1 :]:
            assert operator.ne(one, other) is True
            assert operator.eq(one, other) is False


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_not_equal(name: str) -> None:
    one, other = map(with_value, DIFFERENT[name])
    assert one != other
    assert one == with_value(DIFFERENT[name][0])
    assert repr(one) != repr(other)


def test_a_value_differs_from_what_is_no_value() -> None:
    tx = gx.sgd(0.1)
    for other in (None, 1, repr(tx), tuple(tx), optax.sgd(0.1), tx.init, tx.spec):
        assert operator.ne(tx, other) is True
        assert operator.eq(tx, other) is False
    assert optax.sgd(0.1) != tx
    assert gx.constant_schedule(0.1) != gx.scale(0.1)


def test_nan_equals_itself() -> None:
    assert with_value(math.nan) == with_value(float("nan"))
    assert with_value(np.float32("nan")) == with_value(np.float32("nan"))


@pytest.mark.parametrize(
    "spelling", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16"), np.dtype(jnp.bfloat16), jnp.bfloat16.dtype]
)
@pytest.mark.parametrize("call", [gx.scale_by_adam, gx.scale_by_lion])
def test_every_spelling_of_a_dtype_is_one_value(call: Any, spelling: Any) -> None:
    tx = call(mu_dtype=spelling)
    assert tx == call(mu_dtype="bfloat16")
    assert hash(tx) == hash(call(mu_dtype="bfloat16"))
    assert repr(tx).endswith("(mu_dtype='bfloat16')")
    assert eval(repr(tx), dict(SCOPE)) == tx
    state = tx.init(jnp.ones(2))
    assert state.mu.dtype == jnp.bfloat16


@pytest.mark.parametrize("spelling", ["float32", np.float32, jnp.float32, np.dtype("float32"), "f4", "<f4"])
def test_float32_has_one_value_too(spelling: Any) -> None:
    assert gx.sgd(0.1, accumulator_dtype=spelling) == gx.sgd(0.1, accumulator_dtype="float32")


def test_builtin_float_means_what_numpy_says() -> None:
    assert gx.trace(0.9, accumulator_dtype=float) == gx.trace(0.9, accumulator_dtype="float64")


def test_arguments_by_position_by_name_and_as_defaults_are_one_value() -> None:
    assert gx.adamw(1e-3, 0.9) == gx.adamw(learning_rate=1e-3) == gx.adamw(1e-3, weight_decay=1e-4)
    assert repr(gx.adamw(learning_rate=1e-3, b1=0.9)) == "gx.adamw(0.001)"


def test_concrete_arrays_compare_by_their_bytes_wherever_they_live() -> None:
    assert gx.scale(jnp.float32(0.1)) == gx.scale(np.float32(0.1)) == gx.scale(np.asarray(0.1, np.float32))


# ---------------------------------------------------------------------------------------- trees and modules


def transforms() -> list[str]:
    return [name for name, make in VALUES.items() if isinstance(make(), gx.GradientTransformation)]


def test_a_mask_is_a_leaf() -> None:
    """So Optax, which calls a mask if its leaves are callable, takes ours."""
    assert jax.tree.leaves(gx.matrices()) == [gx.matrices()]
    assert jax.tree.map(lambda x: x, gx.matrices()) == gx.matrices()


@pytest.mark.parametrize("name", [n for n, make in VALUES.items() if not hasattr(make(), "takes")])
def test_a_value_is_a_static_node(name: str) -> None:
    value = VALUES[name]()
    leaves, treedef = jax.tree.flatten(value)
    assert leaves == []
    assert treedef == jax.tree.structure(VALUES[name]())
    assert hash(treedef) == hash(jax.tree.structure(VALUES[name]()))
    assert jax.tree.unflatten(treedef, []) == value
    assert jax.tree.map(lambda x: x, value) == value
    assert jax.tree.map(lambda x: x, {"tx": value, "x": 1}) == {"tx": value, "x": 1}
    assert jax.tree.structure(value) != jax.tree.structure(gx.scale(12345.0))


@pytest.mark.parametrize("name", transforms())
def test_init_and_update_are_equal_by_spec(name: str) -> None:
    one, other = VALUES[name](), VALUES[name]()
    assert one.init == other.init
    assert one.update == other.update
    assert hash(one.update) == hash(other.update)
    assert one.init != one.update
    assert one.update != gx.scale(12345.0).update
    assert repr(one.update) == f"{one!r}.update"
    assert eval(repr(one.update), dict(SCOPE)) == one.update


@pytest.mark.parametrize("name", transforms())
def test_it_is_a_pair_and_optax_s(name: str) -> None:
    tx = VALUES[name]()
    init, update = tx
    assert (init, update) == (tx.init, tx.update)
    assert tx._fields == ("init", "update")
    assert isinstance(tx, optax.GradientTransformation)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    assert optax.with_extra_args_support(tx) is tx
    assert tx._asdict() == {"init": init, "update": update}


@case
def test_copies_are_equal(name: str) -> None:
    value = VALUES[name]()
    assert copy.copy(value) == value
    assert copy.deepcopy(value) == value
    assert copy.deepcopy({"tx": [value]}) == {"tx": [value]}


def test_what_cannot_be_pickled_can_be_copied() -> None:
    for value in (
        gx.masked(gx.scale(2.0), lambda p: p),
        cases.larger_than(lambda: 1),
        cases.reciprocal(lambda: 1),
    ):
        assert copy.copy(value) == value
        assert copy.deepcopy([value]) == [value]


def test_a_field_of_an_equinox_module_compares() -> None:
    class Trainer(eqx.Module):
        tx: Any
        rate: Any

    one, other = Trainer(gx.adamw(1e-3), jnp.ones(2)), Trainer(gx.adamw(1e-3), jnp.ones(2))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert bool(eqx.tree_equal(one, other))
    assert not eqx.tree_equal(one, Trainer(gx.adamw(2e-3), jnp.ones(2)))


# ---------------------------------------------------------------------------------------- _replace


def test_replacing_a_function_by_itself_changes_nothing() -> None:
    tx = gx.adamw(1e-3)
    same = tx._replace(update=gx.adamw(1e-3).update)
    assert same == tx
    assert same.spec == tx.spec
    assert type(same)(*same) == tx
    assert tx._make(tuple(tx)) == tx
    assert tx._replace() == tx


def test_replacing_a_function_by_one_s_own_keeps_the_other() -> None:
    tx = gx.sgd(0.5, momentum=0.5)
    doubled = tx._replace(
        update=lambda g, s, p=None, **extra: tx.update(jax.tree.map(lambda x: 2 * x, g), s, p)
    )
    assert isinstance(doubled, gx.GradientTransformation)
    assert doubled != tx
    state = doubled.init(jnp.ones(2))
    updates, state = doubled.update(jnp.ones(2), state, jnp.ones(2))
    assert updates.tolist() == [-1.0, -1.0]
    updates, _ = gx.chain(doubled, gx.scale(2.0)).update(
        jnp.ones(2), (state, optax.EmptyState()), jnp.ones(2)
    )
    assert updates.tolist() == [-3.0, -3.0]


def test_one_update_under_another_init_is_another_transform() -> None:
    tx = gx.sgd(0.5)._replace(update=gx.sgd(0.25).update)
    assert tx not in (gx.sgd(0.5), gx.sgd(0.25))
    assert float(tx.update(1.0, tx.init(0.0))[0]) == -0.25
    assert tx == gx.sgd(0.5)._replace(update=gx.sgd(0.25).update)
    assert eval(repr(tx), dict(SCOPE)) == tx


def test_replace_knows_its_fields() -> None:
    with pytest.raises(TypeError):
        gx.sgd(0.5)._replace(rate=1.0)


def test_a_hand_written_pair_takes_extra_arguments_that_it_does_not_name() -> None:
    tx = gx.GradientTransformation(lambda p: (), lambda g, s, p=None: (g, s))
    assert tx.update(1.0, (), None, value=3.0) == (1.0, ())
    assert float(optax.chain(tx).update(1.0, ((),), None, value=3.0)[0]) == 1.0
    assert float(gx.chain(tx).update(1.0, ((),), None, value=3.0)[0]) == 1.0


# ---------------------------------------------------------------------------------------- factories made anew


def test_a_factory_defined_again_makes_other_values() -> None:
    """In a notebook a cell is run again after an edit; the transform of the first run is still alive."""

    def cell(factor: float) -> Any:
        scope: dict[str, Any] = {"gx": gx, "__name__": "notebook", "factor": factor}
        exec("@gx.build.factory\ndef mine(limit):\n    return gx.scale(factor * limit)\n", scope)
        return scope["mine"](1.0)

    first, second = cell(2.0), cell(3.0)
    assert first != second
    assert float(first.update(1.0, first.init(0.0))[0]) == 2.0
    assert float(second.update(1.0, second.init(0.0))[0]) == 3.0


def test_the_text_of_a_chain_in_a_chain_is_written_once() -> None:
    """Written twice at each level, fifty of them would take longer than anybody waits."""
    tx = gx.scale(2.0)
    for _ in range(50):
        tx = gx.chain(tx)
    assert repr(tx) == "gx.chain(" * 50 + "gx.scale(2.0)" + ")" * 50
