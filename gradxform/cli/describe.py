"""`gradxform describe`: what a transform is for some parameters."""

import json

import click

import gradxform

from .output import refused
from .params import JSON, MESH, PARAMS, NotShapes, read_mesh, read_params
from .transforms import NotRead, read_transform


@click.command("describe", short_help="Say what a transform does to parameters.")
@click.argument("transform")
@PARAMS
@MESH
@JSON
def describe(transform: str, params: str | None, mesh: str | None, as_json: bool) -> None:
    """Show the links of TRANSFORM in order, with their scalars, which leaves they take, and their state.

    Nothing is allocated.

    Example: gradxform describe 'adamw(1e-3, mask=matrices())' --params '{"w": [4, 2], "b": [2]}'
    """
    try:
        found = gradxform.describe(
            read_transform(transform), read_params(params, models=True), read_mesh(mesh)
        )
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem, **{"describe(tx)": "TRANSFORM"}) from None
    click.echo(json.dumps(found.data, indent=1) if as_json else str(found))
