"""The grid over the methods that are neither Adam, Lion nor plain SGD: every option, each beside its reference.

b2 is 0.9 where a maximum or a sign rule would otherwise never show; recipes have their weight decay on.
"""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

import gradxform as gx
from tests import reference as ref
from tests.reference import recipes_more as more

from .forced import Both, Given
from .grid_cases import (
    BETA1,
    BETA2,
    FALL,
    GROW,
    MATRICES,
    STAIRS,
    STORAGE,
    WARM,
    Case,
    by_rank,
    leafwise,
    make_case,
    make_decay,
)

HALF = jnp.bfloat16
STORED = (*STORAGE, "dtype_momentum")
BETAS: dict[str, Any] = {"b1": BETA1, "b2": BETA2}
EPSES: dict[str, Any] = {"eps": GROW, "eps_root": GROW}
NARROW: dict[str, Any] = {"mu_dtype": HALF, "nu_dtype": HALF}


@dataclass(frozen=True)
class Machine(Both):
    """The word for the machine epsilon of the arithmetic, and its value."""

    name: str = "machine"
    arguments: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def ours(self) -> Any:
        return self.name

    @property
    def theirs(self) -> Any:
        return float(jnp.finfo(jnp.zeros(()).dtype).eps)


STAIRS_UP = Both(
    "piecewise_constant_schedule", {"init_value": 1.1, "boundaries_and_scales": {50: 1.1, 120: 1.05}}
)
# The one-cycle schedule BETA2 ends at zero. On the way RAdam's rho_inf - 4 is zero (at 0.6), and Yogi's
# v - (1 - b2) g^2 comes near it: digits are lost there.
LONG = Given("linear_schedule", {"init_value": 0.95, "end_value": 0.999, "transition_steps": 150})
STAIRS_UP_FROM_4 = Both("piecewise_constant_schedule", {"init_value": 4.0, "boundaries_and_scales": {9: 3.0}})
STEEP = Both("linear_schedule", {"init_value": 0.5, "end_value": 0.9, "transition_steps": 100})


def _each(factory: str, method: Any, *options: dict[str, Any], **base: Any) -> list[Case]:
    return [make_case(factory, method, base | o, STORED) for o in options]


def _moments() -> list[Case]:
    """Methods that keep moments as Adam does."""
    link = leafwise
    return [
        *_each(
            "scale_by_adam",
            link(ref.Adam),
            {},
            {"eps": 1e-3, "eps_root": 1e-6, "nesterov": True},
            BETAS | EPSES,
            eps_hat=True,
        ),
        *_each(
            "scale_by_nadam",
            link(ref.Nadam),
            {},
            {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "momentum_decay": 1.0},
            {"momentum_decay": 0.0},
            {**BETAS, "eps": GROW, "momentum_decay": FALL},
            NARROW,
        ),
        *_each(
            "scale_by_amsgrad",
            link(ref.Amsgrad),
            {},
            {"raw_max": True},
            {"bias_correction_mu": False},
            {"bias_correction_nu": False, "raw_max": True},
            {"b1": 0.8, "eps": 1e-3, "eps_root": 1e-6},
            NARROW,
            b2=0.9,
        ),
        *_each("scale_by_amsgrad", link(ref.Amsgrad), BETAS | EPSES, BETAS | EPSES | {"raw_max": True}),
        *_each(
            "scale_by_radam",
            link(ref.Radam),
            {},
            {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-6},
            {"b2": 0.99999, "nesterov": True},
            {"eps": 1e-3, "eps_root": 1e-6, "eps_hat": True},
            {"b2": 0.9, "eps": 0.0, "threshold": 4.0},
            {"b2": 0.61},
            {"b1": BETA1, "b2": LONG, **EPSES, "threshold": Both("constant_schedule", {"value": 20.0})},
            NARROW,
        ),
        *_each(
            "scale_by_adamax",
            link(ref.Adamax),
            {},
            {"eps_in_max": False},
            {"b1": 0.8, "b2": 0.95, "eps": 0.1},
            {"eps": 0.0, "eps_in_max": False},
            {**BETAS, "eps": GROW},
            NARROW,
        ),
        *_each(
            "scale_by_belief",
            link(ref.Belief),
            {},
            {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-6},
            {"nesterov": True},
            {**BETAS, **EPSES},
            NARROW,
        ),
        *_each(
            "scale_by_yogi",
            link(ref.Yogi),
            {},
            {"b1": 0.8, "b2": 0.9, "eps": 1e-8, "eps_root": 1e-6, "initial_accumulator_value": 0.1},
            {"initial_accumulator_value": 0.0},
            {"seed_mu": True, "initial_accumulator_value": 1e-2},
            {"b1": BETA1, "b2": LONG, **EPSES},
            NARROW,
        ),
        *_each(
            "scale_by_adan",
            link(ref.Adan),
            {},
            {"weigh_by_b2": True},
            {"b1": 0.9, "b2": 0.5, "b3": 0.8, "eps": 1e-3, "eps_root": 1e-6},
            {"b1": BETA1, "b2": BETA1, "b3": BETA2, **EPSES, "weigh_by_b2": True},
        ),
    ]


def _squares() -> list[Case]:
    """The gradient over a root of its squares, and the methods of one buffer."""
    # Two gradients in, a corrected variance may be what an ulp of v makes it: epsilon has to be felt there.
    roots = (
        {},
        {"decay": 0.5, "eps": 1e-3, "initial_scale": 0.5},
        {"eps_in_sqrt": False},
        {"bias_correction": True, "eps": 0.1},
        {"decay": 0.99, "bias_correction": True, "eps_in_sqrt": False, "initial_scale": 0.5},
        {"decay": BETA1, "eps": GROW},
        {"nu_dtype": HALF},
    )
    return [
        *_each(
            "scale_by_rss",
            leafwise(ref.Rss),
            {},
            {"initial_accumulator_value": 0.0},
            {"initial_accumulator_value": 0.0, "eps": 0.0},
            {"initial_accumulator_value": 0.0, "eps": 1e-3, "eps_in_sqrt": False},
            {"eps": GROW},
        ),
        *_each("scale_by_rms", leafwise(ref.Rms), *roots),
        *_each("scale_by_stddev", leafwise(ref.StdDev), *roots, {"mu_dtype": HALF}),
        *_each(
            "scale_by_adadelta",
            leafwise(ref.Adadelta),
            {},
            {"rho": 0.5, "eps": 1e-3},
            {"rho": BETA1, "eps": GROW},
        ),
        *_each(
            "scale_by_rprop",
            leafwise(ref.Rprop),
            {},
            {"lagged": True},
            {"eta_minus": 0.8, "eta_plus": 1.1, "min_step_size": 5e-3, "max_step_size": 2e-2},
            {"eta_minus": STEEP, "eta_plus": STAIRS_UP, "min_step_size": GROW, "max_step_size": FALL},
            learning_rate=1e-2,
        ),
        *_each(
            "trace",
            leafwise(ref.Trace),
            {"dampening": 0.3},
            {"dampening": 1.0, "nesterov": True},
            {"decay": BETA1, "dampening": FALL},
            {"dampening": 0.9, "accumulator_dtype": HALF},
            decay=0.9,
        ),
        *_each(
            "ema",
            leafwise(ref.Ema),
            {"decay": 0.9},
            {"decay": 0.999, "debias": False},
            {"decay": 0.99999},
            {"decay": BETA2},
            {"decay": 0.9, "accumulator_dtype": HALF},
        ),
    ]


def _slow_decay(count: Any, rate: Any) -> Any:
    """A decay of the second moment that is not the power law: 1 - (1 + count rate)^-1/2."""
    return 1.0 - (1.0 + rate * count) ** -0.5


def _downhill(factory: str, method: Any, *options: dict[str, Any]) -> list[Case]:
    """In proportion to the parameter, an uphill step of size one doubles it: these stand in front of a small rate."""
    cases = []
    for row in _each(factory, leafwise(method), *options):
        cases.append(
            row._replace(
                tx=lambda tx=row.tx: gx.chain(tx(), gx.scale_by_learning_rate(1e-3)),
                method=lambda make=row.method: ref.Chain(make(), ref.Leafwise(ref.ScaleByLearningRate(1e-3))),
            )
        )
    return cases


def _arrays() -> list[Case]:
    """Methods that look at a whole array."""
    small = {"min_dim_size_to_factor": 2}
    return [
        *_downhill(
            "scale_by_trust_ratio",
            ref.TrustRatio,
            {},
            {"min_norm": 2.0},
            {"trust_coefficient": 0.01, "eps": 0.5},
            {"max_norm": 1.5},
            {"weight_decay": 0.1, "max_norm": 1.5},
            {
                "min_norm": FALL,
                "trust_coefficient": WARM,
                "eps": GROW,
                "max_norm": STAIRS,
                "weight_decay": FALL,
            },
        ),
        *_downhill(
            "scale_by_param_block_rms", ref.ParamBlockRms, {}, {"min_scale": 1.0}, {"min_scale": FALL}
        ),
        *_downhill(
            "scale_by_param_block_norm", ref.ParamBlockNorm, {}, {"min_scale": 2.0}, {"min_scale": FALL}
        ),
        *_each(
            "scale_by_factored_rms",
            leafwise(ref.FactoredRms),
            {},
            {"min_dim_size_to_factor": 3, "decay_rate": 0.5},
            small,
            small | {"factored": False, "epsilon": 1e-3},
            small | {"step_offset": 5},
            small | {"epsilon": 1e-3},
            small | {"epsilon": 0.0},
            small | {"decay_rate_fn": _slow_decay},
            small | {"beta2_cap": 0.9},
            small | {"floor": 2.0**-23, "epsilon": 0.0},
            small | {"last_axes": True},
            small | {"last_axes": True, "floor": 1e-2, "beta2_cap": 0.99},
            small | {"decay_rate": STEEP, "epsilon": GROW, "beta2_cap": BETA2},
            small | {"floor": FALL},
            small | {"floor": Machine(), "epsilon": 0.0},
        ),
    ]


def _adam_recipes() -> list[Case]:
    """In each, one row has a schedule for every number and a dtype for every slot."""
    whole = {"learning_rate": WARM, "weight_decay": FALL, "mask": MATRICES}
    fixed = {"learning_rate": 1e-2, "weight_decay": 0.1}
    full = BETAS | EPSES | NARROW
    long = {"b1": BETA1, "b2": LONG, "threshold": STAIRS_UP_FROM_4}
    return [
        *_each("adam", ref.adam, {"learning_rate": WARM, "eps_hat": True, "eps": 1e-7} | NARROW),
        *_each("adamw", ref.adamw, whole | full | {"eps_hat": True, "nesterov": True}),
        *_each("nadamw", ref.adamw, whole | full | {"nesterov": False}),
        *_each(
            "adam_l2",
            more.adam_l2,
            fixed,
            whole | BETAS | EPSES | {"nesterov": True},
            fixed | NARROW | {"mask": by_rank, "eps_hat": True},
        ),
        *_each(
            "nadam",
            more.nadam,
            {},
            {"momentum_decay": 4e-3},
            {"nesterov": False, "eps_root": GROW},
            BETAS | NARROW | {"eps": GROW, "momentum_decay": FALL},
            learning_rate=WARM,
        ),
        *_each(
            "amsgrad",
            more.amsgrad,
            {"raw_max": True, "b2": 0.9},
            full | {"bias_correction_mu": False, "bias_correction_nu": False},
            learning_rate=WARM,
        ),
        *_each("radam", more.radam, {"eps_hat": True}, full | long | {"nesterov": True}, learning_rate=WARM),
        *_each(
            "adamax",
            more.adamax,
            BETAS | NARROW | {"eps": GROW, "eps_in_max": False},
            learning_rate=WARM,
        ),
        *_each("adamaxw", more.adamaxw, fixed, whole | BETAS | NARROW | {"eps": GROW, "eps_in_max": False}),
        *_each("adabelief", more.adabelief, full | {"nesterov": True}, learning_rate=WARM),
        *_each(
            "yogi",
            more.yogi,
            {},
            BETAS | NARROW | {"b2": LONG, "eps": GROW, "seed_mu": True},
            learning_rate=WARM,
        ),
        *_each(
            "adan",
            more.adan,
            fixed,
            whole | EPSES | {"b1": BETA1, "b2": BETA1, "b3": BETA2},
            fixed | {"weigh_by_b2": True, "proximal": True, "eps_root": 0.0},
            whole | {"weigh_by_b2": True, "proximal": True},
        ),
        *_each("lamb", more.lamb, fixed, whole | full, fixed | {"mask": by_rank, "max_norm": STAIRS}),
    ]


def _recipes() -> list[Case]:
    return [
        *_each(
            "sgd",
            more.momentum_sgd,
            {"dampening": 0.5, "nesterov": True},
            {"rate_in_momentum": True},
            {"rate_in_momentum": True, "dampening": FALL, "momentum": BETA1, "accumulator_dtype": HALF},
            learning_rate=WARM,
            momentum=0.9,
        ),
        *_each(
            "adagrad",
            more.adagrad,
            {"initial_accumulator_value": 0.0, "eps": 1e-10, "eps_in_sqrt": False},
            {"eps": GROW},
            learning_rate=WARM,
        ),
        *_each(
            "rmsprop",
            more.rmsprop,
            {},
            {"centered": True, "momentum": 0.5, "eps": 1e-3} | NARROW,
            {"momentum": 0.9, "nesterov": True, "rate_in_momentum": False, "eps_in_sqrt": False},
            {"momentum": BETA1, "bias_correction": True, "initial_scale": 0.5, "decay": BETA2, "eps": GROW},
            learning_rate=WARM,
        ),
        *_each(
            "adadelta",
            more.adadelta,
            {"weight_decay": 0.1},
            {
                "learning_rate": WARM,
                "weight_decay": FALL,
                "weight_decay_mask": MATRICES,
                "rho": BETA1,
                "eps": GROW,
            },
        ),
        *_each(
            "rprop",
            more.rprop,
            {},
            {
                "lagged": True,
                "eta_minus": STEEP,
                "eta_plus": STAIRS_UP,
                "min_step_size": GROW,
                "max_step_size": FALL,
            },
            learning_rate=1e-2,
        ),
        *_each("lars", more.lars, *_lars()),
        *_each("adafactor", more.adafactor, *_adafactor()),
        *_each("signum", more.signum, {}, {"beta": BETA1, "accumulator_dtype": HALF}, learning_rate=WARM),
        *_each("sign_sgd", more.sign_sgd, {"learning_rate": WARM}),
        *_each(
            "add_decayed_weights",
            make_decay,
            {"proximal_rate": 0.5},
            {"proximal_rate": WARM, "mask": MATRICES},
            {"cautious": True, "mask": MATRICES},
            {"cautious": True, "coupled": False},
            weight_decay=0.1,
        ),
    ]


def _lars() -> list[dict[str, Any]]:
    masks = {"weight_decay_mask": MATRICES, "trust_ratio_mask": MATRICES}
    fixed = {"learning_rate": 0.1, "weight_decay": 0.1}
    return [
        fixed,
        {"learning_rate": WARM, "weight_decay": FALL, "momentum": BETA1, "nesterov": True} | masks,
        fixed | {"trust_coefficient": 0.5, "eps": 1e-3, "weight_decay_mask": by_rank},
        fixed | {"norm_sum": True},
        fixed | {"norm_sum": True, "trust_coefficient": FALL, "eps": GROW} | masks,
        {"learning_rate": WARM, "weight_decay": 0.1, "rate_in_momentum": False},
    ]


def _adafactor() -> list[dict[str, Any]]:
    # The decay is not that of a unit step: on a leaf of one number they would cancel.
    base = {"learning_rate": 1e-2, "min_dim_size_to_factor": 2, "weight_decay_rate": 3e-3}
    torch = {"eps": 0.0, "floor": Machine(), "last_axes": True, "min_dim_size_to_factor": 1}
    return [
        base,
        {"multiply_by_parameter_scale": False, "weight_decay_rate": 1e-2},
        base | {"learning_rate": WARM, "weight_decay_rate": FALL, "weight_decay_mask": MATRICES},
        base | {"min_scale": FALL, "eps": GROW, "decay_rate": STEEP},
        base | {"multiply_by_parameter_scale": False, "clipping_threshold": None, "factored": False},
        base | {"decay_rate": 0.6, "decay_offset": 4, "momentum": 0.9, "dtype_momentum": jnp.float32},
        base | {"clipping_threshold": 0.5},
        base | {"beta2_cap": 0.9, "momentum": BETA1, "dtype_momentum": HALF, "clipping_threshold": FALL},
        base | torch | {"relative_step": True, "rate_in_decay": True, "learning_rate": 0.3},
        base | torch | {"relative_step": True, "rate_in_decay": True, "learning_rate": STEEP},
        base | {"rate_in_decay": True, "learning_rate": WARM, "weight_decay_rate": FALL},
    ]


METHODS: list[Case] = [*_moments(), *_squares(), *_arrays(), *_adam_recipes(), *_recipes()]
