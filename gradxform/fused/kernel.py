"""One kernel for any chain of element rules: a leaf's pass with everything between reading and writing in registers.

    u, new slots = fn(g, p, scalars, slots)        the pass, as the engine hands it over
    p' = p + u                                     with `apply`

    grid    one program for `tile` neighbours; a leaf of any shape is taken as a row of numbers
    read    g, p and the slots of the tile, once; the scalars
    write   p' in the place of p, each slot in its own place

An element rule does not see its neighbours, so that the function which the engine runs on leaves is right on tiles
too; nothing is written a second time. A slot that is stored in blocks of codes is read and written in whole blocks: the
codec runs inside. With `apply` neither the update nor anything else of the leaf's size is written beside parameter and
state.

AdamW in float32 then moves 28 bytes a number: 16 read, 12 written.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from .._core.apply import apply_updates
from .._core.errors import describe_array
from .._core.numerics import cast
from .body import TILE, Unfit, evaluate, needs

#: Lengths that are multiples of it are read in long words also under a mask.
_ALIGNED = 16
_WARPS = 4  # of 32 threads, each with 8 numbers of a tile of 1024


class _Operand(NamedTuple):
    """An array of the leaf as the kernel takes it: how many of its numbers belong to a tile; 0 for a scalar."""

    numbers: int
    shape: tuple[int, ...]
    dtype: Any


def tiled(
    fn: Callable[..., Any],
    args: tuple[Any, Any, Any, Any],
    *,
    apply: bool = False,
    tile: int = TILE,
    interpret: bool = False,
) -> Any:
    """`fn(u, p, ks, stored)`, computed tile by tile in one kernel.

    Args:
        fn: the pass of a leaf: `fn(u, p, ks, stored, start)` gives `(u, new)`. Every array of its result is made,
            number by number, of those in the same place.
        args: `u` and `p` of one shape; `ks`, scalars; `stored`, arrays shaped like `u` or with one number for a block
            of it, and scalars.
        apply: whether to give `p + u` in the place of `u`.
        tile: how many numbers of `u` are worked on at once, a power of two.
        interpret: run it in the words of XLA, on any machine, to test it.

    Returns:
        What `fn` returns, or with `apply` the new parameter in the place of the update.

    Raises:
        Unfit: if `fn` looks beyond a tile.
    """
    u = args[0]
    if u.size == 0 or u.ndim == 0:
        got, new = fn(*args)
        return (apply_updates(args[1], cast(got, args[1].dtype)), new) if apply else (got, new)

    def work(u: Any, p: Any, ks: Any, stored: Any, start: Any) -> Any:
        got, new = fn(u, p, ks, stored, start=start)
        return (apply_updates(p, cast(got, p.dtype)), new) if apply else (got, new)

    leaves, treedef = jax.tree.flatten(args)
    operands = [_operand(x, u, tile) for x in leaves]
    small = [
        jax.ShapeDtypeStruct((o.numbers,), o.dtype) if o.numbers else x
        for o, x in zip(operands, leaves, strict=True)
    ]
    start = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        closed, shapes = jax.make_jaxpr(work, return_shape=True)(*treedef.unflatten(small), start)
    except ValueError as problem:
        if all(o.numbers in (0, tile) for o in operands):
            raise
        fact = f"blocks of a leaf of {list(u.shape)} go across its axes ({str(problem).splitlines()[0]})"
        raise Unfit(fact) from problem
    name = getattr(fn, "__name__", "leaf_pass")
    made = _Kernel(closed, operands, u.size, tile, interpret, name)
    outs, out_tree = jax.tree.flatten(shapes)
    places = _aliases(args, shapes, apply)
    return out_tree.unflatten(made(leaves, outs, places))


def _operand(x: Any, u: Any, tile: int) -> _Operand:
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or jnp.issubdtype(x.dtype, jax.dtypes.extended):
        raise Unfit(f"{describe_array(x)}: a kernel has no such numbers")
    if x.ndim == 0:
        return _Operand(0, (), x.dtype)
    ratio, rest = divmod(u.size, max(x.size, 1))
    if rest or not ratio or tile % ratio or (ratio == 1 and x.shape != u.shape):
        blocks = "one number for an element of it or for a block, in whole blocks"
        raise Unfit(f"{describe_array(x)} beside {describe_array(u)}: wanted {blocks}")
    return _Operand(tile // ratio, x.shape, x.dtype)


def _aliases(args: Any, shapes: Any, apply: bool) -> list[int | None]:
    """For each result the argument in whose place it is written, as numbers of leaves."""
    numbers = iter(range(jax.tree.structure(args).num_leaves))
    _, p, _, stored = jax.tree.map(lambda _: next(numbers), args)
    u, new = shapes
    first: list[int | None] = [p if apply else None for _ in jax.tree.leaves(u)]
    for old, fresh in zip(stored, new, strict=True):
        for name in sorted(fresh):
            first += jax.tree.leaves(old[name])
    return first


class _Kernel:
    """A traced pass, ready to be run on all tiles."""

    def __init__(
        self, closed: Any, operands: Sequence[_Operand], size: int, tile: int, interpret: bool, name: str
    ) -> None:
        self.jaxpr, self.consts = closed.jaxpr, closed.consts
        self.operands, self.size, self.tile, self.interpret, self.name = operands, size, tile, interpret, name

    def __call__(self, leaves: Sequence[Any], outs: Sequence[Any], places: Sequence[int | None]) -> list[Any]:
        """All results, those that are scalars computed outside of the kernel."""
        single = [i for i, out in enumerate(outs) if not out.shape]
        large = [i for i, out in enumerate(outs) if out.shape]
        scalars = [None if o.numbers else x for o, x in zip(self.operands, leaves, strict=True)]
        read = needs(self.jaxpr, single)
        if any(i >= len(scalars) or scalars[i] is None for i in read):
            raise Unfit("a number of the whole leaf is made of its elements")
        results: dict[int, Any] = dict(
            zip(single, evaluate(self.jaxpr, self.consts, [*scalars, None], single), strict=True)
        )
        used = sorted(i for i in needs(self.jaxpr, large) if i < len(leaves))
        results.update(zip(large, self._launch(leaves, outs, places, used, large), strict=True))
        return [results[i] for i in range(len(outs))]

    def _launch(
        self,
        leaves: Sequence[Any],
        outs: Sequence[Any],
        places: Sequence[int | None],
        used: list[int],
        large: list[int],
    ) -> list[Any]:
        given = [self._flat(leaves[i]) for i in used] + [self._flat(jnp.asarray(c)) for c in self.consts]
        aliases: dict[int, int] = {}
        shapes: list[Any] = []
        for number, i in enumerate(large):
            place = places[i]
            like = leaves[0] if place is None else leaves[place]
            if outs[i].shape != (self.tile * like.size // self.size,):
                raise Unfit(f"a result of {list(outs[i].shape)} for a tile of {self.tile}")
            shapes.append(jax.ShapeDtypeStruct((like.size,), outs[i].dtype))
            if place is not None and like.dtype == outs[i].dtype and place in used:
                aliases[used.index(place)] = number
        if self.size > np.iinfo(np.int32).max - self.tile:
            raise Unfit(f"a leaf of {self.size} numbers: wanted less than 2^31 of them")
        made = pl.pallas_call(
            lambda *refs: self._program(refs, used, large),
            grid=(pl.cdiv(self.size, self.tile),),
            out_shape=shapes,
            input_output_aliases=aliases,
            interpret=self.interpret,
            compiler_params=triton.CompilerParams(num_warps=_WARPS),
            name=self.name,
        )(*given)
        likes = [leaves[0] if places[i] is None else leaves[places[i]] for i in large]  # type: ignore[index]
        return [jnp.reshape(x, like.shape) for x, like in zip(made, likes, strict=True)]

    def _flat(self, x: Any) -> Any:
        """An array as a row; of truth values, which have no place in memory, as bytes."""
        flat = jnp.reshape(x, (-1,))
        return flat.astype(jnp.int8) if flat.dtype == jnp.bool_ else flat

    def _program(self, refs: Sequence[Any], used: list[int], large: list[int]) -> None:
        """What one program of the grid does."""
        number = pl.program_id(0)
        start = number * np.int32(self.tile)
        if self.size % _ALIGNED == 0 or self.size < self.tile:
            return self._work(refs, used, large, number, self.size % self.tile != 0)
        # Under a mask that may end anywhere numbers are read one by one: only the last tile has it.
        whole = start + np.int32(self.tile) <= np.int32(self.size)
        pl.when(whole)(lambda: self._work(refs, used, large, number, False))
        pl.when(~whole)(lambda: self._work(refs, used, large, number, True))

    def _work(
        self, refs: Sequence[Any], used: list[int], large: list[int], number: Any, masked: bool
    ) -> None:
        """What is done to one tile."""
        inputs, results = refs[: len(refs) - len(large)], refs[len(refs) - len(large) :]
        args: list[Any] = [None] * len(self.operands) + [number * np.int32(self.tile)]
        for i, ref in zip(used, inputs, strict=False):
            operand = self.operands[i]
            if operand.numbers:
                where, mask = _span(ref, operand.numbers, number, masked)
                other = None if mask is None else np.zeros((), ref.dtype)
                got = triton.load(ref.at[where], mask=mask, other=other)
            else:
                got = ref[0]
            args[i] = got != np.int8(0) if operand.dtype == jnp.bool_ else got
        consts = [ref[0].astype(c.dtype) for ref, c in zip(inputs[len(used) :], self.consts, strict=True)]
        for ref, x in zip(results, evaluate(self.jaxpr, consts, args, large), strict=True):
            where, mask = _span(ref, x.shape[0], number, masked)
            triton.store(ref.at[where], x, mask=mask)


def _span(ref: Any, count: int, number: Any, masked: bool) -> tuple[Any, Any]:
    """The part of an array that belongs to a tile, and which of it is there, if some may not be."""
    first = number * np.int32(count)
    mask = first + jax.lax.iota(jnp.int32, count) < np.int32(ref.shape[0]) if masked else None
    return pl.ds(first, count), mask
