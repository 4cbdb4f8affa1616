"""The executor of low-bit states: slots are decoded in front of a rule and encoded behind it, a leaf at a time.

Within one pass a leaf's slots are floats between reading and writing only, so that no float32 copy of a whole state
ever exists. What another library's transform keeps is decoded around its `update`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat
from .._core.leaf import Leaf
from .._core.numerics import cast
from .._core.packed import keep_by
from .._core.plan import Executor, kept
from .._core.skip import run_if
from .._core.through import through
from .boxes import inward, outward
from .codecs import RootCodec, fold
from .stored import Quantized, again, as_written, decode, halves, words_again
from .words import WordCodec

_BLOCK = RootCodec(8).block
#: A divisor in the place of the root of zero.
_LEAST = np.float32(2.0**-63)
#: The largest multiple of it that is stored.
_MOST = np.float32(2.0**10)


class Storage(Executor):
    """Arrays and `Quantized` nodes side by side; the nodes say themselves how they are stored."""

    def decode(self, stored: Mapping[str, Any], dtypes: Mapping[str, Any]) -> dict[str, Any]:
        """The slots of one leaf as arrays, those first by whose root others are divided."""
        wide: dict[str, Any] = {}  # a root is taken before the cast, as in front of the division
        for name, beside in _in_words(stored).items():
            wide[name], wide[beside] = halves(stored[name])
        for name in _ordered(stored):
            x = stored[name]
            if name not in wide:
                wide[name] = decode(x) if isinstance(x, Quantized) else x
            if isinstance(x, Quantized) and x.form.relative:
                wide[name] = wide[name] * _root(wide[x.form.relative])
        return {name: cast(wide[name], dtypes[name]) for name in stored}

    def encode(
        self, new: Mapping[str, Any], stored: Mapping[str, Any], part: Leaf | None = None
    ) -> dict[str, Any]:
        """The new slots of one leaf, and again those that are divided by the root of a new one."""
        made: dict[str, Any] = {}
        for upper, lower in _in_words(stored).items():
            if (
                upper in new or lower in new
            ):  # a half that is not new is on the lattice, and stays where it is
                both = {**self._wide(stored), **new}
                old = stored[upper], stored[lower]
                made[upper], made[lower] = words_again(both[upper], both[lower], old, part)
        for name, x in stored.items():
            if isinstance(x, Quantized) and x.form.relative in new and name not in new:
                new = {**new, name: self._wide(stored)[name]}
        for name in _ordered(stored):
            old = stored[name]
            if name not in new or name in made:
                continue
            if not isinstance(old, Quantized):
                made[name] = kept(new[name], old)
                continue
            x = jnp.asarray(new[name]).astype(jnp.float32)
            if old.form.relative:
                beside = made.get(old.form.relative, stored[old.form.relative])
                x = divided(x, decode(beside) if isinstance(beside, Quantized) else beside)
            made[name] = again(x, old, part)
        return made

    def _wide(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        return self.decode(stored, dict.fromkeys(stored, jnp.dtype(np.float32)))

    def stepped(
        self,
        step: Callable[..., tuple[Any, dict[str, Any]]],
        args: tuple[Any, ...],
        stored: Mapping[str, Any],
        part: Leaf | None = None,
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The step, its update made of the words that are stored.

        Made of the moments in front of their rounding, it would have to make these again, of the old words.
        """
        pairs = _in_words(stored)
        if not pairs:
            return super().stepped(step, args, stored, part)
        u, names = jax.eval_shape(step, *args)
        names, first = list(names), len(jax.tree.leaves(u))
        groups = [
            (first + names.index(a), first + names.index(b))
            for a, b in pairs.items()
            if a in names and b in names
        ]
        made: dict[str, Any] = {}

        def written(group: tuple[int, ...], values: Sequence[Any]) -> list[Any]:
            upper, lower = (names[i - first] for i in group)
            old = stored[upper], stored[lower]
            made[upper], made[lower] = words_again(values[0], values[1], old, part)
            both = as_written(made[upper], values[0], values[1])
            return [cast(x, old.dtype) for x, old in zip(both, values, strict=True)]

        u, new = through(step, args, groups, written)
        return u, new, made

    def enclosed(
        self, work: Any, u: Any, stored: dict[str, Any], last: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        """One leaf after the other, each in a branch of its own that is always taken: on a CPU.

        There XLA would decode all leaves before it encodes the first one, and an optimization barrier is gone before it
        plans its memory. What is in a branch it cannot take apart, and a leaf that needs a number of the one before
        cannot be begun: what is float32 is a few times the largest leaf, however many there are.
        """
        if not self.encloses(u, stored):
            return *work(u, stored), last
        coded = [x for x in stored.values() if is_stored(x) and x.codes is not None]
        if last is not None:  # 0, but no compiler knows that a scale has 16 bits
            never = (jnp.max(last).astype(jnp.int32) > np.int32(2**20)).astype(jnp.uint8)
            u = u + never.astype(u.dtype)
            stored = {n: _plus(x, never) if is_stored(x) else x for n, x in stored.items()}
        given, held = u, stored
        always = jnp.asarray(coded[0].step) >= 0
        renewed: list[str] = []  # a rule may leave slots as they are, and both branches have all

        def taken() -> Any:
            new, made = work(given, held)
            renewed[:] = made
            return new, {**held, **made}

        new, made = run_if(always, taken, lambda: (jnp.zeros_like(given), held))
        made = {name: made[name] for name in renewed}
        waits = [_words(x) for x in made.values() if is_stored(x) and x.codes is not None]
        return new, made, waits[-1] if waits else last

    def encloses(self, u: Any, stored: Mapping[str, Any]) -> bool:
        """Where XLA takes programs apart: in a traced step on a CPU."""
        coded = any(is_stored(x) and not isinstance(x.form.codec, WordCodec) for x in stored.values())
        traced = isinstance(u, compat.Tracer) and not compat.manual_axes()
        return coded and traced and jax.default_backend() == "cpu"

    def cuttable(self, part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
        """Only in whole blocks: a part of one has the wrong scales."""
        mine, row = (shape[len(fold(shape, _BLOCK)[0]) :] for shape in (part, whole))
        blocks = not any(int(np.prod(axes)) % _BLOCK for axes in (mine, row))
        return mine == row or (blocks and len(mine) == len(row) and mine[1:] == row[1:])

    def form(self, stored: Any) -> Any:
        """The shape and dtype of what is stored."""
        if not isinstance(stored, Quantized):
            return stored
        if stored.codes is None:
            return None
        sharding = compat.explicit_sharding(stored.codes)
        return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)

    def opened(self, state: Any) -> Any:
        """A whole state with arrays in the place of `Quantized` nodes."""
        return opened(outward(state))

    def closed(self, new: Any, old: Any) -> Any:
        """The inverse of `opened`."""
        return inward(closed(new, outward(old)))


def _in_words(stored: Mapping[str, Any]) -> dict[str, str]:
    """The fields that hold words, and those of which these are the lower halves."""
    held = {name: x.form for name, x in stored.items() if is_stored(x) and x.codes is not None}
    return {name: form.beside for name, form in held.items() if form.beside in stored}


def _ordered(stored: Mapping[str, Any]) -> list[str]:
    """The fields, those that are relative to another one last."""
    return sorted(
        stored, key=lambda name: isinstance(stored[name], Quantized) and bool(stored[name].form.relative)
    )


def divided(x: Any, v: Any) -> Any:
    """A moment as multiples of the root of the second moment beside it, as the latter is stored.

    Beside a zero, which is what squares of gradients below 1e-18 leave, it is small too. Where it is not, as in states
    of others that round a second moment to zero, it is cut: all numbers of its block would be lost beside it.
    """
    made = x.astype(jnp.float32) / _root(v)
    return jnp.where((v > 0) | jnp.isinf(x), made, jnp.clip(made, -_MOST, _MOST))  # Inf is to be seen


def _root(v: Any) -> Any:
    root = jnp.sqrt(v.astype(jnp.float32))
    return jnp.where(root > 0, root, _LEAST)


def _words(x: Quantized) -> Any:
    """Numbers of 16 bits that are there when `x` has been written."""
    made = x.codes if x.scales is None else x.scales
    if made.dtype == jnp.uint16:
        return made
    short = made.dtype.itemsize == 2
    return jax.lax.bitcast_convert_type(made, jnp.uint16 if short else jnp.uint32) >> (0 if short else 16)


def _plus(x: Quantized, never: Any) -> Quantized:
    scales = None if x.scales is None else jnp.asarray(x.scales) + never.astype(x.scales.dtype)
    return Quantized(x.form, x.codes, scales, x.step)


def is_stored(x: Any) -> bool:
    """Whether it is a `Quantized` node."""
    return isinstance(x, Quantized)


def opened(state: Any) -> Any:
    """A state of any nesting with arrays in the place of `Quantized` nodes, in the dtypes that they would have."""

    def one(old: Any) -> Any:
        if not _holds(old):
            return old
        return _by_leaf(old, lambda stored: STORAGE.decode(stored, {n: x.dtype for n, x in stored.items()}))

    return jax.tree.map(one, state, is_leaf=_holds)


def closed(new: Any, old: Any) -> Any:
    """The inverse of `opened`: `new` stored as `old` is."""

    def one(before: Any, after: Any) -> Any:
        if not _holds(before):
            return after
        names = _fields(before)
        floats = iter(list(zip(*(jax.tree.leaves(getattr(after, name)) for name in names), strict=True)))
        made = _by_leaf(
            before, lambda stored: STORAGE.encode(dict(zip(names, next(floats), strict=True)), stored)
        )
        return after._replace(**{name: getattr(made, name) for name in names})

    return jax.tree.map(one, old, new, is_leaf=_holds)


def _fields(node: Any) -> list[str]:
    """The fields of a state in which arrays are stored in few bits, and those by whose roots they are divided."""
    found: list[str] = []
    for name in getattr(node, "_fields", ()):
        leaves = [x for x in jax.tree.leaves(getattr(node, name), is_leaf=is_stored) if is_stored(x)]
        mine = [x.form for x in leaves if x.form.field == name]
        found += [name] * bool(mine) + list(dict.fromkeys(form.relative for form in mine if form.relative))
    return list(dict.fromkeys(found))


def _holds(x: Any) -> bool:
    return bool(_fields(x))


def _by_leaf(node: Any, change: Any) -> Any:
    """A state with the slots of every leaf changed together."""
    names = _fields(node)
    flat = {name: jax.tree.flatten(getattr(node, name), is_leaf=is_stored) for name in names}
    rows = [
        dict(zip(names, row, strict=True)) for row in zip(*(flat[name][0] for name in names), strict=True)
    ]
    made = [change(row) for row in rows]
    return node._replace(**{name: flat[name][1].unflatten([row[name] for row in made]) for name in names})


#: The one there is: nodes say themselves how they are stored.
STORAGE = Storage()
keep_by(Quantized, STORAGE)
