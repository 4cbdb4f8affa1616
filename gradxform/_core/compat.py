"""What differs between versions of JAX, and nothing else. Versions compare as numbers, never as text.

JAX moves names between releases; whatever the house needs that has moved, or that has no public name, stands here.
"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer as Tracer


def trace_now() -> Any:
    """What is being traced (or that nothing is), as something that can only be compared."""
    from jax.extend.core import get_opaque_trace_state  # takes a while to import, and few need it

    return get_opaque_trace_state(convention="flax")


def version(text: str) -> tuple[int, ...]:
    """`"0.10.2.dev3"` as `(0, 10, 2)`: the leading numbers of each part, up to the first part without one."""
    parts: list[int] = []
    for part in text.split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


JAX_VERSION = version(jax.__version__)


def varying_axes(x: Any) -> frozenset[str]:
    """The manual mesh axes on which `x` varies, as `shard_map` tracks them; empty outside of it."""
    # The type of an abstract array cannot be asked for where some axes of the mesh are manual and others automatic.
    aval: Any = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)
    varying = getattr(kind, "varying", None)
    if varying is None:
        varying = getattr(aval, "vma", None)
    return frozenset(varying or ())


def manual_axes() -> frozenset[str]:
    """The mesh axes over which the code being traced runs by hand (inside `shard_map`); empty elsewhere."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    return frozenset(getattr(mesh, "manual_axes", ()))


def mesh_axes() -> tuple[str, ...]:
    """The names of all axes of the mesh that the code being traced runs on."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    return tuple(mesh.axis_names)


def axis_size(axis: str) -> int:
    """The number of devices along a mesh axis that the code being traced runs on by hand."""
    return int(jax.lax.axis_size(axis))


def under_pmap() -> bool:
    """Whether what is being traced is a function under `jax.pmap`, and not one inside a `shard_map`.

    To the traced code the two look alike: `pmap` is a `shard_map` that tracks nothing. Which of them called is on the
    stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in ("jax._src.pmap", "jax._src.shard_map"):
            return module.endswith("pmap")
        frame = frame.f_back
    return False


def tracks_varying(axis: str) -> bool:
    """Whether the surrounding `shard_map` tracks which values vary (`check_vma=True`)."""
    probe = jax.lax.pcast(jnp.zeros(()), (axis,), to="varying")
    return axis in varying_axes(probe)


def promotion(mode: str) -> Any:
    """A context in which JAX promotes dtypes by `mode`, "standard" or "strict"."""
    return jax.numpy_dtype_promotion(mode)


def rank_promotion(mode: str) -> Any:
    """A context in which JAX treats rank promotion by `mode`, "allow", "warn" or "raise"."""
    return jax.numpy_rank_promotion(mode)


def like_weak(x: Any, other: Any) -> Any:
    """`x` of a weak type if `other` is of one: a parameter `jnp.asarray(2.0)` must not change its type by a step."""
    if not getattr(other, "weak_type", False) or x.weak_type:
        return x
    from jax.extend.core.primitives import convert_element_type_p  # takes a while to import, and few need it

    return convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)


def x64_enabled() -> bool:
    """Whether double precision is switched on."""
    return bool(jax.config.read("jax_enable_x64"))


def is_key(x: Any) -> bool:
    """Whether `x` is an array of typed PRNG keys."""
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def known_flag(flag: Any) -> bool | None:
    """A flag as Python's, if it is known now; None while something is traced, or where other processes hold it."""
    if isinstance(flag, Tracer):
        return None
    if isinstance(flag, jax.Array) and not (flag.is_fully_addressable or flag.is_fully_replicated):
        return None
    return bool(flag)


def varying_as(x: Any, others: Any) -> Any:
    """`x`, varying (inside `shard_map`) on every mesh axis on which one of the others does."""
    missing = frozenset[str]().union(*map(varying_axes, others)) - varying_axes(x)
    return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x


def zeros_as(shape: Any) -> Any:
    """Zeros of an abstract array, cut or varying as it is."""
    if not manual_axes():
        return jnp.zeros_like(shape)
    # Where some axes of the mesh are manual and others are not, JAX does not take the type of an abstract array.
    return varying_as(jnp.zeros(shape.shape, shape.dtype), (shape,))


def strong(x: Any, dtype: Any) -> Any:
    """`x` in this dtype, and of no weak type."""
    return jax.lax.convert_element_type(x, dtype) if x.dtype != dtype or getattr(x, "weak_type", False) else x


def placed_as(new: Any, old: Any) -> Any:
    """`new` on the devices and in the memory of `old`, so that a jitted function that took the one takes the other."""
    known = isinstance(old, jax.Array) and not isinstance(old, Tracer) and not isinstance(new, Tracer)
    if not known or new.shape != old.shape or not getattr(old, "committed", False):
        return new
    return jax.device_put(new, old.sharding)


def has_explicit(mesh: Any) -> bool:
    """Whether a mesh has axes on which an array's type says how it is cut."""
    return any(kind == jax.sharding.AxisType.Explicit for kind in getattr(mesh, "axis_types", ()))


def explicit_sharding(x: Any) -> Any:
    """The sharding in the type of `x` if it lies on explicit axes, else None."""
    if isinstance(x, jax.ShapeDtypeStruct):
        sharding: Any = x.sharding
    elif isinstance(x, jax.Array):
        sharding = getattr(jax.typeof(x), "sharding", None)
    else:
        return None
    return sharding if sharding is not None and has_explicit(sharding.mesh) else None


def can_scatter(lies: Any, axes: tuple[str, ...]) -> bool:
    """Whether `psum_scatter` in a `shard_map` over these axes can be lowered for an array that lies so in types."""
    # JAX gives a scalar of its own the layout of the array, and finds that a scalar has no axes to be cut along; from
    # 0.11 on also where the layout cuts nothing.
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in lies.spec]
    others = {name for names in entries for name in names if name is not None} - set(axes)
    beside = set(lies.mesh.axis_names) - set(axes)
    return not others and (not beside or JAX_VERSION < (0, 11))


@contextmanager
def on_mesh(mesh: Any) -> Generator[None]:
    """A context in which code is traced for an abstract mesh, whatever mesh has been set around."""
    # JAX refuses another size inside of a mesh, and nothing inside of none.
    none = jax.sharding.AbstractMesh((), ())
    with jax.sharding.use_abstract_mesh(none), jax.sharding.use_abstract_mesh(mesh):
        yield


def current_mesh() -> Any:
    """The mesh of `jax.set_mesh`, with its devices where they are known; None if none is set."""
    abstract: Any = jax.sharding.get_abstract_mesh()
    if abstract.empty:
        return None
    try:
        concrete: Any = jax.sharding.get_mesh()
    except ValueError:  # while something is traced
        return abstract
    return abstract if concrete.empty else concrete


#: The memory of the host that devices read and write directly.
HOST = "pinned_host"


def in_host(x: Any) -> bool:
    """Whether an array, a shape or a tracer lies in the host's memory."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return getattr(x.sharding, "memory_kind", None) == HOST
    return isinstance(x, jax.Array) and jax.typeof(x).memory_space == jax.memory.Space.Host


def moved(x: Any, host: bool) -> Any:
    """An array in the memory of the host, or of its device; anything else, and what lies there, as it is."""
    if not isinstance(x, jax.Array) or in_host(x) == host:
        return x
    return jax.device_put(x, jax.memory.Space.Host if host else jax.memory.Space.Device)


def shapes_in_memory(f: Any, x: Any) -> Any:
    """`jax.eval_shape(f, x)` on an abstract mesh, whose shardings also say what lies in the host's memory."""
    jaxpr, shapes = jax.make_jaxpr(f, return_shape=True)(x)
    leaves, treedef = jax.tree.flatten(shapes)

    def one(shape: Any, aval: Any) -> Any:
        if aval.memory_space != jax.memory.Space.Host:
            return shape
        mesh = jax.sharding.get_abstract_mesh()
        spec = getattr(shape.sharding, "spec", jax.P())
        sharding = jax.NamedSharding(mesh, spec, memory_kind=HOST)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return treedef.unflatten(map(one, leaves, jaxpr.out_avals))


# ------------------------------------------------------------------------------------------------ traced programs


def is_literal(v: Any) -> bool:
    """Whether an operand of a traced program is a number that stands in it."""
    return hasattr(v, "val")


def is_dropped(v: Any) -> bool:
    """Whether a result of a line of a traced program is used by nobody."""
    return type(v).__name__ == "DropVar"


def open_program(closed: Any) -> Any:
    """A traced program without its constants."""
    return closed.jaxpr


def inner_program(line: Any) -> Any:
    """The program that a line calls by an inner `jit` which says nothing of its own, such as a layout; else None."""
    if line.primitive.name not in ("jit", "pjit"):
        return None
    given = line.params
    said = (*given["in_shardings"], *given["out_shardings"])
    layouts = (*given.get("in_layouts", ()), *given.get("out_layouts", ()))
    plain = all(type(x).__name__ == "UnspecifiedValue" for x in said) and all(x is None for x in layouts)
    return given["jaxpr"] if plain and not any(given["donated_invars"]) else None


def program_of(program: Any, read: list[Any], lines: Any, made: list[Any]) -> Any:
    """Some lines of a traced program as a function of the variables that they read, giving those that they make."""
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun  # takes a while to import, and few need it

    part = program.replace(constvars=[], invars=read, outvars=made, eqns=list(lines))
    return jaxpr_as_fun(ClosedJaxpr(part, []))
