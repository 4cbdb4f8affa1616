"""Which numbers `tunable` finds under which names, and what it says of those that cannot be moved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(3)}
GRADS = {"w": jnp.linspace(0.1, 3.0, 12).reshape(4, 3), "b": jnp.full(3, -0.3)}


CHAIN = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
GROUPS = gx.param_groups({"b": gx.sgd(0.1, 0.9), "*": gx.adamw(1e-3)})
COSINE = gx.adamw(gx.warmup_cosine(1e-3, 10, 100))


def numbers_of(tx: Any) -> Any:
    """What a tunable holds."""
    return tx.body.numbers


FOUND = [
    (gx.adamw(1e-3), "learning_rate", "learning_rate"),
    (gx.adamw(1e-3), "adam/b1", "b1"),
    (CHAIN, "learning_rate", "adamw/learning_rate"),
    (CHAIN, "adamw/learning_rate", "adamw/learning_rate"),
    (CHAIN, "adamw/rate/learning_rate", "adamw/learning_rate"),
    (CHAIN, "clip/max_norm", "clip/max_norm"),
    (CHAIN, "max_norm", "clip/max_norm"),
    (COSINE, "learning_rate/peak_value", "learning_rate/peak_value"),
    (COSINE, "end_value", "learning_rate/end_value"),
    (GROUPS, "[b]/sgd/learning_rate", "[b]/sgd/learning_rate"),
    (GROUPS, "[*]/learning_rate", "[*]/adamw/learning_rate"),
    (GROUPS, "sgd/momentum", "[b]/sgd/momentum"),
    (gx.named_chain(("go", gx.sgd(0.1)), ("stop", gx.clip(1.0))), "go/learning_rate", "go/learning_rate"),
    (
        gx.chain(gx.scale_by_adam(), gx.warmup_cosine(0.1, 1, 9)),
        "peak_value",
        "rate/learning_rate/peak_value",
    ),
    (gx.chain(gx.scale(0.5), gx.clip(1.0), gx.scale(2.0)), "scale_1/step_size", "scale_1/step_size"),
    (gx.chain(gx.chain(gx.scale(0.5)), gx.scale(2.0)), "scale_1/step_size", "scale_1/step_size"),
    (gx.guard(gx.masked(gx.sgd(0.1), "w")), "learning_rate", "learning_rate"),
    (gx.chain(optax.clip(1.0), gx.sgd(0.1)), "sgd/learning_rate", "sgd/learning_rate"),
    (
        gx.sgd(gx.join_schedules([gx.constant_schedule(0.1), gx.constant_schedule(0.2)], [5])),
        "schedules/1/value",
        "learning_rate/schedules/1/value",
    ),
]


@pytest.mark.parametrize(("tx", "name", "path"), FOUND, ids=[name for _, name, _ in FOUND])
def test_names(tx: Any, name: str, path: str) -> None:
    tuned = gx.tunable(tx, name)
    assert numbers_of(tuned)[name].place.path == path
    assert list(tuned.init(PARAMS).hyperparams) == [name], "under the name as it was written"


REFUSED: list[tuple[str, Any, tuple[Any, ...], str]] = [
    ("nothing", gx.adamw(1e-3), (), r"name what is to be tuned; there is 'learning_rate', 'b1', 'b2', 'eps', "),
    ("unknown", gx.adamw(1e-3), ("b3",), r"there is no 'b3'; what can be tuned: 'learning_rate', 'b1', 'b2'"),
    ("near", gx.adamw(1e-3), ("lerning_rate",), r"did you mean 'learning_rate'\?"),
    ("near, deep", CHAIN, ("max_nrom",), r"did you mean 'clip/max_norm'\?"),
    ("several", GROUPS, ("learning_rate",), r"may be '\[b\]/sgd/learning_rate', '\[\*\]/adamw/learning_rate'"),
    ("wrong link", gx.adamw(1e-3), ("lion/b1",), r"there is no 'lion/b1'; did you mean 'b1'\?"),
    ("schedule", COSINE, ("learning_rate",), r"is a schedule, which would overwrite what is set\n  inside of it there "
     r"are 'learning_rate/peak_value', 'learning_rate/init_value', .*; gx.get_hyperparams reads its value"),
    ("function", gx.sgd(lambda count: 0.1), ("learning_rate",), r"is a schedule, .*\n  gx.get_hyperparams reads"),
    ("flag", gx.adamw(1e-3), ("nesterov",), r"gx.adamw\(nesterov=False\) is a boolean, wanted a number"),
    ("none", gx.sgd(0.1), ("momentum",), r"gx.sgd\(momentum=None\): there is no number to begin with"),
    ("string", gx.guard(gx.sgd(0.1)), ("nonfinite",), r"is a string, wanted a number"),
    ("wrong link, window", gx.guard(gx.sgd(0.1)), ("sgd/window",), r"there is no 'sgd/window'"),
    ("window", gx.guard(gx.sgd(0.1)), ("window",), r"gx.guard\(window=128\) shapes the program .*\n.*whole number"),
    ("steps", COSINE, ("total_steps",), r"gx.warmup_cosine\(total_steps=100\) shapes the program"),
    ("size", gx.adafactor(0.1), ("min_dim_size_to_factor",), r"min_dim_size_to_factor=128\) shapes the program"),
    ("at the start", gx.adagrad(0.1), ("initial_accumulator_value",), r"is read by init only, so that setting it "),
    ("twice", gx.adamw(1e-3), ("b1", "b1"), r"'b1' is named twice"),
    ("the same", gx.adamw(1e-3), ("b1", "adam/b1"), r"'b1' and 'adam/b1' are the same number, 'b1'"),
    ("taken", gx.tunable(gx.adamw(1e-3), "b1"), ("b1",), r"is in the state already, by the tunable inside"),
    ("optax", optax.adamw(1e-3), ("learning_rate",), r"without a spec.*\n  its twin is gx.adamw or gx.nadamw"),
    ("optax, scheduled", optax.adamw(lambda c: 0.1), ("learning_rate",), r"its twin is gx.adamw or"),
    ("optax's link", optax.scale_by_adam(), ("b1",), r"its twin is gx.scale_by_adam$"),
    ("optax in a chain", gx.chain(optax.scale_by_adam(), gx.scale_by_learning_rate(0.1)), ("b1",),
     r"the link 'adam' is a pair of functions .*\n  its twin is gx.scale_by_adam; what can be tuned: 'rate/learning_"),
    ("optax's chain", optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), ("b1",),
     r"its twin is gx.chain\(gx.clip_by_global_norm\(...\), gx.scale_by_adam\(...\), gx.scale\(...\)\)"),
    ("injected", optax.inject_hyperparams(optax.adam)(0.1), ("b1",), r"its state holds them already: gx.set_hyperp"),
    ("by hand", gx.GradientTransformation(lambda p: (), lambda g, s, p=None: (g, s)), ("learning_rate",),
     r"pair of functions without a spec"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tx", "names", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refusals(tx: Any, names: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        gx.tunable(tx, *names)
    assert len(str(caught.value).splitlines()) <= 5
    assert str(caught.value).startswith("gx.tunable(tx")


def test_types_are_refused() -> None:
    with pytest.raises(TypeError, match="a name is a string, got an int"):
        gx.tunable(gx.adamw(1e-3), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wanted a transform"):
        gx.tunable(0.1, "learning_rate")


def test_a_state_with_other_names_is_refused() -> None:
    state = gx.tunable(gx.adamw(1e-3), "b1").init(PARAMS)
    with pytest.raises(ValueError, match=r"wanted a state with 'b2', got 'b1'"):
        gx.tunable(gx.adamw(1e-3), "b2").update(GRADS, state, PARAMS)


# ------------------------------------------------------------------------------------------------ factories of others


@build.factory(sample={"rate": 0.1})
def warm_sgd(rate: Any, share: Any = 0.5) -> Any:
    """Arithmetic with arguments, as people write it."""
    return gx.chain(gx.trace(1 - share), gx.scale_by_learning_rate(rate * share))


@build.factory(sample={"rate": 0.1})
def boxed_optax(rate: Any) -> Any:
    return optax.chain(optax.scale_by_adam(), optax.scale(-rate))


@build.factory(sample={"limit": 0.0})
def clipped_sgd(limit: Any) -> Any:
    """One link less for 0."""
    return gx.chain(*([] if limit == 0 else [gx.clip(limit)]), gx.sgd(0.1))


def test_a_number_at_which_the_transform_is_another() -> None:
    with pytest.raises(ValueError, match=r"clipped_sgd\(limit=0.0\) the transform has other links"):
        gx.tunable(clipped_sgd(0.0), "limit")
    tx = gx.tunable(clipped_sgd(1.0), "limit")
    updates, _ = tx.update(GRADS, gx.set_hyperparams(tx.init(PARAMS), limit=0.0), PARAMS)
    assert float(jnp.max(jnp.abs(updates["w"]))) == 0.0


@build.schedule(sample={"top": 1.0})
def reciprocal(top: Any) -> Any:
    return lambda count: top / (jnp.asarray(count, jnp.float32) + 1)


def assert_close(got: Any, wanted: Any) -> None:
    """Within 2 units in the last place."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.max(np.abs(x - y) / np.spacing(np.abs(np.asarray(y)))) <= 2


def test_factories_of_others_need_not_know_of_it() -> None:
    """A pair of words goes where it is understood; arithmetic in a factory, a schedule or Optax gets an array."""
    for tx, name, new, built in (
        (warm_sgd(0.1), "share", 0.25, warm_sgd(0.1, 0.25)),
        (warm_sgd(0.1), "rate", 0.3, warm_sgd(0.3)),
        (boxed_optax(0.1), "rate", 0.3, boxed_optax(0.3)),
        (gx.sgd(reciprocal(0.1)), "top", 0.3, gx.sgd(reciprocal(0.3))),
    ):
        tuned = gx.tunable(tx, name)
        assert not numbers_of(tuned)[name].exact
        updates, state = tuned.update(GRADS, tuned.init(PARAMS), PARAMS)
        assert_close(updates, tx.update(GRADS, tx.init(PARAMS), PARAMS)[0])
        state = gx.set_hyperparams(tuned.init(PARAMS), {name: new})
        updates, _ = jax.jit(tuned.update)(GRADS, state, PARAMS)
        assert_close(updates, built.update(GRADS, built.init(PARAMS), PARAMS)[0])
