"""Many small arrays, as a tree and in buckets: the update alone, and a whole training step. One run, A B A B.

    python benchmarks/buckets.py                      # the table; some minutes, most of them in the compiler
    python benchmarks/buckets.py --out results.json   # and the figures with hardware and versions
    python benchmarks/buckets.py --quick              # some dozen arrays, to see that it runs

Clipped AdamW with a warmup-cosine schedule and a decay mask, new parameters included, in one jitted function with
donated parameters and state. In the whole step the gradients are those of a loss that reads each array once; what it
costs to cut the arrays out of the buckets and to join their gradients is part of it. A model that scans over its layers
reads the stacks as they are.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradxform as gx

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.machine import machine

Shapes = dict[str, tuple[int, ...]]


def arrays(number: int, rows: int, columns: int) -> Shapes:
    """Matrices of one size and, one in four, vectors of as many numbers."""
    return {f"layer_{i}": (rows * columns,) if i % 4 == 3 else (rows, columns) for i in range(number)}


#: Shapes, and whether single arrays are compiled too, in an update or in a loss: 5,000 of them take minutes.
CASES: dict[str, tuple[Shapes, bool]] = {
    "1,000 arrays of 10,000": (arrays(1000, 100, 100), True),
    "5,000 arrays of 100": (arrays(5000, 10, 10), False),
}
QUICK: dict[str, tuple[Shapes, bool]] = {"24 arrays of 100": (arrays(24, 10, 10), True)}


def ours() -> Any:
    rate = gx.warmup_cosine(1e-3, 100, 10_000)
    return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(rate, weight_decay=0.1, mask=gx.matrices()))


def theirs() -> Any:
    rate = optax.schedules.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)

    def decayed(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.1, mask=decayed))


def loss(tree: Mapping[str, Any]) -> Any:
    """Each array read once, with a gradient that depends on it."""
    return sum((jnp.sum(jnp.sin(x)) for x in tree.values()), jnp.zeros([]))


#: How a loss reads the parameters.
READS: dict[str, Any] = {
    "tree": lambda params: loss(params),
    "unpacked": lambda params: loss(params.unpack()),
    "scanned": lambda params: loss(params.arrays),
}


class Entrant:
    """One way of keeping the arrays, compiled: what a step takes, and what compiling did."""

    def __init__(self, tx: Any, params: Any, read: str) -> None:
        apply: Any = gx.apply_updates if isinstance(tx, gx.GradientTransformation) else optax.apply_updates

        def step(params: Any, state: Any, grads: Any) -> Any:
            if read:
                grads = jax.grad(READS[read])(params)
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        self.grads = None if read else jax.tree.map(jnp.sin, params)
        self.carry = params, jax.jit(tx.init)(params)
        begin = time.perf_counter()
        traced = jax.jit(step, donate_argnums=(0, 1)).trace(*self.carry, self.grads)
        self.facts: dict[str, Any] = {"trace_s": time.perf_counter() - begin}
        lowered = traced.lower()
        begin = time.perf_counter()
        self.step = lowered.compile()
        self.facts["compile_s"] = time.perf_counter() - begin
        memory: Any = self.step.memory_analysis()
        self.facts["temp_bytes"] = int(memory.temp_size_in_bytes)
        self.facts["fusions"] = (self.step.as_text() or "").count(" fusion(")

    def run(self) -> float:
        begin = time.perf_counter()
        self.carry = jax.block_until_ready(self.step(*self.carry, self.grads))
        return 1e3 * (time.perf_counter() - begin)


def entrants(shapes: Shapes, trees: bool, whole: bool) -> dict[str, Entrant]:
    def params() -> Any:
        return {name: jnp.full(shape, 0.1, jnp.float32) for name, shape in shapes.items()}

    def packed(stack: bool, read: str) -> Entrant:
        tx = gx.fused.bucketed(ours())
        return Entrant(tx, gx.fused.pack(params(), tx, stack=stack), read)

    if not whole:
        made = {"buckets": packed(False, ""), "stacks": packed(True, "")}
    else:
        made = {"buckets": packed(False, "unpacked")} if trees else {}
        made["stacks, scanned"] = packed(True, "scanned")
    if trees:
        made["gradxform"] = Entrant(ours(), params(), "tree" * whole)
        made["optax"] = Entrant(theirs(), params(), "tree" * whole)
    return made


def measure(shapes: Shapes, trees: bool, whole: bool, rounds: int) -> dict[str, Any]:
    """Every entrant takes its turn in every round; a ratio to Optax is formed within the round."""
    known = entrants(shapes, trees, whole)
    times = [{name: entrant.run() for name, entrant in known.items()} for _ in range(rounds + 1)][1:]
    found: dict[str, Any] = {}
    for name, entrant in known.items():
        mine = [row[name] for row in times]
        found[name] = {
            **entrant.facts,
            "ms": statistics.median(mine),
            "ms_min": min(mine),
            "ms_max": max(mine),
        }
        if "optax" in known:
            found[name]["of_optax"] = statistics.median(row[name] / row["optax"] for row in times)
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a small case, to see that it runs")
    parser.add_argument("--out", type=Path, help="where the figures are written as JSON")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that are timed")
    given = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": machine(), "cases": {}}
    for name, (shapes, trees) in (QUICK if given.quick else CASES).items():
        for kind in ("update alone", "whole step"):
            print(f"\n{name}, {kind}")
            found = measure(shapes, trees, kind == "whole step", given.rounds)
            results["cases"].setdefault(name, {})[kind] = found
            for entrant, row in found.items():
                ratio = f"{row['of_optax']:8.2f}" if "of_optax" in row else "       -"
                print(
                    f"  {entrant:15s} trace {row['trace_s']:6.2f} s  compile {row['compile_s']:7.2f} s  "
                    f"{row['ms']:8.2f} ms{ratio} of Optax  {row['fusions']:5d} loops  "
                    f"{row['temp_bytes'] / 1e6:7.2f} MB temporary"
                )
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
