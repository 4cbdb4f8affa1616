"""The entries of a `PartitionSpec`: an axis of the mesh, several, or none, for each dimension of an array."""

from collections.abc import Sequence
from math import prod
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from .errors import say, short


def names_at(entry: Any) -> tuple[str, ...]:
    """The mesh axes over which one dimension is cut.

    Example:
        >>> names_at(None), names_at("data"), names_at(("data", "model"))
        ((), ('data',), ('data', 'model'))
    """
    if entry is None or isinstance(entry, str):
        return () if entry is None else (entry,)
    if not isinstance(entry, tuple | list):
        fact = f"how a dimension is cut: got {short(entry)}"
        raise TypeError(say(fact, "give an axis of the mesh, a tuple of them, or None"))
    return tuple(entry)


def padded(spec: Any, ndim: int) -> tuple[Any, ...]:
    """One entry a dimension."""
    return (*spec, *(None,) * (ndim - len(spec)))


def fitting(mesh: Any, entries: Sequence[Any], shape: Sequence[int]) -> NamedSharding:
    """These entries on the mesh, without those whose axes do not divide their dimension."""
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    ways = (prod(sizes[name] for name in names_at(entry)) for entry in entries)
    kept = (e if n % k == 0 else None for e, n, k in zip(entries, shape, ways, strict=True))
    return NamedSharding(mesh, PartitionSpec(*kept))
