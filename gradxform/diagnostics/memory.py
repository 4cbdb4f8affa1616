"""`memory`: what parameters, gradients and state take on a device, from shapes and layouts alone."""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np

from .._core.errors import say
from .._core.placement import typed
from .._core.report import Size, align, dtypes_text, size_of, size_text
from .._core.shapes import abstract_state, mesh_if_known
from .._core.transform import as_transform
from .._core.tree import difference, is_absent, is_inexact, view
from .fields import fields

#: The parts of a report, in its order.
_PARTS = ("parameters", "gradients", "state")


@dataclass(frozen=True)
class MemoryRow:
    """Arrays of one meaning: all parameters, all gradients, or one field of one link's state.

    Attributes:
        part: "parameters", "gradients" or "state".
        address: of the field of a state, such as `adam/mu`.
        role: what the field means, as `gradxform.build.roles_of` says.
        dtype: of the arrays, or in how many bits they are kept.
        bytes: of all arrays, each counted once.
        device_bytes: in the memory of each device.
        host_bytes: in the memory of the host, for each device.
    """

    part: str
    address: str
    role: str
    dtype: str
    bytes: int
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class Memory:
    """The table as text (`str`), and its rows, for programs.

    Attributes:
        title: the transform as text.
        axes: the names and sizes of the axes of the mesh; none without a mesh.
        rows: what there is, see `MemoryRow`.
    """

    title: str
    axes: tuple[tuple[str, int], ...]
    rows: tuple[MemoryRow, ...]

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return prod(size for _, size in self.axes)

    @property
    def device_bytes(self) -> int:
        """Bytes in the memory of each device."""
        return sum(row.device_bytes for row in self.rows)

    @property
    def host_bytes(self) -> int:
        """Bytes in the memory of the host, for each device."""
        return sum(row.host_bytes for row in self.rows)

    def total(self, part: str) -> MemoryRow:
        """The rows of one part, "parameters", "gradients" or "state", added up."""
        rows = [row for row in self.rows if row.part == part]
        dtypes = {name for row in rows for name in row.dtype.split("/")} - {"-"}
        size = sum((Size(row.bytes, row.device_bytes, row.host_bytes) for row in rows), Size())
        return _row(part, "/".join(sorted(dtypes)) or "-", size)

    def __str__(self) -> str:
        mesh = ", ".join(f"{name}={size}" for name, size in self.axes)
        where = f"a mesh of {self.devices} devices, {mesh}" if mesh else "one device"
        return "\n".join([f"{self.title} on {where}", "", *_table(self), "", _summary(self)])

    __repr__ = __str__


def memory(tx: Any, params: Any, mesh: Any = None, *, grads: Any = None, rules: Any = None) -> Memory:
    """What parameters, gradients and state take on each device. Nothing is allocated, and no device is asked.

    The layout of the state is that of `gx.sharding.state_shardings`: it is found by a trace, for any transform. All
    devices of a mesh hold the same number of bytes, since JAX cuts arrays into equal parts.

    Args:
        tx: any transform, ours or Optax's.
        params: arrays, or `jax.ShapeDtypeStruct`s, with a `sharding=NamedSharding(mesh, spec)` where they are cut.
        mesh: the mesh on which they lie, an abstract one included; None takes that of the parameters, or of
            `jax.set_mesh`. Where there is none, there is one device.
        grads: the dtype of the gradients, or their tree of arrays or shapes; None is that of the parameters, cut as
            these. Integer parameters have none.
        rules: on which axes of the mesh the named axes of boxed parameters are cut, as for
            `gx.sharding.state_shardings`.

    Returns:
        A `Memory`; print it. Its `rows` are the parameters, the gradients, and each field of each link's state under
        its address, with role, dtype, `bytes` (each array once), `device_bytes` and `host_bytes` (of each device);
        `total(part)` adds up "parameters", "gradients" or "state". `device_bytes`, `host_bytes` and `devices` are of
        the whole. Printed sizes are decimal: 1 MB is 1,000,000 bytes. What a step needs on the way (activations,
        temporary arrays) is not in it.

    Raises:
        ValueError: if the parameters lie on different meshes, or the tree of gradients is another one.

    Example:
        >>> import jax
        >>> import gradxform as gx
        >>> mesh = jax.sharding.AbstractMesh((64, 8), ("data", "model"))
        >>> w = jax.ShapeDtypeStruct((4096, 1024), "bfloat16", sharding=jax.NamedSharding(mesh, jax.P("data", "model")))
        >>> b = jax.ShapeDtypeStruct((1024,), "bfloat16", sharding=jax.NamedSharding(mesh, jax.P("model")))
        >>> print(gx.memory(gx.adam(1e-3), {"b": b, "w": w}, grads="float32"))
        gx.adam(0.001) on a mesh of 512 devices, data=64, model=8
        <BLANKLINE>
        what        role           dtype       bytes  a device
        parameters                 bfloat16   8.4 MB   16.6 kB
        gradients                  float32   16.8 MB   33.3 kB
        adam/count  count          int32         4 B       4 B
        adam/mu     moment         bfloat16   8.4 MB   16.6 kB
        adam/nu     second moment  float32   16.8 MB   33.3 kB
        <BLANKLINE>
        each device 99.8 kB: parameters 16.6 kB, gradients 33.3 kB, state 49.9 kB
    """
    transform = as_transform(tx, "gx.memory(tx)")
    mesh = mesh_if_known(params, mesh, "gx.memory(tx, params)")
    laid = params if mesh is None else typed(params, mesh, rules, "gx.memory(tx, params)")
    state = abstract_state(transform, params, mesh, rules)
    rows = [_row("parameters", dtypes_text(jax.tree.leaves(laid)), size_of(laid)), _gradients(laid, grads)]
    for field in fields(transform, state):
        rows.append(
            _row("state", dtypes_text(field.arrays), size_of(field.arrays), field.address, field.role)
        )
    axes = () if mesh is None else tuple(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    return Memory(repr(transform), axes, tuple(rows))


def _row(part: str, dtype: str, size: Size, address: str = "", role: str = "") -> MemoryRow:
    return MemoryRow(part, address, role, dtype, size.whole, size.device, size.host)


def _gradients(params: Any, grads: Any) -> MemoryRow:
    """The gradients' row; `params` tell by their shardings how they are cut."""
    rows = view(params)
    trained = [p for p in rows.places if not is_absent(p) and is_inexact(p)]
    if grads is None:
        found: list[Any] = trained
    elif isinstance(grads, str | type | np.dtype):
        found = [_shape(p.shape, np.dtype(grads), p) for p in trained]
    else:
        theirs = view(grads)
        differ = difference(theirs, rows, "grads", "params")
        if differ:
            raise ValueError(
                say(f"gx.memory(grads=...): {differ}", "pass a dtype, or a tree like the parameters")
            )
        pairs = zip(theirs.places, rows.places, strict=True)
        found = [_shape(g.shape, g.dtype, g, p) for g, p in pairs if not is_absent(g)]
    return _row("gradients", dtypes_text(found), size_of(found))


def _shape(shape: Any, dtype: Any, *like: Any) -> Any:
    """A shape that is cut as the first of the arrays that lies on a mesh."""
    found = (getattr(x, "sharding", None) for x in like)
    sharding = next((s for s in found if isinstance(s, jax.NamedSharding)), None)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _table(known: Memory) -> list[str]:
    several = known.devices > 1
    head = ["what", "role", "dtype", "bytes"]
    head += ["a device"] if several else []
    head += ["on the host"] if known.host_bytes else []
    lines = [head]
    for row in known.rows:
        line = [row.address or row.part, row.role, row.dtype, size_text(row.bytes)]
        line += [size_text(row.device_bytes)] if several else []
        line += [size_text(row.host_bytes)] if known.host_bytes else []
        lines.append(line)
    return align(lines, right=range(3, len(head)))


def _summary(known: Memory) -> str:
    parts = {part: known.total(part) for part in _PARTS}
    shares = ", ".join(f"{part} {size_text(row.device_bytes)}" for part, row in parts.items())
    text = f"{'each device' if known.devices > 1 else 'in all'} {size_text(known.device_bytes)}: {shares}"
    return f"{text}; in host memory {size_text(known.host_bytes)}" if known.host_bytes else text
