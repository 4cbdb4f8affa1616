"""The recipes of Schedule-Free: plain gradient descent and AdamW without momentum, with an average in its place.

    z_{t+1} = z_t - rate_t (g_t + decay y_t)                          schedule_free_sgd
    z_{t+1} = z_t - rate_t (g_t / (sqrt(v_hat_t) + eps) + decay y_t)  schedule_free_adamw
    rate_t = rate min(t / T, 1)                                       T = warmup_steps, t = 1, 2, ...

g is the gradient at y, the parameters; x and y follow from z as `schedule_free` says. Defazio et al., The road less
scheduled, 2024, arXiv:2405.15682, algorithm 1. There the correction of v, sqrt(1 - b2^t), is a factor of the rate, and
so of the decay and of the weights of the average; here it is in v_hat, as in the authors' code and in Optax.
"""

from typing import Any

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._combine.schedule_free import schedule_free
from .._core.errors import check_integer, check_number, concrete, say, short
from .._core.factory import factory
from .._core.scalars import is_schedule
from .._schedules.count import number
from .._schedules.decays import linear_schedule
from .decay import add_decayed_weights, check_decay
from .rmsprop import scale_by_rms
from .sgd import sgd


def _warmed(call: str, learning_rate: Any, warmup_steps: Any) -> Any:
    """The rate, after a warmup whose first step is a T-th of it and whose T-th is the whole."""
    check_rate(call, learning_rate)
    if warmup_steps is None:
        return learning_rate
    check_integer(call, "warmup_steps", warmup_steps, low=1)
    if is_schedule(learning_rate):
        fact = f"gx.{call}(learning_rate={short(learning_rate)}, warmup_steps={warmup_steps}): two warmups"
        raise ValueError(say(fact, "put the warmup into the schedule, or pass the rate as a number"))
    steps = int(warmup_steps)
    first = (number(learning_rate) if concrete(learning_rate) is None else learning_rate) / steps
    return linear_schedule(first, learning_rate, steps - 1)


@factory
def schedule_free_sgd(
    learning_rate: Any = 1.0,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    weight_decay: Any = None,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    mask: Any = None,
    weight_step_power: Any = 0.0,
):
    """Schedule-Free SGD: gradient descent at a constant rate, evaluated at an average of the weights.

    **Advice.** No schedule that falls. Begin with 10 to 50 times the rate that you have for momentum 0.9, and tune it:
    it matters more than `b1`. A warmup of 5 % of the run. Evaluate, save and deploy
    `gx.eval_params(state, params)`, not the parameters; batch norm has its statistics at the parameters, so run some
    batches through the evaluated weights and take theirs. Memory is that of momentum.

    Args:
        learning_rate: a number or a schedule.
        warmup_steps: over how many steps the rate rises in a line, at least 1; None for none. With a schedule the
            warmup is in it.
        b1, weight_lr_power, state_dtype, weight_step_power: as in `schedule_free`.
        weight_decay: times the learning rate; the decay of y, the parameters. None for none.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `schedule_free(chain(add_decayed_weights(weight_decay, mask), sgd(learning_rate)), learning_rate, b1, ...)`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.schedule_free_sgd(0.5)
        >>> params, state = jnp.array([1.0]), tx.init(jnp.array([1.0]))
        >>> updates, state = tx.update(jnp.array([1.0]), state, params)
        >>> params = gx.apply_updates(params, updates)
        >>> params.tolist(), gx.eval_params(state, params).tolist()  # after one step x is z
        ([0.5], [0.5])

    Differs from Optax: the first step of a warmup has 1 / T of the rate and not 0; `mask`, `weight_step_power`; see
    `schedule_free`.
    """
    call = "schedule_free_sgd"
    rate = _warmed(call, learning_rate, warmup_steps)
    base = sgd(rate)
    if weight_decay is not None:
        check_decay(call, weight_decay)
        base = chain(add_decayed_weights(weight_decay, mask), base)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype, weight_step_power=weight_step_power)


@factory
def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
    *,
    mask: Any = None,
    nu_dtype: Any = None,
    weight_step_power: Any = 0.0,
):
    """Schedule-Free AdamW: AdamW at a constant rate, with an average of the weights in the place of the momentum.

    **Advice.** No schedule that falls. Begin with 1 to 10 times the rate that you have for AdamW with a cosine, and its
    decay; `b1=0.95` or 0.98 for long runs, and a warmup of 5 %. Evaluate, save and deploy
    `gx.eval_params(state, params)`, not the parameters; batch norm has its statistics at the parameters, so run some
    batches through the evaluated weights and take theirs. Memory is that of AdamW.

    Args:
        learning_rate: a number or a schedule.
        warmup_steps: over how many steps the rate rises in a line, at least 1; None for none. With a schedule the
            warmup is in it.
        b1, weight_lr_power, state_dtype, weight_step_power: as in `schedule_free`.
        b2: decay of the second moment, in [0, 1).
        eps: added to the root; in the unit of a gradient.
        weight_decay: times the learning rate; the decay of y, the parameters; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.
        nu_dtype: storage of the second moment; None is the parameter's dtype, but float32 for a 16-bit parameter.

    Returns:
        `schedule_free(chain(scale_by_rms(b2, eps, ...), add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate)), learning_rate, b1, ...)`, the RMS corrected and `eps` outside its root.

    Example:
        >>> import gradxform as gx
        >>> gx.schedule_free_adamw(3e-3, warmup_steps=500, weight_decay=0.1)
        gx.schedule_free_adamw(learning_rate=0.003, warmup_steps=500, weight_decay=0.1)

    Differs from Optax: the first step of a warmup has 1 / T of the rate and not 0; `mask`, `nu_dtype`,
    `weight_step_power`; see `schedule_free`.
    """
    call = "schedule_free_adamw"
    rate = _warmed(call, learning_rate, warmup_steps)
    check_number(call, "b2", b2, low=0, high=1, open_high=True)
    check_number(call, "eps", eps, low=0)
    check_decay(call, weight_decay)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True, nu_dtype=nu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype, weight_step_power=weight_step_power)
