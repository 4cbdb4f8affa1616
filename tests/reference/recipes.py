"""The recipes as chains of references, link for link Optax's. They work on a nested dict and on a single array."""

from typing import Any

from .adam import Adam
from .decay import AddDecayedWeights
from .momentum import Identity, Lion, Trace
from .rate import ScaleByLearningRate
from .scalars import Hyper
from .tree import Chain, Leafwise, TreeMethod


def _finish(first: Any, learning_rate: Hyper, weight_decay: Hyper, mask: Any, independent: bool) -> Chain:
    rate = Leafwise(ScaleByLearningRate(learning_rate))
    decay = Leafwise(AddDecayedWeights(weight_decay, independent), True if mask is None else mask)
    return Chain(Leafwise(first), rate, decay) if independent else Chain(Leafwise(first), decay, rate)


def sgd(
    learning_rate: Hyper, momentum: Hyper | None = None, nesterov: bool = False, *, l2: Hyper | None = None
) -> Chain:
    """p -= eta m with m = momentum m + g; with `l2`, a first link g + l2 p: torch's weight_decay."""
    first = Identity() if momentum is None else Trace(momentum, nesterov)
    links: list[TreeMethod] = [Leafwise(first), Leafwise(ScaleByLearningRate(learning_rate))]
    return Chain(*links) if l2 is None else Chain(Leafwise(AddDecayedWeights(l2)), *links)


def adam(
    learning_rate: Hyper,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    *,
    nesterov: bool = False,
    eps_hat: bool = False,
    l2: Hyper | None = None,
) -> Chain:
    """p -= eta adam(g); with `l2`, adam(g + l2 p) as a first link: Adam with L2 regularisation, which is not AdamW."""
    first = Adam(b1, b2, eps, eps_root, nesterov, eps_hat)
    links = [Leafwise(first), Leafwise(ScaleByLearningRate(learning_rate))]
    return Chain(*links) if l2 is None else Chain(Leafwise(AddDecayedWeights(l2)), *links)


def adamw(
    learning_rate: Hyper,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    eps_root: Hyper = 0.0,
    weight_decay: Hyper = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    eps_hat: bool = False,
    independent: bool = False,
) -> Chain:
    """p -= eta (adam(g) + lambda p); `independent`: p -= eta adam(g) + lambda p (the decay is then the last link)."""
    first = Adam(b1, b2, eps, eps_root, nesterov, eps_hat)
    return _finish(first, learning_rate, weight_decay, mask, independent)


def nadamw(learning_rate: Hyper, **kwargs: Any) -> Chain:
    """AdamW with Nesterov's look-ahead in the first moment."""
    return adamw(learning_rate, **kwargs, nesterov=True)


def lion(
    learning_rate: Hyper,
    b1: Hyper = 0.9,
    b2: Hyper = 0.99,
    weight_decay: Hyper = 1e-3,
    mask: Any = None,
    *,
    independent: bool = False,
) -> Chain:
    """p -= eta (sign(b1 m + (1 - b1) g) + lambda p)."""
    return _finish(Lion(b1, b2), learning_rate, weight_decay, mask, independent)
