"""Which numbers of an array share one second moment: the axes that are kept, and heads that lie side by side on one.

Adam-mini's blocks are the dense blocks of the Hessian: a head of queries or keys, the weights into one output neuron
elsewhere, the row of a token in a table. In an array each of these is what remains for an index of some axes, the
*kept* ones; where several heads share an axis, it is cut into runs of equal length, one for each.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._core import automatic, compat
from .._core.errors import check_integer, leaf as place, say, short
from .._core.tree import View, is_pattern, listed, matches, pattern_text

_AXES = "0 keeps one number a row, -1 one a column, (0, 1) one for each of both, () one for the array"


class Block(NamedTuple):
    """What is kept of an array: axes from the front, and the number of runs if the one axis is cut into some."""

    kept: tuple[int, ...]
    runs: int = 0


#: What names of Flax, Haiku and GPT-2 say: an expression, how many axes the array has (None: any), the axes that are
#: kept (None: all). The last axis of a kernel counts output neurons. A convolution that makes patches is named after
#: embeddings and has a kernel; it is no table.
_KNOWN: tuple[tuple[re.Pattern[str], int | None, tuple[int, ...] | None], ...] = (
    (re.compile(r"bias$"), None, None),
    (re.compile(r"scale$"), None, ()),
    (re.compile(r"(embed|wte|wpe)(?!.*kernel$)"), 2, (0,)),
    (re.compile(r"(^|/)(query|key)/kernel$"), 3, (1,)),
    (re.compile(r"(^|/)value/kernel$"), 3, (1, 2)),
)


def _by_name(path: str, rank: int) -> tuple[int, ...]:
    for expression, axes, kept in _KNOWN:
        if axes in (None, rank) and expression.search(path):
            return tuple(range(rank)) if kept is None else kept
    return (-1,) if rank else ()


class Partition:
    """The blocks of every leaf, from the arguments `blocks` and `heads`, checked as far as they can be without it."""

    def __init__(self, call: str, blocks: Any, heads: Any) -> None:
        self.call, self.blocks, self.heads = call, blocks, heads
        self.named = isinstance(blocks, Mapping)
        if self.named:
            for pattern, axes in blocks.items():
                self._check_key("blocks", pattern)
                self._check_axes(f"blocks={{{pattern_text(pattern)!r}: {short(axes)}}})", axes)
        elif blocks is not None and not callable(blocks):
            self._check_axes(f"blocks={short(blocks)})", blocks)
        if heads is None:
            return
        if not isinstance(heads, Mapping):
            fact = f"gx.{call}(heads={short(heads)}): wanted a mapping from patterns to numbers of heads"
            raise TypeError(say(fact, "write heads={'*/query/kernel': 12}"))
        for pattern, number in heads.items():
            self._check_key("heads", pattern)
            check_integer(call, f"heads[{pattern_text(pattern)!r}]", number, low=1)

    def _check_key(self, name: str, pattern: Any) -> None:
        if not is_pattern(pattern):
            fact = f"gx.{self.call}({name}={{{short(pattern)}: ...}}): wanted patterns of leaves"
            raise TypeError(say(fact, "such as '*/kernel'"))

    def _check_axes(self, text: str, axes: Any) -> None:
        several = axes if isinstance(axes, tuple | list) else (axes,)
        if all(isinstance(a, int | np.integer) and not isinstance(a, bool) for a in several):
            return
        fact = f"gx.{self.call}({text}: wanted an axis or a tuple of axes, got {short(axes)}"
        raise TypeError(say(fact, _AXES))

    def _axes(self, path: str, leaf: Any) -> Any:
        """What has been said of a leaf, or what its name says."""
        said = self.blocks
        if self.named:
            said = next((axes for key, axes in said.items() if matches(key, path, leaf)), None)
        elif callable(said):
            said = said(path, leaf)
            if said is not None:
                self._check_axes(f"blocks={short(self.blocks)}) of {place(path)}", said)
        return _by_name(path, len(leaf.shape)) if said is None else said

    def at(self, path: str, leaf: Any) -> Block:
        """The blocks of a leaf of this path."""
        return self.of(path, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))

    def of(self, path: str, leaf: Any) -> Block:
        """The blocks of a leaf, of which path and shape are looked at; the shape without axes that count layers."""
        axes, rank = self._axes(path, leaf), len(leaf.shape)
        several = tuple(axes) if isinstance(axes, tuple | list) else (axes,)
        wrong = [a for a in several if rank and not -rank <= a < rank]
        if wrong:
            fact = (
                f"gx.{self.call}(blocks): {place(path)} of shape {tuple(leaf.shape)} has no axis {wrong[0]}"
            )
            raise ValueError(
                say(fact, f"name axes of the array, without one that gx.per_layer counts; {_AXES}")
            )
        kept = tuple(sorted({int(a) % rank for a in several})) if rank else ()
        found = next((n for key, n in (self.heads or {}).items() if matches(key, path, leaf)), None)
        return Block(kept) if found is None else self._cut(path, tuple(leaf.shape), kept, int(found))

    def _cut(self, path: str, shape: tuple[int, ...], kept: tuple[int, ...], heads: int) -> Block:
        who = f"gx.{self.call}(heads): {place(path)} of shape {shape}"
        if len(kept) != 1:
            text = f"keeps the axes {kept}" if kept else "keeps no axis"
            remedy = "heads lie side by side on one; leave it out of heads, or say by blocks on which"
            raise ValueError(say(f"{who} {text}", remedy))
        if shape[kept[0]] % heads:
            fact = f"{who} has {shape[kept[0]]} numbers along axis {kept[0]}, which are no {heads} heads"
            raise ValueError(say(fact, "give the number of heads of that array: keys may have fewer"))
        return Block(kept, heads)

    def check(self, rows: View) -> None:
        """Raises if a pattern takes no leaf: a name that is misspelt would leave what it means as it is."""
        for name, patterns in (("blocks", self.blocks if self.named else {}), ("heads", self.heads or {})):
            for key in patterns:
                taken = any(matches(key, path, p) for path, p in zip(rows.paths, rows.places, strict=True))
                if not taken:
                    fact = f"gx.{self.call}({name}): the pattern {pattern_text(key)!r} takes no leaf"
                    raise ValueError(say(fact, f"there are {listed(rows.paths, 6)}"))


def zeros(p: Any, block: Block, leaf: Any) -> Any:
    """One zero a block, with axes of length 1 where nothing is kept; cut over a mesh as `p` is."""
    if block.runs:
        return jnp.zeros([block.runs if axis in block.kept else 1 for axis in range(p.ndim)])
    gone = tuple(axis for axis in range(p.ndim) if axis not in block.kept)
    if not gone:
        return jnp.zeros_like(p)
    return compat.zeros_as(jax.eval_shape(lambda x: leaf.sum(x, gone, keepdims=True), p))


def _runs(x: Any, v: Any) -> int | None:
    """The axis on which there are heads."""
    return next((axis for axis in range(x.ndim) if 1 < v.shape[axis] < x.shape[axis]), None)


def means(x: Any, v: Any, leaf: Any, block: Callable[[], Block]) -> Any:
    """The means of `x` over the blocks, of which `v` has one number each.

    The shape of `v` tells what is kept, so that leaves alike need not be told apart by their names. But an axis of one
    number here that is cut over a mesh may be kept or not: of it `block` is asked.
    """

    def unclear(axis: int) -> bool:
        return v.shape[axis] == 1 and bool(leaf.axes and (leaf.dims is None or leaf.dims[axis]))

    said = block().kept if any(map(unclear, range(x.ndim))) else ()
    runs = _runs(x, v)
    kept = {
        axis
        for axis in range(x.ndim)
        if axis in said or (x.shape[axis] == v.shape[axis] and not unclear(axis))
    }
    gone = tuple(axis for axis in range(x.ndim) if axis not in kept and axis != runs)
    mean = leaf.mean(x, gone, keepdims=True) if gone else x
    if runs is None:
        return mean
    parts = (*v.shape[: runs + 1], -1, *v.shape[runs + 1 :])
    return automatic.run_cut(
        lambda y: jnp.mean(y.reshape(parts), axis=runs + 1), lambda: automatic.spec_in_type(v), mean
    )


def spread(v: Any, x: Any) -> Any:
    """The number of its block for every element of `x`, or what broadcasts to that."""
    runs = _runs(x, v)
    if runs is None:
        return v
    each = x.shape[runs] // v.shape[runs]
    wide = jnp.broadcast_to(jnp.expand_dims(v, runs + 1), (*v.shape[: runs + 1], each, *v.shape[runs + 1 :]))
    return wide.reshape(*v.shape[:runs], x.shape[runs], *v.shape[runs + 1 :])
