"""Recipes and transforms that exist in both libraries: one function of the library each.

Arguments that are ours alone appear where our default is another rule on purpose: Yogi's first moment, Rprop's lag.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

import gradxform as gx

MASK = {"w": True, "b": False}


def ours(lib: Any, **kwargs: Any) -> dict[str, Any]:
    """Arguments for this library only."""
    return kwargs if lib is gx else {}


def contrib(lib: Any) -> Any:
    """Where a library keeps what Optax has in `contrib`."""
    return getattr(lib, "contrib", lib)


def _then(rate: float, name: str, **kwargs: Any) -> Callable[[Any], Any]:
    """A bare transform with a learning rate behind it."""
    return lambda lib: lib.chain(getattr(lib, name)(**kwargs), lib.scale(-rate))


#: A recipe in either library. `exact`: the two formulas coincide, so each step agrees to one unit in the last place.
RUNS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "sgd": (lambda lib: lib.sgd(0.02), True),
    "sgd with momentum": (lambda lib: lib.sgd(0.02, momentum=0.9), True),
    "sgd nesterov": (lambda lib: lib.sgd(0.02, 0.9, True, jnp.float32), True),
    "sgd on a schedule": (lambda lib: lib.sgd(lib.linear_schedule(0.1, 0.01, 40), momentum=0.5), False),
    "trace": (lambda lib: lib.chain(lib.trace(0.75), lib.scale(-0.03125)), True),
    "adam": (lambda lib: lib.adam(0.01), False),
    "adam nesterov": (lambda lib: lib.adam(0.01, b2=0.95, eps=1e-6, eps_root=1e-10, nesterov=True), False),
    "adamw": (lambda lib: lib.adamw(0.01, weight_decay=0.1), False),
    "adamw masked": (lambda lib: lib.adamw(0.01, weight_decay=0.1, mask=MASK), False),
    "adamw on a schedule": (
        lambda lib: lib.adamw(lib.warmup_cosine_decay_schedule(0.0, 0.02, 5, 50), weight_decay=0.1),
        False,
    ),
    "nadamw": (lambda lib: lib.nadamw(0.01, weight_decay=0.1), False),
    "lion": (lambda lib: lib.lion(0.01, weight_decay=0.1), True),
    "rmsprop": (lambda lib: lib.rmsprop(0.01), True),
    "rmsprop on a schedule": (
        lambda lib: lib.rmsprop(
            lib.linear_schedule(0.05, 0.01, 40), 0.8, eps=1e-4, momentum=0.9, nesterov=True
        ),
        False,
    ),
    "rmsprop corrected": (lambda lib: lib.rmsprop(0.01, eps_in_sqrt=False, bias_correction=True), False),
    "rmsprop centered": (lambda lib: lib.rmsprop(0.01, eps=1e-4, centered=True, momentum=0.5), False),
    "rmsprop centered corrected": (
        lambda lib: lib.rmsprop(0.01, 0.8, 1e-4, 0.5, centered=True, bias_correction=True),
        False,
    ),
    "adagrad": (lambda lib: lib.adagrad(0.1, 0.5, 1e-5), True),
    "adadelta": (
        lambda lib: lib.adadelta(2.0, 0.8, 1e-3, weight_decay=0.1, weight_decay_mask=MASK),
        True,
    ),
    "amsgrad": (lambda lib: lib.amsgrad(0.01, b2=0.9), False),
    "amsgrad uncorrected": (
        lambda lib: lib.amsgrad(0.01, eps_root=1e-6, bias_correction_mu=False, bias_correction_nu=False),
        True,
    ),
    "radam": (lambda lib: lib.radam(0.01, b2=0.95), False),
    "radam nesterov": (lambda lib: lib.radam(0.01, 0.8, 0.95, 1e-4, 1e-6, 4.5, nesterov=True), False),
    "adamax": (lambda lib: lib.adamax(0.01, b2=0.9), False),
    "adamaxw": (lambda lib: lib.adamaxw(0.01, b2=0.9, weight_decay=0.1, mask=MASK), False),
    "nadam": (lambda lib: lib.nadam(0.01), False),
    "adabelief": (lambda lib: lib.adabelief(0.01), False),
    "adabelief nesterov": (lambda lib: lib.adabelief(0.01, 0.8, 0.95, 1e-4, 1e-6, nesterov=True), False),
    "yogi": (lambda lib: lib.yogi(0.01, **ours(lib, seed_mu=True)), False),
    "adan": (lambda lib: lib.adan(0.01, weight_decay=0.1, mask=MASK), False),
    "lamb": (lambda lib: lib.lamb(0.01, weight_decay=0.1, mask=MASK), False),
    "lars": (
        lambda lib: lib.lars(0.1, 0.1, MASK, 0.5, 1e-3, MASK, 0.8, True),
        False,
    ),
    "lars everywhere": (lambda lib: lib.lars(lib.linear_schedule(0.5, 0.1, 40)), False),
    "adafactor": (lambda lib: lib.adafactor(0.1, min_dim_size_to_factor=2), False),
    "adafactor with momentum": (
        lambda lib: lib.adafactor(
            0.1,
            2,
            0.6,
            momentum=0.9,
            weight_decay_rate=0.01,
            clipping_threshold=0.5,
            eps=1e-6,
            weight_decay_mask=MASK,
        ),
        False,
    ),
    "adafactor without parts": (
        lambda lib: lib.adafactor(
            0.01, factored=False, multiply_by_parameter_scale=False, clipping_threshold=None
        ),
        False,
    ),
    "muon": (lambda lib: contrib(lib).muon(0.05), False),
    "muon with decay": (
        lambda lib: contrib(lib).muon(
            lib.linear_schedule(0.1, 0.01, 40),
            "dion",
            5,
            0.9,
            1e-6,
            0.1,
            MASK,
            nesterov=False,
            preconditioning="schatten",
            adam_b1=0.8,
            adam_weight_decay=0.1,
            adam_learning_rate=0.01,
            consistent_rms=0.2,
        ),
        False,
    ),
    "muon by dimension numbers": (
        lambda lib: contrib(lib).muon(
            0.05,
            ns_steps=3,
            adaptive=True,
            preconditioning="aol",
            muon_weight_dimension_numbers=lambda p: {"w": MuonDimensionNumbers(1, 0), "b": None},
        ),
        False,
    ),
    "signum": (lambda lib: lib.signum(0.01), True),
    "sign_sgd": (lambda lib: lib.sign_sgd(0.01), True),
    "rprop": (lambda lib: lib.rprop(0.01, 0.6, 1.4, 1e-4, 0.05, **ours(lib, lagged=True)), True),
    "scale_by_rss": (_then(0.1, "scale_by_rss", initial_accumulator_value=1.0), False),
    "scale_by_rms": (_then(0.01, "scale_by_rms", decay=0.8, initial_scale=1.0, eps_in_sqrt=False), True),
    "scale_by_stddev": (_then(0.01, "scale_by_stddev", eps=1e-3, bias_correction=True), False),
    "scale_by_adadelta": (_then(2.0, "scale_by_adadelta", eps=1e-4), False),
    "scale_by_amsgrad": (_then(0.01, "scale_by_amsgrad", b2=0.9), False),
    "scale_by_adamax": (_then(0.01, "scale_by_adamax", eps=0.1), False),
    "scale_by_radam": (_then(0.01, "scale_by_radam", b2=0.65), False),
    "scale_by_rprop": (
        lambda lib: lib.chain(lib.scale_by_rprop(0.01, **ours(lib, lagged=True)), lib.scale(-1.0)),
        False,
    ),
    "scale_by_belief": (_then(0.01, "scale_by_belief", eps=1e-4, eps_root=1e-8), False),
    "scale_by_yogi": (
        lambda lib: lib.chain(
            lib.scale_by_yogi(eps_root=1e-6, initial_accumulator_value=0.1, **ours(lib, seed_mu=True)),
            lib.scale(-0.01),
        ),
        False,
    ),
    "scale_by_adan": (_then(0.01, "scale_by_adan", b1=0.9, b3=0.9), False),
    "scale_by_trust_ratio": (
        _then(0.01, "scale_by_trust_ratio", min_norm=0.5, trust_coefficient=0.5, eps=0.1),
        False,
    ),
    "scale_by_factored_rms": (_then(0.01, "scale_by_factored_rms", min_dim_size_to_factor=2), False),
    "scale_by_param_block_rms": (_then(0.01, "scale_by_param_block_rms", min_scale=0.5), False),
    "scale_by_param_block_norm": (_then(0.01, "scale_by_param_block_norm"), False),
    "ema": (_then(0.02, "ema", decay=0.8), False),
    "ema raw": (_then(0.02, "ema", decay=0.8, debias=False, accumulator_dtype=jnp.float32), False),
}

#: The same with a slot in bfloat16. Optax multiplies and rounds in the slot's dtype, this library in float32.
NARROW: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "adam in bfloat16": (lambda lib: lib.adam(0.01, mu_dtype=jnp.bfloat16), False),
    "amsgrad in bfloat16": (lambda lib: lib.amsgrad(0.01, mu_dtype=jnp.bfloat16), False),
    "adafactor in bfloat16": (
        lambda lib: lib.adafactor(0.01, momentum=0.9, dtype_momentum=jnp.bfloat16),
        False,
    ),
    "ema in bfloat16": (_then(0.02, "ema", decay=0.8, debias=False, accumulator_dtype=jnp.bfloat16), False),
}
