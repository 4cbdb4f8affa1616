"""Odd leaves: scalars, empty arrays, holes, no leaf at all, integers, gradients that are missing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

from ..._core.tree import is_absent, is_float0
from .._law import Broken, law
from .._strategies import gradients, trees
from .._subject import Subject, form_difference
from .running import plainly_finite

FLOAT32 = ("float32",)


def _steps(**options: Any) -> Any:
    @st.composite
    def made(draw: Any) -> dict[str, Any]:
        params = draw(trees(dtypes=FLOAT32, **options))
        return {"params": params, "grads": draw(gradients(params))}

    return made()


def _same_forms(s: Subject, params: Any, grads: Any) -> None:
    state = s.init(params)
    updates, new = s.abstract(grads, state, params)
    fact = form_difference(updates, grads, "the update", weak=False) or form_difference(
        new, state, "the new state"
    )
    if fact:
        raise Broken(fact)


def _finite(s: Subject, params: Any) -> None:
    """One step that is run, for what no shape shows: the mean of nothing is NaN."""
    grads = s.grads(params)
    shown: dict[str, Any] = {"params": params, "grads": grads}
    result = s.attempt(lambda: s.step(grads, s.init(params), params), **shown)
    if not plainly_finite(result):
        raise Broken("a number of the update or of the state is not finite", shown)


@law("a parameter may be a scalar", "own trees")
def scalar_leaves(s: Subject) -> None:
    s.each(
        _steps(shapes=((), (1,)), holes=False, least=1),
        lambda params, grads: _same_forms(s, params, grads),
    )
    _finite(s, {"w": jnp.ones((2, 3)), "s": jnp.asarray(np.float32(2.0))})


@law("a parameter may have no elements", "own trees")
def empty_leaves(s: Subject) -> None:
    s.each(
        _steps(shapes=((0,), (0, 3), (3,)), holes=False, least=1),
        lambda params, grads: _same_forms(s, params, grads),
    )
    _finite(s, {"w": jnp.ones((2, 3)), "e": jnp.ones((0, 3)), "f": jnp.ones((0,))})


@law("None and MaskedNode may stand in the place of a parameter and its gradient", "own trees")
def holes(s: Subject) -> None:
    s.each(
        _steps(shapes=((3,), (2, 3)), holes=True, least=1),
        lambda params, grads: _same_forms(s, params, grads),
    )


@law("a tree may have no leaf", "own trees")
def empty_tree(s: Subject) -> None:
    def check(params: Any, grads: Any) -> None:
        _same_forms(s, params, grads)
        s.update(grads, s.init(params), params)

    s.each(st.sampled_from([{"params": x, "grads": x} for x in ({}, (), {"a": None})]), check)


@law("an integer leaf, whose gradient is None or float0, is carried and never updated", "own trees")
def integer_leaves(s: Subject) -> None:
    n = jnp.arange(2)
    params = {"w": jnp.ones((2, 3)), "n": n}
    none = [None, np.zeros((2,), jax.dtypes.float0)]

    def check(params: Any, grads: Any) -> None:
        state = s.init(params)
        updates, new = s.abstract(grads, state, params)
        _unmoved(updates["n"], "the integer leaf")
        fact = form_difference(new, state, "the new state")
        if fact:
            raise Broken(fact)

    cases = [{"params": params, "grads": {"w": jnp.ones((2, 3)), "n": g}} for g in none]
    s.each(st.sampled_from(cases), check)


@law("a gradient may be missing (None): its leaf and its state stay, the others go on", "own trees")
def missing_gradients(s: Subject) -> None:
    params = s.params()
    full = s.grads(params)
    part = {**full, "b": None}
    shown: dict[str, Any] = {"params": params, "grads": part}

    def run() -> None:
        _, state = s.step(full, s.init(params), params)
        updates, new = s.update(part, state, params)
        fact = form_difference(new, state, "the new state")
        if fact:
            raise Broken(fact, shown)
        _unmoved(updates["b"], "the leaf without a gradient")

    s.attempt(run, **shown)


def _unmoved(u: Any, what: str) -> None:
    if is_absent(u) or is_float0(u) or isinstance(u, optax.MaskedNode):
        return
    if isinstance(u, jax.ShapeDtypeStruct) or np.any(np.asarray(u) != 0):
        raise Broken(f"{what} has an update {getattr(u, 'dtype', u)}{list(np.shape(u))}, wanted none")
