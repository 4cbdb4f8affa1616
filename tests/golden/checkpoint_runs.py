"""Which states have a golden checkpoint: one a kind, named by what is kept."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

_SMALL = {"b": [3], "w": [2, 3]}
_WIDE = {"b": [3], "w": [2, 64]}
_MATRIX = {"w": [2, 3]}
_RATE = gx.warmup_cosine(1e-2, 2, 10)


def _low(bits: int, **options: Any) -> Any:
    return gx.lowbit.quantized(gx.adamw(1e-2), bits, min_size=16, **options)


#: By name: what makes the transform.
KINDS: dict[str, Callable[[], Any]] = {
    # One class of state each.
    "adamw": lambda: gx.adamw(1e-2),
    "adamw_bfloat16": lambda: gx.adamw(1e-2, mu_dtype="bfloat16"),
    "adamw_scheduled": lambda: gx.adamw(_RATE, b1=gx.linear_schedule(0.8, 0.9, 10)),
    "decay_scheduled": lambda: gx.chain(gx.trace(0.9), gx.add_decayed_weights(_RATE), gx.scale(-0.1)),
    "sgd_momentum": lambda: gx.sgd(1e-2, momentum=0.9),
    "sgd_scheduled": lambda: gx.sgd(1e-2, momentum=gx.linear_schedule(0.8, 0.9, 10)),
    "signum": lambda: gx.signum(1e-2),
    "lion": lambda: gx.lion(1e-2),
    "amsgrad": lambda: gx.amsgrad(1e-2),
    "adabelief": lambda: gx.adabelief(1e-2),
    "adan": lambda: gx.adan(1e-2),
    "laprop": lambda: gx.laprop(1e-2),
    "ademamix": lambda: gx.ademamix(1e-2, warmup_steps=2),
    "adopt": lambda: gx.adopt(1e-2),
    "mars": lambda: gx.mars(1e-2),
    "stable_adamw": lambda: gx.stable_adamw(1e-2, weight_decay=0.1, mask=gx.matrices()),
    "adamh": lambda: gx.adamh(gx.linear_schedule(1e-2, 0.0, 9)),
    "schedule_free": lambda: gx.schedule_free_adamw(1e-2, warmup_steps=2),
    "adam_mini": lambda: gx.adam_mini(1e-2),
    "prodigy": lambda: gx.prodigy(estim_lr0=1e-3),
    "nadam": lambda: gx.chain(gx.scale_by_nadam(), gx.scale(-1e-2)),
    "adadelta": lambda: gx.adadelta(1e-2),
    "adagrad": lambda: gx.adagrad(1e-2),
    "rmsprop": lambda: gx.rmsprop(1e-2),
    "rmsprop_corrected": lambda: gx.rmsprop(1e-2, bias_correction=True),
    "rmsprop_centered": lambda: gx.rmsprop(1e-2, centered=True, momentum=0.9),
    "rmsprop_centered_corrected": lambda: gx.rmsprop(1e-2, centered=True, bias_correction=True),
    "rprop": lambda: gx.rprop(1e-2),
    "adafactor": lambda: gx.adafactor(1e-2, min_dim_size_to_factor=2),
    "muon": lambda: gx.muon(1e-2),
    "normuon": lambda: gx.normuon(1e-2),
    "soap": lambda: gx.chain(gx.scale_by_soap(), gx.scale_by_soap(kl=True), gx.scale(-0.01)),
    # Fewer bits, and more.
    "bits_16": lambda: _low(16),
    "bits_16_moment": lambda: gx.lowbit.quantized(gx.lion(1e-2), 16, min_size=16),
    "bits_8": lambda: _low(8),
    "bits_8_dynamic": lambda: _low(8, map="dynamic"),
    "bits_8_float8": lambda: _low(8, map="float8"),
    "bits_4": lambda: _low(4),
    "exact_master": lambda: gx.lowbit.exact_master(gx.adamw(1e-2)),
    # Wrappers.
    "accumulate": lambda: gx.accumulate(gx.adamw(1e-2), 2),
    "apply_when": lambda: gx.apply_when(gx.adamw(1e-2), gx.linear_schedule(1.0, 0.0, 9), "zero"),
    "average": lambda: gx.average_params(gx.adamw(1e-2), 0.9),
    "cautious": lambda: gx.cautious(gx.adamw(1e-2)),
    "guard": lambda: gx.guard(gx.sgd(1e-2, momentum=0.9), spike=6.0, window=4),
    "loss_scale": lambda: gx.loss_scale(gx.adamw(1e-2)),
    "masked": lambda: gx.masked(gx.adamw(1e-2), gx.matrices()),
    "named_chain": lambda: gx.named_chain(("clip", gx.clip(1.0)), ("adam", gx.adam(1e-2))),
    "param_groups": lambda: gx.param_groups({"w": gx.adamw(1e-2), "b": gx.sgd(1e-2, momentum=0.9)}),
    "probe": lambda: gx.probe(gx.adamw(1e-2)),
    "switch_at": lambda: gx.switch_at(2, gx.adamw(1e-2), gx.sgd(1e-2, momentum=0.9)),
    "tunable": lambda: gx.tunable(gx.adamw(1e-2), "learning_rate", "b1"),
    "bucketed": lambda: gx.fused.bucketed(gx.adamw(1e-2)),
    # Optax's own, which have no spec.
    "optax_chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "optax_multi_steps": lambda: optax.MultiSteps(gx.adamw(1e-2), 2).gradient_transformation(),
    "optax_inject": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "optax_schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(1e-2), 1e-2),
}


def shapes(name: str) -> dict[str, list[int]]:
    """The shapes of the parameters: codes come in blocks, and want longer rows; of bases there are many as it is."""
    return _WIDE if name.startswith("bits_") else _MATRIX if name == "soap" else _SMALL


def params_of(known: dict[str, list[int]], tx: Any, packed: bool) -> Any:
    """The parameters with which each run starts; buckets where the transform wants them."""
    made = {
        name: jnp.asarray(np.linspace(-1.0, 1.0, int(np.prod(s))), "float32").reshape(s)
        for name, s in known.items()
    }
    return gx.fused.pack(made, tx) if packed else made


def gradients(params: Any, step: int) -> Any:
    """The gradients of a step: of the size of 1, of both signs, none of them zero."""
    return jax.tree.map(lambda p: (jnp.cos(3 * p + step) * np.float32(0.5)).astype(p.dtype), params)


def stepped(tx: Any, state: Any, params: Any, step: int) -> tuple[Any, Any]:
    """Parameters and state after one more step, in one compiled program."""

    @jax.jit
    def run(state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradients(params, step), state, params)
        return gx.apply_updates(params, updates), state

    params, state = run(state, params)
    return params, state


def spec_of(name: str, tx: Any) -> dict[str, Any]:
    """What stands beside a file: the transform as JSON, null for those of Optax, and the shapes of the parameters."""
    try:
        text = json.loads(gx.to_json(tx))
    except (TypeError, ValueError):
        text = None
    return {"transform": text, "shapes": shapes(name), "packed": name == "bucketed"}


def numbers(params: Any) -> list[float]:
    """All parameters in a row, with the digits that float32 has."""
    return [
        float(f"{x:.9g}") for leaf in jax.tree.leaves(params) for x in np.ravel(np.asarray(leaf)).tolist()
    ]
