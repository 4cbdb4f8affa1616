"""On a mesh, what belongs to a parameter lies where the parameter lies."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._law import Broken, law
from .._subject import Subject, form_difference, rows

KINDS = ("Auto", "Explicit")


def _sharded(kind: str) -> Any:
    """A mesh of 8 devices, and parameters cut along their first axes."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    sharding = jax.sharding.NamedSharding(mesh, jax.P("x"))
    shapes = {"w": (8, 4), "b": (16,)}
    values = {name: jnp.asarray(np.ones(shape, np.float32)) for name, shape in shapes.items()}
    return mesh, {name: jax.device_put(x, sharding) for name, x in values.items()}


def _same(x: Any, p: Any) -> bool:
    return jax.typeof(x).sharding == jax.typeof(p).sharding and x.sharding.is_equivalent_to(
        p.sharding, p.ndim
    )


@law("init keeps the sharding of a parameter in what is shaped like it", "8 devices", "own trees")
def sharded_init(s: Subject) -> None:
    for kind in KINDS:
        _check_init(s, kind, "tx.init", s.init)
    _check_init(s, "Explicit", "jax.jit(tx.init)", jax.jit(s.init))


@law("a compiled init keeps it on a mesh with automatic axes too", "8 devices", "own trees")
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


@law("an update has the sharding of its parameter, and the state keeps its own", "8 devices", "own trees")
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
