"""Adadelta: a step that has the unit of a weight, so that no learning rate need be found.

    s_t = rho s_{t-1} + (1 - rho) g_t^2              `e_g` in the state
    u_t = sqrt(d_{t-1} + eps) / sqrt(s_t + eps) g_t
    d_t = rho d_{t-1} + (1 - rho) u_t^2              `e_x`

g is the gradient; the root of d, the steps taken, stands where others have a rate.
Zeiler, ADADELTA: an adaptive learning rate method, 2012, arXiv:1212.5701.
"""

from typing import Any

import jax.numpy as jnp
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, ema
from .._core.roles import SecondMoment, declare_roles
from .decay import add_decayed_weights, check_decay

declare_roles(optax.ScaleByAdaDeltaState, e_g=SecondMoment, e_x=SecondMoment)


@factory
def scale_by_adadelta(rho: Any = 0.9, eps: Any = 1e-6):
    """Divides by the root of the average square and multiplies by that of the steps taken.

    **Update**: `s = rho s + (1 - rho) g^2`, `u = sqrt(d + eps) / sqrt(s + eps) g`, `d = rho d + (1 - rho) u^2`.

    Args:
        rho: decay of both averages, in [0, 1).
        eps: above 0: the first steps are about sqrt(eps / (1 - rho)), from which d grows. Larger means a faster start.

    State: `optax.ScaleByAdaDeltaState(e_g, e_x)`: two numbers a parameter; roles second moment.

    Reach: element.

    Returns:
        A transform whose update has the unit of a weight.

    Raises:
        ValueError: for rho outside [0, 1) or an epsilon that is not positive, with which no weight would ever move.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adadelta()
        >>> round(float(tx.update(5.0, tx.init(0.0))[0]), 6)
        0.003162

    Differs from Optax: `|g|^2` for complex gradients; both averages are float32 for a 16-bit parameter.
    """
    check_number("scale_by_adadelta", "rho", rho, low=0, high=1, open_high=True)
    check_number("scale_by_adadelta", "eps", eps, low=0, open_low=True)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        squares = ema(abs_sq(g), s.e_g, k.rho)
        u = jnp.sqrt(s.e_x + k.eps) / jnp.sqrt(squares + k.eps) * g
        return u, {"e_g": squares, "e_x": ema(abs_sq(u), s.e_x, k.rho)}

    return elementwise(step, state=optax.ScaleByAdaDeltaState, decays={"rho": rho}, scalars={"eps": eps})


@factory(presets={"torch": {}, "paper": {"rho": 0.95}, "keras": {"rho": 0.95, "eps": 1e-7}})
def adadelta(
    learning_rate: Any = None,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    like: str = "optax",
):
    """Adadelta: no rate to tune, at the price of a slow start.

    **Advice.** Leave the rate at 1.0. The first steps are about 3e-3 whatever the gradient and grow from there; if the
    loss hardly moves, raise `eps` before anything else. Today it is of historical interest; `adam` is the better guess.

    Args:
        learning_rate: a number or a schedule that multiplies the step; None is 1.0, the paper's rule.
        rho, eps: as in `scale_by_adadelta`.
        weight_decay: added to the gradient *before* the averages, as in torch and Optax (L2, not decoupled).
        weight_decay_mask: which leaves decay; every form of `gx.masked`. None decays all.
        like: whose defaults: "optax", "torch" (the same), "paper" (rho 0.95), "keras" (rho 0.95, epsilon 1e-7).

    Returns:
        `chain(add_decayed_weights(...), scale_by_adadelta(...), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.adadelta()
        >>> round(float(tx.update(5.0, tx.init(1.0), 1.0)[0]), 6)
        -0.003162

    Differs from Optax: without a learning rate this goes downhill (Optax: the update keeps the gradient's sign).
    """
    if learning_rate is not None:
        check_rate("adadelta", learning_rate)
    check_decay("adadelta", weight_decay)
    del like
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )
