"""MARS: the gradient, corrected by how it has changed, before any method makes a step of it.

    c_t = g_t + gamma b1 / (1 - b1) (g_t - g_{t-1})      at the first step g_t; `last` in the state is g_{t-1}
    c_t <- c_t / max(1, |c_t|)                           |.| the norm of one array

g is the gradient. An average with decay b1 lags behind the gradient by b1 / (1 - b1) of its changes; the correction
brings a share gamma of that back, which also takes away noise that neighbouring batches have in common. The paper's
exact form takes g_{t-1} on the batch of step t, at twice the cost; this is its approximate one, which its experiments
use. `scale_by_adam`, `scale_by_lion` or `scale_by_muon` behind it are MARS-AdamW, MARS-Lion and MARS-M.
Yuan et al., MARS: unleashing the power of variance reduction for training large models, 2024, arXiv:2411.10438.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.mask import masked, matrices
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_number
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.numerics import abs_sq, root
from .._core.roles import Count, History
from .adam import scale_by_adam
from .decay import add_decayed_weights, check_decay


class MarsState(NamedTuple):
    """`last` is the gradient of the last step, as it came."""

    count: Count
    last: History


@factory
def mars_correction(gamma: Any = 0.025, b1: Any = 0.95, max_norm: Any = 1.0, *, last_dtype: Any = None):
    """The corrected gradient of MARS, to stand before `scale_by_adam`, `scale_by_lion` or `scale_by_muon`.

    **Update**: `u = c` of this module's head.

    Args:
        gamma: the share of the lag that is made up for, at least 0; 0 is the clip alone. 0.025 in the paper.
        b1: decay of the average that follows, in [0, 1): that of Adam, of Lion, or of Muon's momentum.
        max_norm: the bound of the norm of each array, above 0; infinity is none.
        last_dtype: storage of `last`; None is the parameter's dtype.

    State: `MarsState(count, last)`: one number a parameter; roles count, history.

    Reach: leaf. A stack of layers in one array is one layer unless `gx.per_layer` says otherwise.

    Raises:
        ValueError: for a negative `gamma`, a decay outside [0, 1), or a bound that is not positive.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.mars_correction(gamma=0.5, b1=0.5)
        >>> first, state = tx.update(0.25, tx.init(0.0))
        >>> float(first), float(tx.update(0.5, state)[0])  # 0.5 + 0.5 * (0.5 - 0.25)
        (0.25, 0.625)

    Differs from Optax, which does not have it.
    """
    who = "mars_correction"
    check_number(who, "gamma", gamma, low=0)
    check_number(who, "b1", b1, low=0, high=1, open_high=True)
    check_number(who, "max_norm", max_norm, low=0, open_low=True, infinite=True)

    def once(c: Any) -> dict[str, Any]:
        share = c.gamma * c.b1.value / c.b1.complement
        return {"share": jnp.where(c.count == 0, np.asarray(0, c.dtype), share)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p
        c = g + k.share * (g - s.last)
        size = root(leaf.sum(abs_sq(c)))
        return c / jnp.maximum(np.asarray(1, size.dtype), size / k.max_norm), {"last": g}

    return leafwise(
        step,
        once=once,
        state=MarsState,
        decays={"b1": b1},
        scalars={"gamma": gamma, "max_norm": max_norm},
        dtypes={"last": last_dtype},
        sharded=True,
    )


@factory
def mars(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    gamma: Any = 0.025,
    max_norm: Any = 1.0,
    corrected: Any = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """MARS-AdamW: AdamW on gradients whose changes are looked at.

    **Advice.** The paper's rates are larger than AdamW's, 3e-3 to 6e-3, with its decay, warmup and a cosine. The bound
    of the norm is in the unit of a gradient: with a sum in the place of a mean as the loss, make it larger.

    Args:
        learning_rate: a number or a schedule; about the change of one weight in one step.
        b1, b2, eps, mu_dtype, nu_dtype: as in `scale_by_adam`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.
        gamma, max_norm: as in `mars_correction`.
        corrected: which leaves' gradients are corrected; every form of `gx.masked`. None: `gx.matrices()`, as in the
            paper, which leaves biases and norms to AdamW.

    Returns:
        `chain(masked(mars_correction(...), corrected), scale_by_adam(...), add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.mars(3e-3, weight_decay=0.01, mask=gx.matrices())
        gx.mars(0.003, weight_decay=0.01, mask=gx.matrices())
    """
    check_rate("mars", learning_rate)
    check_decay("mars", weight_decay)
    return chain(
        masked(mars_correction(gamma, b1, max_norm), matrices() if corrected is None else corrected),
        scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
