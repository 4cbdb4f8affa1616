"""`loss_scale`: gradients of float16 that neither vanish nor overflow; `current_loss_scale`, the factor of the loss.

    g  = gradient of (s * loss)               in float16, which is 0 below 6e-8 and infinite above 65504
    u  = tx(g / s)                            divided in float32, before anything else sees it
    s <- s * factor                           after `growth_interval` finite steps in a row
    s <- s / factor,  u = 0, tx untouched     at a step that is not finite

Micikevicius et al., Mixed Precision Training, 2018, arXiv:1710.03740, section 3.2.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._core.errors import check_integer, check_number, concrete, say
from .._core.factory import factory
from .._core.nested import Inner, NestedBody
from .._core.norms import squared_norm
from .._core.numerics import compute_dtype, next_count, real_dtype
from .._core.roles import Reading, declare_unit
from .._core.skip import hold
from .._core.states import nodes, unboxed
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import is_float0, is_inexact, tree_map
from .plain import scale


class LossScaleState(NamedTuple):
    """The state of `loss_scale`: the scale, finite steps since it last changed, skipped steps in all and in a row."""

    scale: Reading
    good_steps: Reading
    skipped: Reading
    consecutive: Reading
    inner_state: Any


declare_unit(LossScaleState, rescales=True)


class LossScaleBody(NestedBody):
    call = "loss_scale"
    branches = True
    reach = "tree"
    skips = "learns"

    def __init__(self, inner: GradientTransformation, options: Mapping[str, Any]) -> None:
        super().__init__(inner, LossScaleState)
        names = ("initial", "growth_interval", "factor", "min_scale", "max_scale", "axis_names")
        self.initial, self.growth_interval, self.factor, self.low, self.high, self.axis_names = (
            options[name] for name in names
        )

    def start(self, params: Any, inner_state: Any) -> LossScaleState:
        del params
        zero = np.zeros([], np.int32)
        first = jnp.array(self.initial, jnp.float32)
        return LossScaleState(first, jnp.array(zero), jnp.array(zero), jnp.array(zero), inner_state)

    def step(
        self, inner: Inner, updates: Any, state: LossScaleState, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, LossScaleState]:
        square = squared_norm(updates, inner.axis_names(self.axis_names), inner.address or "loss_scale")
        finite = jnp.isfinite(jnp.sqrt(square))

        def run() -> Any:
            # A factor, for a quotient that two loops need is written down. Powers of two change no digit.
            factor = np.float32(1) / state.scale
            true = inner.suited(tree_map(lambda g: _times(g, factor), updates), params, updates)
            return inner(true, state.inner_state, params, extra)

        def none() -> Any:
            return inner.none(updates, state.inner_state, params, extra)

        new, inner_state = hold(finite, run, state.inner_state, none)
        good_steps = jnp.where(finite, state.good_steps + np.int32(1), np.int32(0))
        grows = good_steps >= self.growth_interval
        factor, low, high = (jnp.asarray(x).astype(jnp.float32) for x in (self.factor, self.low, self.high))
        grown = jnp.where(grows, jnp.minimum(state.scale * factor, high), state.scale)
        return new, LossScaleState(
            scale=jnp.where(finite, grown, jnp.maximum(state.scale / factor, low)),
            good_steps=jnp.where(grows, np.int32(0), good_steps),
            skipped=jnp.where(finite, state.skipped, next_count(state.skipped)),
            consecutive=jnp.where(finite, np.int32(0), next_count(state.consecutive)),
            inner_state=inner_state,
        )


def _times(g: Any, factor: Any) -> Any:
    if is_float0(g) or not is_inexact(g):
        return g
    g = jnp.asarray(g)
    dtype = compute_dtype(g.dtype)
    return g.astype(dtype) * factor.astype(real_dtype(dtype))


@factory(label="", sample={"tx": scale(0.5)})
def loss_scale(
    tx: Any,
    initial: Any = 2.0**15,
    growth_interval: int = 2000,
    factor: Any = 2.0,
    min_scale: Any = 1.0,
    max_scale: Any = 2.0**24,
    *,
    axis_names: Any = None,
):
    """Dynamic loss scaling: takes gradients of a loss that was multiplied by `gx.current_loss_scale(state)`.

    For gradients in float16. bfloat16 and float32 have the range of float32 and need none; `gx.guard` skips their bad
    steps. A skipped step has never happened for `tx`. It goes outermost: a `gx.guard` around it would skip the step
    whose overflow must lower the scale; inside it, `gx.guard(spike=...)` sees true gradients.

    **Update**: `tx` of `g / scale` if all gradients are finite, else 0, and the scale is divided by `factor`.

    Args:
        tx: any transform, ours or Optax's. It gets the gradients in float32 (a transform of Optax's: in the parameter's
            dtype, so keep parameters in float32 and cast them inside the loss), and a `value=` as it was passed, which
            should be the loss before it was scaled.
        initial: the first scale, above 0. Powers of two change no digit. Too large costs a few skipped steps.
        growth_interval: after so many finite steps in a row the scale grows.
        factor: above 1, by which it grows and shrinks.
        min_scale, max_scale: its bounds. At 2^24, gradients down to 4e-15 are seen.
        axis_names: inside `shard_map`, the mesh axes over which gradients are shards; see `gx.clip_by_global_norm`.

    State: `LossScaleState(scale, good_steps, skipped, consecutive, inner_state)`; four numbers. `gx.check` raises when
        it has skipped more than 100 steps in a row.

    Reach: tree.

    Raises:
        ValueError: for a factor that is not above 1, or an initial scale outside of the bounds.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.loss_scale(gx.sgd(1.0))
        >>> params = jnp.array([2.0])
        >>> state = tx.init(params)
        >>> def loss(p, scale):  # its slope is 1e-8, for which float16 has no number
        ...     small = 1e-4 * (1e-4 * p.astype(jnp.float16))
        ...     return scale * small.sum().astype(jnp.float32)
        >>> float(jax.grad(loss)(params, 1.0)[0])
        0.0
        >>> updates, state = tx.update(jax.grad(loss)(params, gx.current_loss_scale(state)), state, params)
        >>> round(float(updates[0]) * 1e8, 2)
        -1.0

    Differs from Optax: it has none. `jmp.DynamicLossScale` and torch's `GradScaler` do the same arithmetic beside the
    optimizer.

    References: Micikevicius et al., 2018, arXiv:1710.03740.
    """
    why = "a scale multiplies the loss"
    for name, value in (("initial", initial), ("min_scale", min_scale), ("max_scale", max_scale)):
        check_number("loss_scale", name, value, low=0, open_low=True, schedule=False, why=why)
    check_number("loss_scale", "factor", factor, low=1, open_low=True, schedule=False, why="2 is usual")
    check_integer("loss_scale", "growth_interval", growth_interval, low=1)
    first, low, high = (concrete(x) for x in (initial, min_scale, max_scale))
    if first is not None and low is not None and high is not None and not low <= first <= high:
        fact = f"gx.loss_scale(initial={first:g}): wanted a scale between min_scale={low:g} and max_scale={high:g}"
        raise ValueError(say(fact, "move the bound, or start inside of them"))
    return wrap(LossScaleBody(as_transform(tx, "gx.loss_scale(tx)"), locals()))


def current_loss_scale(state: Any) -> Any:
    """The number by which the loss is multiplied before it is differentiated, for a `gx.loss_scale` in `state`.

    Args:
        state: the state of any transform, also `nnx.Optimizer.opt_state` or `TrainState.opt_state`; it may be traced.

    Returns:
        A float32 scalar. Multiply in float32: `loss.astype(jnp.float32) * gx.current_loss_scale(state)`.

    Raises:
        ValueError: if the state has no `loss_scale` in it, or several.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> float(gx.current_loss_scale(gx.loss_scale(gx.adam(1e-3)).init(jnp.zeros(2))))
        32768.0
    """
    found = [(address, node) for address, node in nodes(state) if isinstance(node, LossScaleState)]
    if len(found) != 1:
        got = " and ".join(address or "the root" for address, _ in found)
        got = f"them at {got}" if got else "none"
        fact = f"gx.current_loss_scale: wanted a state with one gx.loss_scale in it, got {got}"
        raise ValueError(say(fact, "put one gx.loss_scale around the whole optimizer"))
    return jnp.asarray(unboxed(found[0][1].scale))
