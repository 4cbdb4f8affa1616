"""Where the leaves of a state lie."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

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


RULES = {"embed": "data", "mlp": "model", "layers": None}


def _boxed(kind):
    w, b = jnp.arange(128.0).reshape(8, 16), jnp.ones(16)
    if kind == "Partitioned":
        return {"w": nn.Partitioned(w, ("embed", "mlp")), "b": nn.Partitioned(b, ("mlp",)), "s": jnp.ones(3)}
    if kind == "LogicallyPartitioned":
        rules = tuple(RULES.items())
        box = nn.spmd.LogicallyPartitioned
        return {
            "w": box(w, ("embed", "mlp"), rules=rules),
            "b": box(b, ("mlp",), rules=rules),
            "s": jnp.ones(3),
        }
    variables = {"w": nnx.Param(w, out_sharding=("embed", "mlp"), eager_sharding=False)}
    variables["b"] = nnx.Param(b, out_sharding=("mlp",), eager_sharding=False)
    return nnx.State({**variables, "s": nnx.Param(jnp.ones(3))})


@pytest.mark.parametrize("kind", ["Partitioned", "LogicallyPartitioned", "Variable"])
def test_names_on_boxes_say_how_they_are_cut(kind):
    mesh, params = _mesh("Auto"), _boxed(kind)
    rules = None if kind == "LogicallyPartitioned" else RULES
    tx = gx.average_params(gx.adamw(0.1), 0.9)
    found = gx.sharding.state_shardings(tx, params, mesh, rules=rules)
    assert jax.tree.structure(found) == jax.tree.structure(jax.eval_shape(tx.init, params))
    state = gx.sharding.init_sharded(tx, params, mesh, rules=rules)
    (adam, *_), held = state
    assert [x.sharding.spec for x in jax.tree.leaves(adam.mu["w"])] == [jax.P("data", "model")]
    assert [x.sharding.spec for x in jax.tree.leaves(adam.nu["b"])] == [jax.P("model")]
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(adam.mu["s"]))
    average = jax.tree.leaves(held.average["w"])[0]
    assert average.sharding.spec == jax.P("data", "model")
    assert jnp.array_equal(jax.device_get(average), jnp.arange(128.0).reshape(8, 16))


def test_rules_are_tried_in_their_order_and_an_axis_of_the_mesh_is_used_once():
    mesh, box = jax.sharding.AbstractMesh((4, 2), AXES), nn.Partitioned(jnp.ones((8, 16)), ("heads", "embed"))
    for rules, wanted in [
        ([("embed", "data"), ("heads", "data"), ("heads", "model")], jax.P("model", "data")),
        ([("heads", ("data", "model")), ("embed", "data")], jax.P(("data", "model"), None)),
        ({"heads": None, "embed": None}, jax.P(None, None)),
    ]:
        found = gx.sharding.state_shardings(gx.trace(0.9), {"w": box}, mesh, rules=rules)
        assert jax.tree.leaves(found)[0].spec == wanted
    own = nn.Partitioned(jnp.ones((8, 16)), (None, "model"))
    found = gx.sharding.state_shardings(gx.trace(0.9), {"w": own}, mesh)
    assert jax.tree.leaves(found)[0].spec == jax.P(None, "model")


def _shape(mesh, *names, shape=(8, 16)):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, jax.P(*names)))


def test_what_does_not_fit_a_mesh_is_refused_by_name():
    mesh, line = jax.sharding.AbstractMesh((4, 2), AXES), jax.sharding.AbstractMesh((3,), ("x",))
    tx, box = gx.adam(0.1), nn.Partitioned(jnp.ones((8, 16)), ("embed", "mlp"))
    for params, options, message in [
        ({"w": _shape(mesh), "v": _shape(line)}, {}, r"different meshes.*mesh="),
        ({"w": _shape(mesh, "model")}, {"mesh": line}, r"'w'.*no axis 'model'.*\('x',\)"),
        (
            {"w": box},
            {"mesh": mesh, "rules": {"embed": "date"}},
            r"rules=\{'embed': 'date'\}.*no axis 'date'",
        ),
        ({"w": box}, {"mesh": mesh, "rules": {"embed": "data"}}, r"'w'.*axis 'mlp'.*no rule.*pass rules="),
        ({"w": box}, {"mesh": line, "rules": {"embed": "x", "mlp": None}}, r"'w'.*8 is no multiple of 3"),
        ({"w": box.replace(names=("model",) * 3)}, {"mesh": mesh}, r"'w'.*names 3 axes"),
    ]:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            gx.sharding.state_shardings(tx, params, **options)


def test_a_state_is_made_of_values_and_on_devices():
    mesh = jax.sharding.AbstractMesh((4, 2), AXES)
    with pytest.raises(TypeError, match=r"(?s)init_sharded.*'w' is a shape without values.*state_shardings"):
        gx.sharding.init_sharded(gx.adam(0.1), {"w": _shape(mesh)})
    with pytest.raises(TypeError, match=r"(?s)init_sharded.*no devices.*make_mesh"):
        gx.sharding.init_sharded(gx.adam(0.1), {"w": jnp.ones(8)}, mesh)


def test_what_lies_on_no_mesh_is_on_every_device():
    tx, mesh = gx.adam(0.1), _mesh("Explicit")
    for params in ({"w": jnp.ones((8, 16))}, {"w": jax.device_put(jnp.ones((8, 16)), jax.devices()[3])}):
        state = gx.sharding.init_sharded(tx, params, mesh)
        assert state[0].mu["w"].sharding == jax.NamedSharding(mesh, jax.P(None, None))


def test_odd_leaves():
    mesh = _mesh("Explicit")
    small = jax.device_put(jnp.ones(2), jax.NamedSharding(mesh, jax.P("model")))
    params = {"small": small, "none": None, "scalar": jnp.asarray(1.0), "empty": jnp.ones((0, 3)), "deep": {}}
    found = gx.sharding.state_shardings(gx.adam(0.1), params, mesh)
    assert jax.tree.structure(found) == jax.tree.structure(jax.eval_shape(gx.adam(0.1).init, params))
    state = gx.sharding.init_sharded(gx.adam(0.1), params, mesh)
    assert state[0].mu["small"].sharding.spec == jax.P("model")
    assert all(
        x.sharding.is_fully_replicated for x in jax.tree.leaves((state[0].mu["scalar"], state[0].count))
    )
    assert jax.tree.leaves(gx.sharding.init_sharded(gx.adam(0.1), {}, mesh)[0].mu) == []


@pytest.mark.parametrize(
    "make", [lambda: gx.lowbit.exact_master(gx.adamw(0.1)), lambda: optax.contrib.madgrad(0.1)]
)
def test_a_state_that_starts_from_values_has_them(make):
    mesh, tx = _mesh("Auto"), make()
    w = jnp.arange(128.0).reshape(8, 16).astype(jnp.bfloat16)
    wanted = tx.init({"w": w})
    state = gx.sharding.init_sharded(tx, {"w": jax.device_put(w, jax.NamedSharding(mesh, jax.P(*AXES)))})
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert jnp.array_equal(jax.device_get(x), y)
        assert x.ndim != 2 or x.sharding.spec == jax.P(*AXES)


def test_reports_read_the_names_on_boxes_too():
    """They stop at names without a rule, so they take the rules."""
    mesh = jax.sharding.AbstractMesh((64, 8), ("data", "model"))
    params = {"w": nn.Partitioned(jax.ShapeDtypeStruct((512, 64), "float32"), ("embed", "mlp"))}
    given = {"mesh": mesh, "rules": {"embed": "data", "mlp": "model"}}
    tx = gx.adam(1e-3)
    assert gx.memory(tx, params, **given).total("parameters").device_bytes == 256
    assert gx.describe(tx, params, **given).facts.parameter_size.device == 256
    assert gx.sharding.abstract_state(tx, params, **given)[0].mu["w"].value.sharding.spec == jax.P(
        *mesh.axis_names
    )
    told = gx.sharding.slices(gx.sharding.zero(tx), params, mesh, rules={"embed": None, "mlp": "model"})
    assert list(told.values()) == ["P('data', 'model')"]
    noted = {"w": nn.Partitioned(params["w"].value, ("data", "model"), mesh=mesh)}
    assert gx.memory(tx, noted).devices == 512


def test_an_entry_that_is_no_axis_is_refused():
    given = {"mesh": jax.sharding.AbstractMesh((64, 8), AXES), "rules": {"embed": 3}}
    with pytest.raises(TypeError, match=r"got 3; give an axis of the mesh, a tuple of them, or None"):
        gx.sharding.state_shardings(gx.adam(0.1), {"w": jax.ShapeDtypeStruct((8,), "float32")}, **given)
