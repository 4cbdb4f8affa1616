"""Inside `shard_map`, on shards: the numbers of whole arrays."""

import pickle
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import P

import gradxform as gx
from gradxform import build

AXES = ("data", "model")
#: Weights that are cut over two axes, over one along either dimension, over both along one, and not at all.
SPECS = {
    "both": P("data", "model"),
    "rows": P("data", None),
    "columns": P(None, "model"),
    "one": P(("data", "model"), None),
    "whole": P(),
    "bias": P("model"),
    "stack": P("data", None, "model"),
}
SHAPES = {
    "both": (8, 6),
    "rows": (8, 4),
    "columns": (4, 6),
    "one": (8, 4),
    "whole": (4, 4),
    "bias": (4,),
    "stack": (4, 6, 4),
}
STEPS = 3


def _mesh():
    return jax.make_mesh((4, 2), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


def _tree(seed: int, *lead: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(*lead, *shape)) * 3, jnp.float32) for name, shape in SHAPES.items()
    }


PARAMS, GRADS = _tree(0), _tree(1, STEPS)


def _train(tx):
    def train(params, grads):
        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0], value=jnp.float32(1.0))
            return (gx.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), grads)[0]

    return train


def _state_specs(tx, mesh):
    shapes = {
        n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, SPECS[n]))
        for n, x in PARAMS.items()
    }
    return jax.tree.map(lambda s: s.spec, gx.sharding.state_shardings(tx, shapes, mesh))


def _check(tx, names, *tracked):
    """Parameters and state after some steps on shards are those on whole arrays, JAX tracking what varies or not."""
    mesh, over = _mesh(), gx.sharding.reduce_over(tx, names)
    many = {name: P(None, *spec) for name, spec in SPECS.items()}
    specs = {"in_specs": (SPECS, many), "out_specs": (SPECS, _state_specs(tx, mesh))}
    cut = [jax.shard_map(_train(over), mesh=mesh, check_vma=flag, **specs) for flag in tracked]
    wanted, *found = jax.jit(lambda p, g: [train(p, g) for train in (_train(tx), *cut)])(PARAMS, GRADS)
    for got in found:
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True
        ):
            assert x.dtype == y.dtype
            largest = max(1.0, float(np.max(np.abs(y), initial=0.0)))
            np.testing.assert_allclose(
                x, y, rtol=2e-6, atol=1e-6 * largest, err_msg=jax.tree_util.keystr(path)
            )


FEW = {"min_dim_size_to_factor": 4}
TRANSFORMS = {
    "clip": gx.clip_by_global_norm(0.5),
    "block": gx.clip_by_block_rms(0.5),
    "unitwise": gx.adaptive_grad_clip(0.01, axis=0),
    "lamb": gx.per_layer(gx.lamb(0.1), "stack"),
    "lars": gx.lars(1.0, 1e-3),
    "adafactor": gx.adafactor(0.1, **FEW),
    "layers": gx.per_layer(gx.adafactor(0.1, **FEW), "stack"),
    "torch": gx.adafactor(0.1, like="torch"),
    "vision": gx.adafactor(0.1, like="big_vision", min_dim_size_to_factor=4),
    "prodigy": gx.prodigy(estim_lr0=0.05, weight_decay=0.1, estim_lr_coef=0.5),
    "blocks": gx.per_layer(gx.adam_mini(0.1, blocks={"one": 0, "whole": ()}), "stack"),
    "sizes": gx.chain(gx.scale_by_param_block_rms(), gx.scale_by_param_block_norm(), gx.scale(0.1)),
    "held": gx.project(
        gx.project(gx.sgd(0.1), "both", gx.max_norm(1.0, axis=0)), "rows", gx.unit_norm(axis=1)
    ),
    "cautious": gx.per_layer(gx.cautious(gx.adam(0.1)), "stack"),
    "guard": gx.guard(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), spike=3.0),
    "scaled": gx.loss_scale(gx.adam(0.1), initial=2.0),
    "probe": gx.probe(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1))),
}


@pytest.mark.parametrize(
    "name", [n if n in ("clip", "adafactor") else pytest.param(n, marks=pytest.mark.slow) for n in TRANSFORMS]
)
def test_shards_give_what_whole_arrays_give(name):
    _check(TRANSFORMS[name], SPECS, True, False)


def test_without_the_sums_over_shards_it_would_be_seen():
    """The negative control: with each device on its own the same comparison fails."""
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _check(gx.chain(gx.clip_by_global_norm(0.5), gx.sgd(0.1)), (), False)


# ------------------------------------------------------------------------------------------------ several stages


class Distance(NamedTuple):
    count: build.Count
    moment: build.Moment
    start: build.Iterate
    learnt: build.Reading


@build.factory
def by_distance(rate: float = 0.1):
    """Prodigy's shape: moments first, then sums of what they are now, and a number in the state made of the sums."""

    def moment(g, s, p, k, leaf):
        return g, {"moment": 0.9 * s.moment + g}

    def reduce(g, s, p, k, leaf):
        return {"moved": jnp.sum((p - s.start) * s.moment), "size": jnp.sum(jnp.abs(s.moment))}

    def once(c):
        learnt = jnp.maximum(c.state.learnt, jnp.abs(c.sums["moved"]) / c.sums["size"])
        return {"d": learnt}, {"learnt": learnt}

    def step(g, s, p, k, leaf):
        return -rate * (1 + k.d) * s.moment / (1 + leaf.norm(s.moment))

    return build.treewise(
        stages=[build.Stage(moment), build.Stage(step, once, reduce)],
        state=Distance,
        init={"start": lambda p, leaf: p},
        fields={"learnt": lambda: jnp.zeros([])},
        needs=("params",),
        sharded=True,
    )


def test_sums_of_what_its_own_step_has_written():
    _check(by_distance(), SPECS, True)


# ------------------------------------------------------------------------------------------------ what is said


NAMED = gx.chain(gx.clip_by_global_norm(0.5), gx.clip_by_block_rms(0.2), gx.lamb(0.1))


@pytest.mark.parametrize(
    ("names", "check_vma"),
    [
        ("data", True),
        (
            {
                n: tuple(a for axes in s if axes for a in ((axes,) if isinstance(axes, str) else axes))
                for n, s in SPECS.items()
            },
            False,
        ),
    ],
    ids=["names", "names by path"],
)
def test_names_are_enough_where_no_dimension_matters(names, check_vma):
    _check(NAMED, AXES if names == "data" else names, check_vma)


def test_a_single_spec_is_that_of_every_leaf():
    w = jnp.arange(8.0)
    clip = gx.sharding.reduce_over(gx.clip_by_global_norm(1.0), P("data"))
    u = _inside(lambda x: clip.update({"a": x, "b": x}, ())[0]["b"], P("data"))(w)
    np.testing.assert_allclose(u, w / np.sqrt(2 * np.sum(w**2)), rtol=1e-6)


def _inside(fn, spec, check_vma=True):
    return jax.shard_map(fn, mesh=_mesh(), in_specs=spec, out_specs=spec, check_vma=check_vma)


def test_outside_of_shard_map_arrays_are_whole():
    tx = gx.sharding.reduce_over(gx.lamb(0.1), SPECS)
    # Compiled, since a step outside of `jit` may be one program or many, by how often it was called before.
    got, _ = jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    wanted, _ = jax.jit(gx.lamb(0.1).update)(PARAMS, gx.lamb(0.1).init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_what_a_link_says_itself_goes_before():
    tx = gx.sharding.reduce_over(gx.clip_by_global_norm(1.0, axis_names=()), "data")
    got = _inside(lambda x: tx.update(x, ())[0], P("data"))(jnp.arange(1.0, 5.0))
    np.testing.assert_allclose(got, np.ones(4), rtol=1e-6)


def test_axes_that_are_automatic_cut_nothing():
    """Manual over one axis of two: over the other, arrays are whole inside."""
    tx = gx.sharding.reduce_over(gx.scale_by_factored_rms(min_dim_size_to_factor=4), P("data", "model"))
    w = PARAMS["both"]
    cut = jax.shard_map(
        lambda x: tx.update(x, tx.init(x))[0],
        mesh=_mesh(),
        in_specs=P("data"),
        out_specs=P("data"),
        axis_names={"data"},
    )
    plain = gx.scale_by_factored_rms(min_dim_size_to_factor=4)
    np.testing.assert_allclose(jax.jit(cut)(w), plain.update(w, plain.init(w))[0], rtol=2e-6)


@pytest.mark.parametrize(
    "names",
    [
        "data",
        ("data", "model"),
        {"*/kernel": "data", "*": ()},
        P("data", None),
        SPECS,
        {"a": [P(("data", "model"))]},
    ],
)
def test_it_is_a_value(names):
    tx = gx.sharding.reduce_over(gx.adam(0.1), names)
    same = eval(repr(tx), {"gx": gx, "jax": jax})
    assert same == tx == pickle.loads(pickle.dumps(tx)) == gx.from_json(gx.to_json(tx))
    assert hash(same) == hash(tx)
    assert tx != gx.sharding.reduce_over(gx.adam(0.1), P("model"))


def test_its_text():
    tx = gx.sharding.reduce_over(gx.adam(0.1), {"*": P("data", None, ("a", "b"))})
    assert repr(tx) == "gx.sharding.reduce_over(gx.adam(0.1), {'*': jax.P('data', None, ('a', 'b'))})"


# ------------------------------------------------------------------------------------------------ what is refused


@build.factory
def by_its_own_sum():
    def step(g, s, p, k, leaf):
        return g / jnp.sum(jnp.abs(g))

    return build.leafwise(step)


REFUSED = {
    "rule": (
        by_its_own_sum,
        r"(?s)reduce_over\(tx\): by_its_own_sum sees whole leaves.*build\.leafwise\(\.\.\., sharded",
    ),
    "twin": (
        lambda: optax.clip_by_global_norm(1.0),
        r"(?s)reduce_over\(tx\): .*somebody's function.*use gx\.clip_by_gl",
    ),
    "inside": (
        lambda: gx.guard(gx.chain(gx.sgd(0.1), optax.contrib.normalize())),
        r"(?s)somebody's function.*declare\(",
    ),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_would_see_shards_is_refused_when_built(which):
    make, message = REFUSED[which]
    with pytest.raises(ValueError, match=message):
        gx.sharding.reduce_over(make(), "data")
    gx.sharding.reduce_over(make(), ())  # each device holds whole arrays


def test_what_is_declared_to_see_one_element_is_let_through():
    gx.sharding.reduce_over(optax.clip(1.0), "data")


FACTORED = gx.scale_by_factored_rms(min_dim_size_to_factor=4)
WRONG = {
    "names alone": (
        FACTORED,
        "data",
        P("data"),
        r"(?s)the only leaf is cut over \('data',\): its shape is not known.*PartitionSpecs",
    ),
    "one axis": (
        gx.project(gx.sgd(0.1), True, gx.unit_norm(axis=1)),
        "data",
        P("data"),
        r"(?s)a sum over one axis.*Specs",
    ),
    "stack": (
        gx.per_layer(gx.clip_by_block_rms(1.0), "*"),
        "data",
        P("data"),
        r"(?s)of a stack of layers it must be known",
    ),
    "varies": (
        FACTORED,
        P("data"),
        P("data", "model"),
        r"(?s)varies over \['model'\], and P\('data',?\) does not cut.*pmean",
    ),
    "rank": (
        FACTORED,
        P("data", None, None),
        P("data"),
        r"(?s)of shape \(2, 6\) has fewer dimensions than P.*its own spec",
    ),
    "axis": (
        FACTORED,
        P("batch"),
        P("data"),
        r"the mesh has no axis \['batch'\], it has \('data', 'model'\)",
    ),
    "kind": (
        FACTORED,
        {"a": {"b": 3}},
        P("data"),
        r"(?s)axis_names has an int for the leaf 'a/b'.*a tree of jax\.P",
    ),
    "missing": (FACTORED, {"*/bias": P()}, P("data"), r"no pattern of axis_names takes the leaf"),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_is_said_wrongly_is_an_error(which):
    tx, names, spec, message = WRONG[which]

    def step(x):
        over = gx.sharding.reduce_over(tx, names)
        return over.update(x, over.init(x), x)[0]

    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(_inside(step, spec), PARAMS["both"])


def test_nothing_is_summed_by_the_leaf_where_the_engine_adds_up():
    def reduce(g, s, p, k, leaf):
        return leaf.sum(g)

    tx = gx.sharding.reduce_over(
        build.treewise(
            lambda g, s, p, k, leaf: g / k.total,
            reduce=reduce,
            once=lambda c: {"total": c.sums},
            sharded=True,
        ),
        P("data"),
    )
    with pytest.raises(ValueError, match=r"is a shard in a `reduce`.*jnp\.sum"):
        jax.eval_shape(_inside(lambda x: tx.update(x, ())[0], P("data")), jnp.ones(4))


@pytest.mark.parametrize("make", [gx.clip_by_block_rms, gx.clip_by_global_norm])
def test_where_nothing_is_tracked_a_shard_s_norm_is_an_error_too(make):
    tx = make(1.0)
    with pytest.raises(ValueError, match=r"with check_vma=False it cannot be seen.*axis_names=\(\)"):
        jax.eval_shape(_inside(lambda x: tx.update(x, ())[0], P("data"), check_vma=False), jnp.ones(4))
    jax.eval_shape(
        _inside(lambda x: gx.adam(0.1).update(x, gx.adam(0.1).init(x))[0], P("data"), False), jnp.ones(4)
    )


# ------------------------------------------------------------------------------------------------ what is compiled

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
ADAM = gx.chain(gx.scale_by_adam(), gx.add_decayed_weights(0.1), gx.scale_by_learning_rate(0.1))


def _collectives(how, tx):
    """What passes between devices in the compiled update of two leaves that are cut and one that is whole."""
    kind = jax.sharding.AxisType.Explicit if how == "explicit" else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((4, 2), AXES, axis_types=(kind,) * 2)
    specs = {"w": P("data"), "v": P(None, "data"), "b": P()}
    laid = {name: jax.NamedSharding(mesh, spec) for name, spec in specs.items()}
    shapes = {"w": (8, 4), "v": (6, 4), "b": (3,)}
    params = {n: jax.ShapeDtypeStruct(shapes[n], jnp.float32, sharding=laid[n]) for n in specs}
    where = gx.sharding.state_shardings(tx, params, mesh)
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(tx.init, params),
        where,
    )
    if how == "shard_map":
        over, inner = gx.sharding.reduce_over(tx, specs), jax.tree.map(lambda s: s.spec, where)
        update = jax.jit(
            jax.shard_map(over.update, mesh=mesh, in_specs=(specs, inner, specs), out_specs=(specs, inner))
        )
    else:
        update = jax.jit(tx.update, out_shardings=(laid, where) if how == "auto" else None)
    with jax.set_mesh(mesh):
        text = update.lower(params, state, params).compile().as_text()
    started = rf" ({'|'.join(COLLECTIVES)})(-start)?\("
    return [line for line in text.splitlines() if re.search(started, line)]


@pytest.mark.parametrize("how", ["auto", "explicit", "shard_map"])
def test_an_elementwise_update_needs_no_collective_and_a_clip_one_number(how):
    assert _collectives(how, ADAM) == []
    lines = _collectives(how, gx.chain(gx.clip_by_global_norm(1.0), ADAM))
    assert len(lines) == 1, lines
    # Under jit XLA puts the leaves' numbers into one all-reduce, of as many numbers as leaves are cut.
    assert re.search(r"= \(?(f32\[\](, )?){1,2}\)? all-reduce\(", lines[0]), lines


# ------------------------------------------------------------------------------------------------ pmap


def _mapped(tx, average):
    """Two steps under `pmap` of one loss over eight rows, one a device."""
    rows, w = jnp.asarray(np.random.default_rng(3).normal(size=(8, 4)) * 3, jnp.float32), jnp.ones(4)

    def step(w, state, row):
        g = jax.grad(lambda w: jnp.sum(row * w**2))(w)
        updates, state = tx.update(jax.lax.pmean(g, "batch") if average else g, state, w)
        return gx.apply_updates(w, jax.lax.pmean(updates, "batch")), state

    many = jnp.stack([w] * 8)
    state, mapped = jax.pmap(tx.init)(many), jax.pmap(step, axis_name="batch")
    for _ in range(2):
        many, state = mapped(many, state, rows)
    return rows, many


RECIPE = gx.guard(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)))


def test_under_pmap_averaged_gradients_are_whole():
    rows, many = _mapped(RECIPE, True)
    w, state = jnp.ones(4), RECIPE.init(jnp.ones(4))
    for _ in range(2):
        g = jax.grad(lambda w: jnp.mean(rows @ w**2))(w)
        updates, state = RECIPE.update(g, state, w)
        w = gx.apply_updates(w, updates)
    np.testing.assert_allclose(many, jnp.stack([w] * 8), rtol=2e-6)


def test_under_pmap_gradients_of_one_device_may_be_meant():
    """Clipped on each device before the average, as in differentially private training."""
    rows, many = _mapped(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1)), False)
    w = np.ones(4, np.float32)
    for _ in range(2):
        each = 2 * np.asarray(rows) * w
        w = w - 0.1 * np.mean(each / np.maximum(1, np.linalg.norm(each, axis=1, keepdims=True)), axis=0)
    np.testing.assert_allclose(many, np.tile(w, (8, 1)), rtol=2e-6)


def test_parameters_that_are_cut_over_the_devices_of_pmap():
    tx = gx.sharding.reduce_over(gx.guard(gx.lamb(0.1)), {"cut": "batch", "*": ()})
    w = {"cut": jnp.arange(1.0, 17.0).reshape(8, 2), "whole": jnp.ones((8, 3))}
    got = jax.pmap(lambda w: tx.update(w, tx.init(w), w)[0], axis_name="batch")(w)
    one = {"cut": w["cut"].reshape(16), "whole": w["whole"][0]}
    wanted, _ = gx.lamb(0.1).update(one, gx.lamb(0.1).init(one), one)
    np.testing.assert_allclose(got["cut"].reshape(16), wanted["cut"], rtol=2e-6)
    np.testing.assert_allclose(got["whole"][5], wanted["whole"], rtol=2e-6)


# ------------------------------------------------------------------------------------------------ few bits


@pytest.mark.slow
@pytest.mark.parametrize("check_vma", [True, False])
def test_codes_of_shards_are_those_of_one_device(check_vma):
    """Thresholds are counted in the whole array, wherever a shard stands; blocks of 64 are not cut."""
    tx = gx.lowbit.quantized(gx.adam(0.1), min_size=1)
    specs = {"w": P("data", "model"), "v": P(None, "model"), "s": P("data", None, "model")}
    shapes = {"w": (8, 256), "v": (3, 128), "s": (4, 2, 128)}
    rng = np.random.default_rng(5)
    params = {n: jnp.asarray(rng.normal(size=shape), jnp.float32) for n, shape in shapes.items()}
    over = gx.sharding.reduce_over(gx.per_layer(tx, "s"), specs)

    def steps(tx, p):
        state = tx.init(p)
        for _ in range(2):
            _, state = tx.update(jax.tree.map(lambda x: x * x - x, p), state, p)
        return gx.lowbit.dequantized(state)[0].nu, state[0].nu["w"].codes

    cut = jax.shard_map(
        lambda p: steps(over, p),
        mesh=_mesh(),
        in_specs=(specs,),
        out_specs=(specs, specs["w"]),
        check_vma=check_vma,
    )
    got, wanted = jax.jit(lambda p: (cut(p), steps(tx, p)))(params)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
