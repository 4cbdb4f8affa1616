"""`diagnose` on faults of other kinds of runs: the second half of a run, other models, other ways to go wrong."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from tests.diagnostics.other_runs import (
    classes,
    classes_loss,
    dense,
    line,
    line_loss,
    line_start,
    run,
    words,
    words_loss,
    words_start,
)
from tests.diagnostics.sick_runs import rules, train


def deep(tx: Any, steps: int = 200, edit: Any = None, data: Any = None, loss: Any = classes_loss) -> Any:
    """A network of three layers on ten classes."""
    return run(tx, loss, dense(0, 16, 32, 32, 10), classes(0, steps, 32) if data is None else data, edit)


def found(history: Any, rule: str, tx: Any = None) -> Any:
    (finding,) = [finding for finding in gx.diagnose(history, tx).findings if finding.rule == rule]
    return finding


# ---------------------------------------------------------------------------------------------- rough to the end


@pytest.mark.parametrize(
    ("tx", "reading"),
    [
        (gx.muon(3.0), "cosine"),
        pytest.param(gx.lion(1.0), "loss", marks=pytest.mark.slow),
        (gx.rmsprop(0.5), "loss from step to step, correlation"),
    ],
    ids=["muon", "lion", "rmsprop"],
)
def test_weights_that_jump_about_to_the_end(tx: Any, reading: str):
    history = train(gx.probe(tx), 200)
    finding = found(history, "late-oscillation")
    assert finding.reading == reading
    assert finding.step in range(90, 160)
    assert "3 to 10" in finding.change
    if reading.startswith("loss"):  # two of the four figures need no probe
        assert rules({"loss": history["loss"]}) == ["late-oscillation"]


@pytest.mark.slow
def test_weights_that_jump_about_in_a_model_of_words():
    history = run(gx.adam(1.0), words_loss, words_start(0), words(0, 300, 64))
    assert found(history, "late-oscillation").reading == "cosine"


def test_each_figure_of_a_rough_run_alone():
    random = np.random.default_rng(0)
    loss = np.exp(0.2 * random.normal(size=200))
    quiet = {"cosine": 0.05 * random.normal(size=200), "update_ratio": np.full(200, 1e-3)}
    assert not rules({"loss": loss, **quiet})
    against = {"cosine": quiet["cosine"] - 0.4}
    assert found({"loss": loss, **quiet, **against}, "late-oscillation").reading == "cosine"
    strides = {"update_ratio": np.full(200, 0.2)}
    assert found({"loss": loss, **quiet, **strides}, "late-oscillation").figure == pytest.approx(0.2)
    # It has learned: what it does at the bottom is its own affair.
    assert not rules({"loss": np.r_[20.0, loss[1:]], **quiet, **against, **strides})
    swing = np.exp(0.5 * random.normal(size=100) + 0.6 * (-1.0) ** np.arange(100))
    assert found({"loss": np.r_[loss[:100], swing]}, "late-oscillation").figure < -0.4
    assert not rules({"loss": np.r_[loss[:100], random.permutation(swing)]})  # as rough, without a memory


def test_noise_is_not_rough_whatever_its_size():
    random = np.random.default_rng(1)
    for size in (0.1, 0.5, 1.0, 2.0):
        assert not any(rules({"loss": np.exp(size * random.normal(size=200))}) for _ in range(40))
    assert not any(rules({"loss": random.normal(size=200) ** 2}) for _ in range(100))  # one point a batch


# ---------------------------------------------------------------------------------------------- lost again


def test_what_was_won_and_lost_again():
    rate = lambda t: jnp.where(t < 150, np.float32(0.05), np.float32(2.0))  # noqa: E731
    history = deep(gx.sgd(rate), 200)
    finding = found({"loss": history["loss"]}, "loss-rises-again")
    assert 100 < int(finding.change.split("step ")[1].split(" ")[0]) <= 150
    down = 2.0 * np.exp(-np.arange(300) / 60) + 0.05
    assert rules({"loss": np.r_[down, down[:180:-1]]}) == []  # most of what was won is kept
    assert rules({"loss": np.r_[down, down[::-1]]}) == ["loss-rises-again"]
    random = np.random.default_rng(0)
    assert not any(rules({"loss": down + 0.3 * random.normal(size=300) ** 2}) for _ in range(50))


# ---------------------------------------------------------------------------------------------- standing still


def test_a_schedule_that_ends_long_before_the_run():
    twice = lambda t: gx.linear_schedule(3e-3, 0.0, 200)(2 * t)  # noqa: E731  # counted at two places
    history = deep(gx.adamw(twice))
    finding = found(history, "rate-ends-early")
    assert finding.step == 100
    assert finding.figure == 100
    assert rules({"learning_rate": history["learning_rate"], "loss": history["loss"]}) == ["rate-ends-early"]
    assert rules({"update_norm": history["update_norm"], "loss": history["loss"]}) == ["rate-ends-early"]
    cut = {name: column[:110] for name, column in history.items()}  # a last tenth at 0 is usual
    assert not rules(cut)


def test_a_warmup_longer_than_the_run():
    slow = lambda t: np.float32(3e-9) * t.astype(np.float32)  # noqa: E731
    history = deep(gx.adam(slow), 250)
    finding = found(history, "rate-still-rises")
    assert (finding.reading, finding.step) == ("learning_rate", 249)
    assert finding.figure > finding.threshold
    assert rules({"learning_rate": history["learning_rate"], "loss": history["loss"]}) == ["rate-still-rises"]
    learns = {**history, "loss": history["loss"] * np.linspace(1, 0.5, 250)}
    assert not rules(learns)  # a look into a warmup that works
    arrived = {
        **history,
        "learning_rate": np.minimum(history["learning_rate"], history["learning_rate"][100]),
    }
    assert not rules(arrived)


def test_weights_that_are_carried_away():
    steps = np.arange(300)
    random = np.random.default_rng(0)
    far = {
        "loss": 3 + 0.1 * random.normal(size=300),
        "param_norm": 10 + 0.5 * steps,
        "update_norm": np.full(300, 1.0),
    }
    finding = found(far, "weights-run-away")
    assert (finding.reading, finding.step) == ("param_norm", 60)
    assert not rules({**far, "loss": far["loss"] * np.linspace(1, 0.5, 300)})  # they had to grow
    assert not rules({**far, "param_norm": 0.2 + 0.5 * steps})  # a start at next to nothing
    assert not rules({**far, "param_norm": 10 + 0.05 * steps})
    assert not rules({**far, "update_norm": np.full(300, 0.1)})  # a long way in small steps


def test_a_rate_that_grows_and_carries_the_weights_away():
    grows = lambda t: np.float32(3e-3) * jnp.exp(t.astype(np.float32) / 40)  # noqa: E731
    assert {"rate-still-rises", "weights-run-away"} <= set(rules(deep(gx.adam(grows), 300)))


def test_what_stands_still_for_other_reasons():
    steps = np.arange(200)
    pauses = {"update_norm": (steps % 40 == 0) * 1.0, "grad_norm": np.ones(200)}
    assert not rules(pauses)  # an accumulation of 40
    done = {"update_norm": (steps < 100) * 1.0, "grad_norm": (steps < 100) * 1.0}
    assert not rules(done)  # nothing is left to learn
    assert rules({**done, "grad_norm": np.ones(200)}) == ["rate-ends-early"]
    held = {**done, "grad_norm": np.ones(200), "guard/skipped": np.maximum(steps - 99, 0)}
    assert rules(held) == ["steps-skipped"]


def test_a_guard_that_skips_for_ever():
    x, y = classes(0, 200, 32)
    data = x.at[80:].multiply(60.0), y  # larger gradients for good
    history = deep(gx.guard(gx.adam(3e-3), spike=3.0, window=20), data=data)
    finding = found(history, "steps-skipped")
    assert finding.figure > 0.9
    assert "empty the window" in finding.change
    steps = np.arange(400)
    assert not rules({"loss": np.ones(400), "guard/skipped": steps // 25})  # one in 25
    every = [
        {"step": 10 * i, "loss": 1.0, "guard/skipped": i} for i in range(100)
    ]  # a row stands for 10 steps
    assert not rules(every)
    assert rules([{**row, "guard/skipped": 5 * row["guard/skipped"]} for row in every]) == ["steps-skipped"]


def test_a_gradient_that_dies():
    steps = np.arange(200)
    alive = {"b/grad_norm": np.ones(200), "a/grad_norm": (steps < 90) * 1.0}
    finding = found(alive, "gradient-dies")
    assert (finding.step, finding.reading) == (90, "a/grad_norm")
    assert not rules(alive, frozen="a")
    assert not rules({"a/grad_norm": alive["a/grad_norm"]})  # all of them: it is done
    assert not rules({**alive, "a/grad_norm": (steps % 60 == 0) * 1.0})  # a seldom one
    high = lambda t: jnp.where((t > 60) & (t < 63), np.float32(100.0), np.float32(0.03))  # noqa: E731
    history = run(gx.sgd(high), classes_loss, dense(0, 16, 8, 8, 10), classes(0, 200, 32))
    assert {"gradient-spikes", "gradient-dies"} <= set(rules(history))


# ---------------------------------------------------------------------------------------------- second moments


def in_16_bits(tx: Any, dtype: Any) -> optax.GradientTransformation:
    """A transform whose state is cast by hand."""

    def init(params: Any) -> Any:
        state = tx.init(params)
        return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        updates, new = tx.update(updates, state, params)
        return updates, jax.tree.map(lambda a, b: a.astype(b.dtype), new, state)

    return optax.GradientTransformation(init, update)


def every_fourth(tx: Any) -> Any:
    return optax.MultiSteps(tx, 4).gradient_transformation()


def at_once(tx: Any) -> Any:
    return tx


KEEPS = {
    "amsgrad": (optax.amsgrad(1e-3), at_once),
    "adam": (optax.adam(1e-3), at_once),
    "accumulated": (optax.adam(1e-3), every_fourth),
}


@pytest.mark.parametrize("name", KEEPS)
def test_a_second_moment_in_bfloat16_does_not_fall(name: str):
    tx, around = KEEPS[name]
    finding = found([], "second-moment-keeps", around(in_16_bits(tx, jnp.bfloat16)))
    assert "bfloat16" in finding.what
    assert "float32" in finding.change
    assert not rules([], around(tx))


def test_second_moments_that_fall():
    assert not rules([], in_16_bits(optax.adam(1e-3, b2=0.95), jnp.bfloat16))
    assert not rules([], gx.lowbit.quantized(gx.adam(1e-3)))
    assert not rules([], gx.adagrad(0.1))  # a sum, which never falls
    assert rules([], gx.adam(1e-2, nu_dtype=jnp.bfloat16)) == ["second-moment-keeps"]


@pytest.mark.slow
def test_amsgrad_in_bfloat16_on_words_where_some_weights_always_move():
    tx = in_16_bits(optax.amsgrad(1e-2), jnp.bfloat16)
    history = run(tx, words_loss, words_start(0), words(0, 300, 64))
    assert rules(history, tx) == ["second-moment-keeps"]
    assert not rules(history)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_rmsprop_is_without_correction_as_it_is_meant(decay: float, centered: bool):
    tx = optax.rmsprop(1e-3, decay=decay, centered=centered)
    history = run(tx, line_loss, line_start(), line(0, 60, 16, 0.5))
    diagnosis = gx.diagnose(history, gx.probe(tx))
    assert "no-bias-correction" in diagnosis.tried
    assert not diagnosis.findings


def test_a_first_moment_that_does_not_begin_with_zero_is_no_decay():
    assert not rules([], optax.yogi(1e-2))
    assert rules([], optax.chain(optax.add_decayed_weights(0.1), optax.yogi(1e-2))) == ["adam-with-l2"]
