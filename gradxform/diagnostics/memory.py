"""`memory`: what parameters, gradients and state take on a device, from shapes and layouts alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, overload

import jax
import numpy as np

from .._core.errors import say
from .._core.placement import typed
from .._core.report import Size, align, dtypes_text, size_of, size_text
from .._core.shapes import abstract_state, mesh_if_known
from .._core.transform import GradientTransformation, as_transform
from .._core.tree import difference, is_absent, is_inexact, view
from .compare import Comparison
from .fields import fields
from .models import shapes
from .step import here, temporary

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
        temporary: bytes on each device that the compiled step takes beside these; None where it was not asked for.
        backend: for which the step was compiled, such as "cpu"; empty where none was.
    """

    title: str
    axes: tuple[tuple[str, int], ...]
    rows: tuple[MemoryRow, ...]
    temporary: int | None = None
    backend: str = ""

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

    @property
    def peak_bytes(self) -> int | None:
        """Bytes in the memory of each device while the step runs; None where `step` was not asked for."""
        return None if self.temporary is None else self.device_bytes + self.temporary

    @property
    def where(self) -> str:
        """On how many devices, in words."""
        mesh = ", ".join(f"{name}={size}" for name, size in self.axes)
        return f"a mesh of {self.devices} devices, {mesh}" if mesh else "one device"

    @property
    def data(self) -> dict[str, Any]:
        """The same as plain dicts, lists, numbers and strings, for JSON."""
        return {
            "transform": self.title,
            "devices": self.devices,
            "axes": dict(self.axes),
            "rows": [asdict(row) for row in self.rows],
            "totals": {part: asdict(self.total(part)) for part in _PARTS},
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "temporary_bytes": self.temporary,
            "peak_bytes": self.peak_bytes,
            "backend": self.backend,
        }

    def total(self, part: str) -> MemoryRow:
        """The rows of one part, "parameters", "gradients" or "state", added up."""
        rows = [row for row in self.rows if row.part == part]
        dtypes = {name for row in rows for name in row.dtype.split("/")} - {"-"}
        size = sum((Size(row.bytes, row.device_bytes, row.host_bytes) for row in rows), Size())
        return _row(part, "/".join(sorted(dtypes)) or "-", size)

    def __str__(self) -> str:
        return "\n".join([f"{self.title} on {self.where}", "", *_table(self), "", *_summary(self)])

    __repr__ = __str__


@overload
def memory(  # pyright: ignore[reportOverlappingOverload]  # a list is no transform
    tx: list[Any] | Mapping[str, Any],
    params: Any,
    mesh: Any = None,
    *,
    dtype: Any = None,
    grads: Any = None,
    rules: Any = None,
    step: bool | Mapping[str, Any] = False,
) -> Comparison: ...


@overload
def memory(
    tx: Any,
    params: Any,
    mesh: Any = None,
    *,
    dtype: Any = None,
    grads: Any = None,
    rules: Any = None,
    step: bool | Mapping[str, Any] = False,
) -> Memory: ...


def memory(
    tx: Any,
    params: Any,
    mesh: Any = None,
    *,
    dtype: Any = None,
    grads: Any = None,
    rules: Any = None,
    step: bool | Mapping[str, Any] = False,
) -> Memory | Comparison:
    """What parameters, gradients and state take on each device. Nothing is allocated, and no device is asked.

    The layout of the state is that of `gx.sharding.state_shardings`: it is found by a trace, for any transform. All
    devices of a mesh hold the same number of bytes, since JAX cuts arrays into equal parts.

    Args:
        tx: any transform, ours or Optax's; or several, as a list or as a dict from names, to be held against the first.
        params: arrays, or `jax.ShapeDtypeStruct`s, with a `sharding=NamedSharding(mesh, spec)` where they are cut; or
            the name of a model, such as "7b", whose shapes follow from its published configuration (the guide to memory
            lists them); or a count, such as 7_000_000_000, which lies in square matrices.
        mesh: the mesh on which they lie, an abstract one included; None takes that of the parameters, or of
            `jax.set_mesh`. Where there is none, there is one device.
        dtype: of the parameters; None leaves them as they are, and a model or a count in float32. Integers stay.
        grads: the dtype of the gradients, or their tree of arrays or shapes; None is that of the parameters, cut as
            these. Integer parameters have none.
        rules: on which axes of the mesh the named axes of boxed parameters are cut, as for
            `gx.sharding.state_shardings`.
        step: whether to compile the step (update and sum, parameters and state donated) for the devices that are here,
            and to read from XLA's own plan of its buffers what it takes on the way. It takes the time of a compilation,
            for "7b" many seconds; nothing is run. What the update needs by keyword is given as a dict, arrays or
            shapes: `step={"value": jnp.zeros(())}`.

    Returns:
        A `Memory`; print it. Its `rows` are the parameters, the gradients, and each field of each link's state under
        its address, with role, dtype, `bytes` (each array once), `device_bytes` and `host_bytes` (of each device);
        `total(part)` adds up "parameters", "gradients" or "state". `device_bytes`, `host_bytes` and `devices` are of
        the whole, `peak_bytes` with what the step takes on the way if `step` asked for it, `data` all of it for JSON.
        For several transforms a `Comparison` of such reports. Printed sizes are decimal: 1 MB is 1,000,000 bytes.
        Activations are not in it, nor what a backend keeps for itself.

    Raises:
        ValueError: if the parameters lie on different meshes, the tree of gradients is another one, no model has that
            name, or `step` is asked for on an abstract mesh or without what the update needs.

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
        >>> print(gx.memory([gx.sgd(0.1), gx.rmsprop(1e-3), gx.adam(1e-3)], 7_000_000_000))
        on one device
        <BLANKLINE>
        transform          parameters  gradients    state       all  times
        gx.sgd(0.1)           28.0 GB    28.0 GB        -   56.0 GB  1.00x
        gx.rmsprop(0.001)     28.0 GB    28.0 GB  28.0 GB   84.0 GB  2.00x
        gx.adam(0.001)        28.0 GB    28.0 GB  56.0 GB  112.0 GB  3.00x
        <BLANKLINE>
        times: parameters and state over the parameters
        gx.rmsprop(0.001) costs the device 28.0 GB against gx.sgd(0.1) (50.0 %)
        gx.adam(0.001) costs the device 56.0 GB against gx.sgd(0.1) (100.0 %)
    """
    known = _Question(shapes(params, dtype, "gx.memory(tx, params)"), mesh, grads, rules, step)
    if not isinstance(tx, list | Mapping):
        return known.answer(as_transform(tx, "gx.memory(tx)"))
    return Comparison({name: known.answer(one) for name, one in _named(tx).items()})


def _named(several: "list[Any] | Mapping[Any, Any]") -> dict[str, GradientTransformation]:
    """Transforms by the names that the caller gave, or by their text; equal texts are counted."""
    if not several:
        raise ValueError(
            say("gx.memory([]): there is no transform", "pass one, a list of them, or a dict from names")
        )
    if isinstance(several, Mapping):
        return {str(name): as_transform(one, f"gx.memory(tx), tx[{name!r}]") for name, one in several.items()}
    found: dict[str, GradientTransformation] = {}
    for i, one in enumerate(several):
        transform = as_transform(one, f"gx.memory(tx), tx[{i}]")
        name = repr(transform)
        found[name if name not in found else f"{name} ({i})"] = transform
    return found


@dataclass(frozen=True)
class _Question:
    """Everything but the transform."""

    params: Any
    mesh: Any
    grads: Any
    rules: Any
    step: "bool | Mapping[str, Any]"

    def answer(self, tx: GradientTransformation) -> Memory:
        who = "gx.memory(tx, params)"
        mesh = mesh_if_known(self.params, self.mesh, who)
        # Memory kinds belong to shardings: state in the host's memory is told on a mesh of one device, too.
        one = jax.sharding.AbstractMesh((1,), ("device",))
        placed = one if mesh is None and any(link.offloaded for link in tx.plan.flat) else mesh
        laid = self.params if mesh is None else typed(self.params, mesh, self.rules, who)
        state = abstract_state(tx, self.params, placed, self.rules)
        trained = _gradients(laid, self.grads)
        rows = [
            _row("parameters", dtypes_text(jax.tree.leaves(laid)), size_of(laid)),
            _row("gradients", dtypes_text(trained), size_of([x for x in trained if x is not None])),
        ]
        for field in fields(tx, state):
            rows.append(
                _row("state", dtypes_text(field.arrays), size_of(field.arrays), field.address, field.role)
            )
        axes = () if mesh is None else tuple(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
        known = Memory(repr(tx), axes, tuple(rows))
        if self.step is False:
            return known
        if placed is not mesh:
            state = abstract_state(tx, self.params, mesh, self.rules)
        return self._stepped(tx, known, laid, state, trained, mesh)

    def _stepped(
        self, tx: Any, known: Memory, laid: Any, state: Any, trained: list[Any], mesh: Any
    ) -> Memory:
        extra = self.step if isinstance(self.step, Mapping) else {}
        parts = view(laid)
        whole = [p if is_absent(p) or g is None else g for p, g in zip(parts.places, trained, strict=True)]
        grads = jax.tree.unflatten(parts.treedef, whole)
        taken = temporary(tx, here(laid, mesh), state, here(grads, mesh), mesh, extra)
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        return replace(known, temporary=taken, backend=device.platform)


def _row(part: str, dtype: str, size: Size, address: str = "", role: str = "") -> MemoryRow:
    return MemoryRow(part, address, role, dtype, size.whole, size.device, size.host)


def _gradients(params: Any, grads: Any) -> list[Any]:
    """The gradient of each place, None where there is none; `params` tell by their shardings how they are cut."""
    rows = view(params)
    trained = [p if not is_absent(p) and is_inexact(p) else None for p in rows.places]
    if grads is None:
        return trained
    if isinstance(grads, str | type | np.dtype):
        return [None if p is None else _shape(p.shape, np.dtype(grads), p) for p in trained]
    theirs = view(grads)
    differ = difference(theirs, rows, "grads", "params")
    if differ:
        raise ValueError(
            say(f"gx.memory(grads=...): {differ}", "pass a dtype, or a tree like the parameters")
        )
    pairs = zip(theirs.places, rows.places, strict=True)
    return [None if is_absent(g) else _shape(g.shape, g.dtype, g, p) for g, p in pairs]


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


def _summary(known: Memory) -> list[str]:
    parts = {part: known.total(part) for part in _PARTS}
    shares = ", ".join(f"{part} {size_text(row.device_bytes)}" for part, row in parts.items())
    text = f"{'each device' if known.devices > 1 else 'in all'} {size_text(known.device_bytes)}: {shares}"
    lines = [f"{text}; in host memory {size_text(known.host_bytes)}" if known.host_bytes else text]
    if known.temporary is not None and known.peak_bytes is not None:
        own = size_text(known.temporary) if known.temporary else "nothing"
        text = f"the step as XLA compiles it ({known.backend}) takes {own} beside these"
        lines.append(f"{text}: peak {size_text(known.peak_bytes)}")
    return lines
