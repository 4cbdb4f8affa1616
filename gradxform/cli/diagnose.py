"""`gradxform diagnose`: the readings of a run in a file, held against the rules."""

import json
import sys

import click

import gradxform

from .output import refused
from .transforms import NotRead, read_transform


@click.command("diagnose", short_help="Say what is wrong with a run, from its readings.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--tx", help="The transform of the run, for rules that look at it.")
@click.option("--name", "names", multiple=True, metavar="READING=COLUMN", help="What FILE calls a reading.")
@click.option("--frozen", multiple=True, help="Pattern of leaves that are meant to stand still.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diagnose(
    file: str, tx: str | None, names: tuple[str, ...], frozen: tuple[str, ...], as_json: bool
) -> None:
    """Hold the readings in FILE (.jsonl, .csv or .tsv, a row a step) against the rules of gx.diagnose.

    Ends with 0 if there is no finding, 1 if there is one, and 2 if the file cannot be read.

    Example: gradxform diagnose run.jsonl --tx 'adamw(1e-3)' --name loss=objective
    """
    pairs: dict[str, str] = {}
    for name in names:
        reading, _, column = name.partition("=")
        pairs[reading] = column
    if not all(reading and column for reading, column in pairs.items()):
        raise click.UsageError("--name: wanted READING=COLUMN, such as loss=objective")
    try:
        made = None if tx is None else read_transform(tx)
        found = gradxform.diagnose(file, made, names=pairs or None, frozen=frozen)
    except (NotRead, ValueError, TypeError, OSError) as problem:
        raise refused(problem, **{"diagnose(tx)": "--tx"}) from None
    if not found.steps:
        raise click.UsageError(f"{file}: there is no step in it")
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
    sys.exit(1 if found.findings else 0)
