"""Leaves alike share one traced program; what a program cannot carry runs as it always did."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform import build
from gradxform._core import program
from gradxform._core.run import run

SHAPES = {"a": (4, 3), "b": (3,), "c": (4, 3), "d": (3,), "e": (3,), "f": (3,), "g": (4, 3)}


def tree(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(rng.standard_normal(s), jnp.float32) for n, s in shapes.items()}


def counting(calls, **options):
    """A transform that notes each call of its step."""

    def step(g, s, p, k, leaf):
        calls.append(g.shape)
        return g * k.factor

    return build.elementwise(step, scalars={"factor": 2.0}, **options)


def agree(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


# ------------------------------------------------------------------------------------------------ traced once


def test_leaves_alike_are_traced_once():
    calls = []
    tx = gx.chain(counting(calls), gx.scale(3.0))
    jaxpr = jax.make_jaxpr(tx.update)(tree(), tx.init(tree()))
    assert sorted(calls) == [(3,), (4, 3)]
    updates, _ = jax.jit(tx.update)(tree(), tx.init(tree()))
    agree(updates, jax.tree.map(lambda g: 6 * g, tree()))
    names = [e.params["name"] for e in jaxpr.jaxpr.eqns if e.primitive.name in ("jit", "pjit")]
    assert len(names) == len(SHAPES)
    assert len(set(names)) == 1
    assert names[0].endswith("scale_pass")


def test_leaves_that_differ_in_what_is_no_array_are_not():
    calls = []
    tx = counting(calls)
    mixed = {
        "f32": jnp.ones(3), "bf16": jnp.ones(3, jnp.bfloat16), "c64": jnp.ones(3, jnp.complex64),
        "more": jnp.ones(3), "int": jnp.arange(3), "none": None,
    }  # fmt: skip
    tx = gx.masked(tx, lambda path, leaf: path != "int")
    updates, _ = jax.jit(tx.update)(mixed, tx.init(mixed))
    assert len(calls) == 3
    assert updates["bf16"].dtype == jnp.bfloat16
    assert updates["c64"].dtype == jnp.complex64
    assert updates["int"].dtype == jnp.int32
    assert updates["none"] is None
    agree(updates["more"], 2 * jnp.ones(3))


def numbered(share=False):
    """A rule that reads the path, unless it is told to do without."""

    def step(g, s, p, k, leaf):
        if share:
            return g + leaf.without(0).here[0] if g.ndim > 1 else g
        return g + np.float32(build.leaf_number(leaf.path) % 97)

    return build.leafwise(step)


@pytest.mark.parametrize("jitted", [True, False])
def test_who_reads_the_path_is_not_taken_for_another(jitted):
    tx = numbered()
    update = jax.jit(tx.update) if jitted else tx.update
    for _ in range(4):  # outside of `jit`, the last ones are compiled as a whole
        updates, _ = update(tree(), tx.init(tree()))
        wanted = {n: g + build.leaf_number(n) % 97 for n, g in tree().items()}
        agree(updates, wanted)


def test_a_leaf_without_an_axis_has_not_been_asked_for_its_path():
    tx = numbered(share=True)
    jaxpr = jax.make_jaxpr(tx.update)(tree(), tx.init(tree())).jaxpr
    assert len({id(e.params["jaxpr"]) for e in jaxpr.eqns}) == 2


def test_numbers_of_python_tell_programs_apart():
    """0.0 and -0.0 are equal and are not the same; nor are 1, 1.0 and True."""
    keys = [program.scalars_of({"x": x}).key for x in (0.0, -0.0, 1, 1.0, True, np.float32(1), np.float64(1))]
    assert len(set(keys)) == len(keys)
    nan = float("nan")
    assert program.scalars_of({"x": nan}).key == program.scalars_of({"x": float("nan")}).key
    assert program.scalars_of({"x": [], "y": {1}}).key is None  # nothing tells two sets apart: the plain way


def test_the_leaf_of_an_error_is_named():
    def step(g, s, p, k, leaf):
        if g.ndim == 2:
            raise ValueError("no matrices")
        return g

    tx = gx.named_chain(("first", build.leafwise(step)))
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match="no matrices") as problem:
            update(tree(), tx.init(tree()))
        assert "while first worked on the leaf 'a' (float32[4, 3])" in "".join(problem.value.__notes__)


def test_what_a_rule_gives_is_held_against_the_right_leaf():
    tx = build.leafwise(lambda g, s, p, k, leaf: g if g.ndim == 1 else g[0])
    with pytest.raises(ValueError, match=r"gave float32\[3\] for the leaf 'a', wanted shape \(4, 3\)"):
        jax.jit(tx.update)(tree(), tx.init(tree()))


def test_nothing_lives_longer_than_its_transform():
    class Big:
        pass

    held = Big()

    def step(g, s, p, k, leaf, held=held):
        return g

    def used(step):
        tx = build.elementwise(step)
        for _ in range(4):
            jax.block_until_ready(tx.update(tree(), tx.init(tree())))
        jax.jit(lambda g: tx.update(g, tx.init(g)))(tree())

    used(step)
    gone = weakref.ref(held)
    del step, held
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------------------------------------ outside of jit


def test_outside_of_jit_it_is_the_same_step():
    schedule = gx.warmup_cosine_decay_schedule(0.0, 0.1, 2, 9)
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(schedule, weight_decay=0.1, mask=gx.matrices()))
    params, jitted = tree(1), jax.jit(tx.update)
    mine = theirs = tx.init(params)
    for step in range(5):
        a, mine = tx.update(tree(step), mine, params)
        b, theirs = jitted(tree(step), theirs, params)
        agree(a, b)
        agree(mine, theirs)
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)


def test_outside_of_jit_a_step_that_comes_again_runs_without_python():
    calls = []
    tx = counting(calls)
    for step in range(6):
        updates, _ = tx.update(tree(step), tx.init(tree()))
        agree(updates, jax.tree.map(lambda g: 2 * g, tree(step)))
    first = len(tree())  # of the first step every leaf is worked by itself: it may be the only one
    assert len(calls) == first + 2  # a shape each; the whole step refers to the same programs
    tx.update({"other": jnp.ones(3)}, tx.init({"other": jnp.ones(3)}))
    assert len(calls) == first + 2


def test_a_schedule_that_looks_at_the_count_still_works_outside_of_jit():
    tx = gx.scale_by_learning_rate(lambda count: 0.1 if count < 4 else 0.2)
    state, got = tx.init(jnp.ones(2)), []
    for _ in range(6):
        updates, state = tx.update(jnp.ones(2), state)
        got.append(round(float(updates[0]), 6))
    assert got == [-0.1] * 4 + [-0.2] * 2


def test_errors_come_again_with_a_wrong_tree():
    tx, params = gx.adam(0.1), {"w": jnp.ones(3)}
    for _ in range(5):
        tx.update(params, tx.init(params), params)
        with pytest.raises(ValueError, match=r"the leaf 'w' has an update of shape \(2,\)"):
            tx.update({"w": jnp.ones(2)}, tx.init(params), params)


def test_sums_with_the_parameters_outside_of_jit():
    params, updates = {"w": jnp.ones(3, jnp.bfloat16), "n": jnp.arange(3)}, {"w": jnp.ones(3), "n": None}
    for _ in range(5):
        new = gx.apply_updates(params, updates)
        assert new["w"].dtype == jnp.bfloat16
        assert float(new["w"][0]) == 2.0
        assert new["n"].dtype == jnp.int32
        with pytest.raises(ValueError, match="missing in the updates: 'n'"):
            gx.apply_updates(params, {"w": jnp.ones(3)})


# ------------------------------------------------------------------------------------------------ execute


def test_a_pass_can_be_run_in_another_way():
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1))
    params, shapes = tree(1), []

    def execute(fn, args):
        u, p, ks, stored = args
        shapes.append((u.shape, p.shape, len(ks), [sorted(s) for s in stored]))
        return jax.jit(fn)(*args)

    state = tx.init(params)
    a = run(tx.body, tree(), state, params, {}, execute=execute)
    agree(a, jax.jit(tx.update)(tree(), state, params))
    assert len(shapes) == len(SHAPES)
    assert shapes[0] == ((4, 3), (4, 3), 3, [[], ["mu", "nu"], []])


# ------------------------------------------------------------------------------------------------ reductions


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_small_leaves_are_reduced_together(combine):
    def reduce(g, s, p, k, leaf):
        return jnp.sum(g * g) if combine == "sum" else jnp.max(jnp.abs(g))

    tx = build.treewise(
        lambda g, s, p, k, leaf: g / k.total,
        reduce=reduce,
        once=lambda c: {"total": c.sums},
        combine=combine,
    )
    grads = tree(3)
    flat = np.concatenate([np.ravel(g) for g in grads.values()])
    total = np.sum(flat**2) if combine == "sum" else np.max(np.abs(flat))
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    agree(updates, jax.tree.map(lambda g: g / total, grads))
    assert partials(tx, grads) == 4  # the vectors are one, three matrices too few


def partials(tx, grads):
    jaxpr = jax.make_jaxpr(lambda g, p: tx.update(g, tx.init(p), p))(grads, grads).jaxpr
    return sum("partial" in str(equation.params.get("name", "")) for equation in jaxpr.eqns)


def test_what_is_not_read_is_not_stacked_and_what_is_large_is_not_copied():
    tx = gx.clip_by_global_norm(1.0625)  # no other test's, whose programs would be found
    assert partials(tx, [jnp.ones(100)] * 8) == 1
    assert partials(tx, [jnp.ones(5000)] * 8) == 8
    assert partials(tx, [jnp.ones(4096)] * 33) == 33  # together they are more than may be copied
    stacks = [v.many for k, v in tx.plan.programs.items() if isinstance(k, tuple) and k[0] == "stacked"]
    assert stacks == [[True, False]]  # the gradient and not the parameter


def test_scalars_set_apart_are_the_same_also_where_they_are_not_finite():
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1))
    grads = [jnp.full(2, jnp.nan)] + [jnp.ones(2)] * 20
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    assert all(bool(jnp.isnan(u).all()) for u in updates)
