"""What wrappers cost a step, beside Optax's and beside no wrapper; and a whole window of accumulated gradients."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradxform as gx
from benchmarks.cases import Case, Options
from benchmarks.entrants import Compiled, LeftOut, Make, bytes_of, step_of
from benchmarks.program import build
from benchmarks.shapes import Shapes, alike, transformer
from benchmarks.trees import tree

WINDOW = 4
EVERY = 8
TREES: dict[str, Shapes] = {"76 leaves, 30 M": transformer(512, 6, 21_000)}
QUICK: dict[str, Shapes] = {"2 leaves of 256": alike(2, 16, 16)}


def ours(clipped: bool, rate: Any = 1e-3) -> Any:
    adamw = gx.adamw(rate, weight_decay=0.1)
    return gx.chain(gx.clip_by_global_norm(1.0), adamw) if clipped else adamw


def theirs(clipped: bool, learning_rate: Any = 1e-3) -> Any:
    adamw = optax.adamw(learning_rate, weight_decay=0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw) if clipped else adamw


Makers = Mapping[str, Callable[[bool], Any]]
PLAIN: Makers = {"gradxform": ours, "Optax": theirs}
GUARDS: Makers = {
    "guard": lambda c: gx.guard(ours(c)),
    "guard, no look at updates": lambda c: gx.guard(ours(c), check_updates=False),
    "guard, Optax inside": lambda c: gx.guard(theirs(c)),
    "apply_if_finite": lambda c: optax.apply_if_finite(theirs(c), 100),
}
OTHERS: Makers = {
    "tunable": lambda c: gx.tunable(ours(c), "learning_rate"),
    "inject_hyperparams": lambda c: optax.inject_hyperparams(partial(theirs, c))(learning_rate=1e-3),
    "loss_scale": lambda c: gx.loss_scale(ours(c)),
    "probe": lambda c: gx.probe(ours(c)),
    "probe, links=False": lambda c: gx.probe(ours(c), links=False),
    "probe, every=8": lambda c: gx.probe(ours(c), every=EVERY),
}
WINDOWS: Makers = {
    "accumulate": lambda c: gx.accumulate(ours(c), WINDOW),
    "accumulate, Optax inside": lambda c: gx.accumulate(theirs(c), WINDOW),
    "MultiSteps": lambda c: optax.MultiSteps(theirs(c), WINDOW).gradient_transformation(),
}
STATIC = "accumulate, micro_step="
PAIRS: dict[str, Sequence[tuple[str, str]]] = {
    "guard": (
        ("guard", "gradxform"),
        ("guard, no look at updates", "gradxform"),
        ("apply_if_finite", "Optax"),
        ("guard", "apply_if_finite"),
        ("guard, no look at updates", "apply_if_finite"),
        ("guard, Optax inside", "apply_if_finite"),
    ),
    "others": (
        ("tunable", "gradxform"),
        ("inject_hyperparams", "Optax"),
        ("tunable", "inject_hyperparams"),
        ("loss_scale", "gradxform"),
        ("probe", "gradxform"),
        ("probe, links=False", "gradxform"),
        ("probe, every=8", "gradxform"),
    ),
    "accumulate": (
        ("accumulate", "gradxform"),
        (STATIC, "gradxform"),
        ("accumulate, Optax inside", "Optax"),
        ("MultiSteps", "Optax"),
        ("accumulate", "MultiSteps"),
        (STATIC, "MultiSteps"),
        ("accumulate, Optax inside", "MultiSteps"),
    ),
}


class Phases:
    """A window whose micro-steps are static: a program for each of them, the first one handed its gradients."""

    def __init__(self, tx: Any, params: Any, grads: Any) -> None:
        state, self.grads = tx.init(params), grads
        step = step_of(tx)
        with warnings.catch_warnings():  # that a donated gradient is of no use, where it is not kept
            warnings.filterwarnings("ignore", "Some donated buffers")
            built = [
                build(
                    partial(step, micro_step=i),
                    (params, state, grads),
                    donate=(0, 1, 2) if i == 0 else (0, 1),
                )
                for i in range(WINDOW)
            ]
        self.programs, figures = zip(*built, strict=True)
        if figures[0].kernels > 0.8 * figures[-1].kernels:
            raise LeftOut("this gradxform does not make a static micro-step a program of its own")
        numbers = sum(x.size for x in jax.tree.leaves(params))
        summed = {name: sum(getattr(f, name) for f in figures) for name in figures[0]._fields}
        self.facts: dict[str, Any] = {
            **summed,
            "temporary_bytes": max(f.temporary_bytes for f in figures),
            "numbers": numbers,
            "state_bytes_a_number": bytes_of(state) / numbers,
        }
        self.carried = jax.block_until_ready((params, state))

    def turn(self) -> float:
        fresh = jax.block_until_ready(jax.tree.map(jnp.copy, self.grads))  # as a loss would have made them
        start = time.perf_counter()
        for i, program in enumerate(self.programs):
            self.carried = program(*self.carried, self.grads if i else fresh)
        jax.block_until_ready(self.carried)
        return time.perf_counter() - start

    @property
    def params(self) -> Any:
        return self.carried[0]

    def close(self) -> None:
        del self.carried, self.programs, self.grads


def entrants(makers: Makers, shapes: Shapes, grads: Any, clipped: bool) -> dict[str, Make]:
    def maker(name: str, make: Callable[[bool], Any]) -> Make:
        calls = EVERY if name == "probe, every=8" else WINDOW if name in WINDOWS else 1
        return lambda: Compiled(make(clipped), tree(shapes, 1), grads, calls, together=name in WINDOWS)

    return {name: maker(name, make) for name, make in makers.items()}


def case(section: str, makers: Makers, clipped: bool, tree_name: str, shapes: Shapes) -> Case:
    grads = tree(shapes, 0)
    made = entrants({**PLAIN, **makers}, shapes, grads, clipped)
    if section == "accumulate":
        made[STATIC] = lambda: Phases(gx.accumulate(ours(clipped), WINDOW), tree(shapes, 1), grads)
    method, same = "clipped adamw" if clipped else "adamw", section != "others"
    return Case(section, tree_name, method, shapes, made, PAIRS[section], None, same)


def cases(options: Options) -> Iterator[Case]:
    """Behind a clip; guards and windows without one too, as others have measured them."""
    for tree_name, shapes in options.among(TREES, QUICK):
        for section, makers in (("guard", GUARDS), ("accumulate", WINDOWS)):
            for clipped in (True,) if options.quick else (True, False):
                yield case(section, makers, clipped, tree_name, shapes)
        yield case("others", OTHERS, True, tree_name, shapes)
