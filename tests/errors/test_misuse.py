"""Every misuse is answered by one clear error; the calls next to it are not.

A message names the factory or link, the leaf, what came, what was wanted and the remedy, in at most five lines, and
says nothing of the machinery below. It is the same when the step is traced.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradxform as gx

from .arriving import ARRIVING
from .building import BUILDING
from .misuse import Misuse, arrays, evaluate

# What only those know who wrote JAX, Python or this library.
RAW = (
    "pytree structure",
    "PyTreeDef",
    "incompatible shapes",
    "Tracer",
    "tree_map",
    "NoneType",
    "ArrayImpl",
    "has no attribute 'init'",
    "object has no",
    "object is not",
    "unexpected keyword",
    "not supported between",
    "__call__",
    " at 0x",
    "see https://",
)


def answer(row: Misuse, **values: Any) -> str:
    """The message that answers a row's code."""
    with pytest.raises(row.error) as caught:
        evaluate(row.code, **(values or arrays()))
    return str(caught.value)


def check(row: Misuse, message: str) -> None:
    assert [part for part in row.says if part not in message] == [], message
    lines = message.split("\n")
    assert len(lines) <= 5, message
    assert max(map(len, lines)) <= 200, message
    assert [word for word in RAW if word in message] == [], message


@pytest.mark.parametrize("row", [*BUILDING, *ARRIVING], ids=str)
def test_a_misuse_is_answered(row: Misuse) -> None:
    check(row, answer(row))


@pytest.mark.parametrize("row", ARRIVING, ids=str)
def test_the_answer_is_the_same_at_trace_time(row: Misuse) -> None:
    def traced(params: Any, grads: Any) -> None:
        message = answer(row, params=params, grads=grads)
        check(row, message)

    jax.eval_shape(traced, **arrays())


def test_the_table_is_large_and_has_no_row_twice() -> None:
    codes = [row.code for row in (*BUILDING, *ARRIVING)]
    assert len(codes) == len(set(codes)) >= 200


def test_a_poor_answer_is_found() -> None:
    for message in ("a\n" * 5, "x" * 201, "pytree structure error: a is missing"):
        with pytest.raises(AssertionError):
            check(Misuse("", ValueError, ()), message)
    with pytest.raises(AssertionError):
        check(Misuse("", ValueError, ("the leaf 'w'",)), "the leaf 'b' is wrong")


HEALTHY = [
    "gx.adam(1e-3, b1=0.0, b2=0.0, eps=0)",
    "gx.adam(jnp.float32(1e-3))",
    "gx.adam(np.float64(1e-3))",
    "gx.adam(0)",
    "gx.adam(1e-3, mu_dtype=jnp.bfloat16, nu_dtype='float16')",
    "gx.adam(lambda count: 1e-3)",
    "gx.adam(lambda count, scale=1.0: 1e-3 * scale)",
    "gx.adam(functools.partial(lambda scale, count: scale, 1e-3))",
    "gx.adam(jax.jit(lambda count: 1e-3))",
    "gx.adam(optax.linear_schedule(1.0, 0.0, 10))",
    "gx.adam(gx.warmup_cosine(1e-3, 0.1, 100))",
    "gx.scale_by_schedule(optax.constant_schedule(1.0))",
    "gx.clip_by_global_norm(inf)",
    "gx.clip(inf)",
    "gx.clip_by_global_norm(0.0)",
    "gx.sgd(0.1, momentum=0.0)",
    "gx.scale(-1.0)",
    "gx.adaptive_grad_clip(0.1, axis=(0,))",
    "gx.chain()",
    "gx.chain(gx.adam(1e-3))",
    "gx.chain(gx.scale_by_adam(), gx.warmup_cosine(1e-3, 10, 100))",
    "gx.chain(optax.scale_by_adam(), gx.scale_by_learning_rate(0.1))",
    "gx.chain(gx.masked(gx.adam(1.0), 'w'), gx.masked(gx.sgd(0.1), 'b')).init(params)",
    "gx.chain(gx.scale_by_learning_rate(0.1), gx.add_decayed_weights(0.1, coupled=False))",
    "gx.named_chain(('clip', gx.clip(1.0)), ('adam', optax.adam(1e-3)))",
    "gx.param_groups({re.compile('w'): gx.sgd(0.1), ('b', 'c'): None})",
    "gx.param_groups({(lambda path, leaf: leaf.ndim > 1): tx, '*': None}).init(params)",
    "gx.param_groups({'*': tx, 'b': None}, unused='ignore').init(params)",
    "gx.masked(tx, True).init(params)",
    "gx.masked(tx, '*').init(params)",
    "gx.masked(tx, {'w': np.True_, 'b': np.asarray(False)}).init(params)",
    "gx.masked(tx, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)).init(params)",
    "gx.masked(tx, {'w': True, 'b': False}).init(params)",
    "gx.masked(tx, gx.matrices()).init(params)",
    "gx.freeze(('w', 'b')).init(params)",
    "gx.warmup_cosine(1.0, 100, 100)",
    "gx.warmup_cosine(1.0, 0, 100)",
    "gx.warmup_cosine(1.0, 10.0, 100.0)",
    "gx.wsd(1.0, 0.5, 100, 0.5)",
    "gx.join_schedules((gx.constant_schedule(1.0), lambda count: 0.5), (10,))",
    "gx.from_json(gx.to_json(tx))",
    "gx.from_json(gx.to_json(tx).encode())",
    "tx.init(jax.eval_shape(lambda: params))",
    "jax.eval_shape(tx.init, params)",
    "tx.init({})",
    "tx.init(None)",
    "tx.init(1.0)",
    "tx.init({**params, 'hole': None})",
    "tx.init(mixed)",
    "tx.init({'flag': True})",
    "tx.update(grads, state, params)",
    "tx.update(grads, list(state), params)",
    "tx.update(grads, (state[0], None, ()), params)",
    "tx.update({**grads, 'w': None}, state, params)",
    "tx.update({'w': None, 'b': None}, state, {'w': None, 'b': None})",
    "tx.update({}, tx.init({}), {})",
    "tx.update(1.0, tx.init(1.0), 1.0)",
    "tx.update(grads, state, params, value=1.0)",
    "tx.update(jax.tree.map(lambda g: g.astype(jnp.bfloat16), grads), state, params)",
    "tx.update({'w': grads['w'], 'n': np.zeros(3, float0)}, tx.init(mixed), mixed)",
    "tx.update({'w': grads['w'], 'n': None}, tx.init(mixed), mixed)",
    "gx.masked(tx, 'w').update({'w': grads['w'], 'n': jnp.arange(3)}, gx.masked(tx, 'w').init(mixed), mixed)",
    "gx.chain().update({'w': grads['w'], 'n': jnp.arange(3)}, (), mixed)",
    "gx.set_to_zero().update({'w': grads['w'], 'n': jnp.arange(3)}, (), mixed)",
    "gx.adam(1.0).update(grads, gx.adam(1.0).init(params))",
    "gx.adam(1.0).update(grads, optax.adam(1.0).init(params))",
    "gx.adam(1.0).update(grads, optax.adamax(1.0).init(params))",
    "gx.adam(1.0).update(grads, optax.yogi(1.0).init(params))",
    "gx.sgd(lambda count: jnp.where(count > 3, 1.0, 2.0)).update(grads, gx.sgd(len).init(params))",
    "jax.jit(lambda rate: gx.adamw(rate).update(grads, state, params))(1e-3)",
    "jax.vmap(lambda rate: gx.adamw(rate).update(grads, state, params))(jnp.ones(2))",
    "optax.tree_utils.tree_map_params(tx, lambda x: x, state)",
    "polyak().update(grads, (), params, value=1.0)",
    "gx.apply_updates(params, grads)",
    "gx.apply_updates({**params, 'n': 1}, {**grads, 'n': None})",
    "gx.apply_updates(mixed, {'w': grads['w'], 'n': np.zeros(3, float0)})",
]


@pytest.mark.parametrize("code", HEALTHY)
def test_a_healthy_neighbour_is_not_refused(code: str) -> None:
    evaluate(code, **arrays())


@pytest.mark.parametrize("code", HEALTHY)
def test_nor_at_trace_time(code: str) -> None:
    if "to_json" in code or "jax.vmap" in code:
        return

    def traced(params: Any, grads: Any) -> None:
        evaluate(code, params=params, grads=grads)

    jax.eval_shape(traced, **arrays())


def test_a_step_that_passes_the_door_runs_under_scan() -> None:
    given, tx = arrays(), gx.adamw(1e-3)

    def body(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(given["grads"], state, params)
        return (gx.apply_updates(params, updates), state), None

    start = (given["params"], tx.init(given["params"]))
    (params, _), _ = jax.lax.scan(body, start, length=3)
    assert jnp.all(params["w"] < given["params"]["w"])


def test_the_page_of_errors_shows_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
    absent = [row.code for row in (*BUILDING, *ARRIVING) if f">>> {row.code}\n" not in page]
    assert absent == [], "write it anew: python tools/error_page.py"
