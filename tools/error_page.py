"""Writes docs/errors.md: every misuse that the tests know, and the message that answers it.

    python tools/error_page.py

The rows are those of tests/errors; the messages are what the library says now.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.errors import arriving, building  # noqa: E402
from tests.errors.misuse import Misuse, arrays, evaluate  # noqa: E402

HEAD = """# Error messages

A misuse is answered by one error that names the factory or the link, the leaf of the tree, what came, what was wanted
and what to do. It comes when a transform is built if the arguments are wrong in themselves, and at the first update, at
trace time under `jax.jit`, if the trees do not fit; a running step is never interrupted.

Here is each misuse that the tests know, as typed, and its answer. The names: `params` are `{"w": (3, 2), "b": (2,)}`,
`mixed` has an integer leaf `n` in the place of `b`, `grads` are shaped like `params`, `tx` is `gx.adamw(1e-3)` and
`state` is `tx.init(params)`; `polyak` is a transform that needs `value`, `returns` one with a careless author. Written
by `python tools/error_page.py`.
"""

SECTIONS = {
    "Arguments": building.ARGUMENTS,
    "Words of other libraries": building.SPELLINGS,
    "Names that gradxform does not have": building.FACE,
    "Chains": building.CHAINS,
    "Parameter groups": building.GROUPS,
    "Masks": [*building.MASKS, *arriving.MASKS],
    "Schedules": [*building.SCHEDULES, *arriving.SCHEDULES],
    "Gradients": arriving.TREES,
    "What update needs": arriving.NEEDS,
    "States": arriving.STATES,
    "Parameters": arriving.WRITES,
    "JSON and pickles": building.TEXT,
}


def answer(row: Misuse) -> str:
    """The row's code as in a terminal, and what comes back."""
    try:
        evaluate(row.code, **arrays())
    except Exception as problem:
        return f">>> {row.code}\n{type(problem).__name__}: {problem}\n"
    raise SystemExit(f"no error: {row.code}")


def page() -> str:
    blocks = [HEAD]
    for title, rows in SECTIONS.items():
        blocks.append(f"\n## {title}\n\n```text\n" + "\n".join(map(answer, rows)) + "```\n")
    return "".join(blocks)


if __name__ == "__main__":
    (ROOT / "docs" / "errors.md").write_text(page(), "utf-8")
