"""`gradxform check-lowbit`: a low-bit state beside float32, before it is trusted."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import lowbit
from ..lowbit import LowbitReport, LowbitRow
from ..lowbit.twin import float32_twin
from .gradients import NotGradients, read_gradients
from .transforms import NotRead, read_transform

#: Narrower, cells would be folded where nobody reads along, as in a file.
_WIDTH = 120
_STYLES = {"ok": "green", "bad": "bold red"}


@click.command("check-lowbit", short_help="Try a state in few bits beside float32.")
@click.argument("transform")
@click.option("--bits", type=click.Choice(["4", "8", "16"]), help="Put quantized(..., bits) around it.")
@click.option(
    "--like", type=click.Choice(["bitsandbytes"]), help="With the map and the rounding of another library."
)
@click.option(
    "--gradients",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .npy or .npz file; the first axis of every array is time. By default the built-in streams.",
)
@click.option("--steps", type=int, help="The most steps of one stream.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the built-in streams.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_lowbit(
    transform: str,
    bits: str | None,
    like: str | None,
    gradients: Path | None,
    steps: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run TRANSFORM with its state in few bits beside float32, for some seconds, and say whether it can be trusted.

    TRANSFORM is a call ('chain(clip_by_global_norm(1.0), adamw(1e-3))'), what a program makes
    (package.module:attribute), or the JSON of gx.to_json or a file with it. With no gradxform.lowbit.quantized inside,
    that is put around.

    Ends with 0 if every figure is within its bounds, 1 if not, and 2 if the command cannot be understood.
    """
    try:
        tx = _subject(read_transform(transform), bits, like)
        stream = None if gradients is None else read_gradients(gradients)
        report = lowbit.check_lowbit(tx, gradients=stream, steps=steps, seed=seed)
    except (NotRead, NotGradients, ValueError, TypeError) as problem:
        raise click.UsageError(_told(problem)) from None
    if as_json:
        click.echo(json.dumps(_data(report), indent=1))
    else:
        _show(report)
    sys.exit(0 if report.ok else 1)


def _subject(tx: Any, bits: str | None, like: str | None) -> Any:
    """What the options make of the transform."""
    if bits is None and like is None:
        return tx
    if float32_twin(tx) is not tx:
        option = "--bits" if bits is not None else "--like"
        raise click.UsageError(f"{option}: TRANSFORM says itself how it is stored; leave out the option")
    if like is not None and bits not in (None, "8"):
        raise click.UsageError(f"--like: the map of {like} has 8 bits; leave out --bits")
    if like is None:
        return lowbit.quantized(tx, int(bits or 8))
    return lowbit.quantized(tx, like=like)


def _told(problem: Exception) -> str:
    """A message of the library, in the words of the command line."""
    text = str(problem).replace("gx.lowbit.check_lowbit(gradients)", "--gradients")
    text = text.replace("gx.lowbit.check_lowbit(steps=", "--steps (").replace(
        "gx.lowbit.check_lowbit(tx)", "TRANSFORM"
    )
    return text.replace("gx.lowbit.check_lowbit: ", "").replace("steps=", "--steps")


def _show(report: LowbitReport) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("measure", "gradients", "of", "figure", "bound", "verdict"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("of", "gradients"))
    for row in report.worst:
        verdict = Text(row.verdict, style=_STYLES.get(row.verdict, ""))
        table.add_row(row.measure, row.gradients, Text(row.of), row.figure, row.bound, verdict)
    for line in (*report.summary, ""):
        console.print(Text(line))
    console.print(table)
    for line in ("", *report.notes, *(f"what to do: {text}" for text in report.advice)):
        console.print(Text(line.replace("raise steps=", "raise --steps")))
    console.print(Text(report.conclusion, style=_STYLES["ok" if report.ok else "bad"]))


def _data(report: LowbitReport) -> dict[str, Any]:
    """A report as JSON has it: a number that is not finite is null, or its name where it means something."""
    return {
        "transform": report.transform,
        "reference": report.reference,
        "ok": report.ok,
        "seed": report.seed,
        "bytes_a_parameter": report.bytes,
        "reference_bytes_a_parameter": report.reference_bytes,
        "time_constants": {name: _finite(n) for name, n in report.time_constants},
        "rows": [_row(row) for row in report.rows],
        "notes": list(report.notes),
        "advice": list(report.advice),
    }


def _row(row: LowbitRow) -> dict[str, Any]:
    return {
        "measure": row.measure,
        "gradients": row.gradients,
        "leaf": row.leaf,
        "moment": row.moment,
        "value": _finite(row.value),
        "worst": None if row.worst is None else _finite(row.worst),
        "low": _finite(row.low),
        "high": _finite(row.high),
        "verdict": row.verdict,
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
