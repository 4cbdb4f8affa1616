"""States in few bits on a mesh: codes are cut as the parameter, scales where they divide, codes as on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.lowbit import Quantized

pytestmark = pytest.mark.slow

AXES = ("data", "model")
#: Cut between blocks of 64, through them, through blocks that go across axes; and of an odd size.
CUTS = {
    "between": ((8, 256), ("model", "data")),
    "through": ((64, 128), ("model", "data")),
    "across": ((8, 4, 8, 16), ("data", None, "model")),
    "short": ((16, 24), ("model", "data")),
    "odd": ((8, 5), ("data",)),
}
SCALES = {
    "between": ("model", "data"),
    "through": ("model", None),
    "across": ("data", None, "model"),
    "short": (None,),
    "odd": (None,),
}


def _trees(names):
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=CUTS[n][0]), jnp.float32) for n in names}
    return params, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)


def two_steps(tx):
    def run(grads, state, params):
        _, state = tx.update(grads, state, params)
        return tx.update(grads, state, params)

    return run


def _nodes(state):
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Quantized))
    return [x for x in leaves if isinstance(x, Quantized)]


@pytest.mark.parametrize(
    ("options", "kinds", "names"),
    [
        ({}, ["Explicit"], ["through"]),
        *[
            pytest.param(options, kinds, names, marks=pytest.mark.slow)
            for options, kinds, names in (
                ({}, ["Explicit"], list(CUTS)),
                ({}, ["Auto"], ["through", "odd"]),
                ({"bits": 4}, ["Explicit"], ["through", "odd"]),
                ({"like": "bitsandbytes"}, ["Explicit"], list(CUTS)),
                ({"map": "float8"}, ["Explicit"], ["through"]),
            )
        ],
    ],
    ids=str,
)
def test_codes_are_cut_as_the_parameter_and_are_those_of_one_device(options, kinds, names):
    tx = gx.lowbit.quantized(gx.adamw(0.1), min_size=0, **options)
    params, grads = _trees(names)
    updates, wanted = jax.jit(two_steps(tx))(grads, tx.init(params), params)
    for kind in kinds:
        mesh = jax.make_mesh((4, 2), AXES, axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
        where = {n: jax.NamedSharding(mesh, jax.P(*axes)) for n, (_, axes) in CUTS.items() if n in names}
        with jax.set_mesh(mesh):
            mine, theirs = jax.device_put(params, where), jax.device_put(grads, where)
            shardings = gx.sharding.state_shardings(tx, mine)
            for name, node in shardings[0].mu.items():
                assert node.codes.is_equivalent_to(where[name], params[name].ndim)
                entries = SCALES[name] if options.get("like") is None else (None,)
                assert node.scales.is_equivalent_to(jax.NamedSharding(mesh, jax.P(*entries)), len(entries))
            out = {"out_shardings": (where, shardings)} if kind == "Auto" else {}
            state = gx.sharding.init_sharded(tx, mine)
            got, state = jax.jit(two_steps(tx), **out)(theirs, state, mine)
        for x, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)
        for x, y in zip(_nodes(state), _nodes(wanted), strict=True):
            assert x.step == y.step == 2
            assert np.array_equal(x.codes, y.codes)
            np.testing.assert_allclose(
                np.asarray(x.scales, np.float32), np.asarray(y.scales, np.float32), rtol=1e-6
            )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), got, updates)
