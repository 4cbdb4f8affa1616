"""Optax's wrappers around ours, ours around Optax's: each trains, and equals what Optax gives alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib as contrib
import pytest

import gradxform as gx
from tests.interop.problem import assert_close, fall, grad, loss, optax_s_own, params, train

pytestmark = pytest.mark.interop

LABELS = {"w": "matrix", "b": "vector"}
MASK = {"w": True, "b": False}


def _always(step: Any, **extra: Any) -> Any:
    del extra
    return step >= 0


#: Optax's wrapper around `adam` (ours or Optax's); the factor by which the loss falls at least in 30 steps.
AROUND: dict[str, Callable[[Any], Any]] = {
    "chain": lambda lib: optax.chain(optax.clip_by_global_norm(1.0), lib.adam(0.2)),
    "chain of parts": lambda lib: optax.chain(
        lib.clip_by_global_norm(1.0), lib.scale_by_adam(), lib.scale(-0.2)
    ),
    "named_chain": lambda lib: optax.named_chain(("clip", lib.clip(1.0)), ("adam", lib.adam(0.2))),
    "masked": lambda lib: optax.chain(
        optax.masked(lib.adam(0.2), MASK), optax.masked(lib.sgd(0.1), {"w": False, "b": True})
    ),
    "MultiSteps": lambda lib: optax.MultiSteps(lib.adam(0.3), every_k_schedule=2).gradient_transformation(),
    "MultiSteps that skips": lambda lib: optax.MultiSteps(
        lib.adam(0.2), 1, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "inject_hyperparams": lambda lib: optax.inject_hyperparams(lib.adam)(0.2, b1=0.8),
    "inject a schedule": lambda lib: optax.inject_hyperparams(lib.adamw)(optax.linear_schedule(0.3, 0.1, 30)),
    "partition": lambda lib: optax.partition({"matrix": lib.adam(0.2), "vector": lib.sgd(0.1)}, LABELS),
    "apply_if_finite": lambda lib: optax.apply_if_finite(lib.adam(0.2), 3),
    "flatten": lambda lib: optax.flatten(lib.adam(0.2)),
    "conditionally_transform": lambda lib: optax.conditionally_transform(lib.adam(0.2), _always),
    "conditionally_mask": lambda lib: optax.conditionally_mask(lib.adam(0.2), _always),
    "selective_transform": lambda lib: optax.selective_transform(
        lib.adam(0.2), freeze_mask={"w": False, "b": True}
    ),
    "freeze": lambda lib: optax.chain(lib.adam(0.2), optax.freeze({"w": False, "b": True})),
    "schedule_free": lambda lib: contrib.schedule_free(lib.sgd(0.1), 0.1),
    "mechanize": lambda lib: contrib.mechanize(lib.sgd(0.1), s_init=0.01),
    "split_real_and_imaginary": lambda lib: contrib.split_real_and_imaginary(lib.adam(0.2)),
    "reduce_on_plateau": lambda lib: optax.chain(lib.adam(0.2), contrib.reduce_on_plateau(patience=5)),
    "with_extra_args_support": lambda lib: optax.with_extra_args_support(lib.adam(0.2)),
}


@pytest.mark.parametrize("name", AROUND)
def test_optax_s_wrapper_around_ours(name: str) -> None:
    with optax_s_own():
        wanted, state = train(AROUND[name](optax))
        got, mine = train(AROUND[name](gx))
    assert fall(got) > 3
    assert_close(got, wanted, rtol=2e-3, atol=2e-3)
    assert jax.tree.structure(mine) == jax.tree.structure(state)
    assert [x.dtype for x in jax.tree.leaves(mine)] == [x.dtype for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("name", ["chain of parts", "masked", "partition", "freeze", "selective_transform"])
def test_what_optax_does_strictly_it_does_with_ours_strictly(name: str) -> None:
    got, _ = train(AROUND[name](gx))
    assert fall(got) > 3


def test_lookahead_around_ours() -> None:
    def run(lib: Any) -> Any:
        tx = optax.lookahead(lib.sgd(0.1), sync_period=3, slow_step_size=0.5)
        p = optax.LookaheadParams.init_synced(params())
        state = tx.init(p)
        for _ in range(12):
            updates, state = tx.update(grad(p.fast), state, p)
            p = optax.apply_updates(p, updates)
        return p

    with optax_s_own():
        wanted, got = run(optax), run(gx)
    assert float(loss(got.slow)) < float(loss(params())) / 2
    assert_close(got, wanted)


#: Ours around Optax's, and the same in Optax alone.
OURS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "chain": (
        lambda: gx.chain(optax.clip_by_global_norm(1.0), optax.adam(0.2)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.2)),
    ),
    "chain, mixed": (
        lambda: gx.chain(gx.clip_by_global_norm(1.0), optax.scale_by_yogi(), gx.scale_by_learning_rate(0.2)),
        lambda: optax.chain(
            optax.clip_by_global_norm(1.0), optax.scale_by_yogi(), optax.scale_by_learning_rate(0.2)
        ),
    ),
    "named_chain": (
        lambda: gx.named_chain(("a", optax.clip(1.0)), ("b", optax.adam(0.2))),
        lambda: optax.named_chain(("a", optax.clip(1.0)), ("b", optax.adam(0.2))),
    ),
    "masked": (
        lambda: gx.chain(gx.masked(optax.adam(0.2), MASK), gx.masked(optax.sgd(0.1), "b")),
        lambda: optax.chain(
            optax.masked(optax.adam(0.2), MASK), optax.masked(optax.sgd(0.1), {"w": False, "b": True})
        ),
    ),
    "param_groups": (
        lambda: gx.param_groups({"b": optax.sgd(0.1), "*": optax.rmsprop(0.1)}),
        lambda: optax.partition({"vector": optax.sgd(0.1), "matrix": optax.rmsprop(0.1)}, LABELS),
    ),
    "freeze": (
        lambda: gx.chain(optax.adam(0.2), gx.freeze("b")),
        lambda: optax.chain(optax.adam(0.2), optax.freeze({"w": False, "b": True})),
    ),
    "wrapper in chain": (
        lambda: gx.chain(gx.clip(10.0), optax.MultiSteps(optax.adam(0.3), 2), gx.scale(1.0)),
        lambda: optax.chain(optax.clip(10.0), optax.MultiSteps(optax.adam(0.3), 2), optax.scale(1.0)),
    ),
    "injected in groups": (
        lambda: gx.param_groups({"*": optax.inject_hyperparams(optax.adam)(0.2)}),
        lambda: optax.partition({0: optax.inject_hyperparams(optax.adam)(0.2)}, {"w": 0, "b": 0}),
    ),
    "both ways": (
        lambda: gx.chain(optax.masked(gx.masked(optax.adam(0.2), "w"), MASK), gx.freeze("b")),
        lambda: optax.chain(optax.masked(optax.adam(0.2), MASK), optax.freeze({"w": False, "b": True})),
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_around_optax_s(name: str) -> None:
    ours, alone = OURS[name]
    with optax_s_own():
        tx, wanted = ours(), train(alone())
    got = train(tx)
    assert fall(got[0]) > 3
    assert_close(got[0], wanted[0])
    if name not in ("param_groups", "injected in groups", "both ways", "masked"):
        assert_close(got[1], wanted[1], rtol=1e-4)


# ---------------------------------------------------------------------------------------- tree_map_params

MAPPED: dict[str, Callable[[], Any]] = {
    "adamw": lambda: gx.adamw(gx.warmup_cosine(0.1, 2, 10), mask=gx.matrices()),
    "sgd": lambda: gx.sgd(0.1, momentum=0.9),
    "lion": lambda: gx.lion(0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "masked": lambda: gx.masked(gx.adam(0.1), MASK),
    "groups": lambda: gx.param_groups({"b": None, "*": gx.adam(0.1)}),
    "named_chain": lambda: gx.named_chain(("a", gx.adam(0.1))),
    "ours around optax": lambda: gx.chain(gx.clip(1.0), optax.adam(0.1), gx.masked(optax.trace(0.9), "w")),
    "optax around ours": lambda: optax.chain(
        optax.clip(1.0), gx.adam(0.1), optax.masked(gx.trace(0.9), MASK)
    ),
    "scheduled": lambda: gx.trace(gx.linear_schedule(0.1, 0.9, 10)),
    "per_layer": lambda: gx.per_layer(gx.adam(0.1), "w"),
}


@pytest.mark.parametrize("name", MAPPED)
def test_tree_map_params_finds_what_belongs_to_parameters(name: str) -> None:
    tx, p = MAPPED[name](), params()
    state = tx.init(p)
    marked = optax.tree_map_params(tx, lambda x: "param", state, transform_non_params=lambda x: "other")
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    for path, mark in jax.tree_util.tree_flatten_with_path(marked)[0]:
        text = jax.tree_util.keystr(path)
        assert mark == ("other" if "count" in text else "param"), text


def test_tree_map_params_takes_specs_of_parameters() -> None:
    tx, p = gx.chain(gx.clip(1.0), gx.adamw(0.1)), params()
    specs = {"w": "spec of w", "b": "spec of b"}
    got = optax.tree_map_params(
        tx, lambda x, spec: spec, tx.init(p), specs, transform_non_params=lambda x: None
    )
    assert got[1][0].mu == specs
    assert got[1][0].nu == specs


# ---------------------------------------------------------------------------------------- the protocol


def test_optax_takes_ours_for_its_own() -> None:
    for tx in (gx.adamw(0.1), gx.chain(optax.adam(0.1)), gx.identity(), gx.param_groups({"*": gx.sgd(0.1)})):
        assert isinstance(tx, optax.GradientTransformation)
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
        assert isinstance(tx, tuple)
        init, update = tx
        p = params()
        updates, _ = update(grad(p), init(p), p, anything=1)
        assert jax.tree.structure(updates) == jax.tree.structure(p)
        assert optax.with_extra_args_support(tx) is tx


def test_extra_arguments_pass_through_ours_in_both_directions() -> None:
    for lib in (gx, optax):
        tx = lib.chain(gx.masked(optax.polyak_sgd(f_min=0.0), "*"), lib.scale(1.0))
        p = params()
        updates, _ = tx.update(grad(p), tx.init(p), p, value=loss(p), other="ignored")
        step = float(loss(p) / optax.tree.norm(grad(p), squared=True))
        np.testing.assert_allclose(updates["w"], -grad(p)["w"] * min(1.0, step), rtol=1e-5)


# ---------------------------------------------------------------------------------------- under jax's transformations

RECIPE = gx.chain(
    gx.clip_by_global_norm(1.0),
    gx.scale_by_adam(),
    gx.add_decayed_weights(1e-3, mask=gx.matrices()),
    gx.warmup_cosine(0.2, 3, 100),
)


def test_init_under_jit_and_on_shapes() -> None:
    p = params()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), p)
    eager = RECIPE.init(p)
    assert_close(jax.jit(RECIPE.init)(p), eager)
    for abstract in (jax.eval_shape(RECIPE.init, p), jax.eval_shape(RECIPE.init, shapes)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(
            lambda x: (x.shape, x.dtype), eager
        )
    state = RECIPE.init(shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), eager
    )


def test_pmap_with_replicated_state() -> None:
    """`pmap` is what older training loops run on: parameters and state are copies along a leading device axis."""
    count = jax.local_device_count()
    assert count == 8
    p = params()
    stack = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * count), tree)  # noqa: E731

    def step(p: Any, state: Any, scale: Any) -> Any:
        g = jax.lax.pmean(jax.tree.map(lambda g: g * scale, grad(p)), "batch")
        updates, state = RECIPE.update(g, state, p)
        return gx.apply_updates(p, updates), state

    scales = jnp.arange(count, dtype=jnp.float32) / 3.5  # the mean is 1
    many, states = stack(p), jax.pmap(RECIPE.init)(stack(p))
    one, state = p, RECIPE.init(p)
    mapped = jax.pmap(step, axis_name="batch")
    for _ in range(5):
        many, states = mapped(many, states, scales)
        updates, state = RECIPE.update(grad(one), state, one)
        one = gx.apply_updates(one, updates)
    assert_close(jax.tree.map(lambda x: x[0], many), one, rtol=1e-5)
    assert_close(
        jax.tree.map(lambda x: x[-1], (many, states)),
        jax.tree.map(lambda x: x[0], (many, states)),
        rtol=0,
        atol=0,
    )
    assert states[1].count.shape == (count,)


def test_lookahead_stands_outermost() -> None:
    with optax_s_own():
        tx = gx.guard(optax.lookahead(optax.sgd(0.1), 2, 0.5))
        pair = optax.LookaheadParams.init_synced({"w": jnp.ones(2)})
        state = tx.init(pair)
        with pytest.raises(ValueError, match=r"LookaheadParams pair.*\n.*outermost"):
            tx.update(pair.fast, state, pair)
