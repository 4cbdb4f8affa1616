"""Schedule-Free: an average of the weights in the place of a schedule, with the gradient taken near the average.

    z_{t+1} = z_t + u_t                        u the base transform's update, made of the gradient at y_t
    x_{t+1} = x_t + c_t (z_{t+1} - x_t)        c_t = w_t / (w_1 + .. + w_t), w_t = t^r max(rate_1 .. rate_t)^power
    y_{t+1} = b1 x_{t+1} + (1 - b1) z_{t+1}

z is in the state, y are the parameters that are trained, and x, with which one evaluates, is in neither: it is
z + (y - z) / b1. Put into each other, the lines give the update of y without that division, and without x:

    y_{t+1} - y_t = c_t (z_t - y_t) + (1 - b1 + b1 c_t) u_t

If b1 changes from a to b, c_t in front of the bracket becomes c_t + (1 - c_t) (a - b) / a, and x is what it would have
been. Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky, The road less scheduled, 2024, arXiv:2405.15682.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from optax.contrib import ScheduleFreeState

from .._core import door
from .._core.errors import check_number, say, short
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import compute_dtype, real_dtype
from .._core.plan import Body, Lowering, Route
from .._core.roles import Count, Iterate, Reading, declare_roles
from .._core.scalars import resolve
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import view
from .plain import check_rate, scale

declare_roles(ScheduleFreeState, b1=Reading, weight_sum=Reading, step_count=Count, max_lr=Reading, z=Iterate)
_CALL = "schedule_free"


class ScheduleFreeBody(Body):
    """`inner`, then the rule behind it, whose state holds that of `inner`; `inner` keeps its addresses."""

    def __init__(self, inner: GradientTransformation, rule: GradientTransformation, b1: Any) -> None:
        self.inner, self.rule, self.b1 = inner.body, rule.body, b1
        self.label, self.rate, self.uncoupled = inner.label, inner.body.rate, inner.body.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> ScheduleFreeState:
        # A sum that is kept in 16 bits stops at 256 of its terms.
        dtype = real_dtype(compute_dtype(*(getattr(p, "dtype", None) for p in view(params).places)))
        return self.rule.init(params, stacked)._replace(
            b1=jnp.array(resolve(_CALL, "b1", self.b1, 0, dtype), dtype),
            weight_sum=jnp.zeros([], dtype),
            max_lr=jnp.zeros([], dtype),
            base_optimizer_state=self.inner.init(params, stacked),
        )

    def lower(self, lowering: Lowering, route: Route) -> Route:
        behind = route.after(self.inner.lower(lowering, route))
        return route.after(self.rule.lower(lowering, lowering.enter(behind, _CALL)))

    def split(self, state: Any, address: str) -> list[Any]:
        where = f"{address}/{_CALL}" if address else _CALL
        own = door.check_state_class(ScheduleFreeState, state, where, door.WITHOUT)
        return [*self.inner.split(own.base_optimizer_state, address), own]

    def join(self, state: Any, parts: list[Any]) -> ScheduleFreeState:
        base = self.inner.join(state.base_optimizer_state, parts)
        return parts.pop(0)._replace(base_optimizer_state=base)


def _copy(p: Any, leaf: Any) -> Any:
    del leaf
    return p


def _once(c: Any) -> Any:
    """How much of the way from y to z, and how much of the update; and the numbers of the state."""
    one, zero = np.asarray(1, c.dtype), np.asarray(0, c.dtype)
    before, b1 = _b1(c)
    top = jnp.maximum(c.state.max_lr.astype(c.dtype), c.learning_rate)
    weight = top**c.weight_lr_power * c.t**c.weight_step_power
    total = c.state.weight_sum.astype(c.dtype) + weight
    nothing = total == 0  # so far all rates were 0
    share = jnp.where(nothing, zero, weight / jnp.where(nothing, one, total))
    back = share + (one - share) * ((before - b1) / before)
    return {"back": back, "ahead": one - b1 + b1 * share}, {"b1": b1, "weight_sum": total, "max_lr": top}


def _b1(c: Any) -> tuple[Any, Any]:
    """The b1 with which y has been made, and with which it is made now: as it is stored, for x is found with that."""
    stored = c.state.b1
    asked = jnp.asarray(c.b1).astype(stored.dtype)
    same = asked.astype(np.float32) == stored.astype(np.float32)
    return stored.astype(c.dtype), jnp.where(same, stored, asked).astype(c.dtype)


def _step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
    del leaf
    return k.back * (s.z - p) + k.ahead * g, {"z": s.z + g}


@factory(label="", sample={"base_optimizer": scale(-0.5), "learning_rate": 0.5})
def schedule_free(
    base_optimizer: Any,
    learning_rate: Any,
    b1: Any = 0.9,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    weight_step_power: Any = 0.0,
):
    """Trains without a schedule: evaluates an average of the weights, and takes gradients near it.

    The rate stays high to the end, and the average has what a falling rate would have given, at every step of a run
    whose length need not be known. Of the base take no momentum (`b1=0`): the average has its place. The recipes are
    `gx.schedule_free_sgd` and `gx.schedule_free_adamw`.

    **Update**: `z = z + u`, `x = x + c (z - x)`, `y = b1 x + (1 - b1) z`, where `u` is the update of the base for the
    gradient at `y`, `c = w / sum of w` and `w = t^weight_step_power max(rates so far)^weight_lr_power`. `y` are the
    parameters that are trained, `z` is in the state, and `gx.eval_params(state, params)` gives `x`.

    Args:
        base_optimizer: any transform, ours or Optax's, that makes the updates which are applied: the learning rate is
            inside. Its weight decay is that of `y`.
        learning_rate: the rate of the base once more, a number or a schedule, for the weights of the average only: what
            was trained at small rates, in a warmup, counts little. Let it rise and stay; where it falls, nothing does.
        b1: in (0, 1], a number or a schedule: how near to the average gradients are taken. 1 takes them at the average
            itself; with 0 there would be no way back to it. The paper's 0.9; 0.95 and 0.98 for long runs.
        weight_lr_power: at least 0; 0 is the plain mean of all `z`.
        state_dtype: storage of `z`; None is the parameter's dtype, but float32 for a 16-bit parameter.
        weight_step_power: at least 0; with r the last 1 / (r + 1) of the steps make the average, so that a bad start is
            forgotten. The authors' `r`.

    State: `optax.contrib.ScheduleFreeState(b1, weight_sum, step_count, max_lr, base_optimizer_state, z)`: one number a
    parameter beside the base's; roles reading, reading, count, reading, and iterate for `z`. Either library goes on
    with the other's state.

    Reach: element, or that of the base. Needs `params`.

    Accuracy: `x` is `z + (y - z) / b1`, so that a rounding of the parameters is 1 / b1 of one in `x`, and stays in it.
    In float32 the `x` of 1000 steps is within 1e-5 of its size of that of float64. Parameters of 16 bits round away
    most of an average that moves by 1 / t: put `gx.lowbit.exact_master` around, and evaluate with
    `gx.eval_params(state, gx.lowbit.master_params(state, params))`.

    Returns:
        A transform. Put it around everything that changes updates (what is behind it moves `x` too), and inside of
        `accumulate` and `guard`, so that it counts steps that happen. A `tunable` around may change `b1`: `x` stays.

    Raises:
        ValueError: for a `b1` outside (0, 1], a negative rate or power.
        TypeError: for a `state_dtype` that is not a floating one.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.schedule_free(gx.sgd(1.0), 1.0, b1=0.5)
        >>> params, state = jnp.array([0.0]), tx.init(jnp.array([0.0]))
        >>> for gradient in (-1.0, -2.0, -3.0):  # z is 1, then 3, then 6; x the mean
        ...     updates, state = tx.update(jnp.array([gradient]), state, params)
        ...     params = gx.apply_updates(params, updates)
        >>> round(float(params[0]), 4), round(float(gx.eval_params(state, params)[0]), 4)
        (4.6667, 3.3333)

    Differs from Optax: works around transforms and inside of chains, masks and groups of which
    `schedule_free_eval_params` knows nothing; `b1` of 0 is refused, where Optax's `x` is NaN; `z` of a 16-bit
    parameter and the sum of the weights are float32; a schedule is asked at the count at which the base asks it, and
    not one step ahead (`step_count` starts at 0, not at 1); the update is not the difference of two sums; integer
    leaves rest; `weight_step_power`.
    """
    inner = as_transform(base_optimizer, "gx.schedule_free(base_optimizer)")
    check_rate(_CALL, learning_rate)
    why = "x is z + (y - z) / b1, so that b1=0 leaves no weights to evaluate with"
    check_number(_CALL, "b1", b1, low=0, high=1, open_low=True, why=why)
    for name, power in (("weight_lr_power", weight_lr_power), ("weight_step_power", weight_step_power)):
        check_number(_CALL, name, power, low=0, schedule=False)
    if state_dtype is not None and not jnp.issubdtype(state_dtype, jnp.inexact):
        fact = f"gx.schedule_free(state_dtype={short(state_dtype)}): z cannot be kept as {short(state_dtype)}"
        raise TypeError(say(fact, "wanted a floating dtype such as 'bfloat16'"))
    powers = {"weight_lr_power": weight_lr_power, "weight_step_power": weight_step_power}
    rule = elementwise(
        _step,
        once=_once,
        state=ScheduleFreeState,
        scalars={"learning_rate": learning_rate, "b1": b1, **powers},
        dtypes={"z": state_dtype},
        init={"z": _copy},
        fields={name: lambda: jnp.zeros([]) for name in ("b1", "weight_sum", "max_lr")},
        needs=("params",),
        call=_CALL,
        wide=("z",),
        carried=("base_optimizer_state",),
    )
    return wrap(ScheduleFreeBody(inner, rule, b1))
