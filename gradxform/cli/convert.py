"""`gradxform convert`: a transform from one of its written forms into another."""

import click

import gradxform

from .output import refused
from .transforms import NotRead, read_transform


@click.command("convert", short_help="Write a transform as JSON or as a call.")
@click.argument("transform")
@click.option("--to", "form", type=click.Choice(["json", "call"]), default="json", show_default=True)
def convert(transform: str, form: str) -> None:
    """Print TRANSFORM, given as a call, FILE.py:NAME, module:NAME or JSON, as JSON or as a call.

    What is printed is a TRANSFORM for every command, and gx.from_json reads the JSON.

    Example: gradxform convert 'adamw(1e-3)' > optimizer.json
    """
    try:
        tx = read_transform(transform)
        text = gradxform.to_json(tx) if form == "json" else repr(tx)
    except (NotRead, ValueError, TypeError) as problem:
        raise refused(problem) from None
    if form == "call" and getattr(tx, "spec", None) is None:
        raise click.UsageError("TRANSFORM was made by another library or by hand, and has no text")
    click.echo(text)
