"""The answer to a wrong argument: what other libraries call it, and what it is called here.

torch, Keras and Optax share the ideas and not the words. A call with a foreign word is answered with ours, or with the
place where that idea lives, and always with the signature of what was called.
"""

import difflib
import inspect
from typing import Any

from .errors import looks_like_params, say, signature_text

#: Foreign names of arguments, and ours: those of them that the factory has are offered.
NAMES: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate", "peak_value"),
    "init_lr": ("init_value",),
    "max_lr": ("peak_value",),
    "peak_lr": ("peak_value",),
    "step_size": ("learning_rate",),
    "betas": ("b1", "b2"),
    "beta": ("momentum", "decay", "b1"),
    "beta1": ("b1",),
    "beta2": ("b2",),
    "beta_1": ("b1",),
    "beta_2": ("b2",),
    "momentum": ("b1", "decay"),
    "mom": ("momentum", "decay"),
    "epsilon": ("eps",),
    "wd": ("weight_decay",),
    "alpha": ("decay",),
    "centred": ("centered",),
    "etas": ("eta_minus", "eta_plus"),
    "initial_accumulator_value": ("initial_scale",),
    "preset": ("like",),
    "rho": ("decay",),
    "step_sizes": ("min_step_size", "max_step_size"),
    "decay_rate": ("weight_decay", "decay"),
    "decay_mask": ("mask",),
    "weight_decay_mask": ("mask",),
    "momentum_dtype": ("accumulator_dtype", "mu_dtype"),
    "dtype": ("mu_dtype", "accumulator_dtype"),
    "T_max": ("total_steps", "decay_steps"),
    "decay_steps": ("total_steps", "transition_steps"),
    "num_steps": ("total_steps", "transition_steps", "decay_steps"),
    "num_training_steps": ("total_steps",),
    "num_warmup_steps": ("warmup_steps",),
    "total": ("total_steps",),
    "warmup": ("warmup_steps",),
}

#: Those that are a pair there and two arguments here.
_PAIRS = ("betas", "etas", "step_sizes")

_CLIP = "to clip, put gx.clip_by_global_norm(...) in front in a gx.chain"
_COMPILED = "leave it out: jax.jit compiles the update"

#: Foreign arguments whose idea lives elsewhere.
PLACES: dict[str, str] = {
    "amsgrad": "that is another method, gx.amsgrad; its like='torch' is torch's",
    "capturable": _COMPILED,
    "clip": _CLIP,
    "clipnorm": _CLIP,
    "clipvalue": "to clip, put gx.clip(...) in front in a gx.chain",
    "dampening": "gx.sgd and gx.trace have it; gx.ema averages gradients",
    "decay": "a rate that falls is a schedule, such as gx.warmup_cosine(...)",
    "foreach": _COMPILED,
    "fused": _COMPILED,
    "global_clipnorm": _CLIP,
    "grad_clip": _CLIP,
    "gradient_accumulation_steps": "wrap the transform: optax.MultiSteps(tx, every_k_schedule=...)",
    "jit_compile": _COMPILED,
    "max_grad_norm": _CLIP,
    "maximize": "to climb, end a chain with gx.scale_by_learning_rate(rate, flip_sign=False)",
    "params": "a transform is built without parameters: pass them to tx.init and tx.update",
    "weight_decay": "gx.adamw decays weights; elsewhere put gx.add_decayed_weights(...) into a gx.chain",
}


def unknown_argument(text: str, signature: inspect.Signature, name: str, first: Any = None) -> str:
    """The message for an argument that `text`, a factory, does not have; `first` is its first positional argument."""
    names = list(signature.parameters)
    ours = [known for known in NAMES.get(name, ()) if known in names]
    near = difflib.get_close_matches(name, names, n=1)
    if ours:
        hint = f"here it is called {(' and ' if name in _PAIRS else ' or ').join(ours)}"
    elif name in PLACES:
        hint = PLACES[name]
    else:
        hint = f"did you mean {near[0]}?" if near else ""
    more = ""
    if names[:1] == ["learning_rate"] and first is not None and looks_like_params(first):
        more = f"its first argument is the learning rate; {looks_like_params(first)}"
    return say(
        f"{text}() has no argument {name!r}", hint, more, f"its signature is {signature_text(signature)}"
    )
