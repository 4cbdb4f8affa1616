"""Every transform and recipe with every option, each beside its reference: the grid over which the tests run."""

from typing import Any

import jax.numpy as jnp

import gradxform as gx
from tests import reference as ref

from . import alone
from .grid_cases import (
    BETA1,
    BETA2,
    FALL,
    GROW,
    MATRICES,
    SAME1,
    SAME2,
    STAIRS,
    STORAGE,
    WARM,
    Case,
    by_rank,
    leafwise,
    make_case,
    make_decay,
)
from .grid_methods import METHODS

_MOMENTS: list[dict[str, Any]] = [
    {},
    {"b1": 0.0},
    {"b1": 0.5, "b2": 0.5},
    {"b2": 0.95},
    {"b2": 0.99999},
    {"b2": 0.999999},
    {"b1": 0.99, "b2": 0.9999, "eps": 1e-4},
    {"eps": 0.0, "eps_root": 1e-12},
    {"eps_root": 1e-6},
    {"mu_dtype": jnp.bfloat16},
    {"nu_dtype": jnp.bfloat16},
    {"mu_dtype": jnp.float32, "nu_dtype": jnp.float32},
    {"b1": BETA1},
    {"b2": BETA2},
    {"eps": GROW},
    {"eps_root": GROW},
    {"b1": SAME1, "b2": SAME2, "eps": GROW, "eps_root": GROW},
]


def _adams() -> list[Case]:
    flags = [{"nesterov": False}, {"nesterov": True}]
    return [
        make_case("scale_by_adam", leafwise(ref.Adam), moments | flag, STORAGE)
        for moments in _MOMENTS
        for flag in flags
    ]


def _recipes() -> list[Case]:
    cases = [
        make_case("adam", ref.adam, {"learning_rate": 1e-3} | o, STORAGE) for o in ({}, {"nesterov": True})
    ]
    for rate, decay, mask in (
        (1e-3, 1e-4, None),
        (1e-3, 0.1, MATRICES),
        (WARM, 0.1, by_rank),
        (WARM, FALL, None),
        (WARM, FALL, MATRICES),
        (1e-2, 0.0, None),
    ):
        kwargs = {"learning_rate": rate, "weight_decay": decay, "mask": mask}
        cases += [make_case(name, getattr(ref, name), kwargs) for name in ("adamw", "nadamw", "lion")]
    every = {"b1": BETA1, "b2": BETA2, "eps": GROW, "eps_root": GROW}
    whole = {"learning_rate": WARM, "weight_decay": FALL, "mask": MATRICES}
    cases.append(make_case("adam", ref.adam, {"learning_rate": WARM, **every}))
    cases.append(make_case("adamw", ref.adamw, whole | every))
    cases.append(make_case("nadamw", ref.nadamw, whole | every))
    cases.append(
        make_case("lion", ref.lion, whole | {"b1": BETA1, "b2": BETA2, "mu_dtype": jnp.bfloat16}, STORAGE)
    )
    for momentum in (None, 0.0, 0.9, BETA1):
        for nesterov in (False, True):
            kwargs = {"learning_rate": WARM, "momentum": momentum, "nesterov": nesterov}
            cases.append(make_case("sgd", ref.sgd, kwargs))
    return cases


def _links() -> list[Case]:
    cases = [
        make_case("trace", leafwise(ref.Trace), kwargs, STORAGE)
        for nesterov in (False, True)
        for kwargs in (
            {"decay": 0.0, "nesterov": nesterov},
            {"decay": 0.99, "nesterov": nesterov},
            {"decay": BETA1, "nesterov": nesterov},
            {"decay": 0.9, "nesterov": nesterov, "accumulator_dtype": jnp.bfloat16},
            {"decay": 0.9, "nesterov": nesterov, "accumulator_dtype": jnp.float32},
        )
    ]
    cases += [
        make_case("scale_by_lion", leafwise(ref.Lion), kwargs, STORAGE)
        for kwargs in (
            {},
            {"b1": 0.0},
            {"b1": 0.95, "b2": 0.98},
            {"b1": BETA1, "b2": BETA2},
            {"mu_dtype": jnp.bfloat16},
        )
    ]
    cases += [
        make_case(
            "add_decayed_weights", make_decay, {"weight_decay": decay, "mask": mask, "coupled": coupled}
        )
        for decay in (0.0, 0.1, FALL)
        for mask in (None, MATRICES, by_rank)
        for coupled in (True, False)
    ]
    for factory, method, name, values in (
        ("clip", leafwise(ref.Clip), "max_delta", (0.0, 0.7, 1e9, FALL)),
        ("clip_by_block_rms", leafwise(ref.ClipByBlockRms), "threshold", (1e-9, 0.7, 1e9, FALL)),
        ("clip_by_global_norm", ref.ClipByGlobalNorm, "max_norm", (0.0, 1e-6, 1.0, 1e9, STAIRS)),
        ("scale", leafwise(ref.Scale), "step_size", (-0.5, 0.0, 3.0, STAIRS)),
        ("scale_by_schedule", leafwise(ref.ScaleBySchedule), "step_size", (WARM, STAIRS)),
        ("scale_by_learning_rate", leafwise(ref.ScaleByLearningRate), "learning_rate", (0.0, 1e-3, WARM)),
    ):
        word = "step_size_fn" if factory == "scale_by_schedule" else name
        for value in values:
            case = make_case(factory, lambda m=method, n=name, w=word, **k: m(**{n: k[w]}), {word: value})
            cases.append(case)
    for options in (
        {"clipping": 0.01},
        {"clipping": 1e9},
        {"clipping": FALL, "eps": 0.5},
        {"clipping": 0.05, "eps": GROW},
    ):
        cases.append(make_case("adaptive_grad_clip", leafwise(ref.AdaptiveGradClip), options))
    cases.append(
        make_case(
            "scale_by_learning_rate",
            leafwise(ref.ScaleByLearningRate),
            {"learning_rate": WARM, "flip_sign": False},
        )
    )
    cases.append(make_case("scale_by_sign", leafwise(ref.Sign), {}))
    cases.append(make_case("identity", leafwise(ref.Identity), {}))
    return cases


def standard() -> Any:
    """AdamW with the standard recipe, as a chain."""
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b2=0.95),
        gx.add_decayed_weights(0.1, MATRICES),
        WARM.ours,
    )


def _chain(*links: Any) -> Any:
    return ref.Chain(
        *(link if isinstance(link, ref.ClipByGlobalNorm) else ref.Leafwise(link) for link in links)
    )


def _chains() -> list[Case]:
    rate, adam = ref.ScaleByLearningRate, ref.Adam
    return [
        Case(
            "the standard recipe",
            standard,
            lambda: ref.Chain(
                ref.ClipByGlobalNorm(1.0),
                ref.Leafwise(adam(b2=0.95)),
                ref.Leafwise(ref.AddDecayedWeights(0.1), MATRICES),
                ref.Leafwise(rate(WARM.theirs)),
            ),
        ),
        Case(
            "L2 through Adam",
            lambda: gx.chain(
                gx.add_decayed_weights(0.1), gx.scale_by_adam(), gx.scale_by_learning_rate(1e-2)
            ),
            lambda: ref.adam(1e-2, l2=0.1),
        ),
        Case(
            "independent decay",
            lambda: gx.chain(
                gx.scale_by_adam(),
                gx.scale_by_learning_rate(WARM.ours),
                gx.add_decayed_weights(1e-3, coupled=False),
            ),
            lambda: ref.adamw(WARM.theirs, weight_decay=1e-3, independent=True),
        ),
        Case(
            "clip behind scale(10)",
            lambda: gx.chain(
                gx.scale(10.0), gx.clip_by_global_norm(5.0), gx.scale_by_adam(), gx.clip_by_global_norm(1.0)
            ),
            lambda: _chain(ref.Scale(10.0), ref.ClipByGlobalNorm(5.0), adam(), ref.ClipByGlobalNorm(1.0)),
        ),
        Case(
            "Signum with every clip",
            lambda: gx.chain(
                gx.adaptive_grad_clip(0.5),
                gx.clip(0.3),
                gx.trace(0.9),
                gx.clip_by_block_rms(0.05),
                gx.add_decayed_weights(0.1),
                gx.scale_by_learning_rate(1e-2),
            ),
            lambda: _chain(
                ref.AdaptiveGradClip(0.5),
                ref.Clip(0.3),
                ref.Trace(0.9),
                ref.ClipByBlockRms(0.05),
                ref.AddDecayedWeights(0.1),
                rate(1e-2),
            ),
        ),
    ]


GRID: list[Case] = [*_links(), *_adams(), *_recipes(), *_chains(), *METHODS, *alone.CASES]
