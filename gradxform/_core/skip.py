"""Steps that may not count: a branch, a selection, updates of zero.

What decides is one flag for the whole step. Where it is known before anything is traced, Python decides.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from . import automatic, compat, observe
from .through import Traced
from .tree import is_absent, is_float0, is_inexact, tree_map


def choose(flag: Any, yes: Any, no: Any) -> Any:
    """`yes` where the flag holds, else `no`, for two states of one structure.

    A selection and no multiplication: 0 * NaN is NaN.
    """
    return jax.tree.map(partial(_chosen, flag), yes, no, is_leaf=is_absent)


def _chosen(flag: Any, a: Any, b: Any) -> Any:
    if a is b or is_absent(a):
        return a
    b = automatic.laid(b if hasattr(b, "dtype") else jnp.asarray(b), a)
    a = a if hasattr(a, "dtype") else jnp.asarray(a)
    return jnp.where(flag, a, b if a.dtype == b.dtype else b.astype(a.dtype))


def no_updates(updates: Any, params: Any) -> Any:
    """Updates of zero, of the dtypes that a step would give."""

    def zero(u: Any, p: Any) -> Any:
        if is_absent(u) or is_float0(u) or not is_inexact(u):
            return u
        like = u if p is None or is_absent(p) or not is_inexact(p) else p
        return compat.varying_as(automatic.laid(jnp.zeros_like(u, dtype=like.dtype), like), (u, like))

    if params is None:
        return tree_map(lambda u: zero(u, None), updates)
    return jax.tree.map(zero, updates, params, is_leaf=is_absent)


def run_if(flag: Any, step: Any, idle: Any, like: Any = None) -> Any:
    """`step()` where the flag holds, else `idle()`; the other one is not executed (but under `vmap`, both are).

    Both return the same structure. The result has the dtypes and weak types of `idle()`, or of `like()` where `idle`
    is a step too, and varies (inside `shard_map`) on the mesh axes on which either does.
    """
    return observe.carried(partial(_branch, flag), step, idle, like or idle)


def _branch(flag: Any, step: Any, idle: Any, like: Any) -> Any:
    resting, known = jax.eval_shape(like), compat.known_flag(flag)
    if known is not None:
        return jax.tree.map(_alike, step() if known else idle(), resting)
    varying = [jax.eval_shape(step), jax.eval_shape(idle)] if compat.manual_axes() else []

    def alike(make: Any) -> Any:
        return lambda: jax.tree.map(_alike, make(), resting, *varying)

    return jax.lax.cond(flag, alike(step), alike(idle))


def hold(flag: Any, step: Any, state: Any, none: Any) -> tuple[Any, Any]:
    """`step()`, updates and a new state; where the flag does not hold, `none()` and the state that was.

    No branch: the step is computed in either case, and its state is selected where it is made (see `through`), so that
    XLA updates it in place and fuses what becomes of the updates. A selection over a finished state takes 3 times as
    long as the bare step on a CPU, a branch twice as long. A branch it is where the step has effects, or makes its
    state in a branch or a loop of its own, of which the selection would be a copy. Types are those of `run_if`.
    """
    old = jax.tree.leaves(state)

    def held(group: Any, new: list[Any]) -> list[Any]:
        return [_chosen(flag, new[0], old[group[0]])]

    def pick(step: Any, idle: Any) -> Any:
        traced = None if compat.known_flag(flag) is not None else Traced(step, ())
        if traced is None or not traced.straight(len(old)):
            return _branch(flag, step, idle, idle)
        resting = idle()
        first = iter([True] * len(old))
        got = traced([(i,) for i in range(len(old))], held)
        got = jax.tree.map(lambda x, rest: x if next(first, False) else _chosen(flag, x, rest), got, resting)
        return jax.tree.map(_alike, got, resting)

    def stepped() -> Any:
        new, fresh = step()
        return jax.tree.map(lambda x, _: x, fresh, state), new

    fresh, new = observe.carried(pick, stepped, lambda: (state, none()))
    return new, fresh


def ask(flag: Any, question: Any) -> Any:
    """`question()`, whether something is so; False without asking where the flag does not hold, if asking is not plain
    arithmetic: it could be noticed, or take copies of what its branches write.
    """
    if compat.known_flag(flag) is None:
        traced = Traced(question, ())
        if traced.plain:
            return traced([], lambda group, new: new)
    return run_if(flag, question, lambda: jnp.asarray(False))


def _alike(x: Any, resting: Any, *varying: Any) -> Any:
    x = jnp.asarray(x)
    x = automatic.laid(compat.like_weak(compat.strong(x, resting.dtype), resting), resting)
    return compat.varying_as(x, (resting, *varying)) if varying else x


def unshared(tree: Any) -> Any:
    """The same arrays, such that XLA computes again what is made of them.

    What two passes have in common it would else write down, a copy of each array.
    """
    leaves, treedef = jax.tree.flatten(tree)
    numbers = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]
    # Inside `shard_map` one by one: behind a barrier of several all vary on the axes on which one does.
    groups = [[i] for i in numbers] if compat.manual_axes() else [numbers]
    for group in groups:
        for i, x in zip(group, jax.lax.optimization_barrier([leaves[i] for i in group]), strict=True):
            leaves[i] = x
    return treedef.unflatten(leaves)
