"""Every transform and recipe, every option, against the float64 references in NumPy.

Float32: at most 2e-6 of a leaf's largest update in any of 200 steps, weight decay on in every recipe that has it. With
x64, 1e-12. Storage in bfloat16 rounds what is kept (2^-8 of it), not the update, which is formed before.
"""

import numpy as np
import pytest

from .forced import STEPS, forced
from .grid import GRID, Case

by_name = pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)


def test_the_grid_names_every_case_once() -> None:
    assert len({case.name for case in GRID}) == len(GRID)


@by_name
def test_float32(case: Case) -> None:
    errors = forced(case.tx(), case.method(), STEPS)
    assert errors.worst <= 2e-6, errors.update
    assert errors.worst_state <= case.state_tolerance, errors.state


@by_name
@pytest.mark.usefixtures("x64")
def test_float64(case: Case) -> None:
    errors = forced(case.tx(), case.method(), 12, np.float64)
    assert errors.worst <= 1e-12, errors.update
    if not case.stored:
        assert errors.worst_state <= 1e-12, errors.state
