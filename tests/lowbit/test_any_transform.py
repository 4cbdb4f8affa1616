"""`quantized` around every transform of the catalogue and of Optax: forms are a fixed point, for pairs of dtypes."""

from typing import Any

import jax
import pytest

import gradxform as gx
from gradxform.testing._subject import Subject
from tests.laws import wrapped

pytestmark = pytest.mark.slow


def faults(tx: Any) -> list[str]:
    """What abstract steps show: nothing is computed, so that all transforms can be tried."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        s = Subject(tx, seed=0)
        try:
            s.first_step()
            return [fact for _, fact in wrapped.structure(s) if fact]
        except Exception as problem:
            return [f"{type(problem).__name__}: {problem}"]


@pytest.mark.parametrize("name", wrapped.OURS + wrapped.THEIRS)
def test_forms_are_a_fixed_point(name: str) -> None:
    tx = wrapped.make(name)
    found = faults(gx.lowbit.quantized(tx, min_size=0))
    assert not found or len(faults(tx)) >= len(found), found


def test_what_is_stored_is_what_has_a_role_or_a_name() -> None:
    """The control: most transforms with a state have something in few bits, or the test above shows nothing."""
    stored = set[str]()
    for name in wrapped.OURS + wrapped.THEIRS:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            tx = gx.lowbit.quantized(wrapped.make(name), min_size=0)
            try:
                state = jax.eval_shape(tx.init, Subject(tx).params())
            except Exception:
                continue
        leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, gx.lowbit.Quantized))
        if any(isinstance(x, gx.lowbit.Quantized) for x in leaves):
            stored.add(name)
    assert {"adamw", "scale_by_lion", "optax.adamw", "optax.contrib.muon"} <= stored
    assert len(stored) > 100
