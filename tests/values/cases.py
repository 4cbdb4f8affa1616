"""Transforms, schedules and masks in every form an argument can take, each as a function that builds it anew."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from gradxform import build


def is_table(path: str, leaf: Any) -> bool:
    """A predicate that can be imported."""
    return path.endswith("table") and leaf.ndim == 2


def big_leaves(least: int, params: Any) -> Any:
    """A mask function that wants a `functools.partial` around it."""
    return jax.tree.map(lambda p: p.size >= least, params)


def halving(count: Any) -> Any:
    """A schedule without a spec."""
    return 0.5 ** jnp.asarray(count, jnp.float32)


@build.factory
def half_clip(limit: float = 1.0, **options: Any) -> Any:
    """A factory that is not gradxform's own; what it does with its options is its own business."""
    return gx.chain(gx.clip(limit), gx.scale(options.get("factor", 0.5)))


@build.factory
def all_of(first: Any = 2.0, *others: Any) -> Any:
    """An optional argument in front of any number of others."""
    return gx.chain(gx.scale(first), *others)


@build.schedule
def reciprocal(scale: float) -> Any:
    """A schedule of one's own."""
    return lambda count: jnp.asarray(scale, jnp.float32) / (1 + jnp.asarray(count, jnp.float32))


@build.mask
def larger_than(size: int) -> Any:
    """A mask of one's own."""
    return lambda path, leaf: leaf.size > size


@build.factory
def with_value(value: Any = None) -> Any:
    """Holds an argument and does nothing with it."""
    del value
    return gx.identity()


def _groups() -> Any:
    groups = {
        "embed/*": None,
        ("*/bias", "*/scale"): gx.sgd(0.1, momentum=0.9),
        re.compile(r"layer_\d+", re.IGNORECASE): gx.adamw(3e-4, mask=gx.matrices()),
        is_table: gx.lion(1e-4),
        "*": gx.chain(gx.scale_by_adam(), gx.warmup_cosine(3e-4, 10, 100)),
    }
    return gx.param_groups(groups, unused="ignore")


def _standard() -> Any:
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b2=0.95),
        gx.add_decayed_weights(
            0.1, mask=gx.matrices(stacked="layers/*", exclude=("embed*", re.compile("norm")))
        ),
        gx.warmup_cosine(3e-4, 1000, 20000),
    )


#: What has a value: it prints as code, compares, pickles.
VALUES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: gx.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: gx.adam(1e-3, b1=0.8, eps=1e-6, eps_root=1e-12, nesterov=True),
    "adamw": lambda: gx.adamw(3e-4, weight_decay=0.1, mask=gx.matrices(exclude="embed*")),
    "adamw dtypes": lambda: gx.adamw(1, mu_dtype=jnp.bfloat16, nu_dtype="float32"),
    "nadamw": lambda: gx.nadamw(1e-3, mask={"w": True, "b": False}),
    "lion": lambda: gx.lion(1e-4, mask=("*/kernel", re.compile("w$"))),
    "standard": _standard,
    "chain ()": lambda: gx.chain(),
    "chains in chains": lambda: gx.chain(gx.chain(gx.scale(2), gx.chain(gx.clip(1.0))), gx.chain()),
    "named_chain": lambda: gx.named_chain(("clip", gx.clip(1.0)), ("go", gx.sgd(0.1))),
    "masked by tree": lambda: gx.masked(gx.scale(2.0), {"a": True, "b": {"c": [False, True]}}),
    "masked by none": lambda: gx.masked(gx.scale(2.0), {"a": True, "b": None}),
    "masked by function": lambda: gx.masked(gx.scale(2.0), partial(big_leaves, 3)),
    "masked by predicate": lambda: gx.masked(gx.scale(2.0), is_table),
    "masked by mask": lambda: gx.masked(gx.trace(0.9), larger_than(3), mask_compatible_extra_args=True),
    "freeze": lambda: gx.freeze(re.compile(r"^embed\b", re.MULTILINE | re.DOTALL)),
    "per_layer": lambda: gx.per_layer(gx.clip_by_block_rms(1.0), stacked=("layers/*", "experts/*")),
    "groups": _groups,
    "minus zero": lambda: gx.scale(-0.0),
    "infinity": lambda: with_value(math.inf),
    "minus infinity": lambda: with_value(-math.inf),
    "nan": lambda: with_value(math.nan),
    "numpy scalar": lambda: gx.scale(np.float64(0.1)),
    "numpy array": lambda: gx.scale(np.asarray(0.1, np.float32)),
    "numpy nan array": lambda: with_value(np.asarray([math.nan, -0.0, math.inf, -math.inf], np.float32)),
    "empty array": lambda: with_value(np.zeros((0, 3), np.int32)),
    "bool array": lambda: gx.masked(gx.scale(2.0), {"a": np.asarray(True)}),
    "jax array": lambda: gx.scale(jnp.float32(0.2)),
    "bfloat16 array": lambda: with_value(jnp.asarray([0.5, math.nan], jnp.bfloat16)),
    "complex array": lambda: with_value(
        np.asarray([[complex(-0.0, 1), complex(math.nan, math.inf)]], np.complex64)
    ),
    "a transform's function": lambda: with_value([gx.sgd(0.1).update, gx.sgd(0.1).init, gx.sgd(0.1)]),
    "key": lambda: with_value(jax.random.key(3)),
    "containers": lambda: with_value([(1,), {"a": {2, 1}, 3: frozenset("b")}, b"\0", ..., 2 + 1j, 10**20]),
    "dtypes inside": lambda: with_value({"a": jnp.float16, "b": np.dtype("int8"), "c": np.float64}),
    "quotes": lambda: gx.freeze("a'b\"c\\d\n"),
    "other's factory": lambda: half_clip(2.0, factor=0.25),
    "other's defaults": lambda: half_clip(),
    "positional after a default": lambda: all_of(2.0, gx.clip(1.0), gx.sgd(0.1)),
    "other's schedule": lambda: gx.sgd(reciprocal(0.1)),
    "function as schedule": lambda: gx.sgd(halving),
    "by hand": lambda: gx.GradientTransformation(hand_init, hand_update),
    "schedules everywhere": lambda: gx.adamw(
        gx.warmup_cosine(3e-4, 0.05, 1000, end_value=1e-5),
        b1=gx.linear_schedule(0.9, 0.95, 10),
        weight_decay=gx.constant_schedule(0.1),
    ),
    "join": lambda: gx.join_schedules([gx.linear_schedule(0.0, 1.0, 5), gx.constant_schedule(1.0)], [5]),
    "piecewise": lambda: gx.piecewise_constant_schedule(1.0, {10: 0.1, 20: 0.5}),
    "cosine": lambda: gx.cosine_decay_schedule(1.0, 100, alpha=0.1),
    "exponential": lambda: gx.exponential_decay(1.0, 10, 0.5, staircase=True),
    "wsd": lambda: gx.wsd(3e-4, 100, 1000),
    "restarts": lambda: gx.cosine_restarts(1.0, 10, multiplier=2.0),
    "inverse_sqrt": lambda: gx.inverse_sqrt(1.0, 10),
    "matrices": lambda: gx.matrices(stacked=re.compile(r"layers/\d+"), exclude=["embed*", "head"]),
    "other's mask": lambda: larger_than(3),
}


def hand_init(params: Any) -> Any:
    """Half of a transform by hand."""
    del params
    return ()


def hand_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    """The other half."""
    del params, extra
    return updates, state


#: Pairs that Python or NumPy call equal and a spec must not, or that differ in one small thing.
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "1 and True": (1, True),
    "1 and 1.0": (1, 1.0),
    "True and 1.0": (True, 1.0),
    "0.0 and -0.0": (0.0, -0.0),
    "float and numpy": (0.5, np.float64(0.5)),
    "widths": (np.float32(0.5), np.float64(0.5)),
    "array zeros": (np.zeros(1), -np.zeros(1)),
    "shapes": (np.zeros((2, 3)), np.zeros((3, 2))),
    "list and tuple": ([1], (1,)),
    "set and frozenset": ({1}, frozenset({1})),
    "text and bytes": ("a", b"a"),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "keys of a dict": ({1: "a"}, {True: "a"}),
    "inside": ([{"a": (1, 0.0)}], [{"a": (1, -0.0)}]),
    "flags": (re.compile("a"), re.compile("a", re.IGNORECASE)),
    "pattern and text": (re.compile("a"), "a"),
    "dtype and text": (np.dtype("float32"), "float32"),
    "dtypes": (jnp.float16, jnp.bfloat16),
    "keys": (jax.random.key(0), jax.random.key(1)),
    "key and its data": (jax.random.key(0), jax.random.key_data(jax.random.key(0))),
    "None and False": (None, False),
    "partials": (partial(big_leaves, 3), partial(big_leaves, 4)),
    "transforms": (gx.scale(1), gx.scale(1.0)),
    "nan and inf": (math.nan, math.inf),
    "complex zeros": (0j, complex(-0.0, 0.0)),
}
