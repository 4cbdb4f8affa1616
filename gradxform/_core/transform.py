"""`GradientTransformation`: Optax's pair of functions, and a value.

It is a NamedTuple `(init, update)` and an instance of `optax.GradientTransformationExtraArgs`, so it unpacks, passes
every isinstance check, and mixes with Optax's in either library's `chain`. Its two functions are callable objects that
carry the spec: equal specs make equal transforms and equal functions. The class is a static pytree node, so a transform
may be an argument of a jitted function or a field of a module, and an equal, rebuilt one compiles nothing again.

`init` and `update` are interned: as long as a transform is alive, an equal one has the very same function objects. JAX
keys the cache of `jax.jit(tx.update)` on the object, and this is what makes a rebuilt transform hit it. The table holds
weak references, and nothing that contains a traced value or an array on a device enters it.
"""

from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

import jax
import optax

from . import values
from .body import HandBody, PairBody, pair_label, tolerant, with_extra
from .errors import kind, say
from .mask import Mask
from .plan import Body, Plan
from .run import run
from .schedule import Schedule
from .spec import Factory, Spec, reduce_for_pickle, register

_INTERNED: "WeakValueDictionary[tuple[str, Spec], Method]" = WeakValueDictionary()


class Method:
    """`tx.init` or `tx.update`: a function that equals the same function of an equal transform."""

    __slots__ = ("__name__", "__qualname__", "__weakref__", "body", "spec")

    def __init__(self, name: str, body: Body, spec: Spec) -> None:
        self.__name__, self.body, self.spec = name, body, spec
        self.__qualname__ = f"{spec.factory.name}.{name}"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Method) and self.__name__ == other.__name__ and self.spec == other.spec

    def __hash__(self) -> int:
        return hash((self.__name__, self.spec))

    def __repr__(self) -> str:
        return f"{self.spec!r}.{self.__name__}"

    def __copy__(self) -> "Method":
        return self

    def __deepcopy__(self, memo: Any) -> "Method":
        return self

    def __reduce__(self) -> Any:
        rebuild, arguments = reduce_for_pickle(self, self.spec)
        return _method_of, (self.__name__, rebuild, arguments)


class _Init(Method):
    __slots__ = ()
    part = "init"

    def __call__(self, params: Any) -> Any:
        """The state for these parameters."""
        return self.body.init(params)


class _Update(Method):
    __slots__ = ()
    part = "update"

    def __call__(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        """The new updates and the new state."""
        if isinstance(self.body, HandBody):
            return self.body.direct(updates, state, params, extra)
        who = "" if self.spec.factory is _UNNAMED else self.spec.factory.text
        return run(self.body, updates, state, params, extra, who)


# What Python calls them when an argument is missing.
_Init.__call__.__qualname__, _Update.__call__.__qualname__ = "tx.init", "tx.update"
_METHODS: dict[str, type[Method]] = {"init": _Init, "update": _Update}


def _method_of(name: str, rebuild: Any, arguments: Any) -> Any:
    return getattr(rebuild(*arguments), name)


def _method(name: str, body: Body, spec: Spec) -> Method:
    if spec.holds_array:
        return _METHODS[name](name, body, spec)
    known = _INTERNED.get((name, spec))
    if known is None:
        known = _METHODS[name](name, body, spec)
        _INTERNED[name, spec] = known
    return known


@jax.tree_util.register_static
class GradientTransformation(optax.GradientTransformationExtraArgs):
    """A gradient transformation: `init(params) -> state`, `update(updates, state, params=None, **extra)`.

    Made by the factories of gradxform; by hand from two functions of your own, which then are exactly what runs:

    Args:
        init: a function of the parameters that returns the state.
        update: a function of updates, state, params and extra arguments that returns `(updates, state)`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.adamw(3e-4, weight_decay=0.1)
        >>> tx
        gx.adamw(0.0003, weight_decay=0.1)
        >>> init, update = tx
        >>> tx == gx.adamw(3e-4, weight_decay=0.1)
        True
    """

    __slots__ = ()

    def __new__(cls, init: Any, update: Any) -> "GradientTransformation":
        if isinstance(init, Method) and isinstance(update, Method) and init.spec == update.spec:
            return tuple.__new__(cls, (init, update))
        for name, fn in (("init", init), ("update", update)):
            if not callable(fn):
                raise TypeError(f"gx.GradientTransformation({name}={fn!r}): wanted a function")
        body = HandBody(init, tolerant(update), pair_label(update))
        return build(body, Spec(_BY_HAND, {"init": init, "update": update}))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> "GradientTransformation":  # pyright: ignore[reportIncompatibleMethodOverride]
        return cls(*iterable)

    def _replace(self, **fields: Any) -> "GradientTransformation":  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self)(fields.pop("init", self.init), fields.pop("update", self.update), **fields)

    @property
    def spec(self) -> Spec:
        """The call that made this transform, as data."""
        return self[1].spec  # type: ignore[attr-defined]

    @property
    def body(self) -> Body:
        """What runs; for executors and reports."""
        return self[1].body  # type: ignore[attr-defined]

    @property
    def plan(self) -> Plan:
        """The flattened links and passes; for executors and reports."""
        return self.body.plan

    @property
    def label(self) -> str:
        """The name that this transform has as a link of a chain."""
        return self.spec.factory.label or self.body.label

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, GradientTransformation) and self.spec == other.spec

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return repr(self.spec)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{self!r} is a value: {name} cannot be set; call its factory with another argument"
        )

    def __copy__(self) -> "GradientTransformation":
        return self

    def __deepcopy__(self, memo: Any) -> "GradientTransformation":
        return self

    def __reduce__(self) -> Any:
        return reduce_for_pickle(self, self.spec)


def build(body: Body, spec: Spec) -> GradientTransformation:
    """The transform of a body, known as `spec`."""
    return tuple.__new__(GradientTransformation, (_method("init", body, spec), _method("update", body, spec)))


def wrap(body: Body) -> GradientTransformation:
    """A body that has no name yet; the factory around it gives it one. Until then it equals itself only."""
    return build(body, Spec(_UNNAMED, {"body": body}))


def _unnamed(body: Body) -> GradientTransformation:
    return wrap(body)


_unnamed.__module__ = __name__.split(".")[0]
_unnamed.__qualname__ = _unnamed.__name__ = "unnamed"
_UNNAMED: Factory = register(_unnamed, _unnamed, "")


def _by_hand(init: Any, update: Any) -> GradientTransformation:
    return GradientTransformation(init, update)


_by_hand.__module__ = __name__.split(".")[0]
_by_hand.__qualname__ = _by_hand.__name__ = "GradientTransformation"
_BY_HAND: Factory = register(_by_hand, GradientTransformation, "")


def as_transform(x: Any, who: str) -> GradientTransformation:
    """Anything that a combinator takes as a transform; Optax's are adapted, everything else is refused by name.

    Example:
        >>> import optax
        >>> from gradxform import build
        >>> build.as_transform(optax.scale_by_yogi(), "mine").plan.links[0].reach
        'tree'
    """
    if isinstance(x, GradientTransformation):
        return x
    if isinstance(x, type) or not (
        callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))
    ):
        got, remedy = _not_a_transform(x)
        raise TypeError(say(f"{who}: wanted a transform, got {got}", remedy))
    init, update = with_extra(x)
    return build(
        PairBody(init, update, pair_label(getattr(x, "update", update))), Spec(_FOREIGN, {"transform": x})
    )


def _not_a_transform(x: Any) -> tuple[str, str]:
    """What came in the place of a transform, and what to do."""
    entry = getattr(x, "entry", None)
    if entry is not None:
        return f"{entry.text} itself", f"call it: {entry.text}(...)"
    if isinstance(x, Schedule) or (callable(x) and getattr(x, "__name__", "") == "<lambda>"):
        return kind(x), "a schedule is wrapped: gx.scale_by_learning_rate(schedule)"
    if callable(x) and not isinstance(x, type | Mask):
        name = getattr(x, "__name__", type(x).__name__)
        return kind(x), f"call it: {name}(...); or, if it is a schedule, gx.scale_by_learning_rate({name})"
    if isinstance(x, Mask):
        return "a mask", "masks go around a transform: gx.masked(tx, mask)"
    if isinstance(x, int | float) or getattr(x, "shape", None) == ():
        got = kind(x) if hasattr(x, "shape") else f"the number {x!r}"
        return got, "for a factor use gx.scale, for a learning rate gx.scale_by_learning_rate"
    if x is None:
        return "None", "a transform that does nothing is gx.identity()"
    if isinstance(x, tuple | list) and any(isinstance(item, optax.GradientTransformation) for item in x):
        pair = len(x) == 2 and isinstance(x[0], str)
        return kind(x), "named links go to gx.named_chain" if pair else "write gx.chain(*links), with a star"
    return kind(x), "a transform has init and update, as gx.adamw(3e-4) and optax.adamw(3e-4) have"


def _foreign(transform: Any) -> GradientTransformation:
    """An Optax transform as a gradxform value. It equals itself only: a closure has no value."""
    return as_transform(transform, "gx.foreign")


_foreign.__module__ = __name__.split(".")[0]
_foreign.__qualname__ = _foreign.__name__ = "foreign"
_FOREIGN: Factory = register(_foreign, _foreign, "")


def is_foreign(tx: GradientTransformation) -> bool:
    """Whether a transform is somebody else's functions."""
    return isinstance(tx.body, PairBody)


def is_value(tx: GradientTransformation) -> bool:
    """Whether every argument of the transform has a value: it can be written down and read back."""
    return not any(
        values.any_frozen(value, lambda f: f[0] in ("opaque", "pytree", "foreign"))
        for _, value in tx.spec.frozen
    )
