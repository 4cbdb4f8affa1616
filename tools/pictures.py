"""Draw the pictures of Markdown pages, each by the block of the page above it.

    python tools/pictures.py docs/guide/plots.md

The blocks run as `tools/readme.py` runs them. Where an image follows a block, before the next one, the block has left a
`figure`, and it is written to the image's path; `--into FOLDER` writes all of them there, to look at them first.
"""

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from readme import BLOCK

IMAGE = re.compile(r"^!\[[^\]]*\]\((?P<path>[^)]+\.png)\)$", re.M)
DPI = 110

#: Lines are few colours and their soft edges: so many are enough, and take a third of the bytes.
COLOURS = 256


def save(figure: Any, path: Path) -> None:
    """Writes a figure as a small file."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def draw(page: Path, into: Path | None = None) -> list[Path]:
    """Writes the pictures of one page, and says where they are."""
    text, written = page.read_text(encoding="utf-8"), list[Path]()
    blocks = list(BLOCK.finditer(text))
    ends = [*(block.start() for block in blocks[1:]), len(text)]
    names: dict[str, object] = {}
    for block, end in zip(blocks, ends, strict=True):
        if block["mode"] == "run":
            names = {"__name__": "__main__"}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block["code"], str(page), "exec"), names)
        for image in IMAGE.finditer(text, block.end(), end):
            path = page.parent / image["path"] if into is None else into / Path(image["path"]).name
            save(names["figure"], path)
            written.append(path)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument(
        "--into", type=Path, help="a folder for the pictures, in the place of those of the pages"
    )
    arguments = parser.parse_args()
    for page in arguments.pages:
        for path in draw(page, arguments.into):
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
