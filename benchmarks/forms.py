"""Other ways to run the same optimizers: without a jit, with states in few bits, and Muon's matrix products."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import optax

import gradxform as gx
from benchmarks.cases import Case, Options
from benchmarks.entrants import Compiled, Eager, LeftOut, Make, compiled, native
from benchmarks.lowbit import STORES
from benchmarks.methods import ours, theirs
from benchmarks.shapes import Shapes, alike, transformer
from benchmarks.trees import tree

EAGER: dict[str, Shapes] = {
    "148 leaves, 0.7 M": transformer(64, 12, 512),
    "148 leaves, 41 M": transformer(384, 12, 50_257),
}
LOWBIT: dict[str, Shapes] = {
    "one leaf of 33.6 M": alike(1, 4_096, 8_192),
    "100 leaves, 28 M": transformer(512, 8, 4_000),
}
MUON: dict[str, Shapes] = {"two layers of GPT-2 small": transformer(768, 2, 768, 768)}


ALONE: dict[str, tuple[float, ...]] = {"scale_by_adam": (), "clip_by_global_norm": (1.0,), "trace": (0.9,)}


def made_of(how: Any, make_tx: Callable[[], Any], shapes: Shapes, grads: Any) -> Any:
    return how(make_tx(), tree(shapes, 1), grads)


def eager(options: Options) -> Iterator[Case]:
    """`update` and `apply_updates` called as they are, in a loop of Python, after the calls that compile."""
    for tree_name, shapes in options.among(EAGER, {"3 leaves of 64": alike(3, 8, 8)}):
        yield whole(tree_name, shapes)
    for method, arguments in ALONE.items():
        yield alone(method, arguments, "4 leaves of 64", alike(4, 8, 8))


def whole(tree_name: str, shapes: Shapes) -> Case:
    """Clipped AdamW, also beside what one jit makes of it."""
    grads = tree(shapes, 0)
    made: dict[str, Make] = {
        f"{library}, {how.__name__.lower()}": partial(made_of, how, partial(make, "adamw"), shapes, grads)
        for library, make in (("gradxform", ours), ("Optax", theirs))
        for how in (Eager, Compiled)
    }
    pairs = [
        ("gradxform, eager", "Optax, eager"),
        ("gradxform, eager", "gradxform, compiled"),
        ("gradxform, eager", "Optax, compiled"),
        ("Optax, eager", "Optax, compiled"),
    ]
    return Case("eager", tree_name, "adamw", shapes, made, pairs, moved=None, same=False)


def alone(method: str, arguments: tuple[float, ...], tree_name: str, shapes: Shapes) -> Case:
    """One transform on a small tree, as a unit test or a notebook calls it."""
    grads = tree(shapes, 0)
    made: dict[str, Make] = {
        library: partial(made_of, Eager, partial(getattr(space, method), *arguments), shapes, grads)
        for library, space in (("gradxform", gx), ("Optax", optax))
    }
    pairs = [("gradxform", "Optax")]
    return Case("eager", tree_name, method, shapes, made, pairs, moved=None, same=False)


def few_bits(options: Options) -> Iterator[Case]:
    """AdamW behind a clip whose moments are stored in fewer bits."""
    for tree_name, shapes in options.among(LOWBIT, {"one leaf of 64 k": alike(1, 256, 256)}):
        grads, wide = tree(shapes, 0), partial(ours, "adamw")
        makers: dict[str, Callable[[], Any]] = {
            "float32": wide,
            **{name: lambda store=store: store(ours("adamw")) for name, store in STORES.items()},
            "Optax, float32": partial(theirs, "adamw"),
        }
        made = {name: compiled(make, shapes, grads) for name, make in makers.items()}
        pairs = [(name, "float32") for name in made if name != "float32"]
        yield Case("few bits", tree_name, "adamw", shapes, made | native(shapes), pairs, same=False)


def our_muon() -> Any:
    if not hasattr(gx, "muon"):
        raise LeftOut("this gradxform has no muon")
    return gx.muon(1e-3)


def muon(options: Options) -> Iterator[Case]:
    """Matrix products instead of memory: Newton-Schulz of every matrix, AdamW for the rest."""
    for tree_name, shapes in options.among(MUON, {"2 leaves of 256": alike(2, 16, 16)}):
        grads = tree(shapes, 0)
        made = {
            "gradxform": compiled(our_muon, shapes, grads),
            "Optax": compiled(lambda: optax.contrib.muon(1e-3), shapes, grads),
        }
        yield Case("muon", tree_name, "muon", shapes, made, [("gradxform", "Optax")], moved=None, same=False)
