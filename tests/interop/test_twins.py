"""The page of twins is what the tool writes, lists every constructor, and each of its calls and defaults is true."""

import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import optax
import optax.contrib
import pytest

import gradxform as gx
from gradxform._core import errors
from tests.interop import test_foreign as foreign

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("twins_page", ROOT / "tools" / "twins_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _tool()
RECORDED = json.loads(TOOL.TORCH.read_text("utf-8"))
NAMES = {"gx": gx, "gradxform": gx}


def test_the_page_is_what_the_tool_writes() -> None:
    text = TOOL.PAGE.read_text("utf-8")
    if f"Optax {optax.__version__} " not in text:
        pytest.skip("the page is about another Optax")
    assert text == TOOL.page(), "write it anew: python tools/twins_page.py"


def test_every_factory_of_optax_is_on_it() -> None:
    """Those that the tests of foreign transforms find by another way of looking."""
    listed = {c.name for c in TOOL.constructors()}
    assert {name.removeprefix("contrib.") for name in foreign.factories()} <= listed
    assert {"nadam", "schedule_free_adamw", "sgdr_schedule", "MultiSteps", "inject_hyperparams"} <= listed


#: Not in the list of the tests of foreign transforms, with who tries them, or why nobody does.
ELSEWHERE = {
    "dog": "below",
    "dowg": "below",
    "mechanize": "takes a transform",
    "sam": "takes a transform",
    "hutchinson_estimator_diag_hessian": "gives an estimate for sophia in the place of updates",
}


def test_what_has_no_twin_is_tried_inside_our_chains() -> None:
    tried = {name.removeprefix("contrib.") for name in foreign.factories()}
    schedules = {c.name for c in TOOL.alone() if c.name.endswith("_schedule")}
    assert {c.name for c in TOOL.alone()} - tried - schedules - set(ELSEWHERE) == set()


@pytest.mark.parametrize("make", [optax.contrib.dog, optax.contrib.dowg])
def test_those_without_an_annotation_are_what_they_are_alone(make: Any) -> None:
    with foreign.optax_s_own():
        alone = foreign.run(make(0.1), {})
        tx = gx.chain(make(0.1), gx.identity())
    params, updates, (state, _) = foreign.run(tx, {})
    foreign.assert_same((params, updates, state), alone)


def test_the_remedies_of_errors_and_the_page_name_the_same_twins() -> None:
    for name, said in errors.TWINS.items():
        assert name in TOOL.OTHER_NAMES, name
        assert re.findall(r"\w+\.(\w+)", said)[0] in TOOL.OTHER_NAMES[name].call, name


#: Defaults that are functions: ours have names, so that they can be printed and compared.
FUNCTIONS = {
    "scale_by_factored_rms": {"decay_rate_fn"},
    "adopt": {"clip_value_fn"},
    "scale_by_adopt": {"clip_value_fn"},
}


def test_the_signatures_of_one_name_agree() -> None:
    """Optax's arguments in Optax's order under Optax's defaults; what we add is keyword-only."""
    seen = 0
    for item in TOOL.constructors():
        mine = TOOL.ours(item.name)
        if mine is None or item.name in TOOL.OTHER_NAMES:
            continue
        seen += 1
        added, missing, differing = TOOL.compared(item.call, mine)
        assert missing == [], item.name
        assert set(differing) <= FUNCTIONS.get(item.name, set()), item.name
        ours = inspect.signature(mine).parameters
        assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in added), item.name
        theirs = [n for n, p in inspect.signature(item.call).parameters.items() if p.kind != p.VAR_KEYWORD]
        assert [n for n in ours if n in theirs] == theirs, item.name
    assert seen > 60


@pytest.mark.parametrize("name", sorted(TOOL.OTHER_NAMES))
def test_a_twin_of_another_name_can_be_called(name: str) -> None:
    assert TOOL.ours(name) is None, "it has a twin of its own name now"
    twin = eval(TOOL.OTHER_NAMES[name].call, dict(NAMES))
    if "(" in TOOL.OTHER_NAMES[name].call and "projection" not in name and "schedule" not in name:
        assert isinstance(twin, gx.GradientTransformation)
    assert callable(twin) or isinstance(twin, tuple)


def _arguments(tx: Any) -> dict[str, Any]:
    return dict(tx.spec.arguments)


def _plain(x: Any) -> Any:
    """`None`, 0 and False say the same of a momentum that is not there."""
    if isinstance(x, list | tuple):
        return [_plain(y) for y in x]
    return 0.0 if x is None else float(x)


@pytest.mark.parametrize("name", sorted(RECORDED["optimizers"]))
def test_torch_s_defaults_are_those_of_the_call(name: str) -> None:
    defaults = RECORDED["optimizers"][name]
    if name in TOOL.NO_TWIN:
        assert name not in TOOL.TORCH_TWINS
        return
    twin = TOOL.TORCH_TWINS[name]
    mine = _arguments(eval(twin.call, dict(NAMES)))
    for theirs, ours in twin.same.items():
        got = mine[ours] if isinstance(ours, str) else [mine[part] for part in ours]
        assert _plain(got) == _plain(defaults[theirs]), theirs
    spoken = {*twin.same, *TOOL.EXECUTION, "weight_decay"}
    for left in set(defaults) - spoken:
        assert left in twin.note or not defaults[left], f"{left} is not on the page"


def test_torch_s_adafactor_agrees_in_the_arguments_of_another_form() -> None:
    defaults = RECORDED["optimizers"]["Adafactor"]
    mine = _arguments(gx.adafactor(0.01, like="torch"))
    assert defaults["beta2_decay"] == -mine["decay_rate"]
    assert (defaults["eps"], mine["floor"], mine["min_scale"]) == ([None, 1e-3], "machine", 1e-3)


def test_every_scheduler_of_torch_is_on_the_page() -> None:
    named = {call.partition("(")[0] for call in TOOL.SCHEDULES} | set(TOOL.OTHER_SCHEDULERS)
    assert named >= set(RECORDED["schedulers"])
    assert set(RECORDED["rates"]) == set(TOOL.SCHEDULES)


@pytest.mark.parametrize("call", sorted(TOOL.SCHEDULES))
def test_a_scheduler_s_twin_has_its_values(call: str) -> None:
    schedule = eval(TOOL.SCHEDULES[call], dict(NAMES))
    got = np.array([float(schedule(step)) for step in range(RECORDED["meta"]["steps"])])
    np.testing.assert_allclose(got, RECORDED["rates"][call], rtol=2e-5, atol=1e-8)
