"""The numbers of the page are the library's, the page loads nothing, and what is wrong is said."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import gradxform as gx
from gradxform.diagnostics import landscapes, race
from gradxform.diagnostics.race import entrants, packing, page as page_module

pytest.importorskip("bokeh")

STEPS = 25
LAND = landscapes.RAVINE

# Every method as a reader would call it, at stops of the sliders that are not those where the page begins.
RATE, B1, B2 = 0.02, 0.8, 0.95
BY_HAND = {
    "SGD": gx.sgd(RATE),
    "Momentum": gx.sgd(RATE, momentum=B1),
    "RMSprop": gx.rmsprop(RATE, decay=B2),
    "Adam": gx.adam(RATE, b1=B1, b2=B2),
    "AdamW": gx.adamw(RATE, b1=B1, b2=B2, weight_decay=0.1),
    "Lion": gx.lion(RATE, b1=B1, b2=B2),
    "Muon": gx.muon(RATE, beta=B1),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return race.write(tmp_path_factory.mktemp("race") / "race.html", steps=STEPS, landscapes=[LAND])


@pytest.fixture(scope="module")
def known(path: Path) -> race.Recording:
    return race.read(path)


@pytest.fixture(scope="module")
def text(path: Path) -> str:
    return path.read_text("utf-8")


@pytest.mark.parametrize("name", BY_HAND)
def test_a_path_of_the_page_is_the_path_of_the_transform(known: race.Recording, name: str):
    shape = (1, 2) if name == "Muon" else (2,)
    positions, losses = landscapes.trajectory(BY_HAND[name], LAND, STEPS, shape=shape)
    seen, gaps = known.path(name, LAND.name, rate=RATE, b1=B1, b2=B2)
    unit = np.ptp(packing.area(LAND.box), axis=1) / 65534
    assert np.all(np.abs(seen - np.asarray(positions)) <= 0.51 * unit + 2e-5)
    np.testing.assert_allclose(gaps, np.asarray(losses), rtol=0.005)
    other, _ = known.path(name, LAND.name, rate=0.05, b1=B1, b2=B2)
    assert np.abs(other - np.asarray(positions)).max() > 10 * unit.max()


def test_every_slider_that_a_method_has_moves_it_and_no_other(known: race.Recording):
    at = {"rate": 0.1, "b1": B1, "b2": B2}
    for entrant in entrants.ENTRANTS:
        positions, _ = known.path(entrant.name, LAND.name, **at)
        for axis, stops in entrants.STOPS.items():
            paths = [known.path(entrant.name, LAND.name, **{**at, axis: stop})[0] for stop in stops]
            still = all(np.array_equal(path, positions, equal_nan=True) for path in paths)
            assert still is (axis not in entrant.axes), (entrant.name, axis)


def test_adam_on_the_parabola_is_the_worked_trace(known: race.Recording):
    """Adam on w^2 from 5 at rate 0.01: the eight steps that teaching texts print, and where w and its loss end."""
    seen = known.adam(rate=0.01, b1=0.9, b2=0.999)
    m = [1.0000, 1.8980, 2.7042, 3.4278, 4.0770, 4.6593, 5.1814, 5.6492]
    v = [0.1000, 0.1995, 0.2985, 0.3970, 0.4950, 0.5925, 0.6896, 0.7861]
    np.testing.assert_allclose(seen["m"][1:9], m, atol=6e-5)
    np.testing.assert_allclose(seen["v"][1:9], v, atol=6e-5)
    assert round(float(seen["w"][8]), 4) == 4.9200
    assert round(float(seen["loss"][8]), 2) == 24.21


def test_adam_on_the_parabola_is_adam_in_double_precision(known: race.Recording):
    rate, b1, b2 = 0.1, 0.95, 0.99
    seen = known.adam(rate=rate, b1=b1, b2=b2)
    w, m, v = 5.0, 0.0, 0.0
    for t in range(1, 61):
        g = 2 * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        step = -rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        w += step
        wanted = {"g": g, "m": m, "v": v, "m_hat": m_hat, "v_hat": v_hat, "step": step, "w": w, "loss": w * w}
        for name, value in wanted.items():
            np.testing.assert_allclose(seen[name][t], value, rtol=2e-4, atol=2e-5, err_msg=f"{name}, t = {t}")


def test_packed_paths_come_back_and_what_is_gone_is_absent():
    positions = np.array([[[0.0, 0.5], [1.9, -0.9], [2.5, 0.0], [np.inf, np.nan]]])
    gaps = np.array([[1.0, 1e-5, 0.0, np.inf]])
    text = packing.pack_paths(positions, gaps, ((0, 1), (0, 1)))
    back, heights = packing.unpack_paths(text, (1,), 3, ((0, 1), (0, 1)))
    np.testing.assert_allclose(back[0, :2], positions[0, :2], atol=3 / 65534)
    np.testing.assert_array_equal(np.isnan(back[0]), [[0, 0], [0, 0], [1, 0], [1, 1]])
    np.testing.assert_allclose(heights[0], [1.0, 1e-5, packing.FLOOR, np.nan], rtol=0.002)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_squeezed_numbers_come_back_bit_by_bit(dtype: str):
    words = np.random.default_rng(0).integers(0, 255, 240, np.uint8).view(dtype).reshape(2, -1)
    back = packing.expand(packing.squeeze(words), dtype, words.shape)
    assert back.tobytes() == words.tobytes()


class Reader(HTMLParser):
    """What a page would load, its ids, what refers to them, and tags that are not closed."""

    EMPTY = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.scripts: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster") and not str(value).startswith(
                "#"
            ):
                self.loads.append(str(value))
            if name == "id":
                self.ids.append(str(value))
            if name in ("for", "aria-labelledby") or (name == "href" and str(value).startswith("#")):
                self.refers.append(str(value).removeprefix("#"))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_the_page_is_whole_and_loads_nothing(text: str):
    reader = read_page(text)
    assert reader.faults == []
    assert reader.open == []
    assert reader.loads == ["data:,"], "the empty icon, without which browsers ask for one"
    assert len(set(reader.ids)) == len(reader.ids)
    style, *_, script = reader.scripts
    assert not re.search(r"url\(|@import", style)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\b|WebSocket|https?:", script)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy, "the browser itself is told to load nothing"
    assert policy[1].startswith("default-src 'none'; script-src 'unsafe-inline';")
    assert "http" not in policy[1]
    assert "{{" not in text.replace(reader.scripts[1], "")


def test_the_reader_of_pages_sees_faults():
    reader = read_page('<html><p><img src="https://example.org/a.png"></div><a href="#x"></a></html>')
    assert reader.loads == ["https://example.org/a.png"]
    assert reader.refers == ["x"]
    assert "div" in reader.faults


def test_what_the_script_asks_for_is_in_the_page(text: str):
    reader = read_page(text)
    wanted = set(re.findall(r'(?:byId|slider|draw)\("([\w-]+)"', reader.scripts[-1]))
    assert len(wanted) > 15
    made_by_script = {f"adam-{axis}" for axis in entrants.STOPS}
    assert wanted | made_by_script | set(reader.refers) <= set(reader.ids)


def test_a_landscape_of_ones_own_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One method only: what is tested is that they arrive."""
    monkeypatch.setattr(page_module, "ENTRANTS", entrants.ENTRANTS[:1])
    bowl = landscapes.Landscape(
        "bowl </script>", lambda w: (w**2).sum(), (3.0, 1.0), ((-4, 4), (-4, 4)), (0.0, 0.0), 0.1
    )
    key = jax.random.key(7)
    seen = race.read(race.write(tmp_path / "own.html", steps=4, landscapes=bowl, key=key))
    assert seen.landscapes == ("bowl </script>",)
    positions, _ = landscapes.trajectory(gx.sgd(0.1), bowl, 4, key=key)
    np.testing.assert_allclose(seen.path("SGD", "bowl </script>", rate=0.1)[0], positions, atol=3e-4)


def flat(name: str = "flat") -> landscapes.Landscape:
    return landscapes.Landscape(name, lambda w: w.sum(), (0.0, 0.0), ((-1, 1), (-1, 1)))


@pytest.mark.parametrize(
    ("arguments", "problem", "message"),
    [
        ({"steps": 0}, ValueError, "gx.diagnostics.race.write(steps=0): wanted at least 1, got 0"),
        (
            {"steps": 2.5},
            TypeError,
            "gx.diagnostics.race.write(steps=2.5): wanted a whole number, got a float",
        ),
        ({"steps": 1001}, ValueError, "gx.diagnostics.race.write(steps=1001): wanted at most 1,000"),
        ({"landscapes": "saddle"}, TypeError, "(landscapes): wanted a list of landscapes, got a string"),
        ({"landscapes": ["saddle"]}, TypeError, "(landscapes): wanted landscapes, got a string"),
        ({"landscapes": [flat()]}, ValueError, "(landscapes): 'flat' has no lowest point"),
        (
            {"landscapes": []},
            ValueError,
            "(landscapes): wanted at least one, each with a name of its own, got []",
        ),
        ({"landscapes": [LAND, LAND]}, ValueError, "a name of its own, got ['noisy ravine', 'noisy ravine']"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, arguments: dict[str, Any], problem: type[Exception], message: str
):
    with pytest.raises(problem, match=re.escape(message)):
        race.write(tmp_path / "race.html", **arguments)
    assert not (tmp_path / "race.html").exists()


def test_a_page_that_would_be_too_large_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_module, "data", lambda *_: {"much": "x" * 5_000_000})
    with pytest.raises(
        ValueError, match=r"the page would have \d\.\d MB, 5 MB is the most.*\n?.*fewer steps"
    ):
        race.write(tmp_path / "race.html", landscapes=[LAND])
    assert not (tmp_path / "race.html").exists()


def test_without_bokeh_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(ImportError, match=r"bokeh is not installed; pip install 'gradxform\[page\]'"):
        race.write(tmp_path / "race.html")


def test_a_recording_names_what_it_does_not_have(known: race.Recording, tmp_path: Path):
    with pytest.raises(ValueError, match="method='Adagrad': wanted one of SGD, Momentum"):
        known.path("Adagrad", LAND.name, rate=RATE)
    with pytest.raises(ValueError, match=r"rate=0\.03: wanted one of 0\.0001, "):
        known.path("SGD", LAND.name, rate=0.03)
    with pytest.raises(TypeError, match="wanted a stop of rate, b1, b2, got none of b2"):
        known.adam(rate=RATE, b1=B1)
    (tmp_path / "other.html").write_text("<html></html>")
    with pytest.raises(ValueError, match=r"this is no page that race\.write has made"):
        race.read(tmp_path / "other.html")


def test_the_best_rate_is_the_one_that_ends_lowest(known: race.Recording):
    at = {"b1": 0.9, "b2": 0.99}
    for name in known.methods:
        worst = {rate: known.path(name, LAND.name, rate=rate, **at)[1][-2:].max() for rate in entrants.RATES}
        best = known.best_rate(name, LAND.name)
        assert worst[best] <= min(value for value in worst.values() if np.isfinite(value)) * 1.01
