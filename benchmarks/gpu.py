"""What a GPU makes of the update: twelve experiments in one call of at most eight minutes, one JSON.

    python benchmarks/gpu.py --out gpu.json            # on a machine with a GPU
    python benchmarks/gpu.py --quick --out quick.json  # small sizes, to see on a CPU that it runs

Experiments are E1 to E12 and torch; each one's figures, or its error, stand under its name, and what the time did not
allow under `left_out`. Times are medians over rounds in which the variants take turns; a round is several donated calls
and one wait. `of_copy` is the share of the bandwidth of a copy measured here that a variant reaches with the bytes that
it has to move: for AdamW in float32, 28 a number without and 32 with the norm.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch and a second process want memory too

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

Shapes = Mapping[str, tuple[int, ...]]
Step = Callable[..., Any]
SCHEDULE = (0.0, 1e-3, 100, 10_000)


# ------------------------------------------------------------------------------------------------ trees and steps


def transformer(width: int, layers: int, vocabulary: int) -> Shapes:
    """The leaves of a GPT-2: 12 a layer and four more, 148 for 12 layers."""
    d = width
    shapes: dict[str, tuple[int, ...]] = {"embed": (vocabulary, d), "position": (1024, d)}
    block = {"norm1": (d,), "norm1_bias": (d,), "qkv": (d, 3 * d), "qkv_bias": (3 * d,)}
    block |= {"out": (d, d), "out_bias": (d,), "norm2": (d,), "norm2_bias": (d,)}
    block |= {"up": (d, 4 * d), "up_bias": (4 * d,), "down": (4 * d, d), "down_bias": (d,)}
    shapes |= {f"block_{i}/{name}": shape for i in range(layers) for name, shape in block.items()}
    return {**shapes, "norm": (d,), "norm_bias": (d,)}


def cases(quick: bool) -> dict[str, Shapes]:
    """The trees by name; `flat` ones hold the numbers of the tree of that name in two rows, one of them decayed."""
    if quick:
        trees: dict[str, Shapes] = {
            "one": {"w": (64, 64)},
            "gpt2": {"embed": (32, 16), "qkv": (16, 48), "bias": (48,)},
            "1000": {f"w{i}": (8, 16) for i in range(4)},
            "5000": {f"w{i}": (10, 10) for i in range(6)},
        }
    else:
        trees = {
            "one": {"w": (5_000, 10_000)},
            "gpt2": transformer(768, 12, 50_257),
            "1000": {f"w{i}": (100, 100) for i in range(1_000)},
            "5000": {f"w{i}": (10, 10) for i in range(5_000)},
        }
    return {**trees, **{f"{name}, flat": flat(shapes) for name, shapes in trees.items()}}


def flat(shapes: Shapes) -> Shapes:
    """Two rows, of matrices and of the rest, as long as needed for whole blocks of 64 numbers."""
    sizes = {True: 0, False: 0}
    for shape in shapes.values():
        sizes[len(shape) > 1] += int(np.prod(shape))
    names = {"decayed": sizes[True], "rest": sizes[False]}
    return {name: (size + -size % 64,) for name, size in names.items() if size}


def numbers(shapes: Shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def tree(shapes: Shapes, seed: int, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """Normal numbers of 0.01, made on the device."""
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    names = shapes.items()
    return {n: (0.01 * jax.random.normal(k, s)).astype(dtype) for (n, s), k in zip(names, keys, strict=True)}


def decayed(params: Any) -> Any:
    return {name: p.ndim > 1 or name == "decayed" for name, p in params.items()}


def theirs(clip: bool = True) -> tuple[Any, Step]:
    """Optax's AdamW and its step."""
    rate = optax.warmup_cosine_decay_schedule(*SCHEDULE)
    tx = optax.adamw(rate, weight_decay=0.1, mask=decayed)
    tx = optax.chain(optax.clip_by_global_norm(1.0), tx) if clip else tx

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return tx, step


def ours(
    clip: bool = True, kernel: str | None = None, wrap: Any = lambda tx: tx, tile: int = 1024
) -> tuple[Any, Step]:
    """Ours, the plain way or by the kernel."""
    rate = gx.warmup_cosine_decay_schedule(*SCHEDULE)
    tx = gx.adamw(rate, weight_decay=0.1, mask=decayed)
    tx = wrap(gx.chain(gx.clip_by_global_norm(1.0), tx) if clip else tx)

    def step(params: Any, state: Any, grads: Any) -> Any:
        return gx.fused.apply_gradients(tx, grads, state, params, kernel=kernel, tile=tile)

    return tx, step


# ------------------------------------------------------------------------------------------------ measuring


class Entrant:
    """A compiled step and what it carries from call to call."""

    def __init__(self, step: Step, carried: Any, fixed: Any = (), donate: bool = True) -> None:
        count = len(carried)
        given = tuple(range(count)) if donate else ()
        start = time.perf_counter()
        traced = jax.jit(step, donate_argnums=given).trace(*carried, *fixed)
        middle = time.perf_counter()
        self.compiled = traced.lower().compile()
        self.seconds = {"trace": middle - start, "compile": time.perf_counter() - middle}
        self.carried, self.fixed = carried, fixed

    def __call__(self, calls: int) -> float:
        """The seconds of a call."""
        start = time.perf_counter()
        for _ in range(calls):
            self.carried = self.compiled(*self.carried, *self.fixed)
        jax.block_until_ready(self.carried)
        return (time.perf_counter() - start) / calls

    def facts(self) -> dict[str, Any]:
        """What does not depend on the clock."""
        memory, text = self.compiled.memory_analysis(), self.compiled.as_text()
        return {
            "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
            "aliased_bytes": getattr(memory, "alias_size_in_bytes", None),
            "aliases": len(re.findall(r"(?:may|must)-alias", text.split("\n", 1)[0])),
            **kernels(text),
            **{f"{name}_seconds": value for name, value in self.seconds.items()},
        }


def kernels(text: str) -> dict[str, int]:
    """How many operations of a kind the entry of an optimized program has: about as many kernels are started."""
    entry = text[text.index("\nENTRY") :] if "\nENTRY" in text else text
    kinds = re.findall(r"= (?:\([^=]*?\)|\S+) ([a-z][\w-]*)\(", entry)
    found = {kind: kinds.count(kind) for kind in ("fusion", "custom-call", "copy", "reduce", "call", "while")}
    found["horizontal"] = len(re.findall(r"horizontally_fused|horizontal", text))
    return {f"hlo_{kind.replace('-', '_')}": count for kind, count in found.items()}


class Lab:
    """Settings, the clock, and the bandwidth that all else is compared with."""

    def __init__(self, quick: bool, seconds: float) -> None:
        self.quick, self.end = quick, time.perf_counter() + seconds
        self.cases = cases(quick)
        self.copy: float | None = None
        self.rounds, self.calls = (2, 1) if quick else (9, 10)

    @property
    def left(self) -> float:
        return self.end - time.perf_counter()

    def race(self, entrants: Mapping[str, Callable[[], Any]], of: Shapes | None, width: float = 32) -> Any:
        """Medians of variants that take turns; one that does not compile has its error in their place."""
        made: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name, make in entrants.items():
            if self.left < 0 and not self.quick:
                found[name] = {"left_out": "no time"}
                continue
            try:
                made[name] = make()
                made[name](2)
            except Exception as problem:
                made.pop(name, None)
                found[name] = {"error": f"{type(problem).__name__}: {problem}"[:2_000]}
        times: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(self.rounds):
            for name, run in made.items():
                times[name].append(run(self.calls))
        for name, taken in times.items():
            middle = statistics.median(taken)
            found[name] = {"milliseconds": 1e3 * middle, "rounds": [1e3 * t for t in taken]}
            if of is not None:
                found[name] |= self.share(numbers(of) * width / middle)
            if isinstance(made[name], Entrant):
                found[name] |= made[name].facts()
        return found

    def share(self, rate: float) -> dict[str, Any]:
        return {"gigabytes_a_second": rate / 1e9, "of_copy": None if self.copy is None else rate / self.copy}

    def entrant(
        self, made: tuple[Any, Step], shapes: Shapes, dtype: Any = jnp.float32, **more: Any
    ) -> Entrant:
        """A step on a tree, after `init`."""
        tx, step = made
        params = tree(shapes, 1, dtype)
        return Entrant(step, (params, tx.init(params)), (tree(shapes, 0, dtype),), **more)


# ------------------------------------------------------------------------------------------------ experiments


def e1_limit(lab: Lab) -> Any:
    """Copy, triad, and an in-place update of three arrays out of four: 28 bytes a number."""
    size = 2**16 if lab.quick else 2**28
    rows = {"w": (size,)}
    a = [jnp.full(size, 0.5) for _ in range(4)]
    plain = {"donate": False}
    copy = {"copy": lambda: Entrant(lambda x: (x + 1,), (a[0],), **plain)}
    triad = {"triad": lambda: Entrant(lambda x, y, z: (y + 0.5 * z,), (a[0],), tuple(a[1:3]), **plain)}
    got = {**lab.race(copy, rows, 8), **lab.race(triad, rows, 12)}
    fresh = [jnp.full(size, 0.5) for _ in range(4)]

    def update(p: Any, m: Any, v: Any, g: Any) -> Any:
        m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g * g
        return p - 0.1 * m * jax.lax.rsqrt(v + 1e-8), m, v

    got |= lab.race({"update": lambda: Entrant(update, tuple(fresh[:3]), (fresh[3],))}, rows, 28)
    # x + 1 reads and writes as a copy does; a plain copy of a buffer XLA would leave out.
    lab.copy = 1e9 * got["copy"]["gigabytes_a_second"]
    for name, width in (("copy", 8), ("triad", 12), ("update", 28)):
        got[name] |= lab.share(size * width / (got[name]["milliseconds"] / 1e3))
    return got


def e2_steps(lab: Lab) -> Any:
    """Clipped AdamW: Optax and ours, with and without clip and donation, on each tree that compiles in time."""
    found: dict[str, Any] = {}
    for name in ("one", "gpt2", "1000"):
        shapes = lab.cases[name]
        variants = {
            "optax": lambda shapes=shapes: lab.entrant(theirs(), shapes),
            "gradxform": lambda shapes=shapes: lab.entrant(ours(), shapes),
        }
        if name != "1000":
            variants |= {
                "optax, not donated": lambda shapes=shapes: lab.entrant(theirs(), shapes, donate=False),
                "optax, no clip": lambda shapes=shapes: lab.entrant(theirs(False), shapes),
                "gradxform, no clip": lambda shapes=shapes: lab.entrant(ours(False), shapes),
            }
        found[name] = lab.race(variants, shapes)
    return found


def e3_programs(lab: Lab) -> Any:
    """Whether the clipped gradient is written to memory, and how many kernels a step has."""
    shapes = lab.cases["gpt2"]
    found = {}
    for name, made in {"optax": theirs(), "gradxform": ours(), "kernel": ours(kernel="pallas")}.items():
        facts = lab.entrant(made, shapes).facts()
        found[name] = {**facts, "clipped_copy": facts["temporary_bytes"] >= 4 * numbers(shapes)}
    return {**found, "leaves": len(shapes)}


def e4_command_buffers(lab: Lab) -> Any:
    """The step on 148 leaves in processes of their own, with command buffers and without."""
    found: dict[str, Any] = {}
    flags = {
        "on": "--xla_gpu_graph_min_graph_size=1",
        "off": "--xla_gpu_enable_command_buffer=",
        "default": "",
    }
    for name, flag in flags.items():
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            env = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
            command = [sys.executable, os.path.abspath(__file__), "--only", "E1,gpt2", "--out", file.name]
            command += ["--quick"] if lab.quick else []
            limit = max(10.0, min(90.0, lab.left))
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=limit, check=False
            )
            if done.returncode:
                found[name] = {"error": done.stderr[-2_000:]}
            else:
                with open(file.name) as back:
                    found[name] = json.load(back)["results"]["gpt2"]
    return found


def gpt2(lab: Lab) -> Any:
    """The step on 148 leaves, for E4."""
    shapes = lab.cases["gpt2"]
    variants = {
        "optax": lambda: lab.entrant(theirs(), shapes),
        "gradxform": lambda: lab.entrant(ours(), shapes),
    }
    return lab.race(variants, shapes)


def e5_horizontal(lab: Lab) -> Any:
    """Whether loops of several leaves became one, and whether outputs stayed in their inputs' place."""
    shapes = {f"w{i}": (8, 16) for i in range(8)} if lab.quick else {f"w{i}": (100, 100) for i in range(64)}
    found: dict[str, Any] = {}
    for name, made in {"optax": theirs(), "gradxform": ours()}.items():
        facts = lab.entrant(made, shapes).facts()
        found[name] = {**facts, "kernels_a_leaf": facts["hlo_fusion"] / len(shapes)}
    return {**found, "leaves": len(shapes), "donated": 3 * len(shapes) + 2}


def e6_storage(lab: Lab) -> Any:
    """The same numbers as leaves, as buckets, as rows, as stacks of equal shapes, and as rows made at each step."""
    found: dict[str, Any] = {}
    for name in ("gpt2", "1000", "5000"):
        shapes, rows = lab.cases[name], lab.cases[f"{name}, flat"]
        stacks: dict[str, tuple[int, ...]] = {}
        for shape in dict.fromkeys(shapes.values()):
            count = sum(s == shape for s in shapes.values())
            stacks["x".join(map(str, shape))] = (count, *shape)
        variants = {
            "flat": lambda rows=rows: lab.entrant(ours(), rows),
            "buckets": lambda shapes=shapes: packed(shapes),
        }
        if name != "5000":
            variants["stacks"] = lambda stacks=stacks: lab.entrant(ours(), stacks)
        if name == "gpt2":  # 1000 leaves are in E2
            variants["leaves"] = lambda shapes=shapes: lab.entrant(ours(), shapes)
            variants["rows made anew"] = lambda shapes=shapes: joined(lab, shapes)
        found[name] = lab.race(variants, shapes)
    return found


def packed(shapes: Shapes) -> Entrant:
    """Buckets outside and inside, as a training loop keeps them."""
    tx, step = ours(wrap=gx.fused.bucketed)
    params = gx.fused.pack(tree(shapes, 1), tx)
    return Entrant(step, (params, tx.init(params)), (gx.fused.pack(tree(shapes, 0), params),))


def joined(lab: Lab, shapes: Shapes) -> Entrant:
    """Leaves outside, one row inside: joined before the step and cut behind it."""
    tx, step = ours()
    row = {"decayed": jnp.zeros(numbers(shapes))}
    names = list(shapes)

    def joining(params: Any, state: Any, grads: Any) -> Any:
        def join(t: Any) -> Any:
            return {"decayed": jnp.concatenate([t[n].reshape(-1) for n in names])}

        made, state = step(join(params), state, join(grads))
        return cut(made["decayed"], shapes), state

    return Entrant(joining, (tree(shapes, 1), tx.init(row)), (tree(shapes, 0),))


def cut(row: Any, shapes: Shapes) -> dict[str, Any]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()]).tolist()
    parts = [row[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return {name: x.reshape(shape) for x, (name, shape) in zip(parts, shapes.items(), strict=True)}


def e7_kernel(lab: Lab) -> Any:
    """The Pallas kernel: on rows, on one leaf, on the leaf mix; several tiles; bfloat16 parameters."""
    found: dict[str, Any] = {}
    tiles = (64,) if lab.quick else (512, 1024, 2048, 4096)
    for name in ("gpt2, flat", "one", "gpt2", "1000, flat"):
        shapes = lab.cases[name]
        several = name == "gpt2, flat"
        variants: dict[str, Callable[[], Any]] = {"plain": lambda s=shapes: lab.entrant(ours(), s)}
        for tile in tiles if several else tiles[:1] if lab.quick else (1024,):
            variants[f"kernel, tile {tile}"] = lambda s=shapes, t=tile: lab.entrant(
                ours(kernel="pallas", tile=t), s
            )
        found[name] = lab.race(variants, shapes)
    shapes = lab.cases["gpt2, flat"]
    words = {
        "plain": lambda: lab.entrant(ours(), shapes, jnp.bfloat16),
        "kernel": lambda: lab.entrant(ours(kernel="pallas", tile=tiles[0]), shapes, jnp.bfloat16),
    }
    found["gpt2, flat, bfloat16"] = lab.race(words, shapes, 2 + 2 + 2 + 2 + 8 + 4 + 2)
    return found


def e8_few_bits(lab: Lab) -> Any:
    """Moments in 8 and in 16 bits, by XLA and by the kernel, beside float32."""
    shapes = lab.cases["gpt2, flat"]
    tile = 64 if lab.quick else 1024
    found: dict[str, Any] = {}

    def stored(bits: int) -> Any:
        return lambda tx: gx.lowbit.quantized(tx, bits=bits, min_size=0, wide=())

    for name, wrap, width in (
        ("float32", lambda tx: tx, 32),
        ("16 bits", stored(16), 24),
        ("8 bits", stored(8), 20.1),
    ):
        variants = {
            "plain": lambda w=wrap: lab.entrant(ours(wrap=w), shapes),
            "kernel": lambda w=wrap: lab.entrant(ours(kernel="pallas", wrap=w, tile=tile), shapes),
        }
        found[name] = lab.race(variants, shapes, width)
    return found


def newton_schulz(g: Any) -> Any:
    """Five steps of the quintic of Muon on a matrix or a stack of them, in the dtype of `g`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (jnp.sqrt(jnp.sum(jnp.square(g), axis=(-2, -1), keepdims=True)) + 1e-7).astype(g.dtype)
    for _ in range(5):
        s = x @ jnp.swapaxes(x, -1, -2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x


def e9_muon(lab: Lab) -> Any:
    """Newton-Schulz of the matrices of 12 layers, one by one and as one batch a shape, in float32 and bfloat16."""
    d, layers = (32, 2) if lab.quick else (768, 12)
    shapes = [(d, 3 * d), (d, d), (d, 4 * d), (d, 4 * d)]
    work = sum(5 * layers * (4 * m * m * n + 2 * m**3) for m, n in shapes)
    found: dict[str, Any] = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        stacks = [jnp.full((layers, *shape), 0.01, dtype) for shape in shapes]

        def alone(stacks: Any) -> Any:
            return ([jnp.stack([newton_schulz(x) for x in stack]) for stack in stacks],)

        def batched(stacks: Any) -> Any:
            return ([newton_schulz(stack) for stack in stacks],)

        ways = {"alone": alone, "batched": batched}
        got = lab.race(
            {n: (lambda f=f, s=stacks: Entrant(f, (s,), donate=False)) for n, f in ways.items()}, None
        )
        for entry in got.values():
            if "milliseconds" in entry:
                entry["teraflops"] = work / entry["milliseconds"] / 1e9
        found[jnp.dtype(dtype).name] = got
    return found


def e10_compile(lab: Lab) -> Any:
    """Seconds to trace and to compile, by the number of leaves; of 1000 leaves they are in E2."""
    found: dict[str, Any] = {}
    some = {f"w{i}": (8, 8) for i in range(4)} if lab.quick else {f"w{i}": (100, 100) for i in range(100)}
    trees = {"leaves": some, "1000, flat": lab.cases["1000, flat"], "5000, flat": lab.cases["5000, flat"]}
    for name, shapes in trees.items():
        made = {"gradxform": ours(), "optax": theirs(), "kernel": ours(kernel="pallas")}
        found[name] = {n: lab.entrant(m, shapes).seconds for n, m in made.items()}
    return found


def e11_accumulate(lab: Lab) -> Any:
    """A cycle of four micro-steps, as a number of AdamW steps."""
    shapes = lab.cases["gpt2"]
    tx, step = theirs()
    multi = optax.MultiSteps(tx, 4)

    def many(params: Any, state: Any, grads: Any) -> Any:
        updates, state = multi.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    variants = {
        "adamw": lambda: lab.entrant((tx, step), shapes),
        "optax.MultiSteps": lambda: lab.entrant((multi, many), shapes),
        "gradxform.accumulate": lambda: lab.entrant(ours(wrap=lambda tx: gx.accumulate(tx, 4)), shapes),
    }
    calls, lab.calls = lab.calls, 4 * max(1, lab.calls // 4)
    try:
        found = lab.race(variants, None)
    finally:
        lab.calls = calls
    one = found["adamw"].get("milliseconds")
    for entry in found.values():
        if one and "milliseconds" in entry:
            entry["cycle_in_adamw_steps"] = 4 * entry["milliseconds"] / one
    return found


def unflatten(shapes: Shapes) -> Callable[[Any], Any]:
    """Leaves of a row, whose gradients come back by one concatenation."""

    @jax.custom_vjp
    def open_row(row: Any) -> Any:
        return cut(row, shapes)

    def back(_: None, grads: Any) -> tuple[Any]:
        return (jnp.concatenate([grads[name].reshape(-1) for name in shapes]),)

    open_row.defvjp(lambda row: (cut(row, shapes), None), back)
    return open_row


def e12_training(lab: Lab) -> Any:
    """A whole training step of a deep narrow network: leaves, rows, rows and kernel."""
    width, depth, batch = (16, 2, 4) if lab.quick else (256, 64, 256)
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        shapes |= {f"w{i}": (width, width), f"b{i}": (width,)}
    x = jnp.linspace(-1.0, 1.0, batch * width).reshape(batch, width)

    def loss(params: Any) -> Any:
        h = x
        for i in range(depth):
            h = h + jnp.tanh(h @ params[f"w{i}"] + params[f"b{i}"])
        return jnp.mean(h * h)

    def training(made: tuple[Any, Step], view: Callable[[Any], Any], params: Any) -> Entrant:
        tx, step = made

        def whole(params: Any, state: Any) -> Any:
            return step(params, state, jax.grad(lambda p: loss(view(p)))(params))

        return Entrant(whole, (params, tx.init(params)))

    def row() -> Any:
        return {"decayed": jnp.concatenate([p.reshape(-1) for p in tree(shapes, 1).values()])}

    opened = unflatten(shapes)
    tile = 64 if lab.quick else 1024
    variants = {
        "optax": lambda: training(theirs(), lambda p: p, tree(shapes, 1)),
        "leaves": lambda: training(ours(), lambda p: p, tree(shapes, 1)),
        "rows": lambda: training(ours(), lambda p: opened(p["decayed"]), row()),
        "rows, kernel": lambda: training(
            ours(kernel="pallas", tile=tile), lambda p: opened(p["decayed"]), row()
        ),
    }
    return {**lab.race(variants, None), "leaves_of_the_tree": len(shapes)}


def torch_steps(lab: Lab) -> Any:
    """torch's AdamW with its clip, fused and foreach, on the same shapes."""
    try:
        import torch
    except ImportError:
        return {"skipped": "torch is not installed"}
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"

    class Torch:
        def __init__(self, shapes: Shapes, **how: bool) -> None:
            self.params = [torch.full(s, 0.01, device=device, requires_grad=True) for s in shapes.values()]
            for p in self.params:
                p.grad = torch.full_like(p, 0.01)
            self.tx = torch.optim.AdamW(self.params, 1e-3, weight_decay=0.1, **how)

        def __call__(self, calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                torch.nn.utils.clip_grad_norm_(self.params, 1.0)
                self.tx.step()
            if cuda:
                torch.cuda.synchronize()
            return (time.perf_counter() - start) / calls

    found: dict[str, Any] = {"version": torch.__version__, "device": device}
    for name in ("one", "gpt2", "1000"):
        shapes = lab.cases[name]
        variants = {
            "torch fused": lambda s=shapes: Torch(s, fused=True),
            "torch foreach": lambda s=shapes: Torch(s, foreach=True),
            "gradxform": lambda s=shapes: lab.entrant(ours(), s),
        }
        if not lab.quick:
            variants["kernel"] = lambda s=shapes: lab.entrant(ours(kernel="pallas"), s)
        found[name] = lab.race(variants, shapes)
    return found


#: In the order in which they run: what the others are compared with first, then by importance; with the seconds that
#: have to be left to begin.
EXPERIMENTS: dict[str, tuple[Callable[[Lab], Any], float]] = {
    "E1": (e1_limit, 5),
    "E7": (e7_kernel, 60),
    "E8": (e8_few_bits, 40),
    "E3": (e3_programs, 20),
    "E6": (e6_storage, 60),
    "torch": (torch_steps, 20),
    "E12": (e12_training, 20),
    "E2": (e2_steps, 60),
    "E11": (e11_accumulate, 20),
    "E5": (e5_horizontal, 10),
    "E9": (e9_muon, 20),
    "E4": (e4_command_buffers, 60),
    "E10": (e10_compile, 60),
    "gpt2": (gpt2, 20),
}


def machine() -> dict[str, Any]:
    device = jax.devices()[0]
    got: dict[str, Any] = {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "python": sys.version.split()[0],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
    try:
        memory = device.memory_stats()
        got["memory"] = memory and memory.get("bytes_limit")
    except Exception:
        got["memory"] = None
    return got


def clean(x: Any) -> Any:
    """Figures as JSON has them."""
    if isinstance(x, Mapping):
        return {str(k): clean(v) for k, v in x.items()}
    return [clean(v) for v in x] if isinstance(x, list | tuple) else getattr(x, "tolist", lambda: x)()


def save(path: str | None, found: Any) -> None:
    if path:
        with open(path, "w") as file:
            json.dump(clean(found), file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, for a CPU too")
    parser.add_argument("--seconds", type=float, default=450.0, help="when to begin nothing more")
    parser.add_argument("--only", default="", help="experiments by name, with commas between")
    parser.add_argument("--out", help="write the figures as JSON; it is kept up to date while they come")
    options = parser.parse_args()
    lab = Lab(options.quick, options.seconds)
    found: dict[str, Any] = {"machine": machine(), "quick": options.quick, "results": {}, "left_out": []}
    asked = [name for name in options.only.split(",") if name] or [n for n in EXPERIMENTS if n != "gpt2"]
    for name in asked:
        run, least = EXPERIMENTS[name]
        if lab.left < (0 if options.quick else least):
            found["left_out"].append(name)
            continue
        start = time.perf_counter()
        try:
            got = run(lab)
        except Exception:
            got = {"error": traceback.format_exc()[-4_000:]}
        found["results"][name] = {"seconds": time.perf_counter() - start, **got}
        jax.clear_caches()
        save(options.out, found)
        print(
            f"{name:6s} {time.perf_counter() - start:6.1f} s  {'failed' if 'error' in got else ''}",
            flush=True,
        )
    save(options.out, found)


if __name__ == "__main__":
    main()
