"""Low-bit states: how far an AdamW direction is off, what a state takes, and what a step costs, on any device.

    python benchmarks/lowbit.py                     # the tables; some minutes on two cores
    python benchmarks/lowbit.py --out results.json  # and the figures with hardware and versions
    python benchmarks/lowbit.py --quick             # small arrays and few steps, to see that it runs

The worlds are gradients of one size, of sizes by rows and columns (log-normal, sigma 1 each), by a power of the column,
and each coordinate with its own (log-normal, sigma 2). Errors are |u_q - u| / |u| of the next direction, "worst" its
largest element over that of the exact one: of moments that were stored once, to nearest; and of a run of 40 and of
4,000 steps of Student-t gradients (5 degrees of freedom) with the rounding that is the default.

Times are of a jitted, donated step, taking turns in one process: medians of the ratio to float32 within a round, of the
time on the clock and of the processor time of all threads, which neighbours disturb less (and which says nothing on an
accelerator). The bytes that a step has to move (gradient, parameter and state, each as often as it is read and written)
over its time stand beside the speed of a plain copy in the same rounds. "plain" is a straightforward AdamW in jnp with
the same two ideas: the first moment to nearest on the signed dynamic map in blocks of 64, the root of the second at
random on the unsigned map without its zero in blocks of 256; and one whose moments are cast to bfloat16.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx
from gradxform.lowbit.maps import dynamic_map, midpoints

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.machine import machine

Q = gx.lowbit.quantized
STORES: dict[str, Callable[..., Any]] = {
    "8 bits": lambda tx, **how: Q(tx, **how),
    "4 bits": lambda tx, **how: Q(tx, 4, **how),
    "bfloat16": lambda tx, **how: Q(tx, 16, **how),
    'map="float8"': lambda tx, **how: Q(tx, map="float8", **how),
    'like="bitsandbytes"': lambda tx, **how: Q(tx, like="bitsandbytes", **how),
}
LATER = (40, 4000)
WARM = 2  # rounds before those that count


# ------------------------------------------------------------------------------------------------ plain in jnp


class PlainState(NamedTuple):
    """Counts, and a moment as what its encoder gives."""

    count: Any
    mu: Any
    nu: Any


def plain(encode: Callable[..., Any], decode: Callable[..., Any], b1: float = 0.9, b2: float = 0.999) -> Any:
    """Adam as one would write it down, leaf by leaf, with stored moments."""

    def init(params: Any) -> PlainState:
        zeros = [
            encode(jnp.zeros_like(p), jnp.zeros_like(p), jax.random.key(0)) for p in jax.tree.leaves(params)
        ]
        return PlainState(jnp.int32(0), [m for m, _ in zeros], [v for _, v in zeros])

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        flat, tree = jax.tree.flatten(updates)
        count = state.count + 1
        t = count.astype(jnp.float32)
        new, mu, nu = list[Any](), list[Any](), list[Any]()
        for i, (g, *old) in enumerate(zip(flat, state.mu, state.nu, strict=True)):
            m, v = decode(*old, g.shape)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            new.append(m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2**t)) + 1e-8))
            made = encode(m, v, jax.random.fold_in(jax.random.fold_in(jax.random.key(0), count), i))
            mu, nu = [*mu, made[0]], [*nu, made[1]]
        return tree.unflatten(new), PlainState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def plain_8_bits() -> Any:
    signed, roots = dynamic_map(True), dynamic_map(False)[1:]
    search = partial(
        jnp.searchsorted, method="scan_unrolled"
    )  # on a CPU several times as fast as the default

    def scaled(x: Any, block: int) -> tuple[Any, Any]:
        blocks = x.reshape(-1, block)
        scale = jnp.max(jnp.abs(blocks), axis=1, keepdims=True)
        return blocks / jnp.where(scale > 0, scale, 1), scale

    def encode(m: Any, v: Any, key: Any) -> Any:
        y, top = scaled(m, 64)
        first = search(midpoints(signed), y).astype(jnp.uint8), top
        y, top = scaled(jnp.sqrt(v), 256)
        high = jnp.clip(search(roots, y), 1, len(roots) - 1)
        low = jnp.asarray(roots)[high - 1]
        up = jax.random.uniform(key, y.shape) < (y - low) / (jnp.asarray(roots)[high] - low)
        return first, ((high - 1 + up).astype(jnp.uint8), top)

    def decode(first: Any, second: Any, shape: tuple[int, ...]) -> Any:
        m = jnp.asarray(signed)[first[0]] * first[1]
        root = jnp.asarray(roots)[second[0]] * second[1]
        return m.reshape(shape), (root * root).reshape(shape)

    return plain(encode, decode)


def plain_bfloat16() -> Any:
    def encode(m: Any, v: Any, key: Any) -> Any:
        del key
        return m.astype(jnp.bfloat16), v.astype(jnp.bfloat16)

    return plain(encode, lambda m, v, shape: (m.astype(jnp.float32), v.astype(jnp.float32)))


PLAIN: dict[str, Callable[[], Any]] = {"plain, 8 bits": plain_8_bits, "plain, bfloat16": plain_bfloat16}


# ------------------------------------------------------------------------------------------------ directions


def world(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """The sizes of gradients."""
    rng, (rows, columns) = np.random.default_rng(0), shape
    if kind == "flat":
        sizes = np.ones(shape)
    elif kind == "rows+cols":
        sizes = np.exp(rng.standard_normal((rows, 1))) * np.exp(rng.standard_normal((1, columns)))
    elif kind == "columns":
        sizes = np.tile(1.0 / (1 + rng.permutation(columns)), (rows, 1))
    else:
        sizes = np.exp(2.0 * rng.standard_normal(shape))
    return (1e-3 * sizes).astype(np.float32)


class Off(NamedTuple):
    """How far a direction is off."""

    error: float
    worst: float


def off(got: Any, want: Any) -> Off:
    error = jnp.linalg.norm(got - want) / jnp.linalg.norm(want)
    return Off(float(error), float(jnp.max(jnp.abs(got)) / jnp.max(jnp.abs(want))))


def direction(store: Callable[..., Any], kind: str, shape: tuple[int, int]) -> Off:
    """The error of a direction whose moments were stored once."""
    rng, size = np.random.default_rng(1), world(kind, shape)
    noise = rng.standard_normal((3, *shape)).astype(np.float32)
    mu, nu = size * np.float32(0.23) * noise[0], size**2 * (1 + np.float32(0.045) * noise[1]) ** 2
    inner, grad = gx.scale_by_adam(), jnp.asarray(size * noise[2])
    exact = optax.ScaleByAdamState(jnp.int32(100_000), jnp.asarray(mu), jnp.asarray(nu))
    tx = store(inner, rounding="nearest")
    state = gx.lowbit.requantized(exact, tx.init(grad))
    return off(jax.jit(tx.update)(grad, state)[0], inner.update(grad, exact)[0])


def later(kind: str, shape: tuple[int, int], stops: Sequence[int]) -> dict[str, list[Off]]:
    """The errors of the directions after so many steps, of all entrants on the same gradients."""
    size, key, inner = jnp.asarray(world(kind, shape)), jax.random.key(2), gx.scale_by_adam()
    entrants = {name: store(inner) for name, store in STORES.items()}
    entrants |= {name: make() for name, make in PLAIN.items()} | {"float32": inner}

    def step(t: Any, carry: Any) -> Any:
        z = jax.random.normal(jax.random.fold_in(key, t), (6, *shape))
        grad = size * z[0] / jnp.sqrt(jnp.mean(z[1:] ** 2, axis=0))
        return {name: tx.update(grad, carry[name][1]) for name, tx in entrants.items()}

    run = jax.jit(lambda start, stop, carry: jax.lax.fori_loop(start, stop, step, carry), donate_argnums=2)
    carry = {name: (jnp.zeros_like(size), tx.init(size)) for name, tx in entrants.items()}
    found: dict[str, list[Off]] = {name: [] for name in entrants if name != "float32"}
    for start, stop in zip((0, *stops), stops, strict=False):
        carry = run(start, stop, carry)
        for name, offs in found.items():
            offs.append(off(carry[name][0], carry["float32"][0]))
    return found


# ------------------------------------------------------------------------------------------------ steps


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
        self.params, self.state, self.size = params, tx.init(params), leaves * int(np.prod(shape))
        self.bytes = sum(x.nbytes for x in jax.tree.leaves(self.state)) / self.size
        self.step = jax.jit(step, donate_argnums=(0, 1)).lower(params, self.state, self.grads).compile()
        memory: Any = self.step.memory_analysis()
        self.temporary = memory.temp_size_in_bytes / (4 * int(np.prod(shape)))
        self.seconds, self.processor = list[float](), list[float]()

    @property
    def moved(self) -> float:
        """The bytes that a step reads and writes, if each number is touched once."""
        return self.size * (4 + 2 * 4 + 2 * self.bytes)

    def __call__(self) -> None:
        start, spent = time.perf_counter(), time.process_time()
        self.params, self.state = self.step(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state))
        self.seconds.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - spent)


class Copy:
    """An array that is read and written whole, in the place of another one: what the memory can do."""

    def __init__(self, size: int) -> None:
        self.x = jnp.ones(size)
        self.step = jax.jit(lambda x: x + np.float32(1), donate_argnums=0).lower(self.x).compile()
        self.moved, self.seconds = 8.0 * size, list[float]()

    def __call__(self) -> None:
        start = time.perf_counter()
        self.x = jax.block_until_ready(self.step(self.x))
        self.seconds.append(time.perf_counter() - start)


def entrants() -> dict[str, Any]:
    adamw = {"float32": gx.adamw(1e-3)} | {name: store(gx.adamw(1e-3)) for name, store in STORES.items()}
    decay, rate = optax.add_decayed_weights(1e-4), optax.scale(-1e-3)
    return adamw | {name: optax.chain(make(), decay, rate) for name, make in PLAIN.items()}


def steps(leaves: int, shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """What the state takes and what a step costs, by entrant; and the speed of a copy."""
    runs = {name: Run(tx, leaves, shape) for name, tx in entrants().items()}
    copy = Copy(runs["float32"].size)
    for _ in range(rounds + WARM):
        for run in (*runs.values(), copy):
            run()
    base = runs["float32"]
    figures = {
        name: {
            "bytes_a_parameter": run.bytes,
            "temporary_leaves": run.temporary,
            "milliseconds": 1e3 * statistics.median(run.seconds[WARM:]),
            "gigabytes_a_second": run.moved / statistics.median(run.seconds[WARM:]) / 1e9,
            "time": ratio(run.seconds[WARM:], base.seconds[WARM:]),
            "processor_time": ratio(run.processor[WARM:], base.processor[WARM:]),
        }
        for name, run in runs.items()
    }
    return {
        "copy_gigabytes_a_second": copy.moved / statistics.median(copy.seconds[WARM:]) / 1e9,
        "entrants": figures,
    }


def ratio(times: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """How many times as long it takes, round by round."""
    ordered, tenth = sorted(x / y for x, y in zip(times, base, strict=True)), len(times) // 10
    return {"median": statistics.median(ordered), "p10": ordered[tenth], "p90": ordered[-1 - tenth]}


# ------------------------------------------------------------------------------------------------ the tables


def row(name: str, cells: Sequence[str], width: int = 20) -> None:
    print(f"{name:28}" + "".join(f"{cell:>{width}}" for cell in cells), flush=True)


def errors(title: str, table: Mapping[str, Mapping[str, Off]]) -> None:
    kinds = list(next(iter(table.values())))
    row(f"\n{title}", kinds)
    for name, cells in table.items():
        row(name, [f"{x.error:.4f} ({x.worst:.2f})" for x in cells.values()])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="small arrays, few steps, two rounds")
    options = parser.parse_args(arguments)
    shape, leaves, rounds = ((512, 1024), 8, options.rounds) if not options.quick else ((16, 256), 1, 2)
    stops, small = (LATER, (16, 1024)) if not options.quick else ((2, 3), shape)
    results: dict[str, Any] = {"machine": machine(), "leaves": leaves, "shape": shape, "rounds": rounds}
    print(
        f"jax {jax.__version__}, {results['machine']['device']}; {leaves} leaves of {shape}, {rounds} rounds"
    )
    got = results["steps"] = steps(leaves, shape, rounds)
    titles = ["B a parameter", "temporary, leaves", "GB/s moved", "time : float32", "processor : float32"]
    row("\nAdamW", titles, 22)
    for name, x in got["entrants"].items():
        cells = [f"{x[key]:.3f}" for key in ("bytes_a_parameter", "temporary_leaves", "gigabytes_a_second")]
        cells += [
            f"{y['median']:.2f} ({y['p10']:.2f} - {y['p90']:.2f})" for y in (x["time"], x["processor_time"])
        ]
        row(name, cells, 22)
    row("a copy", ["", "", f"{got['copy_gigabytes_a_second']:.3f}"], 22)
    kinds = ("flat", "rows+cols", "wild") if not options.quick else ("wild",)
    once = {name: {kind: direction(store, kind, shape) for kind in kinds} for name, store in STORES.items()}
    errors("stored once: error (worst)", once)
    runs = {kind: later(kind, small, stops) for kind in ("flat", "columns", "wild")[-len(kinds) :]}
    tables = {"once": once}
    for i, stop in enumerate(stops):
        tables[str(stop)] = {n: {kind: runs[kind][n][i] for kind in runs} for n in (*STORES, *PLAIN)}
        errors(f"after {stop} steps", tables[str(stop)])
    results["directions"] = {
        when: {n: {k: x._asdict() for k, x in cells.items()} for n, cells in table.items()}
        for when, table in tables.items()
    }
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2))
    return results


if __name__ == "__main__":
    main()
