"""Writes docs/twins.md: every constructor of Optax and of torch.optim, what it is here, and the defaults side by side.

    python tools/twins_page.py

Optax's names and signatures are those of the installed package; torch's were recorded by
tests/golden/make_torch_defaults.py. What stands here by hand is which name is whose twin; the test
tests/interop/test_twins.py evaluates each call and holds each default.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
import optax.contrib

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import gradxform as gx  # noqa: E402

PAGE = ROOT / "docs" / "twins.md"
TORCH = ROOT / "tests" / "golden" / "torch_defaults.json"

HEAD = """# Every constructor and its twin

For moving a program: what each constructor of Optax {optax} and of `torch.optim` {torch} is called here, and where a
default is another. [From Optax](guide/from-optax.md) and [from torch](guide/from-torch.md) say how to go about it,
[differs from Optax](differs-from-optax.md) what a step computes otherwise. Written by `python tools/twins_page.py`; a
test evaluates every call and compares every default.
"""


class Twin(NamedTuple):
    """A call of ours that does what a constructor of Optax under another name does, and what to know about it."""

    call: str
    note: str = ""


#: Optax's constructors that have a twin of another name.
OTHER_NAMES = {
    "MultiSteps": Twin("gx.accumulate(gx.adamw(1e-3), 4)", "a transform; no wrapper class"),
    "apply_every": Twin(
        "gx.accumulate(gx.adamw(1e-3), 4)", "the mean of the gradients, not the sum of the updates"
    ),
    "apply_if_finite": Twin("gx.guard(gx.adamw(1e-3))"),
    "skip_not_finite": Twin("gx.guard(gx.adamw(1e-3))", "a function for `MultiSteps` there"),
    "skip_large_updates": Twin(
        "gx.guard(gx.adamw(1e-3), spike=6.0)", "against the run's own norms, not a number"
    ),
    "multi_transform": Twin(
        'gx.param_groups({"*bias": gx.sgd(0.1), "*": gx.adamw(1e-3)})', "patterns, checked"
    ),
    "partition": Twin('gx.param_groups({"*bias": gx.sgd(0.1), "*": gx.adamw(1e-3)})', "patterns, checked"),
    "selective_transform": Twin('gx.param_groups({"embed*": None, "*": gx.adamw(1e-3)})', "`None` freezes"),
    "inject_hyperparams": Twin('gx.tunable(gx.adamw(1e-3), "learning_rate")', "schedules need no wrapper"),
    "inject_stateful_hyperparams": Twin('gx.tunable(gx.adamw(1e-3), "learning_rate")'),
    "conditionally_transform": Twin("gx.apply_when(gx.scale(0.5), lambda count: count < 100)"),
    "conditionally_mask": Twin('gx.apply_when(gx.sgd(0.1), lambda count: count < 100, otherwise="zero")'),
    "keep_params_nonnegative": Twin('gx.project(gx.sgd(0.1), "*", gx.non_negative())'),
    "monitor": Twin("gx.probe(gx.adamw(1e-3))", "read with `gx.metrics(state)`"),
    "measure_with_ema": Twin("gx.probe(gx.adamw(1e-3))", "read with `gx.metrics(state)`"),
    "snapshot": Twin("gx.probe(gx.adamw(1e-3))", "norms and shares, not the arrays"),
    "flatten": Twin(
        "gradxform.fused.bucketed(gx.adamw(1e-3))", "state stays flat, nothing is joined each step"
    ),
    "stateless": Twin("gradxform.build.elementwise", "a rule on one array, lifted"),
    "stateless_with_tree_map": Twin("gradxform.build.elementwise", "a rule on one array, lifted"),
    "with_extra_args_support": Twin(
        "gradxform.build.as_transform", "every transform here takes extra arguments"
    ),
    "sgdr_schedule": Twin(
        "gx.cosine_restarts(0.1, 100, multiplier=2.0)", "one cycle after the other, without warmup"
    ),
    "schedule_free_eval_params": Twin(
        "gx.eval_params", "for every method that keeps a second set of weights"
    ),
    "projection_non_negative": Twin("gx.non_negative()", "for `gx.project`"),
}


class TorchTwin(NamedTuple):
    """A call of ours with what torch's class takes by default; `same` maps torch's arguments to ours.

    An argument of torch's that is a tuple maps to a tuple. `note` is for what the mapping leaves out.
    """

    call: str
    same: dict[str, str | tuple[str, ...]]
    note: str = ""


_BETAS = {"lr": "learning_rate", "betas": ("b1", "b2"), "eps": "eps"}
_L2 = "`weight_decay=w`: `gx.chain(gx.add_decayed_weights(w), ...)`"

TORCH_TWINS = {
    "SGD": TorchTwin(
        'gx.sgd(0.001, like="torch")',
        {"lr": "learning_rate", "momentum": "momentum", "dampening": "dampening", "nesterov": "nesterov"},
        _L2,
    ),
    "Adam": TorchTwin(
        'gx.adam(0.001, like="torch")',
        _BETAS,
        '`weight_decay=w`: `gx.adam_l2`; `amsgrad=True`: `gx.amsgrad(..., like="torch")`',
    ),
    "AdamW": TorchTwin('gx.adamw(0.001, like="torch")', {**_BETAS, "weight_decay": "weight_decay"}),
    "NAdam": TorchTwin('gx.nadam(0.002, like="torch")', {**_BETAS, "momentum_decay": "momentum_decay"}, _L2),
    "RAdam": TorchTwin('gx.radam(0.001, like="torch")', _BETAS, _L2),
    "Adamax": TorchTwin('gx.adamax(0.002, like="torch")', _BETAS, _L2),
    "Adagrad": TorchTwin(
        'gx.adagrad(0.01, like="torch")',
        {"lr": "learning_rate", "initial_accumulator_value": "initial_accumulator_value", "eps": "eps"},
        f"`lr_decay=d`: a schedule `lambda count: lr / (1 + d * count)`; {_L2}",
    ),
    "Adadelta": TorchTwin(
        'gx.adadelta(1.0, like="torch")',
        {"lr": "learning_rate", "rho": "rho", "eps": "eps"},
        f"{_L2} (Optax's `weight_decay` is decoupled)",
    ),
    "RMSprop": TorchTwin(
        'gx.rmsprop(0.01, like="torch")',
        {
            "lr": "learning_rate",
            "alpha": "decay",
            "eps": "eps",
            "momentum": "momentum",
            "centered": "centered",
        },
        _L2,
    ),
    "Rprop": TorchTwin(
        'gx.rprop(0.01, like="torch")',
        {
            "lr": "learning_rate",
            "etas": ("eta_minus", "eta_plus"),
            "step_sizes": ("min_step_size", "max_step_size"),
        },
    ),
    "Adafactor": TorchTwin(
        'gx.adafactor(0.01, like="torch")',
        {"lr": "learning_rate", "d": "clipping_threshold", "weight_decay": "weight_decay_rate"},
        '`beta2_decay` is `-decay_rate`, `eps` is `(floor, min_scale)`, where `None` is `"machine"`',
    ),
    "Muon": TorchTwin(
        "gx.muon(0.001, eps=1e-07, weight_decay=0.1)",
        {
            "lr": "learning_rate",
            "weight_decay": "weight_decay",
            "momentum": "beta",
            "nesterov": "nesterov",
            "ns_coefficients": "ns_coeffs",
            "eps": "eps",
            "ns_steps": "ns_steps",
        },
        "torch takes matrices only and refuses the rest, here AdamW takes the rest; "
        '`adjust_lr_fn="match_rms_adamw"` is `consistent_rms=0.2`',
    ),
}

#: Classes of torch.optim that have no twin, and what to take.
NO_TWIN = {
    "ASGD": "`gx.average_params(gx.sgd(...))` averages the weights; ASGD's own decay of the rate is not there",
    "LBFGS": "`optax.lbfgs`, in our chains",
    "SparseAdam": "gradients are dense in JAX; `gx.adam`",
}

#: Arguments of torch's optimizers that have no meaning in JAX.
EXECUTION = ("foreach", "fused", "capturable", "differentiable", "maximize")

#: The schedulers as recorded, with rate 0.1: torch's call and ours.
SCHEDULES = {
    "ConstantLR(factor=0.25, total_iters=7)": "gx.piecewise_constant_schedule(0.1 * 0.25, {7: 1 / 0.25})",
    "LinearLR(start_factor=0.25, end_factor=1.0, total_iters=9)": "gx.linear_schedule(0.1 * 0.25, 0.1 * 1.0, 9)",
    "ExponentialLR(gamma=0.9)": "gx.exponential_decay(0.1, 1, 0.9)",
    "StepLR(step_size=6, gamma=0.5)": "gx.exponential_decay(0.1, 6, 0.5, staircase=True)",
    "MultiStepLR(milestones=[5, 20], gamma=0.1)": "gx.piecewise_constant_schedule(0.1, {5: 0.1, 20: 0.1})",
    "PolynomialLR(total_iters=30, power=2.0)": "gx.polynomial_schedule(0.1, 0.0, 2.0, 30)",
    "CosineAnnealingLR(T_max=50, eta_min=0.01)": "gx.cosine_decay_schedule(0.1, 50, alpha=0.01 / 0.1)",
    "CosineAnnealingWarmRestarts(T_0=6, T_mult=2, eta_min=0.01)": (
        "gx.cosine_restarts(0.1, 6, multiplier=2, end_value=0.01)"
    ),
    "OneCycleLR(max_lr=0.1, total_steps=41, pct_start=11 / 41, cycle_momentum=False)": (
        "gx.cosine_onecycle_schedule(41 - 1, 0.1, pct_start=(11 - 1) / (41 - 1))"
    ),
    "LambdaLR(lr_lambda=lambda t: 1 / (1 + t))": "lambda count: 0.1 / (1 + count)",
}
OTHER_SCHEDULERS = {
    "SequentialLR": "`gx.join_schedules([...], boundaries)`",
    "ChainedScheduler": "a function that multiplies them",
    "MultiplicativeLR": "a function of the count",
    "CyclicLR": "a function of the count",
    "ReduceLROnPlateau": (
        '`gx.tunable(tx, "learning_rate")` and `gx.set_hyperparams`, or `optax.contrib.reduce_on_plateau`'
    ),
}


class Constructor(NamedTuple):
    """A public function or class of Optax that makes a transform, a schedule or a wrapper."""

    name: str
    room: str
    call: Callable[..., Any]


def constructors() -> list[Constructor]:
    """Everything public in optax and optax.contrib whose result is a transform, a wrapper or a schedule."""
    return [
        Constructor(name, room.__name__, value)
        for room in (optax, optax.contrib)
        for name, value in sorted(vars(room).items())
        if not name.startswith("_") and _makes(name, value)
    ]


#: Constructors whose signature does not say what they return.
_UNANNOTATED = (
    *("dog", "dowg", "hutchinson_estimator_diag_hessian", "monitor", "scale_by_factored_rms", "MultiSteps"),
    *("nadam", "nadamw"),  # partial functions
)


def _makes(name: str, value: Any) -> bool:
    if name in _UNANNOTATED or name in OTHER_NAMES:
        return True
    if not inspect.isfunction(value):
        return False
    returns = str(inspect.signature(value).return_annotation)
    schedule = returns.startswith("collections.abc.Callable[[") and "optax" in value.__module__
    return "GradientTransformation" in returns or schedule


def ours(name: str) -> Callable[..., Any] | None:
    """Our function of a name."""
    return vars(gx).get(name)


def _defaults(call: Callable[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(call).parameters.values() if p.kind != p.VAR_KEYWORD}


def compared(
    theirs: Callable[..., Any], mine: Callable[..., Any]
) -> tuple[list[str], list[str], dict[str, Any]]:
    """What ours adds, what it does not take, and defaults that differ as (Optax's, ours)."""
    old, new = _defaults(theirs), _defaults(mine)
    added = [name for name in new if name not in old]
    missing = [name for name in old if name not in new]
    differing = {
        name: (old[name], new[name]) for name in old if name in new and _plain(old[name]) != _plain(new[name])
    }
    return added, missing, differing


def _plain(x: Any) -> Any:
    """A default in one form: a dtype by its name, a list as a tuple, a function by its own."""
    if isinstance(x, list | tuple):
        return tuple(map(_plain, x))
    if callable(x) and hasattr(x, "__name__"):
        return x.__name__
    return x


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def same_names() -> Iterator[str]:
    for item in constructors():
        mine = ours(item.name)
        if mine is None or item.name in OTHER_NAMES:
            continue
        added, missing, differing = compared(item.call, mine)
        apart = [f"`{name}`: {_said(a)} there, {_said(b)} here" for name, (a, b) in differing.items()]
        apart += [f"`{name}` is not taken" for name in missing]
        yield f"| `{item.room}.{item.name}` | {'; '.join(apart) or 'the same'} | {_code(added)} |\n"


def _said(x: Any) -> str:
    return "required" if x is inspect.Parameter.empty else f"`{_plain(x)}`"


def alone() -> list[Constructor]:
    """Constructors of Optax that we do not have under any name."""
    return [c for c in constructors() if ours(c.name) is None and c.name not in OTHER_NAMES]


def page() -> str:
    """The page as text."""
    recorded = json.loads(TORCH.read_text("utf-8"))
    blocks = [HEAD.format(optax=optax.__version__, torch=recorded["meta"]["torch"].partition("+")[0])]
    blocks.append(
        "\n## Optax, the same name\n\nArguments in Optax's order; what is added here is keyword-only.\n\n"
        "| constructor | defaults | added here |\n|---|---|---|\n"
    )
    blocks += same_names()
    blocks.append("\n## Optax, another name\n\n| constructor | here | |\n|---|---|---|\n")
    rooms = {c.name: c.room for c in constructors()}
    blocks += [
        f"| `{rooms.get(name, 'optax.projections')}.{name}` | `{twin.call}` | {twin.note} |\n"
        for name, twin in sorted(OTHER_NAMES.items())
    ]
    blocks.append(
        "\n## Optax's own\n\nThese have no twin. They work as they are inside `gx.chain`, our groups and our wrappers, "
        "which a test does with each of them; a schedule goes wherever a number does.\n\n"
    )
    blocks.append(", ".join(f"`{c.room}.{c.name}`" for c in alone()) + ".\n")
    blocks.append(
        "\n## torch.optim\n\nThe call gives torch's defaults; each argument of torch's is named with its default and "
        f"ours. {_code(list(EXECUTION[:-1]))} say how torch runs a step and are left to `jax.jit`; `maximize=True` is "
        "`gx.chain(gx.scale(-1.0), ...)`.\n\n"
        "| torch | here | arguments | |\n|---|---|---|---|\n"
    )
    blocks += [_torch_row(name, recorded["optimizers"][name]) for name in recorded["optimizers"]]
    blocks.append(
        "\n## torch.optim.lr_scheduler\n\nWith a rate of 0.1 in the optimizer. A schedule here gives the rate "
        "itself and stands in the rate's place. The values of the first forty steps are equal in the test.\n\n"
        "| torch | here |\n|---|---|\n"
    )
    blocks += [f"| `{theirs}` | `{mine}` |\n" for theirs, mine in sorted(SCHEDULES.items())]
    blocks += [f"| `{name}` | {what} |\n" for name, what in sorted(OTHER_SCHEDULERS.items())]
    return "".join(blocks)


def _torch_row(name: str, defaults: dict[str, Any]) -> str:
    if name in NO_TWIN:
        return f"| `{name}` | | | {NO_TWIN[name]} |\n"
    twin = TORCH_TWINS[name]
    pairs = [
        f"`{torch}={_torch_value(defaults[torch])}`" + ("" if torch == mine else f" is `{_joined(mine)}`")
        for torch, mine in twin.same.items()
    ]
    return f"| `{name}` | `{twin.call}` | {', '.join(pairs)} | {twin.note} |\n"


def _torch_value(x: Any) -> str:
    return str(tuple(x)) if isinstance(x, list) else str(x)


def _joined(mine: str | tuple[str, ...]) -> str:
    return mine if isinstance(mine, str) else ", ".join(mine)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    PAGE.write_text(page(), "utf-8")
