"""On a mesh, what belongs to a parameter lies where the parameter lies."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._law import Broken, law
from .._subject import Subject, difference, filled, form_difference, rows

KINDS = ("Auto", "Explicit")


#: One parameter that is cut over both axes of the mesh, one by both on one of its own, one that does not divide.
SHAPES = {"w": (8, 4), "b": (16,), "odd": (3, 5)}
CUTS = {"w": jax.P("x", "y"), "b": jax.P(("x", "y")), "odd": jax.P()}
#: Other layouts of the same, for gradients.
OTHERS = {"w": jax.P("y", "x"), "b": jax.P("y"), "odd": jax.P()}


def _mesh(kind: str) -> Any:
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)


def _values(start: float = 1.0) -> dict[str, Any]:
    return {name: jnp.asarray(filled(shape, start, np.float32)) for name, shape in SHAPES.items()}


def _laid(tree: dict[str, Any], mesh: Any, cuts: dict[str, Any]) -> dict[str, Any]:
    return {name: jax.device_put(x, jax.sharding.NamedSharding(mesh, cuts[name])) for name, x in tree.items()}


def _sharded(kind: str) -> Any:
    """A mesh of 8 devices in two axes, and parameters that are cut over them."""
    mesh = _mesh(kind)
    return mesh, _laid({name: jnp.ones_like(x) for name, x in _values().items()}, mesh, CUTS)


def _same(x: Any, p: Any) -> bool:
    return jax.typeof(x).sharding == jax.typeof(p).sharding and x.sharding.is_equivalent_to(
        p.sharding, p.ndim
    )


@law("init keeps the sharding of a parameter in what is shaped like it", "8 devices", "own mesh", "own trees")
def sharded_init(s: Subject) -> None:
    for kind in KINDS:
        _check_init(s, kind, "tx.init", s.init)
    _check_init(s, "Explicit", "jax.jit(tx.init)", jax.jit(s.init))


@law("a compiled init keeps it on a mesh with automatic axes too", "8 devices", "own mesh", "own trees")
def sharded_jit_init(s: Subject) -> None:
    """Zeros that depend on nothing are put on every device, or on one."""
    _check_init(s, "Auto", "jax.jit(tx.init)", jax.jit(s.init))


def _check_init(s: Subject, kind: str, how: str, init: Any) -> None:
    mesh, params = _sharded(kind)
    with jax.set_mesh(mesh):
        state = s.attempt(lambda: init(params), f"{how}(params)", params=params)
        for path, x in rows(state):
            for name, p in params.items():
                if np.shape(x) == p.shape and path.endswith(name) and not _same(x, p):
                    fact = f"axes {kind}: {path} has {spec(x)}, wanted {spec(p)}"
                    raise Broken(fact, {"params": params}, f"{how}(params)")


def spec(x: Any) -> str:
    """Over which axes an array is cut."""
    return str(getattr(x.sharding, "spec", x.sharding))


@law(
    "an update has the sharding of its parameter, and the state keeps its own",
    "8 devices",
    "own mesh",
    "own trees",
)
def sharded_update(s: Subject) -> None:
    for kind in KINDS:
        mesh, params = _sharded(kind)
        with jax.set_mesh(mesh):
            grads = jax.tree.map(lambda p: p * 0.5, params)
            state = jax.device_put(s.init(params), jax.tree.map(lambda x: x.sharding, s.init(params)))
            trees = {"params": params, "grads": grads}
            updates, new = s.attempt(lambda t=(grads, state, params): s.step(*t), **trees)
            form = form_difference(new, state, "the new state") or form_difference(
                updates, params, "the update"
            )
            if form:
                raise Broken(f"axes {kind}: {form}", trees)
            for (path, u), (_, p) in zip(rows(updates), rows(params), strict=True):
                if not _same(u, p):
                    fact = f"axes {kind}: the update {path} has {spec(u)}, wanted {spec(p)}"
                    raise Broken(fact, trees)
            for (path, x), (_, before) in zip(rows(new), rows(state), strict=True):
                if jax.typeof(x).sharding != jax.typeof(before).sharding:
                    where = f"the state's {path} has {jax.typeof(x)}, had {jax.typeof(before)}"
                    raise Broken(f"axes {kind}: {where}"[:300], trees)


@law(
    "on explicit axes, gradients, parameters and state may be cut differently: the update lies as its parameter",
    "8 devices",
    "own mesh",
    "own trees",
)
def sharded_mixed(s: Subject) -> None:
    """Parameters whole and state cut over the data is ZeRO without a wrapper; gradients come as a loss leaves them.

    The state keeps its layout, and the numbers are those of one device.
    """
    mesh, ps, gs = _mesh("Explicit"), _values(), _values(0.5)
    wanted, _ = s.step(gs, s.init(ps), ps)
    with jax.set_mesh(mesh):
        params, grads = _laid(ps, mesh, CUTS), _laid(gs, mesh, OTHERS)
        state = jax.tree.map(lambda x: _by_rows(x, mesh), s.init(params))
        trees = {"params": params, "grads": grads}
        updates, new = s.attempt(lambda: s.step(grads, state, params), None, **trees)
        for what, got, like in (("the update", updates, params), ("the new state", new, state)):
            if text := form_difference(got, like, what):
                raise Broken(text, trees)
            for (path, x), (_, y) in zip(rows(got), rows(like), strict=True):
                if jax.typeof(x).sharding != jax.typeof(y).sharding:
                    raise Broken(f"{what} {path} is {jax.typeof(x)}, wanted {jax.typeof(y)}"[:300], trees)
    if text := difference(updates, wanted, "the update", rtol=1e-5):
        raise Broken(text, trees)


def _by_rows(x: Any, mesh: Any) -> Any:
    """What is shaped like a parameter, cut over the mesh's second axis, as no parameter is."""
    if np.shape(x) not in SHAPES.values() or x.shape[0] % 2:
        return x
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P("y")))
