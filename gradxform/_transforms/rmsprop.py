"""RMSprop: a gradient divided by its root mean square of late, or by its standard deviation (centered).

    v_t = decay v_{t-1} + (1 - decay) g_t^2          `nu` in the state
    m_t = decay m_{t-1} + (1 - decay) g_t            `mu`, centered only
    u_t = g_t / sqrt(v_t - m_t^2 + eps)              Optax, Keras, TensorFlow; m_t if centered
    u_t = g_t / (sqrt(v_t - m_t^2) + eps)            torch: `eps_in_sqrt=False`

g is the gradient. With `bias_correction`, v and m are divided by 1 - decay^t first; the count is then in the state.

v - m^2 is the small difference of large numbers where a gradient hardly changes. With a = decay, c = 1 - a^t the weight
that the averages have gathered (1 without correction), the rules use what is the same and loses less:

    v_t - m_t^2 = a (v - m^2) + a (1 - a) (g - m)^2                             uncorrected
    c_t v_t - m_t^2 = a c_t / c (c v - m^2) + a (1 - a) / c (c g - m)^2         corrected, / c_t^2

Hinton, Neural networks for machine learning, lecture 6e, 2012. Graves, Generating sequences with recurrent neural
networks, 2013, arXiv:1308.0850 (centered, with momentum).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, identity, scale_by_learning_rate
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.foreign import state_class
from .._core.lift import elementwise
from .._core.numerics import abs_sq, debias, ema, filled, positive
from .._core.roles import Count, Moment, SecondMoment, declare_exact, declare_roles
from .sgd import trace

_WithCount = state_class("optax._src.transform", "ScaleByRmsWithCountState", "count", "nu")
_DevWithCount = state_class("optax._src.transform", "ScaleByRStdDevWithCountState", "count", "mu", "nu")
declare_roles(_WithCount, count=Count, nu=SecondMoment)
declare_roles(optax.ScaleByRStdDevState, mu=Moment, nu=SecondMoment)
declare_roles(_DevWithCount, count=Count, mu=Moment, nu=SecondMoment)
for _class in (optax.ScaleByRStdDevState, _DevWithCount):
    declare_exact(_class, "mu", "nu")  # divided by the root of nu - mu^2


def _inverse_root(v: Any, eps: Any, eps_in_sqrt: bool, bare: bool) -> Any:
    """One over the root; 0 where there is nothing to divide by."""
    root = jax.lax.rsqrt(v + eps) if eps_in_sqrt else 1 / (jnp.sqrt(v) + eps)
    return jnp.where(v > 0, root, np.asarray(0, root.dtype)) if bare else root


def _check(
    call: str, decay: Any, eps: Any, initial_scale: Any, eps_in_sqrt: Any, bias_correction: Any
) -> None:
    check_number(call, "decay", decay, low=0, high=1, open_high=True)
    check_number(call, "eps", eps, low=0)
    check_number(call, "initial_scale", initial_scale, low=0, schedule=False)
    check_flag(call, "eps_in_sqrt", eps_in_sqrt)
    check_flag(call, "bias_correction", bias_correction)


@factory
def scale_by_rms(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    *,
    nu_dtype: Any = None,
):
    """Divides by the root mean square of late.

    **Update**: `v = decay v + (1 - decay) g^2`, then `u = g / sqrt(v + eps)`, or `u = g / (sqrt(v) + eps)` with
    `eps_in_sqrt=False`.

    Args:
        decay: in [0, 1); larger means smoother, about 1 / (1 - decay) steps of memory.
        eps: at least 0; in the unit of a squared gradient, or of a gradient with `eps_in_sqrt=False`. With 0, a weight
            stays where there is nothing to divide by.
        initial_scale: where v starts, at least 0.
        eps_in_sqrt: where epsilon stands.
        bias_correction: whether v is corrected for its start at zero; without, the first step is
            `1 / sqrt(1 - decay)` times as large as the others.
        nu_dtype: storage of v; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: `optax.ScaleByRmsState(nu)`, with a count if corrected: one number a parameter; roles second moment, count.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative number.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_rms(decay=0.75, eps=0.0)
        >>> float(tx.update(3.0, tx.init(0.0))[0])
        2.0

    Differs from Optax: v of a 16-bit parameter is float32; `nu_dtype`.
    """
    _check("scale_by_rms", decay, eps, initial_scale, eps_in_sqrt, bias_correction)

    def once(c: Any) -> dict[str, Any]:
        return {"c": 1 / debias(c.decay, c.t)} if bias_correction else {}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        v = ema(abs_sq(g), s.nu, k.decay)
        return g * _inverse_root(k.c * v if bias_correction else v, k.eps, eps_in_sqrt, not positive(eps)), {
            "nu": v
        }

    return elementwise(
        step,
        once=once,
        state=_WithCount if bias_correction else optax.ScaleByRmsState,
        decays={"decay": decay},
        scalars={"eps": eps},
        dtypes={"nu": nu_dtype},
        init={"nu": filled(initial_scale)},
    )


@factory
def scale_by_stddev(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    *,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Divides by the standard deviation of late: centered RMSprop.

    **Update**: `v = decay v + (1 - decay) g^2`, `m = decay m + (1 - decay) g`, then `u = g / sqrt(v - m^2 + eps)`, or
    `u = g / (sqrt(v - m^2) + eps)` with `eps_in_sqrt=False`.

    Args:
        decay, eps, initial_scale, eps_in_sqrt, bias_correction, nu_dtype: as in `scale_by_rms`. Epsilon matters more:
            where a gradient does not change, it is all that is left below.
        mu_dtype: storage of m; None is the parameter's dtype, but float32 for a 16-bit parameter: its square is
            subtracted from v.

    State: `optax.ScaleByRStdDevState(mu, nu)`, with a count if corrected: two numbers a parameter; roles moment, second
    moment, count.

    Reach: element.

    Returns:
        A transform whose update is the larger, the steadier a gradient is.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative number.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_stddev(decay=0.5, eps=0.0)
        >>> float(tx.update(3.0, tx.init(0.0))[0])
        2.0

    Differs from Optax: the variance is never negative (Optax: NaN once it rounds below 0), and is computed without
    cancellation (see this module's head); a 16-bit parameter's v is float32.
    """
    _check("scale_by_stddev", decay, eps, initial_scale, eps_in_sqrt, bias_correction)

    def once(c: Any) -> dict[str, Any]:
        one = np.asarray(1, c.dtype)
        if not bias_correction:
            return {"before": one, "grow": c.decay.value, "now": one}
        # At the first step nothing has been gathered, and the limit of the formula needs no division.
        gathered, now = debias(c.decay, c.t - one), debias(c.decay, c.t)
        safe = jnp.where(gathered > 0, gathered, one)
        grow = jnp.where(gathered > 0, c.decay.value / safe, np.asarray(0, c.dtype))
        return {"before": gathered, "grow": grow, "now": now}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        v, m = ema(abs_sq(g), s.nu, k.decay), ema(g, s.mu, k.decay)
        old = k.grow * k.now * (k.before * s.nu - abs_sq(s.mu))
        spread = old + k.grow * k.decay.complement * abs_sq(k.before * g - s.mu)
        # A second moment that starts above zero is spread too, from before the first gradient.
        first = k.decay.value * k.decay.complement * s.nu
        spread = jnp.where(k.before > 0, spread, first) if bias_correction else spread
        variance = jnp.maximum(spread, np.asarray(0, spread.dtype)) / (k.now * k.now)
        return g * _inverse_root(variance, k.eps, eps_in_sqrt, not positive(eps)), {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=_DevWithCount if bias_correction else optax.ScaleByRStdDevState,
        decays={"decay": decay},
        scalars={"eps": eps},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
        init={"nu": filled(initial_scale)},
        wide=("mu",),
    )


@factory(
    presets={
        "torch": {"decay": 0.99, "eps_in_sqrt": False, "rate_in_momentum": False},
        "keras": {"eps": 1e-7},
    }
)
def rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    rate_in_momentum: bool = True,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    like: str = "optax",
):
    """RMSprop: Adam's denominator without its momentum and its bias correction.

    **Advice.** 1e-3 is a good first rate; 1e-2 with torch's decay of 0.99. Its first step is three times as large as
    the others (decay 0.9; ten times for 0.99), so warm up or correct the bias. Still liked for recurrent networks and
    reinforcement learning, where one wants no momentum. `centered` wants a larger epsilon.

    Args:
        learning_rate: a number or a schedule; about the change of one weight in one step.
        decay, eps, initial_scale, eps_in_sqrt, bias_correction, nu_dtype: as in `scale_by_rms`.
        centered: whether to divide by the standard deviation, `scale_by_stddev`; `mu_dtype` is its.
        momentum: the decay of a `trace` of the steps, in [0, 1), or None for none; `nesterov` as there.
        rate_in_momentum: True sums what the rate has scaled (Optax, TensorFlow, Keras), False scales the sum (torch).
        like: whose defaults: "optax", "torch" (decay 0.99, epsilon outside the root, the rate outside the momentum),
            "keras" (epsilon 1e-7).

    Returns:
        `chain(scale_by_rms(...), scale_by_learning_rate(learning_rate), trace(momentum, nesterov))`, the last two the
        other way round with `rate_in_momentum=False`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> gx.rmsprop(1e-2, like="torch")
        gx.rmsprop(0.01, decay=0.99, eps_in_sqrt=False, rate_in_momentum=False)
    """
    check_rate("rmsprop", learning_rate)
    check_flag("rmsprop", "centered", centered)
    check_flag("rmsprop", "nesterov", nesterov)
    check_flag("rmsprop", "rate_in_momentum", rate_in_momentum)
    del like
    if momentum is not None:
        check_number("rmsprop", "momentum", momentum, low=0, high=1, open_high=True)
    first = (
        scale_by_stddev(
            decay, eps, initial_scale, eps_in_sqrt, bias_correction, mu_dtype=mu_dtype, nu_dtype=nu_dtype
        )
        if centered
        else scale_by_rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction, nu_dtype=nu_dtype)
    )
    rate = scale_by_learning_rate(learning_rate)
    summed = identity() if momentum is None else trace(momentum, nesterov)
    return chain(first, rate, summed) if rate_in_momentum else chain(first, summed, rate)
