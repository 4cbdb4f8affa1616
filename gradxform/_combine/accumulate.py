"""`accumulate`: one step of the transform inside for several calls of `update`.

    A <- A + w_i g_i,   W <- W + w_i         at every micro-step, in float32
    u  = tx(A / W),  then A = W = 0          at the last one of a window; in between u = 0

g_i is the gradient of a micro-batch, w_i its weight: 1, or the number of tokens over which the gradient is a mean, so
that A / W is the mean over all tokens of the window and not a mean of means. The transform inside stands in a branch
that is not executed in between. Nothing is multiplied by a flag: a NaN is forgotten with the window that it came in.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core import automatic, compat, door
from .._core.errors import (
    check_integer,
    check_number,
    check_schedule,
    concrete,
    describe_array,
    leaf,
    say,
    short,
)
from .._core.factory import factory
from .._core.nested import Inner, NestedBody, run_if
from .._core.numerics import compute_dtype, next_count, real_dtype, widen
from .._core.roles import Accumulator, Count, Reading
from .._core.scalars import is_schedule, resolve
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import (
    View,
    as_array,
    difference,
    gather,
    is_absent,
    is_float0,
    is_inexact,
    spread,
    tree_map,
    view,
)
from .plain import scale


class AccumulateState(NamedTuple):
    """The state of `accumulate`: micro-steps of the window, completed windows, sum of weights, sum of gradients."""

    mini_step: Reading
    gradient_step: Count
    weight: Reading
    acc_grads: Accumulator
    inner_state: Any


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
        if self.single:
            return self._at_once(inner, updates, state, params, extra, weight)
        rows = view(updates)
        _check_alike(who, self.weight, weight, rows)
        stored = _stored(who, state, rows)
        total = state.weight + (np.float32(1) if weight is None else weight)
        mini_step = state.mini_step + np.int32(1)
        closes = (mini_step >= self._length(state.gradient_step)) | _flag(who, extra.get("flush"))
        emits = closes & (total > 0)

        # Both branches add, and what a branch makes is written in place. A sum made in front of the condition would be
        # one more pass over memory: the branch that only hands it on copies it.
        def sums() -> list[Any]:
            return [_add(a, g, weight) for a, g in zip(stored, rows.places, strict=True)]

        def emit() -> Any:
            means = [_mean(a, g, total) for a, g in zip(sums(), rows.places, strict=True)]
            mean = inner.suited(rows.treedef.unflatten(means), params, updates)
            new, inner_state = inner(mean, state.inner_state, params, extra)
            return new, inner_state, gather([_zeros(a) for a in stored], state.acc_grads, rows)

        def idle() -> Any:
            none = inner.none(updates, state.inner_state, params, extra)
            return none, state.inner_state, gather(sums(), state.acc_grads, rows)

        new, inner_state, acc_grads = run_if(emits, emit, idle)
        return new, AccumulateState(
            mini_step=jnp.where(closes, np.int32(0), mini_step),
            gradient_step=jnp.where(emits, next_count(state.gradient_step), state.gradient_step),
            weight=jnp.where(closes, np.float32(0), total),
            acc_grads=acc_grads,
            inner_state=inner_state,
        )

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


def _stored(who: str, state: AccumulateState, rows: View) -> list[Any]:
    """The sums as rows, held against the updates."""
    try:
        stored = spread(state.acc_grads, rows)
    except (ValueError, TypeError):
        problem = difference(rows, view(state.acc_grads), "the updates", "the state's acc_grads")
        raise ValueError(say(f"{who}: {problem or 'they differ'}", door.REMEDY)) from None
    for path, g, a in zip(rows.paths, rows.places, stored, strict=True):
        if is_absent(g) or is_float0(g):
            continue
        if is_absent(a):
            fact = f"{who}: {leaf(path)} has an update {describe_array(g)} and no acc_grads in the state"
            raise ValueError(say(fact, "it was masked or absent when init was called"))
        if np.shape(a) != np.shape(g):
            fact = f"{who}: {leaf(path)} has an update of shape {np.shape(g)}, its acc_grads {np.shape(a)}"
            raise ValueError(say(fact, f"{door.EQUAL}: {door.REMEDY}"))
    return stored


def _summed(a: Any, g: Any) -> bool:
    """Whether a leaf is added up: not where there is no gradient, and integers are carried."""
    return not (is_absent(g) or is_float0(g) or not is_inexact(g) or is_absent(a) or not is_inexact(a))


def _add(a: Any, g: Any, weight: Any) -> Any:
    if not _summed(a, g):
        return a
    a, g = jnp.asarray(a), jnp.asarray(g)
    # A sum of two numbers near 2^127, where bfloat16 ends, is infinite; rules see 16-bit gradients bounded as here.
    g = automatic.laid(compat.strong(widen(g, compute_dtype(g.dtype)), a.dtype), a)
    if weight is None:
        return a + g
    return jnp.where(weight > 0, a + weight.astype(a.dtype) * g, a)


def _mean(a: Any, g: Any, total: Any) -> Any:
    return a / total.astype(real_dtype(a.dtype)) if _summed(a, g) else g


def _zeros(a: Any) -> Any:
    return a if is_absent(a) else jnp.zeros_like(a)


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

    In between the updates are exact zeros and `tx` does not run (under `vmap`, which executes both branches of a
    condition, it runs and is not used). Schedules inside `tx` count its own steps, one a window.

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

    State: `AccumulateState(mini_step, gradient_step, weight, acc_grads, inner_state)`; `acc_grads` is one float32
        number a parameter (none for `steps=1`), role accumulator.

    Reach: that of `tx`.

    Raises:
        ValueError: for `steps` below 1, for a negative weight.

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

    Differs from Optax: `optax.MultiSteps` runs the inner transform at every micro-step, and one NaN stays in its sum
    for ever; it accepts 0 steps, has no weights and no flush, and as a link of a chain it loses extra arguments.
    """
    if weight is not None and (not isinstance(weight, str) or not weight.isidentifier()):
        remedy = "it is the name of an extra argument: weight='tokens', then tx.update(..., tokens=n)"
        raise TypeError(say(f"gx.accumulate(weight={short(weight)}): wanted a name or None", remedy))
    if weight in ("flush", "updates", "state", "params"):
        raise ValueError(f"gx.accumulate(weight={weight!r}): this argument of update has another meaning")
    return wrap(AccumulateBody(as_transform(tx, "gx.accumulate(tx)"), _check_steps(steps), weight))
