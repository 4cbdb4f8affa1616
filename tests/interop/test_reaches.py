"""How far Optax's transforms see, as it is declared, holds against the laws of reach."""

import jax
import optax
import pytest

import gradxform as gx
from gradxform import build
from tests.laws import optax_factories

pytestmark = pytest.mark.interop

LAWS = ("names", "other_leaves", "cutting")
#: Those that stand for the others where time is short.
QUICK = {"sgd", "scale_by_lion", "sm3"}


def _declared() -> list[str]:
    return [name for name in optax_factories.names() if build.reach_of(optax_factories.make(name)) != "tree"]


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_declared_reach_is_true(name: str) -> None:
    report = optax_factories.check(name, laws=LAWS, examples=1)
    assert not report.broken, str(report)


@pytest.mark.slow
def test_every_declared_reach_is_true() -> None:
    names = _declared()
    assert len(names) > 60
    for name in names:
        report = optax_factories.check(name, laws=LAWS, examples=1)
        assert not report.broken, str(report)


def test_what_is_made_of_others_sees_as_far_as_the_widest_of_them() -> None:
    element, leaf, tree = optax.adam(0.1), optax.lamb(0.1), optax.contrib.prodigy()
    some = jax.tree_util.Partial(jax.tree.map, lambda _: True)
    labels = jax.tree_util.Partial(jax.tree.map, lambda _: "a")
    assert build.reach_of(element) == "element"
    assert build.reach_of(optax.adamw(0.1, mask=some)) == "element"
    assert build.reach_of(optax.named_chain(("a", element), ("b", leaf))) == "leaf"
    assert build.reach_of(optax.masked(leaf, some)) == "leaf"
    assert build.reach_of(optax.partition({"a": element, "b": leaf}, labels)) == "leaf"
    assert build.reach_of(optax.partition({"a": element, "b": tree}, labels)) == "tree"
    assert build.reach_of(optax.chain(element, optax.clip_by_global_norm(1.0))) == "tree"
    assert build.reach_of(gx.chain(gx.adam(0.1), optax.masked(element, some))) == "element"
    assert build.reach_of(optax.chain(element, gx.clip_by_global_norm(1.0))) == "tree"


def test_a_function_that_is_called_as_one_of_optax_s_is_not_looked_into() -> None:
    def chain() -> optax.GradientTransformation:
        inside = optax.adam(0.1)

        def update(updates, state, params=None):
            return inside.update(updates, state, params)

        return optax.GradientTransformation(inside.init, update)

    assert build.reach_of(chain()) == "tree"
