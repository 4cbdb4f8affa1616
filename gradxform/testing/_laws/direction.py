"""An update answers the gradient of this step, turns when it turns, and keeps to one side of it."""

from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from .._law import Broken, Inapplicable, law
from .._strategies import gradients
from .._subject import Subject, difference, numbers


def _flat(tree: Any) -> Any:
    parts = [np.ravel(numbers(x)) for x in jax.tree.leaves(tree)]
    return np.concatenate(parts) if parts else np.zeros(0)


@law("a gradient acts at its own step: the first that is not zero moves something at once")
def acts_at_once(s: Subject) -> None:
    """A transform may rest for a while; one that returns the update of the step before trains, and is late."""
    params = s.zeros(s.params())
    nothing, grads = s.zeros(s.grads(params)), s.grads(params)
    rested = acted = s.init(params)
    late = False
    for _ in range(5):
        if np.any(_flat(s.step(grads, rested, params)[0]) != 0):
            return
        _, rested = s.step(nothing, rested, params)
        updates, acted = s.step(grads, acted, params)
        late = late or bool(np.any(_flat(updates) != 0))
    if not late:
        raise Inapplicable("its first five updates are zero")
    fact = "a gradient after none, or after gradients of zero, gives an update of zero; the next step moves"
    raise Broken(fact, {"params": params, "grads": grads})


@law("gradients of the other sign give updates of the other sign (parameters of zero)")
def odd(s: Subject) -> None:
    params = s.zeros(s.params())
    ways = [[s.grads(params, sign * start) for start in (0.5, -1.0, 0.25)] for sign in (1.0, -1.0)]
    one, two = (s.run(grads, params)[0] for grads in ways)
    minus = jax.tree.map(lambda u: -u, one)
    for step, (got, wanted) in enumerate(zip(two, minus, strict=True), 1):
        fact = difference(got, wanted, f"update {step} for the turned gradients", 2e-6, 1e-30)
        if fact:
            raise Broken(fact, {"params": params, "grads": ways[0][0], "turned": ways[1][0]})


@law("the first update is always on one side of its gradient: uphill for a direction, downhill for a recipe")
def one_side(s: Subject) -> None:
    params = s.zeros(s.params())
    seen: dict[float, Any] = {}

    def check(grads: Any) -> None:
        state = s.init(params)
        for _ in range(5):
            updates, state = s.step(grads, state, params)
            side = float(np.sign(np.sum(_flat(updates) * np.conj(_flat(grads))).real))
            if np.isnan(side):
                return  # other laws speak of that
            if side != 0:
                break
        else:
            return
        if seen.setdefault(side, grads) is not None and len(seen) > 1:
            trees = {"params": params, "grads": grads, "other": seen[-side]}
            raise Broken("one gradient is followed uphill, another downhill", trees)

    s.each(st.fixed_dictionaries({"grads": gradients(params)}), check, examples=min(6, s.examples))
