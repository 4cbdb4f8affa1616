"""`benchmarks/gpu.py` runs to its end on a machine without a GPU, and every experiment gives figures."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks import gpu

pytestmark = pytest.mark.usefixtures("warm")


@pytest.mark.slow
def test_every_experiment_gives_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--out", str(out)])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        gpu.main()
    found = json.loads(out.read_text())
    assert found["machine"]["jax"] == jax.__version__
    assert found["left_out"] == []
    assert {f"E{i}" for i in range(1, 13)} | {"torch"} == set(found["results"])
    assert errors(found["results"]) == []
    for name in ("E2", "E6", "E7", "E8"):
        (_, *tables) = found["results"][name].values()
        assert all(entry["milliseconds"] > 0 for table in tables for entry in table.values())


def errors(x: Any) -> list[str]:
    """The errors in nested figures."""
    if not isinstance(x, dict):
        return []
    return [x["error"]] if "error" in x else [e for value in x.values() for e in errors(value)]


def test_an_error_is_written_in_the_place_of_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(lab: gpu.Lab) -> Any:
        def fails() -> Any:
            raise RuntimeError("no such kernel")

        return lab.race({"bad": fails, "good": lambda: lambda calls: 1.0}, None)

    def worse(lab: gpu.Lab) -> Any:
        raise RuntimeError("worse")

    out = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "EXPERIMENTS", {"E1": (broken, 0), "E2": (worse, 0), "E3": (broken, 1e9)})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out)])
    gpu.main()
    found = json.loads(out.read_text())
    assert "no such kernel" in found["results"]["E1"]["bad"]["error"]
    assert found["results"]["E1"]["good"]["milliseconds"] == 1000.0
    assert "worse" in found["results"]["E2"]["error"]
    assert found["left_out"] == ["E3"]


def test_kernels_are_counted_in_the_entry() -> None:
    text = (
        "HloModule m, input_output_alias={ {0}: (0, {}, may-alias) }\n\n%f { fusion( }\n\nENTRY %main {\n"
        "  %a = f32[3]{0} fusion(%p), kind=kLoop\n  %b = (f32[], f32[3]{0}) fusion(%a)\n  %c = f32[3]{0} copy(%a)\n}"
    )
    found = gpu.kernels(text)
    assert (found["hlo_fusion"], found["hlo_copy"], found["hlo_custom_call"]) == (2, 1, 0)
