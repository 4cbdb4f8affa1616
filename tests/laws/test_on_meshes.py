"""The laws with all of their trees on a mesh."""

from typing import Any

import jax
import pytest

import gradxform as gx
from gradxform import testing
from gradxform._core import compat
from tests.laws.arguments import PARAMS, make
from tests.laws.controls import Bent, _pair

pytestmark = pytest.mark.laws

#: Those about numbers and forms of a step, without those that try every pair of dtypes.
NUMERIC = [
    "takes_a_step",
    "init_jit",
    "jit_is_eager",
    "one_trace",
    "loops",
    "pure",
    "zeros_still",
    "odd",
    "one_side",
]
KINDS = ("Auto", "Explicit")
QUICK = ("adamw",)
SLOW = (
    "adamw",
    "clip_by_global_norm",
    "adafactor",
    "lamb",
    "guard",
    "accumulate",
    "param_groups",
    "average_params",
    "tunable",
)


def _mesh(kind: str) -> Any:
    return jax.make_mesh((2,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "Explicit") for name in QUICK),
        *(pytest.param(name, KINDS[i % 2], marks=pytest.mark.slow) for i, name in enumerate(SLOW)),
    ],
)
def test_laws_hold_for_trees_on_a_mesh(name: str, kind: str) -> None:
    report = testing.check_transform(
        make(name), params=PARAMS.get(name), laws=NUMERIC, seed=0, examples=2, mesh=_mesh(kind), raises=False
    )
    assert not report.broken, str(report)
    assert len([outcome for outcome in report.outcomes if outcome.verdict == "kept"]) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_zero_keeps_every_law(kind: str) -> None:
    """But those that lay trees on a mesh of their own, whose axes it does not know."""
    report = testing.check_transform(
        gx.sharding.zero(gx.adamw(0.1), "x"), seed=0, examples=2, mesh=_mesh(kind), raises=False
    )
    assert not report.broken, str(report)
    apart = {outcome.law.name for outcome in report.outcomes if "mesh of its own" in (outcome.reason or "")}
    assert apart == {"sharded_init", "sharded_jit_init", "sharded_update", "sharded_mixed", "on_shards"}


def doubled_if_cut(u: Any, g: Any, p: Any) -> Any:
    there = compat.explicit_sharding(u)
    cut = there is not None and any(there.spec)
    return 2 * u if cut and isinstance(u, compat.Tracer) else u


def test_what_is_wrong_on_a_mesh_only_is_found_there() -> None:
    tx = _pair(update=Bent(doubled_if_cut))
    run: dict[str, Any] = {"laws": "jit_is_eager", "seed": 0, "examples": 2, "raises": False}
    assert testing.check_transform(tx, **run)
    assert not testing.check_transform(tx, mesh=_mesh("Explicit"), **run)
