"""What a row of the grid is, and the numbers and schedules that rows are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

import gradxform as gx
from tests import reference as ref

from .forced import Both, Given, ours, theirs


class Case(NamedTuple):
    """Two builders, called inside the test, so that x64 is in force when they run."""

    name: str
    tx: Callable[[], Any]
    method: Callable[[], Any]
    state_tolerance: float = 2e-6
    stored: bool = False  # in a dtype of its own
    tolerance: float = 2e-6  # of a float32 update


WARM = Both("warmup_cosine", {"peak_value": 3e-3, "warmup_steps": 20, "total_steps": 200})
FALL = Both("linear_schedule", {"init_value": 0.2, "end_value": 0.02, "transition_steps": 150})
GROW = Both("exponential_decay", {"init_value": 1e-8, "transition_steps": 40, "decay_rate": 3.0})
STAIRS = Both(
    "piecewise_constant_schedule", {"init_value": 2.0, "boundaries_and_scales": {50: 0.5, 120: 0.3}}
)
BETA1 = Given("linear_schedule", {"init_value": 0.8, "end_value": 0.95, "transition_steps": 150})
BETA2 = Given("cosine_onecycle_schedule", {"transition_steps": 200, "peak_value": 0.999, "div_factor": 1.01})
SAME1, SAME2 = (Both("constant_schedule", {"value": b}) for b in (0.9, 0.999))
MATRICES = {"w": True, "b": False, "s": False, "c": True, "k": True}


def by_rank(params: Any) -> Any:
    return {k: p.ndim >= 2 for k, p in params.items()}


def make_case(
    factory: str, method: Callable[..., Any], kwargs: dict[str, Any], drop: tuple[str, ...] = ()
) -> Case:
    """The same keyword arguments on both sides; `drop` are ours alone (storage dtypes)."""

    def text(value: Any) -> str:
        if isinstance(value, Both):
            return value.name
        return getattr(value, "__name__", None) or ("dict" if isinstance(value, dict) else str(value))

    name = f"{factory}({', '.join(f'{k}={text(v)}' for k, v in kwargs.items())})"
    kept = {k: v for k, v in kwargs.items() if k not in drop}
    narrow = 2.0**-7 if any(kwargs.get(k) in (jnp.bfloat16, jnp.float16) for k in drop) else 2e-6
    return Case(
        name,
        lambda: getattr(gx, factory)(**{k: ours(v) for k, v in kwargs.items()}),
        lambda: method(**{k: theirs(v) for k, v in kept.items()}),
        narrow,
        any(kwargs.get(k) is not None for k in drop),
    )


def leafwise(method: Callable[..., Any]) -> Callable[..., Any]:
    def make(mask: Any = True, **kwargs: Any) -> Any:
        return ref.Leafwise(method(**kwargs), mask)

    return make


def make_decay(
    weight_decay: Any = 0.0,
    mask: Any = None,
    coupled: bool = True,
    proximal_rate: Any = None,
    cautious: bool = False,
) -> Any:
    method = ref.AddDecayedWeights(weight_decay, not coupled, proximal_rate, cautious)
    return ref.Leafwise(method, True if mask is None else mask)


STORAGE = ("mu_dtype", "nu_dtype", "accumulator_dtype")
