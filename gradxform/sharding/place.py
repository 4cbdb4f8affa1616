"""Where the leaves of a state lie, and a state that is built there."""

from typing import Any

import jax

from .._core import placement


def state_shardings(tx: Any, params: Any, mesh: Any = None) -> Any:
    """A `jax.sharding.NamedSharding` for every leaf of the state of any transform, found without allocating anything.

    `init` is traced on an abstract mesh with explicit axes, on which the layout of the parameters propagates to
    whatever is made of them; so it holds for Optax's transforms and for yours. The mesh of the result may be of
    automatic or of explicit axes.

    Args:
        tx: any transform.
        params: arrays, or `jax.ShapeDtypeStruct`s with a `sharding=NamedSharding(mesh, spec)`.
        mesh: the mesh of the result, an abstract one included; None takes that of the parameters, or of `jax.set_mesh`.

    Returns:
        A tree like `jax.eval_shape(tx.init, params)`, each leaf a sharding. What tells no layout is on every device.

    Raises:
        ValueError: if no mesh is known, or there are two.

    Example:
        >>> import jax
        >>> import gradxform as gx
        >>> mesh = jax.sharding.AbstractMesh((64, 8), ("data", "model"))
        >>> w = jax.ShapeDtypeStruct((4096, 1024), "float32", sharding=jax.NamedSharding(mesh, jax.P("data", "model")))
        >>> gx.sharding.state_shardings(gx.adafactor(1e-2), {"w": w})[0].v_row["w"].spec
        P('model',)
    """
    return placement.state_shardings(tx, params, mesh)


def init_sharded(tx: Any, params: Any, mesh: Any = None) -> Any:
    """The state of `tx` for `params`, each leaf made where `state_shardings` says.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> w = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, jax.P("data")))
        >>> gx.sharding.init_sharded(gx.adam(1e-3), w)[0].mu.sharding.spec
        P('data', None)
    """
    return jax.jit(tx.init, out_shardings=state_shardings(tx, params, mesh))(params)
