"""The pictures on the pages of methods: each page has one, and what it draws comes from the transforms."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gradxform as gx

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("figures"), importlib.import_module("pages")


def test_every_page_of_a_method_shows_its_picture(tools: Any) -> None:
    _, pages = tools
    made = pages.pages()
    assert len(made) > 20
    for name, text in made.items():
        if not name.startswith("_"):
            assert f"```{{figure}} figures/{name.removesuffix('.md')}.png\n:alt: Updates of " in text


def test_the_schedules_page_shows_those_that_are_drawn(tools: Any) -> None:
    _, pages = tools
    text = (TOOLS.parent / "docs" / "api" / "schedules.md").read_text(encoding="utf-8")
    for name in pages.families("_schedules"):
        assert f"methods/figures/{name}.png" in text


def test_what_comes_out_is_what_transforms_do(tools: Any) -> None:
    figures, _ = tools
    sizes = figures.stream()
    plain = figures.response(gx.identity(), sizes)
    assert np.corrcoef(plain, sizes)[0, 1] > 0.999
    assert np.allclose(figures.response(gx.sgd(0.1), sizes), 0.1 * plain, rtol=1e-5)  # turned to go uphill
    spike = int(np.argmax(sizes))
    clipped = figures.response(gx.clip_by_global_norm(1.0), sizes)
    assert plain[spike] > 2
    assert clipped[spike] == pytest.approx(1.0, abs=0.01)
    assert np.allclose(np.delete(clipped, spike), np.delete(plain, spike), rtol=1e-5)  # calm passes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "sgd", "muon", "warmups"])
def test_pictures_have_curves_and_labels(tools: Any, tmp_path: Path, name: str) -> None:
    figures, pages = tools
    (path,) = figures.draw(tmp_path, [name])
    assert 5_000 < path.stat().st_size < 40_000
    everything = pages.families("_transforms") | pages.families("_schedules")
    draw = figures.schedules if name == "warmups" else figures.figure
    panels = draw(everything[name]).axes
    recipes = [entry.name for entry in everything[name] if entry.kind == "recipe"]
    if name != "warmups":
        assert len(panels) == 1 + bool(recipes)
        labels = [text.get_text() for panel in panels for text in panel.get_legend().get_texts()]
        assert labels[0] == "gradient"
        assert all(any(label.startswith(f"{recipe}(") for label in labels) for recipe in recipes)
    for panel in panels:
        assert panel.get_xlabel()
        for line in panel.lines:
            assert np.isfinite(np.asarray(line.get_ydata(), float)).all()


@pytest.mark.slow
def test_a_recipe_walks_at_a_rate_within_the_grid(tools: Any) -> None:
    figures, _ = tools
    factory = next(e.factory for e in figures._catalog.entries() if e.name == "adamw")
    rate, path = figures.best(factory, (2,))
    assert figures.RATES[0] < rate < figures.RATES[-1]
    assert np.linalg.norm(path[-1]) < 0.3 * np.linalg.norm(path[0])
    assert (
        figures.best(next(e.factory for e in figures._catalog.entries() if e.name == "trace"), (2,)) is None
    )
