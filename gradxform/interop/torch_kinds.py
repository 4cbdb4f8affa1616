"""What the optimizers of `torch.optim` are called here: their options as a transform, their slots as fields."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from .._core.errors import say, short
from .._core.spec import find_factory


@dataclass(frozen=True)
class Kind:
    """One optimizer. `make(options, rate)` is the transform; `slots` say which of torch's arrays a field of ours is.

    `counts` tells whether torch counts its steps; `count` is what stands in the count of ours if it does not, before
    the first step and after it. `schedules` tells whether a rate of ours may be a schedule, `rows` whether it
    matters which axis is which, `ages` whether the rate depends on torch's own steps besides.
    """

    make: Callable[[dict[str, Any], Any], Any]
    slots: Mapping[str, str] = field(default_factory=dict[str, str])
    counts: bool = True
    count: tuple[int, int] = (0, 1)
    schedules: bool = True
    rows: bool = False
    ages: Callable[[Mapping[str, Any]], bool] = lambda options: False


def _gx(name: str, *args: Any, **options: Any) -> Any:
    return find_factory(name).call(*args, **options)


def _betas(options: Mapping[str, Any]) -> dict[str, float]:
    b1, b2 = options["betas"]
    return {"b1": b1, "b2": b2, "eps": options["eps"]}


def _l2(options: Mapping[str, Any], tx: Any) -> Any:
    """A decay that torch adds to the gradient."""
    decay = options.get("weight_decay", 0.0)
    return _gx("chain", _gx("add_decayed_weights", decay), tx) if decay else tx


def _decoupled(direction: Any, decay: float, rate: Any) -> Any:
    links = [_gx("add_decayed_weights", decay)] if decay else []
    return _gx("chain", direction, *links, _gx("scale_by_learning_rate", rate))


def _sgd(o: dict[str, Any], rate: Any) -> Any:
    # torch's momentum of 0 is none, and then there is nothing to dampen.
    moment = {"momentum": o["momentum"], "nesterov": o["nesterov"], "dampening": o["dampening"] or None}
    return _l2(o, _gx("sgd", rate, **moment if o["momentum"] else {}, like="torch"))


def _adam(o: dict[str, Any], rate: Any) -> Any:
    if o["amsgrad"]:
        return _l2(o, _gx("amsgrad", rate, **_betas(o), like="torch"))
    if o["weight_decay"]:
        return _gx("adam_l2", rate, **_betas(o), weight_decay=o["weight_decay"])
    return _gx("adam", rate, **_betas(o), like="torch")


def _adamw(o: dict[str, Any], rate: Any) -> Any:
    if o["amsgrad"]:
        return _decoupled(_gx("scale_by_amsgrad", **_betas(o), raw_max=True), o["weight_decay"], rate)
    return _gx("adamw", rate, **_betas(o), weight_decay=o["weight_decay"], like="torch")


def _either(o: dict[str, Any], rate: Any) -> Any:
    """Adam and AdamW are one class since torch 2.7; an old file has no such option, and its class decides."""
    return (_adamw if o.get("decoupled_weight_decay") else _adam)(o, rate)


def _nadam(o: dict[str, Any], rate: Any) -> Any:
    named = {**_betas(o), "momentum_decay": o["momentum_decay"]}
    if o.get("decoupled_weight_decay"):
        return _decoupled(_gx("scale_by_nadam", **named), o["weight_decay"], rate)
    return _l2(o, _gx("nadam", rate, **named, like="torch"))


def _radam(o: dict[str, Any], rate: Any) -> Any:
    if o.get("decoupled_weight_decay"):
        return _decoupled(_gx("scale_by_radam", **_betas(o), eps_hat=True), o["weight_decay"], rate)
    return _l2(o, _gx("radam", rate, **_betas(o), like="torch"))


def _adagrad(o: dict[str, Any], rate: Any) -> Any:
    falling = _falling(rate, o["lr_decay"]) if o["lr_decay"] else rate
    start = {"initial_accumulator_value": o["initial_accumulator_value"], "eps": o["eps"]}
    return _l2(o, _gx("adagrad", falling, **start, like="torch"))


def _falling(rate: Any, slope: float) -> Callable[[Any], Any]:
    """torch's `lr_decay`, which is a schedule of the rate."""

    def schedule(count: Any) -> Any:
        start: Any = rate(count) if callable(rate) else rate
        return start / (1.0 + slope * jnp.asarray(count, jnp.result_type(float)))

    return schedule


def _rmsprop(o: dict[str, Any], rate: Any) -> Any:
    named = {"decay": o["alpha"], "eps": o["eps"], "centered": o["centered"]}
    named |= {"momentum": o["momentum"]} if o["momentum"] else {}
    return _l2(o, _gx("rmsprop", rate, **named, like="torch"))


def _adafactor(o: dict[str, Any], rate: Any) -> Any:
    floor, size = o["eps"]  # None is the machine's epsilon
    named = {"decay_rate": -o["beta2_decay"], "clipping_threshold": o["d"], "min_scale": size}
    named |= {} if floor is None else {"floor": floor}
    return _gx("adafactor", rate, **named, weight_decay_rate=o["weight_decay"] or None, like="torch")


def _muon(o: dict[str, Any], rate: Any) -> Any:
    """torch multiplies from the left: what comes in is the second axis, unless the weight lies transposed here."""
    adjusted = o.get("adjust_lr_fn") or "original"
    shapes = {"original": {}, "match_rms_adamw": {"consistent_rms": 0.2}}
    if adjusted not in shapes:
        fact = f"gx.interop: torch's Muon with adjust_lr_fn={adjusted!r} has no twin here"
        raise ValueError(say(fact, f"known are {', '.join(shapes)}; pass the tx that goes on"))
    dims = {} if o["transposed"] else {"weight_dimension_numbers": MuonDimensionNumbers(1, 0)}
    step = {"ns_coeffs": tuple(o["ns_coefficients"]), "ns_steps": o["ns_steps"], "eps": _NO_EPS}
    step |= {"beta": o["momentum"], "nesterov": o["nesterov"]}
    direction = _gx(
        "chain", _gx("scale_by_muon", **step, **dims), _gx("scale_by_shape", **shapes[adjusted], **dims)
    )
    return _decoupled(direction, o["weight_decay"], rate)


#: torch divides by the norm or by eps, whichever is larger; ours adds. Added to a norm above eps this is nothing.
_NO_EPS = 1e-30

_MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"}

KINDS: dict[str, Kind] = {
    "SGD": Kind(_sgd, {"trace": "momentum_buffer"}, counts=False),
    "Adam": Kind(_either, _MOMENTS),
    "AdamW": Kind(lambda o, rate: _either({"decoupled_weight_decay": True} | o, rate), _MOMENTS),
    "NAdam": Kind(_nadam, _MOMENTS | {"mu_product": "mu_product"}),
    "RAdam": Kind(_radam, _MOMENTS),
    "Adamax": Kind(
        lambda o, rate: _l2(o, _gx("adamax", rate, **_betas(o), like="torch")),
        {"mu": "exp_avg", "nu": "exp_inf"},
    ),
    "Adagrad": Kind(_adagrad, {"sum_of_squares": "sum"}, ages=lambda o: bool(o["lr_decay"])),
    "Adadelta": Kind(
        lambda o, rate: _l2(o, _gx("adadelta", rate, rho=o["rho"], eps=o["eps"], like="torch")),
        {"e_g": "square_avg", "e_x": "acc_delta"},
    ),
    "RMSprop": Kind(_rmsprop, {"mu": "grad_avg", "nu": "square_avg", "trace": "momentum_buffer"}),
    "Rprop": Kind(
        lambda o, rate: _gx("rprop", rate, *o["etas"], *o["step_sizes"], like="torch"),
        {"prev_updates": "prev", "step_sizes": "step_size"},
        schedules=False,
    ),
    "Adafactor": Kind(
        _adafactor, {"v_row": "row_var", "v_col": "col_var", "v": "variance"}, ages=lambda o: True
    ),
    # torch does not divide its average by 1 - momentum^t; with a count as large as this, nobody does.
    "Muon": Kind(_muon, {"mu": "momentum_buffer"}, counts=False, count=(1_000_000, 1_000_000), rows=True),
}
#: The statistics of rows and of columns, which have an axis of one element where the parameter has more.
ROWS_AND_COLUMNS = ("row_var", "col_var")


#: An option that only one class has.
_OWN = {
    "momentum_decay": "NAdam",
    "lr_decay": "Adagrad",
    "rho": "Adadelta",
    "centered": "RMSprop",
    "etas": "Rprop",
    "beta2_decay": "Adafactor",
    "ns_coefficients": "Muon",
    "dampening": "SGD",
}


def told_by(options: Mapping[str, Any], slots: Collection[str]) -> str | None:
    """The class that a group and the arrays of a parameter belong to, or None where several could have them.

    Adam and AdamW have the same of everything before torch 2.7, and bitsandbytes' classes always.
    """
    found = next((name for option, name in _OWN.items() if option in options), None)
    if found is not None or "state1" in slots or "betas" not in options:
        return found
    if "amsgrad" in options:
        decoupled = options.get("decoupled_weight_decay", None if options.get("weight_decay") else False)
        return None if decoupled is None else "AdamW" if decoupled else "Adam"
    if "exp_inf" in slots:
        return "Adamax"
    return "RAdam" if "decoupled_weight_decay" in options or "exp_avg_sq" in slots else None


def make(optimizer: str, options: Mapping[str, Any], rate: Any, who: str = "torch") -> Any:
    """The transform of one group, with its rate as a number or a schedule."""
    try:
        tx = KINDS[optimizer].make(dict(options), rate)
    except KeyError as missing:
        fact = f"{who}: a group has no {missing.args[0]!r}, which {optimizer} has; it has {short(sorted(options))}"
        raise ValueError(say(fact, "is the optimizer of another class?")) from None
    return _gx("chain", _gx("scale", -1.0), tx) if options.get("maximize") else tx
