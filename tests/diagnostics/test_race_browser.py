"""The page in a real browser: it loads, plays, its sliders move the paths, by keyboard too, and on a telephone.

It runs where a Chromium and its driver are installed (`apt-get install chromium chromium-driver`), and is skipped
elsewhere.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradxform.diagnostics import race

pytest.importorskip("bokeh")
webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no Chromium with its driver is installed on this machine"
    ),
]

FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync hide-scrollbars"
)
STEPS = 120
READY = "return document.documentElement.dataset.ready === 'yes'"
# A column of the source of that name, as the picture has it.
COLUMN = """
for (const page of Bokeh.documents) {
  const source = page.get_model_by_name(arguments[0]);
  if (source) return Array.from(source.data[arguments[1]], (row) => (row.length === undefined ? row : Array.from(row)));
}
"""


class Browser:
    """A window with the page in it."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver, self.path = driver, path

    def open(self, width: int = 1280, height: int = 900) -> "Browser":
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(self.path.as_uri())
        self.until(lambda: self.driver.execute_script(READY))
        return self

    def until(self, true: Any) -> None:
        WebDriverWait(self.driver, 60, poll_frequency=0.1).until(lambda _: true())

    def one(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def press(self, name: str, *keys: str) -> None:
        self.one(name).send_keys(*keys)

    def value(self, name: str) -> int:
        return int(self.one(name).get_attribute("value"))

    def column(self, source: str, name: str) -> list[Any]:
        return self.driver.execute_script(COLUMN, source, name)

    def path_of(self, method: int) -> Any:
        """The path of a method as the picture has it."""
        xs, ys = (self.column("path-lines", name)[method] for name in ("xs", "ys"))
        return np.array([xs, ys], float).T

    def rate_of(self, method: int) -> float:
        row = self.driver.find_elements(By.CSS_SELECTOR, "#methods tr")[method]
        return float(row.find_elements(By.TAG_NAME, "td")[1].text)

    def problems(self) -> list[str]:
        """What the console has beside mere information."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] != "INFO"]

    def asked_for(self) -> list[str]:
        """Every address that the page has asked for, itself included; the browser's own first window asks too."""
        events = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        here = self.path.as_uri()
        return [event["request"]["url"] for event in sent if event["documentURL"] == here]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return race.write(tmp_path_factory.mktemp("race") / "race.html", steps=STEPS)


@pytest.fixture(scope="module")
def known(path: Path) -> race.Recording:
    return race.read(path)


@pytest.fixture(scope="module")
def browser(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Browser(driver, path)
    driver.quit()


def test_it_loads_without_a_word_in_the_console_and_asks_for_nothing(browser: Browser):
    browser.open()
    assert browser.problems() == []
    asked = browser.asked_for()
    assert browser.path.as_uri() in asked
    assert {address.split(":")[0] for address in asked} <= {"file", "data", "blob"}
    assert not browser.one("trouble").is_displayed()
    assert [len(row) for row in browser.column("path-lines", "xs")] == [1] * 7


def test_the_console_and_the_network_are_heard(browser: Browser):
    """The control of the test above: a picture from elsewhere is asked for, refused by the page's policy, and seen."""
    browser.open()
    browser.driver.execute_script("new Image().src = 'http://localhost:9/x.png'; console.error('heard');")
    problems: list[str] = []
    browser.until(lambda: problems.extend(browser.problems()) or len(problems) > 1)
    assert any("heard" in problem for problem in problems)
    assert any("Content Security Policy" in problem for problem in problems)


def test_it_plays_pauses_and_begins_again_at_its_end(browser: Browser):
    browser.open()
    play = browser.one("play")
    # Slowly: a loaded machine may else be at the end, where it pauses by itself, before the click that is to do so.
    browser.driver.execute_script("document.getElementById('speed').value = '10'")
    play.click()
    assert play.text == "Pause"
    browser.until(lambda: browser.value("frame") > 2)
    play.click()
    at = browser.value("frame")
    assert play.text == "Play"
    assert browser.one("frame-text").text == str(at)
    browser.until(lambda: len(browser.column("path-lines", "xs")[0]) == at + 1)
    browser.driver.execute_script("document.getElementById('speed').value = '150'")
    play.click()
    browser.until(lambda: browser.value("frame") == STEPS)
    browser.until(lambda: play.text == "Play")
    play.click()
    browser.until(lambda: 0 < browser.value("frame") < STEPS)
    assert browser.problems() == []


def test_what_is_drawn_is_what_the_library_has_computed(browser: Browser, known: race.Recording):
    browser.open()
    browser.press("frame", Keys.END)
    for number, method in enumerate(known.methods):
        best = known.best_rate(method, "Rosenbrock")
        assert browser.rate_of(number) == pytest.approx(best)
        positions, gaps = known.path(method, "Rosenbrock", rate=best, b1=0.9, b2=0.99)
        np.testing.assert_allclose(browser.path_of(number), positions, atol=1e-5)
        np.testing.assert_allclose(
            np.array(browser.column("loss-lines", "ys")[number], float), gaps, rtol=1e-5
        )


@pytest.mark.parametrize("name", ["rate", "b1", "b2"])
def test_a_slider_moves_the_path_to_its_stop(browser: Browser, known: race.Recording, name: str):
    browser.open()
    browser.press("frame", Keys.END)
    before, picture = browser.path_of(3), browser.one("race-paths").screenshot_as_png
    words = browser.one(f"{name}-text").text
    browser.press(name, Keys.ARROW_LEFT)
    assert browser.one(f"{name}-text").text != words
    assert browser.one(name).get_attribute("aria-valuetext") == browser.one(f"{name}-text").text
    after = browser.path_of(3)
    assert not np.allclose(after, before, equal_nan=True)
    at = {"rate": known.best_rate("Adam", "Rosenbrock"), "b1": 0.9, "b2": 0.99}
    stops = known.data["stops"][name]
    at[name] = stops[stops.index(at[name]) - 1]
    assert browser.rate_of(3) == pytest.approx(at["rate"])
    np.testing.assert_allclose(after, known.path("Adam", "Rosenbrock", **at)[0], atol=1e-5)
    browser.until(lambda: browser.one("race-paths").screenshot_as_png != picture)


def test_one_rate_for_all_another_landscape_and_a_method_left_out(browser: Browser, known: race.Recording):
    browser.open()
    browser.press("frame", Keys.END)
    browser.driver.find_elements(By.NAME, "landscape")[2].click()
    browser.until(lambda: "turned by 30 degrees" in browser.one("about").text)
    browser.driver.find_elements(By.NAME, "rates")[1].click()
    assert browser.one("rate-text").text == "0.01"
    for number, method in enumerate(known.methods):
        positions, _ = known.path(method, "noisy ravine", rate=0.01, b1=0.9, b2=0.99)
        np.testing.assert_allclose(browser.path_of(number), positions, atol=1e-5)
    browser.driver.find_element(By.CSS_SELECTOR, "#methods input").click()
    positions, _ = known.path("Momentum", "noisy ravine", rate=0.01, b1=0.9)
    np.testing.assert_allclose(browser.path_of(0), positions, atol=1e-5)
    assert len(browser.column("path-lines", "xs")) == 6
    assert browser.problems() == []


def test_a_path_that_is_lost_says_so(browser: Browser):
    browser.open()
    browser.driver.find_elements(By.NAME, "rates")[1].click()
    browser.press("rate", Keys.END)
    browser.press("frame", Keys.END)
    rows = [row.text for row in browser.driver.find_elements(By.CSS_SELECTOR, "#methods tr")]
    assert "gx.sgd(1)" in rows[0]
    assert rows[0].endswith("infinite")
    assert any("out of sight" in row for row in rows)
    assert browser.problems() == []


def test_adam_step_by_step_shows_the_worked_trace(browser: Browser, known: race.Recording):
    browser.open()
    rows = browser.driver.find_elements(By.CSS_SELECTOR, "#steps tr")
    cells = [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows[1:9]]
    assert [row[2] for row in cells[:4]] == ["1.0000", "1.8980", "2.7042", "3.4278"]
    assert [row[3] for row in cells[:4]] == ["0.1000", "0.1995", "0.2985", "0.3970"]
    assert [row[4] for row in cells[:2]] == ["0.1000", "0.1900"]
    assert cells[7][9:] == ["4.9200", "24.2067"]
    assert rows[8].get_attribute("class") == "now"
    browser.press("adam-rate", Keys.END)
    browser.press("t", Keys.ARROW_RIGHT)
    seen = known.adam(rate=1.0, b1=0.9, b2=0.999)
    assert rows[9].get_attribute("class") == "now"
    np.testing.assert_allclose(browser.column("walked", "x"), seen["w"][:10], rtol=1e-6)
    np.testing.assert_allclose(browser.column("rows", "step"), seen["step"][1:], rtol=1e-6)
    assert re.search(r"^Step 9: ", browser.one("adam-words").text)
    browser.press("t", Keys.HOME)
    browser.one("adam-play").click()
    browser.until(lambda: browser.value("t") > 2)
    assert browser.problems() == []


CONTROLS = {"play", "frame", "speed", "rate", "b1", "b2", "adam-play", "t", "adam-rate", "adam-b1", "adam-b2"}


def test_every_control_is_reached_and_moved_by_the_keyboard(browser: Browser):
    browser.open()
    reached: list[str] = []
    for _ in range(40):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        here = browser.driver.switch_to.active_element
        reached.append(here.get_attribute("id") or here.get_attribute("name") or here.tag_name)
        seen = browser.driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", here)
        assert here.tag_name == "body" or seen == "solid", (
            f"{reached[-1]} does not show that it has the focus"
        )
        if here.get_attribute("class") == "scroll":
            break
    assert set(reached) >= CONTROLS | {"landscape", "rates"}
    places = [
        reached.index(name) for name in ("landscape", "play", "frame", "rate", "b1", "b2", "adam-play", "t")
    ]
    assert places == sorted(places)
    browser.press("play", Keys.SPACE)
    browser.until(lambda: browser.value("frame") > 0)
    browser.press("play", Keys.SPACE)
    assert browser.one("play").text == "Play"
    browser.driver.find_element(By.NAME, "landscape").send_keys(Keys.ARROW_RIGHT)
    browser.until(lambda: "ridge" in browser.one("about").text)


def test_it_fits_a_telephone(browser: Browser):
    browser.open(375, 800)
    script = browser.driver.execute_script
    assert script("return document.documentElement.scrollWidth") == 375
    for name in sorted(CONTROLS | {"race-paths", "race-losses", "adam-m", "adam-v", "methods"}):
        left, right = script(
            "const r = arguments[0].getBoundingClientRect(); return [r.left, r.right]", browser.one(name)
        )
        assert left >= 0, name
        assert right <= 375, name
        assert right - left >= 60, f"{name} is too narrow for a finger"
    # The picture and the button that moves it are seen together.
    top, bottom = script(
        "return [arguments[0].getBoundingClientRect().top, arguments[1].getBoundingClientRect().bottom]",
        browser.one("race-paths"),
        browser.one("b2"),
    )
    assert bottom - top < 800
    browser.press("frame", Keys.END)
    before = browser.one("race-paths").screenshot_as_png
    browser.press("rate", Keys.ARROW_RIGHT)
    browser.until(lambda: browser.one("race-paths").screenshot_as_png != before)
    assert browser.problems() == []


def test_the_page_as_it_comes_is_small_enough(tmp_path: Path):
    path = race.write(tmp_path / "race.html")
    assert path.stat().st_size <= 5_000_000
    assert race.read(path).landscapes == ("Rosenbrock", "saddle", "noisy ravine")
