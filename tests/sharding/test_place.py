"""Where the leaves of a state lie."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradxform as gx

AXES = ("data", "model")


def _mesh(kind: str):
    return jax.make_mesh((4, 2), AXES, axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("make", [gx.adafactor, optax.adafactor])
def test_factors_lose_the_axis_that_they_are_means_over(kind, make):
    mesh = _mesh(kind)
    w = jax.device_put(jnp.ones((8, 16)), jax.NamedSharding(mesh, jax.P(*AXES)))
    tx = make(0.1, min_dim_size_to_factor=2)
    state = gx.sharding.init_sharded(tx, {"w": w})[0]
    assert state.v_row["w"].sharding == jax.NamedSharding(mesh, jax.P("data"))
    assert state.v_col["w"].sharding == jax.NamedSharding(mesh, jax.P("model"))
    assert state.count.sharding.is_fully_replicated


def test_shapes_on_an_abstract_mesh_are_enough():
    mesh = jax.sharding.AbstractMesh((64, 8), AXES)
    w = jax.ShapeDtypeStruct((1 << 20, 1 << 16), "float32", sharding=jax.NamedSharding(mesh, jax.P("data")))
    found = gx.sharding.state_shardings(gx.adamw(1e-3), w)
    assert found[0].mu == jax.NamedSharding(mesh, jax.P("data", None))


def test_parameters_that_lie_nowhere_are_refused():
    with pytest.raises(ValueError, match=r"(?s)gx\.sharding\.state_shardings.*pass mesh="):
        gx.sharding.state_shardings(gx.adam(0.1), jax.ShapeDtypeStruct((8,), "float32"))
