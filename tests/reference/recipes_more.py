"""The other recipes, link for link, as chains of references. Arguments are those of the library's recipes.

A `like=` preset is not known here: the tests say what it stands for, and pass that.
"""

import math
from typing import Any

from .adam import Adam
from .adam_kin import Adamax, Amsgrad, Belief, Nadam, Radam, Yogi
from .adan import Adan
from .clip import ClipByBlockRms
from .decay import AddDecayedWeights
from .factored import FactoredRms
from .momentum import Ema, Identity, Sign, Trace
from .rate import Scale, ScaleByLearningRate
from .root_mean import Adadelta, Rms, Rss, StdDev
from .rprop import Rprop
from .scalars import Hyper, hyper
from .tree import Chain, Leafwise, TreeMethod
from .trust import ParamBlockRms, TrustRatio


def _rate(learning_rate: Hyper) -> Leafwise:
    return Leafwise(ScaleByLearningRate(learning_rate))


def _decay(weight_decay: Hyper, mask: Any, proximal_rate: Hyper | None = None) -> Leafwise:
    return Leafwise(AddDecayedWeights(weight_decay, False, proximal_rate), True if mask is None else mask)


def _scaled(method: Any, learning_rate: Hyper) -> Chain:
    return Chain(Leafwise(method), _rate(learning_rate))


def momentum_sgd(
    learning_rate: Hyper,
    momentum: Hyper = 0.9,
    nesterov: bool = False,
    *,
    dampening: Hyper = 0.0,
    rate_in_momentum: bool = False,
) -> Chain:
    """`sgd` with its further options. `rate_in_momentum`: m = momentum m - eta g, p += m: a change of eta acts on what
    is yet to come only (Polyak, Sutskever, Keras).
    """
    first, rate = Leafwise(Trace(momentum, nesterov, dampening)), _rate(learning_rate)
    return Chain(rate, first) if rate_in_momentum else Chain(first, rate)


def adam_l2(learning_rate: Hyper, weight_decay: Hyper = 1e-4, mask: Any = None, **kwargs: Any) -> Chain:
    """Adam of g + lambda p."""
    return Chain(_decay(weight_decay, mask), Leafwise(Adam(**kwargs)), _rate(learning_rate))


def nadam(
    learning_rate: Hyper,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    *,
    nesterov: bool = True,
    momentum_decay: Hyper | None = None,
) -> Chain:
    """With a momentum decay Dozat's, without it Adam with a constant momentum looked ahead."""
    if momentum_decay is None:
        return _scaled(Adam(b1, b2, eps, eps_root, nesterov), learning_rate)
    return _scaled(Nadam(b1, b2, eps, momentum_decay), learning_rate)


def amsgrad(learning_rate: Hyper, **kwargs: Any) -> Chain:
    return _scaled(Amsgrad(**kwargs), learning_rate)


def radam(learning_rate: Hyper, **kwargs: Any) -> Chain:
    return _scaled(Radam(**kwargs), learning_rate)


def adamax(learning_rate: Hyper, **kwargs: Any) -> Chain:
    return _scaled(Adamax(**kwargs), learning_rate)


def adamaxw(learning_rate: Hyper, weight_decay: Hyper = 1e-4, mask: Any = None, **kwargs: Any) -> Chain:
    return Chain(Leafwise(Adamax(**kwargs)), _decay(weight_decay, mask), _rate(learning_rate))


def adabelief(learning_rate: Hyper, **kwargs: Any) -> Chain:
    return _scaled(Belief(**kwargs), learning_rate)


def yogi(learning_rate: Hyper, **kwargs: Any) -> Chain:
    return _scaled(Yogi(**kwargs), learning_rate)


def adagrad(learning_rate: Hyper, **kwargs: Any) -> Chain:
    return _scaled(Rss(**kwargs), learning_rate)


def rmsprop(
    learning_rate: Hyper,
    *,
    centered: bool = False,
    momentum: Hyper | None = None,
    nesterov: bool = False,
    rate_in_momentum: bool = True,
    **kwargs: Any,
) -> Chain:
    """The rate stands before the momentum (Optax, Keras) or behind it (torch); no momentum leaves an idle link."""
    first, rate = Leafwise((StdDev if centered else Rms)(**kwargs)), _rate(learning_rate)
    last = Leafwise(Identity() if momentum is None else Trace(momentum, nesterov))
    return Chain(first, rate, last) if rate_in_momentum else Chain(first, last, rate)


def adadelta(
    learning_rate: Hyper | None = None,
    rho: Hyper = 0.9,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    weight_decay_mask: Any = None,
) -> Chain:
    """L2 comes first; without a learning rate it is 1, downhill."""
    decay = _decay(weight_decay, weight_decay_mask)
    return Chain(decay, Leafwise(Adadelta(rho, eps)), _rate(1.0 if learning_rate is None else learning_rate))


def rprop(learning_rate: float, **kwargs: Any) -> Chain:
    return Chain(Leafwise(Rprop(learning_rate, **kwargs)), Leafwise(Scale(-1.0)))


def adan(
    learning_rate: Hyper,
    b1: Hyper = 0.98,
    b2: Hyper = 0.92,
    b3: Hyper = 0.99,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Any = None,
    *,
    weigh_by_b2: bool = False,
    proximal: bool = False,
) -> Chain:
    """`proximal`: p = (p - eta u) / (1 + eta lambda), the paper's implicit decay."""
    decay = _decay(weight_decay, mask, learning_rate if proximal else None)
    return Chain(Leafwise(Adan(b1, b2, b3, eps, eps_root, weigh_by_b2)), decay, _rate(learning_rate))


def lamb(
    learning_rate: Hyper,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    eps_root: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    mask: Any = None,
    *,
    max_norm: Hyper | None = None,
) -> Chain:
    """AdamW's direction, decay included, times the trust ratio of each array."""
    adam, decay = Leafwise(Adam(b1, b2, eps, eps_root)), _decay(weight_decay, mask)
    return Chain(adam, decay, Leafwise(TrustRatio(max_norm=max_norm)), _rate(learning_rate))


def lars(
    learning_rate: Hyper,
    weight_decay: Hyper = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Hyper = 0.001,
    eps: Hyper = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Hyper = 0.9,
    nesterov: bool = False,
    *,
    norm_sum: bool = False,
    rate_in_momentum: bool = True,
) -> Chain:
    """SGD with momentum of the gradient (decay included) times the trust ratio. `norm_sum`: the paper's denominator
    |g| + lambda |p|, where otherwise there is |g + lambda p|.
    """
    nothing: Hyper = (lambda count: 0.0) if callable(weight_decay) else 0.0
    outside, inside = (nothing, weight_decay) if norm_sum else (weight_decay, 0.0)
    ratio = TrustRatio(trust_coefficient=trust_coefficient, eps=eps, weight_decay=inside)
    rate, trace = _rate(learning_rate), Leafwise(Trace(momentum, nesterov))
    head: list[TreeMethod] = [_decay(outside, weight_decay_mask), Leafwise(ratio, trust_ratio_mask)]
    return Chain(*head, *((rate, trace) if rate_in_momentum else (trace, rate)))


def adafactor(
    learning_rate: Hyper | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Hyper = 0.8,
    decay_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Hyper | None = 1.0,
    momentum: Hyper | None = None,
    weight_decay_rate: Hyper | None = None,
    eps: Hyper = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
    *,
    beta2_cap: Hyper | None = None,
    floor: Hyper | None = None,
    last_axes: bool = False,
    relative_step: bool = False,
    rate_in_decay: bool = False,
    min_scale: Hyper = 1e-3,
) -> Chain:
    """The factored direction, clipped by its rms, times the rate, times the parameter's rms, averaged, plus the decay.

    relative_step   the rate is min(learning_rate, 1 / sqrt(t)) (Shazeer & Stern, section 9, without warmup)
    rate_in_decay   the decay is multiplied by `learning_rate` (torch), but not by the parameter's scale
    """
    first = FactoredRms(
        factored, decay_rate, decay_offset, min_dim_size_to_factor, eps, None, beta2_cap, floor, last_axes
    )
    links: list[Any] = [Leafwise(first)]
    if clipping_threshold is not None:
        links.append(Leafwise(ClipByBlockRms(clipping_threshold)))
    if learning_rate is not None:
        given = learning_rate
        rate = (lambda count: min(hyper(given, count), 1 / math.sqrt(count + 1))) if relative_step else given
        links.append(Leafwise(ScaleByLearningRate(rate, flip_sign=False)))
    if multiply_by_parameter_scale:
        links.append(Leafwise(ParamBlockRms(min_scale)))
    if momentum is not None:
        links.append(Leafwise(Ema(momentum, debias=False)))
    if weight_decay_rate is not None:
        links.append(
            _decay(_product(weight_decay_rate, learning_rate if rate_in_decay else 1.0), weight_decay_mask)
        )
    return Chain(*links, Leafwise(Scale(-1.0)))


def _product(a: Hyper, b: Hyper | None) -> Hyper:
    if b is None or not (callable(a) or callable(b)):
        return a if b is None else float(a) * float(b)  # pyright: ignore[reportArgumentType]
    return lambda count: hyper(a, count) * hyper(b, count)


def signum(learning_rate: Hyper, beta: Hyper = 0.9) -> Chain:
    """The sign of the average (Bernstein et al. 2018, algorithm 2)."""
    return Chain(Leafwise(Ema(beta, debias=False)), Leafwise(Sign()), _rate(learning_rate))


def sign_sgd(learning_rate: Hyper) -> Chain:
    return Chain(Leafwise(Sign()), _rate(learning_rate))
