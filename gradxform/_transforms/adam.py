"""Adam: a step of the first moment divided by the root of the second, both corrected for having started at zero.

    m_t = b1 m_{t-1} + (1 - b1) g_t                  `mu` in the state
    v_t = b2 v_{t-1} + (1 - b2) g_t^2                `nu`
    u_t = m_hat_t / (sqrt(v_hat_t + eps_root) + eps)
    m_hat_t = m_t / (1 - b1^t),  v_hat_t = v_t / (1 - b2^t)

g is the gradient, t = 1, 2, ... the step. AdamW adds the weights, decayed, behind it; the learning rate comes last.
Kingma & Ba, Adam: a method for stochastic optimization, ICLR 2015. Loshchilov & Hutter, Decoupled weight decay
regularization, ICLR 2019. Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016.
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
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.scalars import is_zero
from .decay import add_decayed_weights, check_decay


@factory
def scale_by_adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nu_dtype: Any = None,
    nesterov: bool = False,
    eps_hat: bool = False,
):
    """Adam's direction, without learning rate and still uphill.

    Use it in a chain of your own; `adam` and `adamw` are the usual chains.

    **Update**: `u = m_hat / (sqrt(v_hat + eps_root) + eps)` with the moments of this module's head. With `nesterov`,
    `m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)`.

    Args:
        b1: decay of the first moment, in [0, 1); larger means smoother and slower, about 1 / (1 - b1) steps of memory.
        b2: decay of the second moment, in [0, 1); 0.95 for large language models, 0.999 for small or noisy gradients.
        eps: added to the root; in the unit of a gradient. Larger damps small gradients towards plain momentum. With 0,
            a weight that has never had a gradient stays where it is.
        eps_root: added under the root; needed only to differentiate through the update.
        mu_dtype: storage of `mu`; None is the parameter's dtype.
        nu_dtype: storage of `nu`; None is the parameter's dtype, but float32 for a 16-bit parameter, because a
            bfloat16 `nu` never decays and a float16 one overflows.
        nesterov: whether the gradient is looked at once more (Dozat 2016).
        eps_hat: True adds epsilon to the root of v before its correction, `u = m_hat sqrt(1 - b2^t) / (sqrt(v +
            eps_root) + eps)`: Keras, and the paper's more efficient order. Epsilon then starts 1 / sqrt(1 - b2) times
            as large and settles at its value.

    State: `optax.ScaleByAdamState(count, mu, nu)`: two numbers a parameter; roles count, moment, second moment.

    Reach: element.

    Returns:
        A transform whose update is about 1 in size wherever gradients keep their sign.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adam()
        >>> state = tx.init(jnp.zeros(2))
        >>> updates, state = tx.update(jnp.array([3.0, -0.1]), state)
        >>> [round(float(u), 5) for u in updates]
        [1.0, -1.0]

    Differs from Optax: `1 - b^t` is accurate to a few units in the last place (Optax: 1.3e-5 at b2 = 0.999), every
    number may be a schedule, `nu_dtype`, and 16-bit gradients are worked in float32.
    """
    check_number("scale_by_adam", "b1", b1, low=0, high=1, open_high=True)
    check_number("scale_by_adam", "b2", b2, low=0, high=1, open_high=True)
    check_number("scale_by_adam", "eps", eps, low=0)
    check_number("scale_by_adam", "eps_root", eps_root, low=0)
    check_flag("scale_by_adam", "nesterov", nesterov)
    check_flag("scale_by_adam", "eps_hat", eps_hat)
    rooted = not is_zero(eps_root)
    over = ratio(eps, eps_root)

    def once(c: Any) -> dict[str, Any]:
        gathered, one = debias(c.b2, c.t), np.asarray(1, c.dtype)
        # With epsilon hat, the root of the correction goes to the numerator and v is not corrected.
        top, c2 = (jnp.sqrt(gathered), one) if eps_hat else (one, 1 / gathered)
        c1 = top / debias(c.b1, c.t)
        if not nesterov:
            return {"c1": c1, "c2": c2}
        return {"c1": c.b1.value * top / debias(c.b1, c.t + one), "c2": c2, "cg": c.b1.complement * c1}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = ema(g, s.mu, k.b1)
        v = ema(abs_sq(g), s.nu, k.b2)
        m_hat = k.c1 * m + k.cg * g if nesterov else k.c1 * m
        v_hat = k.c2 * v + k.eps_root if rooted else k.c2 * v
        return over(m_hat, jnp.sqrt(v_hat) + k.eps), {"mu": m, "nu": v}

    return elementwise(
        step,
        once=once,
        state=optax.ScaleByAdamState,
        decays={"b1": b1, "b2": b2},
        scalars={"eps": eps, "eps_root": eps_root},
        dtypes={"mu": mu_dtype, "nu": nu_dtype},
    )


_KERAS = {"eps": 1e-7, "eps_hat": True}


@factory(presets={"torch": {}, "paper": {}, "keras": _KERAS})
def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nu_dtype: Any = None,
    nesterov: bool = False,
    eps_hat: bool = False,
    like: str = "optax",
):
    """Adam without weight decay.

    **Advice.** 1e-3 is a good first rate for small models, 1e-4 to 3e-4 for transformers; a weight moves by about
    the rate in one step, whatever the size of the loss; by a few rates when its gradient suddenly grows. From SGD
    with momentum take a rate 10 to 100 times smaller. In 16-bit training raise `eps` to 1e-6 or more if gradients
    are tiny. With decay, use `adamw`: adding `weight_decay * p` to the gradient in front of Adam (L2) divides the
    decay by the root of v and is another method, `adam_l2`.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov, eps_hat: as in `scale_by_adam`.
        like: whose defaults: "optax", "torch" and "paper" (the same), "keras" (epsilon hat of 1e-7).

    Returns:
        `chain(scale_by_adam(...), scale_by_learning_rate(learning_rate))`; the state is Optax's.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.adam(1e-3)
        >>> params = {"w": 1.0}
        >>> updates, state = tx.update({"w": 5.0}, tx.init(params), params)
        >>> round(float(updates["w"]), 6)
        -0.001
    """
    check_rate("adam", learning_rate)
    del like
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype, nesterov=nesterov, eps_hat=eps_hat),
        scale_by_learning_rate(learning_rate),
    )


@factory
def adam_l2(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nu_dtype: Any = None,
    nesterov: bool = False,
    eps_hat: bool = False,
):
    """Adam with L2 regularisation: what torch's `Adam(weight_decay=...)` is, and not AdamW.

    **Advice.** For continuing or reproducing runs that were made with it. The decay goes through the moments and is
    divided by the root of v, so weights with large gradients hardly decay at all: for regularisation take `adamw`.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov, eps_hat: as in `adam`.
        weight_decay: the factor of the penalty `weight_decay / 2 |p|^2`, whose gradient is added to each gradient.
        mask: which leaves are penalised; every form of `gx.masked`. None means all.

    Returns:
        `chain(add_decayed_weights(weight_decay, mask), scale_by_adam(...), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.adam_l2(0.5, weight_decay=0.1)
        >>> round(float(tx.update(0.0, tx.init(3.0), 3.0)[0]), 5)  # a full step, though the penalty is small
        -0.5
    """
    check_rate("adam_l2", learning_rate)
    check_decay("adam_l2", weight_decay)
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype, nesterov=nesterov, eps_hat=eps_hat),
        scale_by_learning_rate(learning_rate),
    )


@factory(presets={"torch": {"weight_decay": 1e-2}, "keras": {**_KERAS, "weight_decay": 4e-3}})
def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nu_dtype: Any = None,
    nesterov: bool = False,
    eps_hat: bool = False,
    like: str = "optax",
):
    """Adam with decoupled weight decay: the usual choice for transformers.

    **Advice.** Decay 0.01 to 0.1 on matrices only (`mask=gx.matrices()`), b2 0.95 for large batches, a clip of the
    global norm at 1.0 in front, warmup over 1 to 10 % of the run and a cosine down. The decay is multiplied by the
    learning rate, as in Optax and torch; each step shrinks a weight by `learning_rate * weight_decay`. The default
    1e-4 is Optax's (torch: 1e-2). Restarting from Lion: three to ten times the rate, a third to a tenth of the decay.

    Args:
        learning_rate: a number or a schedule; about the largest change of one weight in one step.
        b1, b2, eps, eps_root, mu_dtype, nu_dtype, nesterov, eps_hat: as in `scale_by_adam`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.
        like: whose defaults: "optax", "torch" (decay 1e-2), "keras" (decay 4e-3, epsilon hat of 1e-7).

    Returns:
        `chain(scale_by_adam(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))`.

    Example:
        >>> import gradxform as gx
        >>> gx.adamw(3e-4, weight_decay=0.1, mask=gx.matrices(exclude="embed*"))
        gx.adamw(0.0003, weight_decay=0.1, mask=gx.matrices(exclude='embed*'))
    """
    check_rate("adamw", learning_rate)
    del like
    check_decay("adamw", weight_decay)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype, nesterov=nesterov, eps_hat=eps_hat),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@factory
def nadamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nu_dtype: Any = None,
    nesterov: bool = True,
):
    """AdamW with Nesterov momentum; the strongest of the plain baselines in the AlgoPerf competition.

    **Advice.** As `adamw`, with the same rate and decay.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nu_dtype: as in `adamw`.
        nesterov: as in Optax, where this name is `adamw` with the flag turned on.

    Returns:
        `adamw(..., nesterov=True)`.

    Example:
        >>> import gradxform as gx
        >>> gx.nadamw(3e-4, weight_decay=0.1, mask=gx.matrices())
        gx.nadamw(0.0003, weight_decay=0.1, mask=gx.matrices())

    References: Dahl et al., Benchmarking neural network training algorithms, 2023, arXiv:2306.07179.
    """
    check_rate("nadamw", learning_rate)
    check_decay("nadamw", weight_decay)
    return adamw(
        learning_rate,
        b1,
        b2,
        eps,
        eps_root,
        mu_dtype,
        weight_decay,
        mask,
        nu_dtype=nu_dtype,
        nesterov=nesterov,
    )
