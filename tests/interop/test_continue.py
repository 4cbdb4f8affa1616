"""One run, two libraries: a state made by Optax goes on here and the other way round; checkpoints of either fit."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from tests.interop.problem import assert_close, optax_s_own, params, stepper
from tests.interop.runs import NARROW, RUNS

pytestmark = pytest.mark.interop
ALL = RUNS | NARROW
#: The recipes as they are come fast; their variants and single transforms are marked slow.
run = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if " " in name or name.startswith("scale_by") else ())
        for name in ALL
    ],
)
HALF, WHOLE = 7, 20


@functools.cache
def _stepper(lib: Any, name: str) -> Any:
    return stepper(ALL[name][0](lib))


def _leg(lib: Any, name: str, p: Any, state: Any, count: int) -> tuple[Any, Any]:
    with optax_s_own() if lib is optax else contextlib.nullcontext():
        for _ in range(count):
            p, state = _stepper(lib, name)(p, state)
    return p, state


def _distance(a: Any, b: Any) -> float:
    return float(optax.tree.norm(jax.tree.map(lambda x, y: x - y, a, b)))


def _journey(name: str, legs: list[tuple[Any, int]]) -> tuple[Any, Any]:
    p = params()
    first = legs[0][0]
    with optax_s_own():
        state = ALL[name][0](first).init(p)
    for lib, count in legs:
        p, state = _leg(lib, name, p, state, count)
    return p, state


@run
def test_states_are_the_same_trees(name: str) -> None:
    make = ALL[name][0]
    with optax_s_own():
        theirs, p = make(optax).init(params()), params()
    mine = make(gx).init(p)
    assert_close(mine, theirs, rtol=0, atol=0)
    assert [type(x) for x in jax.tree.leaves(mine, is_leaf=lambda x: hasattr(x, "_fields"))] == [
        type(x) for x in jax.tree.leaves(theirs, is_leaf=lambda x: hasattr(x, "_fields"))
    ]
    _, theirs = _leg(optax, name, p, theirs, 3)
    _, mine = _leg(gx, name, p, mine, 3)
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    assert jax.tree.map(lambda x: (x.dtype, x.shape), mine) == jax.tree.map(
        lambda x: (x.dtype, x.shape), theirs
    )


@run
def test_a_run_goes_on_in_mid_run_and_back(name: str) -> None:
    wanted, theirs = _journey(name, [(optax, WHOLE)])
    allowed = (2.0**-7 if name in NARROW else 2e-3) * _distance(wanted, params())
    for legs in ([(optax, HALF), (gx, WHOLE - HALF)], [(gx, HALF), (optax, WHOLE - HALF)],
                 [(optax, 5), (gx, 5), (optax, 5), (gx, 5)], [(gx, WHOLE)]):  # fmt: skip
        got, state = _journey(name, legs)
        assert _distance(got, wanted) <= allowed
        assert jax.tree.structure(state) == jax.tree.structure(theirs)
        assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(theirs)]


def _ulp(got: Any, wanted: Any) -> float:
    return max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.spacing(np.abs(np.asarray(b)))))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    )


@pytest.mark.parametrize("name", [name for name, (_, exact) in RUNS.items() if exact])
def test_one_step_from_the_same_state_agrees_to_one_ulp(name: str) -> None:
    """Where formulas coincide: update and state after each of 20 steps, both fed Optax's state."""
    make = RUNS[name][0]
    mine, p = make(gx), params()
    random = np.random.default_rng(2)
    with optax_s_own():
        theirs = make(optax)
        state = theirs.init(p)
    for _ in range(WHOLE):
        g = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), jnp.float32), p)
        with jax.disable_jit():  # operation by operation, as Optax's; a compiled program may join two of them
            got = mine.update(g, state, p)
        with optax_s_own():
            wanted = theirs.update(g, state, p)
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        assert _ulp(got, wanted) <= 1
        state = wanted[1]
        p = optax.apply_updates(p, wanted[0])


# ---------------------------------------------------------------------------------------- checkpoints


def _empty_slots(state: Any, instead: Any) -> Any:
    """What a restored checkpoint may bring in the place of `EmptyState()`."""
    is_empty = lambda x: isinstance(x, optax.EmptyState)  # noqa: E731
    return jax.tree.map(lambda x: instead if is_empty(x) else x, state, is_leaf=is_empty)


TRICKY: dict[str, Callable[[], Any]] = {
    "adamw": lambda: gx.adamw(0.1, mask=gx.matrices()),
    "sgd": lambda: gx.sgd(0.1),
    "clip first": lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam()),
    "clip last": lambda: gx.chain(gx.scale_by_adam(), gx.clip(1.0)),
    "nested": lambda: gx.chain(gx.chain(gx.clip(1.0), gx.scale(1.0)), gx.adam(0.1)),
    "groups": lambda: gx.param_groups({"b": gx.sgd(0.1), "*": gx.adam(0.1)}),
    "masked": lambda: gx.chain(gx.masked(gx.scale(0.5), "w"), gx.freeze("b")),
    "identity": lambda: gx.identity(),
    "named": lambda: gx.named_chain(("a", gx.clip(1.0)), ("b", gx.trace(0.9))),
}


@pytest.mark.parametrize("instead", [None, (), optax.MaskedNode()], ids=["None", "()", "MaskedNode"])
@pytest.mark.parametrize("name", TRICKY)
def test_an_empty_slot_may_come_back_as_another_empty_thing(name: str, instead: Any) -> None:
    tx, p = TRICKY[name](), params()
    state = tx.init(p)
    wanted, _ = tx.update(p, state, p)
    got, after = tx.update(p, _empty_slots(state, instead), p)
    assert_close(got, wanted, rtol=0, atol=0)
    again, _ = tx.update(p, after, p)
    assert jax.tree.structure(again) == jax.tree.structure(wanted)
    assert len(jax.tree.leaves(after)) == len(jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["adamw", "groups", "named"])
def test_orbax_brings_a_state_back(name: str, tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint")
    tx, p = TRICKY[name](), params()
    _, state = tx.update(p, tx.init(p), p)
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        back = saver.restore(tmp_path / "state", jax.eval_shape(tx.init, p))
        raw = saver.restore(tmp_path / "state")
    assert_close(back, state, rtol=0, atol=0)
    assert_close(tx.update(p, back, p), tx.update(p, state, p), rtol=0, atol=0)
    assert len(jax.tree.leaves(raw)) == len(jax.tree.leaves(state))


def test_orbax_restores_an_optax_run_into_ours(tmp_path: Path) -> None:
    """The checkpoint names fields and positions; both libraries have the same."""
    ocp = pytest.importorskip("orbax.checkpoint")
    name = "adamw masked"
    p, theirs = _journey(name, [(optax, HALF)])
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", theirs)
        saver.wait_until_finished()
        mine = saver.restore(tmp_path / "state", jax.eval_shape(RUNS[name][0](gx).init, p))
    got, _ = _leg(gx, name, p, mine, WHOLE - HALF)
    wanted, _ = _journey(name, [(optax, WHOLE)])
    assert _distance(got, wanted) <= 2e-3 * _distance(wanted, params())
