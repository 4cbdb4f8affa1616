"""Where the leaves of a state lie, and a state that is built there."""

from typing import Any

import jax

from .._core import placement
from .._core.automatic import run_init
from .._core.errors import leaf, say
from .._core.transform import as_transform
from .._core.tree import is_absent, view


def state_shardings(tx: Any, params: Any, mesh: Any = None, *, rules: Any = None) -> Any:
    """A `jax.sharding.NamedSharding` for every leaf of the state of any transform, found without allocating anything.

    `init` is traced on an abstract mesh with explicit axes, on which the layout of the parameters propagates to
    whatever is made of them; so it holds for Optax's transforms and for yours. The mesh of the result may be of
    automatic or of explicit axes. An `init` that is no legal program on explicit axes (it reshapes or decomposes what
    is cut) is traced without: then what has the shape of a parameter, and its path at the end of its own, lies as that
    does, and all else is on every device. Codes of `gx.lowbit.quantized` are cut as the parameter.

    Args:
        tx: any transform.
        params: arrays, or `jax.ShapeDtypeStruct`s with a `sharding=NamedSharding(mesh, spec)`; also in boxes that name
            their axes: Flax's `Partitioned` and NNX variables, haliax's `NamedArray`. How an array lies counts before
            its names.
        mesh: the mesh of the result, an abstract one included; None takes that of the parameters, or of `jax.set_mesh`.
        rules: on which axes of the mesh a named axis is cut: a mapping or pairs, as Flax has them, `{"embed": "data",
            "mlp": ("model",), "layers": None}`. The first that fits counts, and in one array an axis of the mesh is
            used once. A name without a rule is an axis of the mesh.

    Returns:
        A tree like `jax.eval_shape(tx.init, params)`, each leaf a sharding. What tells no layout is on every device.

    Raises:
        ValueError: if no mesh is known, or there are two; for an axis that the mesh does not have, a name without a
            rule, a size that is not divided.

    Example:
        >>> import jax
        >>> import gradxform as gx
        >>> mesh = jax.sharding.AbstractMesh((64, 8), ("data", "model"))
        >>> w = jax.ShapeDtypeStruct((4096, 1024), "float32", sharding=jax.NamedSharding(mesh, jax.P("data", "model")))
        >>> gx.sharding.state_shardings(gx.adafactor(1e-2), {"w": w})[0].v_row["w"].spec
        P('model',)
    """
    return placement.state_shardings(as_transform(tx, "gx.sharding.state_shardings(tx)"), params, mesh, rules)


def init_sharded(tx: Any, params: Any, mesh: Any = None, *, rules: Any = None) -> Any:
    """The state of `tx` for `params`, each leaf made where `state_shardings` says, and nowhere else.

    Args:
        tx, mesh, rules: as for `state_shardings`; the mesh has devices.
        params: arrays, boxed ones included. Those that do not lie on the mesh are put there first.

    Raises:
        TypeError: for shapes without values, and for a mesh without devices.
        ValueError: as for `state_shardings`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> w = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, jax.P("data")))
        >>> gx.sharding.init_sharded(gx.adam(1e-3), w)[0].mu.sharding.spec
        P('data', None)
    """
    who = "gx.sharding.init_sharded(tx, params)"
    tx = as_transform(tx, "gx.sharding.init_sharded(tx)")
    rows = view(params)
    for path, x in zip(rows.paths, rows.places, strict=True):
        if isinstance(x, jax.ShapeDtypeStruct):
            remedy = "init a state from arrays; gx.sharding.state_shardings is enough for shapes"
            raise TypeError(say(f"{who}: {leaf(path)} is a shape without values", remedy))
    mesh = placement.mesh_of([params], mesh, who)
    if isinstance(mesh, jax.sharding.AbstractMesh):
        raise TypeError(say(f"{who}: the mesh has no devices", "pass mesh=jax.make_mesh(...)"))
    shardings = placement.state_shardings(tx, params, mesh, rules)
    specs = placement.specs(params, mesh, rules, who)

    def there(x: Any, spec: Any) -> Any:
        if is_absent(x) or getattr(getattr(x, "sharding", None), "mesh", None) == mesh:
            return x
        return jax.device_put(x, jax.NamedSharding(mesh, spec))

    placed = jax.tree.map(there, params, specs, is_leaf=is_absent)
    return jax.jit(lambda p: run_init(tx.init, p), out_shardings=shardings)(placed)
