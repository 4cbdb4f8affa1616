"""The forms of a history, the same for whoever reads one: rows, arrays, tables, files; the messages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.diagnostics.history import read


class Table:
    """What a data frame has: keys and columns, and no other likeness to a dictionary."""

    def keys(self) -> list[str]:
        return ["train/loss", "step"]

    def __getitem__(self, name: str) -> Any:
        return {"train/loss": [0, 1, 2, 3], "step": [0, 10, 20, 30]}[name]


class Frame:
    """A frame whose names are `columns`, and that goes through its columns and not through its rows."""

    columns = ("train/loss", "step")

    def __getitem__(self, name: str) -> Any:
        return np.array(Table()[name])

    def __iter__(self) -> Any:
        return iter([self[name] for name in self.columns])


ROWS = [{"train": {"loss": jnp.float32(t)}, "step": 10 * t, "note": "x"} for t in range(4)]
FORMS: dict[str, Any] = {
    "rows": ROWS,
    "rows, once": iter(ROWS),
    "arrays": {"train": {"loss": jnp.arange(4.0, dtype=jnp.bfloat16)}, "step": np.arange(0, 40, 10)},
    "arrays of arrays of one": {"train/loss": np.arange(4.0)[:, None], "step": [[0], [10], [20], [30]]},
    "lists and texts": {"train/loss": ["0", "1.0", " 2 ", "3e0"], "step": [0, 10, 20, 30]},
    "lists of one": [{"train/loss": [t], "step": np.array([10 * t])} for t in range(4)],
    "keys": Table(),
    "columns": Frame(),
}
TABLE = "train/loss,step,note\n0.0,0,a b\n1.0,10,\n2.0,20,\n3.0,30,\n"
LINES = '{"train": {"loss": 0}, "step": 0}\n\n{"train": {"loss": "1.0"}, "step": 10}\n' + "".join(
    json.dumps({"train/loss": t, "step": 10 * t, "none": None}) + "\n" for t in (2, 3)
)
FILES = {
    "a.jsonl": LINES,
    "lines.json": LINES,
    "list.json": json.dumps([{"train/loss": t, "step": 10 * t} for t in range(4)], indent=1),
    "state.json": json.dumps({"log_history": [{"train/loss": t, "step": 10 * t} for t in range(4)], "epoch": 1.0}),
    "a.csv": "\ufeff" + TABLE,
    "a.tsv": TABLE.replace(",", "\t"),
    "semicolons.csv": TABLE.replace(",", ";"),
    "decimal commas.csv": TABLE.replace(",", ";").replace(".", ","),
    "longer rows.csv": TABLE.replace("a b\n", "a b,more,and more\n"),
    "shorter rows.csv": TABLE.replace(",\n", "\n"),
}  # fmt: skip


def same(history: Any) -> None:
    found = read("gx.x", history)
    assert sorted(found) == ["step", "train/loss"]
    assert found["train/loss"].values.tolist() == [0, 1, 2, 3]
    assert found["step"].values.tolist() == [0, 10, 20, 30]
    assert all(column.present.all() for column in found.values())


@pytest.mark.parametrize("name", FORMS)
def test_all_forms_are_one(name: str):
    same(FORMS[name])


@pytest.mark.parametrize("name", FILES)
def test_all_files_are_one(name: str, tmp_path: Path):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    same(str(tmp_path / name))
    same(tmp_path / name)


def test_what_is_missing_is_not_what_is_nan(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b,c,d\n1,nan,,x\nNaN,inf,,NA\n , -Infinity,,\n")
    rows = [
        {"a": 1, "b": float("nan")},
        {"a": "NaN", "b": "inf", "c": None},
        {"b": -np.inf, "c": [1.0, 2.0], "d": "x"},
    ]
    for history in (tmp_path / "a.csv", rows):
        found = read("gx.x", history)
        assert sorted(found) == ["a", "b"]
        assert found["a"].present.tolist() == [True, True, False]
        assert found["a"].finite.tolist() == [True, False, False]
        np.testing.assert_array_equal(found["b"].values, [np.nan, np.inf, -np.inf])


def test_pictures_and_diagnose_read_the_same(tmp_path: Path):
    (tmp_path / "a.csv").write_text("step,loss,grad_norm\n0,1,\n10,2,3\n,3,\n30,nan,4\n")
    loss, norm = gx.plots.readings(tmp_path / "a.csv").axes
    assert list(np.asarray(loss.lines[0].get_xdata())) == [
        0,
        10,
        30,
    ]  # a row that names no step has no place in a picture
    assert list(np.asarray(norm.lines[0].get_xdata())) == [10, 30]
    (found,) = gx.diagnose(tmp_path / "a.csv").findings
    assert (found.rule, found.step) == ("not-finite", 30)


def broken(folder: Path) -> dict[str, tuple[Any, type[Exception], str]]:
    """What is no history, with the error and its words."""
    (folder / "run.txt").write_text("")
    (folder / "cut.jsonl").write_text('{"loss": 1.0}\n{"loss": 1.')
    (folder / "list.jsonl").write_text("[1, 2]\n")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    return {
        "no file": (folder / "run.csv", FileNotFoundError, r"run.csv'\): there is no such file"),
        "a folder": (str(folder), FileNotFoundError, "this is a folder"),
        "an ending": (
            folder / "run.txt",
            ValueError,
            r"the format from '.txt'\n  wanted .jsonl, .csv or .tsv",
        ),
        "cut off": (folder / "cut.jsonl", ValueError, "line 2 is not JSON.*\n.*drop that line"),
        "a list a line": (
            folder / "list.jsonl",
            TypeError,
            "entry 0 is a list, wanted a dict of numbers by name",
        ),
        "no text": (folder / "binary.csv", ValueError, "this is not text"),
        "a number": (3, TypeError, r"\(history\): got an int; wanted a list of dicts.*\n.*history.append"),
        "bytes": (b"run.csv", TypeError, r"\(history\): got a bytes; wanted a list of dicts"),
        "numbers": ([1.0, 2.0], TypeError, "entry 0 is a float, wanted a dict"),
        "one step": (
            {"loss": 1.0},
            TypeError,
            "'loss' is 1.0, wanted one number for each step; for a single step pass a list",
        ),
        "lengths": ({"loss": [1.0, 2.0], "lr": [1.0]}, ValueError, "'loss' has 2 numbers and 'lr' has 1"),
    }


@pytest.mark.parametrize(
    "call", [gx.diagnose, gx.plots.readings, gx.plots.ratios], ids=["diagnose", "readings", "ratios"]
)
def test_messages(call: Callable[..., Any], tmp_path: Path):
    asked = "gx.diagnose" if call is gx.diagnose else f"gx.plots.{call.__name__}"
    for history, error, words in broken(tmp_path).values():
        with pytest.raises(error, match=words) as caught:
            call(history)
        assert str(caught.value).startswith(asked)
