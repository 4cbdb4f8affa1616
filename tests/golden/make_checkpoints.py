"""Write checkpoints/VERSION, a file of each kind of state. Run: python tests/golden/make_checkpoints.py

For a release, with the version of pyproject.toml. What is there already stays: an older version's files are never
written anew, and of this version's only those that are missing (`--again` for all, before the release is out).
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

import jax
from checkpoint_runs import KINDS, numbers, params_of, shapes, spec_of, stepped

from gradxform import interop

HERE = Path(__file__).resolve().parent
STEPS = 3


def version() -> str:
    """The version in pyproject.toml."""
    text = (HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["version"]


def write(folder: Path, name: str) -> None:
    """One run of some steps, its file, and beside it the spec and the parameters after the next step."""
    tx = KINDS[name]()
    spec = spec_of(name, tx)
    params = params_of(shapes(name), tx, spec["packed"])
    state = tx.init(params)
    for step in range(STEPS):
        params, state = stepped(tx, state, params, step)
    interop.save(folder / f"{name}.safetensors", tx, state, params, extra={"step": STEPS})
    spec["next"] = numbers(stepped(tx, state, params, STEPS)[0])
    (folder / f"{name}.json").write_text(json.dumps(spec) + "\n", encoding="utf-8")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--again", action="store_true")
    again = words.parse_args().again
    folder = HERE / "checkpoints" / version()
    folder.mkdir(parents=True, exist_ok=True)
    for name in KINDS:
        if again or not (folder / f"{name}.safetensors").exists():
            write(folder, name)
    for path in sorted(folder.iterdir()):
        if path.stem not in KINDS:
            sys.exit(f"{path} is no kind of state; a kind that has been written stays")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(KINDS)} kinds, {size:,} bytes, jax {jax.__version__}")


if __name__ == "__main__":
    main()
