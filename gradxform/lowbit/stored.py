"""`Quantized`: an array of a state as it is stored in few bits, a node of the state's tree.

    threshold_t(i) = frac(hash(seed, address, i) + t * root of 2)

decides at the t-th writing between the two codes next to element i. i is the number of the element in the whole array,
so the bits are the same on any mesh and replicas cannot drift apart; t counts the writings of this very array, so that
nothing changes at a step that is skipped. Thresholds of one element fill [0, 1) evenly, and rounding is right on
average after a few steps already, with a fifth less noise than by random bits.

A moment that is divided by the root of the second moment beside it goes on by the golden ratio and not by the root of
2. What it is divided by has just been rounded: with the same sequence for both, up and down would go together, a
share of 6e-4 be added at every step, and a momentum of 0.9999 grow without end. Two irrational steps that have nothing
to do with each other fill the square of both thresholds evenly. Of the two, the root of 2 lets a second moment that
only falls (`codecs`) fall less too far.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import automatic, compat
from .._core.errors import say
from .._core.leaf import Leaf
from .._core.numerics import random_bits, stochastic_round
from .._core.skip import run_if
from .._core.specs import fitting, padded
from .codecs import RootCodec, SignedCodec, fold, from_blocks, to_blocks
from .dynamic import DynamicCodec
from .float8 import Float8Codec
from .serial import tell_flax
from .words import WordCodec, draws, packed, unpacked

#: By how much thresholds go on, as shares of 2^32: the root of 2, and for a moment beside another the golden ratio.
_TURN, _TURN_BESIDE = np.uint32(0x6A09E667), np.uint32(0x9E3779B9)


@dataclass(frozen=True)
class CastCodec:
    """A shorter float, an element of it for each element."""

    dtype: str = "bfloat16"


Codec = RootCodec | SignedCodec | DynamicCodec | Float8Codec | CastCodec | WordCodec


@dataclass(frozen=True)
class Form:
    """What is known of a stored array before it has values.

    `field` is the state's field in which it stands, and `relative` the one beside it by whose root the numbers are
    divided before they are coded. `salt` is the hash of the seed and the address. `odd` tells that the last code of 4
    bits in a row is none. `row` are the sizes of the axes that are cut into blocks together. `beside` is the field with
    which it shares words; of the half that is only referred to, `row` is the shape.
    """

    codec: Codec
    dtype: str
    field: str
    relative: str = ""
    salt: int = 0
    nearest: bool = False
    odd: bool = False
    row: tuple[int, ...] = ()
    beside: str = ""


@jax.tree_util.register_pytree_with_keys_class
class Quantized:
    """An array in few bits: `codes` shaped like it, with 4 bits two in a byte along the last axis, and `scales`.

    There is one scale a block; blocks are cut along the last axis, short axes folded together first. `step` counts how
    often it has been written. `jnp.asarray(x)` has the array that it stands for; `x.nbytes` what it takes. Two moments
    in words of 32 bits are in the `codes` of one node, and the other one has none; there `step` starts at a number that
    tells leaves apart.
    """

    def __init__(self, form: Form, codes: Any, scales: Any, step: Any) -> None:
        tell_flax(type(self))
        self.form, self.codes, self.scales, self.step = form, codes, scales, step

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that is stored, inside `shard_map` of its own part."""
        if self.codes is None:
            return self.form.row
        shape: tuple[int, ...] = self.codes.shape
        if isinstance(self.form.codec, CastCodec | WordCodec) or self.form.codec.bits == 8:
            return shape
        return (*shape[:-1], 2 * shape[-1] - self.form.odd)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers are stored."""
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> Any:
        """The dtype that the state would have without quantisation."""
        return jnp.dtype(self.form.dtype)

    @property
    def kind(self) -> str:
        """How it is stored, in words."""
        codec = self.form.codec
        if isinstance(codec, DynamicCodec):
            return "8 bits, dynamic map"
        if isinstance(codec, WordCodec):
            return "bfloat16, two in a word"
        return codec.dtype if isinstance(codec, CastCodec | Float8Codec) else f"{codec.bits} bits"

    @property
    def written(self) -> Any:
        """What is equal for two nodes if the codes of one can be read as those of the other."""
        return self.form.codec, self.form.relative, self.form.odd

    @property
    def nbytes(self) -> int:
        """The bytes that codes, scales and the counter take."""
        return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(self))

    def tree_flatten_with_keys(self) -> tuple[Any, Form]:
        keys = (jax.tree_util.GetAttrKey(name) for name in ("codes", "scales", "step"))
        return tuple(zip(keys, (self.codes, self.scales, self.step), strict=True)), self.form

    @classmethod
    def tree_unflatten(cls, form: Form, children: Any) -> "Quantized":
        return cls(form, *children)

    def __jax_array__(self) -> Any:
        if self.codes is None:
            raise TypeError(
                f"this array is in the words of {self.form.beside} beside it; "
                "gx.lowbit.dequantized(state) has both"
            )
        if self.form.relative:
            raise TypeError(
                f"this array is stored as multiples of the root of {self.form.relative} beside it; "
                "gx.lowbit.dequantized(state) has both"
            )
        return decode(self).astype(self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        del copy  # it always is one
        return np.asarray(self.__jax_array__(), dtype)

    def __repr__(self) -> str:
        size = list(self.shape) if self.codes is None or hasattr(self.codes, "shape") else ""
        return f"Quantized({self.form.dtype}{size} in {self.kind})"


def stored(form: Form, x: Any) -> Quantized:
    """An array stored for the first time, to the nearest code."""
    form = replace(form, odd=bool(x.shape[-1] % 2), row=_row(form, x.shape)) if x.shape else form
    # Zeros, most often: without the barrier a compiler takes minutes to work out the codes of a constant.
    codes, scales = _encoded(form.codec, jax.lax.optimization_barrier(jnp.asarray(x)), None)
    return _laid(Quantized(form, codes, scales, jnp.zeros([], jnp.int32)), x)


def _laid(made: Quantized, x: Any) -> Quantized:
    """On explicit axes, codes that are cut as the array, and scales too; whole where their own size does not divide."""
    sharding = compat.explicit_sharding(x)
    if sharding is None or not made.codes.shape:
        return made
    names = padded(sharding.spec, x.ndim)
    made.codes = automatic.cut(made.codes, fitting(sharding.mesh, names, made.codes.shape))
    if made.scales is not None:
        lead = made.scales.ndim - 1  # the axes behind these are one, of which the first is the outermost
        across = None if any(names[lead + 1 :]) or isinstance(made.form.codec, DynamicCodec) else names[lead]
        made.scales = automatic.cut(
            made.scales, fitting(sharding.mesh, (*names[:lead], across), made.scales.shape)
        )
    return made


def again(x: Any, old: Quantized, part: Leaf | None = None) -> Quantized:
    """New values in the place of the old ones; `part` is which shard of an array they are, if that is known."""
    _check_part(old)
    form, step, x = old.form, jnp.asarray(old.step), jnp.asarray(x)

    def made() -> tuple[Any, Any]:
        made = _encoded(form.codec, x, None if form.nearest else _thresholds(form, step, x, part))
        return automatic.laid_like(made, (old.codes, old.scales))

    codes, scales = run_if(step >= 0, made, lambda: (old.codes, old.scales)) if _enclosed(x) else made()
    return Quantized(form, codes, scales, step + np.int32(1))


def _enclosed(x: Any) -> bool:
    """Whether the encoding of `x` is compiled by itself, in a branch that is always taken."""
    # On a CPU, XLA computes what is cheap once more for each array that needs it: the number in each pass over it, and
    # the code, threshold included, where it is decoded again. Into a branch and out of it go arrays.
    return isinstance(x, compat.Tracer) and not compat.manual_axes() and jax.default_backend() == "cpu"


def stored_words(forms: tuple[Form, Form], m: Any, v: Any) -> tuple[Quantized, Quantized]:
    """Two arrays stored in words for the first time, to nearest.

    The salt is the start of the counter and not in the form, so that leaves alike have equal forms: they are traced
    once, and their loops are the same.
    """
    m, v = (jnp.asarray(x) for x in (m, v))
    word = _packed_words(*jax.lax.optimization_barrier((m, v)), None)
    start = jnp.asarray(forms[0].salt >> 2, jnp.int32)
    upper, lower = (replace(form, salt=0) for form in forms)
    made = _laid(Quantized(upper, word, None, start), m)
    return made, Quantized(replace(lower, row=tuple(v.shape)), None, None, jnp.zeros([], jnp.int32))


def words_again(
    m: Any, v: Any, old: tuple[Quantized, Quantized], part: Leaf | None = None
) -> tuple[Quantized, Quantized]:
    """New values in the place of the old ones, of both halves."""
    upper, lower = old
    form, step, m = upper.form, jnp.asarray(upper.step), jnp.asarray(m)
    draw = None if form.nearest else draws(*_counted(form, step, m, part))
    (word,) = automatic.laid_like((_packed_words(m, jnp.asarray(v), draw),), (upper.codes,))
    # The lower half's counter rests: it is there so that no node is without an array, which checkpoints forget.
    return Quantized(form, word, None, step + np.int32(1)), lower


def halves(x: Quantized) -> tuple[Any, Any]:
    """Both arrays of words, in float32."""
    return tuple(automatic.laid_like(_unpacked_words(x.codes), (x.codes, x.codes)))


def as_written(x: Quantized, m: Any, v: Any) -> tuple[Any, Any]:
    """`halves` of words that have just been made of `m` and `v`, and in derivatives these: rounding has none."""
    return tuple(automatic.laid_like(_straight(x.codes, m, v), (x.codes, x.codes)))


@jax.custom_jvp
def _straight(word: Any, m: Any, v: Any) -> tuple[Any, Any]:
    del m, v
    return _unpacked_words(word)


@_straight.defjvp
def _straight_jvp(primals: Any, tangents: Any) -> Any:
    return _straight(*primals), (tangents[1].astype(jnp.float32), tangents[2].astype(jnp.float32))


def decode(x: Quantized) -> Any:
    """The numbers that are stored, in float32."""
    if isinstance(x.form.codec, WordCodec):
        return halves(x)[0]
    _check_part(x)
    found = _decoded(x.form.codec, x.codes, x.scales, x.shape)
    sharding = compat.explicit_sharding(x.codes)
    return found if sharding is None else automatic.cut(found, sharding)


def _row(form: Form, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that are cut into blocks together."""
    if isinstance(form.codec, CastCodec | WordCodec):
        return ()
    lead = 0 if isinstance(form.codec, DynamicCodec) else len(fold(shape, form.codec.block)[0])
    return shape[lead:]


def _check_part(x: Quantized) -> None:
    """Refuses a part of an array, inside `shard_map`, that is no whole number of blocks: it has the wrong scales."""
    part, whole, codec = _row(x.form, x.shape), x.form.row, x.form.codec
    if part == whole:
        return
    block = 0 if isinstance(codec, DynamicCodec | CastCodec | WordCodec) else codec.block
    whole_blocks = block and not any(int(np.prod(axes)) % block for axes in (part, whole))
    if whole_blocks and len(part) == len(whole) and part[1:] == whole[1:]:
        return
    fact = f"gx.lowbit.quantized: blocks were cut along axes of {list(whole)} numbers, here they are {list(part)}"
    cut = f"cut the array at multiples of {block} numbers" if block else "blocks of this map go across axes"
    raise ValueError(say(fact, f"in shard_map {cut}, or call tx.init in there"))


# Compiled, so that `init` and steps outside of `jit` do not take hundreds of small programs; inside they are inlined.
@partial(jax.jit, static_argnums=(0, 3), inline=True)
def _decoded(codec: Codec, codes: Any, scales: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(codec, CastCodec | WordCodec):
        return codes.astype(jnp.float32)
    if isinstance(codec, DynamicCodec):
        return codec.decode(codes, scales)
    if codec.bits == 4:
        codes = _unpacked(codes, shape[-1], isinstance(codec, SignedCodec))
    blocks = to_blocks(codes, codec.block)
    cut = compat.explicit_sharding(blocks)
    if cut is not None:  # each scale where its block is, which may be on more devices
        scales = automatic.cut(scales, cut.update(spec=jax.P(*cut.spec[:-1])))
    return from_blocks(codec.decode(blocks, scales), shape)


@partial(jax.jit, static_argnums=0, inline=True)
def _encoded(codec: Codec, x: Any, threshold: Any) -> tuple[Any, Any]:
    x = x.astype(jnp.float32)
    if isinstance(codec, CastCodec | WordCodec):
        if threshold is None or codec.dtype != "bfloat16":
            return x.astype(codec.dtype), None
        return stochastic_round(x, (threshold * np.float32(2**16)).astype(jnp.uint32)), None
    if isinstance(codec, DynamicCodec):
        return codec.encode(x, threshold)
    cut = None if threshold is None else to_blocks(threshold, codec.block)
    codes, scales = codec.encode(to_blocks(x, codec.block), cut)
    codes = from_blocks(codes, x.shape)
    return (_packed(codes) if codec.bits == 4 else codes), scales


@partial(jax.jit, inline=True)
def _packed_words(m: Any, v: Any, draw: Any) -> Any:
    return packed(m.astype(jnp.float32), v.astype(jnp.float32), draw)


@partial(jax.jit, inline=True)
def _unpacked_words(word: Any) -> tuple[Any, Any]:
    return unpacked(word)


def _thresholds(form: Form, step: Any, like: Any, part: Leaf | None) -> Any:
    salt, step, shape, offset = _counted(form, step, like, part)
    turn = _TURN_BESIDE if form.relative else _TURN
    bits = random_bits(salt, 0, 0, shape, offset) + step.astype(jnp.uint32) * turn
    return (bits >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def _counted(form: Form, step: Any, like: Any, part: Leaf | None) -> tuple[Any, Any, tuple[int, ...], Any]:
    """What the threshold of an element is made of: salt, writing, and the numbers of the elements."""
    salt: Any = np.uint32(form.salt)
    known = part is not None and part.here == like.shape
    # Inside shard_map an element's number is that in its shard, unless it is known where the shard stands.
    for name in () if known else sorted(compat.varying_axes(like)):
        salt = salt + jnp.uint32(0x85EBCA6B) * (jax.lax.axis_index(name).astype(jnp.uint32) + np.uint32(1))
    offset = part.offsets() if part is not None and known else 0
    return salt, step, like.shape, offset


def _packed(codes: Any) -> Any:
    """Two codes of 4 bits in a byte, neighbours on the last axis."""
    if codes.shape[-1] % 2:
        codes = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    pairs = jnp.reshape(codes.astype(jnp.uint8) & np.uint8(15), (*codes.shape[:-1], -1, 2))
    # As one word and not as two slices, for which XLA would compute the codes twice and one by one.
    both = jax.lax.bitcast_convert_type(pairs, jnp.uint16)
    return (both | (both >> np.uint16(4))).astype(jnp.uint8)


def _unpacked(packed: Any, size: int, signed: bool) -> Any:
    """The codes of bytes, as numbers."""
    shape = (*packed.shape[:-1], 2 * packed.shape[-1])
    pairs = jnp.broadcast_to(jnp.expand_dims(packed.astype(jnp.int32), -1), (*packed.shape, 2))
    # Its half of the byte is moved to the end with the sign and back again, which takes that sign along.
    odd = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) & np.int32(1)
    moved = jnp.reshape(pairs, shape) << (np.int32(28) - odd * np.int32(4))
    back = jax.lax.shift_right_arithmetic if signed else jax.lax.shift_right_logical
    return back(moved, jnp.full_like(moved, 28))[..., :size]
