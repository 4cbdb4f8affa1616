"""What a restored state shall look like, for libraries that read checkpoints."""

from typing import Any

from .._core import shapes
from .._core.placement import mesh_of


def abstract_state(tx: Any, params: Any, mesh: Any = None, *, rules: Any = None) -> Any:
    """The state of `tx` as `jax.ShapeDtypeStruct`s, each with the sharding that `state_shardings` gives.

    This is what Orbax asks for when it restores: the checkpoint may have been saved on another mesh, or by a run whose
    axes were of the other kind. Each device reads its own part.

    Args:
        tx: any transform.
        params: as for `state_shardings`: where they shall lie from now on.
        mesh, rules: as for `state_shardings`.

    Raises:
        ValueError: if no mesh is known, or there are two.

    Example:
        >>> import jax
        >>> import gradxform as gx
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> w = jax.ShapeDtypeStruct((8, 4), "float32", sharding=jax.NamedSharding(mesh, jax.P("data")))
        >>> gx.sharding.abstract_state(gx.adam(1e-3), w)[0].mu.sharding.spec
        P('data', None)
    """
    mesh = mesh_of([params], mesh, "gx.sharding.abstract_state(tx, params)")
    return shapes.abstract_state(tx, params, mesh, rules)
