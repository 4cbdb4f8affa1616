"""Checkpoints that Orbax saves on one mesh and restores on another: nothing is lost, and training goes on as before."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import gradxform as gx

pytestmark = pytest.mark.slow

P, AXES = jax.P, ("data", "model")

#: One leaf for each transform, so that one compiled step on each mesh trains them all. `MaskedNode`s stand in the
#: state of each group in the place of the others' leaves.
TX = gx.average_params(
    gx.param_groups(
        {
            "adamw": gx.adamw(gx.warmup_cosine(1e-2, 2, 20)),
            "eight": gx.lowbit.quantized(gx.adamw(1e-2)),
            "four": gx.lowbit.quantized(gx.lion(1e-2), 4),
            "cast": gx.lowbit.quantized(gx.adam(1e-2), 16),
            "optax": optax.adamw(1e-2),
            "adafactor": gx.adafactor(1e-2, min_dim_size_to_factor=8),
            "frozen": None,
            "scalar": gx.sgd(0.1, momentum=0.9),
        }
    ),
    0.9,
)
SPECS = {
    "adamw": P(*AXES),
    "eight": P(*AXES),
    "four": P("data"),
    "cast": P("model", "data"),
    "optax": P(None, "data"),
    "adafactor": P(*AXES),
    "frozen": P("data"),
    "scalar": P(),
}
SHAPES = {name: () if name == "scalar" else (64, 128) for name in SPECS}
ROUTE = {"8": (8, 1), "4x2": (4, 2), "2": (1, 2), "1": (1, 1)}
STEPS = 2


def _mesh(where: str, kind: str) -> Any:
    return jax.make_mesh(ROUTE[where], AXES, axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)


def _numbers(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


class Run:
    """A run on one mesh; gradients are given, so that no sum over devices can change a bit."""

    def __init__(self, mesh: Any, tx: Any = TX) -> None:
        self.tx, self.mesh, self.traces = tx, mesh, 0
        self.laid = {name: jax.NamedSharding(mesh, spec) for name, spec in SPECS.items()}
        shapes = {n: jax.ShapeDtypeStruct(s, np.float32, sharding=self.laid[n]) for n, s in SHAPES.items()}
        with jax.set_mesh(mesh):
            self.target = {"params": shapes, "state": gx.sharding.abstract_state(tx, shapes)}
        out = jax.tree.map(lambda x: x.sharding, self.target)
        self._step = jax.jit(self._one, out_shardings=out, donate_argnums=0)

    def _one(self, run: Any, grads: Any) -> Any:
        self.traces += 1
        updates, state = self.tx.update(grads, run["state"], run["params"])
        return {"params": gx.apply_updates(run["params"], updates), "state": state}

    def start(self) -> Any:
        params = jax.device_put(_numbers(0), self.laid)
        with jax.set_mesh(self.mesh):
            return {"params": params, "state": gx.sharding.init_sharded(self.tx, params)}

    def steps(self, run: Any, first: int, number: int = STEPS) -> Any:
        with jax.set_mesh(self.mesh):
            for t in range(first, first + number):
                run = self._step(run, jax.device_put(_numbers(t + 1), self.laid))
        return run


def _bits(tree: Any) -> list[Any]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def _same(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype, path
        if "adafactor" in jax.tree_util.keystr(path):  # means over cut axes are added up in another order
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7, err_msg=str(path))
        else:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


@pytest.fixture(scope="module")
def unbroken() -> list[Any]:
    """The run on one device that never stops: its state before each mesh of the route, and at the end."""
    alone = Run(_mesh("1", "Auto"))
    run = alone.start()
    found = [jax.tree.map(np.asarray, run)]
    for i in range(len(ROUTE)):
        run = alone.steps(run, STEPS * i)
        found.append(jax.tree.map(np.asarray, run))
    return found


@pytest.mark.parametrize(
    "kinds",
    [
        ("Auto", "Explicit", "Auto", "Explicit"),
        pytest.param(("Explicit", "Auto", "Explicit", "Auto"), marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_from_mesh_to_mesh(kinds: tuple[str, ...], unbroken: list[Any], tmp_path: Path) -> None:
    run: Any = None
    for i, (where, kind) in enumerate(zip(ROUTE, kinds, strict=True)):
        here = Run(_mesh(where, kind))
        if i == 0:
            run = here.start()
        else:
            before = _bits(run)
            with ocp.StandardCheckpointer() as saver:
                run = saver.restore(tmp_path / str(i - 1), here.target)
            for a, b in zip(_bits(run), before, strict=True):
                np.testing.assert_array_equal(a, b)
        for x, want in zip(jax.tree.leaves(run), jax.tree.leaves(here.target), strict=True):
            assert x.sharding.is_equivalent_to(want.sharding, x.ndim)
        run = here.steps(run, STEPS * i)
        assert here.traces == 1
        _same(jax.tree.map(np.asarray, run), unbroken[i + 1])
        with ocp.StandardCheckpointer() as saver:
            saver.save(tmp_path / str(i), run)


def test_a_state_is_asked_for_without_being_built() -> None:
    mesh = jax.sharding.AbstractMesh((64, 8), AXES)
    w = jax.ShapeDtypeStruct((1 << 20, 1 << 16), "bfloat16", sharding=jax.NamedSharding(mesh, P("data")))
    state = gx.sharding.abstract_state(gx.lowbit.quantized(gx.adamw(1e-3)), w)[0]
    assert state.nu.codes.sharding.spec[0] == "data"
    assert state.nu.codes.shape == w.shape
    assert state.count.sharding == jax.NamedSharding(mesh, P())
    with pytest.raises(ValueError, match=r"gx\.sharding\.abstract_state\(tx, params\): no parameter says"):
        gx.sharding.abstract_state(gx.adam(1e-3), jax.ShapeDtypeStruct((8,), "float32"))
