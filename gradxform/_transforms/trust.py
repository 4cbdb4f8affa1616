"""Trust ratios: each layer's step in proportion to its weights. LARS is that for momentum SGD, LAMB for Adam.

    u = m_hat / (sqrt(v_hat) + eps) + weight_decay p         in LAMB
    r = trust_coefficient phi(|p|) / (|u| + eps)             a number for each array; 1 if a norm is 0
    u_t = r u

p is the parameter, u what the links before made of the gradient, |.| the Euclidean norm of an array, phi the identity
or a bound. LARS as published has the sum of norms below, `r = c |p| / (|g| + weight_decay |p|)`, and scales
`g + weight_decay p`. You, Gitman & Ginsburg, Large batch training of convolutional networks, 2017, arXiv:1708.03888
(LARS). You et al., Large batch optimization for deep learning: training BERT in 76 minutes, ICLR 2020,
arXiv:1904.00962 (LAMB).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from .._combine.chain import chain
from .._combine.mask import masked
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.errors import check_flag, check_number, say
from .._core.factory import factory
from .._core.lift import leafwise
from .._core.scalars import is_schedule, is_zero
from .._core.values import freeze
from .adam import scale_by_adam
from .decay import add_decayed_weights, check_decay
from .sgd import trace


@factory
def scale_by_trust_ratio(
    min_norm: Any = 0.0,
    trust_coefficient: Any = 1.0,
    eps: Any = 0.0,
    *,
    max_norm: Any = None,
    weight_decay: Any = 0.0,
):
    """Multiplies each array's update by the ratio of the parameter's norm to its own.

    **Update**: `u = c phi(|p|) / (max(|g|, min_norm) + eps) g` with `phi(x) = max(x, min_norm)`, bounded by `max_norm`.
    With a `weight_decay`, `u = c phi(|p|) / (|g| + weight_decay |p| + eps) (g + weight_decay p)`, norms with their
    floor. The ratio is 1 where one of the norms is 0, unless there is a `min_norm`.

    Args:
        min_norm: a floor for both norms, at least 0; above 0, weights at zero can move.
        trust_coefficient: c, above 0; 1 behind Adam (LAMB), 0.001 for plain gradients (LARS).
        eps: added below, at least 0.
        max_norm: the most that `|p|` counts; None for no bound. The LAMB paper bounds it, by 10 in its first code.
        weight_decay: LARS's decay, with its own share of the denominator; not to stand beside `add_decayed_weights`.

    State: none.

    Reach: leaf. Needs `params`. A stack of layers in one array is one layer unless `gx.per_layer` says otherwise.

    Returns:
        A transform whose update has `c` times the norm of the parameter.

    Raises:
        ValueError: for a negative number, or a coefficient or bound that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_trust_ratio()
        >>> tx.update(jnp.array([0.0, 0.5]), tx.init(None), jnp.array([3.0, 4.0]))[0].tolist()
        [0.0, 5.0]

    Differs from Optax: `max_norm`, `weight_decay`; norms are summed in float32 or wider.
    """
    check_number("scale_by_trust_ratio", "min_norm", min_norm, low=0)
    check_number("scale_by_trust_ratio", "trust_coefficient", trust_coefficient, low=0, open_low=True)
    check_number("scale_by_trust_ratio", "eps", eps, low=0)
    check_number("scale_by_trust_ratio", "weight_decay", weight_decay, low=0)
    if max_norm is not None:
        check_number("scale_by_trust_ratio", "max_norm", max_norm, low=0, open_low=True, infinite=True)
    decays = not is_zero(weight_decay)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s
        weight, size = leaf.norm(p), leaf.norm(g)
        bare = (weight == 0) | (size == 0)
        weight, size = jnp.maximum(weight, k.min_norm), jnp.maximum(size, k.min_norm)
        below = size + k.weight_decay * weight + k.eps if decays else size + k.eps
        phi = weight if max_norm is None else jnp.minimum(weight, k.max_norm)
        still = (bare & (k.min_norm == 0)) | (below == 0)
        one = np.asarray(1, size.dtype)
        ratio = jnp.where(still, one, k.trust_coefficient * phi / jnp.where(still, one, below))
        return ratio * (g + k.weight_decay * p) if decays else ratio * g

    numbers = {
        "min_norm": min_norm,
        "trust_coefficient": trust_coefficient,
        "eps": eps,
        "max_norm": max_norm,
        "weight_decay": weight_decay,
    }
    return leafwise(
        step,
        scalars={k: v for k, v in numbers.items() if v is not None},
        needs=("params",),
        coupled=decays,
        sharded=True,
    )


@factory(presets={"paper": {"weight_decay": 0.01, "max_norm": 10.0}})
def lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    max_norm: Any = None,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
    like: str = "optax",
):
    """LAMB: AdamW whose every layer moves in proportion to its weights, for very large batches.

    **Advice.** Rates of 1e-3 to 1e-2, a decay of 0.01, a clip of the global norm at 1.0 in front, and a long warmup;
    raise the rate with the root of the batch. Leave biases and norms out of the ratio and the decay: `mask` does the
    latter, and `gx.param_groups` with `adamw` for them does both. At small batches AdamW is as good.

    Args:
        learning_rate: a number or a schedule; the relative change of an array's norm in one step.
        b1, b2, eps, eps_root, mu_dtype, nu_dtype: as in `scale_by_adam`.
        weight_decay: the decay per unit of learning rate, before the ratio.
        mask: which leaves decay; every form of `gx.masked`. None decays all.
        max_norm: as in `scale_by_trust_ratio`.
        like: whose defaults: "optax", or "paper" (decay 0.01, weight norms count up to 10).

    Returns:
        `chain(scale_by_adam(...), add_decayed_weights(...), scale_by_trust_ratio(), scale_by_learning_rate(...))`; the
        state is Optax's.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx, w = gx.lamb(0.1), jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(jnp.array([7.0, 0.0]), tx.init(w), w)  # a tenth of the norm, which is 5
        >>> round(float(updates[0]), 5)
        -0.5
    """
    check_rate("lamb", learning_rate)
    check_decay("lamb", weight_decay)
    del like
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(max_norm=max_norm),
        scale_by_learning_rate(learning_rate),
    )


@factory(presets={"paper": {"weight_decay": 5e-4, "norm_sum": True}})
def lars(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Any = 0.001,
    eps: Any = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Any = 0.9,
    nesterov: bool = False,
    *,
    norm_sum: bool = False,
    rate_in_momentum: bool = True,
    like: str = "optax",
):
    """LARS: momentum SGD whose every layer moves in proportion to its weights, for very large batches.

    **Advice.** Rates of 1 to 30, since the coefficient 0.001 stands before them; a decay of 5e-4 to 1e-4, a polynomial
    fall, five epochs of warmup. Mask biases and norms out of both, `weight_decay_mask=gx.matrices()` and
    `trust_ratio_mask=gx.matrices()`; they then follow plain momentum SGD at the same rate.

    Args:
        learning_rate: a number or a schedule; times `trust_coefficient`, the relative change of an array in one step,
            and `1 / (1 - momentum)` times that while gradients keep their direction.
        weight_decay: added to the gradient before the ratio.
        weight_decay_mask: which leaves decay; every form of `gx.masked`.
        trust_coefficient, eps: as in `scale_by_trust_ratio`.
        trust_ratio_mask: which leaves are scaled by their ratio.
        momentum: the decay of the `trace`, in [0, 1); `nesterov` as there.
        norm_sum: True divides by `|g| + weight_decay |p|`, as the paper does, instead of `|g + weight_decay p|`.
        rate_in_momentum: True sums what the rate has scaled (the paper, Optax); False scales the sum.
        like: whose defaults: "optax", or "paper" (`norm_sum=True`, decay 5e-4).

    Returns:
        `chain(add_decayed_weights(...), masked(scale_by_trust_ratio(...)), scale_by_learning_rate(...), trace(...))`,
        the last two the other way round with `rate_in_momentum=False`; the state is Optax's.

    Raises:
        ValueError: for `norm_sum` with two different masks: the decay then happens within the ratio.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx, w = gx.lars(10.0), jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(jnp.array([7.0, 0.0]), tx.init(w), w)  # 10 * 0.001 of the norm, which is 5
        >>> round(float(updates[0]), 5)
        -0.05
    """
    check_rate("lars", learning_rate)
    check_decay("lars", weight_decay)
    check_number("lars", "momentum", momentum, low=0, high=1, open_high=True)
    check_flag("lars", "norm_sum", norm_sum)
    check_flag("lars", "rate_in_momentum", rate_in_momentum)
    del like
    outside, inside = weight_decay, 0.0
    if norm_sum:
        if freeze(weight_decay_mask) != freeze(trust_ratio_mask):
            fact = (
                "gx.lars(norm_sum=True): the decay happens within the ratio, so both masks must be the same"
            )
            raise ValueError(say(fact, "pass one mask twice, or norm_sum=False"))
        # A schedule of zero keeps the count where Optax has one.
        outside, inside = (_none if is_schedule(weight_decay) else 0.0), weight_decay
    ratio = scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, weight_decay=inside)
    rate, summed = scale_by_learning_rate(learning_rate), trace(momentum, nesterov)
    return chain(
        add_decayed_weights(outside, weight_decay_mask),
        masked(ratio, trust_ratio_mask),
        *((rate, summed) if rate_in_momentum else (summed, rate)),
    )


def _none(count: Any) -> float:
    del count
    return 0.0
