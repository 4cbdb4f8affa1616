"""`gradxform explain`: what a factory does, from its signature and the sections of its docstring."""

import difflib
import inspect
import json
from typing import Any

import click

from .._catalog import Entry, entries
from .output import dumped


@click.command("explain", short_help="Say what one of them does: maths, defaults, advice, source.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(name: str, as_json: bool) -> None:
    """Explain NAME: its summary and maths, its arguments with their defaults, advice, references, and its source.

    Example: gradxform explain adamw
    """
    entry = _found(name)
    if as_json:
        click.echo(json.dumps(_data(entry), indent=1))
        return
    data = _data(entry)
    click.echo(f"{entry.factory.text}{_plain(entry.factory.signature)}\n{entry.kind}, {data['source']}")
    for heading, text in data["sections"].items():
        body = "\n".join(f"  {line}".rstrip() for line in text.splitlines())
        click.echo(f"\n{text}" if heading == "Summary" else f"\n{heading}\n{body}")


def _found(name: str) -> Entry:
    known = {entry.name: entry for entry in entries()}
    short = name.removeprefix("gradxform.").removeprefix("gx.")
    if short in known:
        return known[short]
    near = difflib.get_close_matches(short, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`gradxform list` names all there are"
    raise click.UsageError(f"there is no {name}; {hint}")


def _data(entry: Entry) -> dict[str, Any]:
    parameters = entry.factory.signature.parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    _, first = inspect.getsourcelines(inspect.unwrap(entry.factory.call))
    return {
        "name": entry.name,
        "kind": entry.kind,
        "call": entry.factory.text,
        "required": required,
        "defaults": {p.name: dumped(p.default) for p in parameters if p.default is not p.empty},
        "source": f"{entry.module.replace('.', '/')}.py:{first}",
        "sections": {heading: inspect.cleandoc(text) for heading, text in entry.section.items()},
    }


def _plain(signature: inspect.Signature) -> str:
    """A signature without its types, which the section of arguments says in words."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))
