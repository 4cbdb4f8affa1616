"""Each law can fail: there is a wrong transform that breaks it, and as far as possible no other law."""

from typing import Any

import flax.serialization  # noqa: F401  # the law about files asks Flax too, if the program has imported it
import pytest

from gradxform import testing
from tests.laws.controls import CONTROLS, GOOD

pytestmark = pytest.mark.laws


def run(law: Any, **options: Any) -> testing.Report:
    control = CONTROLS[law]
    return testing.check_transform(control.tx, reach=control.reach, seed=0, raises=False, **options)


def test_every_law_has_a_control() -> None:
    assert set(CONTROLS) == {law.name for law in testing.laws()}


@pytest.mark.parametrize("law", CONTROLS)
def test_the_control_breaks_its_law(law: str) -> None:
    report = run(law, laws=law)
    assert [outcome.law.name for outcome in report.broken] == [law], str(report)


def own() -> set[str]:
    """What the transform inside all controls breaks itself."""
    report = testing.check_transform(GOOD, seed=0, examples=4, raises=False)
    return {outcome.law.name for outcome in report.broken}


@pytest.mark.slow
def test_the_transform_inside_the_controls_is_right() -> None:
    assert own() <= {"sharded_jit_init"}


@pytest.mark.slow
@pytest.mark.parametrize("law", CONTROLS)
def test_the_control_breaks_no_other(law: str) -> None:
    """Of its theme and of the forms, with which a breach is most easily confused."""
    theme = next(each.theme for each in testing.laws() if each.name == law)
    near = [each.name for each in testing.laws() if each.theme in (theme, "forms")]
    report = run(law, laws=near, examples=4)
    broken = {outcome.law.name for outcome in report.broken} - {"sharded_jit_init"}
    assert broken | {law} == {law} | (broken & CONTROLS[law].also), str(report)
