"""The text of a frozen value. With `gx`, `np`, `re`, `jax` and `functools` imported it evaluates to an equal value."""

import re
import sys
from typing import Any, TypeAlias

import numpy as np

from .compat import Tracer

Frozen: TypeAlias = tuple[Any, ...]


def importable_name(fn: Any) -> str | None:
    """`"module:qualname"` if importing that gives back this very object, else None."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is fn else None


def _array(frozen: Frozen) -> np.ndarray[Any, Any]:
    _, dtype, shape, data = frozen
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape)


def _array_text(array: np.ndarray[Any, Any], name: str) -> str:
    if array.dtype.kind == "c":  # a literal cannot say -0.0 + 1j
        parts = _array_text(array.reshape(-1).view(array.real.dtype), array.real.dtype.name)
        return f"{parts}.view({name!r}).reshape({array.shape})"
    rows = array.astype("float64").tolist() if array.dtype.kind == "V" else array.tolist()
    text = re.sub(r"\b(nan|inf)\b", r"np.\1", str(rows)) if array.dtype.kind in "fV" else str(rows)
    return f"np.asarray({text}, {name!r}){f'.reshape({array.shape})' if array.size == 0 else ''}"


def _function_text(fn: Any) -> str:
    name = importable_name(fn)
    if name is None:
        code = getattr(fn, "__code__", None)
        place = f" of {code.co_filename}:{code.co_firstlineno}" if code else ""
        called = str(getattr(fn, "__name__", repr(fn)))
        # Angle brackets keep the text from being pasted; a lambda's name brings its own.
        return (
            f"{called}{place}: not importable"
            if called.startswith("<")
            else f"<{called}{place}: not importable>"
        )
    module, qualname = name.split(":")
    return qualname if module == "builtins" else f"{module}.{qualname}"


def _foreign_text(frozen: Frozen) -> str:
    """`optax transform scale_by_yogi`: what a closure's names still tell of a foreign transform."""
    update = frozen[2].value
    package = str(getattr(update, "__module__", "")).split(".")[0] or "foreign"
    maker = str(getattr(update, "__qualname__", "")).split(".<locals>")[0]
    return f"{package} transform {maker}".rstrip()


def render(frozen: Frozen) -> str:
    """Python text for a frozen value; what has no value of its own is named in angle brackets, which do not paste."""
    tag = frozen[0]
    if tag in ("int", "bool", "str", "bytes"):
        return repr(frozen[1])
    if tag in ("none", "ellipsis"):
        return "None" if tag == "none" else "..."
    if tag == "float":
        number = float.fromhex(frozen[1])
        return repr(number) if np.isfinite(number) else f"float('{number}')"
    if tag == "complex":
        return f"complex({render(('float', frozen[1]))}, {render(('float', frozen[2]))})"
    if tag == "dtype":
        return f"np.dtype({frozen[1]!r})"
    if tag == "array":
        return _array_text(_array(frozen), frozen[1])
    if tag == "key":
        return f"jax.random.wrap_key_data({render(frozen[2])}, impl={frozen[1]!r})"
    if tag == "pattern":
        flags = frozen[2] & ~re.UNICODE if isinstance(frozen[1], str) else frozen[2]
        return f"re.compile({frozen[1]!r}{f', {int(flags)}' if flags else ''})"
    if tag == "tuple":
        return f"({', '.join(map(render, frozen[1]))}{',' if len(frozen[1]) == 1 else ''})"
    if tag == "spec of axes":
        return f"jax.P({', '.join(map(render, frozen[1]))})"
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
    if tag == "part":
        return f"{render(frozen[1])}.{frozen[2]}"
    if tag == "function":
        return _function_text(frozen[1].value)
    if tag == "foreign":
        return f"<{_foreign_text(frozen)}: a closure, not a value>"
    if tag == "pytree":
        return f"<{str(frozen[3])[:60]}: a tree without a text of its own>"
    obj = frozen[1].value
    return f"<{'traced value' if isinstance(obj, Tracer) else type(obj).__name__}: not a value>"


def names_dtype(name: str) -> bool:
    """Whether an argument takes a dtype, by its name."""
    return name.endswith("dtype") or name.startswith("dtype")


def argument_text(name: str, frozen: Frozen) -> str:
    """Python text for the value of an argument; a dtype is its name where one is wanted."""
    return repr(frozen[1]) if frozen[0] == "dtype" and names_dtype(name) else render(frozen)
