"""The average of the parameters over the steps, beside the parameters that are trained.

    p_t = p_{t-1} + u_t                              the parameter as `apply_updates` stores it
    m_t = m_{t-1} + w_t (p_t - m_{t-1})              `average` in the state, n = t - start

    w_t = (1 - d) / (1 - d^n)                        a moving average with decay d, bias-corrected
    w_t = (power + 1) / (n + power)                  power 0: the mean of all; above: of the last ones mostly

In every case w is 1 at n = 1 and before, so the average starts at the first parameters that count and needs no
correction when it is read. Polyak & Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control
Optim. 30(4), 1992. Shamir & Zhang, Stochastic gradient descent for non-smooth optimization, ICML 2013 (the power:
polynomial-decay averaging). Izmailov et al., Averaging weights leads to wider optima, UAI 2018 (`every`).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._core.errors import check_integer, check_number, concrete, say
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import INT32_MAX, debias
from .._core.roles import Count, Iterate
from .._core.transform import GradientTransformation, as_transform, wrap
from .behind import BehindBody, stored
from .plain import scale


class ParamAverageState(NamedTuple):
    """The state of `average_params` beside that of its transform."""

    count: Count
    average: Iterate


def _copy(p: Any, leaf: Any) -> Any:
    del leaf
    return p


def _number(count: Any, start: int, every: int, dtype: Any) -> tuple[Any, Any]:
    """Which one in the average this step's parameters are, and whether they enter it, or None where all do."""
    done = jnp.minimum(count, np.int32(INT32_MAX - 1)) - np.int32(start) + np.int32(1)
    if every == 1:
        return done.astype(dtype), None
    number = done // np.int32(every)
    # Until the first has been taken the average follows the parameters.
    return number.astype(dtype), (done % np.int32(every) == 0) | (number < 1)


def _rule(decay: Any, start: int, power: Any, every: int, accumulator_dtype: Any) -> GradientTransformation:
    def once(c: Any) -> dict[str, Any]:
        number, enters = _number(c.count, start, every, c.dtype)
        one = np.asarray(1, c.dtype)
        n = jnp.maximum(number, one)
        w = (c.power + one) / (n + c.power) if decay is None else c.decay.complement / debias(c.decay, n)
        made = {"w": jnp.where(n <= 1, one, w)}
        return made if enters is None else {**made, "enters": enters}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        new = stored(p, g, leaf.dtype)
        # A selection where w is 1: m + (p - m) is not p, and what an average has seen before must not live on as NaN.
        m = jnp.where(k.w == 1, new, s.average + k.w * (new - s.average))
        return g, {"average": m if every == 1 else jnp.where(k.enters, m, s.average)}

    link = elementwise(
        step,
        once=once,
        state=ParamAverageState,
        scalars={"power": power} if decay is None else {},
        decays={} if decay is None else {"decay": decay},
        dtypes={"average": accumulator_dtype},
        init={"average": _copy},
        needs=("params",),
        call="average_params",
        wide=("average",),
    )
    link.body.label = "average"
    return link


@factory(label="", sample={"tx": scale(0.5)})
def average_params(
    tx: Any,
    decay: Any = 0.999,
    *,
    start: int = 0,
    power: Any = 0.0,
    every: int = 1,
    accumulator_dtype: Any = None,
):
    """Keeps an average of the parameters, to evaluate with; training itself is not changed.

    `gx.eval_params(state, params)` gives the average as parameters. It has less of the noise of the last steps, which a
    falling learning rate takes away too: while the rate is high, the average shows much of what a fall would give.

    **Update**: that of `tx`. Beside it `m = m + w (p - m)`, where `p` is the parameter after the step as it is stored,
    `n = t - start`, and `w = (1 - decay) / (1 - decay^n)`, or `w = (power + 1) / (n + power)` for `decay=None`; `w = 1`
    up to `n = 1`, so before `start` the average is the parameters themselves.

    Args:
        tx: any transform, ours or Optax's, that makes the updates which are applied: the learning rate is inside.
        decay: in [0, 1), a number or a schedule; larger means smoother and later, about 1 / (1 - decay) steps of
            memory. None gives each parameter its weight by `power`.
        start: how many steps are left out; they are as if they had never been.
        power: at least 0, for `decay=None` only. 0 is the mean of all steps from `start` on (Polyak, Ruppert); with a
            power the i-th counts, when i is large, in proportion to i^power, so that about the last 1 / (power + 1) of
            the steps make the average, however many there will be (a tail): 3 for a quarter, 8 for a ninth.
        every: only each `every`-th step after `start` enters, such as the ends of cycles of the rate (SWA).
        accumulator_dtype: storage of the average; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: the pair `(state of tx, ParamAverageState(count, average))`: one number a parameter; roles count, iterate.

    Reach: element. Needs `params`.

    Returns:
        A transform with the updates of `tx`. Put it outside of everything that changes updates, and inside of
        `accumulate` and `guard`, so that it counts steps that happen.

    Raises:
        ValueError: for a decay outside [0, 1), a negative power, or both a decay and a power.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.average_params(gx.sgd(1.0), decay=None)
        >>> params, state = jnp.array([0.0]), tx.init(jnp.array([0.0]))
        >>> for gradient in (-1.0, -2.0, -3.0):  # the parameter is 1, then 3, then 6
        ...     updates, state = tx.update(jnp.array([gradient]), state, params)
        ...     params = gx.apply_updates(params, updates)
        >>> round(float(gx.eval_params(state, params)[0]), 4)
        3.3333

    Differs from Optax: `optax.ema` averages updates and hands them on; nothing there averages parameters. (Its
    `incremental_update` of bfloat16 parameters stops half-way.)
    """
    inner = as_transform(tx, "gx.average_params(tx)")
    check_integer("average_params", "start", start)
    check_integer("average_params", "every", every, low=1)
    check_number("average_params", "power", power, low=0, schedule=False)
    if decay is not None:
        check_number("average_params", "decay", decay, low=0, high=1, open_high=True)
        if concrete(power) != 0:
            fact = (
                f"gx.average_params(decay={decay!r}, power={power!r}): a decay and a power are two averages"
            )
            raise ValueError(say(fact, "pass decay=None for the one with a power, or leave the power out"))
    rule = _rule(decay, int(start), power, int(every), accumulator_dtype)
    return wrap(BehindBody(inner, rule, "average"))
