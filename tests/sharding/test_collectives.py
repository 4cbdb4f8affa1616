"""What devices say to each other: nothing in an elementwise update, one number for a clip. And steps under `pmap`."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.sharding import init_sharded

AXES = ("data", "model")
SPECS = {"w": jax.P(*AXES), "b": jax.P("model"), "s": jax.P()}
SHAPES = {"w": (8, 4), "b": (6,), "s": ()}
COLLECTIVE = re.compile(
    r"%\S+ = (\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\("
)
PLAIN = gx.adamw(1e-3, weight_decay=0.1, mask=gx.matrices())
CLIPPED = gx.chain(gx.clip_by_global_norm(1.0, axis_names=AXES), PLAIN)


def _values(seed: int):
    numbers = np.random.default_rng(seed)
    return {name: jnp.asarray(numbers.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def _on(kind: str):
    """A mesh, and parameters and gradients on it."""
    mesh = jax.make_mesh((4, 2), AXES, axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    places = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), SPECS)
    return mesh, places, *(jax.device_put(_values(seed), places) for seed in (0, 1))


def _update(tx, grads, state, params):
    updates, state = tx.update(grads, state, params)
    return gx.apply_updates(params, updates), state


def _collectives(kind: str, tx, options):
    """What the compiled step sends, as (type, kind of collective)."""
    mesh, places, params, grads = _on("Auto" if kind == "shard_map" else kind)
    state = init_sharded(tx, params)
    where = jax.tree.map(lambda x: x.sharding, state)
    step = partial(_update, tx)
    if kind == "shard_map":
        inside = jax.tree.map(lambda x: x.sharding.spec, state)
        step = jax.shard_map(step, mesh=mesh, in_specs=(SPECS, inside, SPECS), out_specs=(SPECS, inside))
    compiled = jax.jit(step, out_shardings=(places, where)).lower(grads, state, params)
    return COLLECTIVE.findall(compiled.compile(options).as_text())


@pytest.mark.parametrize("kind", ["Auto", "Explicit", "shard_map"])
def test_an_elementwise_update_sends_nothing(kind, as_users):
    assert _collectives(kind, PLAIN, as_users) == []


@pytest.mark.parametrize("kind", ["Auto", "Explicit", "shard_map"])
def test_a_clip_sends_numbers_and_no_array(kind, as_users):
    sent = _collectives(kind, CLIPPED, as_users)
    # Leaves that are cut alike are added up first: one number for each set of axes, and XLA may join them.
    assert 1 <= len(sent) <= 2
    assert all(what == "all-reduce" and set(re.findall(r"\[(.*?)\]", form)) == {""} for form, what in sent)


def test_what_is_counted_can_be_seen(as_users):
    """The negative control: gathering the parameters sends an array."""
    _, places, params, grads = _on("Auto")
    whole = jax.jit(lambda p, g: p["w"].sum() * g["w"], out_shardings=places["s"])
    sent = COLLECTIVE.findall(whole.lower(params, grads).compile(as_users).as_text())
    assert any(what == "all-gather" for _, what in sent)


@pytest.mark.parametrize("mean", [True, False], ids=["means of gradients", "gradients of each device"])
def test_the_recipe_runs_under_pmap_with_a_state_on_every_device(mean):
    """Each device has its own part of the batch; states are replicas, or as many runs as there are devices."""
    tx = gx.guard(gx.chain(gx.clip_by_global_norm(1.0, axis_names=()), PLAIN), axis_names=())
    params, grads = _values(0), [_values(i) for i in range(8)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    copies = jax.tree.map(lambda x: jnp.stack([x] * 8), (params, tx.init(params)))

    def step(params, state, grads):
        grads = jax.lax.pmean(grads, "batch") if mean else grads
        new, state = _update(tx, grads, state, params)
        return new, state

    many = jax.pmap(step, axis_name="batch")
    ps, state = copies
    for _ in range(3):
        ps, state = many(ps, state, stacked)
    average = jax.tree.map(lambda x: x.mean(0), stacked)
    single = jax.jit(partial(_update, tx))
    for device, own in ((0, grads[0]), (5, grads[5])):
        p, s = params, tx.init(params)
        for _ in range(3):
            p, s = single(average if mean else own, s, p)
        for name, x in p.items():
            np.testing.assert_allclose(ps[name][device], x, rtol=2e-6)
    replicas = all(bool((x == x[:1]).all()) for x in jax.tree.leaves((ps, state)))
    assert replicas == mean


def test_pmap_takes_optax_train_loops_as_they_are():
    """The state of Optax's chain, replicated, goes on under ours."""
    ours, theirs = gx.adamw(1e-3), optax.adamw(1e-3)
    params, grads = _values(0), _values(1)
    copies = jax.tree.map(lambda x: jnp.stack([x] * 8), (grads, theirs.init(params), params))
    with jax.numpy_dtype_promotion("standard"):
        wanted = jax.pmap(theirs.update)(*copies)
    got = jax.pmap(ours.update)(*copies)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)  # Optax's 1 - b2 is that of float32
