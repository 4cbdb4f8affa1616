"""Who takes part: an optimizer as a compiled, donated step or called eagerly, the machine itself, other processes."""

import ctypes
import functools
import gc
import hashlib
import json
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx
from benchmarks.program import build
from benchmarks.rounds import cores
from benchmarks.shapes import Shapes
from benchmarks.trees import size, tree

HERE = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
#: What a step has to move for each number beside its state: the gradient once, the parameter read and written.
GRADIENT_AND_PARAMETER = 12.0
NORM = 4.0  # the gradient once more, before anything can be scaled by its norm


class LeftOut(Exception):
    """An entrant cannot take part here; the text says why."""


class Entrant(Protocol):
    """One that takes turns. `facts` is what can be said of it without a clock, in JSON's types."""

    facts: dict[str, Any]

    def turn(self) -> float:
        """One step, or as many as are timed together: its seconds."""
        ...

    def close(self) -> None: ...


Make = Callable[[], Entrant]


def apply_of(tx: Any) -> Callable[..., Any]:
    """Each library with its own addition."""
    return gx.apply_updates if isinstance(tx, gx.GradientTransformation) else optax.apply_updates


def step_of(tx: Any) -> Callable[..., Any]:
    """The new parameters and the new state."""
    apply = apply_of(tx)

    def step(params: Any, state: Any, grads: Any, **extra: Any) -> Any:
        updates, state = tx.update(grads, state, params, **extra)
        return apply(params, updates), state

    return step


def bytes_of(values: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(values) if hasattr(x, "nbytes"))


class Compiled:
    """An optimizer's step in one jitted function with donated parameters and state.

    A turn is so many `calls`, and its seconds are those of one of them, or of all `together`.
    """

    def __init__(self, tx: Any, params: Any, grads: Any, calls: int = 1, together: bool = False) -> None:
        step, state = step_of(tx), tx.init(params)
        self.calls, self.divide, self.grads = calls, 1 if together else calls, grads
        self.carried = params, state
        self.program, figures = build(step, (params, state, grads), donate=(0, 1), fresh=True)
        numbers = sum(x.size for x in jax.tree.leaves(params))
        self.facts: dict[str, Any] = {
            **figures._asdict(),
            "numbers": numbers,
            "state_bytes_a_number": bytes_of(state) / numbers,
        }
        jax.block_until_ready(self.carried)

    def turn(self) -> float:
        start = time.perf_counter()
        for _ in range(self.calls):
            self.carried = self.program(*self.carried, self.grads)
        jax.block_until_ready(self.carried)
        return (time.perf_counter() - start) / self.divide

    @property
    def params(self) -> Any:
        return self.carried[0]

    def close(self) -> None:
        del self.carried, self.program, self.grads
        gc.collect()


class Eager:
    """An optimizer whose `update` is called as it is, without a jit of the user's."""

    def __init__(self, tx: Any, params: Any, grads: Any) -> None:
        self.step, self.grads = step_of(tx), grads
        jax.clear_caches()  # so that the first call compiles, whoever came before
        start = time.perf_counter()
        self.carried = jax.block_until_ready((params, tx.init(params)))
        middle = time.perf_counter()
        self.turn()
        self.facts: dict[str, Any] = {
            "init_seconds": middle - start,
            "first_seconds": time.perf_counter() - middle,
        }

    def turn(self) -> float:
        start = time.perf_counter()
        self.carried = jax.block_until_ready(self.step(*self.carried, self.grads))
        return time.perf_counter() - start

    @property
    def params(self) -> Any:
        return self.carried[0]

    def close(self) -> None:
        del self.carried, self.grads
        gc.collect()


# ------------------------------------------------------------------------------------------------ the machine


def compiler() -> str:
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        raise LeftOut("there is no C compiler here")
    return found


def library() -> Any:
    """limit.c, built once for this machine and kept beside other temporary files."""
    command, source = compiler(), HERE / "limit.c"
    about = (source.read_bytes(), command, FLAGS, platform.node(), platform.machine())
    path = Path(tempfile.gettempdir()) / f"limit-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        made = path.with_suffix(f".{time.monotonic_ns()}")
        child = subprocess.run(
            [command, *FLAGS, str(source), "-o", str(made), "-lm"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if child.returncode:
            raise LeftOut(f"{command} does not build limit.c: {child.stderr.strip().splitlines()[-1:]}")
        made.replace(path)
    return ctypes.CDLL(str(path))


@functools.lru_cache(maxsize=1)
def arrays(numbers: int) -> list[np.ndarray]:
    """What all loops of a case work on: p, g, m, v."""
    block = 0.01 * np.random.default_rng(0).random(min(numbers, 1 << 20), dtype=np.float32)
    return [np.resize(block, numbers) for _ in range(4)]


class Native:
    """A loop of limit.c over arrays of so many numbers: what the memory can do, on all cores."""

    def __init__(self, loop: str, numbers: int) -> None:
        if jax.default_backend() != "cpu":
            raise LeftOut("the limit of a CPU says nothing about another device")
        self.function, self.numbers = getattr(library(), loop), ctypes.c_long(numbers)
        p, g, m, v = (ctypes.c_void_p(x.ctypes.data) for x in arrays(numbers))
        # g is not negative, so that neither is v when it has been copied there.
        self.pointers, moved = {
            "copy": ((v, g), 8.0),
            "triad": ((m, g, v), 12.0),
            "adamw": ((p, g, m, v), GRADIENT_AND_PARAMETER + NORM + 16),
        }[loop]
        self.facts: dict[str, Any] = {"numbers": numbers, "bytes_a_number": moved}
        if loop == "adamw":
            self.facts["state_bytes_a_number"] = 8.0

    def turn(self) -> float:
        start = time.perf_counter()
        self.function(*self.pointers, self.numbers)
        return time.perf_counter() - start

    def close(self) -> None:
        arrays.cache_clear()


# ------------------------------------------------------------------------------------------------ other processes


class Process:
    """An entrant in a process of its own, which answers each line with a line of JSON.

    For what is another library's (its threads are not ours), and for what may not come to an end: it has `limit`
    seconds to say that it is ready.
    """

    def __init__(self, command: Sequence[str], limit: float) -> None:
        self.child = subprocess.Popen(
            command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        try:
            self.facts: dict[str, Any] = self._answer(limit)
            if "left out" in self.facts:
                raise LeftOut(self.facts["left out"])
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.answers.put(line)
        self.answers.put("")

    def _answer(self, limit: float) -> dict[str, Any]:
        try:
            line = self.answers.get(timeout=limit)
        except queue.Empty:
            raise LeftOut(f"not ready within {limit:.0f} s: it was still compiling") from None
        if not line:
            raise LeftOut(f"its process ended with {self.child.wait()}")
        return json.loads(line)

    def turn(self) -> float:
        assert self.child.stdin is not None
        self.child.stdin.write("turn\n")
        self.child.stdin.flush()
        return self._answer(600.0)["seconds"]

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.listener.join()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                pipe.close()


def serve(make: Make) -> None:
    """The other side of `Process`: makes the entrant, then one turn a line, until the input ends."""
    try:
        entrant = make()
    except LeftOut as reason:
        print(json.dumps({"left out": str(reason)}), flush=True)
        return
    print(json.dumps(entrant.facts), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": entrant.turn()}), flush=True)


def torch_python(wanted: str | None) -> str:
    """A Python that has torch: the one that was asked for, or this one."""
    python = wanted or sys.executable
    child = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    if child.returncode:
        raise LeftOut(f"{Path(python).name} has no torch (pip install 'gradxform[bench]', or --torch-python)")
    return python


def torch(python: str | None, method: str, tree_name: str, kind: str, limit: float) -> Process:
    """An optimizer of torch's: `kind` is "fused" or "foreach"."""
    command = [torch_python(python), "-m", "benchmarks.torch_steps", method, tree_name, kind, str(cores())]
    return Process(command, limit)


# ------------------------------------------------------------------------------------------------ makers


def compiled(make_tx: Callable[[], Any], shapes: Shapes, grads: Any) -> Make:
    return lambda: Compiled(make_tx(), tree(shapes, 1), grads)


def bucketed(make_tx: Callable[[], Any], shapes: Shapes) -> Make:
    """The same optimizer on natively flat storage, where this gradxform has it."""

    def make() -> Entrant:
        fused = getattr(gx, "fused", None)
        if fused is None:
            raise LeftOut("this gradxform has no gx.fused")
        tx = make_tx()
        try:
            params, grads = (fused.pack(tree(shapes, seed), tx) for seed in (1, 0))
            return Compiled(fused.bucketed(tx), params, grads)
        except ValueError as refusal:  # of what needs whole leaves
            raise LeftOut(str(refusal).splitlines()[0]) from refusal

    return make


def native(shapes: Shapes, loops: Sequence[str] = ("adamw",)) -> dict[str, Make]:
    names = {"adamw": "C, in place", "copy": "C, copy", "triad": "C, triad"}
    return {names[loop]: lambda loop=loop: Native(loop, size(shapes)) for loop in loops}


def whole(params: Any) -> Any:
    """The tree that a user knows, of buckets too."""
    return params.unpack() if hasattr(params, "unpack") else params


def difference(one: Any, other: Any) -> float | None:
    """The largest difference of a parameter, where both have one tree."""
    a, b = (whole(getattr(x, "params", None)) for x in (one, other))
    if a is None or b is None or jax.tree.structure(a) != jax.tree.structure(b):
        return None
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)


def closing(entrants: Mapping[str, Entrant]) -> None:
    for entrant in entrants.values():
        entrant.close()
    gc.collect()
