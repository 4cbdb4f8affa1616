"""Runs that nobody has chosen: an optimizer, options, groups, a scheduler and a model by a seed."""

from typing import Any

import numpy as np

#: Where weights of torch's lie here, and how.
NAMES: dict[str, Any] = {"renamed": {"*.weight": "*/kernel"}, "layout": {"*/kernel": (1, 0)}}
OPTIMIZERS = [
    *(
        "SGD",
        "Adam",
        "AdamW",
        "NAdam",
        "RAdam",
        "Adamax",
        "Adagrad",
        "Adadelta",
        "RMSprop",
        "Rprop",
        "Adafactor",
    ),
    "Muon",
]
#: Those whose rate falls with their own steps, which a scheduler beside it has to keep step with.
ONE_COUNT = ("Adagrad", "Adafactor")


def _options(name: str, draw: np.random.Generator) -> dict[str, Any]:
    """Options of one optimizer, each by a coin or a draw."""

    def coin() -> bool:
        return bool(draw.integers(2))

    def some(low: float, high: float) -> float:
        return float(np.round(np.exp(draw.uniform(np.log(low), np.log(high))), 6))

    decay = {"weight_decay": some(1e-3, 0.1)} if coin() else {}
    betas = {
        "betas": [float(draw.uniform(0.7, 0.95)), float(draw.uniform(0.9, 0.999))],
        "eps": some(1e-9, 1e-4),
    }
    upwards = {"maximize": True} if draw.integers(5) == 0 else {}
    if name in ("Adam", "AdamW"):
        return betas | decay | upwards | {"lr": some(1e-3, 1e-2), "amsgrad": coin()}
    if name in ("NAdam", "RAdam"):
        own = {"momentum_decay": some(1e-3, 0.1)} if name == "NAdam" else {}
        return betas | decay | own | upwards | {"lr": some(1e-3, 1e-2), "decoupled_weight_decay": coin()}
    if name == "SGD":
        nesterov = coin()
        damped = {} if nesterov else {"dampening": float(draw.choice([0.0, 0.3]))}
        return (
            decay
            | damped
            | {"lr": some(1e-3, 3e-2), "momentum": float(draw.uniform(0.5, 0.95)), "nesterov": nesterov}
        )
    if name == "RMSprop":
        own = {
            "momentum": float(draw.choice([0.0, 0.8])),
            "centered": coin(),
            "alpha": float(draw.uniform(0.8, 0.99)),
        }
        return decay | own | {"lr": some(1e-3, 1e-2), "eps": some(1e-6, 1e-3)}
    if name == "Muon":
        own = {
            "momentum": float(draw.uniform(0.8, 0.97)),
            "nesterov": coin(),
            "ns_steps": int(draw.integers(3, 7)),
        }
        return (
            decay
            | own
            | {"lr": some(1e-3, 1e-2), "adjust_lr_fn": str(draw.choice(["original", "match_rms_adamw"]))}
        )
    if name == "Adafactor":
        return decay | {
            "lr": some(1e-2, 0.3),
            "beta2_decay": float(draw.uniform(-0.9, -0.5)),
            "d": some(1.0, 2.0),
        }
    if name == "Rprop":
        return {
            "lr": some(1e-3, 1e-2),
            "etas": [float(draw.uniform(0.3, 0.7)), float(draw.uniform(1.1, 1.5))],
        }
    own = {
        "Adamax": betas | {"lr": some(1e-3, 1e-2)},
        "Adagrad": {
            "lr": some(1e-2, 0.1),
            "lr_decay": float(draw.choice([0.0, 0.05])),
            "eps": some(1e-8, 1e-3),
        },
        "Adadelta": {"lr": some(0.1, 1.0), "rho": float(draw.uniform(0.5, 0.95)), "eps": some(1e-6, 1e-3)},
    }
    return decay | own[name]


def _scheduler(draw: np.random.Generator) -> list[Any]:
    choices: list[list[Any]] = [
        ["StepLR", {"step_size": int(draw.integers(7, 40)), "gamma": 0.5}],
        ["MultiStepLR", {"milestones": [20, 45, 60], "gamma": 0.3}],
        ["ExponentialLR", {"gamma": 0.98}],
        ["CosineAnnealingLR", {"T_max": 120, "eta_min": 1e-5}],
        ["LinearLR", {"start_factor": 0.1, "total_iters": 70}],
        ["PolynomialLR", {"total_iters": 130, "power": 1.5}],
        ["ConstantLR", {"factor": 0.2, "total_iters": 70}],
        ["CosineAnnealingWarmRestarts", {"T_0": 20, "T_mult": 2}],
        [
            "SequentialLR",
            [["LinearLR", {"start_factor": 0.1, "total_iters": 30}], ["CosineAnnealingLR", {"T_max": 90}]],
            [30],
        ],
    ]
    return choices[int(draw.integers(len(choices)))]


def case(optimizer: str, seed: int, dtype: str = "float64") -> dict[str, Any]:
    """One run; a third of them with two groups, a third with a scheduler."""
    draw = np.random.default_rng([seed, OPTIMIZERS.index(optimizer)])
    matrices = optimizer == "Muon"
    sizes = [int(draw.integers(3, 9)) for _ in range(int(draw.integers(3, 5)))]
    names = [
        f"layer{i}.{kind}"
        for i in range(len(sizes) - 1)
        for kind in (["weight"] if matrices else ["weight", "bias"])
    ]
    options = _options(optimizer, draw)
    groups: list[dict[str, Any]] = [{"names": names}]
    if draw.integers(3) == 0:
        first = names[::2]
        groups = [{"names": first}, {"names": [n for n in names if n not in first], "lr": options["lr"] / 2}]
    wanted = optimizer != "Rprop" and not (optimizer in ONE_COUNT and options.get("lr_decay", 1.0))
    return {
        "optimizer": optimizer,
        "seed": seed,
        "dtype": dtype,
        "sizes": sizes,
        "matrices": matrices,
        "options": options,
        "groups": groups,
        "scheduler": _scheduler(draw) if wanted and draw.integers(3) == 0 else None,
        "steps_per_epoch": 1,
    }
