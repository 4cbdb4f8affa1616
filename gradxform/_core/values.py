"""Arguments as values: one canonical, type-tagged form from which equality, hash, text and JSON all follow.

`freeze` turns any argument into nested tuples `(tag, payload)`. Two arguments are equal if their frozen forms are, so
1 is not True, 0.0 is not -0.0, NaN equals NaN, an array is its dtype, shape and bytes, and a dictionary is its pairs
in order. What has no value of its own (a lambda, a closure, an array that is being traced) is frozen as `Opaque`: it
equals itself and nothing else, and `render` and `encode` say so instead of inventing a text for it.
"""

import base64
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

import jax
import numpy as np

from .compat import is_key

Frozen: TypeAlias = tuple[Any, ...]


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

    __slots__ = ("object",)

    def __init__(self, obj: Any) -> None:
        self.object = obj

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Opaque):
            return False
        mine, theirs = self.object, other.object
        if mine is theirs:
            return True
        if type(mine) is not type(theirs) or isinstance(mine, jax.core.Tracer) or not _hashable(mine):
            return False
        return bool(mine == theirs)

    def __hash__(self) -> int:
        return hash(self.object) if _hashable(self.object) else id(self.object)


def _hashable(x: Any) -> bool:
    if isinstance(x, jax.core.Tracer):
        return False
    try:
        hash(x)
    except TypeError:
        return False
    return True


def importable_name(fn: Any) -> str | None:
    """`"module:qualname"` if importing that gives back this very object, else None."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is fn else None


def _is_dtype(x: Any) -> bool:
    if isinstance(x, np.dtype):
        return True
    if isinstance(x, type) and issubclass(x, np.generic):
        return True
    return isinstance(getattr(x, "dtype", None), np.dtype) and callable(x)  # jnp.float32 and its like


def canonical_dtype(x: Any) -> np.dtype[Any] | None:
    """Any spelling of a dtype (`jnp.bfloat16`, `"bfloat16"`, `np.float32`) as NumPy's object; None stays None."""
    return (
        None
        if x is None
        else np.dtype(getattr(x, "dtype", x) if callable(x) and not isinstance(x, type) else x)
    )


def is_scalar_type(x: Any) -> bool:
    return isinstance(x, bool | int | float | complex | str | bytes | type(None) | type(Ellipsis))


def _freeze_plain(x: Any) -> Frozen | None:
    """The frozen form of the types that Python itself compares too generously, else None."""
    if x is None or x is Ellipsis:
        return ("none" if x is None else "ellipsis",)
    if isinstance(x, np.generic | np.ndarray):
        return ("array", x.dtype.name, x.shape, x.tobytes())
    if type(x) is bool or type(x) is int or type(x) is str or type(x) is bytes:
        return (type(x).__name__, x)
    if type(x) is float:
        return ("float", x.hex())
    if type(x) is complex:
        return ("complex", x.real.hex(), x.imag.hex())
    if isinstance(x, re.Pattern):
        return ("pattern", x.pattern, x.flags)
    if _is_dtype(x):
        dtype = canonical_dtype(x)
        return ("dtype", "" if dtype is None else dtype.name)
    return None


def freeze(x: Any) -> Frozen:
    """The canonical form of one argument."""
    spec = None if isinstance(x, type) else getattr(x, "spec", None)
    if spec is not None and hasattr(spec, "factory"):
        return ("spec", spec)
    plain = _freeze_plain(x)
    if plain is not None:
        return plain
    if isinstance(x, jax.core.Tracer):
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
    if tag == "partial":
        return any(any_frozen(part, test) for part in frozen[1:])
    return False


def holds_tracer(frozen: Frozen) -> bool:
    """Whether a value that is being traced stands anywhere inside."""
    return any_frozen(frozen, lambda f: f[0] == "opaque" and isinstance(f[1].object, jax.core.Tracer))


# ------------------------------------------------------------------------------------------------ text that pastes back


def _array(frozen: Frozen) -> np.ndarray[Any, Any]:
    _, dtype, shape, data = frozen
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape)


def _function_text(fn: Any) -> str:
    name = importable_name(fn)
    if name is None:
        code = getattr(fn, "__code__", None)
        place = f" of {code.co_filename}:{code.co_firstlineno}" if code else ""
        return f"<{getattr(fn, '__qualname__', repr(fn))}{place}: not importable>"
    module, qualname = name.split(":")
    return qualname if module == "builtins" else f"{module}.{qualname}"


def render(frozen: Frozen) -> str:
    """Python text for a frozen value; with `gx`, `np`, `re` and `jax` imported it evaluates to an equal value."""
    tag = frozen[0]
    if tag in ("int", "bool", "str", "bytes"):
        return repr(frozen[1])
    if tag == "none" or tag == "ellipsis":
        return "None" if tag == "none" else "..."
    if tag == "float":
        number = float.fromhex(frozen[1])
        return repr(number) if np.isfinite(number) else f"float('{number}')"
    if tag == "complex":
        return f"complex({render(('float', frozen[1]))}, {render(('float', frozen[2]))})"
    if tag == "dtype":
        return repr(frozen[1])
    if tag == "array":
        array = _array(frozen)
        return f"np.asarray({array.astype('float64').tolist() if array.dtype.kind == 'V' else array.tolist()}, '{frozen[1]}')"
    if tag == "key":
        return f"jax.random.wrap_key_data({render(frozen[2])}, impl={frozen[1]!r})"
    if tag == "pattern":
        flags = frozen[2] & ~re.UNICODE if isinstance(frozen[1], str) else frozen[2]
        return f"re.compile({frozen[1]!r}{f', {int(flags)}' if flags else ''})"
    if tag == "tuple":
        return f"({', '.join(map(render, frozen[1]))}{',' if len(frozen[1]) == 1 else ''})"
    if tag == "list":
        return f"[{', '.join(map(render, frozen[1]))}]"
    if tag == "dict":
        return "{" + ", ".join(f"{render(key)}: {render(value)}" for key, value in frozen[1]) + "}"
    if tag in ("set", "frozenset"):
        inner = ", ".join(sorted(map(render, frozen[1])))
        return f"{tag}([{inner}])"
    if tag == "partial":
        keywords = "".join(f", {key[1]}={render(value)}" for key, value in frozen[3][1])
        return f"functools.partial({', '.join(map(render, (frozen[1], *frozen[2][1])))}{keywords})"
    if tag == "spec":
        return repr(frozen[1])
    if tag == "function":
        return _function_text(frozen[1].object)
    if tag == "pytree":
        return f"<{str(frozen[3])[:60]}: a tree without a text of its own>"
    obj = frozen[1].object
    return f"<{'traced value' if isinstance(obj, jax.core.Tracer) else type(obj).__name__}: not a value>"


# ------------------------------------------------------------------------------------------------ JSON


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
    if tag == "pattern" and isinstance(frozen[1], str):
        return {"pattern": [frozen[1], frozen[2] & ~re.UNICODE]}
    if tag == "array":
        return {"array": [frozen[1], list(frozen[2]), base64.b64encode(frozen[3]).decode()]}
    if tag == "bytes":
        return {"bytes": base64.b64encode(frozen[1]).decode()}
    if tag == "spec":
        return frozen[1].to_json()
    if tag == "function":
        name = importable_name(frozen[1].object)
        if name is not None:
            return {"function": name}
    raise NotAValue(
        f"{render(frozen)} cannot be written to JSON", remedy="name an importable function or use a value"
    )


def _encode_item(name: Any, item: Frozen) -> Any:
    try:
        return encode(item)
    except NotAValue as problem:
        raise problem.inside(f"[{name}]") from None


def decode(data: Any, build: Callable[[Mapping[str, Any]], Any], functions: Mapping[str, Any]) -> Any:
    """The value that `encode` wrote. `build` makes a factory's object; `functions` are the only ones allowed."""
    if isinstance(data, list):
        return [decode(item, build, functions) for item in data]
    if not isinstance(data, dict):
        return data
    if "factory" in data:
        return build(data)
    ((tag, payload),) = data.items()
    if tag == "tuple":
        return tuple(decode(item, build, functions) for item in payload)
    if tag == "dict":
        return {decode(key, build, functions): decode(value, build, functions) for key, value in payload}
    if tag == "float":
        return float(payload)
    if tag == "dtype":
        return np.dtype(payload)
    if tag == "pattern":
        return re.compile(payload[0], payload[1])
    if tag == "array":
        dtype, shape, text = payload
        array = np.frombuffer(base64.b64decode(text), dtype=np.dtype(dtype)).reshape(shape)
        return array[()] if not shape else array
    if tag == "bytes":
        return base64.b64decode(payload)
    if tag == "function":
        if payload not in functions:
            raise ValueError(
                f"from_json: the text names the function {payload!r}, and a file never makes gradxform import anything; "
                f"if you trust it, import it and pass from_json(text, functions=[{payload.split(':')[-1]}])"
            )
        return functions[payload]
    raise ValueError(f"from_json: unknown tag {tag!r}; was the text written by a newer gradxform?")


# ------------------------------------------------------------------------------------------------ pickling


def check_picklable(frozen: Frozen) -> None:
    """Raises `NotAValue` with the place of the first argument that a fresh process could not rebuild."""
    tag = frozen[0]
    if tag == "spec":
        frozen[1].check_picklable()
    elif tag in ("tuple", "list"):
        for i, item in enumerate(frozen[1]):
            _check_item(f"[{i}]", item)
    elif tag == "dict":
        for key, value in frozen[1]:
            _check_item(f"[{render(key)}]", value)
    elif tag == "partial":
        _check_item("partial", frozen[1])
    elif (
        tag == "function"
        and importable_name(frozen[1].object) is None
        and not isinstance(frozen[1].object, MethodType)
    ):
        raise NotAValue(
            f"{_function_text(frozen[1].object)} cannot be pickled",
            remedy="define it with `def` at the top of a module",
        )
    elif tag == "pytree":
        for leaf in frozen[2]:
            check_picklable(leaf)
    elif tag == "opaque" and isinstance(frozen[1].object, jax.core.Tracer):
        raise NotAValue(
            "a value that is being traced cannot be pickled", remedy="build the transform outside of jit"
        )


def _check_item(name: str, item: Frozen) -> None:
    try:
        check_picklable(item)
    except NotAValue as problem:
        raise problem.inside(name) from None


def load_entry_points(group: str) -> None:
    """Imports what installed packages have declared under `group`, so that their factories register themselves."""
    from importlib.metadata import entry_points

    for point in entry_points(group=group):
        importlib.import_module(point.module)
