"""Which runs make_torch.py records: plain data, so that the files can carry it as JSON.

An optimizer's first file (`RUNS`) holds the common options and every step; the second (`MORE`) the rest of its options,
each changed by itself and then everything changed at once. "rates": true is a learning rate that changes at every step.
"""

from typing import Any

STEPS = 120
#: The steps that `MORE` keeps: an error in any state is still there two steps later.
KEPT = [*range(1, 31), *range(33, STEPS + 1, 3)]

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "plain": {"lr": 0.01},
        "momentum": {"lr": 0.01, "momentum": 0.9},
        "nesterov": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        "l2": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.05},
    },
    "Adam": {
        "default": {"lr": 1e-3},
        "eps": {"lr": 1e-3, "eps": 1e-3},
        "l2": {"lr": 1e-3, "weight_decay": 0.05},
        "betas": {"lr": 1e-2, "betas": [0.8, 0.95]},
    },
    "AdamW": {
        "wd01": {"lr": 1e-3, "weight_decay": 0.01},
        "wd1": {"lr": 1e-2, "weight_decay": 0.1},
        "betas": {"lr": 1e-2, "betas": [0.8, 0.95], "weight_decay": 0.1},
    },
}

_ADAM = {"lr": 1e-2, "betas": [0.8, 0.95], "eps": 1e-3, "weight_decay": 0.1, "maximize": True}

MORE: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "dampening": {"lr": 0.01, "momentum": 0.9, "dampening": 0.5},
        "dampening_alone": {"lr": 0.01, "dampening": 0.5},
        "maximize": {"lr": 0.01, "momentum": 0.9, "maximize": True},
        "nesterov": {
            "lr": 0.01,
            "momentum": 0.8,
            "nesterov": True,
            "weight_decay": 0.05,
            "maximize": True,
        },
        "everything": {
            "lr": 0.01,
            "momentum": 0.8,
            "dampening": 0.3,
            "weight_decay": 0.05,
            "maximize": True,
        },
        "rates": {"lr": 0.01, "momentum": 0.9, "rates": True},
        "rates_dampening": {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "rates": True},
    },
    "Adam": {
        "amsgrad": {"lr": 1e-2, "betas": [0.9, 0.9], "amsgrad": True},
        "maximize": {"lr": 1e-3, "maximize": True},
        "everything": _ADAM | {"amsgrad": True},
        "rates": {"lr": 1e-2, "rates": True},
    },
    "AdamW": {
        "default": {"lr": 1e-3},
        "amsgrad": {"lr": 1e-2, "betas": [0.9, 0.9], "amsgrad": True},
        "everything": _ADAM | {"amsgrad": True},
    },
    "NAdam": {
        "default": {"lr": 2e-3},
        "momentum_decay": {"lr": 1e-2, "momentum_decay": 0.05},
        "l2": {"lr": 1e-2, "weight_decay": 0.05},
        "decoupled": {"lr": 1e-2, "weight_decay": 0.05, "decoupled_weight_decay": True},
        "everything": _ADAM | {"momentum_decay": 0.02, "decoupled_weight_decay": True},
        "rates": {"lr": 1e-2, "rates": True},
    },
    "RAdam": {
        "default": {"lr": 1e-3},
        "betas": {"lr": 1e-2, "betas": [0.8, 0.95]},
        "never": {"lr": 1e-2, "betas": [0.9, 0.65]},
        "eps": {"lr": 1e-2, "eps": 1e-3},
        "l2": {"lr": 1e-2, "weight_decay": 0.05},
        "decoupled": {"lr": 1e-2, "weight_decay": 0.05, "decoupled_weight_decay": True},
        "everything": _ADAM | {"decoupled_weight_decay": True},
    },
    "Adamax": {
        "default": {"lr": 2e-3},
        "betas": {"lr": 1e-2, "betas": [0.8, 0.95]},
        "eps": {"lr": 1e-2, "eps": 0.1},
        "everything": _ADAM,
    },
    "Adagrad": {
        "default": {"lr": 1e-2},
        "initial": {"lr": 1e-2, "initial_accumulator_value": 0.5},
        "decay": {"lr": 1e-1, "lr_decay": 0.05},
        "eps": {"lr": 1e-2, "eps": 0.1},
        "everything": {
            "lr": 5e-2,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.01,
            "eps": 1e-3,
            "maximize": True,
        },
    },
    "Adadelta": {
        "default": {"lr": 1.0},
        "rho": {"lr": 1.0, "rho": 0.5},
        "eps": {"lr": 0.1, "eps": 1e-2},
        "everything": {"lr": 0.5, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
    },
    "RMSprop": {
        "default": {"lr": 1e-2},
        "alpha": {"lr": 1e-2, "alpha": 0.8},
        "eps": {"lr": 1e-2, "eps": 0.1},
        "l2": {"lr": 1e-2, "weight_decay": 0.05},
        "momentum": {"lr": 1e-2, "momentum": 0.9},
        "centered": {"lr": 1e-2, "centered": True},
        "everything": {
            "lr": 2e-3,
            "alpha": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.8,
            "centered": True,
            "maximize": True,
        },
        "rates": {"lr": 1e-2, "momentum": 0.9, "rates": True},
        "rates_centered": {"lr": 1e-2, "momentum": 0.5, "centered": True, "rates": True},
    },
    "Rprop": {
        "default": {"lr": 1e-2},
        "etas": {"lr": 1e-2, "etas": [0.3, 1.7]},
        "step_sizes": {"lr": 1e-2, "step_sizes": [5e-3, 2e-2]},
        "everything": {"lr": 3e-2, "etas": [0.8, 1.1], "step_sizes": [1e-2, 0.05], "maximize": True},
    },
    "Adafactor": {
        "default": {"lr": 1e-2},
        "relative": {"lr": 0.3},
        "decay": {"lr": 0.3, "weight_decay": 0.1},
        "d": {"lr": 0.3, "d": 2.0},
        "beta2_decay": {"lr": 0.3, "beta2_decay": -0.5},
        "eps": {"lr": 0.3, "eps": [1e-2, 0.5]},
        "everything": {
            "lr": 0.2,
            "beta2_decay": -0.6,
            "eps": [1e-4, 0.1],
            "d": 1.5,
            "weight_decay": 0.1,
            "maximize": True,
        },
        "rates": {"lr": 0.3, "weight_decay": 0.1, "rates": True},
    },
}
