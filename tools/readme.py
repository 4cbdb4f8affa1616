"""Run the code blocks of Markdown pages as a reader would, and compare what they print.

    python tools/readme.py README.md docs/first-ten-minutes.md

A block fenced as `python run` runs on its own; one fenced as `python continue` goes on with the names of the block
before. A `text` block right after it is what it must print: "..." in it stands for anything, and runs of blanks count
as one.
"""

import contextlib
import doctest
import io
import re
import sys
import traceback
from pathlib import Path

BLOCK = re.compile(
    r"^```python (?P<mode>run|continue)\n(?P<code>.*?)^```\n(\s*^```text\n(?P<output>.*?)^```$)?", re.M | re.S
)
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def check(page: str, text: str) -> list[str | None]:
    """One entry a runnable block: None, or what went wrong."""
    outcomes: list[str | None] = []
    names: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        if block["mode"] == "run":
            names = {"__name__": "__main__"}
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * line + block["code"], page, "exec"), names)
        except Exception:
            outcomes.append(traceback.format_exc())
            continue
        example = doctest.Example(block["code"], block["output"] or "", lineno=line)
        checker = doctest.OutputChecker()
        if block["output"] is None or checker.check_output(example.want, printed.getvalue(), LENIENT):
            outcomes.append(None)
        else:
            difference = checker.output_difference(example, printed.getvalue(), LENIENT)
            outcomes.append(f"{page}:{line}: the block prints something else\n{difference}")
    return outcomes


def main(pages: list[str]) -> int:
    outcomes = [outcome for page in pages for outcome in check(page, Path(page).read_text(encoding="utf-8"))]
    failures = [outcome for outcome in outcomes if outcome is not None]
    print("\n".join(failures), file=sys.stderr, end="")
    print(f"{len(outcomes)} runnable blocks in {len(pages)} pages, {len(failures)} failed")
    return 1 if failures or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
