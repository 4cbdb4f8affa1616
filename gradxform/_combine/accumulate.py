"""`accumulate`: one step of the transform inside for several calls of `update`.

    A <- A + w_i g_i,   W <- W + w_i         at every micro-step, in float32; at the first of a window A = w_i g_i
    u  = tx(A / W),  then W = 0              at the last one of a window; in between u = 0

g_i is the gradient of a micro-batch, w_i its weight: 1, or the number of tokens over which the gradient is a mean, so
that A / W is the mean over all tokens of the window and not a mean of means. The transform inside stands in a branch
that is not executed in between; where the caller says which micro-step it is, there is no branch. Nothing is multiplied
by a flag, and what is left in A after a window is not read: a NaN is forgotten with the window that it came in.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core import compat
from .._core.errors import (
    check_integer,
    check_number,
    check_schedule,
    concrete,
    kind,
    say,
    short,
)
from .._core.factory import factory
from .._core.nested import Inner, NestedBody
from .._core.numerics import compute_dtype, next_count
from .._core.plan import PLAIN, Plan
from .._core.porting import declare_port
from .._core.roles import Accumulator, Count, Reading
from .._core.scalars import is_schedule, resolve
from .._core.skip import hold, run_if
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import (
    View,
    as_array,
    is_inexact,
    tree_map,
)
from .plain import scale
from .window import Window

#: The argument of `update` that says which micro-step of its window a call is.
MICRO_STEP = "micro_step"


class AccumulateState(NamedTuple):
    """The state of `accumulate`: micro-steps of the window, completed windows, sum of weights, sum of gradients."""

    mini_step: Reading
    gradient_step: Count
    weight: Reading
    acc_grads: Accumulator
    inner_state: Any


def _of_multi_steps(state: Any, like: AccumulateState) -> AccumulateState:
    """`optax.MultiSteps` keeps the mean so far, of micro-steps that weigh the same."""
    del like
    done = jnp.asarray(state.mini_step)

    def total(mean: Any) -> Any:
        mean = jnp.asarray(mean, compute_dtype(mean.dtype))
        return mean * done.astype(mean.dtype)

    return AccumulateState(
        mini_step=done,
        gradient_step=state.gradient_step,
        weight=done.astype(jnp.float32),
        acc_grads=jax.tree.map(total, state.acc_grads),
        inner_state=state.inner_opt_state,
    )


declare_port(optax.MultiStepsState, AccumulateState, _of_multi_steps)


class AccumulateBody(NestedBody):
    call = "accumulate"
    branches = True

    def __init__(self, inner: GradientTransformation, steps: Any, weight: str | None) -> None:
        super().__init__(inner, AccumulateState)
        self.steps, self.weight = steps, weight
        self.single = isinstance(steps, int) and steps == 1

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.weight is None else (self.weight,)

    def start(self, params: Any, inner_state: Any) -> AccumulateState:
        return AccumulateState(
            mini_step=jnp.zeros([], jnp.int32),
            gradient_step=jnp.zeros([], jnp.int32),
            weight=jnp.zeros([], jnp.float32),
            acc_grads=tree_map(self._empty, params),
            inner_state=inner_state,
        )

    def _empty(self, p: Any) -> Any:
        if self.single:  # a window of one needs no sum
            return optax.MaskedNode()
        p = as_array(p, "", "init of accumulate", "the parameters")
        return jnp.zeros_like(p, dtype=compute_dtype(p.dtype) if is_inexact(p) else p.dtype)

    def step(
        self, inner: Inner, updates: Any, state: AccumulateState, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, AccumulateState]:
        who = inner.address or "accumulate"
        weight = None if self.weight is None else weight_of(who, self.weight, extra[self.weight])
        asked = {name: x for name, x in extra.items() if name != MICRO_STEP}
        told = extra.get(MICRO_STEP) is not None
        if self.single:
            if told:
                self._number(who, extra, state)
            return self._at_once(inner, updates, state, params, asked, weight)
        window = Window(who, state, updates, weight)
        _check_alike(who, self.weight, weight, window.rows)
        if told:
            number = self._number(who, extra, state)
            return self._phase(inner, updates, window, params, asked, number)
        mini_step = state.mini_step + np.int32(1)
        closes = (mini_step >= self._length(state.gradient_step)) | _flag(who, extra.get("flush"))
        return self._end(inner, updates, window, params, asked, closes)

    def _phase(
        self,
        inner: Inner,
        updates: Any,
        window: Window,
        params: Any,
        extra: Mapping[str, Any],
        number: int,
    ) -> tuple[Any, AccumulateState]:
        """One micro-step of which the number is known: its own work and nothing else."""
        state = window.state
        if number + 1 == self.steps:
            return self._end(inner, updates, window, params, extra, np.bool_(True))
        total = window.weight if number == 0 else state.weight + window.weight
        return inner.none(updates, state.inner_state, params, extra), state._replace(
            mini_step=jnp.full_like(state.mini_step, number + 1),
            weight=jnp.full_like(state.weight, total),
            acc_grads=window.gathered(window.sums(np.bool_(number > 0))),
        )

    def _end(
        self,
        inner: Inner,
        updates: Any,
        window: Window,
        params: Any,
        extra: Mapping[str, Any],
        closes: Any,
    ) -> tuple[Any, AccumulateState]:
        """The step of the transform inside, where the window closes and has a weight."""
        state = window.state
        total = jnp.where(state.mini_step > 0, state.weight, np.float32(0)) + window.weight
        certain = self.weight is None and compat.known_flag(closes)
        emits = closes if certain else closes & (total > 0)
        # Made in front of the branch, which only reads them: in a branch loops run on one core of a CPU. What is stored
        # at the end of a window is the mean, that it need not be somewhere else while a norm of it is formed.
        sums = window.sums(state.mini_step > 0, jnp.where(emits, total, np.float32(1)))

        def emit() -> Any:
            mean = inner.suited(window.means(sums), params, updates)
            return inner(mean, state.inner_state, params, extra)

        def idle() -> Any:
            return inner.none(updates, state.inner_state, params, extra), state.inner_state

        if certain:
            new, inner_state = emit()
        elif _cheap(inner.plan):
            new, inner_state = hold(emits, emit, state.inner_state, lambda: idle()[0])
        else:
            new, inner_state = run_if(emits, emit, idle)
        return new, AccumulateState(
            mini_step=jnp.where(closes, np.int32(0), state.mini_step + np.int32(1)),
            gradient_step=jnp.where(emits, next_count(state.gradient_step), state.gradient_step),
            weight=jnp.where(closes, np.float32(0), total),
            acc_grads=window.gathered(sums),
            inner_state=inner_state,
        )

    def _number(self, who: str, extra: Mapping[str, Any], state: AccumulateState) -> int:
        """`micro_step=`, held against what is known when the step is traced."""
        number, steps = extra[MICRO_STEP], self.steps
        text = f"{who}: micro_step={short(number)}"
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            remedy = "under jit it is static: jax.jit(step, static_argnames='micro_step')"
            raise TypeError(say(f"{text}: wanted a Python integer, got {kind(number)}", remedy))
        if not isinstance(steps, int):
            fact = (
                f"{text}: the length of the window is not known before the step runs (steps={short(steps)})"
            )
            raise ValueError(say(fact, "leave micro_step= out: the state counts by itself"))
        if extra.get("flush") is not None:
            fact = f"{text}: flush= says for itself where a window ends"
            raise ValueError(say(fact, f"micro_step={steps - 1} ends it, however many have come"))
        if not 0 <= number < steps:
            raise ValueError(say(f"{text}: wanted 0 to {steps - 1}", "it counts from 0 within a window"))
        done = concrete(state.mini_step)
        if done is not None and number not in (int(done), steps - 1):
            fact = f"{text}: the state has seen {int(done)} micro-steps of this window"
            raise ValueError(say(fact, f"pass {int(done)}, or {steps - 1} to end it"))
        return int(number)

    def _at_once(
        self,
        inner: Inner,
        updates: Any,
        state: AccumulateState,
        params: Any,
        extra: Mapping[str, Any],
        weight: Any,
    ) -> tuple[Any, AccumulateState]:
        """A window of one micro-step: the step of the transform inside, unless its weight is 0."""

        def emit() -> Any:
            return inner(updates, state.inner_state, params, extra)

        count = next_count(state.gradient_step)
        if weight is None:
            new, inner_state = emit()
        else:
            emits = weight > 0

            def none() -> Any:
                return inner.none(updates, state.inner_state, params, extra), state.inner_state

            new, inner_state = run_if(emits, emit, none)
            count = jnp.where(emits, count, state.gradient_step)
        return new, state._replace(gradient_step=count, inner_state=inner_state)

    def _length(self, gradient_step: Any) -> Any:
        """The number of micro-steps of this window; an array if it follows a schedule."""
        if isinstance(self.steps, int):
            return np.int32(self.steps)
        asked = jnp.asarray(resolve("accumulate", "steps", self.steps, gradient_step, np.float32))
        # Not a maximum: NaN would come through it, and the window would never end.
        return jnp.where(asked >= 1, jnp.round(jnp.minimum(asked, np.float32(2**30))), 1).astype(jnp.int32)


def _cheap(plan: Plan) -> bool:
    """Whether it is cheaper to compute a step in vain than to have it in a branch.

    On a CPU loops inside of a branch run on one core, and a window of 4 takes twice as long as with a step of AdamW at
    each. It is not so on a GPU, nor for products of matrices, or what somebody else's functions may do.
    """
    light = all(link.rule is not None and link.reach in ("element", "tree") for link in plan.flat)
    return light and all(link.executor is PLAIN for link in plan.flat) and jax.default_backend() == "cpu"


def weight_of(who: str, name: str, value: Any) -> Any:
    """A weight as float32, 0 where it is not above 0."""
    number = concrete(value)
    if np.shape(value) != () or (number is not None and number < 0):
        got = f"shape {np.shape(value)}" if number is None else f"{number:g}"
        remedy = "it is the number of tokens (or examples) over which this gradient is a mean"
        raise ValueError(say(f"{who}: {name}= is {got}, wanted one number of at least 0", remedy))
    weight = jnp.asarray(value).astype(jnp.float32)
    return jnp.where(weight > 0, weight, np.float32(0))


def _check_alike(who: str, name: str | None, weight: Any, rows: View) -> None:
    """Refuses a weight that each device has its own of, for gradients that are the same on all."""
    if weight is None:
        return
    own = frozenset[str]().union(*(compat.varying_axes(g) for g in rows.places if hasattr(g, "dtype")))
    differs = sorted(compat.varying_axes(weight) - own)
    if differs:
        fact = (
            f"{who}: {name}= differs between the devices of the mesh axes {differs}, and the gradients do not"
        )
        remedy = (
            f"pass jax.lax.psum({name}, {tuple(differs)}), with gradients that are means over all of them"
        )
        raise ValueError(say(fact, remedy))


def _flag(who: str, value: Any) -> Any:
    if value is None:
        return np.bool_(False)
    if np.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.bool_):
        raise TypeError(f"{who}: flush= is {short(value)}, wanted one boolean, which may be traced")
    return jnp.asarray(value)


def _check_steps(steps: Any) -> Any:
    """`steps` as a Python integer, a schedule, or a number that is not known before the step runs."""
    if is_schedule(steps) and not isinstance(steps, type):
        check_schedule(f"gx.accumulate(steps={short(steps)})", steps)
        return steps
    if isinstance(steps, jax.Array) and np.shape(steps) == () and jnp.issubdtype(steps.dtype, np.floating):
        check_number("accumulate", "steps", steps, low=1, schedule=False)
        return steps
    if isinstance(steps, compat.Tracer) and np.shape(steps) == () and jnp.issubdtype(steps.dtype, np.integer):
        return steps
    why = "1 is no accumulation" if concrete(steps) is not None else "or a schedule of the completed windows"
    check_integer("accumulate", "steps", steps, low=1, why=why)
    number: Any = steps
    return int(number)


@factory(label="", sample={"tx": scale(0.5), "steps": 2})
def accumulate(tx: Any, steps: Any, weight: Any = None):
    """Adds up the gradients of several micro-batches and runs `tx` once with their mean.

    In between the updates are exact zeros and the state of `tx` is what it was. Schedules inside `tx` count its own
    steps, one a window. Whether a window ends is known when the step runs: `tx` then stands in a branch, or, where a
    branch costs more (element rules on a CPU), it is computed and not used. A loop that counts for itself says which
    micro-step a call is, `micro_step=i`, and each of them does its own work only: by bytes, a window of 4 costs two
    steps of AdamW.

    **Update**: `tx` of `sum(w g) / sum(w)` over the micro-steps of a window at the last of them, 0 before.

    Args:
        tx: any transform, ours or Optax's. It gets the extra arguments (`value=`, ...) of the call that ends the
            window, and the mean in float32 (a transform of Optax's inside: in the parameter's dtype).
        steps: how many micro-steps a window has: at least 1, or a schedule of the number of completed windows, so that
            the batch grows in the course of training. A schedule's value is rounded, and below 1 it acts as 1. With
            `gx.tunable(tx, "steps")` it is set between steps.
        weight: the name of an extra argument of `update`, such as `"tokens"`, which then must be given: the number of
            tokens (or examples) of which this gradient is the mean. A micro-step whose weight is not above 0 counts as
            a micro-step and adds nothing, even if its gradient is NaN; a window whose weights are all 0 makes no step.
            None means that all weigh the same.

    Returns:
        A transform with one extra argument of its own: `flush=True` (it may be traced) ends the window with this call,
        for the last, incomplete one of an epoch. It takes the mean of what has come, this gradient included. With a
        weight, zeros of weight 0 end a window whose last gradient has come already, and do nothing to an empty one.
        Another one is `micro_step=i`, a Python integer from 0 to `steps - 1`, static under `jit`: 0 begins a window and
        keeps the gradient, `steps - 1` ends it, however many have come. Under `jit` nobody can see whether it is right:
        count from 0 after a restart, or leave it out for one window. Updates need not be applied before the last one.

    State: `AccumulateState(mini_step, gradient_step, weight, acc_grads, inner_state)`; `acc_grads` is one float32
        number a parameter (none for `steps=1`), role accumulator. Between two windows nothing reads it.

    Reach: that of `tx`.

    Raises:
        ValueError: for `steps` below 1, for a negative weight; for a `micro_step` out of the window, or beside `flush`
            or a schedule of steps.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.accumulate(gx.sgd(1.0), 2, weight="tokens")
        >>> state = tx.init(jnp.zeros(1))
        >>> updates, state = tx.update(jnp.array([3.0]), state, tokens=10)
        >>> float(updates[0])
        0.0
        >>> updates, state = tx.update(jnp.array([7.0]), state, tokens=30)
        >>> float(updates[0])  # (10 * 3 + 30 * 7) / 40
        -6.0

        A loop that counts for itself, one compiled program for each micro-step of a window:

        >>> import functools
        >>> import jax
        >>> tx = gx.accumulate(gx.sgd(1.0), 2)
        >>> @functools.partial(jax.jit, static_argnames="micro_step", donate_argnames=("params", "state"))
        ... def step(params, state, batch, micro_step):
        ...     grads = jax.grad(lambda p: jnp.sum((p - batch) ** 2) / 2)(params)
        ...     updates, state = tx.update(grads, state, params, micro_step=micro_step)
        ...     return gx.apply_updates(params, updates), state
        >>> params, state = jnp.zeros(1), tx.init(jnp.zeros(1))
        >>> for i, batch in enumerate([1.0, 3.0, 4.0, 6.0]):
        ...     params, state = step(params, state, batch, micro_step=i % 2)
        >>> float(params[0])
        5.0

    Differs from Optax: `optax.MultiSteps` runs the inner transform at every micro-step, and one NaN stays in its sum
    for ever; it accepts 0 steps, has no weights and no flush, and as a link of a chain it loses extra arguments.
    """
    if weight is not None and (not isinstance(weight, str) or not weight.isidentifier()):
        remedy = "it is the name of an extra argument: weight='tokens', then tx.update(..., tokens=n)"
        raise TypeError(say(f"gx.accumulate(weight={short(weight)}): wanted a name or None", remedy))
    if weight in ("flush", MICRO_STEP, "updates", "state", "params"):
        raise ValueError(f"gx.accumulate(weight={weight!r}): this argument of update has another meaning")
    return wrap(AccumulateBody(as_transform(tx, "gx.accumulate(tx)"), _check_steps(steps), weight))
