"""Constraints on the parameters, held after every step: `project`, and the projections that it is used with.

    x = p + u                    where the step would lead
    u' = fn(x) - p               so that `apply_updates` stores fn(x)

In 16 bits fn(x) is rounded to the parameter's dtype first, since p + (fn(x) - p) is then exact as long as no weight
changes by more than a factor of two.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core import compat
from .._core.errors import accepts, check_number, describe_array, kind, say, short
from .._core.factory import factory
from .._core.leaf import Leaf
from .._core.lift import elementwise, leafwise
from .._core.mask import Mask
from .._core.numerics import abs_sq, quotient, root
from .._core.spec import Spec, bind, expand, reduce_for_pickle, register
from .._core.transform import as_transform, wrap
from .behind import BehindBody, rounded
from .mask import masked
from .plain import scale


class Projection:
    """A function of one array that gives the array allowed in its place, as a value."""

    __slots__ = ("fn", "reach", "spec")

    def __init__(self, fn: Callable[[Any, Leaf], Any], spec: Spec, reach: str) -> None:
        self.fn, self.spec, self.reach = fn, spec, reach

    def __call__(self, x: Any) -> Any:
        x = jnp.asarray(x)
        return self.fn(x, Leaf("", x.shape, x.dtype))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Projection) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return repr(self.spec)

    def __copy__(self) -> "Projection":
        return self

    def __deepcopy__(self, memo: Any) -> "Projection":
        return self

    def __reduce__(self) -> Any:
        return reduce_for_pickle(self, self.spec)


def _projection(reach: str, **sample: Any) -> Any:
    """Makes a function that returns `fn(x, leaf)` into a factory of projections."""

    def decorate(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Projection:
            spec = Spec(entry, bind(entry, args, expand(entry, args, kwargs)))
            positional, keywords = spec.call()
            return Projection(function(*positional, **keywords), spec, reach)

        entry = register(function, call, None, None, sample)
        call.entry = entry  # type: ignore[attr-defined]
        return call

    return decorate


def _check_axis(call: str, axis: Any) -> Any:
    """The axes as a tuple, or None for all of them."""
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    if axis is not None and not all(
        isinstance(a, int | np.integer) and not isinstance(a, bool) for a in axes
    ):
        raise TypeError(f"gx.{call}(axis={short(axis)}): wanted a whole number, several in a tuple, or None")
    return None if axis is None else tuple(int(a) for a in axes)


def _norm(x: Any, leaf: Leaf, axes: Any) -> Any:
    """The norm over some axes, with these kept, so that it can stand beside `x`."""
    outside = [a for a in axes or () if not -x.ndim <= a < x.ndim]
    if outside:
        fact = f"{leaf.path!r} is {describe_array(x)} and has no axis {outside[0]}"
        raise ValueError(say(fact, "choose the leaves by the pattern of gx.project"))
    square = leaf.sum(abs_sq(x), axis=axes, keepdims=axes is not None)
    return jnp.broadcast_to(root(square), x.shape)


@_projection("leaf")
def unit_norm(axis: Any = None):
    """The projection to norm 1: of the whole array, or of each of its rows or columns.

    Args:
        axis: the axes over which the norm is taken; None takes all. For a kernel of shape (inputs, outputs), 0 makes
            the weights of each output a unit vector.

    Returns:
        A function of one array, for `gx.project`. What is 0 stays 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> [round(float(x), 6) for x in gx.unit_norm()(jnp.array([3.0, 4.0]))]
        [0.6, 0.8]
    """
    axes = _check_axis("unit_norm", axis)

    def fn(x: Any, leaf: Leaf) -> Any:
        return quotient(x, _norm(x, leaf, axes))

    return fn


@_projection("leaf", limit=1.0)
def max_norm(limit: Any, axis: Any = None):
    """The projection into a ball: an array, row or column with a larger norm is scaled back to it.

    Args:
        limit: the largest norm, above 0; 2 to 4 for the weights of one output (Srivastava et al., Dropout, 2014).
        axis: as in `unit_norm`.

    Returns:
        A function of one array, for `gx.project`.

    Raises:
        ValueError: for a limit that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.max_norm(1.0, axis=0)(jnp.array([[3.0, 0.5], [4.0, 0.5]])).round(3).tolist()
        [[0.6000000238418579, 0.5], [0.800000011920929, 0.5]]
    """
    check_number("max_norm", "limit", limit, low=0, open_low=True, schedule=False)
    axes = _check_axis("max_norm", axis)

    def fn(x: Any, leaf: Leaf) -> Any:
        norm = _norm(x, leaf, axes)
        bound = jnp.broadcast_to(jnp.asarray(limit, norm.dtype), norm.shape)
        # Within the ball the factor is 1 exactly, and the update keeps all its digits. It is selected before it is
        # spread out: on a mesh with explicit axes a condition must be cut as what it selects.
        factor = jnp.where(norm > bound, bound / jnp.maximum(norm, bound), np.asarray(1, norm.dtype))
        return x * jnp.broadcast_to(factor, x.shape)

    return fn


@_projection("element")
def non_negative():
    """The projection to numbers of at least 0: what is negative becomes 0.

    Returns:
        A function of one array, for `gx.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.non_negative()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    def fn(x: Any, leaf: Leaf) -> Any:
        del leaf
        return jnp.maximum(x, np.asarray(0, x.dtype))

    return fn


def _theirs(fn: Any) -> Callable[[Any, Leaf], Any]:
    """Any function of one array, run under the promotion that its author expects."""

    def call(x: Any, leaf: Leaf) -> Any:
        with compat.promotion("standard"), compat.rank_promotion("allow"):
            got = fn(x)
        if getattr(got, "shape", None) != x.shape:
            fact = f"gx.project(fn={short(fn)}) gave {describe_array(got)} for {leaf.path!r}, {describe_array(x)}"
            raise ValueError(say(fact, "wanted one array of the same shape"))
        return got.astype(x.dtype)

    return call


@factory(label="", sample={"tx": scale(0.5), "pattern": True, "fn": max_norm(1.0)})
def project(tx: Any, pattern: Any, fn: Any, *, axis_names: Any = None):
    """Holds a constraint on some parameters: after every step they are what `fn` makes of them.

    **Update**: `u = fn(p + u) - p`, where `u` is the update of `tx`; where `fn` changes nothing, `u` itself.

    Args:
        tx: any transform, ours or Optax's, that makes the updates which are applied: the learning rate is inside.
        pattern: which leaves: every form of mask that `gx.masked` takes.
        fn: `gx.unit_norm()`, `gx.max_norm(2.0, axis=0)`, `gx.non_negative()`, or any function from one array to one of
            the same shape, such as Optax's projections; by name it then has to be importable to be written to a file.
        axis_names: inside `shard_map`, the mesh axes over which arrays are cut, as in `clip_by_global_norm`.

    State: the pair `(state of tx, MaskedState(EmptyState()))`: nothing of its own.

    Reach: leaf, or element for `non_negative`. Needs `params`. A stack of layers in one array is one array unless
    `gx.per_layer` says otherwise.

    Returns:
        A transform; put it outside of everything that changes updates. The constraint holds to the rounding of the
        parameter's dtype (`non_negative` exactly); in 16 bits only after a second step where a first one changes
        weights by more than a factor of two, so begin with parameters that obey it. The moments of `tx` know nothing
        of it.

    Raises:
        TypeError: for an `fn` that is not a function of one array, and as `gx.masked` does.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.project(gx.sgd(1.0), "scale", gx.non_negative())
        >>> params = {"scale": jnp.array([1.0]), "shift": jnp.array([1.0])}
        >>> grads = {"scale": jnp.array([3.0]), "shift": jnp.array([3.0])}
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> {name: float(x[0]) for name, x in gx.apply_updates(params, updates).items()}
        {'scale': 0.0, 'shift': -2.0}

    Differs from Optax: `keep_params_nonnegative` knows one constraint, for all leaves.
    """
    inner = as_transform(tx, "gx.project(tx)")
    entry = getattr(fn, "entry", None)
    if not callable(fn) or entry is not None or isinstance(fn, Mask | type) or accepts(fn, 1) is False:
        got, remedy = kind(fn), "the order is gx.project(tx, pattern, fn)"
        if entry is not None:
            got, remedy = f"{entry.text} itself", f"call it: {entry.text}(...)"
        raise TypeError(say(f"gx.project(fn): wanted a function of one array, got {got}", remedy))
    allowed = fn.fn if isinstance(fn, Projection) else _theirs(fn)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Leaf) -> Any:
        del s, k
        x = p + g
        target = allowed(x, leaf)
        return jnp.where(target == x, g, rounded(target, leaf.dtype) - p)

    if isinstance(fn, Projection) and fn.reach == "element":
        link = elementwise(step, needs=("params",), call="project")
    else:
        link = leafwise(
            step, needs=("params",), call="project", axis_names=axis_names, sharded=isinstance(fn, Projection)
        )
    return wrap(BehindBody(inner, masked(link, pattern), "project"))
