"""Chains: addresses, state layout, schedules as links, and what a chain refuses."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

PARAMS = {"w": jnp.asarray([[3.0, 4.0]]), "b": jnp.asarray([12.0])}
GRADS = jax.tree.map(lambda p: p, PARAMS)  # the norm is 13


def addresses(tx: Any) -> list[str]:
    return [link.address for link in tx.plan.links]


def run(tx: Any, grads: Any = None, params: Any = None, steps: int = 1) -> tuple[Any, Any]:
    params = PARAMS if params is None else params
    state = tx.init(params)
    updates: Any = None
    for _ in range(steps):
        updates, state = tx.update(GRADS if grads is None else grads, state, params)
    return updates, state


def same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-5)  # Optax loses digits of 1 - b2
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype


# ---------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: gx.chain(), []),
        (lambda: gx.chain(gx.scale_by_adam(), gx.scale_by_adam()), ["adam", "adam_1"]),
        (lambda: gx.chain(gx.clip(1.0), gx.clip_by_global_norm(1.0), gx.clip(2.0)), ["clip", "clip_1", "clip_2"]),
        (lambda: gx.chain(gx.chain(gx.clip(1.0)), gx.chain(gx.clip(1.0), gx.scale(2.0))), ["clip", "clip_1", "scale"]),
        (lambda: gx.chain(gx.clip(1.0), gx.adamw(0.1)), ["clip", "adamw/adam", "adamw/decay", "adamw/rate"]),
        (lambda: gx.chain(gx.masked(gx.adam(1.0), "w"), gx.freeze("b")), ["adam/adam", "adam/rate", "freeze"]),
        (lambda: gx.named_chain(("one", gx.scale_by_adam()), ("two", gx.adam(0.1))), ["one", "two/adam", "two/rate"]),
        (lambda: gx.chain(optax.scale_by_adam(), gx.clip(1.0), optax.scale_by_adam()), ["adam", "clip", "adam_1"]),
        (lambda: gx.adamw(0.1, mask="w"), ["adam", "decay", "rate"]),
    ],
)  # fmt: skip
def test_links_have_addresses(make: Callable[[], Any], wanted: list[str]) -> None:
    assert addresses(make()) == wanted


def test_addresses_differ_in_a_large_chain() -> None:
    tx = gx.chain(
        gx.chain(gx.adam(0.1), gx.scale_by_adam()),
        gx.param_groups({"w": gx.chain(gx.scale_by_adam(), gx.scale_by_adam()), "*": gx.scale_by_lion()}),
    )
    assert len(set(addresses(tx))) == len(addresses(tx)) == 6


# ---------------------------------------------------------------------------------------- layout

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda lib: lib.sgd(0.1),
    "sgd, momentum": lambda lib: lib.sgd(0.1, momentum=0.9),
    "sgd, schedule": lambda lib: lib.sgd(lib.linear_schedule(0.1, 0.0, 10), 0.9, True),
    "adam": lambda lib: lib.adam(0.1),
    "adamw": lambda lib: lib.adamw(0.1),
    "adamw, mask": lambda lib: lib.adamw(lib.linear_schedule(0.1, 0.0, 10), mask={"w": True, "b": False}),
    "nadamw": lambda lib: lib.nadamw(0.1),
    "lion": lambda lib: lib.lion(0.1),
    "nested": lambda lib: lib.chain(lib.clip(1.0), lib.chain(lib.chain(lib.trace(0.5)), lib.scale(1.0))),
    "masked": lambda lib: lib.chain(lib.masked(lib.adam(0.1), {"w": False, "b": True}), lib.identity()),
    "masked in masked": lambda lib: lib.masked(
        lib.masked(lib.trace(0.9), {"w": True, "b": optax.MaskedNode()}), {"w": True, "b": False}
    ),
    "mask of a chain": lambda lib: lib.masked(lib.chain(lib.clip(1.0), lib.trace(0.9)), {"w": True, "b": False}),
    "mask by function": lambda lib: lib.masked(lib.scale_by_adam(), lambda p: jax.tree.map(lambda x: x.ndim == 2, p)),
    "named": lambda lib: lib.named_chain(("z", lib.trace(0.9)), ("a", lib.chain(lib.scale_by_adam(), lib.scale(0.5)))),
    "freeze": lambda lib: lib.chain(lib.scale_by_adam(), lib.freeze({"w": True, "b": False})),
    "decay on a schedule": lambda lib: lib.chain(lib.add_decayed_weights(lib.linear_schedule(0.1, 0.0, 10))),
    "one": lambda lib: lib.chain(lib.scale_by_lion()),
    "small links": lambda lib: lib.chain(
        lib.clip(5.0), lib.clip_by_block_rms(3.0), lib.adaptive_grad_clip(0.5), lib.scale_by_sign(), lib.set_to_zero()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_state_and_updates_are_optax_s(name: str) -> None:
    ours = run(LAYOUTS[name](gx), steps=2)
    with jax.numpy_dtype_promotion("standard"):  # Optax's formulas promote
        theirs = run(LAYOUTS[name](optax), steps=2)
    same(ours, theirs)
    assert type(ours[1]) is type(theirs[1])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_state_of_optax_goes_on_here(name: str) -> None:
    tx = LAYOUTS[name](gx)
    with jax.numpy_dtype_promotion("standard"):  # Optax's formulas promote
        theirs = LAYOUTS[name](optax)
        _, state = run(theirs)
        wanted = theirs.update(GRADS, state, PARAMS)
    same(tx.update(GRADS, state, PARAMS), wanted)


# ---------------------------------------------------------------------------------------- what a chain is


def test_no_link_is_the_identity() -> None:
    tx = gx.chain()
    assert tx.init(PARAMS) == ()
    grads = {"w": jnp.ones((1, 2)), "b": None, "n": jnp.arange(3)}
    updates, state = tx.update(grads, (), None)
    assert state == ()
    assert updates["b"] is None
    assert updates["n"].dtype == jnp.int32
    same(updates["w"], grads["w"])
    assert gx.chain() == gx.chain()
    assert repr(gx.chain()) == "gx.chain()"
    same(run(gx.chain(gx.chain(), gx.scale(2.0), gx.chain()))[0], run(gx.scale(2.0))[0])


def test_a_chain_of_one_is_that_one() -> None:
    same(run(gx.chain(gx.adamw(0.1)))[0], run(gx.adamw(0.1))[0])
    assert jax.tree.structure(gx.chain(gx.adamw(0.1)).init(PARAMS)) == jax.tree.structure(
        (gx.adamw(0.1).init(PARAMS),)
    )


def test_links_see_what_the_one_before_them_made() -> None:
    """A clip behind `scale(10)` clips ten times the gradient, not the gradient."""
    updates, _ = run(gx.chain(gx.scale(10.0), gx.clip_by_global_norm(26.0), gx.scale(0.5)))
    np.testing.assert_allclose(updates["b"], [12.0], rtol=1e-6)  # 130 -> 26 -> 13
    updates, _ = run(gx.chain(gx.clip_by_global_norm(26.0), gx.scale(10.0)))
    np.testing.assert_allclose(updates["b"], [120.0], rtol=1e-6)
    updates, _ = run(gx.chain(gx.clip_by_global_norm(6.5), gx.scale(4.0), gx.clip_by_global_norm(13.0)))
    np.testing.assert_allclose(updates["b"], [12.0], rtol=1e-6)  # 6.5 -> 26 -> 13


# ---------------------------------------------------------------------------------------- schedules as links


def test_a_schedule_as_a_link_is_the_learning_rate() -> None:
    schedule = gx.warmup_cosine(3e-4, 1000, 20000)
    visible = gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(),
        gx.add_decayed_weights(0.1, mask=gx.matrices()),
        schedule,
    )
    spelled = gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(),
        gx.add_decayed_weights(0.1, mask=gx.matrices()),
        gx.scale_by_learning_rate(schedule),
    )
    assert addresses(visible) == ["clip", "adam", "decay", "rate"]
    assert repr(visible).endswith("gx.warmup_cosine(0.0003, 1000, 20000))")
    same(run(visible, steps=3), run(spelled, steps=3))
    recipe = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(schedule, weight_decay=0.1, mask=gx.matrices()))
    same(run(visible, steps=3)[0], run(recipe, steps=3)[0])


def test_a_schedule_as_a_link_goes_downhill() -> None:
    updates, state = run(gx.chain(gx.constant_schedule(0.5)), steps=2)
    np.testing.assert_array_equal(updates["b"], [-6.0])
    assert int(state[0].count) == 2
    assert isinstance(state[0], optax.ScaleByScheduleState)


def test_a_schedule_as_a_named_link_too() -> None:
    tx = gx.named_chain(("adam", gx.scale_by_adam()), ("rate", gx.linear_schedule(0.1, 0.0, 10)))
    same(run(tx, steps=2)[0], run(gx.adam(gx.linear_schedule(0.1, 0.0, 10)), steps=2)[0])


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ((gx.adamw,), "call it"),
        ((gx.clip(1.0), gx.scale_by_adam), "link 1.*scale_by_adam.*call it"),
        ((lambda count: 0.1,), "scale_by_learning_rate"),
        ((optax.linear_schedule(0.1, 0.0, 10),), "scale_by_learning_rate"),
        ((gx.warmup_cosine,), "call it"),
        ((0.1,), "gx.scale"),
        ((None,), "gx.identity"),
        (("adam",), "str"),
        (([gx.adam(0.1)],), "list"),
        ((gx.matrices(),), "."),
        ((optax.GradientTransformation,), "."),
        (({"w": jnp.ones(1)},), "dict"),
    ],
)
def test_what_is_no_transform_is_refused(links: tuple[Any, ...], words: str) -> None:
    with pytest.raises(TypeError, match=f"(?s)gx.chain.*{words}") as caught:
        gx.chain(*links)
    assert len(str(caught.value).splitlines()) <= 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: gx.chain(gx.adamw(0.1), gx.warmup_cosine(0.1, 1, 10)),
        lambda: gx.chain(gx.scale_by_learning_rate(0.1), gx.scale_by_learning_rate(0.1)),
        lambda: gx.chain(gx.chain(gx.sgd(0.1)), gx.clip(1.0), gx.chain(gx.chain(gx.lion(0.1)))),
        lambda: gx.named_chain(("a", gx.sgd(0.1)), ("b", gx.constant_schedule(0.1))),
        lambda: gx.chain(gx.param_groups({"*": gx.adam(0.1)}), gx.constant_schedule(0.1)),
        lambda: gx.chain(gx.per_layer(gx.sgd(0.1), "w"), gx.constant_schedule(0.1)),
    ],
)
def test_a_learning_rate_applied_twice_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="learning rate is applied 2 times"):
        make()


def test_rates_on_different_leaves_are_not_twice() -> None:
    gx.chain(gx.masked(gx.sgd(0.1), "w"), gx.masked(gx.sgd(0.2), "b"))
    gx.param_groups({"w": gx.sgd(0.1), "*": gx.adam(0.1)})


def test_named_chains_want_names() -> None:
    with pytest.raises(ValueError, match="unique names"):
        gx.named_chain(("a", gx.clip(1.0)), ("a", gx.clip(1.0)))
    with pytest.raises(TypeError, match="argument 0"):
        gx.named_chain(gx.clip(1.0))
    with pytest.raises(TypeError, match="argument 1"):
        gx.named_chain(("a", gx.clip(1.0)), (1, gx.clip(1.0)))


def test_a_named_chain_keeps_its_names() -> None:
    tx = gx.named_chain(("z", gx.trace(0.9)), ("a", gx.adam(0.1)))
    state = tx.init(PARAMS)
    assert isinstance(state, collections.OrderedDict)
    assert list(state) == ["z", "a"]
    updates, after = tx.update(GRADS, state, PARAMS)
    assert list(after) == ["z", "a"]
    as_dict = {"a": state["a"], "z": state["z"]}  # what flax.serialization brings back
    same(tx.update(GRADS, as_dict, PARAMS)[0], updates)
    with pytest.raises(ValueError, match="z"):
        tx.update(GRADS, {"z": state["z"]}, PARAMS)


def test_the_state_of_another_chain_is_refused() -> None:
    tx = gx.chain(gx.clip(1.0), gx.adam(0.1))
    state = tx.init(PARAMS)
    for wrong in ((*state, optax.EmptyState()), state[:1], (), None, state[1], gx.adam(0.1).init(PARAMS)):
        with pytest.raises(ValueError, match="wanted"):
            tx.update(GRADS, wrong, PARAMS)
