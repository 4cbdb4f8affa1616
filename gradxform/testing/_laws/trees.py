"""A tree is only a container, and a reach is true: names do not matter, nor do leaves that a method does not see."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from .._law import Broken, Inapplicable, law
from .._subject import Subject, difference

CLOSE = 2e-6
STARTS = (0.5, -1.0, 0.25)


def _two(s: Subject, params: Any, grads: list[Any]) -> list[Any]:
    return s.attempt(lambda: s.run(grads, params)[0], params=params, grads=grads[0])


def _chooses(s: Subject) -> None:
    plan = getattr(s.tx, "plan", None)
    if plan is not None and any(link.selectors for link in plan.flat):
        raise Inapplicable("it chooses leaves by their paths or shapes")


@law("names, order and nesting of the leaves do not matter", "own trees")
def names(s: Subject) -> None:
    _chooses(s)
    params = s.params()
    grads = [s.grads(params, start) for start in STARTS[:2]]

    def other(tree: Any) -> Any:
        return {"block": {"a": (tree["b"],)}, "zeta": tree["w"]}

    plain = _two(s, params, grads)
    renamed = _two(s, other(params), [other(g) for g in grads])
    fact = difference(renamed, [other(u) for u in plain], "the update of a renamed tree", CLOSE)
    if fact:
        raise Broken(fact, {"params": other(params), "grads": other(grads[0])})


def _reach(s: Subject, wanted: tuple[str, ...]) -> None:
    _chooses(s)
    if s.reach not in wanted:
        whose = "" if s.claimed or hasattr(s.tx, "spec") else " for want of a declaration (reach=)"
        raise Inapplicable(f"its reach is {s.reach!r}{whose}")


@law("a transform of reach 'element' or 'leaf' does not see other leaves", "own trees")
def other_leaves(s: Subject) -> None:
    _reach(s, ("element", "leaf"))
    params = s.params()
    grads = [s.grads(params, start) for start in STARTS[:2]]

    def alone(tree: Any) -> Any:
        return {"w": tree["w"]}

    beside = [alone(u) for u in _two(s, params, grads)]
    single = _two(s, alone(params), [alone(g) for g in grads])
    fact = difference(beside, single, "beside another leaf, the update", CLOSE)
    if fact:
        raise Broken(fact, {"params": params, "grads": grads[0]})


@law("a transform of reach 'element' commutes with cutting, joining and permuting", "own trees")
def cutting(s: Subject) -> None:
    _reach(s, ("element",))
    whole = np.asarray(np.concatenate([np.arange(1.0, 4.0), -np.arange(1.0, 4.0)]) / 2, np.float32)

    def cut(x: Any) -> Any:
        return {"a": jnp.asarray(x[:4].reshape(2, 2)), "b": jnp.asarray(x[4:])}

    def check(order: Any, grads: Any) -> None:
        picked = np.asarray(order)
        steps = [np.asarray(grads, np.float32) / 4, whole, -np.asarray(grads, np.float32) / 8]
        joined = s.run([{"x": jnp.asarray(g)} for g in steps], {"x": jnp.asarray(whole)})[0]
        parts = s.run([cut(g[picked]) for g in steps], cut(whole[picked]))[0]
        for one, two in zip(joined, parts, strict=True):
            fact = difference(two, cut(np.asarray(one["x"])[picked]), "cut and permuted, the update", CLOSE)
            if fact:
                trees = {"params": {"x": jnp.asarray(whole)}, "grads": {"x": jnp.asarray(steps[0])}}
                raise Broken(f"{fact} (order {list(map(int, order))})", trees)

    numbers = st.lists(st.integers(-8, 8), min_size=6, max_size=6)
    s.each(
        st.fixed_dictionaries({"order": st.permutations(range(6)), "grads": numbers}),
        check,
        examples=min(4, s.examples),
    )
