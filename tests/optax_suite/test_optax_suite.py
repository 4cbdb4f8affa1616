"""Optax's own installed tests, run with gradxform's functions in the place of Optax's: what passes with theirs passes.

The run is a process of its own, with pytest's and JAX's default settings (ours are strict, Optax's tests do not expect
it; only the compiler of `tests/conftest.py` stays) and with the plugin in `swap.py`. Every test that does not pass
there is run again with plain Optax. If it passes then, the difference is ours: a fault, or one of the deliberate
differences in `differs.toml`, each with its reason. A listed test that passes is a fault too, so that the list cannot
outlive its reasons.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Container, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optax
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.interop, pytest.mark.optax_suite]

HERE = Path(__file__).parent
SITE = Path(optax.__file__).resolve().parents[1]
ROOMS = [
    "optax/_src",
    "optax/transforms",
    "optax/schedules",
    "optax/contrib/_common_test.py",
    "optax/contrib/_muon_test.py",
    "optax/contrib/_schedule_free_test.py",
]
#: What none of our functions is used in, or only those that the first of many parameters has used, and takes long.
LEFT_OUT = [
    "optax/_src/linear_algebra_test.py",
    *(
        f"optax/_src/linesearch_test.py::ZoomLinesearchTest::test_{name}"
        for name in ("failure", "dtype_stability", "linesearch", "high_smaller", "extract")
    ),
    *(f"optax/_src/alias_test.py::LBFGSTest::test_against_plain_implementation{n}" for n in range(1, 10)),
]
#: Seconds. On two free cores the whole takes about four minutes.
PATIENCE = 1800


def differs() -> Mapping[str, Any]:
    with open(HERE / "differs.toml", "rb") as file:
        return tomllib.load(file)


def listed(table: Mapping[str, Any]) -> dict[str, str]:
    """The behaviour for which each listed test is listed."""
    found: dict[str, str] = {}
    for group in table["differs"]:
        assert group["reason"]
        for test in group["tests"]:
            assert test not in found, f"{test} is listed twice"
            found[test] = group["behaviour"]
    return found


def about_words(table: Mapping[str, Any]) -> set[str]:
    """Listed tests that assert the words of JAX's own errors: whether plain Optax passes depends on the JAX release."""
    return {test for group in table["differs"] if group.get("words_of_jax") for test in group["tests"]}


def run(mode: str, tests: Sequence[str], folder: Path, jobs: int = 2) -> dict[str, Any]:
    """Runs tests of Optax with the plugin; returns its notes."""
    folder.mkdir()
    notes, settings, chosen = folder / "notes.json", folder / "pytest.ini", folder / "tests.txt"
    settings.write_text("[pytest]\n")
    chosen.write_text("\n".join(tests))
    ours = ("PYTEST_", "JAX_")  # the settings of this process stay here
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    root = Path(str(find_spec("gradxform").origin)).parents[1]  # type: ignore[union-attr]
    kept |= {
        "SWAP_MODE": mode,
        "SWAP_NOTES": str(notes),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(root)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "swap", "-p", "no:cacheprovider"]
    command += ["-c", str(settings), f"--rootdir={SITE}", f"--basetemp={folder / 'temp'}"]
    command += [f"--deselect={test}" for test in LEFT_OUT]
    command += ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []
    done = subprocess.run(
        [*command, f"@{chosen}"], cwd=SITE, env=kept, text=True, capture_output=True, timeout=PATIENCE
    )
    # 0: all passed, 1: some failed. Anything else (a module that cannot be imported, say) is no verdict at all.
    assert done.returncode in (0, 1), f"{mode}: {done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    return json.loads(notes.read_text())


def faults(
    ours: Mapping[str, str],
    plain: Mapping[str, str],
    reasons: Mapping[str, str],
    strict: bool,
    words: Container[str] = (),
) -> list[str]:
    """What is wrong, in words: `plain` holds the tests that do not pass in `ours`, run with plain Optax."""
    found = [
        f"{test}: {ours[test]}, but passes with plain Optax"
        for test, outcome in sorted(plain.items())
        if outcome == "passed" and test not in reasons
    ]
    for test in sorted(reasons) if strict else ():
        if test not in ours:
            found.append(f"{test}: listed in differs.toml, but Optax has no such test")
        elif ours[test] == "passed":
            found.append(f"{test}: listed in differs.toml, but passes: take it off the list")
        elif plain.get(test) != "passed" and test not in words:
            found.append(f"{test}: listed in differs.toml, but does not pass with plain Optax either")
    return found


def test_what_passes_with_optax_passes_with_ours(tmp_path: Path) -> None:
    import gradxform as gx
    from tests.optax_suite.swap import shared_names

    table = differs()
    ours = run("ours", ROOMS, tmp_path / "ours")
    names = shared_names(gx)
    assert len(names) >= 65
    assert set(names) == {place.rpartition(".")[2] for place in ours["replaced"]}
    rooms = {name: "optax" if hasattr(optax, name) else "optax.contrib" for name in names}
    assert {f"{room}.{name}" for name, room in rooms.items()} <= set(ours["replaced"])
    assert len(ours["replaced"]) >= 150, "fewer places than Optax 0.2.8 has: is the swap complete?"

    again = [test for test, outcome in ours["outcomes"].items() if outcome != "passed"]
    plain = run("plain", again, tmp_path / "plain")["outcomes"] if again else {}
    # A list can be exact for one release only; with another Optax, listed tests may be gone or pass.
    strict = optax.__version__ == table["optax"]
    wrong = faults(ours["outcomes"], plain, listed(table), strict, about_words(table))
    texts = [f"{line}\n{ours['texts'].get(line.split(': ')[0], '')[-1500:]}" for line in wrong]
    assert not wrong, "\n\n".join(texts)
    assert sum(outcome == "passed" for outcome in ours["outcomes"].values()) >= 1000


def test_a_wrong_scale_is_noticed(tmp_path: Path) -> None:
    """The negative control: with a `scale` that scales by twice the number, Optax's test of `scale` fails."""
    test = "optax/_src/transform_test.py::TransformTest::test_scale"
    assert run("ours", [test], tmp_path / "ours", jobs=1)["outcomes"] == {test: "passed"}
    assert run("wrong", [test], tmp_path / "wrong", jobs=1)["outcomes"] == {test: "failed"}


@pytest.mark.parametrize(
    ("ours", "plain", "reasons", "complaint"),
    [
        ({"t": "passed"}, {}, {}, None),
        ({"t": "failed"}, {"t": "failed"}, {}, None),
        ({"t": "skipped"}, {"t": "skipped"}, {}, None),
        ({"t": "failed"}, {"t": "passed"}, {"t": "why"}, None),
        ({"t": "failed"}, {"t": "passed"}, {}, "but passes with plain Optax"),
        ({"t": "skipped"}, {"t": "passed"}, {}, "but passes with plain Optax"),
        ({"t": "passed"}, {}, {"t": "why"}, "take it off the list"),
        ({}, {}, {"t": "why"}, "no such test"),
        ({"t": "failed"}, {"t": "failed"}, {"t": "why"}, "does not pass with plain Optax either"),
    ],
)
def test_the_verdict(
    ours: dict[str, str], plain: dict[str, str], reasons: dict[str, str], complaint: str | None
) -> None:
    found = faults(ours, plain, reasons, strict=True)
    words = faults(ours, plain, reasons, strict=True, words=["t"])
    assert (words == []) == (complaint is None or complaint.endswith("either"))
    assert (found == []) if complaint is None else (len(found) == 1 and complaint in found[0])


def test_every_difference_is_a_row_of_the_docs() -> None:
    page = (HERE.parents[1] / "docs" / "differs-from-optax.md").read_text(encoding="utf-8")
    for behaviour in listed(differs()).values():
        assert f"\n| {behaviour} |" in page, behaviour
