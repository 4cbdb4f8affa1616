"""What the laws are tried on: the catalogue's examples, richer ones where an example shows little, and known gaps."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

import gradxform as gx
from gradxform._catalog import entries

FALL = gx.linear_schedule(0.9, 0.1, 10)
ENTRIES = {entry.name: entry for entry in entries() if entry.kind not in ("schedule", "mask", "projection")}


#: In the place of the catalogue's example.
RICHER: dict[str, Callable[[], Any]] = {
    "scale_by_schedule": lambda: gx.scale_by_schedule(FALL),
    "apply_when": lambda: gx.apply_when(gx.adamw(0.1), FALL),
    "chain": lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(FALL, b2=0.95, weight_decay=0.1)),
    "named_chain": lambda: gx.named_chain(("clip", gx.clip(1.0)), ("go", gx.sgd(0.1, 0.9))),
    "param_groups": lambda: gx.param_groups({"w": gx.adamw(1e-3), "*": gx.sgd(0.1, 0.9)}, unused="ignore"),
    "masked": lambda: gx.masked(gx.trace(0.9), gx.matrices()),
    "freeze": lambda: gx.freeze("b"),
    "per_layer": lambda: gx.per_layer(gx.clip_by_block_rms(0.5), "w"),
    "add_decayed_weights": lambda: gx.add_decayed_weights(0.1),
    "ema": lambda: gx.ema(0.999),
    "clip": lambda: gx.clip(0.5),
    "clip_by_block_rms": lambda: gx.clip_by_block_rms(0.5),
    "adaptive_grad_clip": lambda: gx.adaptive_grad_clip(0.05),
    "sgd": lambda: gx.sgd(0.1, 0.9, nesterov=True),
    "adafactor": lambda: gx.adafactor(0.1, min_dim_size_to_factor=2),
    "scale_by_factored_rms": lambda: gx.scale_by_factored_rms(min_dim_size_to_factor=2),
    # Behind a direction that is not the weight itself: along that nothing is left but rounding.
    "hyperball": lambda: gx.chain(gx.scale_by_adam(), gx.hyperball(0.01)),
    "muon": lambda: gx.muon(0.1, weight_decay=0.1, adam_weight_decay=0.1),
    "scale_by_muon": lambda: gx.masked(gx.scale_by_muon(), gx.matrices()),
    "normalize_neurons": lambda: gx.masked(gx.normalize_neurons(), gx.matrices()),
    "scale_by_shape": lambda: gx.masked(gx.scale_by_shape(), gx.matrices()),
    "guard": lambda: gx.guard(gx.adamw(0.1), spike=6.0, window=8),
    "accumulate": lambda: gx.accumulate(gx.adamw(0.1), 2),
    "tunable": lambda: gx.tunable(gx.adamw(0.1), "learning_rate", "b2"),
    "average_params": lambda: gx.average_params(gx.adamw(0.1), 0.9),
    "cautious": lambda: gx.cautious(gx.adamw(0.1)),
    "schedule_free": lambda: gx.schedule_free(gx.adamw(0.1, b1=0.0), 0.1, b1=FALL),
    "project": lambda: gx.project(gx.adamw(0.1), "*", gx.max_norm(10.0)),
    "loss_scale": lambda: gx.loss_scale(gx.adamw(0.1), 2.0, growth_interval=2),
    "switch_at": lambda: gx.switch_at(2, gx.adamw(0.1), gx.sgd(0.1, 0.9)),
    "probe": lambda: gx.probe(gx.adamw(0.1)),
    "by hand": lambda: gx.GradientTransformation(*gx.trace(0.9)),
}
#: Transforms that name leaves are tried on this tree only.
PARAMS = {name: {"w": jnp.ones((2, 3)), "b": jnp.ones((3,))} for name in ("freeze", "per_layer")}

NAMES = [*ENTRIES, "by hand"]

#: Other arguments, for the long run: schedules, dtypes of storage; and every preset.
VARIANTS: dict[str, Callable[[], Any]] = {
    "adam, schedules": lambda: gx.scale_by_adam(FALL, FALL, 1e-8, 0.0),
    "adam, stored": lambda: gx.scale_by_adam(mu_dtype=jnp.float32, nu_dtype=jnp.float32, nesterov=True),
    "adamw, masked": lambda: gx.adamw(FALL, weight_decay=FALL, mask=gx.matrices()),
    "lion, refined": lambda: gx.scale_by_lion(0.9, 0.99, mode="refined"),
    "lion, smooth": lambda: gx.scale_by_lion(mode="smooth"),
    "rmsprop, centred": lambda: gx.rmsprop(0.1, centered=True, momentum=0.9, nesterov=True),
    "sgd, dampened": lambda: gx.sgd(FALL, 0.9, dampening=0.5),
    "soap, KL": lambda: gx.soap(0.1, kl=True, precondition_frequency=2),
    **{
        f"{name}, {preset}": lambda entry=entry, preset=preset: entry.presets()[preset]
        for name, entry in ENTRIES.items()
        for preset in entry.factory.presets
        if entry.presets()[preset] != entry.example  # many frameworks agree
    },
}

_SOAP = ("soap", "scale_by_soap", "soap, KL")

#: Laws that a transform breaks, and why; "*" stands for whatever has a state like its parameters.
GAPS: dict[str, dict[str, str]] = {
    "sharded_jit_init": {"*": "zeros made under jit do not know of automatic axes; on explicit ones they do"},
    "sharded_update": {"set_to_zero": "its zeros depend on nothing; on explicit axes they do"},
    "file": {"named_chain": "Optax's layout: an ordered dictionary, which Flax brings back as a plain one"},
    "sixteen_tracks": {
        **dict.fromkeys(
            ("muon", "scale_by_muon", "normuon"),
            "small singular values are made large, and with them what bfloat16 rounds off the momentum",
        ),
        "adafactor, torch": "its floor is the parameter dtype's machine epsilon, in bfloat16 as large as a gradient",
    },
    "labels": {
        **dict.fromkeys(
            ("scale_by_factored_rms", "adafactor", *(n for n in VARIANTS if n.startswith("adafactor"))),
            "Optax's layout: an array of one number where nothing is factored",
        ),
        **dict.fromkeys(
            ("normalize_neurons", "normuon"),
            "a number for each neuron is a parameter's, and not of its shape",
        ),
        **dict.fromkeys(_SOAP, "in the parameter's place stands what belongs to one of its sides"),
        **dict.fromkeys(
            ("scale_by_adam_mini", "adam_mini"),
            "one number a block is what the method is: nu has a parameter's rank, and length 1 where nothing is kept",
        ),
    },
}


def make(name: str) -> Any:
    """A transform by its name in `NAMES` or `VARIANTS`."""
    known = RICHER.get(name) or VARIANTS.get(name)
    return ENTRIES[name].example if known is None else known()
