"""Speed, beside Optax, torch and what the machine can do: one command, and everything of a ratio in the same rounds.

    python -m benchmarks                                    # the table
    python -m benchmarks --quick                            # tiny trees, to see that it runs
    python -m benchmarks --only methods --tree 'GPT-2'      # a part of it
    python -m benchmarks --out FILE --plot PICTURE          # figures with hardware and versions; a picture
    python -m benchmarks --only muon --out FILE --add       # anew, and the other figures of the file kept
    python -m benchmarks --from FILE --guide PAGE           # nothing is run: the tables of a page from a file

Each entrant does the same work on the same tree: float32, parameters and state donated, the new parameters included.
All entrants of a case take turns in every round. "of limit" is the time that the in-place loop of limit.c would need
for the bytes that the method has to move, over the time needed. Equations and kernels are counted a leaf.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import forms, methods, training, wrappers
from benchmarks.cases import Case, Options, Section, measure
from benchmarks.entrants import Compiled
from benchmarks.machine import machine
from benchmarks.report import filled, lines, tables
from benchmarks.shapes import alike
from benchmarks.trees import tree

SECTIONS: dict[str, Section] = {
    "methods": methods.cases,
    "training step": training.cases,
    "wrappers": wrappers.cases,
    "eager": forms.eager,
    "few bits": forms.few_bits,
    "muon": forms.muon,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Options()
    made.add_argument("--quick", action="store_true", help="tiny trees, three rounds")
    made.add_argument(
        "--only", default="", metavar="NAME", help=f"sections whose name contains this: {', '.join(SECTIONS)}"
    )
    made.add_argument("--tree", default="", help="cases whose tree's name contains this")
    made.add_argument("--method", default="", help="cases of this method alone")
    made.add_argument("--rounds", type=int, help=f"at most so many a case ({usual.rounds})")
    made.add_argument(
        "--budget", type=float, default=usual.budget, help="seconds of rounds a case (%(default)s)"
    )
    made.add_argument(
        "--limit", type=float, default=usual.limit, help="seconds to compile 5,000 leaves (%(default)s)"
    )
    made.add_argument("--torch-python", help="a Python that has torch, where this one has not")
    made.add_argument("--out", type=Path, help="write the figures, as JSON")
    made.add_argument(
        "--add", action="store_true", help="keep what is in --out of cases that are not run now"
    )
    made.add_argument("--json", action="store_true", help="print them as JSON in place of the table")
    made.add_argument("--plot", type=Path, help="write the picture")
    made.add_argument("--from", type=Path, dest="read", help="take figures from this file, run nothing")
    made.add_argument("--guide", type=Path, help="write the tables into this page")
    return made


def warm() -> None:
    """Both libraries once, so that nobody's figures hold what JAX does at its first program."""
    shapes = alike(2, 4, 4)
    for make in methods.LIBRARIES.values():
        Compiled(make("adamw"), tree(shapes, 1), tree(shapes, 0)).close()


def added(cases: list[Any], got: Any) -> list[Any]:
    """The cases with this one in the place of what was measured of it before."""

    def key(case: Any) -> tuple[str, ...]:
        return case["section"], case["tree"], case["method"]

    places = [i for i, case in enumerate(cases) if key(case) == key(got)]
    return [*cases[: places[0]], got, *cases[places[0] + 1 :]] if places else [*cases, got]


def wanted(arguments: argparse.Namespace, options: Options) -> Iterator[Case]:
    for name, section in SECTIONS.items():
        if arguments.only in name:
            yield from (case for case in section(options) if arguments.method in ("", case.method))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of all cases that were asked for; written after each of them, so that a run may be ended."""
    options = Options(
        arguments.quick,
        arguments.tree,
        arguments.rounds or (3 if arguments.quick else Options().rounds),
        arguments.budget,
        arguments.limit,
        0.0 if arguments.quick else Options().patience,
        arguments.torch_python,
    )
    start, before = time.perf_counter(), json.loads(arguments.out.read_text()) if arguments.add else {}
    results: dict[str, Any] = {"machine": machine(), "cases": before.get("cases", [])}

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", file=sys.stderr, flush=True)

    warm()
    for case in wanted(arguments, options):
        got = measure(case, options, say)
        results["cases"] = added(results["cases"], got)
        for x in results["cases"]:
            for facts in x["entrants"].values():  # torch may be of another environment
                results["machine"] |= {name: facts[name] for name in facts.keys() & {"torch"}}
        results["seconds"] = before.get("seconds", 0.0) + time.perf_counter() - start
        if not arguments.json:
            print("\n".join(lines(got)), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parser().parse_args(given)
    if arguments.add and not arguments.out:
        parser().error("--add needs --out, whose figures it keeps")
    results = json.loads(arguments.read.read_text()) if arguments.read else run(arguments)
    if arguments.json:
        print(json.dumps(results, indent=1))
    if arguments.plot:
        from benchmarks.plot import draw

        draw(results, arguments.plot)
    if arguments.guide:
        page = arguments.guide.read_text(encoding="utf-8")
        arguments.guide.write_text(filled(page, tables(results)), encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
