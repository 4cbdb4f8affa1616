"""How leaves are cut inside `shard_map`: what `axis_names=` says, read for one leaf.

    None                         nothing is said: a leaf that is, or could be, a shard is an error
    "data", ("data", "model")    names: a leaf is cut over those of them on which it varies, along whatever dimension
    {"*/kernel": "model", ...}   names by patterns on the path, also where JAX does not track what varies
    {"*/kernel": jax.P(None, "model"), ...}, or a tree like the parameters of `PartitionSpec`s or `NamedSharding`s:
                                 which dimension is cut over which axes

Only the last form tells a leaf's whole shape, and so a sum over some of its dimensions. Axes that are not run by hand
(outside of `shard_map`, or the automatic ones of a mesh that is partly manual) cut nothing: arrays are whole there.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from . import compat
from .errors import kind, leaf as place, say, short
from .specs import names_at
from .tree import is_absent, matches, view

Names = tuple[str, ...]


class Cut(NamedTuple):
    """How one leaf is cut: over which axes, and along which dimension over which of them, if that has been said."""

    axes: Names = ()
    dims: tuple[Names, ...] | None = None

    @property
    def known(self) -> bool:
        """Whether it is known which part of the whole leaf is here."""
        return self.dims is not None or not self.axes

    def below(self, depth: int) -> "Cut":
        """How one array of a stack is cut whose first dimensions count the layers."""
        if not depth or self.dims is None:
            return self
        return Cut(union(self.dims[depth:]), self.dims[depth:])


def union(dims: tuple[Names, ...]) -> Names:
    """The axes of several dimensions."""
    return tuple(dict.fromkeys(name for names in dims for name in names))


class ByPath:
    """What is said of each leaf: by its path, else by the first pattern that takes it, else by a function."""

    def __init__(
        self,
        paths: Mapping[str, Any],
        patterns: Mapping[Any, Any],
        function: Callable[[str, Any], Any] | None = None,
    ) -> None:
        self.paths, self.patterns, self.function = paths, patterns, function

    def of(self, path: str, leaf: Any, who: str) -> Any:
        """Names or a `PartitionSpec`."""
        if self.function is not None:
            return self.function(path, leaf)
        if path in self.paths:
            return self.paths[path]
        for pattern, said in self.patterns.items():
            if matches(pattern, path, leaf):
                return said
        raise ValueError(
            f"{who}: no pattern of axis_names takes the leaf {path!r}; add '*': () for replicated leaves"
        )


def read(axis_names: Any, who: str) -> Any:
    """`axis_names` as None, a tuple of names, or `ByPath`."""
    if axis_names is None or isinstance(axis_names, ByPath):
        return axis_names
    if isinstance(axis_names, str):
        return (axis_names,)
    if isinstance(axis_names, PartitionSpec | NamedSharding):
        return ByPath({}, {"*": axis_names})
    if isinstance(axis_names, tuple | list | set | frozenset) and all(isinstance(x, str) for x in axis_names):
        return tuple(axis_names)
    if isinstance(axis_names, Mapping) and all(map(_said, axis_names.values())):
        return ByPath({}, axis_names)
    if callable(axis_names):
        return ByPath({}, {}, axis_names)
    rows = view(axis_names)
    for path, said in zip(rows.paths, rows.places, strict=True):
        if not is_absent(said) and not isinstance(said, PartitionSpec | NamedSharding):
            fact = f"{who}: axis_names has {kind(said)} for {place(path)}"
            raise TypeError(
                say(fact, "give names of mesh axes, a mapping from patterns, or a tree of jax.P(...)")
            )
    return ByPath(dict(zip(rows.paths, rows.places, strict=True)), {})


def _said(x: Any) -> bool:
    if isinstance(x, str | PartitionSpec | NamedSharding):
        return True
    return isinstance(x, tuple | list | set | frozenset) and all(isinstance(name, str) for name in x)


def cut_of(path: str, leaf: Any, axis_names: Any, who: str) -> Cut:
    """How a leaf is cut; an error where that matters and cannot be known."""
    said = read(axis_names, who)
    if said is None:
        _check_whole(path, leaf, who)
        return Cut()
    if not isinstance(said, ByPath):
        return Cut(_varying_among(path, leaf, said, who))
    found = said.of(path, leaf, who)
    if isinstance(found, NamedSharding):
        found = found.spec
    if not isinstance(found, PartitionSpec):
        return Cut((found,) if isinstance(found, str) else tuple(found or ()))
    return _by_spec(path, leaf, found, who)


def cut_if_said(path: str, leaf: Any, axis_names: Any, who: str) -> Cut | None:
    """How a leaf is cut if a `PartitionSpec` says so, for what is right without knowing it."""
    said = read(axis_names, who)
    if not isinstance(said, ByPath) or not compat.manual_axes():
        return None
    cut = cut_of(path, leaf, said, who)
    return cut if cut.known else None


def _check_whole(path: str, leaf: Any, who: str) -> None:
    """Nothing is said of shards, so there must be none: one shard's number is an error that trains."""
    varying = compat.varying_axes(leaf)
    if varying:
        names = tuple(sorted(varying))
        raise ValueError(
            f"{who}: inside shard_map the leaf {path!r} varies over the mesh axes {sorted(varying)}, so its norm "
            f"here is one shard's; say axis_names={names} to reduce over the shards (gx.sharding.reduce_over says it "
            "for what has no such argument), or axis_names=() if each device is meant to use its own number"
        )
    untracked = _untracked(sorted(compat.manual_axes()))
    if untracked and not compat.under_pmap():  # where each device has arrays of its own, and shards are named
        raise ValueError(
            f"{who}: with check_vma=False it cannot be seen whether the leaf {path!r} is a "
            f"shard over {untracked}; say of each how it is cut, axis_names={{{path!r}: {tuple(untracked)}, ...}}, "
            "or axis_names=() if each device holds whole arrays (gradients after a pmean) or is to use its own number"
        )


def _untracked(names: Any) -> list[str]:
    manual = compat.manual_axes()
    return [n for n in names if n in manual and compat.axis_size(n) > 1 and not compat.tracks_varying(n)]


def _varying_among(path: str, leaf: Any, names: Names, who: str) -> Names:
    manual = compat.manual_axes()
    mesh = compat.mesh_axes() if manual else ()
    unknown = [name for name in names if mesh and name not in mesh]
    if unknown:
        raise ValueError(f"{who}: axis_names={names}: the mesh has no axis {unknown}; its axes are {mesh}")
    untracked = _untracked(names)
    if untracked:
        raise ValueError(
            f"{who}: this shard_map runs with check_vma=False, so it cannot be seen which leaves are shards over "
            f"{untracked}; say it of each, axis_names={{{path!r}: {names}, ...}}, and () of those that are whole"
        )
    varying = compat.varying_axes(leaf)
    return tuple(name for name in names if name in varying)


def _by_spec(path: str, leaf: Any, spec: PartitionSpec, who: str) -> Cut:
    manual, rank = compat.manual_axes(), len(leaf.shape)
    entries = tuple(spec)
    if len(entries) > rank:
        fact = f"{who}: {place(path)} of shape {tuple(leaf.shape)} has fewer dimensions than {short(spec)}"
        raise ValueError(say(fact, "give each leaf its own spec: a tree like the parameters, or patterns"))
    whole = tuple(map(names_at, entries))
    mesh = compat.mesh_axes() if manual else ()
    unknown = [name for name in union(whole) if mesh and name not in mesh]
    if unknown:
        raise ValueError(
            f"{who}: {place(path)}: {short(spec)}: the mesh has no axis {unknown}, it has {mesh}"
        )
    dims = tuple(tuple(name for name in names if name in manual) for names in whole)
    cut = Cut(union(dims), dims + ((),) * (rank - len(dims)))
    more = [n for n in sorted(compat.varying_axes(leaf) - set(cut.axes)) if compat.axis_size(n) > 1]
    if more:
        fact = f"{who}: inside shard_map {place(path)} varies over {more}, and {short(spec)} does not cut it over them"
        raise ValueError(
            say(fact, "reduce gradients over the batch first (jax.lax.pmean), or mend the PartitionSpec")
        )
    return cut


def parts(dims: tuple[Names, ...]) -> tuple[int, ...]:
    """Into how many parts each dimension is cut."""
    return tuple(int(np.prod([compat.axis_size(n) for n in names], dtype=np.int64)) for names in dims)


_MAKING: ContextVar[Any] = ContextVar("state_of_shards", default=None)


@contextmanager
def made_of(axis_names: Any) -> Generator[None]:
    """States that are made in here belong to leaves that are cut so.

    `init` alone reads it, which runs at once and in the trace around; what `update` has to know stands in the plan.
    """
    token = _MAKING.set(axis_names)
    try:
        yield
    finally:
        _MAKING.reset(token)


def cut_in_making(path: str, leaf: Any, who: str) -> Cut:
    """How a parameter is cut whose state is being made."""
    axis_names = _MAKING.get()
    return Cut() if axis_names is None else cut_of(path, leaf, axis_names, who)
