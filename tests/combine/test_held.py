"""What it costs that a step may not count: nothing of the size of a leaf, no branch, one norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from benchmarks.program import equations

SHAPE = (64, 64)
PARAMS = {"w": jax.ShapeDtypeStruct(SHAPE, jnp.float32), "v": jax.ShapeDtypeStruct(SHAPE, jnp.float32)}
LEAF = 4 * 64 * 64


def clipped(lib: Any = gx) -> Any:
    return lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3, weight_decay=0.1))


def compiled(tx: Any, options: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, PARAMS)
    return jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, PARAMS).compile(options)


#: Recipes whose own step makes no copy of a leaf.
RECIPES = {
    "adamw, clipped": clipped,
    "sgd": lambda: gx.sgd(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: gx.rmsprop(0.1),
    "Optax's adamw": lambda: optax.adamw(1e-3),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_guard_makes_no_copy_of_a_leaf(recipe: str, as_users: Any) -> None:
    program = compiled(gx.guard(RECIPES[recipe](), check_updates=False), as_users)
    assert program.memory_analysis().temp_size_in_bytes < LEAF // 4
    assert "conditional(" not in program.as_text()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= 0.99 * memory.output_size_in_bytes


def test_a_look_at_the_updates_takes_a_thirty_second_of_a_byte(as_users: Any) -> None:
    """One flag for 32 numbers; and the norm of the guard is that of the clip."""
    program = compiled(gx.guard(clipped()), as_users)
    assert program.memory_analysis().temp_size_in_bytes < LEAF // 4
    text = program.as_text()
    assert "conditional(" not in text
    entry = text[text.index("ENTRY") :].splitlines()
    assert len([line for line in entry if "reduce_sum" in line and 'kind":"__ynn' in line]) <= len(PARAMS)


def test_a_loss_scale_makes_no_copy_of_a_leaf(as_users: Any) -> None:
    program = compiled(gx.loss_scale(gx.adamw(1e-3)), as_users)
    assert program.memory_analysis().temp_size_in_bytes < LEAF // 4
    assert "conditional(" not in program.as_text()


def test_the_control_a_selection_over_the_finished_state_copies_it(as_users: Any) -> None:
    inner = clipped()

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        updates, new = inner.update(grads, state, params)
        good = jnp.isfinite(optax.tree.norm(grads))
        return updates, jax.tree.map(lambda x, y: jnp.where(good, x, y), new, state)

    program = compiled(gx.GradientTransformation(inner.init, update), as_users)
    assert program.memory_analysis().temp_size_in_bytes > LEAF


def test_an_inner_branch_keeps_its_branch() -> None:
    """A selection behind a branch would be a copy of what it writes: so the guard takes one of its own."""
    params = {"w": jnp.ones(4)}

    def conditions(tx: Any) -> int:
        state = tx.init(params)
        return str(jax.make_jaxpr(tx.update)(params, state, params)).count("cond[")

    bare, wrapped = (
        conditions(tx(gx.apply_when(gx.adam(0.1), lambda count: count > 0))) for tx in (lambda x: x, gx.guard)
    )
    assert (bare, conditions(gx.guard(gx.adam(0.1)))) == (1, 0)
    assert wrapped > 1


def test_a_good_step_is_the_bare_one_to_the_bit_and_a_bad_one_nothing() -> None:
    bare = clipped()
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(8, 8)), jnp.float32), "b": jnp.zeros(8)}
    for tx in (gx.guard(bare), gx.guard(bare, check_updates=False)):
        step, plain = jax.jit(tx.update), jax.jit(bare.update)
        state, other = tx.init(params), bare.init(params)
        for i in range(3):
            g = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
            if i == 1:
                before = state.inner_state
                g["b"] = g["b"].at[3].set(jnp.nan)
                updates, state = step(g, state, params)
                assert not any(np.any(x) for x in jax.tree.leaves(updates))
                jax.tree.map(np.testing.assert_array_equal, state.inner_state, before)
                continue
            updates, state = step(g, state, params)
            wanted, other = plain(g, other, params)
            jax.tree.map(np.testing.assert_array_equal, (updates, state.inner_state), (wanted, other))


def test_eager_a_branch_is_python_s() -> None:
    """What is known is not traced: no step is computed in vain."""
    seen: list[int] = []

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        seen.append(1)
        return grads, state

    tx = gx.guard(optax.GradientTransformation(lambda p: optax.EmptyState(), update))
    state = tx.init(jnp.zeros(2))
    updates, state = tx.update(jnp.array([1.0, jnp.nan]), state)
    assert (updates.tolist(), seen, int(state.skipped)) == ([0.0, 0.0], [], 1)
    tx.update(jnp.ones(2), state)
    assert len(seen) == 2  # once to look at the updates


def test_the_program_of_a_guard_grows_with_the_leaves(as_users: Any) -> None:
    """Its flag stands once in the program, not in the loop of every leaf."""

    def lines(leaves: int) -> int:
        grads = [jnp.ones(1)] * leaves
        tx = gx.guard(gx.sgd(0.1, momentum=0.9))
        program = jax.jit(tx.update).lower(grads, tx.init(grads), grads).compile(as_users)
        return len(program.as_text().splitlines())

    few, more = lines(10), lines(20)
    assert more < 2.2 * few


def test_equations_of_a_guard_that_looks_at_gradients_only() -> None:
    """The selections, and nothing twice: 8 equations a leaf beside the 20 of AdamW."""

    def count(tx: Any) -> float:
        state = jax.eval_shape(tx.init, PARAMS)
        return equations(jax.make_jaxpr(tx.update)(PARAMS, state, PARAMS).jaxpr) / len(PARAMS)

    assert count(gx.guard(clipped(), check_updates=False)) < 1.5 * count(clipped())
