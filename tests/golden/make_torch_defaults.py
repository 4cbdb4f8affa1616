"""Write torch_defaults.json: the arguments of torch's optimizers, and the rates that its schedulers give.

Run: python make_torch_defaults.py
"""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler

HERE = Path(__file__).resolve().parent
STEPS = 40
LR = 0.1

#: Schedulers by the text of their arguments; `optimizer` is the first one and `last_epoch` stays.
SCHEDULERS = {
    "ConstantLR(factor=0.25, total_iters=7)",
    "LinearLR(start_factor=0.25, end_factor=1.0, total_iters=9)",
    "ExponentialLR(gamma=0.9)",
    "StepLR(step_size=6, gamma=0.5)",
    "MultiStepLR(milestones=[5, 20], gamma=0.1)",
    "PolynomialLR(total_iters=30, power=2.0)",
    "CosineAnnealingLR(T_max=50, eta_min=0.01)",
    "CosineAnnealingWarmRestarts(T_0=6, T_mult=2, eta_min=0.01)",
    "OneCycleLR(max_lr=0.1, total_steps=41, pct_start=11 / 41, cycle_momentum=False)",
    "LambdaLR(lr_lambda=lambda t: 1 / (1 + t))",
}


def plain(value: Any) -> Any:
    """A default as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def defaults(kind: type) -> dict[str, Any]:
    """Every argument of an optimizer but its parameters, with its default."""
    rows = list(inspect.signature(kind).parameters.values())[1:]
    return {row.name: plain(row.default) for row in rows}


def rates(call: str) -> list[float]:
    """The learning rate of each step under a scheduler."""
    name, _, arguments = call.partition("(")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    options = eval(f"dict({arguments}")
    scheduler = getattr(lr_scheduler, name)(optimizer, **options)
    found = []
    for _ in range(STEPS):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def main() -> None:
    warnings.simplefilter("error")
    kinds = {
        name: value
        for name, value in sorted(vars(torch.optim).items())
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    }
    made = {
        "meta": {"torch": torch.__version__, "lr": LR, "steps": STEPS},
        "optimizers": {name: defaults(kind) for name, kind in kinds.items()},
        "schedulers": sorted(
            name
            for name, value in vars(lr_scheduler).items()
            if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler) and name[0] != "_"
            if value is not lr_scheduler.LRScheduler
        ),
        "rates": {call: rates(call) for call in sorted(SCHEDULERS)},
    }
    text = json.dumps(made, indent=0, sort_keys=True)
    (HERE / "torch_defaults.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
