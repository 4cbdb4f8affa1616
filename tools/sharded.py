"""Every transform on every mesh against one device: a line a transform, and at the end what failed.

    python tools/sharded.py [--only adamw ...] [--mesh 4x2 ...] [--kind Explicit ...]

A quarter of an hour on one core.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def line(grid: Any, name: str, shapes: list[str], kinds: list[str]) -> tuple[str, bool]:
    """What one transform did, and whether all is well."""
    start, parts, well = time.monotonic(), list[str](), True
    try:
        case = grid.grid_of(name)
    except Exception as problem:
        return f"{name}: one device: {_short(problem)}", False
    for shape in shapes:
        for kind in kinds:
            try:
                found = case.on(shape, kind)
            except Exception as problem:
                parts.append(f"{shape} {kind}: {_short(problem)}")
                well = False
                continue
            well = well and not found.wrong and found.apart <= case.allowed(name)
            text = found.wrong or ("=" if not found.apart else f"{found.apart:.1e}")
            parts.append(f"{shape} {kind}: {text}")
    kind = "element" if case.element else "wider"
    return f"{'ok  ' if well else 'FAIL'} {name} ({kind}, {time.monotonic() - start:.0f} s) " + "; ".join(
        parts
    ), well


def _short(problem: Exception) -> str:
    text = (str(problem).strip().splitlines() or [""])[0]
    return f"{type(problem).__name__}: {text}"[:220]


def main() -> int:
    """All lines."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")  # compiles in half the time
    sys.path.insert(0, str(ROOT))
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    from tests.sharding import grid

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--mesh", nargs="*", default=list(grid.SHAPES))
    parser.add_argument("--kind", nargs="*", default=list(grid.KINDS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    failed: list[str] = []
    for name in asked.only or grid.names():
        text, well = line(grid, name, asked.mesh, asked.kind)
        failed += [] if well else [text]
        print(text, flush=True)
        jax.clear_caches()
    print(f"\n{len(failed)} failed", *failed, sep="\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(bool(main()))
