"""The schedulers of torch as schedules: the rate itself as a function of the count."""

from collections.abc import Callable, Mapping
from typing import Any

from .._core.errors import say
from .._core.spec import find_factory


def _cosine(s: Mapping[str, Any], base: float) -> Any:
    return find_factory("cosine_decay_schedule").call(base, s["T_max"], alpha=s["eta_min"] / base)


def _constant(s: Mapping[str, Any], base: float) -> Any:
    steps = {s["total_iters"]: 1.0 / s["factor"]}
    return find_factory("piecewise_constant_schedule").call(base * s["factor"], steps)


def _exponential(s: Mapping[str, Any], base: float) -> Any:
    return find_factory("exponential_decay").call(base, 1, s["gamma"])


def _linear(s: Mapping[str, Any], base: float) -> Any:
    ends = (base * s["start_factor"], base * s["end_factor"])
    return find_factory("linear_schedule").call(*ends, s["total_iters"])


def _polynomial(s: Mapping[str, Any], base: float) -> Any:
    return find_factory("polynomial_schedule").call(base, 0.0, s["power"], s["total_iters"])


def _restarts(s: Mapping[str, Any], base: float) -> Any:
    options = {"multiplier": s["T_mult"], "end_value": s["eta_min"]}
    return find_factory("cosine_restarts").call(base, s["T_0"], **options)


def _milestones(s: Mapping[str, Any], base: float) -> Any:
    found = s["milestones"]  # a step that is named twice counts twice
    times = found if isinstance(found, Mapping) else {m: found.count(m) for m in found}
    factors = {int(step): s["gamma"] ** n for step, n in times.items()}
    return find_factory("piecewise_constant_schedule").call(base, factors)


def _stairs(s: Mapping[str, Any], base: float) -> Any:
    return find_factory("exponential_decay").call(base, s["step_size"], s["gamma"], staircase=True)


#: A state_dict does not name its class. These keys do, the longer lists first.
_KNOWN: list[tuple[str, set[str], Callable[[Mapping[str, Any], float], Any]]] = [
    ("CosineAnnealingWarmRestarts", {"T_0", "T_mult", "eta_min"}, _restarts),
    ("LinearLR", {"start_factor", "end_factor", "total_iters"}, _linear),
    ("StepLR", {"step_size", "gamma"}, _stairs),
    ("MultiStepLR", {"milestones", "gamma"}, _milestones),
    ("CosineAnnealingLR", {"T_max", "eta_min"}, _cosine),
    ("ConstantLR", {"factor", "total_iters"}, _constant),
    ("PolynomialLR", {"power", "total_iters"}, _polynomial),
    ("ExponentialLR", {"gamma"}, _exponential),
]
#: Keys of schedulers that do something else besides, or follow the loss.
_OTHERS = {"lr_lambdas", "_schedule_phases", "_scale_fn_ref", "mode", "patience", "max_lrs"}


def schedule(scheduler: Mapping[str, Any], base: float, who: str) -> Any:
    """The schedule of one group whose rate is `base` times what the scheduler makes of it."""
    keys = set(scheduler)
    if "_milestones" in keys and "_schedulers" in keys:
        parts = [schedule(part, base, who) for part in scheduler["_schedulers"]]
        return find_factory("join_schedules").call(parts, list(scheduler["_milestones"]))
    if not keys & (_OTHERS | {"_schedulers"}):
        for _, wanted, made in _KNOWN:
            if wanted <= keys:
                return made(scheduler, base)
    names = ", ".join(name for name, _, _ in _KNOWN)
    fact = f"{who}: the scheduler of the file (with {', '.join(sorted(keys))}) is not one of {names}, SequentialLR"
    raise ValueError(
        say(
            fact,
            "pass the tx that goes on, with a schedule of yours",
            "or scheduler=False to keep the rate as it stands",
        )
    )


def advanced(scheduler: Mapping[str, Any], epoch: int, rates: list[float]) -> dict[str, Any]:
    """A scheduler's state_dict after `epoch` calls of its `step`."""
    made: dict[str, Any] = dict(scheduler) | {"last_epoch": epoch, "_last_lr": rates}
    if "_step_count" in made:
        made["_step_count"] = epoch + 1
    if "_schedulers" in made:
        starts = [0, *made["_milestones"]]
        ends = [*made["_milestones"], None]
        made["_schedulers"] = [
            advanced(part, epoch - start if end is None or epoch < end else end - start - 1, rates)
            for part, start, end in zip(made["_schedulers"], starts, ends, strict=True)
        ]
    if "T_cur" in made:
        length, left = made["T_0"], max(epoch, 0)
        while left >= length:
            left, length = left - length, length * made["T_mult"]
        made |= {"T_cur": left, "T_i": length}
    return made
