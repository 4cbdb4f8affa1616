"""Every public factory of transforms keeps every law. What does not hold is data, with its reason."""

import flax.serialization  # noqa: F401  # the law about files tries it where a program has it
import pytest

from gradxform import testing
from tests.laws.arguments import GAPS, NAMES, PARAMS, VARIANTS, make

pytestmark = pytest.mark.laws


def check(name: str, examples: int, laws: list[str] | None = None) -> None:
    report = testing.check_transform(
        make(name), params=PARAMS.get(name), laws=laws, seed=0, examples=examples, raises=False
    )
    broken = {outcome.law.name for outcome in report.broken}
    gaps = {law for law, names in GAPS.items() if name in names and law in (laws or GAPS)}
    everybody = {law for law, names in GAPS.items() if "*" in names}
    assert broken - gaps - everybody == set(), str(report)
    assert gaps - broken == set(), "a gap that is closed: strike it from the list"


#: Those that stand for the others where time is short.
QUICK = {"adamw", "by hand"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_every_factory_keeps_every_law(name: str) -> None:
    check(name, examples=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_other_arguments_keep_every_law(name: str) -> None:
    """But those about meshes, on which `tests/sharding` has them all."""
    check(name, examples=1, laws=[law.name for law in testing.laws() if "8 devices" not in law.needs])


def test_every_gap_has_a_reason_and_a_transform() -> None:
    assert {law.name for law in testing.laws()} >= set(GAPS)
    for names in GAPS.values():
        assert all(names.values())
        assert set(names) <= {"*", *NAMES, *VARIANTS}
