"""`diagnose` on runs made sick on purpose: each rule finds its fault, names the figure, and finds nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from tests.diagnostics.sick_runs import batches, loss_of, rules, start, train


def only(history: Any, rule: str, tx: Any = None) -> Any:
    """The one finding, after a look that there is no other."""
    findings = gx.diagnose(history, tx).findings
    assert [finding.rule for finding in findings] == [rule]
    return findings[0]


def test_a_diverging_loss_that_stays_finite():
    history = train(gx.sgd(1.3), 12, size=0)
    found = only(history, "loss-diverges")
    assert found.step == 11
    assert found.figure > found.threshold > history["loss"][0]
    assert "divide the learning rate" in found.change


@pytest.mark.parametrize(
    ("rate", "steps"), [(0.5, 200), (1.0, 300)], ids=["thrown away at first", "up and down for long"]
)
def test_early_oscillation_of_adam(rate: float, steps: int):
    found = only(train(gx.adam(rate), steps), "early-oscillation")
    assert found.step is not None
    assert found.step < steps // 4
    assert "2 to 10" in found.change


def test_early_oscillation_of_momentum():
    assert "early-oscillation" in rules(train(gx.sgd(0.5, momentum=0.95), size=0))


def test_a_loss_that_turns_at_every_step_and_noise_that_does_not():
    swing = [
        {"loss": 1.0 + 0.3 * (-1) ** i * 0.99**i} for i in range(60)
    ]  # gradient descent at the edge of a parabola
    assert rules(swing) == ["early-oscillation"]
    random = np.random.default_rng(0)
    assert not any(rules({"loss": np.exp(random.normal(size=300))}) for _ in range(50))


def test_updates_that_bfloat16_rounds_away():
    found = only(train(gx.probe(gx.sgd(1e-4)), 100, dtype=jnp.bfloat16), "weights-do-not-move")
    assert found.figure > 0.5
    assert not rules(train(gx.probe(gx.sgd(1e-4)), 100))


def test_exact_weights_behind_them_are_what_the_rule_asks_for():
    history = train(gx.probe(gx.sgd(1e-4)), 100, dtype=jnp.bfloat16)
    assert not rules(history, gx.lowbit.exact_master(gx.sgd(1e-4)))


@pytest.mark.parametrize("decay", [3.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_a_decay_that_eats_the_weights(decay: float):
    found = only(train(gx.probe(gx.adamw(1e-2, weight_decay=decay))), "decay-too-strong")
    assert found.reading.startswith("decay/")
    assert found.figure > 1.5


def separable(params: Any, x: Any, y: Any) -> Any:
    """Logistic loss of the sign of the sum of the inputs: the larger the weights, the smaller."""
    del y
    margin = jnp.sign(x.sum(-1)) * (x @ params["layer_0"]["kernel"]).sum(-1)
    return jnp.mean(jnp.logaddexp(jnp.float32(0), -margin))


def test_a_decay_too_weak_to_hold_weights_that_grow():
    tx = gx.probe(gx.lion(0.02, weight_decay=1e-5))
    assert "decay-too-weak" in rules(train(tx, 600, size=0, loss=separable))


def test_a_clip_that_acts_at_every_step():
    tx = gx.probe(gx.chain(gx.clip_by_global_norm(1e-3), gx.sgd(1.0)))
    found = only(train(tx, 100), "clip-always-on")
    assert found.figure == 1
    assert found.reading == "clip/clipped"


def spiked() -> Any:
    x, y = batches(0, 200, 16, 0.1)
    return x, y.at[120].mul(1000.0)


def test_a_spike_and_a_clip_that_takes_it():
    found, after = gx.diagnose(train(gx.probe(gx.adam(1e-2)), data=spiked())).findings
    assert (found.rule, found.step) == ("gradient-spikes", 120)
    assert (after.rule, after.step) == ("loss-rises-again", 199)  # the spike has cost what was won
    tx = gx.probe(gx.chain(gx.clip_by_global_norm(20.0), gx.adam(1e-2)))
    assert not rules(train(tx, data=spiked()))


def test_leaves_that_the_transform_holds_and_leaves_without_a_gradient():
    def cut(params: Any, x: Any, y: Any) -> Any:
        return loss_of({**params, "layer_0": jax.lax.stop_gradient(params["layer_0"])}, x, y)

    masked = train(gx.probe(gx.chain(gx.adam(1e-2), gx.freeze("layer_0/*"))), 100, leaves=True)
    found = only(masked, "frozen-by-accident")
    assert "'layer_0/bias', 'layer_0/kernel' do not move" in found.what
    assert "the transform holds it back" in found.why
    assert not rules(masked, frozen="layer_0/*")
    dead = only(train(gx.probe(gx.adam(1e-2)), 100, leaves=True, loss=cut), "frozen-by-accident")
    assert "the loss does not depend on it" in dead.why
    assert "no leaf moves" in only(train(gx.probe(gx.adam(0.0)), 100), "frozen-by-accident").what


def nan_at_zero(params: Any, x: Any, y: Any) -> Any:
    return loss_of(params, x, y) + jnp.sqrt(jnp.sum(params["layer_1"]["bias"] ** 2))


def test_nan_is_traced_to_the_leaf():
    found = only(train(gx.probe(gx.adam(1e-2)), 50, leaves=True, loss=nan_at_zero), "not-finite")
    assert found.reading == "layer_1/bias/grad_norm"
    assert found.step == 0
    assert "backward pass" in found.change


def test_nan_is_traced_to_the_link():
    root = optax.stateless(lambda u, _: jax.tree.map(lambda g: jnp.sqrt(g), u))
    found = only(train(gx.probe(gx.chain(gx.clip_by_global_norm(1e3), root, gx.sgd(1e-2))), 50), "not-finite")
    assert found.step == 0
    assert "takes finite numbers and gives others" in found.what
    assert "clip" not in found.reading


def test_a_guarded_run_is_not_told_to_guard_itself():
    x, y = batches(0, 200, 16, 0.1)
    found = only(
        train(gx.probe(gx.guard(gx.adam(1e-2))), data=(x.at[77, 0, 0].set(jnp.inf), y)), "not-finite"
    )
    assert found.step == 77
    assert "look at the batch" in found.change


def test_nan_in_the_loss_alone_says_what_to_log():
    found = only(train(gx.adam(1e-2), 50, loss=nan_at_zero), "not-finite")
    assert found.step == 1
    assert "gx.probe" in found.change


def by_hand(first: bool, second: bool) -> optax.GradientTransformation:
    """Adam as people write it, with either correction left out."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        g, s = updates, state
        count = s.count + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, s.mu, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, s.nu, g)
        one, two = (1 - b**count if on else 1 for b, on in ((0.9, first), (0.999, second)))
        u = jax.tree.map(lambda m, v: (m / one) / (jnp.sqrt(v / two) + 1e-8), m, v)
        return u, optax.ScaleByAdamState(count, m, v)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


@pytest.mark.parametrize(
    ("first", "second", "words"), [(False, False, "too large"), (False, True, "too small")]
)
def test_moments_that_are_not_corrected(first: bool, second: bool, words: str):
    tx = gx.probe(gx.chain(by_hand(first, second), gx.scale_by_learning_rate(1e-3)))
    assert words in only(train(tx, 100, leaves=True), "no-bias-correction", tx).what


@pytest.mark.parametrize(
    "tx", [gx.adam(1e-3), gx.chain(by_hand(True, True), gx.scale_by_learning_rate(1e-3))]
)
def test_moments_that_are_corrected(tx: Any):
    tx = gx.probe(tx)
    history = train(tx, 100, leaves=True)
    assert "no-bias-correction" in gx.diagnose(history, tx).tried
    assert not rules(history, tx)


def test_the_thirtyfold_step_without_a_momentum():
    tx = gx.probe(gx.chain(gx.scale_by_rms(0.999), gx.scale_by_learning_rate(1e-4)))
    history = train(tx, 100, leaves=True)
    assert history["rms/norm_out"][0] == pytest.approx(1000**0.5 * history["parameters"][0] ** 0.5, rel=0.05)
    assert "no-bias-correction" in rules(history, tx)


def test_a_second_moment_that_bfloat16_holds_still():
    history = train(gx.probe(gx.adam(1e-2, nu_dtype=jnp.bfloat16)), 400, leaves=True)
    found = only(history, "second-moment-stalled")
    assert found.figure > found.threshold == 20
    assert not rules(train(gx.probe(gx.adam(1e-2)), 400, leaves=True))


L2 = {
    "ours": gx.adam_l2(1e-3),
    "a chain": gx.chain(gx.clip_by_global_norm(1.0), gx.add_decayed_weights(0.1), gx.scale_by_rms()),
    "in a wrapper": gx.guard(gx.probe(gx.adam_l2(1e-3))),
    "in a group": gx.param_groups({"a*": gx.adam_l2(0.1), "*": gx.sgd(0.1)}),
    "optax": optax.chain(
        optax.add_decayed_weights(0.1), optax.adam(optax.warmup_cosine_decay_schedule(0, 0.1, 5, 9))
    ),
    "both": gx.chain(gx.add_decayed_weights(0.1), optax.adam(0.1)),
}
DECOUPLED = {
    "ours": gx.adamw(1e-3),
    "sgd, where it is the same": gx.chain(gx.add_decayed_weights(0.1), gx.sgd(0.1)),
    "a decay of 0": gx.chain(gx.add_decayed_weights(0.0), gx.scale_by_adam()),
    "in another group": gx.param_groups(
        {"a*": gx.chain(gx.add_decayed_weights(0.1), gx.sgd(0.1)), "*": gx.adam(0.1)}
    ),
    "optax": optax.adamw(0.1),
    "optax, none": optax.adadelta(0.1),
    "lamb": optax.lamb(0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", L2)
def test_l2_through_the_second_moment(name: str):
    found = only([], "adam-with-l2", L2[name])
    assert found.step is None
    assert "gx.adamw" in found.change


@pytest.mark.parametrize("name", DECOUPLED)
def test_a_decoupled_decay_is_not_l2(name: str):
    assert not rules([], DECOUPLED[name])


def test_leaf_readings_of_states_in_few_bits():
    params = start()
    plain, low = gx.adam(1e-3), gx.lowbit.quantized(gx.adam(1e-3))
    norms: list[float] = []
    for tx in (plain, low):
        _, state = tx.update(params, tx.init(params), params)
        norms.append(float(gx.leaf_readings(state=state)["layer_0/kernel/second_moment"]))
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
