"""Values at which every option of the further methods must show: `factory: (base, {option: values})`.

`Beside(value, other=...)` is a value that shows only beside others, which both runs then have.
"""

from typing import Any

import jax.numpy as jnp

import gradxform as gx

HALF = gx.linear_schedule(1.0, 0.0, 8)
FALL = gx.linear_schedule(0.9, 0.5, 8)
MASK = {"w": True, "b": False}
BF16 = jnp.bfloat16


class Beside:
    """A value and the company that it needs."""

    def __init__(self, value: Any, **others: Any):
        self.value = value
        self.others = others

    def __repr__(self) -> str:
        return f"{self.value} beside {', '.join(self.others)}"


def apart(value: Any) -> tuple[Any, dict[str, Any]]:
    return (value.value, value.others) if isinstance(value, Beside) else (value, {})


Options = dict[str, list[Any]]
BETAS: Options = {"b1": [0.0, 0.8, FALL], "b2": [0.9, FALL]}
EPS: Options = {"eps": [0.1, HALF]}
EPSES: Options = {**EPS, "eps_root": [0.1, HALF]}
DTYPES: Options = {"mu_dtype": [BF16], "nu_dtype": [BF16]}
NESTEROV: Options = {"nesterov": [True]}
RATE: Options = {"learning_rate": [0.2, HALF]}
MASKED: Options = {"weight_decay": [0.0, 0.2, HALF], "mask": [MASK, gx.matrices()]}


def keep_less(count: Any, rate: Any) -> Any:
    del count
    return 0.5 * rate


_AMSGRAD: Options = {
    **BETAS,
    **EPSES,
    **DTYPES,
    "bias_correction_mu": [False],
    "bias_correction_nu": [False],
    "raw_max": [True],
}
_RADAM: Options = {
    **BETAS,
    **EPSES,
    **DTYPES,
    **NESTEROV,
    "threshold": [4.5, gx.linear_schedule(4.5, 4.4, 8)],
    "eps_hat": [True],
}
_ADAMAX: Options = {**BETAS, **EPS, **DTYPES, "eps_in_max": [False]}
_BELIEF: Options = {**BETAS, **EPSES, **DTYPES, **NESTEROV}
_ADAN: Options = {**BETAS, "b3": [0.5, FALL], **EPSES, "weigh_by_b2": [True]}
_RSS: Options = {"initial_accumulator_value": [0.0, 2.0], "eps": [1.0, HALF], "eps_in_sqrt": [False]}
_RMS: Options = {
    "decay": [0.0, 0.5, FALL],
    "eps": [0.3, HALF],
    "initial_scale": [1.0],
    "eps_in_sqrt": [False],
    "bias_correction": [True],
    "nu_dtype": [BF16],
}
_RPROP: Options = {
    "learning_rate": [0.2],
    "eta_minus": [0.8, FALL],
    "eta_plus": [1.5, gx.linear_schedule(1.9, 1.1, 8)],
    "min_step_size": [0.09, gx.linear_schedule(0.09, 0.05, 8)],
    "max_step_size": [0.11, gx.linear_schedule(0.11, 0.105, 8)],
    "lagged": [True],
}
_FACTORED: Options = {
    "factored": [False],
    "decay_rate": [0.3, FALL],
    "min_dim_size_to_factor": [3],
    "beta2_cap": [0.1, gx.linear_schedule(0.1, 0.2, 8)],
    "floor": [0.5, HALF],
    "last_axes": [Beside(True, min_dim_size_to_factor=3)],
}

CHANGES_OF_METHODS: dict[str, tuple[dict[str, Any], Options]] = {
    "adam_l2": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {**RATE, **BETAS, **EPSES, **DTYPES, **NESTEROV, **MASKED, "eps_hat": [Beside(True, eps=0.1)]},
    ),
    "scale_by_nadam": ({}, {**BETAS, **EPS, **DTYPES, "momentum_decay": [0.0, 1.0, HALF]}),
    "nadam": (
        {"learning_rate": 0.1},
        {
            **RATE,
            **BETAS,
            **EPSES,
            **DTYPES,
            "nesterov": [False],
            "momentum_decay": [0.0, 4e-3, HALF],
        },
    ),
    "scale_by_amsgrad": ({"b2": 0.5}, _AMSGRAD),
    "amsgrad": ({"learning_rate": 0.1, "b2": 0.5}, {**RATE, **_AMSGRAD}),
    "scale_by_radam": ({"eps": 1e-3}, _RADAM),
    "radam": ({"learning_rate": 0.1, "eps": 1e-3}, {**RATE, **_RADAM}),
    "scale_by_adamax": ({"eps": 0.2}, _ADAMAX),
    "adamax": ({"learning_rate": 0.1, "eps": 0.2}, {**RATE, **_ADAMAX}),
    "adamaxw": (
        {"learning_rate": 0.1, "eps": 0.2, "weight_decay": 0.1},
        {**RATE, **_ADAMAX, **MASKED},
    ),
    "scale_by_belief": ({}, _BELIEF),
    "adabelief": ({"learning_rate": 0.1}, {**RATE, **_BELIEF}),
    "scale_by_yogi": (
        {"initial_accumulator_value": 0.1},
        {
            **BETAS,
            **EPSES,
            **DTYPES,
            "initial_accumulator_value": [0.0, 0.2],
            "seed_mu": [True],
        },
    ),
    "yogi": ({"learning_rate": 0.1}, {**RATE, **BETAS, **EPS, **DTYPES, "seed_mu": [True]}),
    "scale_by_adan": ({}, _ADAN),
    "adan": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {**RATE, **_ADAN, **MASKED, "proximal": [True]},
    ),
    "scale_by_rss": ({}, _RSS),
    "adagrad": ({"learning_rate": 0.1}, {**RATE, **_RSS}),
    "scale_by_rms": ({}, _RMS),
    "scale_by_stddev": ({}, {**_RMS, "mu_dtype": [BF16]}),
    "rmsprop": (
        {"learning_rate": 0.1, "momentum": 0.9},
        {
            **RATE,
            **_RMS,
            "centered": [True],
            "momentum": [None, 0.0, 0.5, FALL],
            "nesterov": [True],
            "rate_in_momentum": [Beside(False, learning_rate=HALF)],
            "mu_dtype": [Beside(BF16, centered=True)],
        },
    ),
    "scale_by_adadelta": ({}, {"rho": [0.5, FALL], "eps": [0.1, HALF]}),
    "adadelta": (
        {"weight_decay": 0.1},
        {
            "learning_rate": [0.2, HALF],
            "rho": [0.5, FALL],
            "eps": [0.1, HALF],
            "weight_decay": [0.0, HALF],
            "weight_decay_mask": [MASK],
        },
    ),
    "scale_by_rprop": ({"learning_rate": 0.1}, _RPROP),
    "rprop": ({"learning_rate": 0.1}, _RPROP),
    "ema": (
        {"decay": 0.9},
        {"decay": [0.0, 0.5, FALL], "debias": [False], "accumulator_dtype": [BF16]},
    ),
    "signum": ({"learning_rate": 0.1}, {**RATE, "beta": [0.0, FALL], "accumulator_dtype": [BF16]}),
    "sign_sgd": ({"learning_rate": 0.1}, RATE),
    "scale_by_sign": ({}, {}),
    "scale_by_trust_ratio": (
        {},
        {
            "min_norm": [10.0, gx.linear_schedule(9.0, 5.0, 8)],
            "trust_coefficient": [0.5, HALF],
            "eps": [0.1, HALF],
            "max_norm": [0.5, HALF],
            "weight_decay": [0.1, HALF],
        },
    ),
    "lamb": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {**RATE, **BETAS, **EPSES, **DTYPES, **MASKED, "max_norm": [0.5, HALF]},
    ),
    "lars": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {
            **RATE,
            "weight_decay": [0.0, 0.2, HALF],
            "weight_decay_mask": [MASK],
            "trust_coefficient": [0.01, HALF],
            "eps": [0.1, HALF],
            "trust_ratio_mask": [MASK],
            "momentum": [0.0, 0.5, FALL],
            "nesterov": [True],
            "norm_sum": [True],
            "rate_in_momentum": [Beside(False, learning_rate=HALF)],
        },
    ),
    "scale_by_param_block_rms": ({}, {"min_scale": [3.0, gx.linear_schedule(3.0, 2.0, 8)]}),
    "scale_by_param_block_norm": ({}, {"min_scale": [9.0, gx.linear_schedule(9.0, 8.0, 8)]}),
    "scale_by_factored_rms": (
        {"min_dim_size_to_factor": 2},
        {**_FACTORED, "step_offset": [2], "epsilon": [0.1, HALF], "decay_rate_fn": [keep_less]},
    ),
    "adafactor": (
        {"learning_rate": 0.9, "min_dim_size_to_factor": 2, "momentum": 0.9, "weight_decay_rate": 0.1},
        {
            **_FACTORED,
            "learning_rate": [None, Beside(0.2, multiply_by_parameter_scale=False), HALF],
            "decay_offset": [2],
            "multiply_by_parameter_scale": [False],
            "clipping_threshold": [None, 0.5, HALF],
            "momentum": [None, 0.5, FALL],
            "dtype_momentum": [BF16],
            "weight_decay_rate": [None, 0.2, HALF],
            "eps": [0.1, HALF],
            "weight_decay_mask": [MASK],
            "relative_step": [True],
            "rate_in_decay": [Beside(True, learning_rate=0.5)],
            "min_scale": [3.0, gx.linear_schedule(3.0, 2.0, 8)],
        },
    ),
}

#: What the methods that were there before have got since.
ADDED: dict[str, Options] = {
    "scale_by_adam": {"eps_hat": [Beside(True, eps=0.1)]},
    "adam": {"eps_hat": [Beside(True, eps=0.1)]},
    "adamw": {"eps_hat": [Beside(True, eps=0.1)]},
    "trace": {"dampening": [0.5, HALF]},
    "sgd": {"dampening": [0.5, HALF], "rate_in_momentum": [Beside(True, learning_rate=HALF)]},
    "add_decayed_weights": {"proximal_rate": [0.5, HALF], "cautious": [True]},
}
