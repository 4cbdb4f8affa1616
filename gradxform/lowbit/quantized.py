"""`quantized`: the state of any transform in 8 or 4 bits, by the roles of its fields.

    SecondMoment     v on a logarithmic map without zero
    Moment           m / root of the v beside it, where there is one: every weight then has the accuracy that its step
                     needs, however gradients differ in size; else m itself, in steps that grow with it
    all others       as they are: counts, second iterates, sums on their way, factors

The step is made of the new moments before they are stored. Only of 16 bits, where a moment and a second moment of one
parameter share a word (`words`), is it made of what that holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat, roles
from .._core.errors import check_integer, describe_array, say, short
from .._core.factory import factory
from .._core.joined import Joined
from .._core.numerics import leaf_number
from .._core.plan import Body, Lowering, Route
from .._core.roles import is_exact, is_own, roles_of
from .._core.shards import cut_in_making
from .._core.spec import Example
from .._core.states import changed
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import is_absent, is_inexact, is_variable, matches, path_text, paths_of, view
from .boxes import bare, held, into_variables, inward, outward
from .codecs import RootCodec, SignedCodec
from .dynamic import DynamicCodec
from .float8 import Float8Codec
from .storage import STORAGE, divided, is_stored
from .stored import CastCodec, Codec, Form, Quantized, decode, stored, stored_words
from .words import WordCodec

_BITS = (4, 8, 16, 32)
_ROUNDINGS = ("stochastic", "nearest")
#: What fields are called in states of which no roles are known.
_NAMES = {
    **dict.fromkeys(("mu", "m", "trace", "ema", "momentum", "exp_avg"), roles.MOMENT),
    **dict.fromkeys(
        ("nu", "v", "nu_max", "exp_avg_sq", "sum_of_squares", "second_moment"), roles.SECOND_MOMENT
    ),
}


@dataclass(frozen=True)
class Choice:
    """Which arrays of a state are stored in how many bits."""

    moment: int
    second_moment: int
    wide: Any
    paths: tuple[tuple[Any, int], ...]
    min_size: int
    nearest: bool
    seed: int
    map: str = "adaptive"

    def bits(self, role: roles.Role, path: str, x: Any, parts: int, member: Any = None) -> int:
        """The bits of one array; 32 means as it is, and so is what `quantized` inside has stored.

        Of an array that holds several leaves, one of them decides, `member`: its path and its shape.
        """
        if is_absent(x) or is_stored(x) or not hasattr(x, "shape") or not is_inexact(x):
            return 32
        path, x = member or (path, x)
        if not x.shape:
            return 32
        if parts * int(np.prod(x.shape)) < max(self.min_size, 1):
            return 32
        for pattern, bits in self.paths:
            if matches(pattern, path, x, "gx.lowbit.quantized(paths)"):
                return bits
        if self.wide is not None and matches(self.wide, path, x, "gx.lowbit.quantized(wide)"):
            return 32
        return self.moment if role is roles.MOMENT else self.second_moment

    def sort(self, path: str, x: Any) -> tuple[int, int]:
        """In what leaves have to agree to be kept in one array."""
        first, second = (self.bits(role, path, x, 1) for role in (roles.MOMENT, roles.SECOND_MOMENT))
        return first, second

    def node(
        self,
        address: str,
        node: Any,
        shapes: Mapping[str, tuple[int, ...]],
        parts: Mapping[str, int],
        members: Mapping[str, Any],
    ) -> Any:
        """A state of one link with its moments stored; `shapes` are those of the parameters, by path.

        `parts` is into how many parts, one of which is seen, `shard_map` has cut a parameter, `members` is a leaf of
        each array that holds several.
        """
        known = roles_in(node, shapes)
        squares = [name for name, role in known.items() if role is roles.SECOND_MOMENT]
        moments = [name for name, role in known.items() if role is roles.MOMENT]
        fields = (*squares, *moments)
        rows = {name: jax.tree.flatten(getattr(node, name), is_leaf=_is_place) for name in fields}
        given = {
            name: [bare(x) if is_stored(x) else held(x) for x in places] for name, (places, _) in rows.items()
        }
        made = {name: list(places) for name, places in given.items()}
        for name in fields:
            related = squares[0] if squares and name in moments and not is_own(type(node), name) else ""
            many = len(made[name])
            besides = made[related] if related and len(made[related]) == many else [None] * many
            for i, (path, beside) in enumerate(zip(paths_of(rows[name][1]), besides, strict=True)):
                x = given[name][i]
                bits = self.bits(known[name], path, x, parts.get(path, 1), members.get(path))
                if bits != 32:
                    where = "/".join(filter(None, (address, name, path)))
                    made[name][i] = self._stored(where, name, known[name], x, bits, related, beside)
        if squares and moments:
            _share(moments[0], squares[0], given, made)
        return node._replace(
            **{
                name: treedef.unflatten(map(_boxed, made[name], places))
                for name, (places, treedef) in rows.items()
            }
        )

    def _stored(
        self, where: str, name: str, role: roles.Role, x: Any, bits: int, related: str, beside: Any
    ) -> Any:
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            fact = f"gx.lowbit.quantized: the state's {where!r} is {describe_array(x)}, and codes are of real numbers"
            raise TypeError(say(fact, "keep it as it is: wide='<its path>'"))
        codec = self._codec(role, bits)
        same = beside is not None and not is_absent(beside) and tuple(beside.shape) == tuple(x.shape)
        relative = related if same and isinstance(codec, SignedCodec | Float8Codec) else ""
        salt = leaf_number(f"{self.seed}:{where}")
        form = Form(codec, str(x.dtype), name, relative, salt, self.nearest)
        if not relative:
            return stored(form, x)
        v = decode(beside) if isinstance(beside, Quantized) else beside
        return stored(form, divided(x, v))

    def _codec(self, role: roles.Role, bits: int) -> Codec:
        squares = role is roles.SECOND_MOMENT
        if bits == 16:
            return CastCodec()
        if bits == 8 and self.map != "adaptive":
            return (DynamicCodec if self.map == "dynamic" else Float8Codec)(signed=not squares)
        return RootCodec(bits) if squares else SignedCodec(bits)


def _boxed(made: Any, place: Any) -> Any:
    """What has been stored of a place, in a variable if the place is one; what has not, as it is."""
    if not is_stored(made) or is_stored(place):
        return place
    return into_variables(made, place) if is_variable(place) else made


def _share(moment: str, square: str, given: Mapping[str, list[Any]], made: Mapping[str, list[Any]]) -> None:
    """Puts a moment and a second moment that are stored in 16 bits each into words of 32."""
    names = moment, square
    if len(made[moment]) != len(made[square]):
        return
    for i, halves in enumerate(zip(*(made[name] for name in names), strict=True)):
        floats = [given[name][i] for name in names]
        apart = [is_stored(x) and isinstance(x.form.codec, CastCodec) for x in halves]
        if not all(apart) or any(map(is_stored, floats)) or halves[0].shape != halves[1].shape:
            continue
        upper, lower = (
            replace(x.form, codec=WordCodec(name == moment), beside=other)
            for name, other, x in zip(names, reversed(names), halves, strict=True)
        )
        made[moment][i], made[square][i] = stored_words((upper, lower), floats[0], floats[1])


def _is_place(x: Any) -> bool:
    return is_absent(x) or is_stored(x) or is_variable(x)


def _parts(path: str, p: Any) -> int:
    """Into how many parts `shard_map` has cut a parameter."""
    if not isinstance(p, jax.Array):
        return 1
    axes = cut_in_making(path, p, "init of gx.lowbit.quantized").axes or compat.varying_axes(p)
    return int(np.prod([jax.lax.axis_size(name) for name in axes], dtype=np.int64))


def roles_in(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, roles.Role]:
    """The roles of a state's fields; where none is declared, by their names, if they are shaped like the parameters."""
    known = roles_of(type(node))
    if any(role is not roles.OTHER for role in known.values()):
        return {name: roles.OTHER if is_exact(type(node), name) else role for name, role in known.items()}
    guessed = {name: _NAMES.get(name, roles.OTHER) for name in known}
    for name, role in guessed.items():
        if role is roles.OTHER:
            continue
        places, treedef = jax.tree.flatten(getattr(node, name), is_leaf=_is_place)
        arrays = (bare(x) if is_stored(x) else held(x) for x in places)
        if any(
            shapes.get(path) != getattr(x, "shape", None)
            for path, x in zip(paths_of(treedef), arrays, strict=True)
            if not is_absent(x)
        ):
            guessed[name] = roles.OTHER
    return guessed


class QuantizedBody(Body):
    """A transform whose slots are stored in few bits; its links are in the passes in which they would be without."""

    def __init__(self, inner: GradientTransformation, choice: Choice) -> None:
        self.inner, self.choice = inner, choice
        self.label, self.rate, self.uncoupled = inner.label, inner.body.rate, inner.body.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        rows = view(params)
        shapes = {path: getattr(p, "shape", ()) for path, p in zip(rows.paths, rows.places, strict=True)}
        state = self.inner.body.init(params, stacked)
        parts = {path: _parts(path, p) for path, p in zip(rows.paths, rows.places, strict=True)}
        members = params.members if isinstance(params, Joined) else {}
        if isinstance(params, Joined):
            params.answers(self._sorts, "gx.lowbit.quantized")
        return changed(state, lambda address, node: self.choice.node(address, node, shapes, parts, members))

    def _sorts(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[Any]:
        del tree
        return [self.choice.sort(path, x) for path, x in zip(paths, places, strict=True)]

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inside = replace(route, executor=STORAGE, sorts=(*route.sorts, self.choice.sort))
        return route.after(self.inner.body.lower(lowering, inside))

    def split(self, state: Any, address: str) -> list[Any]:
        return self.inner.body.split(outward(state), address)

    def join(self, state: Any, parts: list[Any]) -> Any:
        return inward(self.inner.body.join(state, parts))


@factory(
    label="",
    sample={"tx": Example("scale_by_adam")},
    presets={"bitsandbytes": {"map": "dynamic", "rounding": "nearest", "wide": None}},
)
def quantized(
    tx: Any,
    bits: int = 8,
    *,
    moment: int | None = None,
    second_moment: int | None = None,
    wide: Any = "*embed*",
    paths: Mapping[Any, int] | None = None,
    min_size: int = 4096,
    rounding: str = "stochastic",
    seed: int = 0,
    map: str = "adaptive",
    like: str = "gradxform",
):
    """Stores the moments of any transform in 8 or 4 bits, so that AdamW's state takes 2.06 bytes a parameter, not 8.

    **Update**: that of `tx`, made of its new moments before they are stored; the next step reads what was stored. With
    two moments in a word it is made of what is stored, except for transforms of Optax's.

    Args:
        tx: any transform, ours or Optax's, a whole optimizer or a part of it. What a field means is read from its role,
            or for a class without roles from its name (`mu`, `nu`, `trace`, ...).
        bits: 8; 4 (1.06 bytes a parameter for AdamW); 16, which is bfloat16, of a moment and a second moment beside it
            both in one word of 32 bits: 4 bytes a parameter, and the only one that is faster than float32 on a CPU; 32,
            which is as it is.
        moment, second_moment: the bits of fields of one role, in the place of `bits`.
        wide: patterns of parameters whose state stays as it is: by default embeddings, whose rows are seldom used.
        paths: the bits by patterns of parameters, the first that fits, before all others: `{"*/head/*": 16}`.
        min_size: arrays with fewer numbers stay as they are; it is the size of the whole array, on whatever mesh.
        rounding: "stochastic": up as often as a number is nearer to the upper code, by thresholds that need no random
            generator and are the same on any mesh; "nearest": for a single step the more exact, but an average whose
            steps are smaller than the distance of two codes then never moves again.
        seed: of the thresholds.
        map: the numbers that 8 bits stand for: "adaptive", lattices that fit the range of each block of 64; "dynamic",
            the fixed map of bitsandbytes and torchao on blocks of 256, whose second moment has a zero; "float8",
            float8_e4m3fn, a second moment as its root: coarser than "adaptive", for what wants that dtype.
        like: "bitsandbytes" for their map, to nearest; `gx.lowbit.bitsandbytes.read_state` reads their checkpoints.

    State: that of `tx`, with `gx.lowbit.Quantized` nodes in the place of arrays: codes shaped like the parameter, one
        16-bit scale for 64 of them, an int32 count of writings. A second moment is stored on a logarithmic map on which
        nothing but zero is zero; a moment beside one as multiples of its root, a moment alone in steps that grow with
        it. What a rule takes the difference of, as centred RMSprop does, stays as it is. A block of 64 with a number
        that is not finite is NaN when it is read: put `gx.guard` around. With 16 bits the node of the first moment has
        words, that of the first second moment refers to it, and what is not finite stays alone; moments without such a
        partner are arrays of bfloat16.

    Reach: that of `tx`. Links stay in the passes in which they are without.

    Raises:
        ValueError: for bits that there are not, and for a map of 8 bits where nothing has 8.
        TypeError: when `init` meets a complex moment that is to be stored.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.lowbit.quantized(gx.adamw(1e-3))
        >>> state = tx.init({"w": jnp.ones((64, 128))})
        >>> state[0].mu["w"]
        Quantized(float32[64, 128] in 8 bits)
        >>> (state[0].mu["w"].nbytes + state[0].nu["w"].nbytes) / (64 * 128)
        2.0634765625

    Differs from Optax: it has none. bitsandbytes, torchao and FlashOptim round the second moment to nearest, and at
        `b2 = 0.999` it then stops falling.
    """
    for name, value in (("bits", bits), ("moment", moment), ("second_moment", second_moment)):
        _check_bits(name, value)
    if not isinstance(paths or {}, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        fact = f"gx.lowbit.quantized(paths={short(paths)}): wanted a mapping from patterns to bits"
        raise TypeError(say(fact, "write paths={'*/head/*': 16}"))
    for pattern, value in (paths or {}).items():
        _check_bits(f"paths[{pattern!r}]", value)
    check_integer("lowbit.quantized", "min_size", min_size, low=0)
    check_integer("lowbit.quantized", "seed", seed)
    if rounding not in _ROUNDINGS:
        raise ValueError(f"gx.lowbit.quantized(rounding={short(rounding)}): wanted 'stochastic' or 'nearest'")
    if map not in ("adaptive", "dynamic", "float8"):
        raise ValueError(f"gx.lowbit.quantized(map={short(map)}): wanted 'adaptive', 'dynamic' or 'float8'")
    used = {bits if n is None else n for n in (moment, second_moment)} | set((paths or {}).values())
    if map != "adaptive" and 8 not in used:
        fact = f"gx.lowbit.quantized(map={short(map)}): this map has 8 bits, and nothing is stored in 8"
        raise ValueError(say(fact, "leave out bits=, or map= and like="))
    del like
    choice = Choice(
        moment=bits if moment is None else moment,
        second_moment=bits if second_moment is None else second_moment,
        wide=wide,
        paths=tuple((paths or {}).items()),
        min_size=int(min_size),
        nearest=rounding == "nearest",
        seed=int(seed),
        map=map,
    )
    return wrap(QuantizedBody(as_transform(tx, "gx.lowbit.quantized(tx)"), choice))


def _check_bits(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or value not in _BITS):
        raise ValueError(
            f"gx.lowbit.quantized({name}={short(value)}): wanted one of 4, 8, 16 (bfloat16), 32 (as it is)"
        )


def dequantized(state: Any) -> Any:
    """The state that the transform inside would have: arrays in the place of `Quantized` nodes.

    For a checkpoint that other programs read, for `gx.restore_into` another transform, and to look at.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> state = gx.lowbit.quantized(gx.adam(1e-3)).init({"w": jnp.ones((64, 128))})
        >>> gx.lowbit.dequantized(state)[0].nu["w"].shape
        (64, 128)
    """
    return STORAGE.opened(state)


_SAME = "both are of one transform and the same parameters: like = quantized(tx).init(params)"


def requantized(state: Any, like: Any) -> Any:
    """A state with arrays, stored as the state `like` is: the inverse of `dequantized`.

    Raises:
        ValueError: for a state of other parameters or of another transform, and for one that is stored already.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params, inner = {"w": jnp.ones((64, 128))}, gx.adam(1e-3)
        >>> state = gx.lowbit.requantized(inner.init(params), gx.lowbit.quantized(inner).init(params))
        >>> state[0].mu["w"]
        Quantized(float32[64, 128] in 8 bits)
    """
    wanted = jax.tree_util.tree_leaves_with_path(jax.eval_shape(STORAGE.opened, like))
    given = [np.shape(x) for x in jax.tree.leaves(state)]
    if len(given) != len(wanted):
        fact = (
            f"gx.lowbit.requantized(state): it has {len(given)} arrays, and `like` stands for {len(wanted)}"
        )
        raise ValueError(say(fact, _SAME))
    for shape, (path, x) in zip(given, wanted, strict=True):
        if shape != x.shape:
            fact = (
                f"gx.lowbit.requantized(state): {path_text(path)!r} is {list(shape)}, wanted {list(x.shape)}"
            )
            raise ValueError(say(fact, _SAME))
    return STORAGE.closed(state, like)
