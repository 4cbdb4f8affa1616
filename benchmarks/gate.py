"""What a step costs in figures that no busy machine changes: `python -m benchmarks.gate` prints them.

tests/benchmarks/test_gate.py holds them below bounds, so that a copy or a pass too many is seen when it is made. The
tree is small: what XLA joins and what it writes down does not depend on how long an array is.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

import gradxform as gx
from benchmarks.entrants import bytes_of, step_of
from benchmarks.methods import METHODS, ours
from benchmarks.program import build, copies
from benchmarks.shapes import Shapes
from benchmarks.trees import tree

SHAPES: Shapes = {"w": (128, 192), "v": (192, 128), "b": (192,), "s": (128,)}
LARGE = 10_000  # numbers: fewer are a bias or a scalar


class Cost(NamedTuple):
    """A compiled step with donated parameters and state."""

    temporary: float  # beside arguments and results, in copies of the gradients
    equations: float  # a leaf, executed
    kernels: float  # a leaf, started one after the other
    copies: int  # of large arrays
    not_in_place: int  # donated arrays whose memory no result takes over


def cost(tx: Any, options: Mapping[str, Any] | None = None) -> Cost:
    params, grads = tree(SHAPES, 1), tree(SHAPES, 0)
    state = tx.init(params)
    # What the step does not read was donated all the same, and must be counted.
    program, facts = build(
        step_of(tx), (params, state, grads), donate=(0, 1), options=options, keep_unused=True
    )
    return Cost(
        facts.temporary_bytes / bytes_of(grads),
        facts.equations / len(SHAPES),
        facts.kernels / len(SHAPES),
        copies(program.as_text(), LARGE),
        len(jax.tree.leaves((params, state))) - facts.in_place,
    )


def adamw() -> Any:
    return ours("adamw")


#: What is held below bounds.
STEPS: dict[str, Callable[[], Any]] = {
    **{method: lambda method=method: ours(method) for method in METHODS},
    "guard": lambda: gx.guard(adamw()),
    "guard, no look at updates": lambda: gx.guard(adamw(), check_updates=False),
    "accumulate": lambda: gx.accumulate(adamw(), 4),
    "loss_scale": lambda: gx.loss_scale(adamw()),
    "tunable": lambda: gx.tunable(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)), "learning_rate"),
    "average_params": lambda: gx.average_params(adamw(), 0.999),
    "masked": lambda: gx.masked(adamw(), gx.matrices()),
    "quantized": lambda: gx.lowbit.quantized(adamw()),
}


if __name__ == "__main__":
    for name, make in STEPS.items():
        temporary, equations, kernels, copied, elsewhere = cost(make())
        print(
            f'    "{name}": ({temporary:.2f}, {equations:.1f}, {kernels:.1f}, {copied}),  # {elsewhere} elsewhere'
        )
