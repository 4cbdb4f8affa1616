"""Every factory of Optax, as the laws are tried on it; and which of its known defects which law finds."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradxform import testing
from tests.interop import test_foreign


def _true(tree: Any) -> Any:
    return jax.tree.map(lambda _: True, tree)


def _labels(tree: Any) -> Any:
    return jax.tree.map(lambda _: 0, tree)


#: Where the arguments of the tests of interoperability name leaves, others are taken: the laws bring their own trees.
CALLS: dict[str, Callable[[], Any]] = {
    "add_decayed_weights": lambda: optax.add_decayed_weights(0.1),
    "freeze": lambda: optax.freeze(_true),
    "masked": lambda: optax.masked(optax.adam(0.1), _true),
    "multi_transform": lambda: optax.multi_transform({0: optax.adam(0.1)}, _labels),
    "partition": lambda: optax.partition({0: optax.adam(0.1)}, _labels),
    "selective_transform": lambda: optax.selective_transform(optax.adam(0.1), freeze_mask=_true),
    # Arguments in which defects are known.
    "adafactor(decay_offset=3)": lambda: optax.adafactor(0.1, decay_offset=3),
    "clip_by_global_norm(0.0)": lambda: optax.clip_by_global_norm(0.0),
    "clip_by_global_norm(float32)": lambda: optax.clip_by_global_norm(np.float32(1.0)),
    "ema(0.999)": lambda: optax.ema(0.999, debias=False),
    "inject_hyperparams(adafactor)": lambda: optax.inject_hyperparams(optax.adafactor)(0.1),
    "lion(mu_dtype)": lambda: optax.lion(0.1, mu_dtype=jnp.float32),
    "monitor": lambda: optax.monitor({"norm": optax.tree.norm}),
    "MultiSteps(polyak_sgd)": lambda: optax.chain(
        optax.MultiSteps(optax.polyak_sgd(), 2).gradient_transformation()
    ),
    "sgd(float32 array)": lambda: optax.sgd(jnp.float32(0.1)),
    "add_decayed_weights(float32 array)": lambda: optax.add_decayed_weights(jnp.float32(0.1)),
}
LEFT_OUT = {
    **test_foreign.LEFT_OUT,
    "scale_by_lbfgs": "compiles for minutes; lbfgs has it in it",
    "scale_by_zoom_linesearch": "compiles for minutes; lbfgs has it in it",
    "contrib.mechanize": "compiles for minutes",
    "contrib.schedule_free": "compiles for minutes; its recipes are here",
    "contrib.sophia": "compiles for minutes",
}


def names() -> list[str]:
    """Every factory that the laws are tried on."""
    return sorted(
        {*test_foreign.factories(), *CALLS} - set(LEFT_OUT), key=lambda n: (n.startswith("contrib"), n)
    )


def make(name: str) -> Any:
    """A transform of Optax's, made under the promotion that it expects."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return CALLS[name]() if name in CALLS else test_foreign.make(name)


def check(name: str, laws: Any = None, examples: int = 4) -> testing.Report:
    """The laws on one factory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return testing.check_transform(make(name), laws=laws, seed=0, examples=examples, raises=False)


class Defect(NamedTuple):
    """A defect of Optax 0.2.8: what it is, where it shows and the law that finds it."""

    about: str
    factory: str
    law: str


DEFECTS: dict[str, Defect] = {
    "A3": Defect("a bfloat16 second moment cannot decay", "scale_by_adam", "sixteen_tracks"),
    "A4": Defect("an average of 0.999 stalls in bfloat16", "ema(0.999)", "sixteen_tracks"),
    "A7": Defect("bias correction subtracts in float32", "adam", "double"),
    "A8": Defect("a norm over many bfloat16 leaves stops growing", "contrib.muon", "sixteen_agrees"),
    "A9": Defect(
        "a float16 norm overflows, and clipping gives zero", "clip_by_global_norm", "sixteen_agrees"
    ),
    "A11": Defect("float16 and a gradient of zero is NaN", "adamw", "zeros_finite"),
    "A12": Defect("Prodigy: a first gradient of zero is NaN for good", "contrib.prodigy", "zeros_finite"),
    "A13": Defect("Adafactor with an offset of steps is NaN", "adafactor(decay_offset=3)", "zeros_finite"),
    "A14": Defect("Rprop returns the update of the step before", "rprop", "acts_at_once"),
    "A15": Defect(
        "Adadelta: a complex average of squares is negative", "scale_by_adadelta", "complex_leaves"
    ),
    "A16": Defect("Yogi moves on a gradient of zero", "yogi", "zeros_still"),
    "A17": Defect("a gradient of another shape is broadcast", "adamw", "shapes_refused"),
    "A19": Defect("a scalar's update has shape (1,)", "scale_by_distance_over_gradients", "scalar_leaves"),
    "A20": Defect("flatten changes the dtypes of a mixed tree", "flatten", "update_form"),
    "A21": Defect("a rate that is an array changes the update's dtype", "sgd(float32 array)", "update_form"),
    "A25": Defect("state and parameters swapped, it runs", "sgd", "swapped_refused"),
    "B9": Defect("a limit of zero and a gradient of zero is NaN", "clip_by_global_norm(0.0)", "zeros_finite"),
    "C2": Defect("bfloat16 parameters with float32 gradients change the state's dtype", "adam", "state_form"),
    "C3": Defect("apply_if_finite fails under mixed precision", "apply_if_finite", "state_form"),
    "C4": Defect("monitor changes the structure of its state", "monitor", "loops"),
    "C5": Defect(
        "a limit that is float32 refuses a bfloat16 leaf", "clip_by_global_norm(float32)", "update_form"
    ),
    "C6": Defect("two memories of L-BFGS are one buffer", "lbfgs", "init_copies"),
    "C7": Defect("a fresh state holds the caller's parameters", "contrib.madgrad", "init_copies"),
    "C8": Defect("SM3 fails on a scalar", "sm3", "scalar_leaves"),
    "C9": Defect("Muon fails on an empty leaf", "contrib.muon", "empty_leaves"),
    "C10": Defect(
        "Adafactor with injected numbers has no init under jit",
        "inject_hyperparams(adafactor)",
        "init_jit",
    ),
    "C12": Defect("MultiSteps in a chain loses extra arguments", "MultiSteps(polyak_sgd)", "takes_a_step"),
    "C13": Defect("sam takes no other keyword than its own", "contrib.sam", "unknown_extra"),
    "C16": Defect("tree_map_params fails on flatten", "flatten", "labels"),
    "C18": Defect("transforms cannot be pickled", "adam", "is_value"),
    "D1": Defect("tree_map_params takes scalars for parameters", "novograd", "labels"),
    "D7": Defect("a compiled init loses the sharding", "adam", "sharded_jit_init"),
    "D10": Defect("a weakly typed parameter compiles twice", "adamw", "weak_trace"),
    "D11": Defect("L-BFGS with its line search compiles twice", "lbfgs", "one_trace"),
}
