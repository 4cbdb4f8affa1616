"""`gradxform inspect`: what is in a checkpoint: counts, the size of moments, the first number that is not finite."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import jax.numpy as jnp
import numpy as np

from .._core.tree import is_absent, view
from ..interop.reading import Reader, join
from .checkpoint import NotCheckpoint, read_checkpoint
from .output import table
from .runs import Run


@dataclass(frozen=True)
class Row:
    """One array. `rms` and `largest` are those of its finite numbers; a count has its `value`."""

    path: str
    role: str
    shape: list[int]
    dtype: str
    bytes: int
    nonfinite: int
    rms: float | None
    largest: float | None
    value: int | None


@click.command("inspect", short_help="Look into a checkpoint.")
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(checkpoint: Path, as_json: bool) -> None:
    """Show every array in CHECKPOINT by path: what it means, its size, and how many numbers are not finite.

    CHECKPOINT is a file of gx.interop.save or any other .safetensors, a .npz, a msgpack of flax.serialization, or a
    directory of Orbax. Pickles are not read: they run code. Ends with 0 if all numbers are finite, 1 if not, and 2 if
    it cannot be read.

    Example: gradxform inspect state.msgpack
    """
    try:
        tree = read_checkpoint(checkpoint)
    except (NotCheckpoint, OSError) as problem:
        raise click.UsageError(str(problem)) from None
    run = tree if isinstance(tree, Run) else None
    rows = _rows(tree) if run is None else [_row(name, x, run.roles[name]) for name, x in run.arrays.items()]
    if not rows:
        raise click.UsageError(f"{checkpoint}: there is no array in it")
    bad = next((row.path for row in rows if row.nonfinite), None)
    if as_json:
        data = {"first_nonfinite": bad, "rows": list(map(asdict, rows))}
        data |= {} if run is None else {"saved_by": run.manifest["text"], "extra": run.manifest["extra"]}
        click.echo(json.dumps(data, indent=1))
    else:
        _show(rows, bad)
        click.echo("" if run is None else f"saved by {run.maker}", nl=run is not None)
    sys.exit(0 if bad is None else 1)


def _rows(tree: Any) -> list[Row]:
    found = view(tree)
    meant = _roles(tree)
    pairs = zip(found.paths, found.places, strict=True)
    return [_row(path, x, meant.get(path, "")) for path, x in pairs if not is_absent(x)]


def _roles(tree: Any) -> dict[str, str]:
    """What leaves mean, by path, where the names of the fields around them are those of a known state."""
    nodes = Reader((), {}, {}, set()).read(tree).nodes
    return {
        join(node.path, field.name, below): field.role.name
        for node in nodes
        for field in node.fields.values()
        for below in field.leaves
    }


def _row(path: str, x: Any, role: str) -> Row:
    array = np.asarray(x)
    known: dict[str, Any] = {
        "path": path,
        "role": role,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "bytes": int(array.nbytes),
    }
    single = array.ndim == 0 and array.dtype.kind in "iu"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        value = int(array) if single else None
        return Row(**known, nonfinite=0, rms=None, largest=None, value=value)
    numbers = array.astype(np.float64)
    fine = numbers[np.isfinite(numbers)]
    largest = float(np.abs(fine).max()) if fine.size else None
    # The largest is taken out first, so that no square overflows.
    rms = None if largest is None else largest * float(np.sqrt(np.mean((fine / (largest or 1.0)) ** 2)))
    return Row(**known, nonfinite=int(numbers.size - fine.size), rms=rms, largest=largest, value=None)


def _show(rows: list[Row], bad: str | None) -> None:
    def number(x: float | None) -> str:
        return "-" if x is None else f"{x:.3g}"

    lines = [
        (
            row.role or "-",
            f"{row.dtype}{row.shape}".replace(" ", ""),
            number(row.rms) if row.value is None else f"{row.value}",
            number(row.largest),
            str(row.nonfinite or "-"),
            row.path,
        )
        for row in rows
    ]
    table(("role", "array", "rms or value", "largest", "not finite", "path"), lines, right=(2, 3, 4))
    size = sum(row.bytes for row in rows)
    click.echo(f"\n{len(rows)} arrays, {size:,} bytes")
    click.echo("all numbers are finite" if bad is None else f"the first array that is not finite is {bad}")
