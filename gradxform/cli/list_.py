"""`gradxform list`: every public factory, with its kind and its first sentence."""

import json
import sys

import click

from .._catalog import Entry, entries
from .output import table

_KINDS = ("recipe", "transform", "combinator", "schedule", "mask", "projection")


@click.command("list", short_help="Name all transforms, schedules and masks.")
@click.argument("words", nargs=-1)
@click.option("--kind", type=click.Choice(_KINDS), help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(words: tuple[str, ...], kind: str | None, as_json: bool) -> None:
    """Name what there is: recipes, transforms, combinators, schedules, masks and projections.

    With WORDS, those in whose name or summary all of them stand. Ends with 1 if there are none.

    Example: gradxform list --kind schedule cosine
    """
    found = [entry for entry in entries(kind) if _has(entry, words)]
    found.sort(key=lambda entry: (_KINDS.index(entry.kind), entry.name))
    if as_json:
        rows = [{"name": e.name, "kind": e.kind, "summary": e.summary} for e in found]
        click.echo(json.dumps(rows, indent=1))
    elif found:
        table(("name", "kind", "summary"), [(e.name, e.kind, e.summary) for e in found])
    else:
        click.echo("nothing has " + (" and ".join(words) or "that kind"), err=True)
    sys.exit(0 if found else 1)


def _has(entry: Entry, words: tuple[str, ...]) -> bool:
    text = f"{entry.name} {entry.summary}".lower()
    return all(word.lower() in text for word in words)
