"""Low-bit states: how far one AdamW direction is off, what a state takes, and what a step costs. On the CPU by default.

    python benchmarks/lowbit.py                 # the tables
    python benchmarks/lowbit.py --quick         # small arrays, to see that it runs

The worlds are gradients of one size, of sizes by rows and columns (log-normal, sigma 1 each), and each coordinate with
its own (sigma 2). Moments are stored once, to nearest; the error is that of the next direction, |u_q - u| / |u|, and
"worst" its largest element over that of the exact one. Times are of a jitted, donated step, taking turns in one
process: the medians over that of float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

Q = gx.lowbit.quantized
STORES: dict[str, Callable[..., Any]] = {
    "8 bits": lambda tx, **how: Q(tx, **how),
    "4 bits": lambda tx, **how: Q(tx, 4, **how),
    "bfloat16": lambda tx, **how: Q(tx, 16, **how),
    'like="bitsandbytes"': lambda tx, **how: Q(tx, like="bitsandbytes", **how),
}


def world(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """The sizes of gradients."""
    rng, (rows, columns) = np.random.default_rng(0), shape
    if kind == "flat":
        return np.full(shape, 1e-3, np.float32)
    if kind == "wild":
        return (1e-3 * np.exp(2.0 * rng.standard_normal(shape))).astype(np.float32)
    sizes = np.exp(rng.standard_normal((rows, 1))) * np.exp(rng.standard_normal((1, columns)))
    return (1e-3 * sizes).astype(np.float32)


def direction(store: Callable[..., Any], kind: str, shape: tuple[int, int]) -> tuple[float, float]:
    """The error of a direction whose moments were stored once, and its largest element over the exact one's."""
    rng, size = np.random.default_rng(1), world(kind, shape)
    noise = rng.standard_normal((3, *shape)).astype(np.float32)
    mu, nu = size * np.float32(0.23) * noise[0], size**2 * (1 + np.float32(0.045) * noise[1]) ** 2
    inner, grad = gx.scale_by_adam(), jnp.asarray(size * noise[2])
    exact = optax.ScaleByAdamState(jnp.int32(100_000), jnp.asarray(mu), jnp.asarray(nu))
    tx = store(inner, rounding="nearest")
    state = gx.lowbit.requantized(exact, tx.init(grad))
    want, got = inner.update(grad, exact)[0], jax.jit(tx.update)(grad, state)[0]
    error = float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))
    return error, float(jnp.max(jnp.abs(got)) / jnp.max(jnp.abs(want)))


class Run:
    """A compiled step of one optimizer and the arrays that it carries."""

    def __init__(self, tx: Any, leaves: int, shape: tuple[int, int]) -> None:
        params = {f"w{i}": jnp.ones(shape) for i in range(leaves)}

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state

        self.grads = jax.tree.map(
            lambda p: 1e-2 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params
        )
        self.params, self.state = params, tx.init(params)
        self.bytes = sum(x.nbytes for x in jax.tree.leaves(self.state)) / sum(
            x.size for x in jax.tree.leaves(params)
        )
        self.step = jax.jit(step, donate_argnums=(0, 1)).lower(params, self.state, self.grads).compile()
        leaf = int(np.prod(shape)) * 4
        self.temporary = self.step.memory_analysis().temp_size_in_bytes / leaf

    def time(self) -> float:
        start = time.perf_counter()
        self.params, self.state = self.step(self.params, self.state, self.grads)
        jax.block_until_ready(self.params)
        return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    shape, leaves, rounds = ((64, 256), 2, 2) if quick else ((512, 1024), 8, 15)
    print(
        f"jax {jax.__version__}, {jax.devices()[0].device_kind}; arrays of {shape}, {leaves} leaves, {rounds} rounds\n"
    )
    print(
        f"{'one direction: error (worst)':28}"
        + "".join(f"{kind:>20}" for kind in ("flat", "rows+cols", "wild"))
    )
    for name, store in STORES.items():
        cells = [direction(store, kind, shape) for kind in ("flat", "rows+cols", "wild")]
        print(f"{name:28}" + "".join(f"{f'{error:.4f} ({worst:.2f})':>20}" for error, worst in cells))
    runs = {"float32": Run(gx.adamw(1e-3), leaves, shape)}
    runs |= {name: Run(store(gx.adamw(1e-3)), leaves, shape) for name, store in STORES.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            taken = run.time()
            times[name] += [taken] if round_ else []
    print(f"\n{'AdamW':28}{'B a parameter':>16}{'temporary, leaves':>20}{'time : float32':>18}")
    base = statistics.median(times["float32"])
    for name, run in runs.items():
        ratio = statistics.median(times[name]) / base
        print(f"{name:28}{run.bytes:16.3f}{run.temporary:20.2f}{ratio:18.2f}")


if __name__ == "__main__":
    main()
