"""Double precision against what torch did with the same gradients: 1e-9 of the way that a leaf has gone.

`from_torch` is the dictionary: what each of torch's options is called here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference

FILES = [
    *("torch_sgd.npz", "torch_sgd_more.npz", "torch_adam.npz", "torch_adam_more.npz"),
    *("torch_adamw.npz", "torch_adamw_more.npz", "torch_nadam.npz", "torch_radam.npz", "torch_adamax.npz"),
    *(
        "torch_adagrad.npz",
        "torch_adadelta.npz",
        "torch_rmsprop.npz",
        "torch_rprop.npz",
        "torch_adafactor.npz",
    ),
]
#: All but the first of a file are marked slow.
RUNS = [
    pytest.param(file, name, marks=pytest.mark.slow if i else ())
    for file in FILES
    for i, name in enumerate(reference.Golden.load(file).meta["runs"])
]


def table(values: Any) -> Callable[[Any], Any]:
    """A schedule that looks its value up."""
    return lambda count: jnp.asarray(values)[count]


def _moments(options: dict[str, Any]) -> dict[str, Any]:
    """betas and eps, which are called the same in all of Adam's family; what is not given is left to the preset."""
    betas = options.pop("betas", None)
    named = {} if betas is None else {"b1": betas[0], "b2": betas[1]}
    return named | ({"eps": options.pop("eps")} if "eps" in options else {})


def _sgd(rate: Any, options: dict[str, Any]) -> Any:
    """torch's momentum of 0 is none, and then there is nothing to dampen."""
    if not options.get("momentum"):
        options.pop("dampening", None)
    return gx.sgd(rate, **options, like="torch")


def _adam(rate: Any, options: dict[str, Any]) -> Any:
    moments, decay = _moments(options), options.pop("weight_decay", 0.0)
    if options.pop("amsgrad", False):
        return _l2(decay, gx.amsgrad(rate, **moments, like="torch"))
    if decay:
        return gx.adam_l2(rate, **moments, weight_decay=decay)
    return gx.adam(rate, **moments, like="torch")


def _adamw(rate: Any, options: dict[str, Any]) -> Any:
    moments = _moments(options)
    if options.pop("amsgrad", False):
        direction = gx.scale_by_amsgrad(**moments, raw_max=True)
        return _decoupled(direction, options.pop("weight_decay", 0.01), rate)
    return gx.adamw(rate, **moments, **options, like="torch")


def _nadam(rate: Any, options: dict[str, Any]) -> Any:
    moments, decay = _moments(options), options.pop("weight_decay", 0.0)
    if options.pop("decoupled_weight_decay", False):
        return _decoupled(gx.scale_by_nadam(**moments, **options), decay, rate)
    return _l2(decay, gx.nadam(rate, **moments, **options, like="torch"))


def _radam(rate: Any, options: dict[str, Any]) -> Any:
    moments, decay = _moments(options), options.pop("weight_decay", 0.0)
    if options.pop("decoupled_weight_decay", False):
        return _decoupled(gx.scale_by_radam(**moments, eps_hat=True), decay, rate)
    return _l2(decay, gx.radam(rate, **moments, like="torch"))


def _adamax(rate: Any, options: dict[str, Any]) -> Any:
    moments = _moments(options)
    return _l2(options.pop("weight_decay", 0.0), gx.adamax(rate, **moments, like="torch"))


def _adagrad(rate: Any, options: dict[str, Any]) -> Any:
    """torch's `lr_decay` is a schedule of the learning rate."""
    slope, decay = options.pop("lr_decay", 0.0), options.pop("weight_decay", 0.0)
    falling = (lambda count: rate / (1.0 + slope * count.astype(jnp.float64))) if slope else rate
    return _l2(decay, gx.adagrad(falling, **options, like="torch"))


def _adadelta(rate: Any, options: dict[str, Any]) -> Any:
    return gx.adadelta(rate, **options, like="torch")


def _rmsprop(rate: Any, options: dict[str, Any]) -> Any:
    decay = options.pop("weight_decay", 0.0)
    named = {"decay": options.pop("alpha")} if "alpha" in options else {}
    return _l2(decay, gx.rmsprop(rate, **named, **options, like="torch"))


def _rprop(rate: Any, options: dict[str, Any]) -> Any:
    minus, plus = options.pop("etas", (0.5, 1.2))
    least, most = options.pop("step_sizes", (1e-6, 50.0))
    return gx.rprop(rate, minus, plus, least, most, like="torch")


def _adafactor(rate: Any, options: dict[str, Any]) -> Any:
    """torch has two epsilons: the floor of v, by default the machine epsilon, and that of the size of a parameter."""
    floor, size = options.pop("eps", (None, 1e-3))
    named = {"decay_rate": -options.pop("beta2_decay", -0.8), "clipping_threshold": options.pop("d", 1.0)}
    if floor is not None:
        named["floor"] = floor
    decay = options.pop("weight_decay", 0.0)
    return gx.adafactor(rate, **named, min_scale=size, weight_decay_rate=decay or None, like="torch")


def _l2(decay: float, tx: Any) -> Any:
    """torch's `weight_decay`, unless it says decoupled: part of the gradient."""
    return gx.chain(gx.add_decayed_weights(decay), tx) if decay else tx


def _decoupled(direction: Any, decay: float, rate: Any) -> Any:
    return gx.chain(direction, gx.add_decayed_weights(decay), gx.scale_by_learning_rate(rate))


OPTIMIZERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adamw,
    "NAdam": _nadam,
    "RAdam": _radam,
    "Adamax": _adamax,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "RMSprop": _rmsprop,
    "Rprop": _rprop,
    "Adafactor": _adafactor,
}


def from_torch(optimizer: str, options: dict[str, Any], rates: Any = None) -> gx.GradientTransformation:
    """torch's options in our words. `rates` are learning rates that were set step by step.

    torch's SGD adds the decay to the gradient in front of its momentum.
    """
    options = dict(options)
    rate = options.pop("lr")
    rate = table(rates) if options.pop("rates", False) else rate
    maximize = options.pop("maximize", False)
    decay = options.pop("weight_decay", 0.0) if optimizer == "SGD" else 0.0
    tx = _l2(decay, OPTIMIZERS[optimizer](rate, options))
    return gx.chain(gx.scale(-1.0), tx) if maximize else tx


@pytest.mark.parametrize(("file", "name"), RUNS)
@pytest.mark.usefixtures("x64")
def test_every_step_of_torch(file: str, name: str) -> None:
    golden = reference.Golden.load(file)
    rates = golden.arrays.get(f"{name}/rates")
    tx = from_torch(golden.meta["optimizer"], golden.meta["runs"][name], rates)
    start = {k: jnp.asarray(v) for k, v in golden.tree("start").items()}
    gradients = {k: jnp.asarray(v) for k, v in golden.tree("gradients").items()}

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), params

    _, path = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g))((start, tx.init(start)), gradients)
    wanted = golden.tree(f"{name}/params")
    kept = np.array(golden.meta.get("kept", range(1, golden.meta["steps"] + 1))) - 1
    for leaf, want in wanted.items():
        assert path[leaf].dtype == jnp.float64
        got = np.asarray(path[leaf])[kept]
        gone = np.max(np.abs(want - np.asarray(start[leaf])), axis=tuple(range(1, want.ndim)))
        error = np.max(np.abs(got - want), axis=tuple(range(1, want.ndim)))
        assert np.all(error <= 1e-9 * gone), (leaf, np.max(error / gone))
