"""A step that must not count does not count: `guard`, and `check`, which says so on the host.

    n_t = |g_t|                                   the norm over all leaves, Inf if a square overflows
    bad = not finite(n_t) or not finite(value)    or an update that is not finite
        or n_t > mean + spike * std               of the last `window` norms of steps that counted

On a bad step the updates are zero and the inner state is what it was: the step has never happened, for the moments, for
the counts and for the schedules. A norm that is not finite, or is a spike, does not enter the window, so that one NaN
cannot make the mean NaN for as long as the window is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core import compat, observe
from .._core.errors import check_flag, check_integer, check_number, say, short
from .._core.factory import factory
from .._core.nested import Inner, NestedBody
from .._core.norms import all_finite, squared_norm
from .._core.plan import Plan
from .._core.porting import declare_port
from .._core.roles import Reading, declare_unit
from .._core.skip import ask, hold, unshared
from .._core.states import nodes, unboxed
from .._core.transform import GradientTransformation, as_transform, wrap
from .loss_scale import LossScaleState
from .plain import scale

#: A standard deviation is at least this share of the mean: norms that are equal but for rounding are no spikes.
LEAST_SPREAD = 1e-3
_MODES = ("skip", "pass")
#: How many steps in a row a loss scale may skip before `check` raises.
PATIENCE = 100
#: What to do about spikes that are none.
_FORGET = (
    "if the gradients are right and larger for good, empty its window: state._replace(seen=0 * state.seen, "
    "seen_values=0 * state.seen_values), with the GuardState as state"
)


class GuardState(NamedTuple):
    """The state of `guard`. `norms` and `values`, None without `spike`, are rings of what counted."""

    skipped: Reading
    consecutive: Reading
    limit: Any
    norms: Any
    values: Any
    seen: Any
    seen_values: Any
    inner_state: Any


declare_unit(GuardState, "norms")


def _of_apply_if_finite(state: Any, like: GuardState) -> GuardState:
    """Optax counts what it skipped in all, and in a row; a window of norms, if there is one, begins empty."""
    counters = {"skipped": state.total_notfinite, "consecutive": state.notfinite_count}
    return like._replace(**counters, inner_state=state.inner_state)


declare_port(optax.ApplyIfFiniteState, GuardState, _of_apply_if_finite)


class GuardBody(NestedBody):
    call = "guard"
    branches = True
    reach = "tree"
    skips = "counts"

    def __init__(self, inner: GradientTransformation, options: Mapping[str, Any]) -> None:
        super().__init__(inner, GuardState)
        self.nonfinite = options["nonfinite"] == "skip"
        self.spike, self.window = options["spike"], options["window"]
        limit = options["max_consecutive"]
        self.limit = self.window if limit is None else limit
        self.axis_names, self.check_updates = options["axis_names"], options["check_updates"]

    def start(self, params: Any, inner_state: Any) -> GuardState:
        del params
        zero = np.zeros([], np.int32)
        counters = {name: jnp.array(zero) for name in ("skipped", "consecutive", "seen", "seen_values")}
        # None and no empty array: Orbax writes none.
        ring = np.zeros(self.window, np.float32)
        rings = {name: None if self.spike is None else jnp.array(ring) for name in ("norms", "values")}
        limit = jnp.array(np.asarray(self.limit, np.int32))
        return GuardState(limit=limit, inner_state=inner_state, **counters, **rings)

    def step(
        self, inner: Inner, updates: Any, state: GuardState, params: Any, extra: Mapping[str, Any]
    ) -> Any:
        # A clip inside forms the same sum, and XLA forms it once. Without one the squares alone would be shared, with a
        # second moment, and for that be written down.
        seen = updates if _sums_gradients(inner.plan) else unshared(updates)
        square = squared_norm(seen, *self._shards(inner))
        norm, value = jnp.sqrt(square), _value(extra.get("value"), square.dtype)
        finite, good = jnp.isfinite(norm), jnp.asarray(True)
        if value is not None:
            finite = finite & jnp.isfinite(value)
        if self.nonfinite:
            good = good & finite
        if self.spike is not None:
            good = good & ~self._spike(norm, state.norms, state.seen)
            if value is not None:
                good = good & ~self._spike(value, state.values, state.seen_values)
        new, inner_state, good = self._run(inner, good, updates, state.inner_state, params, extra)
        return new, self._after(state, good, good & finite, norm, value, inner_state)

    def _shards(self, inner: Inner) -> tuple[Any, str]:
        return inner.axis_names(self.axis_names), inner.address or "guard"

    def _run(
        self, inner: Inner, good: Any, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any, Any]:
        """The step of the transform inside, if it counts, and whether it did.

        To look at the updates first, they are computed without the state, and again with it: a pass more over
        gradients, state and parameters that writes nothing.
        """

        def run() -> Any:
            return inner(updates, state, params, extra)

        def none() -> Any:
            return inner.none(updates, state, params, extra)

        def sound() -> Any:
            new, _ = inner(unshared(updates), unshared(state), unshared(params), extra)
            return all_finite(new, *self._shards(inner))

        if self.nonfinite and self.check_updates:
            with observe.unwatched():
                good = good & ask(good, sound)
        return *hold(good, run, state, none), good

    def _spike(self, x: Any, ring: Any, seen: Any) -> Any:
        """Whether `x` stands out among the numbers of the ring, once there are enough of them to tell."""
        held = jnp.minimum(seen, self.window)
        inside = jnp.arange(self.window) < held
        size = jnp.maximum(held, 1).astype(ring.dtype)
        zero = np.asarray(0, ring.dtype)
        mean = jnp.sum(jnp.where(inside, ring, zero)) / size
        deviation = jnp.sqrt(jnp.sum(jnp.where(inside, (ring - mean) ** 2, zero)) / size)
        spread = jnp.maximum(deviation, np.asarray(LEAST_SPREAD, ring.dtype) * jnp.abs(mean))
        threshold = mean + jnp.asarray(self.spike).astype(ring.dtype) * spread
        # Against a window of zeros (a frozen start, a head that begins at zero) everything would stand out, for ever.
        known = (held >= enough(self.window)) & (spread > 0)
        return known & (x.astype(ring.dtype) > threshold)

    def _after(
        self, state: GuardState, good: Any, enters: Any, norm: Any, value: Any, inner_state: Any
    ) -> GuardState:
        bad = ~good
        made: dict[str, Any] = {
            "skipped": state.skipped + bad.astype(jnp.int32),
            "consecutive": jnp.where(good, np.int32(0), state.consecutive + np.int32(1)),
            "limit": jnp.full_like(state.limit, self.limit),
            "inner_state": inner_state,
        }
        if self.spike is not None:
            made["norms"], made["seen"] = self._push(state.norms, state.seen, norm, enters)
            if value is not None:
                made["values"], made["seen_values"] = self._push(
                    state.values, state.seen_values, value, enters
                )
        return state._replace(**made)

    def _push(self, ring: Any, seen: Any, x: Any, enters: Any) -> tuple[Any, Any]:
        place = jnp.arange(self.window) == seen % self.window
        # From 2 * window on the count goes back by one round, so that it never overflows.
        after = jnp.where(seen + 1 >= 2 * self.window, seen + 1 - self.window, seen + 1)
        return jnp.where(place & enters, x.astype(ring.dtype), ring), jnp.where(enters, after, seen)


def _sums_gradients(plan: Plan) -> bool:
    """Whether a link reduces the gradients as they come."""
    first = plan.segments[0].stages if plan.segments else []
    rules = ((plan.links[number].rule, i) for number, i in first)
    return any(rule is not None and rule.stages[i].reduce is not None for rule, i in rules)


def enough(window: int) -> int:
    """How many norms must be known before one can stand out among them: a quarter of the window, at least 2."""
    return min(window, max(2, window // 4))


def _value(value: Any, dtype: Any) -> Any:
    if value is None:
        return None
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            say(f"gx.guard: value= has shape {value.shape}, wanted the loss, one number", "pass its mean")
        )
    differs = sorted(compat.varying_axes(value))
    if differs:
        fact = f"gx.guard: value= differs between the devices of the mesh axes {differs}, and each would decide alone"
        raise ValueError(say(fact, f"pass jax.lax.pmean(loss, {tuple(differs)})"))
    return value.astype(dtype)


@factory(label="", sample={"tx": scale(0.5)})
def guard(
    tx: Any,
    nonfinite: str = "skip",
    spike: Any = None,
    window: int = 128,
    max_consecutive: int | None = None,
    *,
    check_updates: bool = True,
    axis_names: Any = None,
):
    """Skips a step whose gradients or loss are not finite, or stand far above those of the recent steps.

    A skipped step has never happened: updates of zero, and the inner state, counts and schedules included, as it was.
    Skips are counted; call `gx.check(state)` on the host now and then, which raises when there are too many in a row.

    **Update**: `tx`'s, or zero where the norm `n` of the gradients, the loss, or an update of `tx` is not finite, or
    where `n > mean + spike std` of the last `window` norms of steps that counted (and so for the loss).

    Args:
        tx: any transform, ours or Optax's.
        nonfinite: "skip", or "pass" to look for spikes only.
        spike: above 0, in standard deviations; None looks for no spikes. 6 is a usual number. A standard deviation is
            taken to be at least 0.001 of the mean. Nothing is a spike before a quarter of the window is full. Norms
            that rise at once and for good (another loss, another batch size) are skipped until `gx.check` raises; its
            message says how the window is emptied.
        window: how many norms are remembered.
        max_consecutive: how many skips in a row `gx.check` accepts; None means `window`. The step itself goes on
            skipping: bad numbers never reach the parameters.
        check_updates: whether the updates of `tx` are looked at too, which takes one pass more over gradients and
            state. A number whose square overflows counts as infinite, in gradients and updates.
        axis_names: inside `shard_map`, the mesh axes over which gradients are shards; see `gx.clip_by_global_norm`.

    State: `GuardState(skipped, consecutive, limit, norms, values, seen, seen_values, inner_state)`: int32 counters,
    and, with `spike`, two rings of `window` float32 numbers.

    Reach: tree.

    Raises:
        ValueError: for a `value=` that is not one number.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.guard(gx.adam(0.1))
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(params), params)
        >>> updates.tolist(), int(state.skipped), int(state.inner_state[0].count)
        ([0.0, 0.0], 1, 0)

    Differs from Optax: `optax.apply_if_finite` lets a finite gradient with an infinite update pass, gives up after
    `max_consecutive_errors` and then writes NaN into the parameters, and has no window.
    """
    if nonfinite not in _MODES:
        raise ValueError(f"gx.guard(nonfinite={short(nonfinite)}): wanted 'skip' or 'pass'")
    if spike is not None:
        check_number("guard", "spike", spike, low=0, open_low=True, schedule=False)
    check_integer("guard", "window", window, low=2)
    if max_consecutive is not None:
        check_integer("guard", "max_consecutive", max_consecutive, low=0)
    check_flag("guard", "check_updates", check_updates)
    inner = as_transform(tx, "gx.guard(tx)")
    return wrap(GuardBody(inner, locals()))


class Skipped(RuntimeError):
    """Too many steps in a row were skipped."""


def check(state: Any) -> None:
    """Raises when a guard or a loss scale has skipped more steps in a row than it may. For the host, between steps.

    It waits for the state to be computed; call it where the loop logs, not at every step.

    Args:
        state: the state of any transform, also `nnx.Optimizer.opt_state` or `TrainState.opt_state`, or what holds
            one. A state without a guard in it passes. A `gx.loss_scale` may skip 100 in a row: by then the scale is as
            small as it gets, and what is not finite are the gradients.

    Raises:
        Skipped: a `RuntimeError` that says how many were skipped, in a row and in total, and where.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.guard(gx.sgd(0.1), max_consecutive=0)
        >>> _, state = tx.update(jnp.array(jnp.nan), tx.init(jnp.zeros([])))
        >>> gx.check(state)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        gradxform._combine.guard.Skipped: gx.check: guard has skipped the last 1 steps (1 in all), and 0 in a row...
    """
    for address, node in nodes(state):
        if not isinstance(node, GuardState | LossScaleState):
            continue
        limit = node.limit if isinstance(node, GuardState) else jnp.asarray(PATIENCE)
        counters = jax.device_get(unboxed((node.skipped, node.consecutive, limit)))
        skipped, consecutive, most = (int(np.max(x)) for x in counters)
        if consecutive > most:
            name = "guard" if isinstance(node, GuardState) else "loss_scale"
            fact = (
                f"gx.check: {f'the {name} at {address}' if address else name} has skipped the last {consecutive} "
                f"steps ({skipped} in all), and {most} in a row are allowed"
            )
            remedy = "the parameters are those of the last good step: look at the data and the loss, or lower the rate"
            raise Skipped(say(fact, remedy, _FORGET if getattr(node, "norms", None) is not None else ""))
