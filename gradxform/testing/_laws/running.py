"""A step is a pure function that JAX may compile once, loop over, batch, and call with more than it asks for."""

import copy
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .._law import Broken, Inapplicable, law
from .._subject import Subject, difference, form_difference, numbers

#: How far two compilations of one step may be apart, relative to the largest number of a leaf.
ROUNDING = 1e-5


@law("a compiled step gives what an eager one gives")
def jit_is_eager(s: Subject) -> None:
    params = s.params()
    grads = [s.grads(params, 0.5), s.grads(params, -1.0)]
    compiled, state = s.run(grads, params)
    eager, slow = list[Any](), s.init(params)
    with jax.disable_jit():  # what is called outside of jit may run programs that it has compiled
        for g in grads:
            u, slow = s.update(g, slow, params)
            eager.append(u)
    fact = difference(compiled, eager, "the update under jit", ROUNDING, 1e-9)
    fact = fact or difference(state, slow, "the state under jit", ROUNDING, 1e-9)
    if fact:
        raise Broken(
            fact, {"params": params, "grads": grads[0]}, "jax.jit(tx.update)(grads, tx.init(params), params)"
        )


@law("many steps are one trace")
def one_trace(s: Subject) -> None:
    params = s.params()
    _count_traces(s, params, s.grads(params))


@law("a weakly typed parameter, or a gradient of another dtype, costs no second trace", "own trees")
def weak_trace(s: Subject) -> None:
    _count_traces(s, {"a": jnp.asarray(2.0)}, {"a": jnp.asarray(1.0)})
    _count_traces(s, {"a": jnp.ones(2, jnp.bfloat16)}, {"a": jnp.ones(2)})


def _count_traces(s: Subject, params: Any, grads: Any) -> None:
    trees = {"params": params, "grads": grads}
    then = "for _ in range(3): state = step(grads, state, params)[1]  # step = jax.jit(tx.update)"
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(s.update, n=1))
    state = s.init(params)
    try:
        for _ in range(3):
            _, state = step(grads, state, params)
    except AssertionError:
        new = s.abstract(grads, s.init(params), params)[1]
        why = form_difference(new, s.init(params), "after a step the state")
        raise Broken(
            f"the step is traced twice: {why}" if why else "the step is traced twice", trees, then
        ) from None
    except Exception as problem:
        raise Broken(
            f"{type(problem).__name__}: {str(problem).splitlines()[0]}"[:300], trees, then
        ) from problem


@law("scan and cond run the step, and give what a loop gives")
def loops(s: Subject) -> None:
    params = s.params()
    grads = [s.grads(params, start) for start in (0.5, -1.0, 0.25)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *grads)

    def body(state: Any, g: Any) -> Any:
        def act(state: Any) -> Any:
            return s.update(g, state, params)

        def rest(state: Any) -> Any:
            return jax.tree.map(jnp.zeros_like, jax.eval_shape(act, state)[0]), state

        u, state = jax.lax.cond(jnp.asarray(True), act, rest, state)
        return state, u

    then = "jax.lax.scan(lambda state, _: tx.update(grads, state, params)[::-1], tx.init(params), None, length=3)"
    start = s.init(params)
    state, updates = s.attempt(
        lambda: jax.jit(lambda state: jax.lax.scan(body, state, stacked))(start),
        then,
        params=params,
        grads=grads[0],
    )
    wanted, last = s.run(grads, params)
    fact = difference(
        updates, jax.tree.map(lambda *xs: jnp.stack(xs), *wanted), "the update in scan", ROUNDING, 1e-9
    ) or difference(state, last, "the state after scan", ROUNDING, 1e-9)
    if fact:
        raise Broken(fact, {"params": params, "grads": grads[0]}, then)


@law("the same arguments give the same results, and are left as they were")
def pure(s: Subject) -> None:
    params = s.params()
    grads, other = s.grads(params), s.grads(params, -2.0)
    state = s.update(grads, s.init(params), params)[1]
    before = copy.deepcopy(jax.tree.map(numbers, (grads, state, params)))
    first = s.update(grads, state, params)
    s.update(other, s.update(other, s.init(params), params)[1], params)
    second = s.update(grads, state, params)
    then = "[tx.update(grads, state, params) for state in [tx.init(params)] for _ in range(2)]"
    fact = difference(second, first, "a second call") or difference(
        jax.tree.map(numbers, (grads, state, params)), before, "an argument after the call"
    )
    fact = fact or difference(s.init(params), s.init(params), "a second init")
    if fact:
        raise Broken(fact, {"params": params, "grads": grads}, then)


@law("vmap over gradients and states gives what a loop gives")
def vmap(s: Subject) -> None:
    params = s.params()
    grads = [s.grads(params, start) for start in (0.5, -1.0)]
    starts = [s.step(g, s.init(params), params)[1] for g in reversed(grads)]

    def stack(xs: Any) -> Any:
        return jax.tree.map(lambda *ys: jnp.stack(ys), *xs)

    batched = jax.jit(jax.vmap(s.update, in_axes=(0, 0, None)))
    then = "jax.vmap(tx.update, in_axes=(0, 0, None))(grads, states, params)"
    trees = {"params": params, "grads": stack(grads)}
    got = s.attempt(lambda: batched(stack(grads), stack(starts), params), then, **trees)
    wanted = stack([s.step(g, state, params) for g, state in zip(grads, starts, strict=True)])
    fact = difference(got, wanted, "the result of vmap", ROUNDING, 1e-9)
    if fact:
        raise Broken(fact, trees, then)


@law("an extra argument that it does not know changes nothing")
def unknown_extra(s: Subject) -> None:
    if not s.extended:
        raise Inapplicable(
            "a plain GradientTransformation takes no extra arguments, and says so by its class"
        )
    params = s.params()
    grads = s.grads(params)
    state = s.init(params)
    then = "tx.update(grads, tx.init(params), params, an_argument_of_another_link=1.0)"
    got = s.attempt(
        lambda: s.update(grads, state, params, an_argument_of_another_link=1.0),
        then,
        params=params,
        grads=grads,
    )
    fact = difference(got, s.update(grads, state, params), "with an unknown argument the result")
    if fact:
        raise Broken(fact, {"params": params, "grads": grads}, then)


@law("it runs where JAX refuses silent promotion of dtypes and ranks", "strict flags")
def strict_flags(s: Subject) -> None:
    def check(params: Any, grads: Any) -> None:
        s.abstract(grads, s.init(params), params)

    s.each(s.steps(shapes=((3,), (2, 3))), check, known=s.pairs())


def plainly_finite(tree: Any) -> bool:
    """Whether all numbers of a tree are finite."""
    return all(
        np.all(np.isfinite(numbers(x))) for x in jax.tree.leaves(tree) if numbers(x).dtype.kind in "fc"
    )
