"""Every example runs in its quick mode, in a fresh process and without the strict flags, and prints what it says."""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradxform as gx
from gradxform._catalog import entries

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "error::UserWarning",
    }
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@functools.cache
def module(path: str) -> Any:
    """A file of the repository that is no part of the package."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_example_is_run_here():
    tested = "".join(path.read_text() for path in pathlib.Path(__file__).parent.glob("test_*.py"))
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested, f"{path.name} is not run by a test of this folder"


def test_adam_by_hand_prints_the_eight_steps():
    out = run("adam_by_hand.py")
    for moment in ("1.0000", "1.8980", "2.7042", "3.4278", "4.0770", "4.6593", "5.1814", "5.6492"):
        assert moment in out
    assert "4.9200" in out, "w after eight steps"
    assert "2.4421" in out, "SGD with momentum"


def test_the_counterexample_sends_adam_to_one_end_and_amsgrad_to_the_other(tmp_path):
    out = run("amsgrad_counterexample.py", "--draws", "20000", "--seeds", "2", "--out", str(tmp_path))
    (row,) = re.findall(r"(?m)^ +3,000 +(\S+) +(\S+) +(\S+) +(\S+)$", out)
    adam, amsgrad, adam_regret, amsgrad_regret = map(float, row)
    assert adam > 0.99
    assert amsgrad < -0.99
    assert adam_regret == pytest.approx(2 / 3, abs=0.02)
    assert amsgrad_regret < 0.05
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_the_diagonal_is_flipped_at_a_found_rate_only(tmp_path):
    out = run("diagonal_flip.py", "--long", "30", "--out", str(tmp_path))
    assert out.startswith("31 parameters")
    solved = dict(re.findall(r"(?m)^(\S.*rate \S+) .* (\d+) of 20$", out))
    assert int(solved["momentum 0.9, rate 0.05"]) == int(solved["adam, rate 0.001"]) == 0
    assert int(solved["momentum 0.9, rate 1"]) > 10
    assert int(solved["adam, rate 0.2"]) > 10
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_why_adaptive_prints_adagrad_s_death(tmp_path):
    out = run("why_adaptive.py", "--out", str(tmp_path))
    for t, rate in (
        ("100", "0.010000"),
        ("1,000", "0.003162"),
        ("10,000", "0.001000"),
        ("100,000", "0.000316"),
    ):
        assert re.search(rf"(?m)^ +{t} +{rate} +{rate}$", out)
    ends = {
        name: tuple(map(float, pair))
        for name, *pair in re.findall(r"(?m)^(\S.*?) +(\S+) at \S+ +(\S+) at", out)
    }
    assert ends["adagrad"][0] < 1e-12 < 1 < ends["adagrad"][1], (
        "a rate for each coordinate, and a turned ravine"
    )
    assert ends["adam, b1 = 0"][0] < 1e-2 < 0.1 < ends["adam, b1 = 0"][1]
    assert ends["sgd"][0] == pytest.approx(ends["sgd"][1], rel=0.05), "SGD does not know the axes"
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_a_sweep_is_one_program_and_its_rates_differ(tmp_path):
    out = run("sweep.py", "--steps", "50", "--highest", "1e30", "--out", str(tmp_path))
    rows = re.findall(r"(?m)^ +(\S+) +(\S+) +(\S+) +(\d+)$", out)
    losses, skipped = [float(row[1]) for row in rows], [int(row[3]) for row in rows]
    assert len(rows) == 16
    assert "compiled 1 time" in out
    best = min(range(16), key=losses.__getitem__)
    assert f"best: {rows[best][0]}," in out
    assert 0 < losses[best] < 0.5 < losses[0], "the lowest rate has hardly begun"
    assert skipped[0] == 0 < skipped[-1], "the guard has stopped the highest rate"
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_what_is_rounded_to_nearest_does_not_forget_and_ours_does(tmp_path):
    out = run("forgetting.py", "--constants", "1", "--out", str(tmp_path))
    rows = {
        name: [float(x) for x in numbers]
        for name, *numbers in re.findall(
            r"(?m)^ +1  (\S.*?\S) {2,}(\S+) +(\S+) +\S+ to \S+ +(\S+) +(\S+)$", out
        )
    }
    assert rows["float32"] == [1.0] * 4, "what is compared with"
    median, mean, loud, step = rows["gradxform, 8 bits"]
    assert max(abs(x - 1) for x in (median, mean, loud, step)) <= 0.02
    median, mean, loud, step = rows["bitsandbytes' rule, 8 bits"]
    assert 2.0 < mean < 2.3
    assert loud == pytest.approx(1, abs=0.1)
    assert step < 0.75
    assert 0.8 < rows["gradxform, 4 bits"][1] < 1.2
    assert list(tmp_path.glob("*.png"))


@pytest.mark.slow
def test_train_lm_learns_writes_a_picture_and_a_sample(tmp_path):
    out = run("train_lm.py", "--steps", "20", "--bits", "8", "--out", str(tmp_path))
    assert list(tmp_path.glob("*.png")), "a picture of loss and rate"
    assert float(re.search(r"held-out text: (\S+) bits per byte", out)[1]) < 6
    assert "gx.lowbit.quantized(gx.chain(" in out
    assert "quantized" in (tmp_path / "optimizer.json").read_text(), "and the file starts the same run again"
    assert "gx.chain(" in out, "the transform's repr"


EVERY_RECIPE = [entry.name for entry in entries("recipe")]
QUICK = ("lamb", "rprop")  # one that sees whole arrays, one without a schedule


@pytest.mark.parametrize(
    "recipe", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY_RECIPE]
)
def test_every_recipe_of_train_lm_learns(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps of a tiny model on one batch, with the example's own arguments and rates."""
    lm = module("examples/train_lm.py")
    assert set(lm.RECIPES) <= set(EVERY_RECIPE), "a recipe that is not listed gets 1e-3 and its defaults"
    for name, size in {"L": 2, "D": 32, "H": 2, "F": 64, "T": 16, "B": 4}.items():
        monkeypatch.setattr(lm, name, size)
    tx = lm.make_optimizer(argparse.Namespace(config=None, optimizer=recipe, learning_rate=None, steps=20))
    assert gx.from_json(gx.to_json(tx)) == tx, "the example writes it to a file"

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            loss, gradients = jax.value_and_grad(lm.bits_per_byte)(params, batch)
            updates, state = tx.update(gradients, state, params)
            return (gx.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, tx.init(params)), length=20)[1]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = lm.init(jax.random.key(0))
        batch = jnp.asarray(lm.read_text()[0][: lm.B * (lm.T + 1)]).reshape(lm.B, lm.T + 1)
        losses = run(params, batch)
    assert bool(jnp.all(jnp.isfinite(losses)))
    assert float(losses[-1]) < float(losses[0]) - 0.1, losses


def test_the_ladder_of_rates():
    rung = module("benchmarks/recipes.py").rung
    assert [rung(0.01, by) for by in (-2, -1, 0, 1, 2, 3)] == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    assert [rung(30.0, by) for by in (-1, 0, 1)] == [10.0, 30.0, 100.0]


@pytest.mark.slow
def test_a_race_searches_and_runs_three_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    race = module("benchmarks/recipes.py")
    for name, size in {"L": 1, "D": 16, "H": 2, "F": 16, "T": 16, "B": 2}.items():
        monkeypatch.setattr(race.lm, name, size)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = race.race("lion", 8)
    rates = [run["rate"] for run in result["search"]]
    assert rates == sorted(set(rates))
    assert result["best_rate"] == min(result["search"], key=race.value)["rate"]
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2]
    assert result["state_bytes_per_parameter"] == pytest.approx(4, rel=0.01)
    assert "| lion |" in race.table({"recipes": {"lion": result}})


def test_the_table_of_the_guide_is_what_was_measured():
    race = module("benchmarks/recipes.py")
    results = json.loads((ROOT / "benchmarks" / "results" / "recipes-lm.json").read_text())
    assert set(results["recipes"]) >= set(race.LOWEST) | set(race.VARIANTS)
    page = (ROOT / "docs" / "guide" / "choosing.md").read_text()
    table = page.split("<!-- table: benchmarks/recipes.py -->\n")[1].split("\n<!-- end of the table -->")[0]
    assert table.strip() == race.table(results).strip(), "python benchmarks/recipes.py --table FILE"


@pytest.mark.slow
def test_train_lm_takes_a_serialised_transform(tmp_path):
    config = tmp_path / "tx.json"
    config.write_text(
        gx.to_json(gx.chain(gx.clip_by_global_norm(0.5), gx.adamw(gx.warmup_cosine(1e-3, 2, 5))))
    )
    assert json.loads(config.read_text())["factory"] == "chain"
    out = run("train_lm.py", "--config", str(config), "--steps", "5", "--out", str(tmp_path))
    assert "gx.clip_by_global_norm(0.5)" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits.py", "nnx_loop.py", "equinox_loop.py"])
def test_the_others_run(name, tmp_path):
    arguments = (
        ["--epochs", "2", "--seeds", "2", "--out", str(tmp_path)]
        if name == "digits.py"
        else ["--steps", "100"]
    )
    assert re.search(r"\d", run(name, *arguments))


@pytest.mark.slow
def test_keras_fits_with_a_transform_and_goes_on_after_loading():
    out = run("keras_fit.py")
    losses = [float(x) for x in re.findall(r"\d\.\d{4}", out.splitlines()[0])]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]
    assert "with the same bits: True" in out
    assert "within 1e-5: True" in out


@pytest.mark.parametrize("name", ["nnx_loop.py", "equinox_loop.py"])
def test_the_loops_stay_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60


@pytest.mark.slow
def test_train_buckets_has_the_same_losses_with_fewer_loops():
    out = run("train_buckets.py", "--layers", "5", "--steps", "30")
    assert "20 arrays in 2 buckets" in out
    tree, buckets = (int(loops) for loops in re.findall(r", (\d+) loops", out))
    assert buckets < 0.75 * tree
    (apart,) = re.findall(r"further apart than (\S+) of them", out)
    assert float(apart) < 1e-4
