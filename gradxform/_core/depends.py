"""What of a function's result is made of the values of its arguments, found by looking at the traced program."""

from collections.abc import Callable
from typing import Any

import jax

from .tree import is_float0


def depends(fn: Callable[[Any], Any], tree: Any) -> list[bool]:
    """For every leaf of `fn(tree)`: whether it is made of the values in `tree`, and not of shapes and dtypes only."""
    leaves, treedef = jax.tree.flatten(tree)
    numbers = [i for i, x in enumerate(leaves) if _is_number(x)]

    def of_numbers(*given: Any) -> list[Any]:
        new = dict(zip(numbers, given, strict=True))
        return jax.tree.leaves(fn(treedef.unflatten(new.get(i, x) for i, x in enumerate(leaves))))

    program: Any = jax.make_jaxpr(of_numbers)(*(leaves[i] for i in numbers))
    return _marked(program.jaxpr, [True] * len(numbers))


def _is_number(x: Any) -> bool:
    return isinstance(x, bool | int | float | complex) or (hasattr(x, "dtype") and not is_float0(x))


def _marked(program: Any, given: list[bool]) -> list[bool]:
    """Which results of a program depend on the arguments that are marked."""
    marked = {id(v) for v, mark in zip(program.invars, given, strict=True) if mark}
    for line in program.eqns:
        marks = [id(v) in marked for v in line.invars]
        made = _made(line, marks)
        marked |= {id(v) for v, mark in zip(line.outvars, made, strict=True) if mark}
    return [id(v) in marked for v in program.outvars]


#: What hands its operands on, one for one, and the parameters in which others hold programs on their operands.
_ONE_FOR_ONE = ("device_put", "optimization_barrier", "copy")
_PROGRAMS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
}


def _made(line: Any, marks: list[bool]) -> list[bool]:
    """Which results of one line depend on what is marked; all of them, for what is not known."""
    name, count = line.primitive.name, len(line.outvars)
    if name in _ONE_FOR_ONE and len(marks) == count:
        return marks
    if name == "cond":
        branches = [_marked(branch.jaxpr, marks[1:]) for branch in line.params["branches"]]
        return [marks[0] or any(found) for found in zip(*branches, strict=True)]
    inside = line.params.get(_PROGRAMS.get(name, ""))
    inside = getattr(inside, "jaxpr", inside)
    if inside is None or len(inside.invars) != len(marks):
        return [any(marks)] * count
    return _marked(inside, marks)
