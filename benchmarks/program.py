"""What a compiled program says of itself: equations, kernels, temporary bytes, buffers written in place.

None of this depends on the clock or on what else the machine does: tests/benchmarks/test_gate.py holds it.
"""

import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

# What stands in a program without doing anything at run time, and what stands for others.
CALLERS = {"conditional", "while", "call"}
IDLE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", *CALLERS}
COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
CALLED = re.compile(r"(?:branch_computations|true_computation|false_computation|body|to_apply)=(\{.*?\}|\S+)")
NAME = re.compile(r"%([\w.\-]+)")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?\S+ = (?P<type>\(.*?\)|\S+) (?P<operation>[\w\-]+)\((?P<rest>.*)")


def inner(equation: Any) -> list[Any]:
    """The programs inside an equation: of a jit, a branch, a loop."""
    found: list[Any] = []
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                found.append(getattr(part, "jaxpr", part))
    return found


def equations(jaxpr: Any) -> int:
    """Equations as they are executed: those of an inner program at every place that calls it."""
    return sum(sum(map(equations, inner(e))) if inner(e) else 1 for e in jaxpr.eqns)


def equations_once(jaxpr: Any) -> int:
    """Equations as they are written: those of an inner program once, however many places call it; a call is one."""
    seen: dict[int, Any] = {}

    def count(jaxpr: Any) -> int:
        total = len(jaxpr.eqns)
        for equation in jaxpr.eqns:
            for part in inner(equation):
                if id(part) not in seen:
                    seen[id(part)] = part  # kept, so that no other one takes its id
                    total += count(part)
        return total

    return count(jaxpr)


def computations(text: str) -> tuple[str, dict[str, list[re.Match[str]]]]:
    """The name of the one that is run, and the instructions of each."""
    found: dict[str, list[re.Match[str]]] = {}
    first = name = ""
    for line in text.splitlines():
        if opened := COMPUTATION.match(line):
            name = opened["name"]
            found[name] = []
            first = name if opened["entry"] else first
        elif instruction := INSTRUCTION.match(line):
            found[name].append(instruction)
    return first, found


def started(text: str, counts: Callable[[re.Match[str]], bool]) -> int:
    """How many instructions count of those that are run: a branch's longer side, a loop's body once."""
    first, found = computations(text)

    def count(name: str) -> int:
        total = 0
        for x in found[name]:
            if x["operation"] in CALLERS:  # a fusion or a reduction calls too, and is one kernel
                parts = [count(part) for part in NAME.findall(" ".join(CALLED.findall(x["rest"])))]
                total += max(parts) if x["operation"] == "conditional" else sum(parts)
            total += counts(x)
        return total

    return count(first)


def kernels(text: str) -> int:
    """What is started one after the other: fusions, copies, calls, each with its cost however small it is."""
    return started(text, lambda x: x["operation"] not in IDLE)


def copies(text: str, numbers: int) -> int:
    """Copies of arrays of at least so many numbers: what donation should have saved, and did not."""

    def large(x: re.Match[str]) -> bool:
        dimensions = re.search(r"\[([\d,]*)\]", x["type"])
        lengths = (dimensions[1] if dimensions else "").split(",")
        return x["operation"] == "copy" and math.prod(int(n or 1) for n in lengths) >= numbers

    return started(text, large)


def written_in_place(text: str) -> int:
    """How many outputs take the place of a donated argument."""
    header = text[: text.index("\n")]
    return len(re.findall(r"\{[\d, ]*\}: \(\d+, \{[\d, ]*\}, (?:may|must)-alias\)", header))


class Facts(NamedTuple):
    """A traced and compiled program, in figures."""

    trace_seconds: float
    lower_seconds: float
    compile_seconds: float
    equations: int
    equations_once: int
    kernels: int
    temporary_bytes: int
    aliased_bytes: int
    output_bytes: int
    in_place: int


def build(
    step: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    donate: tuple[int, ...] = (),
    options: Mapping[str, Any] | None = None,
    keep_unused: bool = False,
    fresh: bool = False,
) -> tuple[Any, Facts]:
    """The compiled step, and its figures. Nothing is run.

    With `fresh` JAX forgets what it has traced before, so that nobody profits from who came first: the seconds are the
    median of three traces, or of the first alone where it takes long.
    """
    tracing = list[float]()
    while len(tracing) < 3 and (not tracing or (fresh and tracing[0] < 1.0)):
        if fresh:
            jax.clear_caches()
        start = time.perf_counter()
        traced: Any = jax.jit(step, donate_argnums=donate, keep_unused=keep_unused).trace(*arguments)
        tracing.append(time.perf_counter() - start)
    times = [time.perf_counter()]
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile(options)
    times.append(time.perf_counter())
    text, memory = compiled.as_text(), compiled.memory_analysis()
    return compiled, Facts(
        statistics.median(tracing),
        *(end - start for start, end in itertools.pairwise(times)),
        equations(traced.jaxpr.jaxpr),
        equations_once(traced.jaxpr.jaxpr),
        kernels(text),
        memory.temp_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.output_size_in_bytes,
        written_in_place(text),
    )
