"""The commands that look: what they print, their JSON, how they end, and that a wrong word is one sentence."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner, Result

import gradxform as gx
from gradxform._catalog import entries
from gradxform.cli.group import group

SHAPES = '{"dense": {"kernel": [4, 2], "bias": "bfloat16[2]"}}'


def call(*words: str) -> Result:
    return CliRunner().invoke(group, list(words), prog_name="gradxform")


def refusal(*words: str) -> str:
    """The sentence behind `Error:`, for a command that ends with 2 and prints nothing else."""
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = done.stderr.rstrip().splitlines()
    assert lines[-1].startswith("Error: ")
    return lines[-1].removeprefix("Error: ")


def test_every_command_has_help_with_an_example() -> None:
    for name in set(group.commands) - {"check-lowbit"}:
        done = call(name, "-h")
        assert done.exit_code == 0
        assert f"Example: gradxform {name}" in " ".join(done.output.split())


def test_list_names_every_factory_and_filters() -> None:
    data = json.loads(call("list", "--json").output)
    assert {row["name"] for row in data} == {entry.name for entry in entries()}
    done = call("list", "--kind", "schedule", "COSINE")
    assert done.exit_code == 0
    assert "warmup_cosine " in done.output
    assert "adamw" not in done.output
    nothing = call("list", "no such thing")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert nothing.stderr == "nothing has no such thing\n"


def test_explain_has_maths_defaults_and_source() -> None:
    done = call("explain", "gx.warmup_cosine")
    assert done.exit_code == 0
    assert done.output.startswith("gx.warmup_cosine(peak_value, warmup_steps, total_steps, *, init_value=0.0")
    assert "cos(pi x)" in done.output
    assert "warmup_steps: W" in done.output
    data = json.loads(call("explain", "adamw", "--json").output)
    assert data["required"] == ["learning_rate"]
    assert data["defaults"]["b2"] == 0.999
    assert "Advice" in data["sections"]
    file, line = data["source"].split(":")
    assert "def adamw" in "".join(
        (Path(gx.__file__).parents[1] / file).read_text("utf-8").splitlines()[int(line) - 1 :][:3]
    )
    assert refusal("explain", "adamx") == "there is no adamx; did you mean adamax or adam or adamaxw?"


def test_describe_and_memory_of_shapes() -> None:
    words = ("adamw(1e-3, mask=matrices())", "--params", SHAPES)
    assert "decay takes dense/kernel; not dense/bias" in call("describe", *words).output
    data = json.loads(call("describe", *words, "--json").output)
    assert [link["address"] for link in data["links"]] == ["adam", "decay", "rate"]
    assert data["parameters"] == 10
    both = call("memory", "sgd(0.1)", "adam(1e-3)", "--params", SHAPES)
    tree = {
        "dense": {
            "kernel": jax.ShapeDtypeStruct((4, 2), "float32"),
            "bias": jax.ShapeDtypeStruct((2,), "bfloat16"),
        }
    }
    txs = [gx.sgd(0.1), gx.adam(1e-3)]
    assert both.output == f"{gx.memory(txs, tree)}\n"
    several = json.loads(call("memory", "sgd(0.1)", "adam(1e-3)", "--params", SHAPES, "--json").output)
    assert several == json.loads(json.dumps(gx.memory(txs, tree).data))
    assert "adam/mu" in call("memory", "adam(1e-3)").output


def test_memory_of_a_model_by_name() -> None:
    done = call("memory", "sgd(0.1)", "adam(1e-3)", "--params", "7b", "--dtype", "bfloat16")
    assert done.output == f"{gx.memory([gx.sgd(0.1), gx.adam(1e-3)], '7b', dtype='bfloat16')}\n"
    assert "28.0 GB" in call("memory", "sgd(0.1)", "--params", "7_000_000_000").output
    assert "no model is called 'nope'" in refusal("memory", "sgd(0.1)", "--params", "nope")
    assert "there is no file no.json" in refusal("memory", "sgd(0.1)", "--params", "no.json")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("nowhere.json", "there is no file nowhere.json"),
        ("{", "not JSON"),
        ('{"w": "float33[2]"}', "w: there is no dtype float33"),
        ('{"w": {"v": [1.5]}}', 'w/v: got [1.5], wanted a shape such as [4, 2] or "bfloat16[4, 2]"'),
    ],
)
def test_wrong_shapes_are_told(text: str, fact: str) -> None:
    assert fact in refusal("describe", "adam(1e-3)", "--params", text)


def test_params_of_npz_are_their_shapes(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, **{"a/b": np.zeros((3, 5), np.float32)})
    data = json.loads(call("describe", "sgd(0.1)", "--params", str(path), "--json").output)
    assert data["links"][0]["leaves"]
    assert data["parameters"] == 15


GOOD = "import gradxform as gx\n\ndef make():\n    return gx.sgd(0.1)\n"
BAD = """import jax
import optax

def grow(updates, state, params=None):
    return jax.tree.map(lambda g: 2 * g, updates), state + 1

made = optax.GradientTransformation(lambda params: 0, grow)
"""


def test_check_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "fine_one.py").write_text(GOOD)
    (tmp_path / "ill_one.py").write_text(BAD)
    done = call("check", f"{tmp_path}/fine_one.py:make", "--law", "is_value", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    assert (data["ok"], data["laws"][0]["verdict"]) == (True, "kept")
    done = call("check", f"{tmp_path}/ill_one.py:made", "--law", "shapes_refused", "--examples", "2")
    assert done.exit_code == 1
    assert "1 broken" in done.output
    assert "there is no file" in refusal("check", f"{tmp_path}/absent.py:made")
    assert "has no 'other'" in refusal("check", f"{tmp_path}/fine_one.py:other")
    assert "no such law" in refusal("check", "sgd(0.1)", "--law", "no such law")


def test_diagnose_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "objective"])
        rows.writerows((i, 2.0 * 1.1**i) for i in range(40))
    done = call("diagnose", str(path), "--name", "loss=objective", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["findings"][0]["rule"] == "loss-diverges"
    path.write_text("step,loss\n" + "".join(f"{i},{1 / (1 + i)}\n" for i in range(40)))
    done = call("diagnose", str(path))
    assert (done.exit_code, done.output.split(" in ")[0]) == (0, "no findings")
    assert "READING=COLUMN" in refusal("diagnose", str(path), "--name", "loss")
    assert "objective" in refusal("diagnose", str(path), "--name", "loss=objective")


def _saved(tmp_path: Path, nu: float) -> Path:
    from flax import serialization

    params = {"w": jnp.ones((2, 3))}
    tx = gx.adam(1e-3)
    state: Any = tx.update(params, tx.init(params), params)[1]
    ill = state[0]._replace(nu={"w": state[0].nu["w"].at[0, 1].set(nu)})
    path = tmp_path / "state.msgpack"
    path.write_bytes(serialization.to_bytes((ill, *state[1:])))
    return path


def test_inspect_finds_counts_moments_and_nan(tmp_path: Path) -> None:
    pytest.importorskip("flax")
    pytest.importorskip("msgpack")
    done = call("inspect", str(_saved(tmp_path, 4.0)), "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    rows = {row["path"]: row for row in data["rows"]}
    assert data["first_nonfinite"] is None
    assert (rows["0/count"]["role"], rows["0/count"]["value"]) == ("count", 1)
    assert (rows["0/mu/w"]["role"], rows["0/nu/w"]["role"]) == ("moment", "second moment")
    assert rows["0/mu/w"]["rms"] == pytest.approx(0.1, rel=1e-6)
    assert rows["0/nu/w"]["largest"] == 4.0
    done = call("inspect", str(_saved(tmp_path, float("nan"))))
    assert done.exit_code == 1
    assert done.output.endswith("the first array that is not finite is 0/nu/w\n")


def test_inspect_reads_npz_and_refuses_pickles(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{"w/kernel": np.full(4, 1e300), "count": np.int32(7), "half": np.float16([1, np.inf])})
    done = call("inspect", str(path), "--json")
    assert done.exit_code == 1
    rows = {row["path"]: row for row in json.loads(done.output)["rows"]}
    assert rows["w/kernel"]["rms"] == pytest.approx(1e300)
    assert rows["count"]["value"] == 7
    assert (rows["half"]["nonfinite"], rows["half"]["largest"]) == (1, 1.0)
    hidden = tmp_path / "state.msgpack"
    hidden.write_bytes(pickle.dumps({"w": 1}))
    assert "a pickle, which runs code when it is read" in refusal("inspect", str(hidden))
    hidden.write_bytes(b"no checkpoint")
    assert "neither .npz nor a msgpack" in refusal("inspect", str(hidden))


def test_convert_goes_round() -> None:
    text = call("convert", "adamw(1e-3, mask=matrices())").output.strip()
    assert gx.from_json(text) == gx.adamw(1e-3, mask=gx.matrices())
    assert call("convert", text, "--to", "call").output == "gx.adamw(0.001, mask=gx.matrices())\n"
    assert refusal("convert", "optax.adam(1e-3)", "--to", "call").startswith("TRANSFORM was made by another")
    assert refusal("convert", "optax.adam(1e-3)")


def test_race_says_what_is_wrong(tmp_path: Path) -> None:
    assert "there is no folder" in refusal("race", str(tmp_path / "none" / "race.html"))
    pytest.importorskip("bokeh")
    assert "steps" in refusal("race", str(tmp_path / "race.html"), "--steps", "0")


def test_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradxform", "convert", "sgd(0.1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "not a call as Python has it" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_plot_writes_pictures(tmp_path: Path) -> None:
    rows = [{"step": t, "loss": 2.0 / (t + 1), "grad_norm": 1.0, "[a]/update_ratio": 1e-3} for t in range(12)]
    run, table = tmp_path / "run.jsonl", tmp_path / "run.csv"
    run.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for number, words in enumerate(
        (
            ("schedule", "{}", "warmup_cosine(1e-3, 2, 10)", "5e-4", "--steps", "10", "--log"),
            ("readings", "{}", str(run), "--key", "loss"),
            ("readings", "{}", str(table), "--key", "loss"),
            ("ratios", "{}", str(run)),
            ("moments", "{}", "trace(0.9)", "--steps", "3"),
            ("paths", "{}", "sgd(0.1)", "--landscape", "saddle", "--steps", "3"),
        )
    ):
        out = tmp_path / f"{number}.svg"
        done = call("plot", *(word.format(out) if word == "{}" else word for word in words))
        assert (done.exit_code, done.output) == (0, f"{out}\n"), (done.output, words)
        assert "<svg" in out.read_text(encoding="utf-8")
    # A table's numbers are texts, and are drawn all the same.
    assert (tmp_path / "1.svg").stat().st_size == pytest.approx((tmp_path / "2.svg").stat().st_size, rel=0.02)


def test_plot_refuses_in_a_sentence(tmp_path: Path) -> None:
    out = str(tmp_path / "x.png")
    assert refusal("plot", "schedule", out, "adamw(1e-3)").startswith("adamw(1e-3) is no schedule but")
    assert "wanted 'rosenbrock', 'saddle', 'ravine'" in refusal(
        "plot", "paths", out, "sgd(0.1)", "--landscape", "x"
    )
    assert "there is no folder" in refusal("plot", "schedule", str(tmp_path / "no" / "x.png"), "0.1")
    assert not list(tmp_path.iterdir())


def test_inspect_reads_what_orbax_wrote(tmp_path: Path) -> None:
    orbax = pytest.importorskip("orbax.checkpoint")
    tx = gx.guard(gx.adamw(1e-3))
    params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    _, state = tx.update({"w": jnp.full((2, 3), jnp.nan, jnp.bfloat16)}, tx.init(params), params)
    with orbax.StandardCheckpointer() as writer:
        writer.save(tmp_path / "run", {"params": params, "state": state})
    done = call("inspect", str(tmp_path / "run"), "--json")
    assert done.exit_code == 0, done.output
    rows = {row["path"]: row for row in json.loads(done.output)["rows"]}
    assert rows["params/w"]["rms"] == 1.0
    assert rows["params/w"]["dtype"] == "bfloat16"
    assert rows["state/skipped"]["value"] == 1
    assert rows["state/inner_state/0/mu/w"]["role"] == "moment"
