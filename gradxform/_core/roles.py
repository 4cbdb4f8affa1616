"""What a field of a state means. Executors, checkpoints and reports act on the meaning and never on a method's name.

A state is a NamedTuple whose annotations are roles:

    class ScaleByAdamState(NamedTuple):
        count: Count
        mu: Moment
        nu: SecondMoment

For a state class that is Optax's, the same is declared beside it: `declare_roles(optax.ScaleByAdamState, count=Count,
mu=Moment, nu=SecondMoment)`. A field without a role is a whole of its own (`Other`): it is carried, never looked into.
"""

import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeAlias

import optax


@dataclass(frozen=True)
class Role:
    """One meaning. `per_parameter` fields are trees shaped like the parameters' tree; the others are single values."""

    name: str
    per_parameter: bool
    meaning: str


COUNT = Role("count", False, "completed steps, a saturating int32 scalar")
KEY = Role("key", False, "a PRNG key")
READING = Role("reading", False, "a scalar of the whole step that the method computes and keeps")
MOMENT = Role("moment", True, "a signed average of gradients")
SECOND_MOMENT = Role("second moment", True, "an average of squares, never negative")
ITERATE = Role("iterate", True, "a second set of weights")
FACTOR = Role("factor", True, "a factor of a second moment: row or column averages")
GRAM = Role("gram", True, "an average of G G^T or G^T G")
BASIS = Role("basis", True, "an orthogonal basis")
RESIDUAL = Role("residual", True, "what rounding or compression left out")
HISTORY = Role("history", True, "past gradients or steps, stacked")
ACCUMULATOR = Role("accumulator", True, "gradients on their way to a mean")
OTHER = Role("other", False, "not declared")

Count: TypeAlias = Annotated[Any, COUNT]
Key: TypeAlias = Annotated[Any, KEY]
Reading: TypeAlias = Annotated[Any, READING]
Moment: TypeAlias = Annotated[Any, MOMENT]
SecondMoment: TypeAlias = Annotated[Any, SECOND_MOMENT]
Iterate: TypeAlias = Annotated[Any, ITERATE]
Factor: TypeAlias = Annotated[Any, FACTOR]
Gram: TypeAlias = Annotated[Any, GRAM]
Basis: TypeAlias = Annotated[Any, BASIS]
Residual: TypeAlias = Annotated[Any, RESIDUAL]
History: TypeAlias = Annotated[Any, HISTORY]
Accumulator: TypeAlias = Annotated[Any, ACCUMULATOR]

_DECLARED: dict[type, dict[str, Role]] = {}


def role_of(annotation: Any) -> Role:
    """The role that an annotation carries."""
    if isinstance(annotation, Role):
        return annotation
    found = [item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Role)]
    return found[0] if found else OTHER


def _check_fields(call: str, state: type, names: Iterable[str]) -> None:
    known: tuple[str, ...] = getattr(state, "_fields", ())
    for name in names:
        if name not in known:
            fact = f"{call}({state.__name__}): no field {name!r}; it has {', '.join(known) or 'none'}"
            raise ValueError(fact)


def declare_roles(state: type, **fields: Any) -> None:
    """Says what the fields of a state class mean that we did not write.

    Raises:
        ValueError: if the class has no such field, or a role is not one of this module's.

    Example:
        >>> from typing import Any, NamedTuple
        >>> from gradxform import build
        >>> class TheirState(NamedTuple):
        ...     momentum: Any
        >>> build.declare_roles(TheirState, momentum=build.Moment)
        >>> build.roles_of(TheirState)["momentum"].name
        'moment'
    """
    _check_fields("declare_roles", state, fields)
    for name, annotation in fields.items():
        if role_of(annotation) is OTHER:
            raise ValueError(f"declare_roles({state.__name__}, {name}=...): {annotation!r} is not a role")
    _DECLARED[state] = {name: role_of(annotation) for name, annotation in fields.items()}
    roles_of.cache_clear()


_OWN: dict[type, frozenset[str]] = {}


def declare_own(state: type, *fields: str) -> None:
    """Says that fields of a state class hold what only its method means, though others have the name and the role.

    `restore_into` then gives them to a state of the same class and to no other: an average of normalised gradients in
    the place of one of gradients makes steps thousands of times too large.

    Example:
        >>> from typing import NamedTuple
        >>> from gradxform import build
        >>> class SignedState(NamedTuple):
        ...     mu: build.Moment  # an average of signs
        >>> build.declare_own(SignedState, "mu")
    """
    _check_fields("declare_own", state, fields)
    _OWN[state] = frozenset(fields)


def is_own(state: type, field: str) -> bool:
    """Whether a field means something of its method only."""
    return field in _OWN.get(state, ())


_EXACT: dict[type, frozenset[str]] = {}


def declare_exact(state: type, *fields: str) -> None:
    """Says that a rule takes the difference of fields, so that they cannot be stored in fewer bits.

    `gx.lowbit.quantized` leaves them as they are: of `nu - mu^2`, where both are nearly equal, codes leave nothing.

    Example:
        >>> from typing import NamedTuple
        >>> from gradxform import build
        >>> class VarianceState(NamedTuple):
        ...     mu: build.Moment
        ...     nu: build.SecondMoment
        >>> build.declare_exact(VarianceState, "mu", "nu")
    """
    _check_fields("declare_exact", state, fields)
    _EXACT[state] = frozenset(fields)


def is_exact(state: type, field: str) -> bool:
    """Whether a field has to be stored as it is."""
    return field in _EXACT.get(state, ())


_UNITS: dict[type, frozenset[str]] = {}
_RESCALING: set[type] = set()


def declare_unit(state: type, *fields: str, rescales: bool = False) -> None:
    """Says which fields of a wrapper's state have the unit of the gradients that come to it, beside its accumulators.

    `rescales` says that what is inside gets the gradients in another unit: a loss scale is taken off.
    """
    _UNITS[state] = frozenset(fields)
    if rescales:
        _RESCALING.add(state)


def unit_classes() -> tuple[type, ...]:
    """The wrappers' state classes for which a unit has been declared."""
    return tuple(_UNITS)


def has_unit(state: type, field: str) -> bool:
    """Whether a field is a size or a sum of gradients, in their unit."""
    return roles_of(state).get(field) is ACCUMULATOR or field in _UNITS.get(state, ())


def rescales(state: type) -> bool:
    """Whether a wrapper takes a factor off the gradients."""
    return state in _RESCALING


def declared_classes() -> tuple[type, ...]:
    """The state classes that we did not write and of whose fields the meaning is known."""
    return tuple(_DECLARED)


@cache
def roles_of(state: type) -> dict[str, Role]:
    """Field names and roles of a state class, in the order of its fields.

    Example:
        >>> import optax
        >>> from gradxform import build
        >>> {name: role.name for name, role in build.roles_of(optax.ScaleByAdamState).items()}
        {'count': 'count', 'mu': 'moment', 'nu': 'second moment'}
    """
    fields: tuple[str, ...] = getattr(state, "_fields", ())
    declared = _DECLARED.get(state)
    if declared is None:
        try:
            hints = typing.get_type_hints(state, include_extras=True)
        except (NameError, TypeError):
            hints = {}
        declared = {name: role_of(hints.get(name)) for name in fields}
    return {name: declared.get(name, OTHER) for name in fields}


declare_roles(optax.ScaleByAdamState, count=Count, mu=Moment, nu=SecondMoment)
declare_roles(optax.ScaleByLionState, count=Count, mu=Moment)
declare_roles(optax.TraceState, trace=Moment)
declare_roles(optax.EmaState, count=Count, ema=Moment)
declare_roles(optax.ScaleByScheduleState, count=Count)
declare_roles(optax.ScaleByRmsState, nu=SecondMoment)
declare_roles(optax.ScaleByRssState, sum_of_squares=SecondMoment)
declare_roles(optax.ScaleByAmsgradState, count=Count, mu=Moment, nu=SecondMoment, nu_max=SecondMoment)
declare_roles(optax.ScaleByBeliefState, count=Count, mu=Moment, nu=SecondMoment)
declare_roles(optax.contrib.MuonState, count=Count, mu=Moment)
declare_roles(optax.ScaleBySM3State, nu=Moment)  # its momentum; `mu` is the list of its sums
declare_roles(optax.FactoredState, count=Count, v_row=Factor, v_col=Factor, v=SecondMoment)
declare_roles(optax.ApplyIfFiniteState, notfinite_count=Reading, last_finite=Reading, total_notfinite=Reading)
declare_roles(
    optax.MultiStepsState,
    mini_step=Reading,
    gradient_step=Count,
    acc_grads=Accumulator,
    skip_state=Reading,
)
declare_roles(optax.InjectHyperparamsState, count=Count, hyperparams=Reading)
declare_roles(optax.InjectStatefulHyperparamsState, count=Count, hyperparams=Reading)
declare_roles(optax.transforms.SnapshotState, measurement=Reading)
declare_roles(optax.transforms.MonitorState, measurements=Reading)
