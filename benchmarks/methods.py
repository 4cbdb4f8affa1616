"""Nine recipes that both libraries have, each behind a clip of the global norm and with a schedule, on four trees."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import optax

import gradxform as gx
from benchmarks.cases import Case, Options
from benchmarks.entrants import LeftOut, Make, Process, bucketed, compiled, native, torch
from benchmarks.shapes import QUICK, TREES, Shapes
from benchmarks.torch_steps import METHODS as TORCH
from benchmarks.trees import size, tree

OURS, THEIRS, FLAT, FUSED = "gradxform", "Optax", "gradxform, bucketed", "torch, fused"
MANY = 2_000  # leaves, from which on a whole tree in one program may not come to an end of its compilation


def mask(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


#: Arguments that both libraries have, with the same meaning.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", {"weight_decay": 0.1}),
    "adam": ("adam", {}),
    "nadamw": ("nadamw", {"weight_decay": 0.1}),
    "sgd, momentum": ("sgd", {"momentum": 0.9}),
    "sgd, nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ("rmsprop", {}),
    "lion": ("lion", {"weight_decay": 0.1}),
    "lamb": ("lamb", {"weight_decay": 0.1}),
    "adafactor": ("adafactor", {}),
}
RATE = (0.0, 1e-3, 100, 10_000)


def ours(method: str) -> Any:
    recipe, arguments = METHODS[method]
    decay = {"mask": gx.matrices()} if "weight_decay" in arguments else {}
    schedule = gx.warmup_cosine_decay_schedule(*RATE)
    return gx.chain(gx.clip_by_global_norm(1.0), getattr(gx, recipe)(schedule, **arguments, **decay))


def theirs(method: str) -> Any:
    recipe, arguments = METHODS[method]
    decay = {"mask": mask} if "weight_decay" in arguments else {}
    schedule = optax.warmup_cosine_decay_schedule(*RATE)
    return optax.chain(optax.clip_by_global_norm(1.0), getattr(optax, recipe)(schedule, **arguments, **decay))


LIBRARIES: dict[str, Callable[[str], Any]] = {OURS: ours, THEIRS: theirs}


def apart(library: str, method: str, tree_name: str, limit: float) -> Make:
    """In a process of its own, which may take so long until it is ready."""
    command = [sys.executable, "-m", "benchmarks.child", library, method, tree_name]
    return lambda: Process(command, limit)


def not_tried() -> Any:
    raise LeftOut("not tried: with so many leaves adamw shows it")


def torch_kinds(method: str, shapes: Shapes) -> tuple[str, ...]:
    """Both ways of AdamW; of others what torch has a fused kernel for, where that is what counts."""
    if method == "adamw":
        return ("fused", "foreach")
    return ("fused",) if method in TORCH and size(shapes) > 20_000_000 else ()


def entrants(method: str, tree_name: str, shapes: Shapes, grads: Any, options: Options) -> dict[str, Make]:
    made: dict[str, Make] = {}
    for library, make in LIBRARIES.items():
        if len(shapes) < MANY:
            made[library] = compiled(partial(make, method), shapes, grads)
        else:
            made[library] = (
                apart(library, method, tree_name, options.limit) if method == "adamw" else not_tried
            )
    if 1 < len(shapes) < 1000 and method != "adamw":
        pass  # what buckets win on a tree of large leaves is told once
    elif len(shapes) > 1:
        made[FLAT] = bucketed(partial(ours, method), shapes)
    for kind in torch_kinds(method, shapes):
        made[f"torch, {kind}"] = partial(torch, options.torch_python, method, tree_name, kind, 120.0)
    return made | native(shapes, ("adamw", "copy", "triad") if method == "adamw" else ("adamw",))


def cases(options: Options) -> Iterator[Case]:
    """Tree by tree."""
    for tree_name, shapes in options.among(TREES, QUICK):
        grads = tree(shapes, 0)
        for method in METHODS:
            made = entrants(method, tree_name, shapes, grads, options)
            pairs = [(name, THEIRS) for name in made if name != THEIRS]
            pairs += [(OURS, FUSED), (FLAT, FUSED)]
            yield Case("methods", tree_name, method, shapes, made, pairs)
