"""What a caller changes after the call changes no transform, schedule or mask: neither what it does nor its text."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx

PARAMS = {"a": jnp.ones(2), "b": jnp.ones(2), "w": jnp.ones((2, 2))}


def updates(tx: Any) -> Any:
    return jax.tree.map(np.asarray, tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0])


def seen(value: Any) -> Any:
    """What a transform, a schedule or a mask does."""
    if isinstance(value, gx.GradientTransformation):
        return updates(value)
    return float(value(0)) if isinstance(value, gx.Schedule) else value(PARAMS)


def spoil(x: Any) -> None:
    """Changes a container or array in place."""
    if isinstance(x, dict):
        key = next(reversed(x))
        x[key] = not x[key] if isinstance(x[key], bool) else gx.sgd(7.0)
    elif isinstance(x, list):
        x[0] = {str: "b", int: 3}.get(type(x[0]), gx.constant_schedule(7.0))
    else:
        x[...] = 7.0


CASES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "mask": (lambda x: gx.masked(gx.scale(2.0), x), {"a": True, "b": False, "w": True}),
    "mask of patterns": (lambda x: gx.masked(gx.scale(2.0), x), ["a"]),
    "groups": (gx.param_groups, {"[aw]": gx.sgd(0.5), "b": None}),
    "exclusions": (lambda x: gx.matrices(exclude=x), ["w"]),
    "schedules": (
        lambda x: gx.join_schedules(x, [2]),
        [gx.constant_schedule(1.0), gx.constant_schedule(2.0)],
    ),
    "array": (gx.scale, np.array(0.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_changed_after_the_call_changes_nothing(name: str) -> None:
    make, argument = CASES[name]
    argument = copy.deepcopy(argument)
    value, text = make(argument), repr(make(argument))
    before = seen(value)
    spoil(argument)
    jax.tree.map(np.testing.assert_array_equal, seen(value), before)
    assert repr(value) == text
    assert pickle.loads(pickle.dumps(value)) == value


def test_an_equal_transform_made_later_is_not_spoiled() -> None:
    mask = {"a": True, "b": False, "w": True}
    kept = gx.masked(gx.scale(2.0), mask)
    mask["b"] = True
    fresh = gx.masked(gx.scale(2.0), {"a": True, "b": False, "w": True})
    assert fresh == kept
    assert updates(fresh)["b"].tolist() == [1.0, 1.0]


def test_the_bytes_of_an_array_are_read_in_its_own_order() -> None:
    foreign, native = np.array(0.5, ">f4"), np.array(0.5, "<f4")
    assert gx.scale(foreign) == gx.scale(native)
    assert gx.from_json(gx.to_json(gx.scale(foreign))) == gx.scale(native)


def test_numpy_s_text_is_text() -> None:
    mode = np.str_("smooth")
    assert gx.scale_by_lion(mode=mode) == gx.scale_by_lion(mode="smooth")
    assert repr(gx.scale_by_lion(mode=mode)) == "gx.scale_by_lion(mode='smooth')"
