"""Any transform on a mesh against the same transform on one device: where its state lies, and what ten steps give.

Used by `test_layouts.py` for some transforms and by `tools/sharded.py` for all.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from gradxform.build import reach_of
from gradxform.testing._example import quadratic
from gradxform.testing._subject import asked_for
from tests.laws import arguments, optax_factories

STEPS = 10
#: Sizes and names of the axes.
SHAPES = {"1": (1,), "2": (2,), "8": (8,), "4x2": (4, 2)}
KINDS = ("Auto", "Explicit")
AXES = ("data", "model")
#: Two that are cut over both axes, one over one, one that does not divide.
TREE = {
    "w": ((8, 16), ("data", "model")),
    "v": ((16, 24), ("model", "data")),
    "b": ((16,), ("data",)),
    "odd": ((3, 5), ()),
}


#: By how much numbers may differ, where it is not what the reach says: what was seen, and the likely reason.
ALMOST = {
    "scale_by_stddev": (1e-6, "5e-8 on 8 devices; likely E[g^2] - E[g]^2 fused or not"),
    "rmsprop, centred": (1e-6, "as scale_by_stddev"),
    "adan, paper": (1e-6, "1e-7 on explicit axes, on a mesh of one device too; why is not known"),
    "adam_atan2": (1e-6, "8e-8; XLA contracts what makes the angle otherwise in a shard of one number"),
    "scale_by_adam_atan2": (1e-6, "as adam_atan2"),
    "optax.scale_by_backtracking_linesearch": (
        1e-3,
        "1e-4; likely the length found hangs on the last bits of a loss",
    ),
}
#: What takes no step in a loop on one device either, by the defect's number in `tests/laws/optax_factories.py`.
LEFT_OUT = {
    "optax.MultiSteps(polyak_sgd)": "C12",
    "optax.inject_hyperparams(adafactor)": "C10",
    "optax.monitor": "C4",
}


class Found(NamedTuple):
    """What one transform did on one mesh: the first thing that is wrong, and the largest relative difference."""

    wrong: str
    apart: float


def mesh_of(shape: str, kind: str) -> Any:
    sizes = SHAPES[shape]
    types = (getattr(jax.sharding.AxisType, kind),) * len(sizes)
    return jax.make_mesh(sizes, AXES[: len(sizes)], axis_types=types)


def layout(mesh: Any) -> dict[str, Any]:
    """The sharding of each parameter; an axis that the mesh lacks is left out."""
    made: dict[str, Any] = {}
    for name, (_, axes) in TREE.items():
        known = [axis if axis in mesh.axis_names else None for axis in axes]
        made[name] = jax.NamedSharding(mesh, jax.P(*known))
    return made


@functools.cache
def trees() -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and gradients of all steps, as NumPy's."""
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=shape).astype(np.float32) for n, (shape, _) in TREE.items()}
    grads = {n: rng.normal(size=(STEPS, *shape)).astype(np.float32) for n, (shape, _) in TREE.items()}
    return params, grads


def names() -> dict[str, Callable[[], Any]]:
    """Every transform, by name."""
    ours = [*arguments.NAMES, *arguments.VARIANTS]
    made: dict[str, Callable[[], Any]] = {name: functools.partial(arguments.make, name) for name in ours}
    for name in optax_factories.names():
        made[f"optax.{name}"] = functools.partial(optax_factories.make, name)
    return {name: make for name, make in made.items() if name not in LEFT_OUT}


def steps(tx: Any, ours: bool) -> Any:
    """A function of parameters, state and gradients: ten steps in one loop."""
    asked = asked_for(tx)

    def one(carry: Any, grads: Any) -> Any:
        params, state = carry
        loss = quadratic(params, grads)
        known = {
            "value": loss(params),
            "grad": grads,
            "value_fn": loss,
            "obj_fn": loss,
            "key": jax.random.key(0),
        }
        updates, state = tx.update(grads, state, params, **{name: known[name] for name in asked})
        if not ours:
            updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
        return (gx.apply_updates(params, updates), state), updates

    def run(params: Any, state: Any, grads: Any) -> Any:
        carry, updates = jax.lax.scan(one, (params, state), grads)
        return (*carry, jax.tree.map(lambda u: u[-1], updates))

    return run


def _numbers(tree: Any) -> list[np.ndarray]:
    def one(x: Any) -> np.ndarray:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(jax.device_get(x))

    return [one(x) for x in jax.tree.leaves(tree)]


def _apart(got: Any, wanted: Any) -> float:
    """The largest difference of two trees, as a share of the largest number of the leaf."""
    worst = 0.0
    for x, y in zip(_numbers(got), _numbers(wanted), strict=True):
        if np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        size = np.max(np.abs(y), initial=0.0)
        worst = max(worst, float(np.max(np.abs(x - y)) / (size or 1.0)))
    return worst


class Grid:
    """One transform, run once on one device and then on meshes."""

    def __init__(self, tx: Any, ours: bool) -> None:
        self.tx = gx.build.as_transform(tx, "grid") if not ours else tx
        self.run = steps(self.tx if ours else tx, ours) if ours else steps(self.tx, ours)
        self.element = reach_of(tx) == "element"
        params, grads = (jax.tree.map(jnp.asarray, tree) for tree in trees())
        self.wanted = jax.jit(self.run)(params, jax.jit(self.tx.init)(params), grads)

    def allowed(self, name: str) -> float:
        """By how much numbers may differ from those of one device, as a share of the largest one of a leaf."""
        return ALMOST[name][0] if name in ALMOST else 0.0 if self.element else 1e-5

    def on(self, shape: str, kind: str) -> Found:
        mesh = mesh_of(shape, kind)
        where = layout(mesh)
        params, grads = trees()
        params = {n: jax.device_put(x, where[n]) for n, x in params.items()}
        grads = {
            n: jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, *where[n].spec)))
            for n, x in grads.items()
        }
        with jax.set_mesh(mesh):
            derived = gx.sharding.state_shardings(self.tx, params)
            state = gx.sharding.init_sharded(self.tx, params)
            wrong = _misplaced(state, derived, "the fresh state")
            out = {} if kind == "Explicit" else {"out_shardings": (where, derived, where)}
            got = jax.jit(self.run, **out)(params, state, grads)
        for tree, wanted, name in zip(
            got, (where, derived, where), ("parameters", "state", "updates"), strict=True
        ):
            wrong = wrong or _misplaced(tree, wanted, f"the {name}")
        return Found(wrong, _apart(got, self.wanted))


def _misplaced(tree: Any, wanted: Any, what: str) -> str:
    """The first leaf that does not lie where it should, or takes other bytes on a device."""
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        return f"{what}: another structure"
    for (path, x), sharding in zip(
        jax.tree_util.tree_flatten_with_path(tree)[0], jax.tree.leaves(wanted), strict=True
    ):
        where = f"{what}{jax.tree_util.keystr(path)} {x.dtype}{list(x.shape)}"
        if not x.sharding.is_equivalent_to(sharding, x.ndim):
            return f"{where} lies {x.sharding.spec}, wanted {sharding.spec}"
        if x.addressable_shards[0].data.shape != sharding.shard_shape(x.shape):
            return f"{where} has {x.addressable_shards[0].data.shape} on a device"
    return ""


def grid_of(name: str) -> Grid:
    """The grid of a transform by its name in `names()`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Grid(names()[name](), not name.startswith("optax."))
