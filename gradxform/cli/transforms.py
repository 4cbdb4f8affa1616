"""A transform as a word on the command line: a call, an object of a program, or what `gx.to_json` wrote.

    chain(clip_by_global_norm(1.0), adamw(1e-3))    names of gradxform and of optax, and literals
    my_package.training:make_optimizer              an object, or a function that takes nothing
    optimizers/mine.py:make_optimizer               the same, in a file
    '{"gradxform": 1, ...}', optimizer.json         the text of gx.to_json, or a file with it

A call is read with `ast` and put together piece by piece. It is never evaluated: it can name what a table of modules
holds and nothing else, so a text from elsewhere can do no more than build a transform.
"""

import ast
import importlib
import importlib.util
import operator
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import gradxform

#: What a dotted name can begin with; a bare name is looked up in gradxform first and in optax after it.
_MODULES: Mapping[str, ModuleType] = {"gx": gradxform, "gradxform": gradxform, "optax": optax}
#: What texts of ours contain beside calls: `repr` writes an array, a dtype, a pattern, an infinite number so.
_EXTRA: Mapping[str, Any] = {
    "np.dtype": np.dtype,
    "np.asarray": np.asarray,
    "np.inf": np.inf,
    "np.nan": np.nan,
    "re.compile": re.compile,
    "float": float,
    **{f"jnp.{name}": getattr(jnp, name) for name in ("bfloat16", "float16", "float32", "float64", "inf")},
}
_SIGNS: Mapping[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_SUMS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FILE = re.compile(r"([^()]+\.py):([A-Za-z_][\w.]*)")


class NotRead(ValueError):
    """A word that is no transform, with the reason as its message."""


def read_transform(text: str) -> Any:
    """The transform that a word of the command line stands for.

    Raises:
        NotRead: with one sentence that says what is wrong with it.
    """
    made = read_value(text)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        entry = getattr(made, "entry", None)
        hint = f"; call it: {text}(...)" if entry is not None or isinstance(made, FunctionType) else ""
        raise NotRead(f"{text} is no transform but {_kind(made)}{hint}")
    return made


def read_schedule(text: str) -> Any:
    """The schedule, or the number, that a word stands for.

    Raises:
        NotRead: with one sentence that says what is wrong with it.
    """
    made = read_value(text)
    number = isinstance(made, int | float) and not isinstance(made, bool)
    if number or (callable(made) and not hasattr(made, "entry") and not hasattr(made, "update")):
        return made
    raise NotRead(f"{text} is no schedule but {_kind(made)}")


def read_value(text: str) -> Any:
    """What a word stands for, whatever it is."""
    text = text.strip()
    if text.startswith("{"):
        return _from_json(text, "the text")
    if text.endswith(".json"):
        path = Path(text)
        if not path.is_file():
            raise NotRead(f"there is no file {text}")
        return _from_json(path.read_text(encoding="utf-8"), text)
    return _imported(text) if _OBJECT.fullmatch(text) or _FILE.fullmatch(text) else _built(text)


def _from_json(text: str, where: str) -> Any:
    try:
        return gradxform.from_json(text)
    except (ValueError, TypeError) as problem:
        raise NotRead(f"{where}: {problem}") from None


def _imported(text: str) -> Any:
    module, _, name = text.rpartition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a program in the directory where the command is given
    try:
        found: Any = _ran(text, Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except NotRead:
        raise
    except ImportError as problem:
        raise NotRead(f"{text}: {problem}") from None
    except Exception as problem:
        raise NotRead(f"{text}: {module} cannot be imported: {type(problem).__name__}: {problem}") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise NotRead(f"{text}: {_kind(found)} has no {part!r}")
        found = getattr(found, part)
    if hasattr(found, "update") or not callable(found) or hasattr(found, "entry"):
        return found
    try:
        return found()
    except Exception as problem:
        raise NotRead(f"{text}: called without arguments: {type(problem).__name__}: {problem}") from None


def _ran(text: str, path: Path) -> ModuleType:
    """The module of a file, which finds its neighbours as a script does."""
    if not path.is_file():
        raise NotRead(f"{text}: there is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NotRead(f"{text}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look a module up by its name
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------ a call


def _built(text: str) -> Any:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as problem:
        place = f" at {text[(problem.offset or 1) - 1 :][:20]!r}" if problem.offset else ""
        raise NotRead(f"{text}: not a call as Python has it: {problem.msg}{place}") from None
    return _value(tree.body)


def _value(node: ast.expr) -> Any:
    """What one piece of a call stands for."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return _named(_dotted(node))
        case ast.Call(func=ast.Attribute(value=ast.Call() as inner, attr="reshape"), args=args, keywords=[]):
            return np.asarray(_value(inner)).reshape(*map(_value, args))  # the repr of an empty array
        case ast.Call():
            return _called(node)
        case ast.Tuple(elts=items):
            return tuple(map(_value, items))
        case ast.List(elts=items):
            return list(map(_value, items))
        case ast.Dict(keys=keys, values=items) if None not in keys:
            return {_value(k): _value(v) for k, v in zip(keys, items, strict=True) if k is not None}
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _SIGNS[type(op)](_number(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
            return _sum(_SUMS[type(op)], _number(left), _number(right))
        case _:
            fact = "only calls of gradxform and optax, and literals, can stand here"
            raise NotRead(
                f"{ast.unparse(node)}: {fact}; what a program makes is named as package.module:name"
            )


def _number(node: ast.expr) -> Any:
    value = _value(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotRead(f"{ast.unparse(node)}: wanted a number, got {_kind(value)}")
    return value


def _sum(op: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    try:
        return op(left, right)
    except (ZeroDivisionError, OverflowError) as problem:
        raise NotRead(f"{left} and {right}: {problem}") from None


def _called(node: ast.Call) -> Any:
    name = _dotted(node.func)
    made, args = _named(name), [_value(x) for x in node.args if not isinstance(x, ast.Starred)]
    if len(args) < len(node.args) or any(word.arg is None for word in node.keywords):
        raise NotRead(f"{name}(...): arguments are written one by one, without stars")
    if not callable(made):
        raise NotRead(f"{name} cannot be called: it is {_kind(made)}")
    try:
        return made(*args, **{word.arg: _value(word.value) for word in node.keywords if word.arg})
    except NotRead:
        raise
    except Exception as problem:
        text = str(problem)
        raise NotRead(text if text.startswith("gx.") else f"{name}(...): {text}") from None


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            raise NotRead(f"{ast.unparse(node)}: a name was wanted here, such as adamw or optax.adamw")


def _named(name: str) -> Any:
    """The object behind a public name of gradxform or optax, and behind no other."""
    if name in _EXTRA:
        return _EXTRA[name]
    first, *rest = name.split(".")
    if first in _MODULES:
        found: Any = _MODULES[first]
    elif first in vars(gradxform) and not first.startswith("_"):
        found, rest = gradxform, [first, *rest]
    elif first in vars(optax) and not first.startswith("_"):
        found, rest = optax, [first, *rest]
    else:
        raise NotRead(_unknown(name))
    for part in rest:
        inside = isinstance(found, ModuleType) and found.__name__.split(".")[0] in ("gradxform", "optax")
        if not inside or part.startswith("_") or part not in vars(found):
            raise NotRead(_unknown(name))
        found = getattr(found, part)
    home = found.__name__ if isinstance(found, ModuleType) else str(getattr(found, "__module__", "gradxform"))
    if home.split(".")[0] not in ("gradxform", "optax"):
        raise NotRead(_unknown(name))
    return found


def _unknown(name: str) -> str:
    try:
        getattr(gradxform, name.removeprefix("gx.").removeprefix("gradxform."))
    except AttributeError as problem:
        return str(problem)
    return f"{name} is no name of gradxform or optax that can stand here"


def _kind(x: Any) -> str:
    if isinstance(x, ModuleType):
        return f"the module {x.__name__}"
    if callable(x) and hasattr(x, "__name__"):
        return f"the function {x.__name__}"
    return f"{type(x).__name__} {x!r:.40}"
