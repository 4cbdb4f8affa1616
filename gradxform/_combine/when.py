"""Transforms that run at some steps only: `apply_when`, and `switch_at`, one transform first and another one later.

The one that does not run stands in a branch that is not executed (under `vmap`, which executes both branches of a
condition, it runs and is not used), and its state waits. One program is compiled for all steps.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._core.depends import depends
from .._core.errors import check_integer, check_schedule, describe_array, kind, say, short
from .._core.factory import factory
from .._core.nested import EitherBody, Inner, NestedBody, exact_link
from .._core.numerics import cast, next_count
from .._core.roles import Count
from .._core.scalars import is_schedule, resolve
from .._core.skip import run_if
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import is_absent, is_float0, tree_map
from .plain import scale

_OTHERWISE = ("pass", "zero")


class ApplyWhenState(NamedTuple):
    """The state of `apply_when`: calls of `update`, those at which the transform rested included."""

    count: Count
    inner_state: Any


class ApplyWhenBody(NestedBody):
    call = "apply_when"
    branches = True

    def __init__(self, inner: GradientTransformation, when: Any, otherwise: str) -> None:
        super().__init__(inner, ApplyWhenState)
        self.when, self.passes = when, otherwise == "pass"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.when,) if isinstance(self.when, str) else ()

    def start(self, params: Any, inner_state: Any) -> ApplyWhenState:
        del params
        return ApplyWhenState(jnp.zeros([], jnp.int32), inner_state)

    def step(
        self, inner: Inner, updates: Any, state: ApplyWhenState, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, ApplyWhenState]:
        def idle() -> Any:
            none = inner.none(updates, state.inner_state, params, extra)
            rest = tree_map(_passed, none, updates) if self.passes else none
            return rest, state.inner_state

        # A branch and not `hold`: what rests at nine steps of ten shall do no work at them.
        new, inner_state = run_if(
            self._holds(inner.address or "apply_when", state.count, extra),
            lambda: inner(updates, state.inner_state, params, extra),
            idle,
        )
        return new, ApplyWhenState(next_count(state.count), inner_state)

    def _holds(self, who: str, count: Any, extra: Mapping[str, Any]) -> Any:
        if not isinstance(self.when, str):
            return jnp.asarray(resolve("apply_when", "when", _numbered(self.when), count, np.float32)) > 0
        got = extra[self.when]
        if np.shape(got) != ():
            fact = f"{who}: {self.when}= is {describe_array(got)}, wanted one boolean"
            raise ValueError(say(fact, "it decides for the whole step"))
        return jnp.asarray(got).astype(jnp.float32) > 0


def _numbered(when: Any) -> Any:
    """A condition as a schedule: 1 where it is True."""

    def schedule(count: Any) -> Any:
        got = when(count)
        return jnp.asarray(got).astype(jnp.float32) if jnp.result_type(got) == jnp.bool_ else got

    schedule.__name__ = getattr(when, "__name__", type(when).__name__)
    return schedule


def _passed(zero: Any, u: Any) -> Any:
    """The update itself, in the dtype that a step would give."""
    return u if is_absent(u) or is_float0(u) else cast(jnp.asarray(u), zero.dtype)


def _every_other(count: Any) -> Any:
    return count % 2 == 0


@factory(label="", sample={"tx": scale(0.5), "when": _every_other})
def apply_when(tx: Any, when: Any, otherwise: str = "pass"):
    """Runs a transform at the steps at which a condition holds; at the others it does no work and its state waits.

    **Update**: `tx` where `when` holds; elsewhere the updates that came (`"pass"`), or zero (`"zero"`).

    Args:
        tx: any transform, ours or Optax's.
        when: a function of the number of completed calls of `update` (0 at the first) that gives a boolean, such as
            `lambda step: step % 10 == 0`, or a schedule, which holds where it is above 0; or the name of an extra
            argument of `update`, which then must be given: a boolean that may be traced.
        otherwise: "pass" for a link that treats the updates, such as a clip; "zero" for a whole optimizer, whose
            parameters shall rest (raw gradients would push them uphill).

    State: `ApplyWhenState(count, inner_state)`.

    Reach: that of `tx`.

    Raises:
        ValueError: for another `otherwise`, or a condition that is not one number.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.apply_when(gx.scale(10.0), lambda step: step >= 1)
        >>> state = tx.init(0.0)
        >>> first, state = tx.update(1.0, state)
        >>> second, state = tx.update(1.0, state)
        >>> float(first), float(second)
        (1.0, 10.0)

    Differs from Optax: `conditionally_transform` and `conditionally_mask` in one; gradients and parameters may differ
    in dtype; the condition may come from the loop.
    """
    text = f"gx.apply_when(when={short(when)})"
    if not isinstance(when, str):
        if not is_schedule(when) or isinstance(when, type):
            wanted = "wanted a function of the step count or the name of an extra argument"
            raise TypeError(say(f"{text}: {wanted}, got {kind(when)}", "such as lambda step: step < 1000"))
        check_schedule(text, when)
    elif not when.isidentifier() or when in ("updates", "state", "params"):
        raise ValueError(f"{text}: wanted the name of an extra argument of update, such as 'is_last'")
    if otherwise not in _OTHERWISE:
        raise ValueError(f"gx.apply_when(otherwise={short(otherwise)}): wanted 'pass' or 'zero'")
    return wrap(ApplyWhenBody(as_transform(tx, "gx.apply_when(tx)"), when, otherwise))


class SwitchAtState(NamedTuple):
    """The state of `switch_at`: completed steps, and the states of the two transforms."""

    count: Count
    before: Any
    after: Any


class SwitchAtBody(EitherBody):
    call = "switch_at"

    def __init__(self, step: int, before: GradientTransformation, after: GradientTransformation) -> None:
        super().__init__({"before": before, "after": after}, SwitchAtState)
        self.at = np.int32(step)

    def start(self, params: Any, inner_state: Any) -> SwitchAtState:
        del params
        return SwitchAtState(jnp.zeros([], jnp.int32), inner_state["before"], inner_state["after"])

    def run_one(
        self,
        inners: Mapping[str, Inner],
        updates: Any,
        state: SwitchAtState,
        params: Any,
        extra: Mapping[str, Any],
    ) -> tuple[Any, SwitchAtState]:
        before, after = inners["before"], inners["after"]

        def first() -> Any:
            new, inner_state = before(updates, state.before, params, extra)
            return new, inner_state, state.after

        def second() -> Any:
            begun = self._begun(after, state, params)
            new, inner_state = after(updates, begun, params, extra)
            return new, state.before, inner_state

        def idle() -> Any:
            exact, held = (after, state.after) if exact_link(after.plan) else (before, state.before)
            return exact.none(updates, held, params, extra), state.before, state.after

        new, old, young = run_if(state.count < self.at, first, second, like=idle)
        return new, SwitchAtState(next_count(state.count), old, young)

    def _begun(self, after: Inner, state: SwitchAtState, params: Any) -> Any:
        """The state of the second transform, at the switch with what `init` makes of the parameters that are there."""

        def init(params: Any) -> Any:
            return after.body.init(params, after.route.stacked)

        made = [] if params is None else depends(init, params)
        if not any(made):
            return state.after

        def fresh() -> Any:
            held, treedef = jax.tree.flatten(state.after)
            new = jax.tree.leaves(init(params))
            return treedef.unflatten(n if mark else h for n, h, mark in zip(new, held, made, strict=True))

        return run_if(state.count == self.at, fresh, lambda: state.after)


@factory(label="", sample={"step": 1, "tx_a": scale(0.5), "tx_b": scale(2.0)})
def switch_at(step: int, tx_a: Any, tx_b: Any):
    """One transform for the first steps and another one from then on, in one compiled program.

    **Update**: `tx_a` for the first `step` updates, then `tx_b`, which begins at its own step 0.

    To change the optimizer of a job that runs already, or to free the memory of the first one's state, see
    `gx.restore_into`.

    Args:
        step: how many updates `tx_a` makes, at least 0.
        tx_a, tx_b: any transforms, ours or Optax's. Each has its own learning rate and schedules; those of `tx_b` count
            from the switch.

    State: `SwitchAtState(count, before, after)`: both states are there from the start to the end. What `init` of `tx_b`
        makes of the parameters (an average, a second iterate) is made again at the switch, from the parameters there,
        if `update` is given them; moments that were restored and numbers that were set before stay.

    Reach: the wider of both.

    Raises:
        ValueError: for a negative step.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.switch_at(1, gx.sgd(1.0), gx.sgd(0.1))
        >>> state = tx.init(0.0)
        >>> first, state = tx.update(1.0, state, 0.0)
        >>> second, state = tx.update(1.0, state, -1.0)
        >>> round(float(first), 3), round(float(second), 3)
        (-1.0, -0.1)

    Differs from Optax: it has none.
    """
    check_integer("switch_at", "step", step)
    if step > np.iinfo(np.int32).max:
        raise ValueError(
            f"gx.switch_at(step={step}): wanted less than 2^31, the largest step that is counted"
        )
    before, after = as_transform(tx_a, "gx.switch_at(tx_a)"), as_transform(tx_b, "gx.switch_at(tx_b)")
    return wrap(SwitchAtBody(int(step), before, after))
