"""What a wrapper costs a step, beside Optax's counterpart and beside no wrapper: one run, A B A B, medians and spread.

    python benchmarks/wrappers.py                      # the table; two minutes on two cores
    python benchmarks/wrappers.py --out results.json   # and the figures with hardware and versions
    python benchmarks/wrappers.py --quick              # a tree of some thousand numbers, to see that it runs

Every entrant is a whole optimizer around the same clipped AdamW, its new parameters included, in one jitted function
with donated parameters and state. All of them take turns in every round, and a ratio is formed within a round: machines
drift, neighbours come and go. What accumulates is timed over a whole window of 4 micro-steps.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradxform as gx

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.adamw import Shapes, equations, machine, transformer, tree

WINDOW = 4

CASES: dict[str, Callable[[], Shapes]] = {
    "100 leaves, 8 M (GPT-2 shapes, width 256)": lambda: transformer(256, 8, 4_000),
    "one leaf, 8 M": lambda: {"w": (2_000, 4_000)},
}
QUICK: dict[str, Callable[[], Shapes]] = {"16 leaves, 21 k": lambda: transformer(16, 1, 100)}


def ours(rate: Any = 1e-3) -> Any:
    return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(rate, weight_decay=0.1))


def theirs(learning_rate: Any = 1e-3) -> Any:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate, weight_decay=0.1))


#: How many calls of `update` are timed together; 1 where nothing is said.
CALLS = {"accumulate": WINDOW, "accumulate, Optax inside": WINDOW, "MultiSteps": WINDOW, "probe, every=8": 8}
ENTRANTS: dict[str, Callable[[], Any]] = {
    "gradxform": ours,
    "optax": theirs,
    "guard": lambda: gx.guard(ours()),
    "guard, no look at updates": lambda: gx.guard(ours(), check_updates=False),
    "guard, Optax inside": lambda: gx.guard(theirs()),
    "apply_if_finite": lambda: optax.apply_if_finite(theirs(), 100),
    "accumulate": lambda: gx.accumulate(ours(), WINDOW),
    "accumulate, Optax inside": lambda: gx.accumulate(theirs(), WINDOW),
    "MultiSteps": lambda: optax.MultiSteps(theirs(), WINDOW).gradient_transformation(),
    "tunable": lambda: gx.tunable(ours(), "learning_rate"),
    "inject_hyperparams": lambda: optax.inject_hyperparams(theirs)(learning_rate=1e-3),
    "probe": lambda: gx.probe(ours()),
    "probe, links=False": lambda: gx.probe(ours(), links=False),
    "probe, every=8": lambda: gx.probe(ours(), every=8),
}
RATIOS = (
    ("guard", "apply_if_finite"),
    ("guard, Optax inside", "apply_if_finite"),
    ("guard", "gradxform"),
    ("guard, no look at updates", "gradxform"),
    ("apply_if_finite", "optax"),
    ("accumulate", "MultiSteps"),
    ("accumulate, Optax inside", "MultiSteps"),
    ("tunable", "inject_hyperparams"),
    ("tunable", "gradxform"),
    ("inject_hyperparams", "optax"),
    ("probe", "gradxform"),
    ("probe, links=False", "gradxform"),
    ("probe, every=8", "gradxform"),
)


class Entrant:
    """One optimizer, compiled, on a tree of its own."""

    def __init__(self, name: str, shapes: Shapes, grads: Any) -> None:
        tx = ENTRANTS[name]()
        apply = gx.apply_updates if isinstance(tx, gx.GradientTransformation) else optax.apply_updates

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        params, self.grads, self.calls = tree(shapes, 1), grads, CALLS.get(name, 1)
        state = tx.init(params)
        start = time.perf_counter()
        traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, grads)
        self.compiled = traced.lower().compile()
        self.compile_seconds = time.perf_counter() - start
        self.equations = equations(traced.jaxpr.jaxpr) / len(shapes)
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes
        self.carried = jax.block_until_ready((params, state))
        self.seconds: list[float] = []

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.calls):
            self.carried = self.compiled(*self.carried, self.grads)
        jax.block_until_ready(self.carried)
        return time.perf_counter() - start


def ratio(entrants: Mapping[str, Entrant], name: str, other: str) -> dict[str, float]:
    """How much time `name` takes of that of `other`, a call, round by round."""
    a, b = entrants[name], entrants[other]
    rounds = sorted(x / a.calls * b.calls / y for x, y in zip(a.seconds, b.seconds, strict=True))
    tenth = len(rounds) // 10
    return {"median": statistics.median(rounds), "p10": rounds[tenth], "p90": rounds[-1 - tenth]}


def gap(entrants: Mapping[str, Entrant], name: str, other: str) -> float:
    """The largest difference of a parameter after all rounds. Both must have done the same."""
    trees = (jax.tree.leaves(entrants[x].carried[0]) for x in (name, other))
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(*trees, strict=True))


def measure(shapes: Shapes, rounds: int) -> dict[str, Any]:
    grads = tree(shapes, 0)
    entrants = {name: Entrant(name, shapes, grads) for name in ENTRANTS}
    for _ in range(2):
        for entrant in entrants.values():
            entrant()
    for _ in range(rounds):
        for entrant in entrants.values():
            entrant.seconds.append(entrant())
    return {
        "entrants": {
            name: {
                "milliseconds": 1e3 * statistics.median(entrant.seconds) / entrant.calls,
                "calls": entrant.calls,
                "temporary_bytes": entrant.temporary,
                "equations_per_leaf": entrant.equations,
                "compile_seconds": entrant.compile_seconds,
            }
            for name, entrant in entrants.items()
        },
        "ratios": {f"{a} : {b}": ratio(entrants, a, b) for a, b in RATIOS},
        "largest_difference": {
            f"{a} : {b}": gap(entrants, a, b)
            for a, b in RATIOS
            if entrants[a].calls == entrants[b].calls  # else they have gone different ways
        },
    }


def show(name: str, got: Mapping[str, Any]) -> None:
    print(f"\n{name}")
    print(f"  {'':28s} {'ms a call':>10s} {'temporary MB':>13s} {'equations a leaf':>17s} {'compile s':>10s}")
    for entrant, x in got["entrants"].items():
        print(
            f"  {entrant:28s} {x['milliseconds']:10.2f} {x['temporary_bytes'] / 1e6:13.1f} "
            f"{x['equations_per_leaf']:17.1f} {x['compile_seconds']:10.2f}"
        )
    for pair, x in got["ratios"].items():
        print(f"  {pair:48s} {x['median']:6.2f}  ({x['p10']:.2f} - {x['p90']:.2f})", flush=True)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="a small tree, three rounds")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--out", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    cases, rounds = (QUICK, 3) if options.quick else (CASES, options.rounds)
    results: dict[str, Any] = {"machine": machine(), "rounds": rounds, "cases": {}}
    for name, shapes in cases.items():
        if options.only in name:
            results["cases"][name] = measure(shapes(), rounds)
            show(name, results["cases"][name])
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file, indent=2)
    return results


if __name__ == "__main__":
    main()
