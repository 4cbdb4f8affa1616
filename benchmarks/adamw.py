"""Clipped AdamW, gradxform beside Optax: one run, A B A B, medians and spread.

    python benchmarks/adamw.py                      # the table
    python benchmarks/adamw.py --out results.json   # and the figures with hardware and versions

Both do the same step on the same tree: clip of the global norm, AdamW with a decay mask and a warmup-cosine schedule,
the new parameters; everything in one jitted function with donated parameters and state. A ratio below 1 means that
gradxform needs less. Absolute times of a shared machine mean little; ratios within one run do.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

Shapes = Mapping[str, tuple[int, ...]]


def transformer(width: int, layers: int, vocabulary: int = 8_000) -> Shapes:
    """The leaves of a GPT-2: 12 a layer and four more, 148 for 12 layers."""
    d = width
    shapes: dict[str, tuple[int, ...]] = {"embed": (vocabulary, d), "position": (1024, d)}
    for i in range(layers):
        block: dict[str, tuple[int, ...]] = {
            "norm1_scale": (d,), "norm1_bias": (d,), "qkv": (d, 3 * d), "qkv_bias": (3 * d,),
            "out": (d, d), "out_bias": (d,), "norm2_scale": (d,), "norm2_bias": (d,),
            "up": (d, 4 * d), "up_bias": (4 * d,), "down": (4 * d, d), "down_bias": (d,),
        }  # fmt: skip
        shapes.update({f"block_{i}/{name}": shape for name, shape in block.items()})
    return {**shapes, "norm_scale": (d,), "norm_bias": (d,)}


CASES: dict[str, Callable[[], Shapes]] = {
    "148 leaves, 42 M (GPT-2 shapes, width 512)": lambda: transformer(512, 12),
    "one leaf, 20 M": lambda: {"w": (4_000, 5_000)},
    "300 leaves of 10 k": lambda: {f"w{i}": (100, 100) for i in range(300)},
}


def tree(shapes: Shapes, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        n: jnp.asarray(0.01 * rng.standard_normal(shape, dtype=np.float32)) for n, shape in shapes.items()
    }


def optax_step() -> tuple[Any, Callable[..., Any]]:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)

    def mask(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1, mask=mask))
    return tx, optax.apply_updates


def gradxform_step() -> tuple[Any, Callable[..., Any]]:
    schedule = gx.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(schedule, weight_decay=0.1, mask=gx.matrices()))
    return tx, gx.apply_updates


LIBRARIES = {"optax": optax_step, "gradxform": gradxform_step}


def equations(jaxpr: Any) -> int:
    """Equations of a program, counted through inner jits and branches."""
    total = 0
    for equation in jaxpr.eqns:
        parts = [
            p for value in equation.params.values() for p in (value if isinstance(value, tuple) else (value,))
        ]
        inner = [p for p in parts if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        total += sum(equations(getattr(p, "jaxpr", p)) for p in inner) if inner else 1
    return total


class Run:
    """One library's compiled step on one tree."""

    def __init__(self, library: str, shapes: Shapes) -> None:
        tx, apply = LIBRARIES[library]()

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        params, self.grads = tree(shapes, 1), tree(shapes, 0)
        state = tx.init(params)
        start = time.perf_counter()
        traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, self.grads)
        middle = time.perf_counter()
        self.compiled = traced.lower().compile()
        self.trace_seconds = middle - start
        self.compile_seconds = time.perf_counter() - middle
        self.equations = equations(traced.jaxpr.jaxpr) / len(shapes)
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes
        self.carried = jax.block_until_ready((params, state))
        self.seconds: list[float] = []

    def __call__(self) -> float:
        start = time.perf_counter()
        self.carried = jax.block_until_ready(self.compiled(*self.carried, self.grads))
        return time.perf_counter() - start


def measure(shapes: Shapes, rounds: int) -> dict[str, Any]:
    runs = {name: Run(name, shapes) for name in LIBRARIES}
    for _ in range(3):
        for run in runs.values():
            run()
    for _ in range(rounds):
        for run in runs.values():
            run.seconds.append(run())
    ratios = sorted(b / a for a, b in zip(runs["optax"].seconds, runs["gradxform"].seconds, strict=True))
    numbers = {
        name: {
            "milliseconds": 1e3 * statistics.median(run.seconds),
            "temporary_bytes": run.temporary,
            "equations_per_leaf": run.equations,
            "trace_seconds": run.trace_seconds,
            "compile_seconds": run.compile_seconds,
        }
        for name, run in runs.items()
    }
    spread = [ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]]
    gap = max(
        float(jnp.max(jnp.abs(mine - theirs)))
        for mine, theirs in zip(*(jax.tree.leaves(run.carried[0]) for run in runs.values()), strict=True)
    )
    return {
        **numbers,
        "time_ratio": statistics.median(ratios),
        "ratio_p10_p90": spread,
        "largest_difference": gap,
    }


def machine() -> dict[str, str]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "cases": {}}
    print(
        f"{'case':44s} {'time ratio (p10 - p90)':>24s} {'temporary MB':>16s} {'equations a leaf':>17s} {'trace':>6s}"
    )
    for name, shapes in CASES.items():
        if options.only not in name:
            continue
        got = results["cases"][name] = measure(shapes(), options.rounds)
        ours, theirs = got["gradxform"], got["optax"]
        low, high = got["ratio_p10_p90"]
        print(
            f"{name:44s} {got['time_ratio']:10.2f} ({low:.2f} - {high:.2f})   "
            f"{theirs['temporary_bytes'] / 1e6:7.1f} > {ours['temporary_bytes'] / 1e6:5.1f} "
            f"{theirs['equations_per_leaf']:8.1f} > {ours['equations_per_leaf']:5.1f} "
            f"{ours['trace_seconds'] / theirs['trace_seconds']:6.2f}",
            flush=True,
        )
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
