"""What a step takes beside its arguments: the temporary arrays of the compiled program, as XLA has planned them."""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import jax

from .._core import compat
from .._core.apply import apply_updates
from .._core.errors import say
from .._core.transform import GradientTransformation
from .._core.tree import is_absent


def temporary(
    tx: GradientTransformation, params: Any, state: Any, grads: Any, mesh: Any, extra: Mapping[str, Any]
) -> int | None:
    """Bytes on each device for temporary arrays, and for results that found no donated argument to lie in.

    Everything comes as shapes. The step is compiled for the devices of `mesh`, or for the default one, and not run.
    None where the backend tells nothing.
    """
    if isinstance(mesh, jax.sharding.AbstractMesh):
        raise ValueError(
            say(
                "gx.memory(step=...): the mesh is abstract, and a step is compiled for devices that are here",
                "pass a mesh of devices, or leave step out",
            )
        )
    missing = [name for name in tx.plan.needs if name != "params" and name not in extra]
    if missing:
        raise ValueError(
            say(
                f"gx.memory(step=...): this transform's update needs {', '.join(missing)}",
                f"pass step={{{', '.join(f'{name!r}: ...' for name in missing)}}}, arrays or shapes",
            )
        )
    arrays = {name: x for name, x in extra.items() if not callable(x)}
    functions = {name: x for name, x in extra.items() if callable(x)}

    def step(params: Any, state: Any, grads: Any, arrays: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params, **arrays, **functions)
        return apply_updates(params, updates), state

    layout = None if mesh is None else jax.tree.map(lambda x: x.sharding, (params, state))
    compiled = jax.jit(step, donate_argnums=(0, 1), out_shardings=layout)
    with warnings.catch_warnings(), nullcontext() if mesh is None else compat.on_mesh(mesh.abstract_mesh):
        # What could not be donated is part of the answer.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        try:
            lowered = compiled.lower(params, state, grads, arrays)
        except TypeError as problem:  # of somebody's function, whose needs nobody has declared
            if "missing" not in str(problem):
                raise
            raise ValueError(
                say(
                    f"gx.memory(step=...): the update of {tx!r} says: {problem}",
                    "pass what it needs: step={'value': ...}, arrays, shapes or functions",
                )
            ) from problem
        known: Any = lowered.compile().memory_analysis()
    if known is None:
        return None
    return int(known.temp_size_in_bytes + max(0, known.output_size_in_bytes - known.alias_size_in_bytes))


def here(tree: Any, mesh: Any) -> Any:
    """Shapes that lie on the devices of `mesh`, where they lay on its abstract twin."""

    def one(x: Any) -> Any:
        if is_absent(x) or not hasattr(x, "shape"):
            return x
        sharding = None if mesh is None else jax.NamedSharding(mesh, x.sharding.spec)
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding, weak_type=getattr(x, "weak_type", False)
        )

    return jax.tree.map(one, tree, is_leaf=is_absent)
