"""`Leaf`: what a rule may know of the array it works on, and sums over it that hold for one shard too."""

from copy import copy
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import describe_array, leaf as place, say
from .numerics import abs_sq, root
from .shards import Names, parts, union

SPECS = "say which dimension is cut: PartitionSpecs in axis_names, as gx.sharding.reduce_over takes them"
#: Why a leaf that is cut cannot be summed over here.
PARTIAL = "is a shard in a `reduce`, whose numbers the engine adds up over shards; use jnp.sum there"
JOINED = "holds several leaves in one row, and a sum over one of them was asked for"
STACKED = "is cut, and of a stack of layers it must be known along which dimension"


@dataclass(frozen=True)
class Leaf:
    """What a rule may know of the leaf it works on.

    `shape` is the whole shape without declared stack axes, `here` that of what is on this device. `sum`, `mean` and
    `norm` reduce over the whole leaf, also when it is one shard of it: a rule of reach `leaf` uses them instead of
    `jnp`'s, and `shape` instead of `g.shape` where it decides by sizes.
    """

    path: str
    here: tuple[int, ...]
    dtype: Any
    #: The mesh axes over which it is cut, and those of each dimension, if that has been said.
    axes: Names = ()
    dims: tuple[Names, ...] | None = None
    #: Why nothing can be summed over it, if it is cut.
    why: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole leaf."""
        if not self.axes:
            return self.here
        if self.dims is None:
            raise ValueError(
                say(f"{place(self.path)} is cut over {self.axes}: its shape is not known", SPECS)
            )
        return tuple(n * k for n, k in zip(self.here, parts(self.dims), strict=True))

    @property
    def starts(self) -> tuple[Any, ...]:
        """The indices in the whole leaf of the first element that is here, one a dimension."""
        if not self.axes:
            return (0,) * len(self.here)
        if self.dims is None:
            raise ValueError(say(f"{place(self.path)} is cut over {self.axes}: where is not known", SPECS))
        return tuple(
            jax.lax.axis_index(names) * n if names else 0
            for n, names in zip(self.here, self.dims, strict=True)
        )

    def offsets(self) -> Any:
        """What to add to the row-major number of each element here to have that in the whole leaf, modulo 2^32."""
        total: Any = jnp.zeros((), jnp.uint32)
        whole = _strides(self.shape)
        for d, (start, far, near) in enumerate(zip(self.starts, whole, _strides(self.here), strict=True)):
            total = total + jnp.asarray(start).astype(jnp.uint32) * np.uint32(far % 2**32)
            if far != near:
                along = jax.lax.broadcasted_iota(jnp.uint32, self.here, d)
                total = total + along * np.uint32((far - near) % 2**32)
        return total

    def without(self, axis: Any) -> "Leaf":
        """The leaf of what a sum over some axes leaves, without these: for sums over that."""
        gone = _axes(axis, len(self.here))
        stays = [i for i in range(len(self.here)) if i not in gone]
        here = tuple(self.here[i] for i in stays)
        if self.dims is None:
            return self._with(here=here)
        dims = tuple(self.dims[i] for i in stays)
        return self._with(here=here, axes=union(dims), dims=dims)

    def _with(self, **fields: Any) -> "Leaf":
        other = copy(self)  # dataclasses.replace would ask for the path
        vars(other).update(fields)
        return other

    def sum(self, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        """The sum over the leaf, or over some of its axes."""
        axes = self._over(x, axis)
        part = jnp.sum(x, axis=axis, keepdims=keepdims)
        return jax.lax.psum(part, axes) if axes else part

    def mean(self, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        """The mean over the leaf, or over some of its axes; 0 for a leaf without elements."""
        over = self._over(x, axis)
        counted = [x.shape[i] for i in _axes(axis, x.ndim)] + list(parts(tuple((name,) for name in over)))
        count = max(1, int(np.prod(counted, dtype=np.int64)))
        return self.sum(x, axis, keepdims) / np.asarray(count, x.dtype)

    def across(self, parts: Any) -> Any:
        """Numbers of what is here, added up to those of the whole leaf."""
        self._check()
        return jax.lax.psum(parts, self.axes) if self.axes else parts

    def norm(self, x: Any) -> Any:
        """The Euclidean norm of the leaf."""
        return root(self.sum(abs_sq(x)))

    def _check(self) -> None:
        if self.axes and self.why:
            raise ValueError(say(f"{place(self.path)} {self.why}", SPECS if self.why is STACKED else ""))

    def _over(self, x: Any, axis: Any) -> Names:
        """The mesh axes over which a sum over axes of `x`, an array shaped like the leaf, goes."""
        if not self.axes:
            if self.why is JOINED:
                remedy = (
                    "a rule of reach tree that looks at whole leaves cannot run on buckets; write it leafwise"
                )
                raise ValueError(say(f"{place(self.path)} {JOINED}", remedy))
            return ()
        self._check()
        asked = _axes(axis, x.ndim)
        if self.dims is None:
            if len(asked) == x.ndim == len(self.here):
                return self.axes
            fact = f"{place(self.path)}: a sum over one axis of a leaf that is sharded over {self.axes}"
            raise ValueError(say(fact, SPECS))
        if x.shape != self.here:
            fact = f"{place(self.path)}: a sum over {describe_array(x)}, and the shard is {list(self.here)}"
            raise ValueError(say(fact, "of what has fewer dimensions sum with leaf.without(axis).sum(x)"))
        return union(tuple(self.dims[i] for i in asked))


class Place:
    """The path of the leaf that is at work, and whether it has been asked for."""

    __slots__ = ("asked", "path")

    def __init__(self, path: str) -> None:
        self.path, self.asked = path, False


class Nameless(Leaf):
    """Any leaf of its kind. Who asks for its path is noticed, for what is made of that belongs to one leaf alone."""

    def __new__(cls, *args: Any, **fields: Any) -> Any:
        """What `dataclasses.replace` asks for is a leaf like any other; the path that it reads has been noticed."""
        return Leaf(**fields) if fields else super().__new__(cls)

    def __init__(self, place: Place, like: Leaf) -> None:
        vars(self).update(vars(like), path=place)

    @property
    def path(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        place: Place = vars(self)["path"]
        place.asked = True
        return place.path


class Tile(Leaf):
    """Some neighbours of a leaf, in row-major order, for what asks for the numbers of elements."""

    def __init__(self, like: Leaf, here: tuple[int, ...], start: Any) -> None:
        vars(self).update({**vars(like), "here": here, "start": start})

    def offsets(self) -> Any:
        """What to add to the number of each element here: that of the first one."""
        return jnp.asarray(vars(self)["start"]).astype(jnp.uint32)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart neighbours along each dimension are, in numbers."""
    return tuple(int(np.prod(shape[d + 1 :], dtype=np.int64)) for d in range(len(shape)))


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(rank))
    return tuple(int(a) % rank for a in np.atleast_1d(axis))
