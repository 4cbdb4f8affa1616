"""`gradxform check-lowbit`: what it prints, how it ends, and that a wrong word is one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from flax import serialization

import gradxform as gx
from gradxform.cli.group import group
from gradxform.lowbit import LowbitReport, LowbitRow

ROOT = Path(__file__).parents[2]
ROW = LowbitRow("direction", "flat", "w", "", 0.02, high=0.035, worst=0.03)
SICK = LowbitRow("forgets, quiet", "half goes quiet", "w", "nu", 46.0, low=0.97, high=1.03, advice="bits=8")


def call(*words: str) -> Result:
    return CliRunner().invoke(group, ["check-lowbit", *words], prog_name="gradxform")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of the function, each answered with a report that is made up: sick with the seed 1."""
    calls: list[dict[str, Any]] = []

    def answer(tx: Any, **given: Any) -> LowbitReport:
        calls.append({"tx": tx, **given})
        rows = (ROW, SICK) if given["seed"] == 1 else (ROW,)
        speeds = (("nu", float("inf")),)
        return LowbitReport(repr(tx), "twin", given["seed"], 2.06, 8.0, speeds, rows, ("a note",), 1.0)

    monkeypatch.setattr("gradxform.lowbit.check_lowbit", answer)
    return calls


def test_healthy_is_0_and_sick_is_1(asked: list[dict[str, Any]]) -> None:
    done = call("adamw(1e-3)")
    assert done.exit_code == 0
    assert done.output.splitlines()[0].startswith("gx.adamw(0.001)    seed 0")
    assert re.search(r"(?m)^direction +flat +w +0\.0200 \(0\.0300\) +<= 0\.035 +ok", done.output)
    assert "a note" in done.output
    assert "nu never" in done.output
    done = call("adamw(1e-3)", "--seed", "1")
    assert done.exit_code == 1
    assert "what to do: bits=8" in done.output
    assert done.output.rstrip().endswith("not healthy: 1 figure out of bounds")
    assert [given["seed"] for given in asked] == [0, 1]


def test_json_is_the_report(asked: list[dict[str, Any]]) -> None:
    done = call("adamw(1e-3)", "--seed", "1", "--json")
    assert done.exit_code == 1
    data = json.loads(done.output)
    assert data["ok"] is False
    assert data["time_constants"] == {"nu": None}
    direction, forgets = data["rows"]
    assert (direction["low"], direction["high"], direction["worst"]) == (None, 0.035, 0.03)
    assert (forgets["measure"], forgets["leaf"], forgets["moment"]) == ("forgets, quiet", "w", "nu")
    assert forgets["verdict"] == "bad"


def test_options_go_to_the_function(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones((40, 3), np.float32))
    np.savez(tmp_path / "two.npz", **{"dense/kernel": np.ones((40, 2)), "bias": np.ones((40, 3))})
    call("adamw(1e-3)", "--bits", "4", "--steps", "500")
    call("adamw(1e-3)", "--like", "bitsandbytes", "--gradients", str(tmp_path / "one.npy"))
    call("lowbit.quantized(adamw(1e-3))", "--gradients", str(tmp_path / "two.npz"))
    four, theirs, ours = asked
    assert four == {
        "tx": gx.lowbit.quantized(gx.adamw(1e-3), 4),
        "gradients": None,
        "steps": 500,
        "seed": 0,
    }
    assert theirs["tx"] == gx.lowbit.quantized(gx.adamw(1e-3), like="bitsandbytes")
    assert theirs["gradients"].shape == (40, 3)
    assert ours["tx"] == gx.lowbit.quantized(gx.adamw(1e-3))
    assert {name: x.shape for name, x in ours["gradients"].items()} == {
        "dense/kernel": (40, 2),
        "bias": (40, 3),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adamv(1e-3)"], "did you mean gx.adam"),
        ([], "Missing argument 'TRANSFORM'"),
        (["adamw(1e-3)", "--bits", "5"], "'5' is not one of"),
        (["lowbit.quantized(adamw(1e-3))", "--bits", "4"], "--bits: TRANSFORM says itself how it is stored"),
        (["lowbit.quantized(adamw(1e-3))", "--like", "bitsandbytes"], "--like: TRANSFORM says itself"),
        (["adamw(1e-3)", "--bits", "4", "--like", "bitsandbytes"], "has 8 bits; leave out --bits"),
        (["adamw(1e-3)", "--steps", "8"], "--steps (8): wanted at least 32, got 8"),
        (["adamw(1e-3)", "--gradients", "nowhere.npy"], "'nowhere.npy' does not exist"),
        (["adamw(1e-3)", "--gradients", "text.npy"], "text.npy: not a .npy or .npz file of numbers"),
        (["adamw(1e-3)", "--gradients", "words.npy"], "wanted numbers with time as first axis"),
        (
            ["adamw(1e-3)", "--gradients", "number.npz"],
            "x: float64[], wanted numbers with time as first axis",
        ),
        (["adamw(1e-3)", "--gradients", "short.npy"], "--gradients: 5 of them, wanted at least 32"),
        (["optax.chain(lowbit.quantized(adamw(1e-3)))"], "stands inside of a closure"),
    ],
)
def test_a_wrong_word_is_2_and_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "number.npz", x=np.float64(1))
    np.save(tmp_path / "short.npy", np.ones((5, 64, 128), np.float32))
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_help_lists_what_there_is() -> None:
    done = CliRunner().invoke(group, ["--help"])
    assert "check-lowbit" in done.output
    assert all(name in done.output for name in group.commands)
    for option in ("--bits", "--like", "--gradients", "--steps", "--seed", "--json"):
        assert option in call("--help").output


def page() -> list[tuple[str, str]]:
    """The commands of the page and what it says that they print."""
    text = (ROOT / "docs" / "guide" / "command-line.md").read_text("utf-8")
    return re.findall(r"(?ms)^```console\n\$ gradxform (.*?)\n(.*?)^```$", text)


def plain(text: str) -> str:
    """Without times, which differ, and without blanks at the ends of lines."""
    return "\n".join(re.sub(r"\d+\.\d s$", "... s", line.rstrip()) for line in text.strip().splitlines())


def files(folder: Path) -> None:
    """Those that the page speaks of."""
    rows = [{"step": t, "loss": round(2.0 * 1.08**t, 4), "grad_norm": round(1.08**t, 4)} for t in range(60)]
    (folder / "run.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (folder / "my_optimizer.py").write_text(
        "import gradxform as gx\n\n\ndef make():\n    return gx.sgd(0.1)\n"
    )
    params = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    tx = gx.adamw(1e-3)
    _, (adam, *rest) = tx.update(params, tx.init(params), params)
    state = (adam._replace(nu={**adam.nu, "w": adam.nu["w"].at[0, 0].set(np.nan)}), *rest)
    (folder / "state.msgpack").write_bytes(serialization.to_bytes(state))


@pytest.mark.slow
@pytest.mark.parametrize(("words", "printed"), page(), ids=lambda text: text[:40])
def test_the_page_shows_what_is_printed(
    words: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, verdicts and shape of the table; the figures to the digits that are alike on every machine."""
    import shlex

    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(group, shlex.split(words), prog_name="gradxform")
    shown, came = (re.sub(r"\d[\d.e+-]*", "N", plain(text)) for text in (printed, done.output))
    assert re.sub(r" +", " ", came) == re.sub(r" +", " ", shown)


def test_every_command_is_on_the_page() -> None:
    text = (ROOT / "docs" / "guide" / "command-line.md").read_text("utf-8")
    assert {words.split()[0] for words, _ in page()} | {"plot"} == set(group.commands)
    assert "gradxform plot readings" in text


def test_it_is_a_program() -> None:
    """`python -m gradxform`, and what it says where click is not installed."""
    command = [sys.executable, "-m", "gradxform", "check-lowbit", "adamv(1)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean gx.adam" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_click_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradxform import cli

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "click" else object())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "gradxform: the command line needs click: pip install 'gradxform[cli]'\n"
    )


def test_commands_are_clicks() -> None:
    assert all(isinstance(command, click.Command) for command in group.commands.values())
