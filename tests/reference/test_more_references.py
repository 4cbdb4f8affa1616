"""The references of the further methods against recorded runs of Optax and torch: an oracle is tested before it judges.

Where Optax's own rule is the defective one (Rprop's lag, Yogi's seeded momentum) the option that keeps it is on.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from . import (
    Adadelta,
    Adam,
    Adamax,
    AddDecayedWeights,
    Amsgrad,
    Chain,
    ClipByBlockRms,
    FactoredRms,
    Golden,
    Identity,
    Leafwise,
    Nadam,
    ParamBlockRms,
    Radam,
    Rms,
    Rprop,
    Rss,
    Scale,
    ScaleByLearningRate,
    StdDev,
    Trace,
    flatten,
    recipes_more,
    run,
    schedules,
    sma_length,
)

AS_OPTAX = {"rprop": {"lagged": True}, "yogi": {"seed_mu": True}}
RECIPES = (
    "adabelief adadelta adafactor adagrad adamax adamaxw adan amsgrad lamb lars nadam radam rmsprop rprop"
)
FILES = "sgd_more adam_more adamw_more nadam radam adamax adagrad adadelta rmsprop rprop adafactor"
OPTAX = [
    (recipe, key)
    for recipe in f"{RECIPES} sign_sgd signum yogi".split()
    for key in Golden.load(f"optax_{recipe}.npz").meta["runs"]
]
TORCH = [(file, key) for file in FILES.split() for key in Golden.load(f"torch_{file}.npz").meta["runs"]]


def value(x: Any) -> Any:
    if isinstance(x, dict) and "schedule" in x:
        return getattr(schedules, x["schedule"])(**x["arguments"])
    return x


def near(got: Any, want: Any, start: Any, tolerance: float, steps: int) -> None:
    """Leaf by leaf: `tolerance` of the way that the leaf has gone, and one rounding of it a step."""
    for k, w in flatten(want).items():
        allowed = tolerance * np.max(np.abs(w - start[k])) + steps * 2.0**-53 * np.max(np.abs(w))
        np.testing.assert_allclose(flatten(got)[k], w, rtol=0, atol=allowed, err_msg=k)


@pytest.mark.parametrize(("recipe", "key"), OPTAX)
def test_states_and_parameters_of_optax(recipe: str, key: str) -> None:
    """Optax computes a linear schedule and Adafactor's decay in float32 from the count, whatever the rest is in."""
    golden = Golden.load(f"optax_{recipe}.npz")
    options = {k: value(v) for k, v in golden.meta["runs"][key].items()}
    method, start = getattr(recipes_more, recipe)(**options, **AS_OPTAX.get(recipe, {})), golden.tree("start")
    seen = list(run(method, start, golden.gradients()))
    single = "schedule" in str(golden.meta["runs"][key]) or recipe == "adafactor"
    tolerance = 1e-6 if single else 1e-11
    for i, step in enumerate(golden.meta["kept"]):
        state, _, params = seen[step - 1]
        near(params, golden.tree(f"{key}/float64/params", i), start, tolerance, step)
        for link, fields in golden.tree(f"{key}/float64/state", i).items():
            got = flatten(state[int(link)])
            for path, x in flatten(fields).items():
                allowed = tolerance * np.max(np.abs(x))
                np.testing.assert_allclose(got[path], x, rtol=0, atol=allowed, err_msg=path)


def from_torch(name: str, options: dict[str, Any], rates: Any) -> Chain:
    """torch's options in our words: its `maximize` first, then L2, the method, the decoupled decay, and the rate."""
    o = dict(options)
    lr, falls, decay = o.pop("lr"), o.pop("lr_decay", 0.0), o.pop("weight_decay", 0.01 * (name == "AdamW"))
    rate: Callable[[int], float] = lambda t: float(rates[t]) if rates is not None else lr / (1 + falls * t)  # noqa: E731
    head: list[Any] = [Scale(-1.0)] if o.pop("maximize", False) else []
    o.pop("rates", None)
    if "betas" in o:
        o["b1"], o["b2"] = o.pop("betas")
    if name == "Adafactor":
        e1, e2 = o.pop("eps", (2.0**-52, 1e-3))
        first = FactoredRms(True, -o.pop("beta2_decay", -0.8), 0, 1, 0.0, None, None, e1, True)
        relative = ScaleByLearningRate(lambda t: min(rate(t), 1 / math.sqrt(t + 1)), flip_sign=False)
        shrink = AddDecayedWeights(lambda t: decay * rate(t))
        links = [first, ClipByBlockRms(o.pop("d", 1.0)), relative, ParamBlockRms(e2), shrink, Scale(-1.0)]
    else:
        decoupled = o.pop("decoupled_weight_decay", name == "AdamW")
        method, behind = _method(name, o)
        l2 = [AddDecayedWeights(decay)]
        steps = [Scale(-1.0)] if name == "Rprop" else [ScaleByLearningRate(rate)]
        links = [method, *behind, *l2, *steps] if decoupled else [*l2, method, *behind, *steps]
        if name == "Rprop":
            links[1] = Rprop(lr, **o)
    return Chain(*(Leafwise(link) for link in [*head, *links]))


def _method(name: str, o: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The method, and its momentum where that is a link of its own; options that are used up leave `o`."""
    if name in ("Adam", "AdamW"):
        return (Amsgrad(raw_max=True, **o) if o.pop("amsgrad", False) else Adam(**o)), []
    if name == "SGD":
        momentum = o.pop("momentum", 0.0)
        return (Trace(momentum, **o) if momentum else Identity()), []
    if name == "RMSprop":
        momentum, kind = o.pop("momentum", 0.0), StdDev if o.pop("centered", False) else Rms
        method = kind(o.pop("alpha", 0.99), eps_in_sqrt=False, **o)
        return method, [Trace(momentum)] if momentum else []
    if name == "Rprop":
        o["eta_minus"], o["eta_plus"] = o.pop("etas", (0.5, 1.2))
        o["min_step_size"], o["max_step_size"] = o.pop("step_sizes", (1e-6, 50.0))
        return Identity(), []
    if name == "Adagrad":
        return Rss(o.pop("initial_accumulator_value", 0.0), o.pop("eps", 1e-10), eps_in_sqrt=False), []
    if name == "RAdam":
        return Radam(eps_hat=True, **o), []
    return {"NAdam": Nadam, "Adamax": Adamax, "Adadelta": Adadelta}[name](**o), []


@pytest.mark.parametrize(("file", "key"), TORCH)
def test_every_kept_step_of_torch(file: str, key: str) -> None:
    """torch multiplies NAdam's momenta up in float32, whatever the parameters are."""
    golden = Golden.load(f"torch_{file}.npz")
    method = from_torch(golden.meta["optimizer"], golden.meta["runs"][key], golden.arrays.get(f"{key}/rates"))
    start = golden.tree("start")
    seen = list(run(method, start, golden.gradients()))
    for i, step in enumerate(golden.meta["kept"]):
        tolerance = 1e-6 if file == "nadam" else 1e-11
        near(seen[step - 1][2], golden.tree(f"{key}/params", i), start, tolerance, step)


@pytest.mark.parametrize("b2", [0.6, 0.95, 0.999])
def test_the_length_of_the_average_is_the_closed_form(b2: float) -> None:
    rho_inf = 2 / (1 - b2) - 1
    for t in (1, 2, 5, 6, 50, 3000):
        closed = rho_inf - 2 * t * b2**t / (1 - b2**t)
        assert math.isclose(sma_length(b2, t), closed, rel_tol=1e-12 * rho_inf)
    assert math.isclose(sma_length(b2, 1), 1.0)
