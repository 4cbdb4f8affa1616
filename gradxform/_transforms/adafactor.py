"""Adafactor: a second moment for the rows and one for the columns of a matrix stand for that of every element.

    b_t = 1 - t^-decay_rate                                                 t = 1, 2, ...
    r_t = b_t r_{t-1} + (1 - b_t) mean over columns of (g_t^2 + epsilon)    `v_row` in the state
    c_t = b_t c_{t-1} + (1 - b_t) mean over rows    of (g_t^2 + epsilon)    `v_col`
    v_t = r_t c_t / mean(r_t)
    u_t = g_t / sqrt(v_t)

g is the gradient, decay_rate 0.8. For vectors and small arrays v is the average itself, in `v`. The recipe then bounds
the root mean square of u by 1, multiplies by that of the parameter, and has no momentum: the state of an m x n matrix
is m + n numbers. torch adds nothing to the squares but bounds v from below.
Shazeer & Stern, Adafactor: adaptive learning rates with sublinear memory cost, ICML 2018, arXiv:1804.04235. Zhai et
al., Scaling vision transformers, CVPR 2022, arXiv:2106.04560 (big_vision).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale, scale_by_learning_rate
from .._core import compat
from .._core.errors import check_flag, check_integer, check_number
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import abs_sq, positive, ratio, root
from .average import ema
from .clip import clip_by_block_rms
from .decay import add_decayed_weights, check_decay


def _factored_axes(shape: tuple[int, ...], least: int, last: bool) -> tuple[int, int] | None:
    """The axes of the smaller and the larger factor, or None for an array that is kept whole."""
    if len(shape) < 2:
        return None
    if last:
        return len(shape) - 2, len(shape) - 1
    order = np.argsort(shape)  # Optax's order, also where sizes are equal: the states are exchanged
    return None if shape[order[-2]] < least else (int(order[-2]), int(order[-1]))


def _without(p: Any, axis: int, leaf: Any) -> Any:
    """Zeros like `p` without one axis; through the shape of a sum, so that a sharded array gives a sharded one."""
    return compat.zeros_as(jax.eval_shape(lambda x: leaf.sum(x, axis), p))


def _inverse_or_zero(v: Any) -> Any:
    return jnp.where(v > 0, jax.lax.rsqrt(v), np.asarray(0, v.dtype))


def _slots(axes: Callable[[Any], tuple[int, int] | None]) -> dict[str, Any]:
    """The makers of the three slots, of which an array uses two or one; shape (1,) stands for the others."""

    def factor(p: Any, leaf: Any, which: int) -> Any:
        found = axes(leaf)
        return jnp.zeros((1,)) if found is None else _without(p, found[which], leaf)

    return {
        "v_row": lambda p, leaf: factor(p, leaf, 1),
        "v_col": lambda p, leaf: factor(p, leaf, 0),
        "v": lambda p, leaf: jnp.zeros_like(p) if axes(leaf) is None else jnp.zeros((1,)),
    }


@factory
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Any = 0.8,
    step_offset: Any = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Any = 1e-30,
    decay_rate_fn: Any = None,
    *,
    beta2_cap: Any = None,
    floor: Any = None,
    last_axes: bool = False,
):
    """Divides by the root of a factored second moment.

    **Update**: as at this module's head.

    Args:
        factored: False keeps every second moment whole.
        decay_rate: the exponent of the growing memory, above 0; at step t it reaches back about t^decay_rate steps.
        step_offset: how many steps of the count belong to an earlier phase; they count as the first.
        min_dim_size_to_factor: arrays whose second largest axis is smaller are kept whole.
        epsilon: added to squared gradients, at least 0. With 0 and no floor, what has never had a gradient stays.
        decay_rate_fn: `f(steps before this one, decay_rate)`, the share of the average that is kept at a step, in the
            place of `1 - t^-decay_rate`.
        beta2_cap: the most that is kept at a step, in [0, 1]; 0.999 in big_vision. Without, memory grows for ever.
        floor: a number e above 0, or "machine", the machine epsilon of the parameter's dtype: mean(r) is at least e and
            v at least e^2; torch, with `epsilon=0.0`.
        last_axes: True factors the last two axes of every array that has two, as torch; False the two largest.

    State: `optax.FactoredState(count, v_row, v_col, v)`: an array's dimensions without one each, or one number a
    parameter; roles count, factor, factor, second moment. What an array does not use has shape (1,).

    Reach: leaf. A stack of layers in one array is one array unless `gx.per_layer` says otherwise.

    Returns:
        A transform whose update is about 1 in size.

    Raises:
        ValueError: for a decay rate or a floor that is not positive, a negative number, a cap outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_factored_rms(min_dim_size_to_factor=2)
        >>> state = tx.init(jnp.zeros((4, 3)))
        >>> state.v_row.shape, state.v_col.shape
        ((3,), (4,))

    Differs from Optax: steps before `step_offset` count as the first (Optax: NaN); params are not needed; factors of
    16-bit parameters are float32; `beta2_cap`, `floor`, `last_axes`.
    """
    check_flag("scale_by_factored_rms", "factored", factored)
    check_flag("scale_by_factored_rms", "last_axes", last_axes)
    check_number("scale_by_factored_rms", "decay_rate", decay_rate, low=0, open_low=True)
    check_number("scale_by_factored_rms", "step_offset", step_offset, low=0)
    check_integer("scale_by_factored_rms", "min_dim_size_to_factor", min_dim_size_to_factor)
    check_number("scale_by_factored_rms", "epsilon", epsilon, low=0)
    machine = isinstance(floor, str) and floor == "machine"
    if floor is not None and not machine:
        check_number("scale_by_factored_rms", "floor", floor, low=0, open_low=True)
    if beta2_cap is not None:
        check_number("scale_by_factored_rms", "beta2_cap", beta2_cap, low=0, high=1)

    def axes(x: Any) -> tuple[int, int] | None:
        return _factored_axes(x.shape, int(min_dim_size_to_factor), last_axes) if factored else None

    over, inverse = ratio(epsilon), jax.lax.rsqrt if positive(epsilon) else _inverse_or_zero

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        t = jnp.maximum(c.t - c.step_offset, one)
        renew = t ** (-c.decay_rate)
        if decay_rate_fn is not None:
            renew = one - jnp.asarray(decay_rate_fn(t - one, c.decay_rate), c.dtype)
        if beta2_cap is not None:
            renew = jnp.maximum(renew, c.beta2_cap.complement)
        return {"renew": renew, "keep": one - renew}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p
        square, found = abs_sq(g) + k.epsilon, axes(leaf)
        least = np.asarray(jnp.finfo(leaf.dtype).eps, square.dtype) if machine else k.floor
        if found is None:
            v = k.keep * s.v + k.renew * square
            return g * inverse(v if floor is None else jnp.maximum(v, least * least)), {"v": v}
        low, high = found
        r = k.keep * s.v_row + k.renew * leaf.mean(square, high)
        c = k.keep * s.v_col + k.renew * leaf.mean(square, low)
        mean = leaf.without(high).mean(r, low - 1 if low > high else low, keepdims=True)
        if floor is None:
            rows, columns = inverse(over(r, mean)), inverse(c)
            u = g * jnp.expand_dims(rows, high) * jnp.expand_dims(columns, low)
        else:
            share = jnp.expand_dims(r / jnp.maximum(mean, least), high)
            u = g * inverse(jnp.maximum(share * jnp.expand_dims(c, low), least * least))
        return u, {"v_row": r, "v_col": c}

    numbers = {"decay_rate": decay_rate, "step_offset": step_offset, "epsilon": epsilon}
    numbers["floor"] = 0.0 if machine or floor is None else floor
    return leafwise(
        step,
        once=once,
        state=optax.FactoredState,
        scalars=numbers,
        decays={} if beta2_cap is None else {"beta2_cap": beta2_cap},
        init=_slots(axes),
        sharded=True,
    )


@factory
def scale_by_param_block_rms(min_scale: Any = 1e-3):
    """Multiplies each array's update by the root mean square of its parameter.

    **Update**: `u = max(rms(p), min_scale) g`.

    Args:
        min_scale: a floor, at least 0, so that zero weights can move.

    State: none.

    Reach: leaf. Needs `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_param_block_rms()
        >>> tx.update(jnp.array([1.0, 2.0]), tx.init(None), jnp.array([3.0, -3.0]))[0].tolist()
        [3.0, 6.0]
    """
    check_number("scale_by_param_block_rms", "min_scale", min_scale, low=0)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s
        return jnp.maximum(root(leaf.mean(abs_sq(p))), k.min_scale) * g

    return leafwise(step, scalars={"min_scale": min_scale}, needs=("params",), sharded=True)


@factory
def scale_by_param_block_norm(min_scale: Any = 1e-3):
    """Multiplies each array's update by the Euclidean norm of its parameter.

    **Update**: `u = max(|p|, min_scale) g`.

    Args:
        min_scale: a floor, at least 0, so that zero weights can move.

    State: none.

    Reach: leaf. Needs `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_param_block_norm()
        >>> tx.update(jnp.array([1.0, 2.0]), tx.init(None), jnp.array([3.0, 4.0]))[0].tolist()
        [5.0, 10.0]
    """
    check_number("scale_by_param_block_norm", "min_scale", min_scale, low=0)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s
        return jnp.maximum(leaf.norm(p), k.min_scale) * g

    return leafwise(step, scalars={"min_scale": min_scale}, needs=("params",), sharded=True)


_TORCH = {
    "learning_rate": 1e-2,
    "min_dim_size_to_factor": 1,
    "eps": 0.0,
    "floor": "machine",
    "last_axes": True,
    "relative_step": True,
    "rate_in_decay": True,
}
_BIG_VISION = {
    "min_dim_size_to_factor": 32,
    "beta2_cap": 0.999,
    "momentum": 0.9,
    "dtype_momentum": "bfloat16",
    "clipping_threshold": None,
    "multiply_by_parameter_scale": False,
}


@factory(
    sample={"learning_rate": 1e-2},
    presets={
        "torch": _TORCH,
        "paper": {"learning_rate": 1e-2, "relative_step": True},
        "big_vision": _BIG_VISION,
    },
)
def adafactor(
    learning_rate: Any = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Any = 0.8,
    decay_offset: Any = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Any = 1.0,
    momentum: Any = None,
    dtype_momentum: Any = "float32",
    weight_decay_rate: Any = None,
    eps: Any = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
    *,
    beta2_cap: Any = None,
    floor: Any = None,
    last_axes: bool = False,
    min_scale: Any = 1e-3,
    relative_step: bool = False,
    rate_in_decay: bool = False,
    like: str = "optax",
):
    """Adafactor: training without a second moment for every weight, and without any momentum.

    **Advice.** As T5 did: rate 1e-2 with `relative_step`, which falls like 1 / sqrt(t) from step 10,000, no decay, no
    momentum. For vision transformers `like="big_vision"` with AdamW's schedule and rate: a quarter of Adam's state,
    since the only thing kept for each weight is a momentum in bfloat16. Without momentum, clip the update
    (`clipping_threshold`), not the gradient.

    Args:
        learning_rate: a number or a schedule, or None for no factor. With `multiply_by_parameter_scale` the relative
            change of an array in one step, else the change of a weight.
        min_dim_size_to_factor, decay_rate, factored, beta2_cap, floor, last_axes: as in `scale_by_factored_rms`.
        decay_offset: its `step_offset`.
        multiply_by_parameter_scale: whether a step is in proportion to the parameter's root mean square, or to
            `min_scale` where that is larger.
        clipping_threshold: bound of the update's root mean square, or None.
        momentum: decay of an average of the steps, in [0, 1), or None; stored as `dtype_momentum`.
        weight_decay_rate: subtracted share of the weights at every step, *not* multiplied by the rate, or None.
        eps: its `epsilon`.
        weight_decay_mask: which leaves decay; every form of `gx.masked`. None decays all.
        relative_step: whether the rate is `min(learning_rate, 1 / sqrt(t))`.
        rate_in_decay: whether the decay is multiplied by `learning_rate`, as torch does.
        like: whose defaults: "optax", "paper" (T5: rate 1e-2, relative), "torch" (rate 1e-2, relative, the last two
            axes, v bounded below by the square of the machine epsilon), "big_vision" (arrays from 32,
            at most 0.999 kept, momentum 0.9 in bfloat16, no clip, no parameter scale).

    Returns:
        The chain `scale_by_factored_rms`, `clip_by_block_rms`, `scale_by_learning_rate`, `scale_by_param_block_rms`,
        `ema`, `add_decayed_weights`, `scale(-1)`, without what is turned off; the state is Optax's.

    Raises:
        ValueError: for `relative_step` or `rate_in_decay` without a learning rate.

    Example:
        >>> import gradxform as gx
        >>> gx.adafactor(like="paper")
        gx.adafactor(learning_rate=0.01, relative_step=True)

    Differs from Optax: as `scale_by_factored_rms`.
    """
    del like
    check_flag("adafactor", "multiply_by_parameter_scale", multiply_by_parameter_scale)
    check_flag("adafactor", "relative_step", relative_step)
    check_flag("adafactor", "rate_in_decay", rate_in_decay)
    if learning_rate is not None:
        check_rate("adafactor", learning_rate)
    elif relative_step or rate_in_decay:
        flag = "relative_step" if relative_step else "rate_in_decay"
        raise ValueError(f"gx.adafactor({flag}=True): there is no learning_rate; T5's is 1e-2")
    first = scale_by_factored_rms(
        factored,
        decay_rate,
        decay_offset,
        min_dim_size_to_factor,
        eps,
        beta2_cap=beta2_cap,
        floor=floor,
        last_axes=last_axes,
    )
    links = [first]
    if clipping_threshold is not None:
        links.append(clip_by_block_rms(clipping_threshold))
    if learning_rate is not None:
        rate = _bounded(learning_rate) if relative_step else learning_rate
        links.append(scale_by_learning_rate(rate, flip_sign=False))
    if multiply_by_parameter_scale:
        links.append(scale_by_param_block_rms(min_scale))
    if momentum is not None:
        check_number("adafactor", "momentum", momentum, low=0, high=1, open_high=True)
        links.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        check_decay("adafactor", weight_decay_rate)
        share = _product(learning_rate, weight_decay_rate) if rate_in_decay else weight_decay_rate
        links.append(add_decayed_weights(share, weight_decay_mask))
    return chain(*links, scale(-1.0))


def _bounded(rate: Any) -> Any:
    """The rate at a count, at most one over the root of the step's number."""

    def relative(count: Any) -> Any:
        return jnp.minimum(_at(rate, count), jax.lax.rsqrt(jnp.asarray(count, float) + 1))

    return relative


def _product(rate: Any, decay: Any) -> Any:
    """The product of two numbers, or of a schedule with one."""
    if not callable(rate) and not callable(decay):
        return rate * decay
    return lambda count: _at(rate, count) * _at(decay, count)


def _at(value: Any, count: Any) -> Any:
    return value(count) if callable(value) else value
