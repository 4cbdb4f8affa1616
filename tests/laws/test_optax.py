"""The laws find what is known to be wrong in Optax, and the page that says so is true.

All of the page takes a quarter of an hour (`python tools/laws_page.py`); here it is held for some factories.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import optax
import pytest

from gradxform import testing
from tests.laws.optax_factories import DEFECTS, check

pytestmark = pytest.mark.laws

ROOT = Path(__file__).parents[2]
SLOW = {"D11", "A12", "C7"}


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("laws_page", ROOT / "tools" / "laws_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DATA = json.loads(tool().DATA.read_text("utf-8"))
of_this_optax = pytest.mark.skipif(
    optax.__version__ != DATA["optax"], reason=f"the page is about Optax {DATA['optax']}"
)


@of_this_optax
@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.slow if key in SLOW else ()) for key in DEFECTS]
)
def test_a_known_defect_is_found(key: str) -> None:
    defect = DEFECTS[key]
    report = check(defect.factory, laws=defect.law, examples=8)
    assert report[defect.law].verdict == "broken", str(report)


def test_the_page_is_what_the_tool_writes() -> None:
    """Of what was found when it last ran: the words and the list of laws are those of today."""
    module = tool()
    text = module.PAGE.read_text("utf-8")
    assert text == module.page(DATA)
    listed = re.findall(r"(?m)^\| `(\w+)` \|", text)
    assert listed == [law.name for law in testing.laws()]


@of_this_optax
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "clip_by_global_norm", "scale_by_adam", "ema(0.999)", "yogi"])
def test_the_page_is_true_today(name: str) -> None:
    assert {outcome.law.name for outcome in check(name).broken} == set(DATA["found"][name])
