"""The examples of wrappers run in their quick mode and print what they say: a polish, a kill, a frozen body."""

import re

import pytest

from tests.examples.test_examples import run

NUMBER = r"(\d+\.\d+)"


@pytest.mark.slow
def test_polish_carries_over_what_can_be(tmp_path):
    del tmp_path
    out = run("polish.py", "--epochs", "6", "--polish", "3", "--seeds", "1")
    matched, reset, dropped = map(int, re.search(r"matched (\d+), reset (\d+), dropped (\d+)", out).groups())
    # The guard's 7 and the average's 5; the momentum of 4 arrays and the schedule's count; Adam's 4 + 4 + 1.
    assert (matched, reset, dropped) == (12, 5, 9)
    assert re.search(
        r"(?m)^reset +trace/trace +4 +the saved mu is an average of gradients, trace is a sum", out
    )
    assert re.search(r"(?m)^reset +rate/count +1 +asked for", out)
    assert re.search(r"(?m)^matched +average/average +4 +inner_state/1/average$", out)
    rows = {
        name: [float(x) for x in re.findall(rf"{NUMBER} ±", rest)]
        for name, rest in re.findall(r"(?m)^((?:adamw|sgd), [a-z0 ]+?)  +(.*)$", out)
    }
    assert len(rows) == 4
    for name in ("adamw, rate falls to 0", "sgd, rate falls to 0"):
        assert rows[name][0] < rows["adamw, before"][0], "a falling rate lowers the training loss"


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits():
    out = run("resume.py", "--steps", "60", "--every", "15")
    assert "killed while it saves step 30" in out
    assert re.search(r"left behind: cut\.msgpack \(\d+ bytes\), cut\.part \(\d+ bytes\)", out)
    assert "resumed at step 15, in the middle of a window, 0 skipped so far" in out
    assert len(re.findall(r"step 60: loss \d\.\d+ \(average\), 1 skipped", out)) == 2, "the NaN of step 30"
    assert out.rstrip().endswith("the same bits")


@pytest.mark.slow
def test_a_frozen_body_has_no_state_and_does_not_move():
    out = run("finetune_frozen.py", "--steps", "100")
    rows = {
        name: (float(average), int(state.replace(",", "")))
        for name, average, state in re.findall(rf"(?m)^(\S.*?) {{2,}}{NUMBER} +\d+\.\d+ +([\d,]+)$", out)
    }
    frozen, everything, scratch = (
        rows[name] for name in ("body frozen, new head", "all of it, new head", "all of it, from scratch")
    )
    assert frozen[1] * 100 < everything[1] == scratch[1], "bytes of state"
    assert frozen[0] > scratch[0], "what the body knows serves the new question"
    assert "the frozen body is what it was, bit for bit" in out
    assert "[body/*]/frozen" in out
