"""`zero` under jit: slices of the state on every mesh, the same numbers, the layouts that were asked for."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.sharding.slices import cut

P = jax.P
KINDS = ["Auto", "Explicit"]
RNG = np.random.default_rng(0)
VALUES = {
    "w": RNG.normal(size=(16, 128)).astype(np.float32),
    "stack": RNG.normal(size=(8, 3, 64)).astype(np.float32),
    "odd": RNG.normal(size=(3, 5)).astype(np.float32),
    "one": np.float32(1.5),
    "none": None,
    "empty": np.zeros((0, 4), np.float32),
}
SPECS = {name: P(None, "model") if name == "w" else P() for name in VALUES}


def mesh_of(kind: str, shape=(4, 2)):
    names = ("data", "model")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(getattr(jax.sharding.AxisType, kind),) * len(shape))


def laid(mesh, specs=SPECS):
    return {
        name: None if x is None else jax.device_put(jnp.asarray(x), jax.NamedSharding(mesh, specs[name]))
        for name, x in VALUES.items()
    }


def here():
    return jax.tree.map(jnp.asarray, VALUES)


def grads(params, t):
    return jax.tree.map(lambda x: x * t, params)


def steps(tx, params, state, count=10):
    def one(carry, t):
        params, state = carry
        updates, state = tx.update(grads(params, t), state, params)
        return (gx.apply_updates(params, updates), state), None

    return jax.lax.scan(one, (params, state), jnp.cos(jnp.arange(count, dtype=jnp.float32)))[0]


@jax.jit(static_argnums=0)
def alone(tx, params):
    return steps(tx, params, tx.init(params))


def layouts(tree):
    return [(x.sharding.spec if isinstance(x, jax.Array) else x.spec) for x in jax.tree.leaves(tree)]


def padded(specs, tree):
    return [(*s, *(None,) * (x.ndim - len(s))) for s, x in zip(specs, jax.tree.leaves(tree), strict=True)]


def equal(got, wanted, rtol=0.0):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.max(np.abs(b), initial=0.0)
        assert np.max(np.abs(a - b), initial=0.0) <= rtol * scale


def device_bytes(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


#: By name: the transform, how near it is to one device, and at the most which share of its state is on a device.
CASES = {
    "adamw": (lambda: gx.adamw(0.1), 1e-6, 0.28),
    "low bits": (lambda: gx.lowbit.quantized(gx.adamw(0.1), min_size=64), 1e-6, 0.4),
    "adafactor": (lambda: gx.adafactor(0.1, min_dim_size_to_factor=2), 1e-6, 0.8),
    "optax": (lambda: gx.chain(optax.adamw(0.1)), 1e-6, 0.28),
    "lamb": (lambda: gx.lamb(0.1), 3e-6, 0.28),
    "clip": (lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), 1e-6, 0.28),
    "guard": (lambda: gx.guard(gx.adamw(0.1), spike=6.0, window=8), 1e-6, 0.3),
    "groups": (lambda: gx.param_groups({"odd": None, "stack": gx.lion(0.1), "*": gx.adam(0.1)}), 1e-6, 0.3),
    "freeze": (lambda: gx.chain(gx.adamw(0.1), gx.freeze("stack")), 1e-6, 0.28),
    "accumulate": (lambda: gx.accumulate(gx.adamw(0.1), 2), 1e-6, 0.28),
    "average": (lambda: gx.average_params(gx.adamw(0.1), 0.9), 1e-6, 0.28),
}
QUICK = {
    ("adamw", "Auto"),
    ("adamw", "Explicit"),
    ("adafactor", "Explicit"),
    ("low bits", "Auto"),
    ("clip", "Auto"),
}


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(case, kind, marks=() if (case, kind) in QUICK else pytest.mark.slow)
        for case in CASES
        for kind in KINDS
    ],
)
def test_ten_steps_are_those_of_one_device(case, kind):
    make, near, share = CASES[case]
    plain, mesh = make(), mesh_of(kind)
    tx = gx.sharding.zero(plain, param_shardings=SPECS if kind == "Auto" else None)
    params = laid(mesh)
    with jax.set_mesh(mesh):
        wanted = gx.sharding.state_shardings(tx, params, mesh)
        state = jax.jit(tx.init)(params)
        assert padded(layouts(state), state) == padded(layouts(wanted), state)
        ends = (jax.tree.map(lambda x: x.sharding, params), wanted) if kind == "Auto" else None
        new, after = jax.jit(lambda p, s: steps(tx, p, s), out_shardings=ends)(params, state)
    assert padded(layouts(new), new) == padded(layouts(params), new)
    assert padded(layouts(after), after) == padded(layouts(wanted), after)
    wanted, last = alone(plain, here())
    equal(new, wanted, near)
    equal(after, last, 10 * near)  # moments that nearly cancel
    assert device_bytes(after) <= share * sum(x.nbytes for x in jax.tree.leaves(after))


@pytest.mark.parametrize("kind", KINDS)
def test_element_rules_are_bit_equal_on_a_mesh_of_one_axis(kind):
    """One rounding a step and no reduction: what a device computes of its slice is what one computes of the whole."""
    plain, mesh = gx.lion(0.125, weight_decay=0.0), mesh_of(kind, (8,))
    params = laid(mesh, dict.fromkeys(VALUES, P()))
    tx = gx.sharding.zero(plain, stage=2)
    with jax.set_mesh(mesh):
        new, state = jax.jit(lambda p: steps(tx, p, tx.init(p)))(params)
    equal((new, state), alone(plain, here()))
    assert state[0].mu["w"].sharding.spec[0] == "data"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_meshes_of_other_sizes(kind, count):
    mesh = mesh_of(kind, (count,))
    params = laid(mesh, dict.fromkeys(VALUES, P()))
    tx = gx.sharding.zero(gx.adamw(0.1), stage=2)
    with jax.set_mesh(mesh):
        new, state = jax.jit(lambda p: steps(tx, p, tx.init(p)))(params)
    equal(new, alone(gx.adamw(0.1), here())[0], 1e-6)
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    assert device_bytes(state) <= whole / count + 200


def test_a_donated_step_compiles_once_and_goes_on_from_a_state_without_zero():
    plain, mesh = gx.adamw(0.1), mesh_of("Explicit")
    tx = gx.sharding.zero(plain)
    params = laid(mesh)
    before = gx.sharding.init_sharded(plain, params)  # as a checkpoint without ZeRO holds it
    state = jax.device_put(before, gx.sharding.state_shardings(tx, params))
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(tx.init, params))
    traces = 0

    @jax.jit(donate_argnums=(0, 1))
    def step(params, state):
        nonlocal traces
        traces += 1
        updates, state = tx.update(grads(params, 0.5), state, params)
        return gx.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    assert traces == 1
    wanted, back = here(), plain.init(here())
    for _ in range(3):
        updates, back = plain.update(grads(wanted, 0.5), back, wanted)
        wanted = gx.apply_updates(wanted, updates)
    equal((params, state), (wanted, back), 1e-6)
    restored, _ = gx.restore_into(plain, wanted, jax.device_get(state))
    equal(restored, back, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_jit(kind):
    mesh = mesh_of(kind)
    params = laid(mesh)
    tx = gx.sharding.zero(gx.sgd(0.5, 0.5))
    state = tx.init(params)
    wanted = gx.sharding.state_shardings(tx, params)
    assert padded(layouts(state), state) == padded(layouts(wanted), state)
    updates, state = tx.update(params, state, params)
    assert padded(layouts(updates), updates) == padded(layouts(params), updates)
    assert padded(layouts(state), state) == padded(layouts(wanted), state)
    equal(updates, jax.tree.map(lambda x: -0.5 * x, VALUES))


def test_without_parameters_gradients_say_how_leaves_lie():
    mesh = mesh_of("Explicit")
    tx = gx.sharding.zero(gx.trace(0.5))
    g = {"w": laid(mesh)["w"]}
    with jax.set_mesh(mesh):
        updates, state = jax.jit(tx.update)(g, jax.jit(tx.init)(g))
    assert updates["w"].sharding.spec == P(None, "model")
    assert state.trace["w"].sharding.spec == P("data", "model")


@pytest.mark.parametrize(
    ("shape", "spec", "depth", "layers", "wanted"),
    [
        ((8, 16), P(), 0, False, P("data", None)),
        ((6, 16), P(), 0, False, P(None, "data")),
        ((8, 16), P("model"), 0, False, P("model", "data")),
        ((16, 6), P("model"), 0, False, P(("model", "data"), None)),
        ((8, 16), P("data"), 0, False, P("data", None)),
        ((3, 8, 16), P(), 1, False, P(None, "data", None)),
        ((3, 8, 16), P(), 1, True, P(None, None, None)),
        ((4, 8, 16), P(), 1, True, P("data", None, None)),
        ((8, 4, 16), P("model"), 1, False, P(("model", "data"), None, None)),
        ((), P(), 0, False, P()),
        ((0, 4), P(), 0, False, P(None, None)),
        ((2,), P(), 0, False, P(None)),
    ],
)
def test_which_dimension_is_cut(shape, spec, depth, layers, wanted):
    got = cut(shape, spec, ("data",), {"data": 4, "model": 2}, depth, layers)
    assert got.sliced == wanted
    assert bool(got.reason) == (got.dim is None)


def test_a_rule_that_looks_at_whole_arrays_gets_whole_layers():
    @gx.build.factory
    def unit():
        return gx.build.leafwise(lambda g, s, p, k, leaf: g / jnp.sqrt(jnp.sum(g * g)))

    mesh = jax.sharding.AbstractMesh((4,), ("data",))
    shapes = {"a": jax.ShapeDtypeStruct((4, 8), "float32"), "b": jax.ShapeDtypeStruct((8, 8), "float32")}
    tx = gx.sharding.zero(gx.chain(gx.per_layer(unit(), "a"), gx.trace(0.9)))
    found = gx.sharding.slices(tx, shapes, mesh)
    assert found == {"a": str(P("data", None)), "b": "whole: no axis of layers of (8, 8) divides by 4"}


def test_it_is_a_value():
    one, two = (gx.sharding.zero(gx.adamw(0.1), ("data", "model"), 2, {"*": P(None)}) for _ in range(2))
    assert (one, hash(one)) == (two, hash(two))
    assert one.update is two.update
    assert eval(repr(one), {"gx": gx, "jax": jax}) == one
    assert pickle.loads(pickle.dumps(one)) == one
    assert gx.from_json(gx.to_json(one)) == one
    assert one != gx.sharding.zero(gx.adamw(0.1), ("data", "model"), 2)


def test_links_keep_their_addresses_and_the_state_is_counted_once():
    params = {"w": jnp.ones((8, 4))}
    plain, tx = gx.scale_by_adam(), gx.sharding.zero(gx.scale_by_adam())
    assert [link.address for link in tx.plan.flat] == ["zero", "scale_by_adam"]
    assert gx.describe(tx, params).facts.state_size == gx.describe(plain, params).facts.state_size
    rows = {row.address: row.state.whole for row in gx.describe(tx, params).facts.links}
    assert rows == {"zero": 0, "scale_by_adam": 260}


def test_numbers_inside_are_found_and_tuned():
    mesh = mesh_of("Explicit", (8,))
    params = {"w": jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, P()))}
    for tx in (
        gx.tunable(gx.sharding.zero(gx.sgd(0.5)), "learning_rate"),
        gx.sharding.zero(gx.tunable(gx.sgd(0.5), "learning_rate")),
    ):
        state = tx.init(params)
        assert float(next(iter(gx.get_hyperparams(tx, state).values()))) == 0.5
        state = gx.set_hyperparams(state, learning_rate=0.25)
        updates, _ = tx.update(params, state, params)
        np.testing.assert_array_equal(updates["w"], -0.25)


# ------------------------------------------------------------------------------------------------ what is refused


def refused(match, call, kind=ValueError):
    with pytest.raises(kind, match=f"(?s){match}"):
        call()


def test_what_sees_the_whole_tree_is_refused_when_it_is_built():
    def prodigy():
        return gx.sharding.zero(optax.contrib.prodigy())

    refused(r"zero\(tx\).*prodigy.*sees the whole tree.*gx\.build\.declare", prodigy)
    clip = gx.chain(optax.clip_by_global_norm(1.0), gx.adam(0.1))
    refused(r"clip_by_global_norm sees.*use gx\.clip_by_global_norm", lambda: gx.sharding.zero(clip))


def test_wrong_arguments_are_refused():
    adam = gx.adam(0.1)
    refused(r"zero\(axis=3\).*name of an axis", lambda: gx.sharding.zero(adam, 3), TypeError)
    refused("named twice", lambda: gx.sharding.zero(adam, ("data", "data")))
    refused(r"zero\(stage=3\): wanted 1 or 2.*FSDP", lambda: gx.sharding.zero(adam, stage=3))
    refused(
        "param_shardings.*wanted a tree", lambda: gx.sharding.zero(adam, param_shardings={"w": 1}), TypeError
    )
    refused("pass what gx.sharding.zero returns", lambda: gx.sharding.slices(adam, {}), TypeError)


def test_layouts_that_do_not_fit_are_refused():
    mesh = mesh_of("Auto")
    params = {"w": jnp.ones((8, 4))}

    def start(given, axis="data"):
        with jax.set_mesh(mesh):
            return lambda: gx.sharding.zero(gx.adam(0.1), axis, 1, given).init(params)

    with jax.set_mesh(mesh):
        refused("the mesh has no axis 'row'", start(None, "row"))
        refused("no pattern takes the leaf 'w'.*add '\\*'", start({"b": P()}))
        refused("nothing is said of the leaf 'w'", start([P()]))
        refused("of 2 dimensions", start(P(None, None, "data")))
        refused("the mesh has no axis 'rows'", start(P("rows")))


def test_a_step_without_a_mesh_is_refused():
    tx, params = gx.sharding.zero(gx.adam(0.1)), {"w": jnp.ones((8, 4))}
    state = tx.init(params)
    refused("no mesh to cut the state over.*jax.set_mesh", lambda: tx.update(params, state, params))


@pytest.mark.parametrize("kind", KINDS)
def test_reports_and_checkpoints_where_the_layouts_are_said(kind):
    """They trace on a mesh of their own, on which the NamedShardings that were given do not lie."""
    mesh = mesh_of(kind)
    params = laid(mesh)
    tx = gx.sharding.zero(gx.adam(0.1), param_shardings=jax.tree.map(lambda x: x.sharding, params))
    state = gx.sharding.init_sharded(tx, params)
    shapes = gx.sharding.abstract_state(tx, params)
    assert [x.sharding for x in jax.tree.leaves(shapes)] == [x.sharding for x in jax.tree.leaves(state)]
    assert gx.memory(tx, params).total("state").device_bytes == device_bytes(state)
    assert gx.describe(tx, params, mesh=mesh).facts.state_size.device == device_bytes(state)
    big = jax.sharding.AbstractMesh((8, 4), ("data", "model"))
    w = jax.ShapeDtypeStruct((64, 64), "float32", sharding=jax.NamedSharding(big, P()))
    tx = gx.sharding.zero(gx.trace(0.9), param_shardings=jax.NamedSharding(mesh, P()))
    assert gx.memory(tx, {"w": w}).total("state").device_bytes == 64 * 64 * 4 // 8


@pytest.mark.parametrize("kinds", [("Auto", "Explicit"), ("Explicit", "Auto")])
def test_a_mesh_of_both_kinds_of_axes(kinds):
    types = tuple(getattr(jax.sharding.AxisType, kind) for kind in kinds)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    params = laid(mesh)
    tx = gx.sharding.zero(gx.trace(0.5), param_shardings=SPECS)
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        updates, state = jax.jit(tx.update)(params, state, params)
    equal(updates, VALUES)
    assert updates["w"].sharding.is_equivalent_to(params["w"].sharding, 2)
    assert state.trace["w"].sharding.spec == P("data", "model")
