"""Arguments as values: one canonical, type-tagged form from which equality, hash, text and JSON all follow.

`freeze` turns any argument into nested tuples `(tag, payload)`. Two arguments are equal if their frozen forms are, so
1 is not True, 0.0 is not -0.0, NaN equals NaN, an array is its dtype, shape and bytes, and a dictionary is its pairs
in order. What has no value of its own (a lambda, a closure, an array that is being traced) is frozen as `Opaque`: it
equals itself and nothing else, and `text.render` and `encode` say so instead of inventing a text for it.
"""

import base64
import copy
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import PartitionSpec

from .compat import Tracer, is_key
from .text import Frozen, importable_name, render


class NotAValue(ValueError):
    """An argument that cannot be written down; `where` grows from the inside out as callers add their names."""

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(f"{where}{': ' if where else ''}{what}{'; ' if remedy else ''}{remedy}")

    def inside(self, name: str) -> "NotAValue":
        dot = "" if not self.where or self.where.startswith("[") else "."
        return NotAValue(self.what, f"{name}{dot}{self.where}", self.remedy)


class Opaque:
    """Stands for an object without a value. Equal by identity, or by the object's own `==` if it is hashable."""

    __slots__ = ("value",)

    def __init__(self, obj: Any) -> None:
        self.value = obj

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Opaque):
            return False
        mine, theirs = self.value, other.value
        if mine is theirs:
            return True
        if type(mine) is not type(theirs) or isinstance(mine, Tracer) or not _hashable(mine):
            return False
        return bool(mine == theirs)

    def __hash__(self) -> int:
        return hash(self.value) if _hashable(self.value) else id(self.value)


def _hashable(x: Any) -> bool:
    if isinstance(x, Tracer):
        return False
    try:
        hash(x)
    except TypeError:
        return False
    return True


def _is_dtype(x: Any) -> bool:
    if isinstance(x, np.dtype):
        return True
    if isinstance(x, type) and issubclass(x, np.generic):
        return True
    return isinstance(getattr(x, "dtype", None), np.dtype) and callable(x)  # jnp.float32 and its like


def canonical_dtype(x: Any) -> np.dtype[Any] | None:
    """Any spelling of a dtype (`jnp.bfloat16`, `"bfloat16"`, `np.float32`) as NumPy's object; None stays None."""
    if x is None:
        return None
    if callable(x) and not isinstance(x, type):  # jnp.float32 is an object that holds the dtype
        x = getattr(x, "dtype", x)
    return np.dtype(cast(Any, x))


def own(x: Any) -> Any:
    """`x` with copies of the containers and NumPy arrays in it, which whoever passed them may still change."""
    if isinstance(x, dict):
        copied = copy.copy(cast("dict[Any, Any]", x))
        copied.update((key, own(value)) for key, value in copied.items())
        return copied
    if type(x) is list or type(x) is tuple or type(x) is set:
        return type(x)(map(own, x))
    return x.copy() if type(x) is np.ndarray else x


def _freeze_plain(x: Any) -> Frozen | None:
    """The frozen form of the types that Python itself compares too generously, else None."""
    if x is None or x is Ellipsis:
        return ("none" if x is None else "ellipsis",)
    if isinstance(x, np.str_ | np.bytes_):
        return _freeze_plain(x.item())
    if isinstance(x, np.generic | np.ndarray) and not x.dtype.hasobject:
        x = x.astype(x.dtype.newbyteorder("="), copy=False)
        return ("array", x.dtype.name, x.shape, x.tobytes())
    if type(x) is bool or type(x) is int or type(x) is str or type(x) is bytes:
        return (type(x).__name__, x)
    if type(x) is float:
        return ("float", x.hex())
    if type(x) is complex:
        return ("complex", x.real.hex(), x.imag.hex())
    if isinstance(x, re.Pattern):
        return ("pattern", x.pattern, x.flags)
    if isinstance(x, PartitionSpec) and not x.unreduced and not x.reduced:
        return ("spec of axes", tuple(map(_freeze_axis, x)))
    if _is_dtype(x):
        dtype = canonical_dtype(x)
        return ("dtype", "" if dtype is None else dtype.name)
    return None


def _freeze_axis(entry: Any) -> Frozen:
    """What a `PartitionSpec` says of one dimension."""
    if entry is PartitionSpec.UNCONSTRAINED:
        return ("opaque", Opaque(entry))
    return freeze(entry)


def freeze(x: Any) -> Frozen:
    """The canonical form of one argument."""
    spec = None if isinstance(x, type) else getattr(x, "spec", None)
    if spec is not None and hasattr(spec, "factory"):
        part = getattr(x, "part", "")  # `tx.update` stands for a function of `tx`, not for `tx`
        return ("part", ("spec", spec), part) if part else ("spec", spec)
    plain = _freeze_plain(x)
    if plain is not None:
        return plain
    if isinstance(x, Tracer):
        return ("opaque", Opaque(x))
    if isinstance(x, jax.Array):
        if is_key(x):
            return ("key", str(jax.random.key_impl(x)), freeze(np.asarray(jax.random.key_data(x))))
        return freeze(np.asarray(x))
    if type(x) is tuple or type(x) is list:
        return (type(x).__name__, tuple(freeze(item) for item in x))
    if type(x) is dict:
        return ("dict", tuple((freeze(key), freeze(value)) for key, value in x.items()))
    if type(x) is set or type(x) is frozenset:
        return (type(x).__name__, frozenset(freeze(item) for item in x))
    if isinstance(x, partial):
        return ("partial", freeze(x.func), freeze(x.args), freeze(dict(x.keywords)))
    if isinstance(x, FunctionType | BuiltinFunctionType | MethodType | type):
        return ("function", Opaque(x))
    if getattr(x, "_fields", ()) == ("init", "update"):
        return ("foreign", Opaque(x.init), Opaque(x.update))
    if not jax.tree_util.all_leaves([x]):
        leaves, treedef = jax.tree.flatten(x)
        if _hashable(treedef):
            return ("pytree", Opaque(treedef), tuple(freeze(leaf) for leaf in leaves), _Shown(repr(x)))
    return ("opaque", Opaque(x))


class _Shown(str):
    """Text for a message that takes no part in equality."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shown)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return 0


def any_frozen(frozen: Frozen, test: Callable[[Frozen], bool]) -> bool:
    """Whether `test` holds for this frozen value or for one inside it (specs included)."""
    if test(frozen):
        return True
    tag = frozen[0]
    if tag == "spec":
        return any(any_frozen(value, test) for _, value in frozen[1].frozen)
    if tag in ("tuple", "list", "set", "frozenset"):
        return any(any_frozen(item, test) for item in frozen[1])
    if tag == "dict":
        return any(any_frozen(key, test) or any_frozen(value, test) for key, value in frozen[1])
    if tag == "pytree":
        return any(any_frozen(leaf, test) for leaf in frozen[2])
    if tag == "part":
        return any_frozen(frozen[1], test)
    if tag == "partial":
        return any(any_frozen(part, test) for part in frozen[1:])
    return False


def holds_tracer(frozen: Frozen) -> bool:
    """Whether a value that is being traced stands anywhere inside."""
    return any_frozen(frozen, lambda f: f[0] == "opaque" and isinstance(f[1].value, Tracer))


def holds_array(x: Any) -> bool:
    """Whether an array on a device, or one being traced, stands anywhere inside an argument (specs included)."""
    spec = None if isinstance(x, type) else getattr(x, "spec", None)
    if spec is not None and hasattr(spec, "factory"):
        return spec.holds_array
    if isinstance(x, dict):
        return any(map(holds_array, x.values()))
    if isinstance(x, tuple | list | set | frozenset):
        return any(map(holds_array, x))
    if isinstance(x, partial):
        return any(map(holds_array, (x.args, x.keywords)))
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x))


# ------------------------------------------------------------------------------------------------ JSON

#: Named tuples that any text may name. Others are allowed as functions are.
_TUPLES: dict[str, type] = {}


def know_tuple(name: str, kind: type) -> None:
    """Gives a class of named tuples a name in JSON, one that outlives private modules: `"package:Name"`."""
    _TUPLES[name] = kind


def _encode_tuple(treedef: Any, leaves: tuple[Frozen, ...]) -> Any:
    """A named tuple of plain values, by its class and its fields; None for another tree."""
    kind: Any = (treedef.node_data() or (None,))[0]
    name = next((name for name, known in _TUPLES.items() if known is kind), importable_name(kind))
    if not hasattr(kind, "_fields") or name is None:
        return None

    def written(x: Any) -> Any:
        """A part of it, in which numbers stand for leaves."""
        if type(x) is tuple or type(x) is list:
            items = [written(item) for item in x]
            return {"tuple": items} if type(x) is tuple else items
        if x is not None and type(x) is not int:
            raise NotAValue(f"{x!r} in a {kind.__name__} cannot be written to JSON")
        return None if x is None else encode(leaves[x])

    fields = treedef.unflatten(range(len(leaves)))._asdict()
    return {"named": [name, {field: written(x) for field, x in fields.items()}]}


def encode(frozen: Frozen) -> Any:
    """A frozen value as JSON. Plain numbers, strings and lists are themselves; the rest is `{tag: payload}`."""
    tag = frozen[0]
    if tag in ("int", "bool", "str"):
        return frozen[1]
    if tag == "none":
        return None
    if tag == "float":
        number = float.fromhex(frozen[1])
        return number if np.isfinite(number) else {"float": str(number)}
    if tag == "list":
        return [_encode_item(i, item) for i, item in enumerate(frozen[1])]
    if tag == "tuple":
        return {"tuple": [_encode_item(i, item) for i, item in enumerate(frozen[1])]}
    if tag == "dict":
        return {"dict": [[encode(key), _encode_item(render(key), value)] for key, value in frozen[1]]}
    if tag == "dtype":
        return {"dtype": frozen[1]}
    if tag == "spec of axes":
        return {"P": [_encode_item(i, item) for i, item in enumerate(frozen[1])]}
    if tag == "pattern" and isinstance(frozen[1], str):
        return {"pattern": [frozen[1], frozen[2] & ~re.UNICODE]}
    if tag == "array":
        return {"array": [frozen[1], list(frozen[2]), base64.b64encode(frozen[3]).decode()]}
    if tag == "bytes":
        return {"bytes": base64.b64encode(frozen[1]).decode()}
    if tag == "spec":
        return frozen[1].to_json()
    if tag == "part":
        return {"part": [frozen[2], encode(frozen[1])]}
    if tag == "function":
        name = importable_name(frozen[1].value)
        if name is not None:
            return {"function": name}
    if tag == "pytree" and (written := _encode_tuple(frozen[1].value, frozen[2])) is not None:
        return written
    raise NotAValue(
        f"{render(frozen)} cannot be written to JSON", remedy="name an importable function or use a value"
    )


def _encode_item(name: Any, item: Frozen) -> Any:
    try:
        return encode(item)
    except NotAValue as problem:
        raise problem.inside(f"[{name}]") from None


def _decode_plain(tag: str, payload: Any) -> Any:
    """The value of a tag that has no values inside."""
    if tag == "float":
        return float(payload)
    if tag == "dtype":
        return np.dtype(payload)
    if tag == "pattern":
        return re.compile(payload[0], payload[1])
    if tag == "bytes":
        return base64.b64decode(payload)
    dtype, shape, text = payload
    array = np.frombuffer(base64.b64decode(text), dtype=np.dtype(dtype)).reshape(shape)
    return array[()] if not shape else array


def decode(data: Any, build: Callable[[Mapping[str, Any]], Any], functions: Mapping[str, Any]) -> Any:
    """The value that `encode` wrote. `build` makes a factory's object; `functions` are the only ones allowed."""
    if isinstance(data, list):
        return [decode(item, build, functions) for item in data]
    if not isinstance(data, dict):
        return data
    if "factory" in data:
        return build(data)
    entry = next(iter(data.items())) if len(data) == 1 else (", ".join(data), None)
    tag, payload = cast("tuple[str, Any]", entry)
    if tag == "tuple":
        return tuple(decode(item, build, functions) for item in payload)
    if tag == "dict":
        return {decode(key, build, functions): decode(value, build, functions) for key, value in payload}
    if tag == "P":
        return PartitionSpec(*(decode(item, build, functions) for item in payload))
    if tag in ("float", "dtype", "pattern", "array", "bytes"):
        try:
            return _decode_plain(tag, payload)
        except Exception as problem:
            raise ValueError(f"from_json: {data!r:.80} is not what gx.to_json writes ({problem})") from None
    if tag == "part" and payload[0] in ("init", "update"):
        return getattr(decode(payload[1], build, functions), payload[0])
    if tag == "function":
        return _named(payload, functions, "the function")
    if tag == "named":
        try:
            name, fields = payload
            kind = _named(name, {**functions, **_TUPLES}, "the named tuple")
            return kind(**{field: decode(value, build, functions) for field, value in fields.items()})
        except (TypeError, AttributeError) as problem:
            raise ValueError(f"from_json: {data!r:.80} is not what gx.to_json writes ({problem})") from None
    raise ValueError(f"from_json: unknown tag {tag!r}; was the text written by a newer gradxform?")


def _named(name: Any, known: Mapping[str, Any], what: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"from_json: the text names {what} {name!r:.80}, and a file never makes us import anything\n"
            f"  if you trust it, import it and pass from_json(text, functions=[{str(name).split(':')[-1]}])"
        )
    return known[name]


# ------------------------------------------------------------------------------------------------ pickling


def check_picklable(frozen: Frozen) -> None:
    """Raises `NotAValue` with the place of the first argument that a fresh process could not rebuild."""
    tag = frozen[0]
    if tag == "spec":
        frozen[1].check_picklable()
    elif tag in ("tuple", "list", "set", "frozenset"):
        for i, item in enumerate(frozen[1]):
            _check_item(f"[{i}]", item)
    elif tag == "dict":
        for key, value in frozen[1]:
            _check_item(f"[{render(key)}]", key)
            _check_item(f"[{render(key)}]", value)
    elif tag in ("part", "partial"):
        for item in frozen[1:]:
            if isinstance(item, tuple):
                check_picklable(item)
    elif (
        tag == "function"
        and importable_name(frozen[1].value) is None
        and not isinstance(frozen[1].value, MethodType)
    ):
        raise NotAValue(
            f"{render(frozen)} cannot be pickled",
            remedy="define it with `def` at the top of a module",
        )
    elif tag == "pytree":
        for leaf in frozen[2]:
            check_picklable(leaf)
    elif tag == "foreign":
        raise NotAValue(
            f"{render(frozen)} cannot be pickled", remedy="use its gradxform twin if there is one"
        )
    elif tag == "opaque" and isinstance(frozen[1].value, Tracer):
        raise NotAValue(
            "a value that is being traced cannot be pickled", remedy="build the transform outside of jit"
        )


def _check_item(name: str, item: Frozen) -> None:
    try:
        check_picklable(item)
    except NotAValue as problem:
        raise problem.inside(name) from None
