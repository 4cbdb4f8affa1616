"""What a kernel can take as its body: programs of whose numbers each is made of those in its own place.

A leaf's pass is traced for one tile of it, and the equations are gone through twice: to refuse what looks beyond the
tile (a sum over the leaf, a product of matrices), with the name of the operation; and to write down in other words what
Triton has no words for, or others than XLA:

    reduce of a pair        two reductions, if the pair's halves do not meet
    max, min, clamp         a NaN stays one; the machine's instruction would drop it
    a slice of everything   nothing
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.errors import say

#: How many numbers of a leaf one program of a kernel works on.
TILE = 1024
#: Operations whose results stand where their arguments do.
_IN_PLACE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp
    convert_element_type copy cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log
    log1p logistic lt max min mul ne neg nextafter not or pow rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
_ELEMENT = frozenset(_IN_PLACE.split())
#: Operations that keep the order of numbers.
_MOVES = frozenset(["broadcast_in_dim", "iota", "reshape", "squeeze"])
#: Reductions, which may go over the numbers of a block and not over tiles.
_REDUCTIONS = frozenset(["reduce", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum"])
#: Operations that only contain others, and where.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
_BY_NAME: dict[str, Callable[..., Any]] = {
    "add": jnp.sum,
    "max": jnp.max,
    "min": jnp.min,
    "and": jnp.all,
    "or": jnp.any,
}


class Unfit(ValueError):
    """A program that cannot be cut into tiles."""


def evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
    """Some results of a traced program, in the words of a kernel; what they do not need is left out.

    Args:
        jaxpr: the program.
        consts: its constants.
        args: its arguments; None for those that no wanted result needs.
        wanted: the numbers of the results.

    Raises:
        Unfit: if one of the operations looks beyond its own place.
    """
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def read(x: Any) -> Any:
        return np.asarray(x.val, x.aval.dtype) if hasattr(x, "val") else known[x]  # a literal

    outs = [jaxpr.outvars[i] for i in wanted]
    for equation in _needed(jaxpr, outs):
        got = _apply(equation, [read(x) for x in equation.invars])
        known.update(zip(equation.outvars, got, strict=True))
    return [read(x) for x in outs]


def needs(jaxpr: Any, wanted: Sequence[int]) -> set[int]:
    """The numbers of the arguments that some results are made of."""
    outs = [jaxpr.outvars[i] for i in wanted]
    read = {id(x) for e in _needed(jaxpr, outs) for x in e.invars} | {id(x) for x in outs}
    return {i for i, x in enumerate(jaxpr.invars) if id(x) in read}


def _needed(jaxpr: Any, outs: Sequence[Any]) -> list[Any]:
    """The equations behind some results, in their order."""
    asked, found = {id(x) for x in outs}, list[Any]()
    for equation in reversed(jaxpr.eqns):
        if any(id(x) in asked for x in equation.outvars):
            asked.update(id(x) for x in equation.invars)
            found.append(equation)
    return found[::-1]


def _apply(equation: Any, args: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    shapes = [x.aval.shape for x in equation.outvars]
    if name in _CALLS:
        inner = params[_CALLS[name]]
        return evaluate(
            getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), args, range(len(shapes))
        )
    if name == "cond":
        return _branches(params["branches"], args)
    if name == "slice" and shapes[0] == args[0].shape:
        return args
    if name in _REDUCTIONS:
        return _reduced(equation, args)
    sizes = [np.prod(s) for s in (*shapes, *(x.aval.shape for x in equation.invars))]
    if name not in _ELEMENT | _MOVES and max(sizes) > 1:
        fact = f"{name} of {' and '.join(str(list(x.aval.shape)) for x in equation.invars)} looks beyond its own place"
        raise Unfit(fact)
    floats = jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
    if name in _EXTREMES and floats:
        return [_EXTREMES[name](*args)]
    if args and not any(shapes) and all(isinstance(x, np.ndarray | np.generic) for x in args):
        with jax.ensure_compile_time_eval():  # Triton takes constants, but not in every place
            return [np.asarray(equation.primitive.bind(*args, **params))]
    got = equation.primitive.bind(*args, **params)
    return got if equation.primitive.multiple_results else [got]


def _branches(branches: Sequence[Any], args: list[Any]) -> Sequence[Any]:
    def taken(branch: Any) -> Callable[..., Any]:
        return lambda *given: evaluate(branch.jaxpr, branch.consts, given, range(len(branch.jaxpr.outvars)))

    return jax.lax.switch(args[0], [taken(branch) for branch in branches], *args[1:])


def _reduced(equation: Any, args: list[Any]) -> Sequence[Any]:
    """A reduction within blocks; one of several arrays as one of each."""
    axes = equation.params.get("axes", equation.params.get("dimensions", ()))
    if 0 in axes and args[0].size > 1:
        fact = f"{equation.primitive.name} over {list(args[0].shape)} goes over a whole leaf"
        raise Unfit(fact)
    if equation.primitive.name != "reduce":
        return [equation.primitive.bind(*args, **equation.params)]
    inner = equation.params["jaxpr"]
    inner, count = getattr(inner, "jaxpr", inner), len(args) // 2
    by_result = {id(e.outvars[0]): e for e in inner.eqns}
    made: list[Any] = []
    for i, x in enumerate(inner.outvars):
        e = by_result.get(id(x))
        mine = {id(inner.invars[i]), id(inner.invars[count + i])}
        if e is None or e.primitive.name not in _BY_NAME or {id(v) for v in e.invars} != mine:
            raise Unfit("a reduction of several arrays whose numbers meet")
        made.append(_BY_NAME[e.primitive.name](args[i], axis=axes, initial=args[count + i]))
    return made


def _most(x: Any, y: Any) -> Any:
    return jnp.where(_nan(x), x, jnp.where(_nan(y), y, jnp.maximum(x, y)))


def _least(x: Any, y: Any) -> Any:
    return jnp.where(_nan(x), x, jnp.where(_nan(y), y, jnp.minimum(x, y)))


def _nan(x: Any) -> Any:
    return x != x


_EXTREMES: dict[str, Callable[..., Any]] = {
    "max": _most,
    "min": _least,
    "clamp": lambda low, x, high: _least(_most(x, low), high),
}


def refuse(problem: Unfit, where: str) -> ValueError:
    """What is said of a program that cannot be cut into tiles."""
    return ValueError(say(f"{where}: {problem}", "leave out kernel="))
