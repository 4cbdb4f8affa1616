"""Range and kind checks of arguments, made when a transform is built, and the words they share.

Inner code raises the short fact; whoever knows the address adds it. A check looks at concrete values only: a value that
is being traced has none, and a schedule is checked when it gives its first number.
"""

import difflib
import importlib.metadata
import inspect
import re
import sys
import textwrap
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .compat import Tracer


def concrete(value: Any) -> float | None:
    """The number behind a Python number or a concrete 0-d array; None for schedules and traced values."""
    if isinstance(value, bool | np.bool_ | str) or callable(value) or isinstance(value, Tracer):
        return None
    if isinstance(value, int | float | np.number):
        return float(value)
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        return float(value)
    return None


def say(fact: str, *more: str) -> str:
    """A message: the fact, then causes and remedies, behind it while the line is short and else below it."""
    lines = [fact]
    for part in filter(None, more):
        if len(lines[-1]) + len(part) <= 120:
            lines[-1] += f"; {part}"
        else:
            lines.append(f"  {part}")
    return "\n".join(lines)


def leaf(path: str) -> str:
    """A place of a tree in a message."""
    return f"the leaf {path!r}" if path else "the only leaf"


def name_outermost(problem: Exception, text: str) -> None:
    """Adds to a message about a factory inside a recipe the recipe that was called: `gx.trace(...) ... (in gx.sgd)`."""
    message = problem.args[0] if len(problem.args) == 1 else None
    if (
        isinstance(message, str)
        and message.startswith("gx.")
        and not re.match(rf"{re.escape(text)}\b", message)
    ):
        problem.args = (f"{message.split(' (in gx.')[0]} (in {text})",)


def check_number(
    call: str,
    name: str,
    value: Any,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    open_low: bool = False,
    open_high: bool = False,
    schedule: bool = True,
    infinite: bool = False,
    why: str = "",
) -> None:
    """Raises unless `value` is a number within the range, a 0-d array, or (if allowed) a schedule.

    Args:
        call: the factory as the user wrote it, `adamw`.
        name: the argument.
        value: what came.
        low, high: the range, ends included unless `open_low`, `open_high`.
        schedule: whether a function of the step count is accepted.
        infinite: whether infinity means something, as it does for a bound.
        why: the usual cause of a number out of range, or the remedy; appended to the message.
    """
    text = f"gx.{call}({name}={_short(value)})"
    wanted = "a number, a 0-d array or a schedule" if schedule else "a number or a 0-d array"
    if schedule and callable(value) and not isinstance(value, type):
        return check_schedule(text, value)
    if hasattr(value, "hi"):
        return
    got, hint = _not_a_number(value, schedule)
    if got:
        kind_of = ValueError if got.startswith("an array of shape") else TypeError
        raise kind_of(say(f"{text}: wanted {wanted}, got {got}", hint))
    number = concrete(value)
    if number is None:
        return
    bad_low = number <= low if open_low else number < low
    bad_high = number >= high if open_high else number > high
    if bad_low or bad_high or np.isnan(number):
        raise ValueError(
            say(
                f"{text}: wanted {_range(low, high, open_low, open_high)}, got {number:g}",
                "" if np.isnan(number) else why,
            )
        )
    if np.isinf(number) and not infinite:
        raise ValueError(f"{text}: wanted a finite number, got {number:g}")


def _not_a_number(value: Any, schedule: bool) -> tuple[str, str]:
    """What `value` is, and what to do about it; two empty strings if it is a number or a 0-d array."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "", ""
    if isinstance(value, str):
        return "a string", "a number is written without quotation marks, or converted by float(...)"
    if hasattr(value, "init") and hasattr(value, "update"):
        return "a transform", "transforms follow one another in gx.chain(...)"
    if callable(value):
        return _kind(value), "" if schedule else "a schedule cannot stand here"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return _kind(value), looks_like_params(value)
    if shape != ():
        hint = "for a number per group of parameters use gx.param_groups"
        return f"an array of shape {shape}", hint
    if jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating):
        return "", ""
    return describe_array(value), "wanted is one real number"


def looks_like_params(value: Any) -> str:
    """The answer to whoever passes parameters to a factory, as torch's optimizers want them; else empty."""
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(x, int | float) for x in value):
        return "two numbers go to two arguments, such as b1 and b2"
    if isinstance(value, dict | list | tuple) or hasattr(value, "__next__"):
        return (
            "a transform is built without parameters: call tx.init(params) once, then "
            "tx.update(grads, state, params) at every step"
        )
    return ""


def check_schedule(text: str, fn: Any) -> None:
    """Raises unless `fn` can be called with the step count alone; `text` is the call and the argument."""
    factory = getattr(fn, "entry", None)
    if factory is not None:
        raise TypeError(say(f"{text}: got {factory.text} itself", f"call it: {factory.text}(...)"))
    if hasattr(fn, "takes"):
        raise TypeError(f"{text}: wanted a number or a schedule, got a mask")
    if accepts(fn, 1) is False:
        got = f"{getattr(fn, '__name__', type(fn).__name__)}{signature_text(fn)}"
        raise TypeError(
            say(
                f"{text}: wanted a schedule, a function of the step count alone, got {got}",
                "if that function makes schedules, call it first",
            )
        )


def signature_text(fn: Any) -> str:
    """The signature of a function, or a signature, without its annotations."""
    signature = fn if isinstance(fn, inspect.Signature) else inspect.signature(fn)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    text = str(inspect.Signature(plain))
    if len(text) <= 180:
        return text
    names = str(
        inspect.Signature([p.replace(default=p.empty) for p in plain])
    )  # a long one without its defaults
    return "\n    ".join(textwrap.wrap(names, 120))


def accepts(fn: Any, number: int) -> bool | None:
    """Whether `fn` can be called with so many positional arguments; None if it does not tell."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(number))
    except TypeError:
        return False
    return True


def check_integer(call: str, name: str, value: Any, *, low: int = 0, why: str = "") -> None:
    """Raises unless `value` is a whole number of at least `low`."""
    tail = f"; {why}" if why else ""
    whole = getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, np.integer)
    if whole and concrete(value) is not None:  # a number that optax.inject_hyperparams has made an array
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"gx.{call}({name}={_short(value)}): wanted a whole number, got {_kind(value)}{tail}")
    if value < low:
        raise ValueError(f"gx.{call}({name}={value}): wanted at least {low}, got {value}{tail}")


def check_flag(call: str, name: str, value: Any) -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"gx.{call}({name}={_short(value)}): wanted True or False, got {_kind(value)}")


def _range(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if np.isinf(low) and np.isinf(high):
        return "a number"
    if np.isinf(high):
        return f"a number {'above' if open_low else 'of at least'} {low:g}"
    if np.isinf(low):
        return f"a number {'below' if open_high else 'of at most'} {high:g}"
    return f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"


def _short(value: Any) -> str:
    if isinstance(value, Tracer):
        return f"<traced {value.aval}>"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if getattr(value, "shape", ()) != ():
        return describe_array(value)
    text = " ".join(repr(value).split())
    if " at 0x" in text:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool | np.bool_):
        return "a boolean"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {describe_array(value)}"
    name = getattr(value, "__name__", "") if callable(value) else ""
    if name:
        return "a lambda" if name == "<lambda>" else f"the function {name}"
    text = type(value).__name__
    return f"{'an' if text[0] in 'aeiouAEIOU' else 'a'} {text}"


short, kind = _short, _kind


def describe_array(x: Any) -> str:
    """`float32[3, 2]` for an array-like, the type's name for anything else."""
    if x is None:
        return "None"
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or dtype is None:
        return _kind(x)
    return f"{dtype}[{', '.join(map(str, shape))}]"


#: Optax's combinators that have another name here, because they do something more or something else.
TWINS = {
    "partition": "gx.param_groups, which takes patterns; optax.partition works around our transforms too",
    "multi_transform": "gx.param_groups, which takes patterns; optax.partition works around our transforms too",
    "inject_hyperparams": "gx.tunable(tx, 'learning_rate'); optax.inject_hyperparams(gx.adamw) works too",
    "MultiSteps": "gx.accumulate(tx, steps); optax.MultiSteps works around our transforms too",
    "apply_if_finite": "gx.guard(tx); optax.apply_if_finite works around our transforms too",
    "conditionally_transform": "gx.apply_when(tx, when)",
    "conditionally_mask": "gx.apply_when(tx, when, otherwise='zero')",
    "selective_transform": "gx.param_groups with None for what is frozen",
}


def missing_name(name: str) -> Any:
    """The face's `__getattr__`: what is not ours but Optax's is named as such, a typing error gets the near name."""
    import optax

    text = f"gradxform has no {name!r}"
    if name == "__version__":
        return importlib.metadata.version("gradxform")
    if name in TWINS:
        raise AttributeError(f"{text}; its twin is {TWINS[name]}")
    if name.startswith("__"):
        raise AttributeError(f"module 'gradxform' has no attribute {name!r}")
    for module in (optax, optax.contrib, optax.losses, optax.projections):
        if name in dir(module):  # its `__getattr__` answers to deprecated names, with a warning
            where, found = f"{module.__name__}.{name}", getattr(module, name)
            made = getattr(found, "__annotations__", {}).get("return")
            use = (
                "works inside our chains and wrappers as it is"
                if "Transformation" in str(made)
                else "works with it"
            )
            raise AttributeError(f"{text} of its own; {where} {use}")
    face = vars(sys.modules[__name__.split(".")[0]])
    for room, module in face.items():
        if isinstance(module, ModuleType) and not room.startswith("_") and hasattr(module, name):
            raise AttributeError(f"{text}; it is gx.{room}.{name}")
    ours = {key.lower(): key for key in face if not key.startswith("_")}
    near = difflib.get_close_matches(name.lower(), ours, n=1)
    hint = (
        f"did you mean gx.{ours[near[0]]}?" if near else "nor has optax; dir(gradxform) lists what there is"
    )
    raise AttributeError(f"{text}; {hint}")
