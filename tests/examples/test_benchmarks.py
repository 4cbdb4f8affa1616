"""The benchmarks of low-bit states run, compare what can be compared, and write what they say."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import gradxform as gx
from benchmarks import buckets, lowbit, lowbit_training, muon

pytestmark = pytest.mark.usefixtures("warm")
ROOT = Path(__file__).parents[2]


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


@pytest.mark.slow
def test_training_in_few_bits_beside_float32(tmp_path: Path) -> None:
    out, picture = tmp_path / "results.json", tmp_path / "picture.png"
    arguments = ["--quick", "--only", "digits", "--out", str(out), "--plot", str(picture)]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        lowbit_training.main(arguments)
    (task,) = json.loads(out.read_text())["tasks"].values()
    wide, few = task["stores"]["float32"], task["stores"]["8 bits"]
    assert wide["share_in_few_bits"] == 0
    assert wide["state_bytes_per_parameter"] == pytest.approx(8, abs=0.01)
    assert few["share_in_few_bits"] == 2 * 64 * 64 / (2 * 64 * 64 + 64 * 10 + 64 + 64 + 10), (
        "the two large kernels"
    )
    assert 2.5 < few["state_bytes_per_parameter"] < 2.6
    for one, twin in zip(wide["runs"], few["runs"], strict=True):
        assert one["seed"] == twin["seed"]
        assert one["curve"] == pytest.approx(twin["curve"], rel=0.3), "the same weights and batches"
        assert one["curve"] != twin["curve"]
        assert one["curve"][-1] < one["curve"][0] < 2.3, "it learns: log 10 is a guess"
    assert picture.stat().st_size > 10_000


def test_the_rate_is_searched_for_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With programs that know the score of a rate; they are made once for each way of storing."""
    ran: list[tuple[Any, float, int]] = []

    def make_program(make: Any, steps: int) -> Any:
        tx = make(0.1)

        def program(peak: Any, seed: int) -> Any:
            ran.append((tx, round(float(peak), 6), seed))
            return np.float32(2 + abs(np.log(peak / 0.001))), np.arange(steps, dtype=np.float32)

        return program

    monkeypatch.setattr(lowbit_training.recipes, "make_program", make_program)
    model, stores = lowbit_training.LanguageModel(0.999, 80), lowbit_training.STORES
    rate, tried = model.search()
    assert (rate, list(tried)) == (0.001, ["0.0003", "0.001", "0.003", "0.01", "0.03"])
    assert {seed for _, _, seed in ran} == {lowbit_training.recipes.SEARCH_SEED}
    assert all("quantized" not in repr(tx) for tx, _, _ in ran)
    del ran[:]
    runs = [run for name in stores for run in model.runs(stores[name], rate, range(2))]
    assert [(peak, seed) for _, peak, seed in ran] == [(0.001, seed) for _ in stores for seed in range(2)]
    assert len(model.programs) == len({tx for tx, _, _ in ran}) == len(stores)
    assert all(run["curve"] == [2 * i + 0.5 for i in range(40)] and run["every"] == 2 for run in runs)


def test_a_gap_is_that_of_twins_in_units_of_the_seeds() -> None:
    def store(*values: float | None) -> dict[str, Any]:
        return {"runs": [{"score": value} for value in values]}

    task = {
        "stores": {
            "float32": store(1.0, 2.0, 3.0),
            "8 bits": store(1.5, 2.0, 3.1),
            "4 bits": store(1.2, None, 3.0),
        }
    }
    got = lowbit_training.compared(task, "8 bits", "score")
    assert got == pytest.approx(
        {"mean": 2.2, "deviation": 0.81854, "gap": 0.2, "error": 0.15275, "sigmas": 0.2, "lost": 0}, rel=1e-4
    )
    lost = lowbit_training.compared(task, "4 bits", "score")
    assert (lost["mean"], lost["gap"], lost["lost"]) == pytest.approx((2.1, 0.1, 1)), (
        "beside the twins of those that are left"
    )
    places = [lowbit_training.digits_of(x) for x in (0.0, 0.0032, 0.02, 1.9, 21.0)]
    assert places == [3, 4, 3, 1, 0], "two digits of a deviation"


@pytest.fixture(scope="module")
def trained() -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / "lowbit-training-cpu.json").read_text())


def test_the_table_of_the_guide_is_what_was_measured(trained: Any) -> None:
    page = (ROOT / "docs" / "guide" / "lowbit.md").read_text()
    table = page.split("<!-- table: benchmarks/lowbit_training.py -->\n")[1].split(
        "\n<!-- end of the table -->"
    )[0]
    assert table.strip() == lowbit_training.table(trained).strip(), (
        "benchmarks/lowbit_training.py --table FILE"
    )


def test_eight_bits_end_within_two_sigma_of_float32(trained: Any) -> None:
    for name, task in trained["tasks"].items():
        assert task["stores"].keys() == lowbit_training.STORES.keys()
        for measure in task["measures"]:
            assert abs(lowbit_training.compared(task, "8 bits", measure)["sigmas"]) < 2, (name, measure)
        assert task["stores"]["8 bits"]["share_in_few_bits"] > 0.8
        seeds = [[run["seed"] for run in store["runs"]] for store in task["stores"].values()]
        assert len(seeds[0]) >= 5
        assert all(seed == seeds[0] for seed in seeds)
    assert gx.lowbit.quantized(gx.adamw(1e-3)) == lowbit_training.STORES["8 bits"](gx.adamw(1e-3)), (
        "its defaults"
    )


@pytest.mark.slow
def test_the_tables_of_muon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = muon.main(["--quick", "--out", str(out)])
    assert json.loads(out.read_text()) == results
    printed = capsys.readouterr().out
    for title, rows in results["tables"].items():
        assert title in printed
        for name, row in rows.items():
            assert 0 < row["p10"] <= row["ratio"] <= row["p90"]
            assert row["largest_difference"] < (0.1 if "bfloat16" in name else 1e-5), (title, name)


@pytest.mark.slow
def test_the_buckets_run(tmp_path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = buckets.main(["--quick", "--rounds", "2", "--out", str(tmp_path / "buckets.json")])
    (case,) = results["cases"].values()
    alone = case["update alone"]
    assert alone.keys() == {"buckets", "stacks", "gradxform", "optax"}
    assert alone["stacks"]["fusions"] < alone["gradxform"]["fusions"] / 4
    assert all(row["of_optax"] > 0 for kind in case.values() for row in kind.values())
    assert json.loads((tmp_path / "buckets.json").read_text())["cases"] == results["cases"]
