"""The decorators that turn a function into a factory of values.

A decorated function is called as before; what it returns carries the call as its spec. The same decorators serve this
library and anybody else's: a factory in another package or a notebook gets `repr`, equality, pickling and, once its
package declares the entry point `gradxform.factories`, JSON.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

from .errors import name_outermost
from .mask import Mask
from .schedule import Schedule
from .spec import Spec, bind, expand, register
from .transform import GradientTransformation, as_transform, build

P = ParamSpec("P")
R = TypeVar("R")


#: By the name of a framework or a paper, the values of arguments that the caller leaves out.
Presets = Mapping[str, Mapping[str, Any]]


def _decorate(
    function: Callable[..., Any],
    label: str | None,
    make: Callable[[Any, Spec], Any],
    presets: Presets | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = bind(entry, args, expand(entry, args, kwargs))
        spec = Spec(entry, arguments)
        positional, keywords = spec.call()
        try:
            made = function(*positional, **keywords)
        except (TypeError, ValueError) as problem:
            name_outermost(problem, entry.text)
            raise
        return make(made, spec)

    entry = register(function, call, label, presets, sample)
    call.entry = entry  # type: ignore[attr-defined]
    return call


@overload
def factory(function: Callable[P, Any], /) -> Callable[P, GradientTransformation]: ...
@overload
def factory(
    function: None = None,
    /,
    *,
    label: str | None = None,
    presets: Presets | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Callable[[Callable[P, Any]], Callable[P, GradientTransformation]]: ...
def factory(
    function: Any = None,
    /,
    *,
    label: str | None = None,
    presets: Presets | None = None,
    sample: Mapping[str, Any] | None = None,
) -> Any:
    """Makes a function that returns a transform into a factory: its results are values.

    Args:
        function: returns what a lift, a chain or any Optax factory returns.
        label: the name of its results as links of a chain; by default the function's, without `scale_by_`.
        presets: what `like="torch"` stands for: by name, the values of arguments that the caller leaves out. The
            function has an argument `like` whose default is the name of the defaults in its signature; it never sees
            another value, and neither does the spec: a preset is shorthand for arguments.
        sample: values for arguments without a default, with which tables and tests make an example of it.

    Example:
        >>> import gradxform as gx
        >>> from gradxform import build
        >>> @build.factory
        ... def half_clip(limit: float = 1.0):
        ...     return gx.chain(gx.clip(limit), gx.scale(0.5))
        >>> half_clip(2.0) == half_clip(limit=2.0)
        True
    """

    def make(made: Any, spec: Spec) -> GradientTransformation:
        return build(as_transform(made, spec.factory.text).body, spec)

    def decorate(fn: Callable[..., Any]) -> Any:
        return _decorate(fn, label, make, presets, sample)

    return decorate if function is None else decorate(function)


@overload
def schedule(function: Callable[P, Any], /) -> Callable[P, Schedule]: ...
@overload
def schedule(
    function: None = None, /, *, sample: Mapping[str, Any] | None = None
) -> Callable[[Callable[P, Any]], Callable[P, Schedule]]: ...
def schedule(function: Any = None, /, *, sample: Mapping[str, Any] | None = None) -> Any:
    """Makes a function that returns a function of the step count into a factory of schedules; `sample` as in `factory`.

    Example:
        >>> from gradxform import build
        >>> @build.schedule
        ... def reciprocal(scale: float):
        ...     return lambda count: scale / (1.0 + count)
        >>> reciprocal(2.0) == reciprocal(scale=2.0), float(reciprocal(2.0)(1))
        (True, 1.0)
    """

    def make(made: Any, spec: Spec) -> Schedule:
        if isinstance(made, Schedule):
            return Schedule(made.fn, spec, made.exact_fn)
        if isinstance(made, tuple):
            return Schedule(made[0], spec, made[1])
        return Schedule(made, spec)

    def decorate(fn: Callable[..., Any]) -> Any:
        return _decorate(fn, None, make, None, sample)

    return decorate if function is None else decorate(function)


def mask(function: Callable[P, Any]) -> Callable[P, Mask]:
    """Makes a function that returns a predicate `(path, leaf) -> bool` into a factory of masks.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> @build.mask
        ... def larger_than(size: int):
        ...     return lambda path, leaf: leaf.size > size
        >>> larger_than(2)({"a": jnp.ones(3), "b": jnp.ones(1)})
        {'a': True, 'b': False}
    """

    def make(made: Any, spec: Spec) -> Mask:
        return Mask(made, spec)

    return _decorate(function, None, make)
