"""Which runs and schedules make_optax.py records: plain data, so that the files can carry it as JSON."""

from typing import Any

STEPS = 40
KEPT = [1, 2, 5, 10, 20, 30, 40]
MORE_KEPT = [1, 2, 8, 40]

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

_BETAS = {"learning_rate": 1e-2, "b1": 0.8, "b2": 0.95}
_SMALL = {"min_dim_size_to_factor": 2}

#: Fewer steps are kept, and the problem is that of optax_sgd.npz (Adafactor, which wants a stack of matrices: its own).
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "rmsprop": {
        "default": {"learning_rate": 1e-3},
        "momentum_cosine": {
            "learning_rate": COSINE,
            "decay": 0.8,
            "eps": 1e-3,
            "momentum": 0.9,
            "nesterov": True,
        },
        "corrected": {
            "learning_rate": 1e-2,
            "eps_in_sqrt": False,
            "bias_correction": True,
            "initial_scale": 0.5,
        },
        "centered": {"learning_rate": 1e-2, "decay": 0.8, "eps": 1e-3, "centered": True, "momentum": 0.5},
        "centered_corrected": {
            "learning_rate": 1e-2,
            "eps": 1e-3,
            "initial_scale": 0.5,
            "eps_in_sqrt": False,
            "centered": True,
            "bias_correction": True,
        },
    },
    "adagrad": {
        "default": {"learning_rate": 1e-2},
        "options": {"learning_rate": 1e-1, "initial_accumulator_value": 1.0, "eps": 1e-2},
    },
    "adadelta": {
        "default": {"learning_rate": 1.0},
        "options": {
            "learning_rate": 0.5,
            "rho": 0.8,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "weight_decay_mask": MATRICES,
        },
    },
    "amsgrad": {
        "default": {"learning_rate": 1e-2},
        "options": _BETAS | {"eps": 1e-3, "eps_root": 1e-6},
        "uncorrected": _BETAS | {"bias_correction_mu": False, "bias_correction_nu": False},
    },
    "radam": {
        "default": {"learning_rate": 1e-3},
        "options": _BETAS | {"eps": 1e-3, "eps_root": 1e-6, "threshold": 4.5, "nesterov": True},
    },
    "adamax": {"default": {"learning_rate": 1e-3}, "options": _BETAS | {"eps": 0.1}},
    "adamaxw": {
        "default": {"learning_rate": 1e-3},
        "options": _BETAS | {"eps": 0.1, "weight_decay": DECAY, "mask": MATRICES},
    },
    "nadam": {"default": {"learning_rate": 1e-3}, "options": _BETAS | {"eps": 1e-3, "eps_root": 1e-6}},
    "adabelief": {
        "default": {"learning_rate": 1e-3},
        "options": _BETAS | {"eps": 1e-3, "eps_root": 1e-6, "nesterov": True},
    },
    "yogi": {"default": {"learning_rate": 1e-2}, "options": _BETAS | {"eps": 1e-2}},
    "adan": {
        "default": {"learning_rate": 1e-3},
        "options": _BETAS | {"b3": 0.9, "eps": 1e-3, "eps_root": 0.0, "weight_decay": 0.1, "mask": MATRICES},
    },
    "lamb": {
        "default": {"learning_rate": 1e-2},
        "options": _BETAS | {"eps": 1e-3, "eps_root": 1e-6, "weight_decay": 0.1, "mask": MATRICES},
    },
    "lars": {
        "default": {"learning_rate": 0.1},
        "options": {
            "learning_rate": COSINE,
            "weight_decay": 0.1,
            "weight_decay_mask": MATRICES,
            "trust_coefficient": 0.5,
            "eps": 1e-3,
            "trust_ratio_mask": MATRICES,
            "momentum": 0.8,
            "nesterov": True,
        },
    },
    "adafactor": {
        "default": _SMALL | {"learning_rate": 1e-2},
        "options": _SMALL
        | {
            "learning_rate": 1e-1,
            "decay_rate": 0.6,
            "clipping_threshold": 0.5,
            "momentum": 0.9,
            "weight_decay_rate": 1e-2,
            "weight_decay_mask": MATRICES | {"k": True},
            "eps": 1e-3,
        },
        "plain": {
            "learning_rate": 1e-2,
            "multiply_by_parameter_scale": False,
            "clipping_threshold": None,
            "factored": False,
        },
    },
    "signum": {"default": {"learning_rate": 1e-2}, "options": {"learning_rate": COSINE, "beta": 0.5}},
    "sign_sgd": {"default": {"learning_rate": 1e-2}},
    "rprop": {
        "default": {"learning_rate": 1e-2},
        "options": {
            "learning_rate": 3e-2,
            "eta_minus": 0.8,
            "eta_plus": 1.1,
            "min_step_size": 1e-2,
            "max_step_size": 0.05,
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
