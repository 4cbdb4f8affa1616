"""Every example runs in its quick mode, in a fresh process and without the strict flags, and prints what it says."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import gradxform as gx

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


def test_every_example_is_run_here():
    tested = pathlib.Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in tested, f"{path.name} is not run by this test"


def test_adam_by_hand_prints_the_eight_steps():
    out = run("adam_by_hand.py")
    for moment in ("1.0000", "1.8980", "2.7042", "3.4278", "4.0770", "4.6593", "5.1814", "5.6492"):
        assert moment in out
    assert "4.9200" in out, "w after eight steps"
    assert "2.4421" in out, "SGD with momentum"


@pytest.mark.slow
def test_train_lm_learns_writes_a_picture_and_a_sample(tmp_path):
    out = run("train_lm.py", "--steps", "20", "--out", str(tmp_path))
    assert list(tmp_path.glob("*.png")), "a picture of loss and rate"
    assert "bits per byte" in out
    assert "gx.chain(" in out, "the transform's repr"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sgd", "lion", "nadamw"])
def test_train_lm_takes_any_recipe(recipe, tmp_path):
    assert "bits per byte" in run(
        "train_lm.py", "--optimizer", recipe, "--steps", "3", "--out", str(tmp_path)
    )


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


@pytest.mark.parametrize("name", ["nnx_loop.py", "equinox_loop.py"])
def test_the_loops_stay_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60
