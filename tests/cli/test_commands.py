"""The commands that look: what they print, their JSON, how they end, and that a wrong word is one sentence."""

import csv
import json
import pickle
import re
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
    """What is said of a command that ends with 2 and prints nothing but one line."""
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    command, help_ = re.escape(words[0]), rf" \(gradxform {words[0]}.* -h\)"
    found = re.fullmatch(rf"gradxform {command}[\w -]*: (.*){help_}", line)
    assert found is not None, line
    return found[1]


def test_a_wrong_command_is_answered_in_one_line() -> None:
    for words, said in {
        ("lst",): "gradxform: there is no command lst; did you mean list? (gradxform -h)",
        ("explain",): "gradxform explain: Missing argument 'NAME'. (gradxform explain -h)",
        ("list", "--kind", "x"): "gradxform list: Invalid value for '--kind': 'x' is not one of",
        ("list", "--foo"): "gradxform list: No such option '--foo'.",
        ("diagnose", "no.csv"): "gradxform diagnose: Invalid value for 'FILE': File 'no.csv' does not exist.",
        ("plot", "nothing"): "gradxform plot:",
    }.items():
        done = call(*words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1
    assert call().exit_code == 2
    assert "Commands:" in call().output


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
    path.write_text("step,loss\n")
    assert "there is no step in it" in refusal("diagnose", str(path))
    path.write_text("step,loss\n1,2.0\n")
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
    pytest.importorskip("msgpack")
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


def test_a_checkpoint_is_taken_into_another_transform(tmp_path: Path) -> None:
    serialization = pytest.importorskip("flax.serialization")
    pytest.importorskip("msgpack")
    params = {"w": jnp.linspace(-1.0, 1.0, 64 * 80).reshape(64, 80)}
    tx = gx.adamw(1e-3)
    _, state = tx.update(params, tx.init(params), params)
    saved, out = tmp_path / "run.msgpack", tmp_path / "new.msgpack"
    saved.write_bytes(serialization.to_bytes({"params": params, "opt_state": state, "step": 3}))

    dry = call("convert", str(saved), "--into", "guard(lion(1e-3))")
    assert dry.exit_code == 0, dry.output
    wanted = gx.restore_into(gx.guard(gx.lion(1e-3)), params, serialization.to_state_dict(state))[1]
    assert dry.output == f"{wanted}\nnothing is written without --out\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.msgpack"]

    to_8 = "average_params(lowbit.quantized(adamw(1e-3)), 0.99)"
    done = call("convert", str(saved), "--into", to_8, "-o", str(out), "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    assert (data["dropped"], data["out"]) == (0, str(out))
    assert {"outcome": "reset", "address": "average/average/w"}.items() <= data["rows"][-2].items()
    new = gx.average_params(gx.lowbit.quantized(gx.adamw(1e-3)), 0.99)
    read = serialization.from_bytes(
        {"params": params, "opt_state": new.init(params), "step": 0}, out.read_bytes()
    )
    assert read["step"] == 3
    assert int(read["opt_state"][0][0].count) == 1
    # And back, out of codes.
    words = ("convert", str(out), "--into", "adamw(1e-3)", "--saved-by")
    again = call(*words, to_8, "-o", str(tmp_path / "back.npz"))
    assert again.exit_code == 0, again.output
    with np.load(tmp_path / "back.npz") as arrays:
        np.testing.assert_allclose(arrays["opt_state/0/mu/w"], state[0].mu["w"], rtol=0.02, atol=1e-4)
    assert "--saved-by: the state was not made by gx.sgd" in refusal(*words, "sgd(0.1, 0.9)")
    assert "is there already" in refusal("convert", str(saved), "--into", "adam(1e-3)", "-o", str(out))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_checkpoint_that_lacks_something_is_told(tmp_path: Path) -> None:
    saved = tmp_path / "state.npz"
    np.savez(
        saved, **{"0/count": np.int32(1), "0/mu/w": np.ones(2, np.float32), "0/nu/w": np.ones(2, np.float32)}
    )
    words = ("convert", str(saved), "--into")
    assert "say --params" in refusal(*words, "adam(1e-3)")
    done = call(*words, "adam(1e-3)", "--params", '{"w": [2]}')
    assert done.output.startswith("matched 3, reset 0, dropped 0\n")
    told = refusal(*words, "average_params(adam(1e-3), 0.9)", "--params", '{"w": [2]}')
    assert told.startswith("a part of the new state begins at the values of the parameters")
    assert "ends neither" in refusal(*words, "adam(1e-3)", "--params", '{"w": [2]}', "--out", "x.bin")
    assert "there is no such file" in refusal("convert", "no.npz", "--into", "adam(1e-3)")
    assert refusal("convert", "adam(1e-3)", "--fresh", "x").startswith("--fresh is for a checkpoint")
    np.savez(saved, **{"params/w": np.ones(2, np.float32), "other": np.ones(2, np.float32)})
    assert "wanted one of opt_state, state, optimizer" in refusal(*words, "adam(1e-3)")


def test_other_forms_of_a_transform_and_a_mesh() -> None:
    words = ("memory", "adamw(1e-3)", "--ways", "--params", "7b", "--mesh", "data=8")
    data = json.loads(call(*words, "--json").output)
    names = [row["name"] for row in data["transforms"]]
    assert names == [
        "plain",
        "16 bits",
        "8 bits",
        "4 bits",
        "ZeRO over data",
        "ZeRO over data, 8 bits",
        "on the host",
    ]
    assert data["without"] == {}
    foreign = call("memory", "chain(optax.scale_by_lbfgs(), sgd(0.1))", "--ways", "--mesh", "data=8")
    assert foreign.exit_code == 0
    assert "without ZeRO over data: gx.sharding.zero" in foreign.output
    assert "each of 8 devices" in call("describe", "adam(1e-3)", "--mesh", "data=4,model=2").output
    assert "wanted axes with their sizes" in refusal("describe", "adam(1e-3)", "--mesh", "data=0")
    assert "wanted axes with their sizes" in refusal("memory", "adam(1e-3)", "--mesh", "a=2,a=4")
    assert "--ways is for one transform" in refusal("memory", "adam(1e-3)", "sgd(0.1)", "--ways")


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
