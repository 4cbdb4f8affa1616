"""`diagnose` on healthy runs: no false alarm, whatever the optimizer, rate, seed, batch, noise and form."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from tests.diagnostics.sick_runs import rows, rules, train


def clipped(steps: int) -> Any:
    """The usual recipe, with a schedule that ends with the run."""
    rate = gx.warmup_cosine(1e-2, 20, steps)
    return gx.chain(gx.clip_by_global_norm(5.0), gx.adamw(rate, weight_decay=0.1, mask=gx.matrices()))


# (transform, or what makes it of the number of steps; arguments of `train`); each is run with two seeds.
QUICK: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (gx.sgd(0.1), {}),
    "adamw with warmup and a clip": (clipped, {}),
    "one point a batch": (gx.adam(3e-3), {"size": 1, "noise": 0.5}),
    "no noise at all": (gx.adam(1e-2), {"size": 0, "noise": 0.0}),
    "bfloat16": (gx.sgd(0.1), {"dtype": jnp.bfloat16}),
}
SLOW: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd, slow": (gx.sgd(1e-2), {}),
    "sgd, one point": (gx.sgd(0.02), {"size": 1, "noise": 1.0}),
    "momentum": (gx.sgd(0.02, momentum=0.9), {}),
    "nesterov": (gx.sgd(0.02, momentum=0.9, nesterov=True), {"noise": 0.5}),
    "adam": (gx.adam(1e-2), {}),
    "adam, slow": (gx.adam(1e-3), {"noise": 1.0}),
    "adamw": (gx.adamw(1e-2, weight_decay=0.1), {}),
    "adamw, b2 0.95": (gx.adamw(1e-2, b2=0.95, weight_decay=0.01), {"size": 4}),
    "nadam": (gx.nadam(1e-3), {}),
    "radam": (gx.radam(1e-2), {}),
    "amsgrad": (gx.amsgrad(1e-2), {}),
    "adan": (gx.adan(1e-2), {}),
    "yogi": (gx.yogi(1e-2), {}),
    "rmsprop": (gx.rmsprop(1e-3), {}),
    "adagrad": (gx.adagrad(0.1), {}),
    "lion": (gx.lion(1e-3), {}),
    "lamb": (gx.lamb(1e-2, weight_decay=0.01), {}),
    "adafactor": (gx.adafactor(1e-2), {}),
    "muon": (gx.muon(1e-2), {}),
    "in 8 bits": (gx.lowbit.quantized(gx.adamw(1e-2)), {}),
    "guarded": (gx.guard(gx.adam(1e-2), spike=6.0), {}),
    "accumulated": (gx.accumulate(gx.adam(1e-2), 32), {}),
    "optax": (optax.adamw(1e-2), {}),
    "one cycle": (lambda steps: gx.adam(gx.cosine_onecycle_schedule(steps, 3e-2)), {}),
    "a rate that ends at 0": (lambda steps: gx.adam(gx.linear_schedule(1e-2, 0.0, steps)), {"noise": 0.5}),
}


def no_alarm(case: tuple[Any, dict[str, Any]], seed: int, steps: int = 200) -> None:
    tx = gx.probe(case[0](steps) if callable(case[0]) else case[0])
    history = train(tx, steps, seed=seed, leaves=True, **case[1])
    diagnosis = gx.diagnose(history, tx)
    assert not diagnosis.findings, str(diagnosis)
    assert len(diagnosis.tried) >= 6


@pytest.mark.parametrize("name", QUICK)
def test_no_alarm(name: str):
    no_alarm(QUICK[name], 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_no_alarm_on_more(name: str, seed: int):
    no_alarm({**QUICK, **SLOW}[name], seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_no_alarm_on_longer_ones(name: str):
    no_alarm({**QUICK, **SLOW}[name], 3, 1000)


@pytest.fixture(scope="module")
def healthy() -> dict[str, np.ndarray]:
    return train(gx.probe(clipped(200)), leaves=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 21, 40])
def test_no_alarm_on_short_runs(healthy: dict[str, np.ndarray], steps: int):
    assert not rules({name: column[:steps] for name, column in healthy.items()})
    assert not rules(rows(healthy)[:steps])


def test_no_alarm_when_every_tenth_step_was_logged(healthy: dict[str, np.ndarray]):
    assert not rules(rows(healthy)[::10])


def test_no_alarm_on_columns_padded_with_nan(healthy: dict[str, np.ndarray]):
    steps = np.arange(len(healthy["loss"]))
    padded = {
        name: np.where(steps % 5 == 0, x, np.nan) if "norm" in name else x for name, x in healthy.items()
    }
    assert not rules(padded)
    assert not rules({**healthy, "val/loss": np.where(steps % 50 == 49, 1.0, np.nan)})
    # The norms of the first steps or the last were never logged.
    assert not rules({**healthy, "grad_norm": np.where(steps > 20, healthy["grad_norm"], np.nan)})
    assert not rules({**healthy, "grad_norm": np.where(steps < 180, healthy["grad_norm"], np.nan)})
    # A loss that goes wrong is no padding.
    assert rules({**healthy, "loss": np.where(steps < 180, healthy["loss"], np.nan)}) == ["not-finite"]
    assert rules({**healthy, "loss": np.where(steps != 90, healthy["loss"], np.nan)}) == ["not-finite"]


def test_no_alarm_on_constant_negative_or_rising_numbers():
    assert not rules({"loss": np.ones(100), "grad_norm": np.ones(100)})
    assert not rules({"loss": np.zeros(100), "grad_norm": np.zeros(100)})
    assert not rules({"loss": -np.linspace(0, 50, 100)})
    random = np.random.default_rng(0)
    assert not any(rules({"loss": 2 + random.normal(size=200)}) for _ in range(30))


def test_no_alarm_without_anything():
    for empty in ([], {}, [{}], [{"note": "started"}]):
        diagnosis = gx.diagnose(empty)
        assert not diagnosis.findings
        assert not diagnosis.tried
        assert diagnosis.not_tried["loss-diverges"] == ("loss",)
