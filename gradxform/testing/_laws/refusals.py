"""What does not fit is refused and not bent: shapes, missing parameters, swapped arguments, complex numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from ..._core.tree import is_inexact
from .._law import Broken, Inapplicable, law
from .._subject import Subject, difference


def _refused(call: Any) -> Exception | None:
    try:
        jax.eval_shape(lambda: (call(), None)[1])  # a swapped state may be anything, and nobody asks for it
    except Exception as problem:
        return problem
    return None


@law("a gradient of another shape is refused, not broadcast")
def shapes_refused(s: Subject) -> None:
    params = s.params()
    good = s.grads(params)
    state = s.init(params)
    leaves, treedef = jax.tree.flatten(good)
    row = next((i for i, g in enumerate(leaves) if g.ndim == 2), None)
    row = next((i for i, g in enumerate(leaves) if g.ndim), None) if row is None else row
    if row is None:
        raise Inapplicable("the parameters are scalars")
    shape = leaves[row].shape
    wrong = dict.fromkeys([shape[1:], (), (1, *shape[1:]), (*shape[:-1], 1), (shape[0] + 1, *shape[1:])])

    def check(params: Any, grads: Any) -> None:
        if _refused(lambda: s.tx.update(grads, state, params, **s.extra(good, params))) is None:
            updates = jax.eval_shape(lambda: s.tx.update(grads, state, params, **s.extra(good, params))[0])
            made = jax.tree.leaves(updates)[row].shape
            bad = jax.tree.leaves(grads)[row].shape
            raise Broken(
                f"a gradient of shape {bad} for a parameter of shape {shape} gives an update of shape {made}"
            )

    cases = [
        {
            "params": params,
            "grads": treedef.unflatten(
                [*leaves[:row], jnp.full(other, 0.5, leaves[row].dtype), *leaves[row + 1 :]]
            ),
        }
        for other in wrong
        if other != shape
    ]
    s.each(st.sampled_from(cases), check)


@law("if it needs the parameters, a ValueError says so")
def params_said(s: Subject) -> None:
    params = s.params()
    grads, state = s.grads(params), s.init(params)
    problem = _refused(lambda: s.tx.update(grads, state, **s.extra(grads, params)))
    if problem is None:
        raise Inapplicable("it does without the parameters")
    if not isinstance(problem, ValueError) or "param" not in str(problem):
        first = (str(problem).strip().splitlines() or [""])[0]
        trees = {"params": params, "grads": grads}
        raise Broken(f"{type(problem).__name__}: {first}"[:300], trees, "tx.update(grads, tx.init(params))")


@law("state and parameters in each other's place are refused")
def swapped_refused(s: Subject) -> None:
    params = s.params()
    grads, state = s.grads(params), s.init(params)
    if _refused(lambda: s.tx.update(grads, params, state, **s.extra(grads, params))) is None:
        trees = {"params": params, "grads": grads}
        raise Broken("update(grads, params, state) runs", trees, "tx.update(grads, params, tx.init(params))")


@law("a complex leaf is refused, or turned as a whole, or worked as two real ones")
def complex_leaves(s: Subject) -> None:
    if not all(is_inexact(p) for p in jax.tree.leaves(s.params())):
        raise Inapplicable("the parameters have integer leaves")
    params = s.zeros(s.params("complex64"))
    real, imag = s.grads(params, 0.5), s.grads(params, -0.75)
    grads = jax.tree.map(lambda x, y: x + 1j * jnp.flip(y), real, imag)
    try:
        one = s.run([grads] * 2, params)[0]
    except Exception:
        return
    trees = {"params": params, "grads": grads}
    if not all(jnp.iscomplexobj(u) for u in jax.tree.leaves(one)):
        raise Broken("the update of a complex parameter is real", trees)
    turn = np.complex64(0.6 + 0.8j)
    turned = s.run([jax.tree.map(lambda g: g * turn, grads)] * 2, params)[0]
    whole = difference(
        turned, jax.tree.map(lambda u: u * turn, one), "turned by a phase, the update", 1e-4, 1e-7
    )
    if whole is None:
        return
    floats = s.zeros(s.params())
    parts = [s.run([jax.tree.map(part, grads)] * 2, floats)[0] for part in (jnp.real, jnp.imag)]
    two = difference(one, jax.tree.map(lambda x, y: x + 1j * y, *parts), "the complex update", 1e-4, 1e-7)
    if two is not None:
        raise Broken(f"{whole}; and {two}, the updates of the two parts", trees)
