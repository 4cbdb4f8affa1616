"""Newton-Schulz and Muon, gradxform beside Optax: one run, A B A B, medians of ratios and their spread.

    python benchmarks/muon.py                      # the tables
    python benchmarks/muon.py --out results.json   # and the figures with hardware and versions
    python benchmarks/muon.py --quick              # small shapes, few rounds: whether it runs

Three tables: Newton-Schulz on one matrix; matrices of one shape, each by itself or as one batch; whole steps of Muon
on the leaves of a GPT-2 of two layers, donated. A ratio below 1 means less time than the first row. Times of a shared
machine mean little, ratios within one run more; bytes do not depend on the machine's load.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import _muon

import gradxform as gx
from gradxform._linalg.newton_schulz import STANDARD, orthogonalise

SHAPES = [(768, 3072), (3072, 768), (768, 768)]
#: How many matrices of which shape.
SEVERAL = [(64, (64, 64)), (12, (256, 256)), (8, (64, 1024)), (4, (768, 768))]


def normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def ours(x: Any, dtype: Any = None) -> Any:
    return orthogonalise(x, (STANDARD,) * 5, dtype=dtype)


def theirs(x: Any) -> Any:
    return _muon.orthogonalize_via_newton_schulz(x, jnp.asarray(STANDARD), 5)


class Entrant:
    """A compiled function, called again and again on the same arguments, or on what it returned if it is donated."""

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], carried: int = 0) -> None:
        start = time.perf_counter()
        self.compiled = jax.jit(fn, donate_argnums=tuple(range(carried))).lower(*args).compile()
        self.compile_seconds = time.perf_counter() - start
        self.temporary = self.compiled.memory_analysis().temp_size_in_bytes
        self.args, self.carried, self.result = args, carried, None
        self.seconds: list[float] = []

    def __call__(self) -> None:
        start = time.perf_counter()
        self.result = jax.block_until_ready(self.compiled(*self.args))
        self.seconds.append(time.perf_counter() - start)
        if self.carried:
            self.args = (*self.result, *self.args[self.carried :])


def measure(entrants: Mapping[str, Entrant], rounds: int) -> dict[str, Any]:
    """Each in turn, the first of each thrown away; ratios are to the first entrant, round by round."""
    for _ in range(rounds + 1):
        for entrant in entrants.values():
            entrant()
    first, found = next(iter(entrants.values())), {}
    for name, entrant in entrants.items():
        ratios = sorted(b / a for a, b in zip(first.seconds[1:], entrant.seconds[1:], strict=True))
        found[name] = {
            "milliseconds": 1e3 * statistics.median(entrant.seconds[1:]),
            "ratio": statistics.median(ratios),
            "p10": ratios[len(ratios) // 10],
            "p90": ratios[-1 - len(ratios) // 10],
            "temporary_bytes": entrant.temporary,
            "compile_seconds": entrant.compile_seconds,
            "largest_difference": difference(first.result, entrant.result),
        }
    return found


def difference(a: Any, b: Any) -> float:
    return max(
        float(jnp.max(jnp.abs(x - y)))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        if jnp.issubdtype(x.dtype, jnp.floating)
    )


def one_matrix(shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    x = normal(shape)
    short = lambda x: ours(x, jnp.bfloat16)  # noqa: E731
    entrants = {"optax": theirs, "gradxform": ours, "gradxform, bfloat16": short}
    return measure({name: Entrant(fn, (x,)) for name, fn in entrants.items()}, rounds)


def several(many: int, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """The stack is there already where one batch is made of it, as for the weights of a model run by scan."""
    stack = normal((many, *shape))
    leaves = tuple(stack)
    each = lambda *xs: tuple(map(ours, xs))  # noqa: E731
    joined = lambda *xs: tuple(ours(jnp.stack(xs)))  # noqa: E731
    entrants = {
        "optax, each": Entrant(lambda *xs: tuple(map(theirs, xs)), leaves),
        "each": Entrant(each, leaves),
        "stacked for it": Entrant(joined, leaves),
        "one stack": Entrant(lambda x: tuple(ours(x)), (stack,)),
    }
    return measure(entrants, rounds)


def gpt2(width: int, layers: int, vocabulary: int) -> dict[str, jax.Array]:
    """Weights, norms and embeddings of a GPT-2, a little off zero."""
    d = width
    shapes: dict[str, tuple[int, ...]] = {"embed": (vocabulary, d), "position": (1024, d), "norm": (d,)}
    for i in range(layers):
        block = {
            "qkv": (d, 3 * d),
            "out": (d, d),
            "up": (d, 4 * d),
            "down": (4 * d, d),
            "norm": (d,),
            "bias": (d,),
        }
        shapes.update({f"block_{i}/{name}": shape for name, shape in block.items()})
    return {name: 0.02 * normal(shape, i) for i, (name, shape) in enumerate(shapes.items())}


def whole_step(width: int, layers: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Hidden matrices by Muon, the rest by AdamW, in both libraries; the decay masked, the rate a schedule."""
    dims = optax.contrib.MuonDimensionNumbers()
    grads = gpt2(width, layers, vocabulary)
    chosen = {name: dims if name.startswith("block") and x.ndim == 2 else None for name, x in grads.items()}
    options: dict[str, Any] = {"weight_decay": 0.1, "consistent_rms": 0.2}

    def step_of(tx: Any, apply: Any) -> Entrant:
        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return apply(params, updates), state

        params = {name: x + 0.0 for name, x in grads.items()}
        return Entrant(step, (params, tx.init(params), grads), carried=2)

    theirs = optax.contrib.muon(
        optax.linear_schedule(3e-4, 0.0, 1000), muon_weight_dimension_numbers=chosen, **options
    )
    entrants = {"optax": step_of(theirs, optax.apply_updates)}
    for name, dtype in (("gradxform", None), ("gradxform, bfloat16", "bfloat16")):
        mine = gx.muon(gx.linear_schedule(3e-4, 0.0, 1000), matrices=_hidden, ns_dtype=dtype, **options)
        entrants[name] = step_of(mine, gx.apply_updates)
    return measure(entrants, rounds)


def _hidden(path: str, leaf: Any) -> bool:
    return path.startswith("block") and leaf.ndim == 2


def machine() -> dict[str, str]:
    cpu = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    versions = {"jax": jax.__version__, "optax": optax.__version__, "python": platform.python_version()}
    return {"cpu": cpu, "cores": str(os.cpu_count()), "device": jax.devices()[0].device_kind, **versions}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out")
    chosen = parser.parse_args(arguments)
    rounds = 2 if chosen.quick else chosen.rounds
    shapes = [(8, 32)] if chosen.quick else SHAPES
    groups = [(3, (4, 8))] if chosen.quick else SEVERAL
    model = (32, 1, 64) if chosen.quick else (768, 2, 8_000)
    tables: dict[str, Any] = {}
    for shape in shapes:
        tables[f"one matrix {shape}"] = one_matrix(shape, rounds)
    for many, shape in groups:
        tables[f"{many} of {shape}"] = several(many, shape, rounds)
    tables[f"step, width {model[0]}, {model[1]} layers"] = whole_step(*model, max(2, rounds // 2))
    for title, rows in tables.items():
        print(title)
        for name, row in rows.items():
            spread = f"{row['ratio']:.2f} ({row['p10']:.2f}-{row['p90']:.2f})"
            print(
                f"  {name:20s} {row['milliseconds']:9.2f} ms  {spread}  {row['temporary_bytes'] / 1e6:7.1f} MB"
            )
    results = {"machine": machine(), "rounds": rounds, "tables": tables}
    if chosen.out:
        with open(chosen.out, "w") as file:
            json.dump(results, file, indent=1)
    return results


if __name__ == "__main__":
    main()
