"""The names of types that the whole house uses, and the protocols that a transform is made of.

A *tree* is any JAX pytree of arrays. `Updates`, `Params` and a parameter-shaped field of a state share one structure
and one shape a leaf; jaxtyping's names say so in signatures, and tests check them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float, Inexact, Int, PyTree

Tree: TypeAlias = PyTree[Any]
Params: TypeAlias = PyTree[Any]
Updates: TypeAlias = PyTree[Any]
State: TypeAlias = Any
Leaf: TypeAlias = Inexact[Array, "..."]
Scalar: TypeAlias = Float[Array, ""]
Count: TypeAlias = Int[Array, ""]
Extra: TypeAlias = Mapping[str, Any]

#: What every numeric hyperparameter takes: a number, a 0-d array (traced or not), or a function of the step count.
Number: TypeAlias = Any
ScheduleFn: TypeAlias = Callable[[Any], Any]
NumberOrSchedule: TypeAlias = Any
DType: TypeAlias = Any
#: A tree of booleans, a function of the parameters that gives one, a glob, a regular expression or a predicate.
MaskLike: TypeAlias = Any


@runtime_checkable
class Specified(Protocol):
    """Anything that knows the call that made it: a transform, a schedule, a mask."""

    @property
    def spec(self) -> Any: ...
