"""Steps whose outputs all have a sharding: what goes round lies where it lay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.sharding import step as room

KINDS = ["Auto", "Explicit"]
WHOLE, CUT = jax.P(), jax.P("data")


def _mesh(kind: str):
    return jax.make_mesh((8,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))


def _on(mesh, x, spec=WHOLE, kind: str = "device"):
    return jax.device_put(x, jax.NamedSharding(mesh, spec, memory_kind=kind))


def _counted(tx, traces):
    def step(params, state, x, *, scale=1.0):
        traces.append(1)
        grads = jax.tree.map(lambda p: p * x, params)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, {"loss": x * scale}

    return step


def _keep_in_host(params, state, x):
    """The state goes to the device and back; its shape is that of the parameters."""
    near = jax.device_put(state, jax.memory.Space.Device) * jnp.float32(0.5) + x
    return params - near, jax.device_put(near, jax.memory.Space.Host), jnp.sum(near)


def test_the_trap_of_a_donated_host_array_and_that_make_step_is_none():
    """JAX matches the donated state with the first output of its shape if it does not know all memories."""
    mesh = _mesh("Auto")
    near = jax.NamedSharding(mesh, jax.P("data"))
    far = near.with_memory_kind("pinned_host")
    params, x = (jax.device_put(jnp.ones((8, 8)), near) for _ in range(2))
    state = jax.device_put(jnp.ones((8, 8)), far)
    plain = jax.jit(_keep_in_host, donate_argnums=1, out_shardings=(near, far, None))
    with pytest.raises(Exception, match="Memory kind mismatch"):
        jax.block_until_ready(plain(params, state, x))
    state = jax.device_put(jnp.ones((8, 8)), far)
    step = gx.sharding.make_step(_keep_in_host, params, state)
    text = step.lower(params, state, x).as_text()
    head = next(line for line in text.splitlines() if "func public @main" in line)
    first, second = head.split("%arg1")[:2]
    assert "tf.aliasing_output = 0" in first
    assert "tf.aliasing_output = 1" in second.split("%arg2")[0]
    for _ in range(3):
        params, state, total = step(params, state, x)
    assert (params.sharding, state.sharding) == (near, far)
    np.testing.assert_allclose(float(total), 64 * (0.125 + 1.75), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_stay_and_there_is_one_program(kind):
    """Parameters on every device and a cut state: by itself Optax's adamw cuts the parameters after one step."""
    mesh = _mesh(kind)
    params = {"w": _on(mesh, jnp.ones((8, 4))), "b": _on(mesh, jnp.ones(3))}
    tx = optax.adamw(0.1)
    cut = jax.tree.map(
        lambda x: _on(mesh, x, jax.P("data") if x.shape == (8, 4) else jax.P()), tx.init(params)
    )
    traces: list[int] = []
    step = gx.sharding.make_step(_counted(tx, traces), params, cut)
    wanted = jax.tree.map(lambda x: x.sharding, (params, cut))
    state, results = cut, []
    for i in range(4):
        with jax.numpy_dtype_promotion("standard"):
            params, state, metrics = step(params, state, jnp.float32(i), scale=jnp.float32(2))
        assert jax.tree.map(lambda x: x.sharding, (params, state)) == wanted
        results.append(float(metrics["loss"]))
        assert metrics["loss"].sharding == jax.NamedSharding(mesh, jax.P())
    assert results == [0.0, 2.0, 4.0, 6.0]
    assert traces == [1]


@pytest.mark.parametrize("kind", [*KINDS, ""])
def test_what_lies_nowhere_goes_to_every_device(kind):
    """`tx.init` outside of jit leaves a count on one device; a restored state is of NumPy's."""
    params = {"w": jnp.ones((8, 4))}
    if kind:
        params = {"w": _on(_mesh(kind), params["w"], jax.P("data"))}
    tx = gx.adam(0.1)
    traces: list[int] = []
    state = tx.init(params)
    step = gx.sharding.make_step(_counted(tx, traces), params, state)
    params, state, _ = step(params, state, jnp.float32(1))
    restored = jax.tree.map(np.asarray, jax.device_get(state))
    params, state, _ = step(params, restored, jnp.float32(1))
    assert traces == [1]
    assert state[0].mu["w"].sharding == params["w"].sharding
    assert len(state[0].count.sharding.device_set) == (8 if kind else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_ahead_of_time_from_shapes(kind):
    mesh = _mesh(kind)
    like = jax.ShapeDtypeStruct((8, 4), "float32", sharding=jax.NamedSharding(mesh, jax.P("data")))
    tx = gx.sharding.offload(gx.adam(0.1), "*/nu")
    shapes = jax.eval_shape(tx.init, like)
    places = gx.sharding.state_shardings(tx, like)
    shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)
    step = gx.sharding.make_step(_counted(tx, []), like, shapes)
    lowered = step.lower(like, shapes, jnp.float32(1))
    with pytest.raises(TypeError, match=r"lowered and not compiled; call \.compile\(\) first"):
        lowered(like, shapes, jnp.float32(1))
    compiled = lowered.compile()
    assert compiled.memory_analysis() is not None
    params = _on(mesh, jnp.ones((8, 4)), jax.P("data"))
    params, state, metrics = compiled(params, gx.sharding.init_sharded(tx, params), jnp.float32(3))
    assert state[0].nu.sharding == places[0].nu
    assert float(metrics["loss"]) == 3.0
    assert params.sharding == like.sharding


def test_other_outputs_lie_where_they_are_told():
    mesh = _mesh("Auto")
    params = _on(mesh, jnp.ones((8, 4)))

    def step(params, state, x):
        return params, state, x * 2, jnp.sum(x)

    cut, whole = jax.NamedSharding(mesh, jax.P("data")), jax.NamedSharding(mesh, jax.P())
    made = gx.sharding.make_step(step, params, (), others=(cut, whole))(params, (), _on(mesh, jnp.ones(8)))
    assert [x.sharding for x in made[2:]] == [cut, whole]
    assert made[1] == ()


def test_donation_can_be_left_out():
    params = jnp.ones(4)
    for donate in (True, False):
        given = params + 0
        made, _ = gx.sharding.make_step(lambda p, s: (p + 1, s), given, (), donate=donate)(given, ())
        assert given.is_deleted() == donate
        assert made.tolist() == [2.0] * 4
    with pytest.raises(TypeError, match=r"make_step\(donate=0\): wanted True or False"):
        gx.sharding.make_step(lambda p, s: (p, s), params, (), donate=0)


def _refused(step, params, state, message, given=None):
    with pytest.raises((ValueError, TypeError), match=message):
        gx.sharding.make_step(step, params, state)(*((params, state) if given is None else given))


def test_steps_that_return_something_else_are_refused():
    params, state = {"w": jnp.ones((2, 2))}, {"m": jnp.ones(2)}
    _refused(lambda p, s: p, params, state, r"the step returned .*wanted a tuple \(params, state, \.\.\.\)")
    _refused(
        lambda p, s: (s, p),
        params,
        state,
        r"(?s)the parameters: what was returned by the step, \{'m': \*\}, and .*returns \(params",
    )
    _refused(
        lambda p, s: ({"w": p["w"].astype(jnp.bfloat16)}, s),
        params,
        state,
        r"(?s)'w' of the parameters was float32\[2, 2\], and the step returns bfloat16\[2, 2\]",
    )
    _refused(
        lambda p, s: (p, s), params, state, r"the state: what was given, \{\}, and the state of", (params, {})
    )
    with pytest.raises(TypeError, match=r"make_step\(step=.*wanted a function; the step comes first"):
        gx.sharding.make_step(params, state, None)


def test_a_state_that_lies_elsewhere_is_refused():
    mesh = _mesh("Auto")
    params = _on(mesh, jnp.ones((8, 4)), jax.P("data"))
    alone = jax.device_put(jnp.ones((8, 4)), jax.devices()[3])
    fact = r"(?s)the only leaf of the state lies on .*3, and others on the mesh \(data=8\).*device_put\(state"
    _refused(lambda p, s: (p, s), params, alone, fact)
    moved = _on(mesh, jnp.ones((8, 4)))
    fact = r"(?s)of the state lies as P\(\) on the mesh \(data=8\), wanted as P\('data'"
    _refused(lambda p, s: (p, s), params, params, fact, (params, moved))
    other = jax.make_mesh((4, 2), ("a", "b"))
    with pytest.raises(ValueError, match=r"make_step\(step, params, state\): .*lie on different meshes"):
        gx.sharding.make_step(lambda p, s: (p, s), params, _on(other, jnp.ones(4)))


def test_the_memory_is_held():
    """A state that was restored to the device, of a transform that keeps it on the host: no step moves it silently."""
    mesh = _mesh("Auto")
    params = _on(mesh, jnp.ones((8, 8)), jax.P("data"))
    near, far = (_on(mesh, jnp.ones((8, 8)), jax.P("data"), kind) for kind in ("device", "pinned_host"))
    fact = r"(?s)returns the only leaf of the state in memory 'pinned_host', and .*lies in 'device'"
    _refused(_keep_in_host, params, near, fact, (params, near, params))
    _refused(
        lambda p, s, x: (p, p, x),
        params,
        far,
        r"in memory 'device', and .* 'pinned_host'",
        (params, far, params),
    )
    step = gx.sharding.make_step(_keep_in_host, params, far)
    with pytest.raises(ValueError, match=r"of the state lies as .*, wanted .* in memory 'pinned_host'"):
        step(params, near, params)
    with pytest.raises(RuntimeError, match=r"new state lies in memory 'device', wanted 'pinned_host'"):
        room._Held("state", far, mesh, None).arrived(near)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_leaves_and_empty_trees_go_round(kind):
    """`None` for what is not trained, a group without state, leaves without axes and without numbers."""
    mesh = _mesh(kind)
    leaves = {"w": _on(mesh, jnp.ones((8, 4)), CUT), "frozen": _on(mesh, jnp.ones(3)), "none": None}
    params = {**leaves, "scalar": _on(mesh, jnp.ones([])), "empty": _on(mesh, jnp.ones((0, 2)))}
    tx = gx.param_groups({"frozen": None, "*": gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1))})
    state = tx.init(params)
    traces: list[int] = []
    step = gx.sharding.make_step(_counted(tx, traces), params, state)
    for _ in range(3):
        params, state, _ = step(params, state, jnp.float32(1))
    assert traces == [1]
    assert params["none"] is None
    assert params["frozen"].tolist() == [1.0] * 3
    assert float(params["scalar"]) < 0.8
    assert params["w"].sharding == leaves["w"].sharding
    nothing = gx.sharding.make_step(lambda p, s: (p, s, jnp.ones(2)), {}, ())
    assert nothing({}, ())[2].tolist() == [1.0, 1.0]


def test_the_step_knows_the_mesh_of_its_parameters():
    """ZeRO on automatic axes asks for a mesh; that of the parameters is enough."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jax.device_put({"w": jnp.ones((16, 4))}, jax.NamedSharding(mesh, jax.P()))
    tx = gx.sharding.zero(gx.adam(0.1))

    def train(params, state):
        updates, state = tx.update(params, state, params)
        return gx.apply_updates(params, updates), state

    state = gx.sharding.init_sharded(tx, params)
    step = gx.sharding.make_step(train, params, state)
    for _ in range(2):
        params, state = step(params, state)
    assert state[0].mu["w"].sharding.spec == jax.P("data", None)
    assert params["w"].sharding.is_fully_replicated
