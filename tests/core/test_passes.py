"""What the compiled step costs, in figures that do not depend on the machine's mood: bytes, equations, aliases."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradxform as gx
from benchmarks.entrants import step_of
from benchmarks.methods import ours, theirs
from benchmarks.program import equations, equations_once
from benchmarks.shapes import transformer
from benchmarks.trees import tree


@pytest.fixture(scope="module")
def shapes():
    return transformer(64, 12, vocabulary=500)


def compiled(tx, shapes, options):
    params, grads = tree(shapes, 1), tree(shapes, 0)
    traced = jax.jit(step_of(tx), donate_argnums=(0, 1)).trace(params, tx.init(params), grads)
    return traced, traced.lower().compile(options)


@pytest.mark.slow
def test_the_clipped_adamw_makes_no_copy_of_the_gradients(shapes, as_users):
    assert len(shapes) == 148
    size = sum(x.nbytes for x in tree(shapes, 0).values())
    _, my_program = compiled(ours("adamw"), shapes, as_users)
    with jax.numpy_dtype_promotion("standard"):
        _, other_program = compiled(theirs("adamw"), shapes, as_users)
    temporary = my_program.memory_analysis().temp_size_in_bytes
    assert temporary < 0.15 * size, f"{temporary} bytes temporary for {size} bytes of gradients"
    assert other_program.memory_analysis().temp_size_in_bytes > 0.9 * size, "the control: Optax's clip copies"


def test_a_step_has_few_equations(shapes):
    """As executed, and each inner program once. Optax's clipped AdamW has 27 a leaf."""

    def program(tx):
        params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
        return jax.make_jaxpr(step_of(tx))(params, jax.eval_shape(tx.init, params), params).jaxpr

    mine = program(ours("adamw"))
    with jax.numpy_dtype_promotion("standard"):
        other = program(theirs("adamw"))
    assert equations(mine) < 0.65 * equations(other)
    assert equations_once(mine) < 4.5 * len(shapes)


def test_the_program_grows_with_the_leaves_and_not_with_their_square(as_users):
    """The sum over all leaves stands once in the program, not in the loop of every leaf that it scales."""

    def lines(tx, leaves):
        grads = [jnp.ones(1)] * leaves
        program = jax.jit(tx.update).lower(grads, tx.init(grads), grads).compile(as_users)
        return len(program.as_text().splitlines())

    def repeated(grads, state, params):
        zero = (total := sum(jnp.sum(g * g) for g in grads)) == 0.0
        norm = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, total)))
        return [
            g * jnp.where(norm <= 1.0, 1.0, 1.0 / jnp.where(norm == 0.0, 1.0, norm)) for g in grads
        ], state

    clip = gx.clip_by_global_norm(1.0)
    assert lines(clip, 40) < 2.1 * lines(clip, 20)
    control = optax.GradientTransformation(clip.init, repeated)
    assert lines(control, 40) > 2.5 * lines(control, 20), "the control: XLA repeats what is written like this"


@pytest.mark.parametrize(
    "links", [(gx.clip_by_global_norm(1.0), gx.scale_by_adam()), (gx.trace(0.9), gx.clip(0.1))]
)
def test_one_pass_equals_link_by_link(links):
    """Folding changes the rounding, not the numbers."""
    rate = gx.scale_by_learning_rate(0.1)
    params = tree({"a": (7, 5), "b": (3,)}, 1)
    together = gx.chain(*links, rate)
    apart = optax.chain(*links, rate)
    states = together.init(params), apart.init(params)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for seed in range(5):
        grads = jax.tree.map(lambda x: 100.0 * x, tree({"a": (7, 5), "b": (3,)}, seed))
        one, first = together.update(grads, states[0], params)
        two, second = apart.update(grads, states[1], params)
        for x, y in zip(jax.tree.leaves((one, first)), jax.tree.leaves((two, second)), strict=True):
            assert jnp.allclose(x, y, rtol=1e-6, atol=0)
        states = first, second
