"""Every transform on meshes: where its state lies, and ten steps against one device. `tools/sharded.py` runs all."""

import jax
import jax.numpy as jnp
import pytest

import gradxform as gx
from tests.sharding import grid

NAMES = grid.names()
OURS = [name for name in NAMES if not name.startswith("optax.")]
#: One for each reach and kind of wrapper, and Optax's matrix method.
QUICK = ["adamw", "adafactor", "guard", "param_groups", "optax.contrib.muon"]


def _shapes(mesh):
    where = grid.layout(mesh)
    return {
        n: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where[n]) for n, (shape, _) in grid.TREE.items()
    }


@pytest.mark.parametrize("shape", grid.SHAPES)
def test_every_state_has_a_layout(shape):
    """What is shaped like a parameter and ends with its path is cut like it; the tree is that of `init`."""
    mesh = jax.sharding.AbstractMesh(grid.SHAPES[shape], grid.AXES[: len(grid.SHAPES[shape])])
    params = _shapes(mesh)
    for name, make in NAMES.items():
        tx = gx.build.as_transform(make(), name)
        found, state = gx.sharding.state_shardings(tx, params), jax.eval_shape(tx.init, params)
        assert jax.tree.structure(found) == jax.tree.structure(state), name
        for (path, x), sharding in zip(
            jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(found), strict=True
        ):
            last = getattr(path[-1], "key", None) if path else None
            if last in params and x.shape == params[last].shape:
                assert sharding.is_equivalent_to(params[last].sharding, x.ndim), (name, path, sharding.spec)


def test_nothing_is_added_where_types_agree_or_axes_are_automatic():
    """The program of a step has the operations that it has without a mesh."""
    for make in (gx.adamw, gx.lamb, gx.sgd):
        tx, counts = gx.chain(gx.clip_by_global_norm(1.0), make(0.1)), list[int]()
        for kind in (None, *grid.KINDS):
            params = {n: jnp.asarray(x) for n, x in grid.trees()[0].items()}
            with jax.set_mesh(grid.mesh_of("4x2", kind or "Auto")):
                if kind is not None:
                    params = jax.device_put(params, grid.layout(grid.mesh_of("4x2", kind)))
                program = str(jax.make_jaxpr(tx.update)(params, jax.jit(tx.init)(params), params))
            counts.append(program.count(" = "))
            assert "reshard" not in program
        assert len(set(counts)) == 1


def _check(name, shape, kind):
    case = grid.grid_of(name)
    found = case.on(shape, kind)
    assert found.wrong == ""
    assert found.apart <= case.allowed(name)


@pytest.mark.parametrize("name", QUICK)
def test_ten_steps_on_a_mesh_are_those_of_one_device(name):
    _check(name, "4x2", "Explicit")


@pytest.mark.parametrize("name", ["adamw", "guard"])
def test_ten_steps_on_automatic_axes_are_those_of_one_device(name):
    _check(name, "8", "Auto")


#: Of Optax's, those whose programs are not legal on explicit axes.
ILLEGAL = ["lbfgs", "adaptive_grad_clip", "contrib.prodigy", "contrib.galore", "contrib.momo"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(n for n in OURS if n not in QUICK), *(f"optax.{n}" for n in ILLEGAL)])
def test_ten_steps_of_all_others(name):
    _check(name, "4x2", "Explicit")


@pytest.mark.slow
def test_memory_tells_what_a_device_holds_of_every_state():
    mesh = grid.mesh_of("4x2", "Auto")
    where = grid.layout(mesh)
    params = {name: jax.device_put(x, where[name]) for name, x in grid.trees()[0].items()}
    for name, make in NAMES.items():
        tx = make()
        state = jax.tree.leaves(gx.sharding.init_sharded(tx, params))
        arrays = [
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in state
        ]
        held = sum(x.addressable_shards[0].data.nbytes for x in arrays)
        assert gx.memory(tx, params).total("state").device_bytes == held, name
