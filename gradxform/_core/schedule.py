"""`Schedule`: a function from the step count to a number, and a value.

Called with a count it gives float32, or float64 when double precision is on. Two schedules made by equal calls are
equal, print as the call that made them, and serialise. Any other function of the count is accepted wherever a schedule
is, as in Optax; only it compares by identity.
"""

from collections.abc import Callable
from typing import Any

import jax

from .spec import Spec, reduce_for_pickle


@jax.tree_util.register_static
class Schedule:
    """A schedule made by a factory: `schedule(count)` is the value at that step, the first step being 0.

    Example:
        >>> import gradxform as gx
        >>> schedule = gx.linear_schedule(1.0, 0.0, transition_steps=10)
        >>> float(schedule(5))
        0.5
        >>> schedule == gx.linear_schedule(1.0, 0.0, 10)
        True
    """

    __slots__ = ("__weakref__", "exact_fn", "fn", "spec")

    def __init__(
        self, fn: Callable[[Any], Any], spec: Spec, exact: Callable[[Any], Any] | None = None
    ) -> None:
        self.fn, self.spec, self.exact_fn = fn, spec, exact

    def __call__(self, count: Any) -> Any:
        return self.fn(count)

    def exact(self, count: Any) -> Any:
        """The value as hyperparameters read it: a Python number or a `TwoFloat` if the schedule knows it so well."""
        return self.fn(count) if self.exact_fn is None else self.exact_fn(count)

    @property
    def __name__(self) -> str:
        return self.spec.factory.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return repr(self.spec)

    def __copy__(self) -> "Schedule":
        return self

    def __deepcopy__(self, memo: Any) -> "Schedule":
        return self

    def __reduce__(self) -> Any:
        return reduce_for_pickle(self, self.spec)
