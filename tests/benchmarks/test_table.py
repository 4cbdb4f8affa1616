"""The table of speed: its command runs to its end and compares like with like, and pages show what was measured."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import gradxform as gx
from benchmarks import (
    __main__ as command,
    cases,
    entrants,
    methods,
    report,
    rounds,
    training,
    trees,
    wrappers,
)
from benchmarks.entrants import Compiled, LeftOut, Process
from benchmarks.shapes import QUICK, TREES, alike, transformer

pytestmark = pytest.mark.usefixtures("warm")
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed-cpu.json"


class Fake:
    """An entrant of known speed."""

    def __init__(self, seconds: float, **facts: Any) -> None:
        self.facts, self.seconds, self.closed = {"numbers": 10, **facts}, seconds, False

    def turn(self) -> float:
        return self.seconds

    def close(self) -> None:
        self.closed = True


def missing() -> Any:
    raise LeftOut("there is none here")


def test_figures_of_a_case() -> None:
    slow = Fake(0.4, state_bytes_a_number=8.0)
    limit = Fake(0.1, state_bytes_a_number=8.0, bytes_a_number=32.0)
    made = {"slow": lambda: slow, "none": missing, cases.LIMIT: lambda: limit}
    case = cases.Case("s", "t", "m", alike(2, 5), made, [("slow", cases.LIMIT), ("none", "slow")])
    got = cases.measure(case, cases.Options(rounds=6, patience=0.0))
    assert got["rounds"] == 6
    assert (got["leaves"], got["numbers"]) == (2, 10)
    assert got["entrants"]["none"] == {"left_out": "there is none here"}
    figures = got["entrants"]["slow"]
    assert figures["milliseconds"] == {"median": 400.0, "p10": 400.0, "p90": 400.0}
    assert figures["bytes_a_number"] == 32.0, (
        "12 for gradient and parameter, 4 for the norm, 16 for the state"
    )
    assert figures["gigabytes_a_second"] == pytest.approx(32 * 10 / 0.4 / 1e9)
    assert figures["of_limit"]["median"] == pytest.approx(0.25)
    assert got["ratios"] == {f"slow : {cases.LIMIT}": {"median": 4.0, "p10": 4.0, "p90": 4.0}}
    assert slow.closed
    assert limit.closed
    text = "\n".join(report.lines(got))
    assert "left out: there is none here" in text
    assert f"slow : {cases.LIMIT}" in text


def test_the_machine_is_not_timed_for_nobody() -> None:
    made = {"slow": missing, cases.LIMIT: lambda: Fake(0.1)}
    got = cases.measure(
        cases.Case("s", "t", "m", alike(1, 2), made, ()), cases.Options(rounds=6, patience=0.0)
    )
    assert got["rounds"] == 0
    assert [x["left_out"] for x in got["entrants"].values()] == [
        "there is none here",
        "there is nobody to compare",
    ]


def test_rounds_take_turns_with_another_one_first_each_time() -> None:
    order: list[str] = []

    def turn(name: str) -> rounds.Turn:
        return lambda: float(not order.append(name))

    got = rounds.take_turns({name: turn(name) for name in "abc"}, 3, patience=0.0)
    assert "".join(order) == "abcabc" + "abc" + "bca" + "cab"
    assert got.seconds == {name: [1.0] * 3 for name in "abc"}


def test_rounds_end_with_their_budget() -> None:
    got = rounds.take_turns({"a": lambda: 1.0}, 100, budget=0.0, patience=0.0)
    assert len(got.seconds["a"]) == rounds.FEWEST


def test_a_spread_is_the_median_and_the_middle() -> None:
    assert rounds.ratio([2.0 * x for x in range(1, 12)], [1.0 * x for x in range(1, 12)]) == (2.0, 2.0, 2.0)
    assert rounds.spread(range(1, 22)) == (11, 3, 19)


def test_the_trees_are_those_that_were_said() -> None:
    got = {name: (len(shapes), trees.size(shapes)) for name, shapes in TREES.items()}
    assert list(got.values()) == [(1, 50_000_000), (148, 124_439_808), (1000, 10_000_000), (5000, 500_000)]
    small = trees.tree(alike(3, 4, 5), 0)
    assert all(x.shape == (4, 5) and x.dtype == np.float32 for x in small.values())
    assert not np.array_equal(small["w0"], small["w1"])
    assert np.array_equal(small["w0"], trees.tree(alike(1, 4, 5), 0)["w0"])


def test_pairs_are_of_those_who_take_part() -> None:
    options = cases.Options(quick=True)
    found = [case for section in command.SECTIONS.values() for case in section(options)]
    for case in found:
        assert {name for pair in case.pairs for name in pair} <= {*case.entrants, methods.FLAT, methods.FUSED}
        assert case.shapes
    assert {case.method for case in found if case.section == "methods"} == methods.METHODS.keys()
    assert {case.section for case in found} >= {*wrappers.PAIRS, "eager", "few bits", "muon", "training step"}


def test_what_does_not_finish_compiling_is_left_out() -> None:
    start = time.perf_counter()
    with pytest.raises(LeftOut, match=r"not ready within 0 s: it was still compiling"):
        Process([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.3)
    assert time.perf_counter() - start < 20


def test_a_process_of_its_own_answers_or_says_why_not() -> None:
    says = "import json, sys\nprint(json.dumps({'numbers': 3}), flush=True)\n"
    says += "for line in sys.stdin: print(json.dumps({'seconds': 0.5}), flush=True)"
    there = Process([sys.executable, "-c", says], limit=60)
    assert there.facts == {"numbers": 3}
    assert [there.turn(), there.turn()] == [0.5, 0.5]
    there.close()
    with pytest.raises(LeftOut, match="no compiler"):
        Process([sys.executable, "-c", 'print(\'{"left out": "no compiler"}\')'], limit=60)
    with pytest.raises(LeftOut, match="its process ended with 3"):
        Process([sys.executable, "-c", "raise SystemExit(3)"], limit=60)


def test_without_torch_its_rows_are_left_out() -> None:
    with pytest.raises(LeftOut, match="has no torch"):
        entrants.torch_python("/bin/false")


def test_the_machine_itself_does_what_it_should() -> None:
    """The loops of limit.c, where there is a compiler: a copy, a triad, and an AdamW beside ours."""
    try:
        entrants.library()
    except (LeftOut, OSError) as reason:
        pytest.skip(str(reason))
    p, g, m, v = (x.copy() for x in entrants.arrays(1000))
    native = entrants.Native("adamw", 1000)
    assert native.turn() > 0
    after = entrants.arrays(1000)
    clip = min(1.0, 1 / float(np.sqrt((g * g).sum())))
    m1, v1 = 0.9 * m + 0.1 * clip * g, 0.999 * v + 0.001 * (clip * g) ** 2
    np.testing.assert_allclose(after[2], m1, rtol=1e-5)
    np.testing.assert_allclose(after[3], v1, rtol=1e-4)
    np.testing.assert_allclose(after[0], p - 1e-4 * m1 / (np.sqrt(v1) + 1e-8) - 1e-5 * p, rtol=1e-5)
    entrants.Native("copy", 1000).turn()
    np.testing.assert_array_equal(after[3], g)
    entrants.Native("triad", 1000).turn()
    np.testing.assert_allclose(after[2], g + 3 * after[3], rtol=1e-6)
    native.close()


def test_both_libraries_do_the_same_steps() -> None:
    shapes = alike(2, 4, 3)
    grads = trees.tree(shapes, 0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for method in methods.METHODS:
            pair = [
                Compiled(make(method), trees.tree(shapes, 1), grads) for make in methods.LIBRARIES.values()
            ]
            for _ in range(3):
                for one in pair:
                    one.turn()
            gap = entrants.difference(*pair)
            assert gap is not None
            assert gap < 1e-6, method


def test_the_model_of_the_whole_step_is_causal_and_learns() -> None:
    shapes = transformer(16, 1, 50, training.TOKENS)
    params, tokens = trees.tree(shapes, 1), np.arange(training.TOKENS + 1, dtype=np.int32) % 50
    loss = jax.jit(training.loss)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        one = training.training(gx.adam(0.01), params, tokens)
        assert float(loss(trees.tree(shapes, 1), tokens)) == pytest.approx(np.log(50), abs=0.1)
        for _ in range(30):
            one.turn()
        assert float(loss(one.params, tokens)) < np.log(50) - 0.1
        rows = np.cos(np.arange(8.0 * 24, dtype=np.float32)).reshape(8, 24)
        early = jax.jit(jax.grad(lambda x: training.mixed(x, 2)[5].sum()))(rows)
    assert not np.any(early[6:])
    assert np.all(np.any(early[:6], axis=1))


def test_a_case_measured_anew_takes_the_place_of_the_old_one() -> None:
    old = [{"section": s, "tree": "t", "method": "m", "is": "old"} for s in "abc"]
    new = {**old[1], "is": "new"}
    assert command.added(old, new) == [old[0], new, old[2]]
    assert command.added(old[:1], new) == [old[0], new]
    with pytest.raises(SystemExit):
        command.main(["--add"])


@pytest.mark.slow
def test_the_quick_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture, page = tmp_path / "results.json", tmp_path / "picture.png", tmp_path / "page.md"
    names = [*wrappers.PAIRS, "machine", "steps", "recipes", "training", "eager", "few bits", "muon"]
    page.write_text(
        "".join(f"<!-- table: speed, {name} -->\nold\n<!-- end of the table -->\n" for name in names)
    )
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):  # as a user has them, and Optax
        results = command.main(["--quick", "--out", str(out), "--plot", str(picture), "--guide", str(page)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(results))
    assert results["machine"]["jax"] == jax.__version__
    for case in results["cases"]:
        for x in case["entrants"].values():
            assert "left_out" in x or x["milliseconds"]["median"] > 0
        for pair, x in case["ratios"].items():
            assert 0 < x["p10"] <= x["median"] <= x["p90"], pair
        # All of them are the same optimizer, so they end at the same parameters.
        assert max(case["largest_difference"].values(), default=0) < 1e-5, case["method"]
    by_tree = {c["tree"] for c in results["cases"] if c["section"] == "methods"}
    assert by_tree == QUICK.keys()
    assert "old" not in page.read_text()
    printed = capsys.readouterr().out
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        command.main(["--quick", "--only", "muon", "--out", str(out), "--add"])
    assert len(json.loads(out.read_text())["cases"]) == len(results["cases"])
    assert printed.count(f"{methods.OURS} : {methods.THEIRS}") > len(methods.METHODS)
    assert picture.stat().st_size > 10_000


@pytest.mark.skipif(not RESULTS.exists(), reason="no figures have been made")
def test_the_tables_of_the_guide_are_what_was_measured() -> None:
    page = ROOT / "docs" / "guide" / "speed.md"
    text, results = page.read_text("utf-8"), json.loads(RESULTS.read_text())
    assert len(report.PLACE.findall(text)) > 5
    assert report.filled(text, report.tables(results)) == text, (
        "python -m benchmarks --from benchmarks/results/speed-cpu.json --guide docs/guide/speed.md"
    )
