"""Which runs and schedules make_optax.py records: plain data, so that the files can carry it as JSON."""

from typing import Any

STEPS = 40
KEPT = [1, 2, 5, 10, 20, 30, 40]

COSINE = {
    "schedule": "warmup_cosine_decay_schedule",
    "arguments": {
        "init_value": 0.0,
        "peak_value": 1e-2,
        "warmup_steps": 8,
        "decay_steps": 36,
        "end_value": 1e-3,
    },
}
DECAY = {
    "schedule": "linear_schedule",
    "arguments": {"init_value": 0.2, "end_value": 0.02, "transition_steps": 25},
}
MATRICES = {"w": True, "b": False, "s": False}

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "sgd": {
        "plain": {"learning_rate": 0.01},
        "momentum": {"learning_rate": 0.01, "momentum": 0.9},
        "nesterov_cosine": {"learning_rate": COSINE, "momentum": 0.95, "nesterov": True},
    },
    "adam": {
        "default": {"learning_rate": 1e-3},
        "eps_root": {"learning_rate": 1e-2, "b1": 0.8, "b2": 0.95, "eps": 1e-4, "eps_root": 1e-6},
        "cosine": {"learning_rate": COSINE},
    },
    "adamw": {
        "default": {"learning_rate": 1e-3},
        "masked_cosine": {"learning_rate": COSINE, "b2": 0.95, "weight_decay": 0.1, "mask": MATRICES},
        "decay_schedule": {"learning_rate": 1e-2, "weight_decay": DECAY},
    },
    "nadamw": {
        "default": {"learning_rate": 1e-3},
        "betas": {"learning_rate": 1e-2, "b1": 0.8, "b2": 0.95, "weight_decay": 0.1},
    },
    "lion": {
        "default": {"learning_rate": 1e-4},
        "masked_cosine": {
            "learning_rate": COSINE,
            "b1": 0.95,
            "b2": 0.98,
            "weight_decay": 0.5,
            "mask": MATRICES,
        },
    },
}


def schedule_counts() -> list[int]:
    """Every step of a short run, then far beyond its end."""
    return [*range(61), 99, 100, 101, 1000, 10**6]


_EXP = {"init_value": 0.5, "transition_steps": 10, "decay_rate": 0.7}
_WARM = {"init_value": 0.1, "peak_value": 2.0, "warmup_steps": 7, "decay_steps": 50}

SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "constant": ("constant_schedule", {"value": 0.3}),
    "linear": ("linear_schedule", {"init_value": 1.0, "end_value": 0.1, "transition_steps": 30}),
    "linear_late": (
        "linear_schedule",
        {"init_value": 0.0, "end_value": 2.0, "transition_steps": 13, "transition_begin": 7},
    ),
    "linear_none": ("linear_schedule", {"init_value": 0.4, "end_value": 2.0, "transition_steps": 0}),
    "polynomial": (
        "polynomial_schedule",
        {"init_value": 1.0, "end_value": 0.01, "power": 2, "transition_steps": 40},
    ),
    "polynomial_root": (
        "polynomial_schedule",
        {"init_value": 0.1, "end_value": 3.0, "power": 0.5, "transition_steps": 33, "transition_begin": 5},
    ),
    "piecewise": (
        "piecewise_constant_schedule",
        {"init_value": 1.0, "boundaries_and_scales": {"10": 0.1, "25": 0.5, "40": 3.0}},
    ),
    "exponential": ("exponential_decay", _EXP),
    "exponential_stairs": ("exponential_decay", _EXP | {"staircase": True}),
    "exponential_late": ("exponential_decay", _EXP | {"transition_begin": 12, "staircase": True}),
    "exponential_floor": ("exponential_decay", _EXP | {"transition_begin": 3, "end_value": 0.2}),
    "exponential_ceiling": ("exponential_decay", _EXP | {"decay_rate": 1.3, "end_value": 1.1}),
    "exponential_zero": ("exponential_decay", _EXP | {"decay_rate": 0.0}),
    "cosine": ("cosine_decay_schedule", {"init_value": 0.8, "decay_steps": 45}),
    "cosine_alpha": (
        "cosine_decay_schedule",
        {"init_value": 0.8, "decay_steps": 45, "alpha": 0.1, "exponent": 1.7},
    ),
    "warmup_cosine": ("warmup_cosine_decay_schedule", _WARM),
    "warmup_cosine_floor": ("warmup_cosine_decay_schedule", _WARM | {"end_value": 0.2, "exponent": 0.7}),
    "warmup_cosine_cold": ("warmup_cosine_decay_schedule", _WARM | {"warmup_steps": 0}),
    "onecycle": ("cosine_onecycle_schedule", {"transition_steps": 50, "peak_value": 0.9}),
    "onecycle_odd": (
        "cosine_onecycle_schedule",
        {
            "transition_steps": 37,
            "peak_value": 0.9,
            "pct_start": 0.45,
            "div_factor": 10.0,
            "final_div_factor": 100.0,
        },
    ),
}
