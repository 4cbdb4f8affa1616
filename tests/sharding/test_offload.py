"""State in the host's memory: where it lies, that the numbers are the same, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

import gradxform as gx

AXES = ("data", "model")
KINDS = ["Auto", "Explicit"]


def _params(kind: str = ""):
    params = {"w": jnp.linspace(-1.0, 1.0, 128).reshape(8, 16), "b": jnp.linspace(0.0, 1.0, 8)}
    if not kind:
        return params
    mesh = jax.make_mesh((4, 2), AXES, axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    specs = {"w": jax.P(*AXES), "b": jax.P()}
    return {name: jax.device_put(x, jax.NamedSharding(mesh, specs[name])) for name, x in params.items()}


def _kinds(tree) -> list[str]:
    return [x.sharding.memory_kind for x in jax.tree.leaves(tree)]


def _step(tx):
    def step(params, state, x):
        grads = jax.tree.map(lambda p: p * x - jnp.float32(0.5), params)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, x * jnp.float32(2)

    return step


def _run(tx, params, steps: int = 5):
    """The parameters and the state after some steps; memory kinds and layouts are the same after each."""
    sharded = isinstance(params["w"].sharding, jax.NamedSharding)
    state = gx.sharding.init_sharded(tx, params) if sharded else tx.init(params)
    step = gx.sharding.make_step(_step(tx), params, state, donate=False)
    before = jax.tree.map(lambda x: x.sharding, state)
    kinds = _kinds(state)
    for i in range(steps):
        params, state, _ = step(params, state, jnp.float32(i))
        assert _kinds(state) == kinds
        if sharded:
            assert jax.tree.map(lambda x: x.sharding, state) == before
    return params, state


def _same(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


TRANSFORMS = {
    "adamw": lambda: gx.adamw(gx.warmup_cosine(1e-2, 2, 10)),
    "optax": lambda: optax.adamw(1e-2),
    "accumulate": lambda: gx.accumulate(gx.guard(gx.adam(1e-2), spike=6.0, window=8), 2),
    "quantized": lambda: gx.lowbit.quantized(gx.adam(1e-2), min_size=0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adamw", pytest.param("optax", marks=pytest.mark.slow)])
def test_a_sharded_state_goes_and_comes_back_and_nothing_else_changes(kind, name):
    inner = TRANSFORMS[name]()
    params = _params(kind)
    tx = gx.sharding.offload(inner, "*/nu/*")
    made, state = _run(tx, params)
    adam = state[0]
    assert adam.nu["w"].sharding.memory_kind == adam.nu["b"].sharding.memory_kind == "pinned_host"
    assert adam.mu["w"].sharding.memory_kind == adam.count.sharding.memory_kind == "device"
    assert adam.nu["w"].sharding.spec == params["w"].sharding.spec
    with jax.numpy_dtype_promotion("standard"):  # for Optax's
        plain, plain_state = _run(inner, params)
    _same((made, state), (plain, plain_state))
    assert jax.tree.structure(state) == jax.tree.structure(plain_state), "checkpoints go with and without"


@pytest.mark.parametrize("name", ["accumulate", pytest.param("quantized", marks=pytest.mark.slow)])
def test_around_wrappers_all_of_it_can_lie_on_the_host(name):
    inner, params = TRANSFORMS[name](), _params()
    made, state = _run(gx.sharding.offload(inner, "*"), params)
    assert set(_kinds(state)) == {"pinned_host"}
    _same((made, state), _run(inner, params))


def test_a_step_that_is_not_compiled_and_one_in_a_chain():
    params = _params()
    tx = gx.chain(gx.clip(1.0), gx.sharding.offload(gx.scale_by_adam(), "*/nu/*"), gx.scale(-0.1))
    assert len(tx.plan.segments) == 1, "the links stay in one pass"
    state = tx.init(params)
    _, state = tx.update(params, state, params)
    assert _kinds(state) == ["device"] * 3 + ["pinned_host"] * 2
    _, other = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_allclose(np.asarray(other[1].nu["w"]), np.asarray(state[1].nu["w"]), rtol=1e-6)


def test_a_scan_over_steps_carries_host_arrays():
    params = _params("Explicit")
    tx = gx.sharding.offload(gx.adam(1e-2), "*/nu/*")
    inside = _step(tx)

    def steps(params, state, xs):
        def one(carry, x):
            params, state, y = inside(*carry, x)
            return (params, state), y

        (params, state), ys = jax.lax.scan(one, (params, state), xs)
        return params, state, ys

    state = gx.sharding.init_sharded(tx, params)
    step = gx.sharding.make_step(steps, params, state, donate=False)
    made, new, ys = step(params, state, jnp.arange(5, dtype=jnp.float32))
    assert _kinds(new) == _kinds(state) == ["device"] * 3 + ["pinned_host"] * 2
    assert ys.shape == (5,)
    _same((made, new), _run(gx.adam(1e-2), params))


def test_host_leaves_are_no_views_of_what_is_on_the_device():
    params = {"w": jnp.ones((8, 16))}
    tx = gx.sharding.offload(gx.adam(1e-2), "*/nu/*")
    state = tx.init(params)
    step = gx.sharding.make_step(_step(tx), params, state)
    for i in range(3):
        params, state, _ = step(params, state, jnp.float32(i))
        host = state[0].nu["w"]
        others = [params["w"], state[0].mu["w"]]
        assert host.unsafe_buffer_pointer() not in [x.unsafe_buffer_pointer() for x in others]
        before = np.array(host)
        others[0].delete()
        np.testing.assert_array_equal(np.asarray(host), before)
        params = {**params, "w": jnp.ones((8, 16))}


@pytest.mark.parametrize(
    "pattern", ["0/nu/*", "adam/nu/*", ("*/nu/w", "*/nu/b"), lambda path, x: "nu" in path.split("/")]
)
def test_patterns_are_of_paths_and_of_addresses(pattern):
    state = gx.sharding.offload(gx.adam(0.1), pattern).init(_params())
    assert _kinds(state) == ["device"] * 3 + ["pinned_host"] * 2


def test_patterns_reach_through_wrappers():
    tx = gx.guard(gx.param_groups({"w": gx.adam(0.1), "*": gx.sgd(0.1, momentum=0.9)}), max_consecutive=3)
    state = gx.sharding.offload(tx, "[[]w]/adam/*/nu/*").init(_params())
    lying = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    assert [path for path, x in lying.items() if x.sharding.memory_kind == "pinned_host"] == [
        ".inner_state.inner_states['w'].inner_state[0].nu['w']"
    ]


def test_the_layout_is_told_for_an_abstract_mesh():
    mesh = jax.sharding.AbstractMesh((64, 8), AXES)
    w = jax.ShapeDtypeStruct((4096, 1024), "float32", sharding=jax.NamedSharding(mesh, jax.P(*AXES)))
    found = gx.sharding.state_shardings(gx.sharding.offload(gx.adam(0.1), "*/nu/*"), {"w": w})[0]
    assert found.nu["w"] == jax.NamedSharding(mesh, jax.P(*AXES), memory_kind="pinned_host")
    assert found.mu["w"] == jax.NamedSharding(mesh, jax.P(*AXES))


def test_it_is_a_value():
    tx = gx.sharding.offload(gx.adam(0.1), "*/nu/*")
    assert repr(tx) == "gx.sharding.offload(gx.adam(0.1), '*/nu/*')"
    assert gx.from_json(gx.to_json(tx)) == tx == gx.sharding.offload(gx.adam(0.1), "*/nu/*")
    assert "adam " in str(gx.describe(tx, _params())), "links keep their names"


def test_a_pattern_that_takes_nothing_is_refused_by_init():
    tx = gx.sharding.offload(gx.adam(0.1), "*/trace/*")
    with pytest.raises(
        ValueError, match=r"(?s)offload\(pattern='\*/trace/\*'\): .*takes no leaf.*'adam/nu/b'"
    ):
        tx.init(_params())
    assert jax.tree.leaves(tx.init({})[0].mu) == [], "without parameters there is nothing to take"
    with pytest.raises(TypeError, match=r"offload\(pattern=.*wanted a glob"):
        gx.sharding.offload("*", gx.adam(0.1))


WRAPPERS = {
    "guard": gx.guard,
    "accumulate": lambda tx: gx.accumulate(tx, 2),
    "loss_scale": gx.loss_scale,
    "apply_when": lambda tx: gx.apply_when(tx, lambda count: count % 2 == 0),
    "switch_at": lambda tx: gx.switch_at(2, gx.sgd(0.1), tx),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_decides_in_a_branch_is_refused_around_it(name):
    inside = gx.chain(gx.clip(1.0), gx.sharding.offload(gx.adam(0.1), "*/nu/*"))
    with pytest.raises(
        ValueError, match=rf"(?s)gx\.{name}\(tx\): .*put gx\.sharding\.offload around gx\.{name}"
    ):
        WRAPPERS[name](inside)
    WRAPPERS[name](gx.adam(0.1))


def test_a_checkpoint_goes_with_and_without(tmp_path):
    """Orbax restores a state of arrays on the device into the host's memory, and back, cut as it was."""
    params = _params("Auto")
    plain = gx.adam(0.1)
    tx = gx.sharding.offload(plain, "*/mu/*")
    state = gx.sharding.init_sharded(tx, params)
    state = jax.tree.map(lambda x: jax.device_put(jnp.full_like(x, 3), x.sharding), state)
    with orbax.checkpoint.StandardCheckpointer() as keeper:
        for i, other in enumerate([plain, tx]):
            keeper.save(tmp_path / str(i), state)
            keeper.wait_until_finished()
            shapes = jax.eval_shape(other.init, params)
            wanted = gx.sharding.state_shardings(other, params)
            like = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, wanted
            )
            state = keeper.restore(tmp_path / str(i), like)
            assert jax.tree.map(lambda x: x.sharding, state) == wanted
            assert all(float(jnp.min(x)) == 3.0 for x in jax.tree.leaves(jax.device_get(state)))
    assert _kinds(state) == ["device", "pinned_host", "pinned_host", "device", "device"]


def test_an_average_on_the_host_is_brought_to_the_parameters():
    params = _params()
    tx = gx.sharding.offload(gx.average_params(gx.sgd(0.1)), "average/average/*")
    state = tx.init(params)
    assert _kinds(state).count("pinned_host") == 2
    best = gx.eval_params(state, params)
    assert _kinds(best) == ["device"] * 2
    np.testing.assert_array_equal(np.asarray(best["w"]), np.asarray(params["w"]))


def test_numbers_on_the_host_are_read_and_set():
    tx = gx.sharding.offload(gx.tunable(gx.adam(0.1), "learning_rate"), "*")
    state = tx.init(_params())
    assert float(gx.get_hyperparams(tx, state)["learning_rate"]) == pytest.approx(0.1)
    state = gx.set_hyperparams(state, learning_rate=0.2)
    assert float(gx.get_hyperparams(tx, state)["learning_rate"]) == pytest.approx(0.2)
    assert set(_kinds(state)) == {"pinned_host"}
