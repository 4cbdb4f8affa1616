"""`gradxform check`: the laws on somebody's transform."""

import contextlib
import importlib.util
import io
import json
import sys
from typing import Any

import click
import jax
import jax.numpy as jnp

from .output import refused
from .params import NotShapes, read_params
from .transforms import NotRead, read_transform


@click.command("check", short_help="Try the laws on a transform.")
@click.argument("transform")
@click.option("--law", "laws", multiple=True, help="Only this one; may be repeated.")
@click.option("--params", help="Try this tree alone: JSON of shapes, or a .json or .npz file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the trees that are drawn.")
@click.option("--examples", type=int, default=10, show_default=True, help="How many trees each law draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    transform: str, laws: tuple[str, ...], params: str | None, seed: int, examples: int, as_json: bool
) -> None:
    """Try to break every law with TRANSFORM: a call, FILE.py:NAME or module:NAME (imported), or JSON.

    Ends with 0 if no law is broken, 1 if one is, and 2 if the command cannot be understood.

    Example: gradxform check my_optimizer.py:make --law pure
    """
    if importlib.util.find_spec("hypothesis") is None:  # the laws draw trees with it
        raise click.UsageError("check needs hypothesis: pip install 'gradxform[testing]'")
    from ..testing import check_transform

    try:
        tx = read_transform(transform)
        tree = None if params is None else _zeros(read_params(params))
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # the call that it prints is Python's, not the shell's
            report = check_transform(
                tx, params=tree, laws=laws or None, seed=seed, examples=examples, raises=False
            )
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem) from None
    if as_json:
        rows = [
            {"law": o.law.name, "theme": o.law.theme, "verdict": o.verdict, "reason": o.reason}
            for o in report
        ]
        data = {"transform": report.transform, "seed": report.seed, "ok": bool(report), "laws": rows}
        click.echo(json.dumps(data, indent=1))
    else:
        click.echo(str(report))
    sys.exit(0 if report else 1)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
