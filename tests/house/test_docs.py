"""The words are true: docstrings run, every public name has one and is listed, every module is on the map."""

import doctest
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

import gradxform
from gradxform import build, fused, interop, lowbit, plots, sharding, testing
from gradxform.diagnostics import landscapes, race

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts),
]

# Annotations, listed with their meaning; they have no docstring of their own.
ROLES = {
    "Basis",
    "Count",
    "Factor",
    "Gram",
    "History",
    "Accumulator",
    "Iterate",
    "Key",
    "Moment",
    "Reading",
    "Residual",
    "SecondMoment",
}
# Records: what a rule sees, or what an executor is handed; and an error. The examples of the lifts, of `two_float`, of
# `load` and of `from_torch` show them.
RECORDS = {
    "Buckets",
    "CheckpointError",
    "Context",
    "Decay",
    "Executor",
    "FromTorch",
    "Law",
    "Leaf",
    "Loaded",
    "Quantized",
    "Restored",
    "RestoredLeaf",
    "Scheduled",
    "Stage",
    "TorchRun",
    "TwoFloat",
}


def names(module: ModuleType) -> dict[str, Any]:
    """The public names of a namespace, submodules aside."""
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


PUBLIC = {
    f"{module.__name__}.{name}": value
    for module in (gradxform, build, fused, lowbit, sharding, testing)
    for name, value in names(module).items()
}
PUBLIC |= {
    f"gradxform.lowbit.bitsandbytes.{name}": value
    for name, value in names(lowbit.bitsandbytes).items()
    if inspect.isfunction(value) and value.__module__ == lowbit.bitsandbytes.__name__
}
PUBLIC |= {
    f"gradxform.interop.{name}": value
    for name, value in names(interop).items()
    if name not in names(gradxform)
}
PUBLIC |= {f"gradxform.plots.{name}": value for name, value in names(plots).items()}
PUBLIC |= {
    f"gradxform.diagnostics.landscapes.{name}": value
    for name, value in names(landscapes).items()
    if getattr(value, "__module__", "") == landscapes.__name__ and not isinstance(value, landscapes.Landscape)
}
PUBLIC |= {f"gradxform.diagnostics.race.{name}": value for name, value in names(race).items()}
DOCUMENTED = {name: value for name, value in PUBLIC.items() if name.split(".")[-1] not in ROLES}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_run(name: str):
    """As a user has them: with JAX's own promotion rules, not with the strict ones of these tests."""
    thing = inspect.unwrap(DOCUMENTED[name])
    module = inspect.getmodule(thing)
    # Methods that are inherited from tuple have nothing to run; a class of ours is looked through with its members.
    found = doctest.DocTestFinder(recurse=inspect.isclass(thing)).find(thing, name, module=module, globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    printed: list[str] = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for test in found:
            test.globs["__name__"] = "__main__"
            runner.run(test, out=printed.append)
    assert not runner.failures, "".join(printed)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_says_what_it_is_and_shows_it(name: str):
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    assert text, f"{name} has no docstring"
    assert text.splitlines()[0].endswith((".", ":")), f"{name}: the first line is one sentence"
    if name.split(".")[-1] not in RECORDS:
        assert re.search(r"(?m)^Example:\n +>>> ", text), f"{name} has no Example that runs"


def made_pages() -> dict[str, str]:
    """What `tools/pages.py` makes of the catalogue when the documentation is built."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_the_api_pages_list_every_public_name_once():
    listed: list[str] = []
    for page in sorted(API.glob("*.md")):
        listed += re.findall(r"(?m)^\.\. (?:auto\w+|py:data):: (\S+)", page.read_text(encoding="utf-8"))
    for text in made_pages().values():
        listed += re.findall(r"(?m)^\.\. autofunction:: (\S+)", text)
    assert sorted(listed) == sorted(PUBLIC)


def test_the_map_lists_every_module_once():
    text = (ROOT / "docs" / "design" / "map.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| `([\w/]+\.py)`", text)
    package = ROOT / "gradxform"
    there = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    # The methods have pages of their own, made from their docstrings.
    there = [path for path in there if not path.startswith("_transforms/")]
    wanted = [path.removeprefix("_core/") for path in there if not path.endswith("/__init__.py")]
    assert sorted(listed) == sorted(wanted)


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (
                f"{page.relative_to(ROOT)} links to {target}, which is not there"
            )


@pytest.mark.slow
def test_every_block_of_every_page_prints_what_the_page_says():
    """In a process of their own, without the strict settings of these tests."""
    command = [sys.executable, str(ROOT / "tools" / "readme.py"), *map(str, PAGES)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


def test_every_python_block_of_the_guide_is_run():
    """A block that is merely shown would be the first to become untrue."""
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            if re.match(r" *```(python|py|pycon)", line):
                assert re.fullmatch(r"```python (run|continue)", line), (
                    f"{page.relative_to(ROOT)}:{number}: {line}"
                )
