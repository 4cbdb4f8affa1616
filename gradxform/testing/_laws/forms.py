"""Structure, shape, dtype, weak type: what a step hands on has the form of what it was given."""

from typing import Any

import chex
import jax

from .._law import Broken, law
from .._subject import Subject, form_difference

SIMPLE: Any = ((3,), (2, 3))


@law("a state keeps its structure, shapes, dtypes and weak types")
def state_form(s: Subject) -> None:
    def check(params: Any, grads: Any) -> None:
        state = s.init(params)
        _, new = s.abstract(grads, state, params)
        fact = form_difference(new, state, "the new state")
        if fact:
            raise Broken(fact)

    s.each(s.steps(shapes=SIMPLE), check, "tx.update(grads, tx.init(params), params)[1]", known=s.pairs())


@law("an update has the structure, shape and dtype of its parameter")
def update_form(s: Subject) -> None:
    def check(params: Any, grads: Any) -> None:
        updates, _ = s.abstract(grads, s.init(params), params)
        wanted = jax.tree.map(
            lambda g, p: p, grads, params
        )  # integer leaves of the caller's tree have no gradient
        try:
            chex.assert_trees_all_equal_structs(updates, wanted)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, wanted)
        except AssertionError:
            raise Broken(
                form_difference(updates, wanted, "the update", weak=False) or "they differ"
            ) from None

    s.each(s.steps(shapes=SIMPLE), check, "tx.update(grads, tx.init(params), params)[0]", known=s.pairs())
