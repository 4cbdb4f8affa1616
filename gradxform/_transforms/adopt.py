"""ADOPT: Adam whose gradient is divided by what was known before it, so that it converges for every b2.

    v_0 = g_0^2, and the first step moves nothing
    r_t = g_t / max(sqrt(v_{t-1}), eps)                    v_{t-1} does not know g_t
    r_t <- min(max(r_t, -c_t), c_t)                        c_t = t^(1/4)
    m_t = b1 m_{t-1} + (1 - b1) r_t                        `mu` in the state
    v_t = b2 v_{t-1} + (1 - b2) g_t^2                      `nu`
    u_t = m_t                                              b1 m_t + (1 - b1) r_t with Nesterov

g is the gradient, t = 0, 1, 2, ... the completed steps. Adam divides a gradient by a root that the gradient itself has
made larger; where rare large gradients matter that bias does not vanish, whatever the rate. Nothing is corrected by
1 - b^t: v starts at a square, and m is meant to start slowly.
Taniguchi et al., ADOPT: modified Adam can converge with any beta2 with the optimal rate, NeurIPS 2024,
arXiv:2411.02853.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import abs_sq, ema, ratio
from .decay import add_decayed_weights, check_decay


def fourth_root(count: Any) -> Any:
    """ADOPT's bound of a quotient after so many steps: `count^(1/4)`."""
    return jnp.asarray(count, float) ** 0.25


@factory
def scale_by_adopt(
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = fourth_root,
    nu_dtype: Any = None,
):
    """ADOPT's direction, without learning rate and still uphill.

    **Update**: as at this module's head.

    Args:
        b1: decay of the average, in [0, 1).
        b2: decay of the second moment, in [0, 1); any value converges, and nearly 1 is best.
        eps: the least that a gradient is divided by; in the unit of a gradient.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        nesterov: whether the quotient is looked at once more.
        use_clipping: whether quotients are bounded. Without, the second gradient of a weight whose first one was 0 is
            divided by `eps`.
        clip_value_fn: the bound: a function of the completed steps, or a number. Of a complex quotient the size is
            bounded.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: `optax.ScaleByAdamState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment. `mu` is
    an average of quotients and not of gradients, and `nu` needs no correction: Adam cannot go on with them.

    Reach: element.

    Returns:
        A transform whose first update is 0 and whose later ones grow to about 1 where gradients keep their sign.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adopt(b1=0.5)
        >>> first, state = tx.update(3.0, tx.init(0.0))
        >>> float(first), float(tx.update(3.0, state)[0])
        (0.0, 0.5)

    Differs from Optax: `nu_dtype`; second moments of 16-bit parameters are float32, in which 0.9999 v is not v; complex
    parameters.
    """
    who = "scale_by_adopt"
    check_number(who, "b1", b1, low=0, high=1, open_high=True)
    check_number(who, "b2", b2, low=0, high=1, open_high=True)
    check_number(who, "eps", eps, low=0)
    check_flag(who, "nesterov", nesterov)
    check_flag(who, "use_clipping", use_clipping)
    check_number(who, "clip_value_fn", clip_value_fn, low=0, infinite=True)
    over = ratio(eps)

    def once(c: Any) -> dict[str, Any]:
        return {"first": c.count == 0}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        zero = np.asarray(0, g.dtype)
        r = over(g, jnp.maximum(jnp.sqrt(s.nu), k.eps))
        r = jnp.where(k.first, zero, _bounded(r, k.bound) if use_clipping else r)
        m = jnp.where(k.first, s.mu, ema(r, s.mu, k.b1))
        v = jnp.where(k.first, abs_sq(g), ema(abs_sq(g), s.nu, k.b2))
        u = jnp.where(k.first, zero, ema(r, m, k.b1)) if nesterov else m
        return u, {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps} | ({"bound": clip_value_fn} if use_clipping else {}),
        arguments={"bound": "clip_value_fn"},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
        own=("mu", "nu"),
    )


def _bounded(x: Any, bound: Any) -> Any:
    if not jnp.iscomplexobj(x):
        return jnp.clip(x, -bound, bound)
    size = jnp.abs(x)
    return x * jnp.where(size > bound, bound / jnp.where(size > bound, size, np.asarray(1, size.dtype)), 1)


@factory
def adopt(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = fourth_root,
    weight_decay: Any = None,
    mask: Any = None,
    nu_dtype: Any = None,
):
    """ADOPT: Adam that converges for every b2.

    **Advice.** AdamW's rate, decay and schedule are good first values. It pays where AdamW diverges or needs a small
    b2: small batches, rare features. The first batch only measures; it moves no weight.

    Args:
        learning_rate: a number or a schedule; about the change of one weight in one step.
        b1, b2, eps, mu_dtype, nesterov, use_clipping, clip_value_fn, nu_dtype: as in `scale_by_adopt`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule. None: no such link.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_adopt(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`,
        without the decay if it is None, as in Optax.

    Example:
        >>> import gradxform as gx
        >>> gx.adopt(1e-3, weight_decay=0.1, mask=gx.matrices())
        gx.adopt(0.001, weight_decay=0.1, mask=gx.matrices())

    Differs from Optax: as `scale_by_adopt`; `weight_decay` and `mask`.
    """
    check_rate("adopt", learning_rate)
    if weight_decay is not None:
        check_decay("adopt", weight_decay)
    more = {"use_clipping": use_clipping, "clip_value_fn": clip_value_fn, "nu_dtype": nu_dtype}
    return chain(
        scale_by_adopt(b1, b2, eps, mu_dtype, nesterov=nesterov, **more),
        *(() if weight_decay is None else (add_decayed_weights(weight_decay, mask),)),
        scale_by_learning_rate(learning_rate),
    )
