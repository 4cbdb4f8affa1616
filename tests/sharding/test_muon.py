"""Muon where matrices are cut over two axes of a mesh: under jit the same steps, inside shard_map a refusal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from optax.contrib import MuonDimensionNumbers as Dims

import gradxform as gx

SPECS = {"w": P("x", "y"), "tall": P(("x", "y"), None), "bias": P("x"), "stack": P("x", None, "y")}
SHAPES = {"w": (8, 12), "tall": (16, 4), "bias": (8,), "stack": (4, 6, 8)}
PARAMS = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(SHAPES.items())}
GRADS = jax.tree.map(lambda x: jnp.sin(3 * x), PARAMS)
DIMS = {"w": Dims(), "tall": Dims(1, 0), "bias": None, "stack": Dims(1, (0, 2))}
WAYS = {
    "stacked": gx.per_layer(gx.muon(0.1, ns_steps=2, weight_decay=0.1), "stack"),
    "folded": gx.muon(
        0.1, ns_steps=2, adaptive=True, preconditioning="aol", muon_weight_dimension_numbers=DIMS
    ),
}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", WAYS)
def test_cut_matrices_are_worked_whole(kind: Any, name: str) -> None:
    tx = WAYS[name]
    wanted, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        layout = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
        params, grads = jax.device_put(PARAMS, layout), jax.device_put(GRADS, layout)
        state = tx.init(params)
        updates, after = jax.jit(tx.update)(grads, state, params)
    for leaf, u in updates.items():
        np.testing.assert_allclose(u, wanted[leaf], atol=1e-5)
        assert u.sharding.is_equivalent_to(layout[leaf], u.ndim)
    mu, old = (s.inner_states["muon"].inner_state[0].mu for s in (after, state))
    for leaf in ("w", "tall", "stack"):
        assert mu[leaf].sharding.is_equivalent_to(old[leaf].sharding, mu[leaf].ndim)


def test_a_shard_is_no_matrix() -> None:
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    tx, w = gx.muon(0.1, ns_steps=1), {"w": PARAMS["w"]}

    def updates(spec: P) -> Any:
        def step(g: Any, p: Any) -> Any:
            return tx.update(g, tx.init(p), p)[0]

        return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(spec, spec), out_specs=spec))(w, w)

    with pytest.raises(ValueError, match=r"\[muon\]/muon: inside shard_map the leaf 'w' varies over .*'x'"):
        updates(P("x", None))
    with pytest.raises(ValueError, match=r"reduce_over\(tx\): \[muon\]/muon sees whole leaves"):
        gx.sharding.reduce_over(tx, {"w": P("x", None)})
    np.testing.assert_allclose(updates(P())["w"], tx.update(w, tx.init(w), w)[0]["w"], atol=1e-6)
