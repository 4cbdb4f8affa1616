"""Prodigy: Adam that finds its learning rate, from how far the weights have come and how steadily they went there.

    r_t = d_t eta_t sqrt(1 - b2^t) / (1 - b1^t)
    n_t = b3 n_{t-1} + (d_t / d_0) r_t <g_t, p_0 - p_t>          `numerator_weighted` in the state
    s_t = b3 s_{t-1} + (d_t / d_0) r_t g_t                       `grad_sum`
    m_t = b1 m_{t-1} + (1 - b1) d_t g_t                          `exp_avg`
    v_t = b2 v_{t-1} + (1 - b2) d_t^2 g_t^2                      `exp_avg_sq`
    d_{t+1} = max(d_t, c n_t / |s_t|_1)                          `estim_lr`
    u_t = -r_t (m_t / (sqrt(v_t) + d_{t+1} eps) + weight_decay p_t)

g is the gradient, p the weights, p_0 those at `init` (`params0`), eta the learning rate, about 1, t = 1, 2, ... the
step; <.,.> and |.|_1 go over all leaves. For a convex loss d never exceeds the distance of p_0 to the solution, and it
grows to a share of that within few steps. b3 is sqrt(b2) and c is 1 unless they are given.
Mishchenko & Defazio, Prodigy: an expeditiously adaptive parameter-free learner, ICML 2024, arXiv:2306.06101.
"""

from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import ProdigyState

from .._combine.plain import check_rate
from .._core.errors import check_flag, check_number, say, short
from .._core.factory import factory
from .._core.lift import treewise
from .._core.numerics import abs_sq, debias, ema, quotient, ratio
from .._core.roles import Count, Iterate, Moment, Reading, SecondMoment, declare_own, declare_roles
from .._core.rule import Stage
from .._core.scalars import resolve
from .decay import check_decay

declare_roles(
    ProdigyState,
    exp_avg=Moment,
    exp_avg_sq=SecondMoment,
    grad_sum=Moment,
    params0=Iterate,
    estim_lr=Reading,
    numerator_weighted=Reading,
    count=Count,
)
declare_own(ProdigyState, "exp_avg", "exp_avg_sq", "grad_sum")  # of d g, not of g


@factory
def prodigy(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    betas: Any = (0.9, 0.999),
    beta3: Any = None,
    eps: Any = 1e-8,
    estim_lr0: Any = 1e-6,
    estim_lr_coef: Any = 1.0,
    weight_decay: Any = 0.0,
    safeguard_warmup: bool = False,
    *,
    growth_rate: Any = None,
    bias_correction: bool = True,
    mu_dtype: Any = None,
    nu_dtype: Any = None,
):
    """Prodigy: AdamW without a learning rate to look for.

    **Advice.** Leave the rate at 1 and give it a schedule that falls to 0 (`gx.cosine_decay_schedule(1.0, steps)`); to
    see what was found, read `estim_lr` in the state. Where the loss diverges early, `estim_lr_coef=0.5` or
    `growth_rate=1.02`; behind a warmup `safeguard_warmup=True`. Do not clip gradients in front unless they need it, and
    do not put it in `gx.param_groups` beside itself: each part then makes an estimate of its own. Weights of 16 bits do
    not move by a millionth, and nothing is found: `gx.lowbit.exact_master` around it, or `estim_lr0=1e-3`. It keeps
    four arrays a parameter, two more than AdamW; where AdamW's rate is known, take AdamW.

    **Update**: as at this module's head.

    Args:
        learning_rate: eta, a number or a schedule in the unit of the estimate: 1 takes it as it is.
        betas: b1 and b2, the decays of Adam's moments, in [0, 1).
        beta3: the decay of the sums in the estimate, in [0, 1); None is the root of b2.
        eps: Adam's, in the unit of a gradient.
        estim_lr0: d_0, above 0 and below any rate that could be right; by far too small costs a few steps.
        estim_lr_coef: c, above 0; 0.5 or 2 halves or doubles the rate that is found.
        weight_decay: the decay per unit of the rate that is found; a number of at least 0, or a schedule. All leaves
            decay.
        safeguard_warmup: whether s leaves out eta, so that the small rates of a warmup do not make the estimate large.
        growth_rate: the most by which d grows in one step once it has left d_0, a factor of at least 1; None for no
            bound.
        bias_correction: whether r has the fraction with b1 and b2; the paper's has not.
        mu_dtype: storage of `exp_avg`; None is the parameter's dtype, but float32 for a 16-bit parameter: at first d g
            is a millionth of a gradient, which in float16 is nothing.
        nu_dtype: storage of `exp_avg_sq`; None as for `mu_dtype`.

    State: `optax.contrib.ProdigyState(exp_avg, exp_avg_sq, grad_sum, params0, estim_lr, numerator_weighted, count)`:
    four numbers a parameter; roles moment, second moment, moment, iterate, reading, reading, count. `grad_sum` is
    float32 for a 16-bit parameter, the estimate and its numerator always.

    Reach: tree: two sums over all leaves. Needs `params`.

    Returns:
        A transform of one link, whose updates are to be added to the parameters; the state is Optax's.

    Raises:
        ValueError: for a decay outside [0, 1), an estimate or a coefficient that is not positive, a negative number, a
            growth below 1.
        TypeError: for betas that are not two.

    Example:
        >>> import gradxform as gx
        >>> tx, p = gx.prodigy(), 1.0  # half of p^2, whose gradient is p
        >>> state = tx.init(p)
        >>> for _ in range(40):
        ...     u, state = tx.update(p, state, p)
        ...     p = p + float(u)
        >>> round(p, 1), round(float(state.estim_lr), 1)  # the solution is 0, at a distance of 1
        (0.1, 0.5)

    Differs from Optax: a first gradient of zero, or a schedule that starts at 0, leaves the estimate as it is (Optax's
    is NaN from then on); sums and estimate are float32 whatever the parameters are; the corrections lose nothing to
    cancellation; `growth_rate`, `bias_correction`, `mu_dtype`, `nu_dtype`.
    """
    b1, b2 = _checked(learning_rate, betas, beta3, eps, estim_lr0, estim_lr_coef, weight_decay, growth_rate)
    check_flag("prodigy", "safeguard_warmup", safeguard_warmup)
    check_flag("prodigy", "bias_correction", bias_correction)
    over = ratio(eps)

    def before(c: Any) -> dict[str, Any]:
        d = jnp.asarray(c.state.estim_lr, c.dtype)
        r = d * c.learning_rate
        if bias_correction:
            r = r * jnp.sqrt(debias(c.b2, c.t)) / debias(c.b1, c.t)
        b3 = jnp.sqrt(c.b2.value) if beta3 is None else c.beta3
        grown = d / c.estim_lr0
        return {"d": d, "r": r, "b3": b3, "far": grown * r, "w": grown * (d if safeguard_warmup else r)}

    def reduce(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> dict[str, Any]:
        del leaf
        return {
            "along": jnp.sum((jnp.conj(g) * (s.params0 - p)).real),
            "size": jnp.sum(jnp.abs(k.b3 * s.grad_sum + k.w * g)),
        }

    def estimate(c: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        n = c.b3 * jnp.asarray(c.state.numerator_weighted, c.dtype) + c.far * c.sums["along"]
        found = jnp.maximum(c.d, c.estim_lr_coef * quotient(n, c.sums["size"]))
        if growth_rate is not None:  # the first rise is from a number that means nothing
            found = jnp.where(c.d == c.estim_lr0, found, jnp.minimum(found, c.d * c.growth_rate))
        return {"d_next": found}, {"estim_lr": found, "numerator_weighted": n}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del leaf
        m = ema(k.d * g, s.exp_avg, k.b1)
        v = ema(abs_sq(k.d * g), s.exp_avg_sq, k.b2)
        u = over(m, jnp.sqrt(v) + k.d_next * k.eps) + k.weight_decay * p
        return -k.r * u, {"exp_avg": m, "exp_avg_sq": v, "grad_sum": k.b3 * s.grad_sum + k.w * g}

    numbers = {"learning_rate": learning_rate, "beta3": beta3, "eps": eps, "estim_lr0": estim_lr0}
    numbers |= {"estim_lr_coef": estim_lr_coef, "weight_decay": weight_decay, "growth_rate": growth_rate}
    return treewise(
        stages=[Stage(once=before), Stage(step, estimate, reduce)],
        state=ProdigyState,
        scalars={name: value for name, value in numbers.items() if value is not None},
        decays={"b1": b1, "b2": b2},
        dtypes={"exp_avg": mu_dtype, "exp_avg_sq": nu_dtype},
        init={"params0": _start},
        fields={"estim_lr": lambda: _first(estim_lr0), "numerator_weighted": lambda: jnp.zeros([], float)},
        needs=("params",),
        call="prodigy",
        rate=1,
        flips=True,
        sharded=True,
        wide=("exp_avg", "grad_sum"),
    )


def _start(p: Any, leaf: Any) -> Any:
    del leaf
    return p


def _first(estim_lr0: Any) -> Any:
    dtype = jnp.result_type(float)
    return jnp.asarray(resolve("prodigy", "estim_lr0", estim_lr0, 0, dtype), dtype)


def _checked(
    rate: Any, betas: Any, beta3: Any, eps: Any, first: Any, coefficient: Any, decay: Any, growth: Any
) -> tuple[Any, Any]:
    """b1 and b2, when all numbers are within their ranges."""
    check_rate("prodigy", rate)
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        fact = f"gx.prodigy(betas={short(betas)}): wanted two decays"
        raise TypeError(say(fact, "write betas=(0.9, 0.999)"))
    b1, b2 = betas
    for name, value in (("betas[0]", b1), ("betas[1]", b2), ("beta3", beta3)):
        if value is not None or name != "beta3":
            check_number("prodigy", name, value, low=0, high=1, open_high=True)
    check_number("prodigy", "eps", eps, low=0)
    check_number("prodigy", "estim_lr0", first, low=0, open_low=True, schedule=False)
    check_number("prodigy", "estim_lr_coef", coefficient, low=0, open_low=True)
    check_decay("prodigy", decay)
    if growth is not None:
        check_number("prodigy", "growth_rate", growth, low=1)
    return b1, b2
