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
def test_the_table_of_low_bit_states(capsys: pytest.CaptureFixture[str]) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        lowbit.main(["--quick"])
    printed = capsys.readouterr().out
    assert all(printed.count(name) == 2 for name in lowbit.STORES)
