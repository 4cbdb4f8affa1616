"""Every transform and recipe, every option, against the float64 references in NumPy.

Float32: at most 2e-6 of a leaf's largest update in any of 200 steps (Muon, which magnifies what is small: 1e-5), weight
decay on in every recipe that has it. With x64, and without `jit` in one row of each factory, 1e-12. Storage in bfloat16
rounds what is kept (2^-8 of it), not the update, which is formed before.
"""

import inspect
from typing import Any

import numpy as np
import pytest

import gradxform as gx

from .forced import STEPS, forced
from .grid import GRID, Case

#: The first row of each factory.
FIRST = set[str]()


def first_of_each() -> list[Any]:
    """The rows; all but the first of each factory are marked slow."""
    seen = set[str]()
    rows: list[Any] = []
    for case in GRID:
        factory = case.name.partition("(")[0]
        rows.append(pytest.param(case, id=case.name, marks=pytest.mark.slow if factory in seen else ()))
        if factory not in seen:
            FIRST.add(case.name)
        seen.add(factory)
    return rows


by_name = pytest.mark.parametrize("case", first_of_each())


def test_the_grid_names_every_case_once() -> None:
    assert len({case.name for case in GRID}) == len(GRID)


#: Tested elsewhere: Lion's modes and units that are given by axes (test_options), sharding, presets.
ELSEWHERE = {"mode", "smooth_beta", "axis", "axis_names", "like"}


def test_the_grid_knows_every_option() -> None:
    names = [case.name for case in GRID]
    for method, made in ((name, getattr(gx, name)) for name in dir(gx)):
        if getattr(made, "__module__", "").startswith("gradxform._transforms."):
            rows = [name for name in names if name.startswith(f"{method}(")]
            asked = set(inspect.signature(made).parameters) - ELSEWHERE
            missing = {k for k in asked if not any(f"({k}=" in row or f" {k}=" in row for row in rows)}
            assert not missing, (method, missing)
            assert rows


@by_name
def test_float32(case: Case) -> None:
    errors = forced(case.tx(), case.method(), STEPS)
    assert errors.worst <= case.tolerance, errors.update
    assert errors.worst_state <= case.state_tolerance, errors.state


@by_name
@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_float64(case: Case) -> None:
    errors = forced(case.tx(), case.method(), 8, np.float64, compiled=case.name not in FIRST)
    assert errors.worst <= 1e-12, errors.update
    if not case.stored:
        assert errors.worst_state <= 1e-12, errors.state
