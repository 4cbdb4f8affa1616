"""Which runs make_keras.py records: plain data, so that the files can carry it as JSON.

"rates": true is a learning rate that changes at every step.
"""

from typing import Any

STEPS = 60

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "plain": {"learning_rate": 0.01},
        "momentum": {"learning_rate": 0.01, "momentum": 0.9, "rates": True},
        "nesterov": {"learning_rate": 0.01, "momentum": 0.8, "nesterov": True, "rates": True},
    },
    "Adam": {
        "default": {"learning_rate": 1e-3},
        "everything": {"learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3},
        "rates": {"learning_rate": 1e-2, "rates": True},
    },
    "AdamW": {
        "default": {"learning_rate": 1e-2},
        "everything": {
            "learning_rate": 1e-2,
            "weight_decay": 0.1,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "epsilon": 1e-3,
            "rates": True,
        },
    },
    "Nadam": {
        "default": {"learning_rate": 1e-3},
        "everything": {"learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "rates": True},
    },
    "Adamax": {
        "default": {"learning_rate": 1e-3},
        "everything": {"learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.1, "rates": True},
    },
    "Adagrad": {
        "default": {"learning_rate": 1e-3},
        "everything": {
            "learning_rate": 1e-2,
            "initial_accumulator_value": 0.5,
            "epsilon": 0.1,
            "rates": True,
        },
    },
    "Adadelta": {
        "default": {"learning_rate": 1e-3},
        "everything": {"learning_rate": 0.5, "rho": 0.8, "epsilon": 1e-3, "rates": True},
    },
    "RMSprop": {
        "default": {"learning_rate": 1e-3},
        "centered": {"learning_rate": 1e-2, "centered": True},
        "momentum": {"learning_rate": 1e-2, "momentum": 0.9, "rates": True},
        "everything": {
            "learning_rate": 1e-2,
            "rho": 0.8,
            "momentum": 0.5,
            "epsilon": 1e-3,
            "centered": True,
            "rates": True,
        },
    },
    "Lion": {
        "default": {"learning_rate": 1e-3},
        "everything": {
            "learning_rate": 1e-2,
            "beta_1": 0.8,
            "beta_2": 0.9,
            "weight_decay": 0.1,
            "rates": True,
        },
    },
}
