"""The benchmark of the wrappers runs, compares what does the same, and writes what it says."""

import json
from pathlib import Path

import jax
import pytest

from benchmarks import lowbit, wrappers


def test_what_is_compared_is_there() -> None:
    for pair in wrappers.RATIOS:
        assert set(pair) <= set(wrappers.ENTRANTS)
    assert set(wrappers.CALLS) <= set(wrappers.ENTRANTS)


@pytest.mark.slow
def test_the_quick_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):  # as a user has them, and Optax
        results = wrappers.main(["--quick", "--out", str(out)])
    assert json.loads(out.read_text()) == results
    (case,) = results["cases"].values()
    assert case["entrants"].keys() == wrappers.ENTRANTS.keys()
    for pair, ratio in case["ratios"].items():
        assert 0 < ratio["p10"] <= ratio["median"] <= ratio["p90"], pair
    # All of them are the same optimizer, so they end at the same parameters, but for the window of those that wait.
    assert max(case["largest_difference"].values()) < 1e-5
    printed = capsys.readouterr().out
    assert all(pair in printed for pair in case["ratios"])


@pytest.mark.slow
def test_the_table_of_low_bit_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = lowbit.main(["--quick", "--out", str(out)])
    assert json.loads(out.read_text())["directions"] == results["directions"]
    steps, tables = results["steps"], results["directions"]
    assert steps["copy_gigabytes_a_second"] > 0
    assert steps["entrants"].keys() == {"float32", *lowbit.STORES, *lowbit.PLAIN}
    for name, figures in steps["entrants"].items():
        for times in (figures["time"], figures["processor_time"]):
            assert 0 < times["p10"] <= times["median"] <= times["p90"], name
    assert tables["once"].keys() == lowbit.STORES.keys()
    assert tables["3"].keys() == {*lowbit.STORES, *lowbit.PLAIN}
    assert tables["3"]["8 bits"]["wild"]["error"] < tables["3"]["plain, 8 bits"]["wild"]["error"]
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(line.startswith(name) for line in lines) == 4 for name in lowbit.STORES)
