"""How a step is run does not matter: links in one plan, or a step whose state is held where it does not count."""

from typing import Any

import jax
import jax.numpy as jnp

from ..._core.skip import hold, no_updates
from .._law import Broken, Inapplicable, law
from .._subject import Subject, difference
from .running import ROUNDING

STARTS = (0.5, -1.0, 0.25)


@law("a chain run as one plan gives what its links give one after the other")
def folds(s: Subject) -> None:
    links = getattr(getattr(s.tx, "body", None), "links", ())
    if not isinstance(links, tuple | list) or len(links) < 2:
        raise Inapplicable("it is not a chain of several links")

    def apart(grads: Any, parts: Any, params: Any) -> Any:
        updates, new = grads, list[Any]()
        for link, part in zip(links, parts, strict=True):
            updates, part = link.update(updates, part, params, **s.extra(grads, params))
            new.append(part)
        return updates, new

    params, one = s.params(), jax.jit(apart)
    state = s.init(params)
    parts = _parts(state)
    for start in STARTS[:2]:
        grads = s.grads(params, start)
        updates, state = s.step(grads, state, params)
        wanted, parts = one(s.laid(grads), parts, s.laid(params))
        fact = difference(updates, wanted, "the update in one plan", ROUNDING, 1e-9)
        fact = fact or difference(_parts(state), parts, "the state in one plan", ROUNDING, 1e-9)
        if fact:
            raise Broken(fact, {"params": params, "grads": grads})


def _parts(state: Any) -> list[Any]:
    """The states of the links of a chain, in their order."""
    return list(state.values() if isinstance(state, dict) else state)


@law("a step that counts is the bare step, and one that does not has never happened, bit for bit")
def held(s: Subject) -> None:
    params = s.params()
    grads = [s.grads(params, start) for start in STARTS[:2]]
    state = s.step(grads[0], s.init(params), params)[1]

    def either(flag: Any, grads: Any, state: Any, params: Any) -> Any:
        return hold(flag, lambda: s.update(grads, state, params), state, lambda: no_updates(grads, params))

    trees = {"params": params, "grads": grads[1]}
    step = jax.jit(either)
    given = s.laid(grads[1]), state, s.laid(params)
    counted = s.attempt(lambda: step(jnp.asarray(True), *given), **trees)
    fact = difference(counted, s.step(grads[1], state, params), "a step that counts", ROUNDING, 1e-9)
    updates, kept = step(jnp.asarray(False), *given)
    fact = fact or difference(kept, state, "the state after a step that does not count")
    fact = fact or difference(updates, no_updates(grads[1], params), "the update that does not count")
    if fact:
        raise Broken(fact, trees)
