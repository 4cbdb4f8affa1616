"""`zero` inside shard_map: real reduce-scatters and all-gathers, and the numbers of one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

P = jax.P
RNG = np.random.default_rng(1)
VALUES = {
    "w": RNG.normal(size=(16, 128)).astype(np.float32),
    "odd": RNG.normal(size=(3, 5)).astype(np.float32),
    "one": np.float32(1.5),
    "empty": np.zeros((0, 4), np.float32),
}
#: One number a device, of which each makes gradients of its own.
BATCH = RNG.normal(size=8).astype(np.float32)


def mesh_of(shape=(8,), names=("data",)):
    return jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def local(params, x):
    return jax.tree.map(lambda p: jnp.cos(p * x) + p * x, params)


def mean(params):
    found = [local(params, jnp.asarray(x)) for x in BATCH]
    return jax.tree.map(lambda *g: sum(g[1:], g[0]) / np.float32(8), *found)


@jax.jit(static_argnums=0)
def alone(tx, params):
    def one(carry, _):
        params, state = carry
        updates, state = tx.update(mean(params), state, params)
        return (gx.apply_updates(params, updates), state), None

    return jax.lax.scan(one, (params, tx.init(params)), None, length=4)[0]


class Run:
    """A compiled step by hand over `axes`, and what it starts from."""

    def __init__(self, tx, check_vma=True, axes="data", mesh=None, manual=None, reduced=False):
        mesh = mesh or mesh_of()
        self.params = jax.device_put(jax.tree.map(jnp.asarray, VALUES), jax.NamedSharding(mesh, P()))
        self.state = gx.sharding.init_sharded(tx, self.params)
        specs = jax.tree.map(lambda x: x.sharding.spec, self.state)

        def step(params, state, x):
            own = jax.lax.pcast(params, axes, to="varying") if check_vma else params
            grads = local(own, x[0])
            grads = jax.lax.pmean(grads, axes) if reduced else grads
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state

        inside = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), specs, P(axes)),
            out_specs=(P(), specs),
            check_vma=check_vma,
            axis_names=set(manual or mesh.axis_names),
        )
        self.step = jax.jit(inside).lower(self.params, self.state, BATCH).compile()

    def __call__(self):
        params, state = self.params, self.state
        for _ in range(4):
            params, state = self.step(params, state, jnp.asarray(BATCH))
        return params, state

    def collectives(self):
        """The shapes of what each kind of collective gives."""
        text = self.step.as_text()
        kinds = ("reduce-scatter", "all-gather", "all-reduce")
        return {kind: re.findall(rf"= (\S.*?) {kind}(?:-start)?\(", text) for kind in kinds}


def equal(got, wanted, rtol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.max(np.abs(a - b), initial=0.0) <= rtol * np.max(np.abs(b), initial=0.0)


CASES = {
    "adamw": lambda: gx.adamw(0.01),
    "clip": lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.01)),
    "adafactor": lambda: gx.adafactor(0.01, min_dim_size_to_factor=2),
    "lamb": lambda: gx.lamb(0.01),
    "guard": lambda: gx.guard(gx.adamw(0.01), spike=6.0, window=8),
    "cautious": lambda: gx.cautious(gx.adamw(0.01)),
    "accumulate": lambda: gx.accumulate(gx.adamw(0.01), 2),
    "probe": lambda: gx.probe(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.01))),
    "low bits": lambda: gx.lowbit.quantized(gx.adamw(0.01), min_size=64, rounding="nearest"),
    "optax": lambda: gx.chain(optax.adamw(0.01)),
}
QUICK = {("clip", True), ("adafactor", False)}


@pytest.mark.parametrize(
    ("case", "check_vma"),
    [
        pytest.param(case, vma, marks=() if (case, vma) in QUICK else pytest.mark.slow)
        for case in CASES
        for vma in (True, False)
    ],
)
def test_slices_give_what_one_device_gives(case, check_vma):
    tx = CASES[case]()
    wanted = alone(tx, jax.tree.map(jnp.asarray, VALUES))
    equal(Run(gx.sharding.zero(tx), check_vma)(), wanted, 2e-6)


def test_a_step_scatters_gathers_and_never_reduces_a_whole_gradient():
    run = Run(gx.sharding.zero(gx.adamw(0.01)))
    plain = run.collectives()
    assert len(plain["reduce-scatter"]) == 1
    assert "f32[2,128]" in plain["reduce-scatter"][0]
    assert len(plain["all-gather"]) == 1
    assert "f32[16,128]" in plain["all-gather"][0]
    assert all("128" not in shape for shape in plain["all-reduce"])  # of leaves that do not divide
    clipped = Run(gx.sharding.zero(CASES["clip"]())).collectives()
    assert [len(clipped[kind]) for kind in ("reduce-scatter", "all-gather")] == [1, 1]
    assert all("128" not in shape for shape in clipped["all-reduce"])
    assert sum("f32[]" in shape for shape in clipped["all-reduce"]) >= 1


def test_gradients_that_are_reduced_already_are_only_sliced():
    tx = gx.sgd(0.1, 0.5)
    run = Run(gx.sharding.zero(tx), reduced=True)
    equal(run(), alone(tx, jax.tree.map(jnp.asarray, VALUES)), 1e-6)
    assert run.collectives()["reduce-scatter"] == []


def test_two_axes_and_a_mesh_that_is_partly_manual():
    wanted = alone(gx.sgd(0.1, 0.5), jax.tree.map(jnp.asarray, VALUES))
    both = mesh_of((4, 2), ("a", "b"))
    equal(Run(gx.sharding.zero(gx.sgd(0.1, 0.5), ("a", "b")), axes=("a", "b"), mesh=both)(), wanted, 1e-6)
    part = mesh_of((8, 1), ("data", "model"))
    equal(Run(gx.sharding.zero(gx.sgd(0.1, 0.5)), mesh=part, manual=("data",))(), wanted, 1e-6)


def test_init_in_there_makes_slices():
    mesh = mesh_of()
    tx = gx.sharding.zero(gx.adafactor(0.01, min_dim_size_to_factor=2))
    params = {"w": jnp.asarray(VALUES["w"])}
    specs = jax.tree.map(lambda s: s.spec, gx.sharding.state_shardings(tx, params, mesh))
    made = jax.jit(jax.shard_map(tx.init, mesh=mesh, in_specs=P(), out_specs=specs))(params)
    wanted = gx.sharding.init_sharded(tx, params, mesh)
    jax.tree.map(np.testing.assert_array_equal, made, wanted)
    assert made[0].v_row["w"].sharding.spec == wanted[0].v_row["w"].sharding.spec


# ------------------------------------------------------------------------------------------------ what is refused


def refused(match, tx, axes=("data",), names=("data",), shape=(8,), vary=False):
    def step(params):
        given = jax.lax.pcast(params, axes, to="varying") if vary else params
        return tx.update(params, tx.init(params), given)[0]

    mesh, params = mesh_of(shape, names), {"w": jnp.ones((16, 128))}
    inside = jax.shard_map(step, mesh=mesh, in_specs=P(), out_specs=P(), axis_names=set(axes))
    with pytest.raises(ValueError, match=f"(?s){match}"):
        jax.eval_shape(jax.jit(inside), params)


def test_what_cannot_be_right_there_is_refused():
    refused(r"zero inside shard_map: .*trust_ratio.*use gx\.lamb", gx.sharding.zero(optax.lamb(0.1)))
    both = gx.sharding.zero(gx.adam(0.1), ("a", "b"))
    refused("does not run by hand over 'b'", both, axes=("a",), names=("a", "b"), shape=(4, 2))
    refused(
        "leaf 'w' of the parameters varies.*before jax.lax.pcast", gx.sharding.zero(gx.adam(0.1)), vary=True
    )


def test_beside_explicit_axes_updates_lie_as_the_parameters():
    """JAX has no reduce-scatter of what is cut over them: the gradient is reduced whole and sliced."""
    kinds = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=kinds, devices=jax.devices()[:4])
    specs = {"b": P("model"), "w": P(None, "model")}
    given = {"b": np.linspace(1, 2, 8, dtype=np.float32), "w": VALUES["w"]}
    params = jax.device_put(given, {name: jax.NamedSharding(mesh, spec) for name, spec in specs.items()})
    tx = gx.sharding.zero(gx.chain(gx.clip_by_global_norm(1.0), gx.trace(0.5)))

    def step(params, x):
        grads = local(jax.lax.pcast(params, "data", to="varying"), x[0])
        updates, _ = tx.update(grads, tx.init(params), params)
        assert all(jax.typeof(updates[name]) == jax.typeof(p) for name, p in params.items())
        return updates

    inside = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), axis_names={"data"})
    with jax.set_mesh(mesh):
        got = jax.jit(inside)(params, jnp.asarray(BATCH[:2]))
    both = [local(given, jnp.asarray(x)) for x in BATCH[:2]]
    clip = gx.clip_by_global_norm(1.0)
    want, _ = clip.update(jax.tree.map(lambda a, b: (a + b) / 2, *both), ())
    for name, u in got.items():
        np.testing.assert_allclose(u, want[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_codes_are_cut_in_whole_blocks_only():
    """A slice that is less than a block of 64 has no scale of its own: such a leaf stays whole."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"short": jnp.ones(128), "long": jnp.ones(1024), "thin": jnp.ones((128, 16))}
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
    inner = gx.lowbit.quantized(gx.adamw(0.01), min_size=64, rounding="nearest")
    tx = gx.sharding.zero(inner)
    told = gx.sharding.slices(tx, params, mesh)
    assert told["short"] == "whole: no dimension of (128,) divides by 8 in whole blocks of codes"
    assert (told["long"], told["thin"]) == ("P('data',)", "P('data', None)")
    state = gx.sharding.init_sharded(tx, params, mesh)
    specs = (jax.P(), jax.tree.map(lambda x: x.sharding.spec, state), jax.P())
    update = jax.jit(jax.shard_map(tx.update, mesh=mesh, in_specs=specs, out_specs=specs[:2]))
    got, want = update(grads, state, params), jax.jit(inner.update)(grads, inner.init(params), params)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6)
