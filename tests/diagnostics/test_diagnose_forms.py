"""The forms of a history, the report, and the messages of `diagnose`."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx

ROWS: list[dict[str, Any]] = [
    {"step": 10 * i, "train": {"loss": 2.0 * 1.1**i, "lr": 0.1}, "note": "x"} for i in range(40)
]
WANTED = gx.diagnose(ROWS)


def test_the_rows_show_a_fault():
    (found,) = WANTED.findings
    assert (found.rule, found.step, found.reading) == ("loss-diverges", 390, "loss")
    assert WANTED.steps == 40
    assert gx.diagnose(ROWS) == WANTED


def test_all_forms_say_the_same(tmp_path: Path):
    flat = {"global_step": [r["step"] for r in ROWS], "train_loss": [r["train"]["loss"] for r in ROWS]}
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = "step,loss,note,lr\n" + "".join(f"{r['step']},{r['train']['loss']!r},a b,\n" for r in ROWS)
    (tmp_path / "run.jsonl").write_text(lines + "\n")
    (tmp_path / "run.csv").write_text("\ufeff" + table, encoding="utf-8")
    (tmp_path / "run.tsv").write_text(table.replace(",", "\t"))
    forms: list[Any] = [flat, {k: np.array(v) for k, v in flat.items()}, iter(ROWS)]
    forms += [str(tmp_path / "run.jsonl"), tmp_path / "run.csv", tmp_path / "run.tsv"]
    for form in forms:
        assert gx.diagnose(form).findings == WANTED.findings
    arrays = [{"loss": jnp.float32(2.0 * 1.1**i)} for i in range(40)]
    assert [f.rule for f in gx.diagnose(arrays).findings] == ["loss-diverges"]
    named = {"step": flat["global_step"], "objective": flat["train_loss"]}
    assert gx.diagnose(named, names={"loss": "objective"}).findings == WANTED.findings
    assert not gx.diagnose(named).tried


def test_what_was_not_logged_is_missing_and_not_a_nan(tmp_path: Path):
    rows = [{"loss": 1.0, **({"grad_norm": 1.0} if i % 10 == 0 else {})} for i in range(40)]
    assert not gx.diagnose(rows).findings
    (tmp_path / "a.csv").write_text("loss,grad_norm\n" + "1.0,\n1.0,2.0\n" * 20)
    assert not gx.diagnose(tmp_path / "a.csv").findings
    (tmp_path / "b.csv").write_text("loss,grad_norm\n" + "1.0,2.0\n" * 20 + "nan,nan\n")
    (found,) = gx.diagnose(tmp_path / "b.csv").findings
    assert (found.rule, found.step) == ("not-finite", 20)


def test_the_report_names_figure_threshold_change_and_what_lacks():
    text = str(WANTED)
    for words in (
        "1 finding in 40 steps",
        "loss 71.41 at step 390, threshold",
        "divide the learning rate by 10",
    ):
        assert words in text
    assert "gradient-spikes        grad_norm" in text
    assert "no findings in 0 steps; 0 rules tried" in str(gx.diagnose([]))
    assert WANTED.not_tried["frozen-by-accident"] == ("update_norm|*/update_norm",)
    assert gx.diagnose(ROWS[:5]).not_tried["loss-diverges"] == ("10 steps",)
    assert set(WANTED.tried).isdisjoint(WANTED.not_tried)


def test_the_dict_is_json():
    for rows in (ROWS, [{"loss": float("nan")}] * 3, []):
        diagnosis = gx.diagnose(rows)
        back = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
        assert back == diagnosis.to_dict()
        assert [f["rule"] for f in back["findings"]] == [f.rule for f in diagnosis.findings]


@pytest.mark.parametrize(
    ("history", "options", "error", "words"),
    [
        ([{"a": 1.0}], {"names": {"loss": "b"}}, ValueError, "the history has no 'b'; it has a"),
        ([{"a": 1.0}], {"names": {"los": "a"}}, ValueError, "no such reading\n  wanted one of step, loss"),
        ([], {"frozen": [3]}, TypeError, "got an int; wanted patterns such as"),
        ([], {"tx": 3}, TypeError, "gx.diagnose"),
    ],
)
def test_messages(history: Any, options: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        gx.diagnose(history, **options)
