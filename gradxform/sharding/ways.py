"""The three ways to work on slices: constraints on automatic axes, types on explicit ones, collectives in shard_map.

Each takes gradients in and hands updates out; what is between sees trees of slices and knows nothing of it.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .._core import compat
from .._core.automatic import laid
from .._core.errors import leaf as place, say
from .._core.numerics import real_dtype
from .._core.shards import ByPath, made_of
from .._core.specs import fitting, names_at, padded
from .._core.tree import is_absent, is_float0, view
from .slices import LeafSlice


@dataclass(frozen=True)
class Placed:
    """On a mesh whose arrays are whole in a program: `put` lays one, by a constraint or by its type."""

    mesh: Any
    cuts: Mapping[str, LeafSlice]
    put: Callable[[Any, NamedSharding], Any]
    #: The layout of the state's leaves, by path.
    state: Mapping[str, tuple[tuple[int, ...], NamedSharding]] = field(default_factory=dict[str, Any])
    #: Whether some axes of the mesh are explicit and others automatic, which types do not tell.
    mixed: bool = False

    def making(self) -> Any:
        """Around `init`: what it has to know of slices; nothing here, since arrays are whole."""
        return nullcontext()

    def lay(self, x: Any, spec: PartitionSpec) -> Any:
        return self.put(x, NamedSharding(self.mesh, spec))

    def sliced(self, tree: Any) -> Any:
        return by_path(lambda x, c: self.lay(x, c.sliced), tree, self.cuts)

    def entering(self, updates: Any, params: Any, stage: int) -> Any:
        """Gradients as slices; in stage 1 they have been whole before."""
        if stage == 1:
            updates = self.leaving(updates, params)
        return self.sliced(updates)

    def leaving(self, updates: Any, params: Any) -> Any:
        """Updates as the parameters lie."""
        rows = view(params)
        known = dict(zip(rows.paths, rows.places, strict=True))

        def back(x: Any, c: LeafSlice, path: str) -> Any:
            p = known.get(path)
            its = compat.explicit_sharding(p)
            if p is not None and its is not None and not isinstance(p, compat.Tracer):
                its = p.sharding
            return self.lay(x, c.whole) if its is None or self.mixed else self.put(x, its)

        return by_path(back, updates, self.cuts, with_path=True)

    def kept(self, state: Any) -> Any:
        """The state where it belongs."""
        rows = view(state)
        return rows.treedef.unflatten(
            x if is_absent(x) else self._kept(path, x)
            for path, x in zip(rows.paths, rows.places, strict=True)
        )

    def _kept(self, path: str, x: Any) -> Any:
        if compat.is_key(x) or not hasattr(x, "shape"):
            return x
        if path in self.state:
            shape, sharding = self.state[path]
            return self.put(x, sharding) if shape == tuple(x.shape) else x
        # What somebody around has made of an array, codes and scales of it: cut as it is where that divides.
        around = next((p for p in parents(path) if p in self.state), None)
        if around is None or len(self.state[around][0]) != len(x.shape):
            return x
        entries = padded(self.state[around][1].spec, len(x.shape))
        return self.put(x, fitting(self.mesh, entries, x.shape))


def constrained(x: Any, sharding: NamedSharding) -> Any:
    """`x` laid on automatic axes."""
    if not isinstance(x, compat.Tracer):
        return jax.device_put(x, sharding)
    return jax.lax.with_sharding_constraint(x, sharding)


def resharded(x: Any, sharding: NamedSharding) -> Any:
    """`x` laid on explicit axes; nothing is added to the program where its type agrees."""
    mine = compat.explicit_sharding(x)
    ndim = len(x.shape)
    if mine is not None and padded(mine.spec, ndim) == padded(sharding.spec, ndim):
        return x
    return jax.reshard(x, sharding) if isinstance(x, compat.Tracer) else jax.device_put(x, sharding)


def both(x: Any, sharding: NamedSharding, always: bool) -> Any:
    """`x` laid on a mesh of both kinds: its explicit axes by type, automatic ones by a constraint.

    `always`: also if the sharding names no automatic axis, so that `x` is whole along these.
    """
    if not isinstance(x, compat.Tracer):
        return jax.device_put(x, sharding)
    mesh: Any = sharding.mesh
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))

    def only(explicit: bool) -> NamedSharding:
        names = [
            tuple(n for n in names_at(entry) if (kinds[n] == AxisType.Explicit) is explicit)
            for entry in padded(sharding.spec, len(x.shape))
        ]
        return NamedSharding(mesh, PartitionSpec(*(n[0] if len(n) == 1 else n or None for n in names)))

    x, rest = resharded(x, only(True)), only(False)
    return jax.lax.with_sharding_constraint(x, rest) if always or any(rest.spec) else x


@dataclass(frozen=True)
class ByHand:
    """Inside `shard_map`: a reduce-scatter of what differs between the devices, a slice of what does not."""

    axes: tuple[str, ...]
    cuts: Mapping[str, LeafSlice]
    #: Whether JAX tells which values differ between devices (`check_vma=True`).
    tracked: bool
    #: All axes that run by hand.
    manual: frozenset[str]

    @property
    def shards(self) -> ByPath:
        """How slices are cut, for those who reduce over a whole leaf or tree."""
        return ByPath({path: c.sliced for path, c in self.cuts.items()}, {"*": PartitionSpec()})

    def making(self) -> Any:
        return made_of(self.shards)

    @property
    def ways(self) -> int:
        return prod(jax.lax.axis_size(axis) for axis in self.axes)

    def sliced(self, tree: Any) -> Any:
        return by_path(self._slice, tree, self.cuts)

    def _slice(self, x: Any, c: LeafSlice) -> Any:
        if c.dim is None:
            return x
        size = x.shape[c.dim] // self.ways
        number = jax.lax.axis_index(self.axes[0] if len(self.axes) == 1 else self.axes)
        return jax.lax.dynamic_slice_in_dim(x, number * size, size, c.dim)

    def entering(self, updates: Any, params: Any, stage: int) -> Any:
        """The mean over the devices, a slice of it on each; in both stages no gradient is ever whole."""
        del params, stage
        return by_path(self._mean, updates, self.cuts)

    def _mean(self, g: Any, c: LeafSlice) -> Any:
        own = any(axis in names_at(entry) for entry in c.whole for axis in self.axes)
        if own or (self.tracked and not compat.varying_axes(g) & set(self.axes)):
            return self._slice(g, c)
        if c.dim is None:
            return jax.lax.pmean(g, self.axes)
        g = _varying(g, self.axes) if self.tracked else g
        lies = compat.explicit_sharding(g)
        if lies is not None and not compat.can_scatter(lies, self.axes):  # beside other explicit axes
            return self._slice(jax.lax.pmean(g, self.axes), c)
        total = jax.lax.psum_scatter(g, self.axes, scatter_dimension=c.dim, tiled=True)
        return total / jax.numpy.asarray(self.ways, real_dtype(total.dtype)).astype(total.dtype)

    def leaving(self, updates: Any, params: Any) -> Any:
        """The slices of all devices side by side, the same on each; on explicit axes beside, as the parameters lie."""
        rows = view(params)
        known = dict(zip(rows.paths, rows.places, strict=True))

        def back(u: Any, c: LeafSlice, path: str) -> Any:
            return laid(self._whole(u, c), known.get(path))

        return by_path(back, updates, self.cuts, with_path=True)

    def _whole(self, u: Any, c: LeafSlice) -> Any:
        if c.dim is None:
            return u
        if self.tracked:
            u = _varying(u, self.axes)
        return jax.lax.all_gather(u, self.axes, axis=c.dim, tiled=True, to="invarying")

    def kept(self, state: Any) -> Any:
        return state


def _varying(x: Any, axes: tuple[str, ...]) -> Any:
    missing = tuple(axis for axis in axes if axis not in compat.varying_axes(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def check_params(who: str, tree: Any, specs: Mapping[str, PartitionSpec], manual: frozenset[str]) -> None:
    """Refuses parameters that differ between devices in a way that nobody has said."""
    rows = view(tree)
    for path, x in zip(rows.paths, rows.places, strict=True):
        if path not in specs:
            continue
        said = {name for entry in specs[path] for name in names_at(entry)} & manual
        more = sorted(compat.varying_axes(x) - said)
        if more:
            fact = f"{who}: {place(path)} of the parameters varies over the mesh axes {more} inside shard_map"
            remedy = (
                "pass the parameters as they came in, before jax.lax.pcast, and if they are shards themselves say "
                "over which axes, param_shardings="
            )
            raise ValueError(say(fact, remedy))


def by_path(fn: Callable[..., Any], tree: Any, cuts: Mapping[str, LeafSlice], with_path: bool = False) -> Any:
    """A tree with `fn(x, cut)` in the place of every leaf that has a cut."""
    rows = view(tree)

    def one(path: str, x: Any) -> Any:
        if is_absent(x) or is_float0(x) or path not in cuts:
            return x
        return fn(x, cuts[path], path) if with_path else fn(x, cuts[path])

    return rows.treedef.unflatten(map(one, rows.paths, rows.places))


def parents(path: str) -> list[str]:
    """The paths above a path, the nearest first."""
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
