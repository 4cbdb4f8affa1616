"""All recipes on one small language model: who gets how far in so many steps, each at the best rate of a stated grid.

    python benchmarks/recipes.py --out benchmarks/results/recipes-lm.json    # a quarter of an hour on one core
    python benchmarks/recipes.py --only 'lion; sgd' --out FILE                  # runs these anew and keeps the others
    python benchmarks/recipes.py --table FILE                                # the table as Markdown, from a file

Model, text, clip and the arguments of every recipe are those of `examples/train_lm.py`; the sizes are smaller and
stand below. Every recipe has the same schedule, steps, batches and clip. Its rate is searched on a grid with factors of
about three, with one seed; a best rate at the edge extends the grid. Three other seeds, the same for all, then run at
the best.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx
from gradxform._catalog import entries

ROOT = Path(__file__).parents[1]
SIZES = {"L": 2, "D": 64, "H": 2, "F": 256, "T": 64, "B": 8}
STEPS = 500
SEARCH_SEED, SEEDS = 100, (0, 1, 2)
POINTS, MOST_EXTENSIONS = 3, 4

# The lowest rate of each grid, 3e-3 if not said, 1 or 3 times a power of ten; two more follow, and more beyond an edge
# that is best.
LOWEST = {
    "adam": 3e-3, "adam_l2": 3e-3, "adamw": 3e-3, "nadam": 3e-3, "nadamw": 3e-3, "amsgrad": 3e-3, "radam": 3e-3,
    "adamax": 3e-3, "adamaxw": 3e-3, "adagrad": 1e-2, "rmsprop": 1e-3, "adadelta": 1.0, "rprop": 3e-4,
    "adabelief": 3e-3, "yogi": 1e-2, "adan": 3e-3, "lamb": 1e-2, "lars": 10.0, "lion": 1e-3, "signum": 1e-3,
    "sign_sgd": 1e-3, "sgd": 0.1, "adafactor": 1e-2,
    "adam, b2 0.999": 3e-3, "adam_l2, decay 0.1": 3e-3, "adafactor, big_vision": 3e-3,
}  # fmt: skip
# What is run beside the recipes of the example: its recipe and the arguments that differ.
VARIANTS = {
    "adam, b2 0.999": ("adam", {"b2": 0.999}),
    "adam_l2, decay 0.1": ("adam_l2", {"weight_decay": 0.1}),
    "adafactor, big_vision": ("adafactor", {"like": "big_vision"}),
}


def load_example() -> Any:
    """examples/train_lm.py as a module, with our sizes."""
    spec = importlib.util.spec_from_file_location("train_lm", ROOT / "examples" / "train_lm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in SIZES.items():
        setattr(module, name, value)
    return module


lm = load_example()


def everybody() -> list[str]:
    """All recipes of the catalogue, and the variants."""
    return [*(entry.name for entry in entries("recipe")), *VARIANTS]


def rung(rate: float, by: int) -> float:
    """The rate so many places further on the ladder 1, 3, 10, 30, ..."""
    place = round(2 * math.log10(rate)) + by
    return float(f"{(1, 3)[place % 2]}e{place // 2}")


def transform(name: str, peak: Any, steps: int) -> gx.GradientTransformation:
    recipe, others = VARIANTS.get(name, (name, {}))
    return lm.from_recipe(recipe, peak, steps, **others)


def make_program(make: Callable[[Any], gx.GradientTransformation], steps: int) -> Any:
    """(peak rate, seed) -> (bits per byte on the held-out text, loss of every step); one program for all rates."""
    text, held_out = map(jnp.asarray, lm.read_text())

    @jax.jit
    def run(peak: Any, seed: Any) -> Any:
        init_key, batch_key = jax.random.split(jax.random.key(seed))
        tx = make(peak)
        params = lm.init(init_key)

        def step(carry: Any, number: Any) -> Any:
            params, state = carry
            starts = jax.random.randint(jax.random.fold_in(batch_key, number), (lm.B, 1), 0, len(text) - lm.T)
            batch = text[starts + jnp.arange(lm.T + 1)]
            loss, gradients = jax.value_and_grad(lm.bits_per_byte)(params, batch)
            updates, state = tx.update(gradients, state, params)
            return (gx.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
        return lm.validate(lm.evaluated(state, params), held_out), losses

    return run


def make_run(name: str, steps: int) -> Any:
    """(peak rate, seed) -> the numbers of one run of a recipe."""
    run = make_program(lambda peak: transform(name, peak, steps), steps)

    def measured(peak: float, seed: int) -> dict[str, Any]:
        start = time.perf_counter()
        score, losses = jax.device_get(run(jnp.asarray(peak, jnp.float32), seed))
        marks = np.mean(losses[: steps // 8 * 8].reshape(8, -1), axis=1)
        numbers = {"held_out": float(score), "training": [round(float(x), 4) for x in marks]}
        return {"rate": peak, "seed": seed, **numbers, "seconds": round(time.perf_counter() - start, 2)}

    return measured


def value(run: dict[str, Any]) -> float:
    return run["held_out"] if math.isfinite(run["held_out"]) else math.inf


def searched(run: Callable[[float, int], dict[str, Any]], lowest: float) -> list[dict[str, Any]]:
    """The runs of a grid of rates, by rate."""
    search = [run(rung(lowest, i), SEARCH_SEED) for i in range(POINTS)]
    for _ in range(MOST_EXTENSIONS):
        best = min(search, key=value)["rate"]
        if best == search[0]["rate"]:
            search.insert(0, run(rung(best, -1), SEARCH_SEED))
        elif best == search[-1]["rate"]:
            search.append(run(rung(best, 1), SEARCH_SEED))
    return search


def race(name: str, steps: int) -> dict[str, Any]:
    run = make_run(name, steps)
    search = searched(run, LOWEST.get(name, 3e-3))
    best = min(search, key=value)["rate"]
    params = lm.init(jax.random.key(0))
    state = jax.eval_shape(transform(name, best, steps).init, params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {
        "transform": repr(transform(name, best, steps)),
        "best_rate": best,
        "at_the_edge": best in (search[0]["rate"], search[-1]["rate"]),
        "state_bytes_per_parameter": sum(s.size * s.dtype.itemsize for s in jax.tree.leaves(state)) / size,
        "search": search,
        "runs": [run(best, seed) for seed in SEEDS],
    }


def scores(result: dict[str, Any]) -> list[float]:
    return sorted(map(value, result["runs"]))


def table(results: dict[str, Any]) -> str:
    """Markdown, best first."""
    rows = [
        "| recipe | bits per byte, median | lowest to highest | best rate | state, bytes a parameter |",
        "|---|---|---|---|---|",
    ]
    for name, result in sorted(
        results["recipes"].items(), key=lambda item: statistics.median(scores(item[1]))
    ):
        low, middle, high = scores(result)
        rate = f"{result['best_rate']:g}" + (" (edge)" if result["at_the_edge"] else "")
        size = f"{result['state_bytes_per_parameter']:.1f}"
        rows.append(f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {rate} | {size} |")
    return "\n".join(rows)


def machine() -> dict[str, str]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }


def settings(steps: int) -> dict[str, Any]:
    params = lm.init(jax.random.key(0))
    text, held_out = lm.read_text()
    return {
        "sizes": SIZES,
        "steps": steps,
        "warmup": lm.WARMUP,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "bytes_to_learn_from": len(text),
        "bytes_held_out": len(held_out),
        "search_seed": SEARCH_SEED,
        "seeds": SEEDS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="recipes, separated by a semicolon and a blank; by default all"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, after every recipe")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a file and run nothing"
    )
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    results: dict[str, Any] = {"machine": machine(), "settings": settings(options.steps), "recipes": {}}
    if options.only and options.out and options.out.exists():
        results["recipes"] = json.loads(options.out.read_text())["recipes"]
    for name in options.only.split("; ") if options.only else everybody():
        start = time.perf_counter()
        got = results["recipes"][name] = race(name, options.steps)
        tried = "  ".join(f"{run['rate']:g}: {run['held_out']:.3f}" for run in got["search"])
        low, middle, high = scores(got)
        print(
            f"{name:<10} {middle:.3f} ({low:.3f} to {high:.3f}) at {got['best_rate']:<6g} from {tried}"
            f"   {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + table(results))


if __name__ == "__main__":
    main()
