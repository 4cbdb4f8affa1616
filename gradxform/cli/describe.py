"""`gradxform describe` and `gradxform memory`: what a transform is for some parameters, and what it costs."""

import json
from dataclasses import asdict
from typing import Any

import click

import gradxform

from .output import dumped, refused, table
from .params import NotShapes, read_params
from .transforms import NotRead, read_transform

_PARAMS = click.option("--params", help="JSON of shapes, a .json or .npz file; by default a small tree.")


@click.command("describe", short_help="Say what a transform does to parameters.")
@click.argument("transform")
@_PARAMS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe(transform: str, params: str | None, as_json: bool) -> None:
    """Show the links of TRANSFORM in order, with their scalars, which leaves they take, and their state.

    Nothing is allocated.

    Example: gradxform describe 'adamw(1e-3, mask=matrices())' --params '{"w": [4, 2], "b": [2]}'
    """
    try:
        described = gradxform.describe(read_transform(transform), read_params(params))
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem, **{"describe(tx)": "TRANSFORM"}) from None
    if not as_json:
        click.echo(str(described))
        return
    facts = described.facts
    links = [
        {
            "address": row.address,
            "call": row.call,
            "reach": row.reach,
            "leaves": list(map(str, row.leaves)),
            "parameters": row.parameters,
            "state_bytes": row.state.whole,
            "scalars": {name: dumped(value) for name, value in row.scalars},
            "needs": list(row.needs),
        }
        for row in facts.links
    ]
    data: dict[str, Any] = {
        "transform": described.title,
        "parameters": facts.parameters,
        "parameter_bytes": facts.parameter_size.whole,
        "state_bytes": facts.state_size.whole,
        "frozen": list(facts.frozen),
        "uphill": list(facts.uphill),
        "orders": list(facts.orders),
        "links": links,
    }
    click.echo(json.dumps(data, indent=1))


@click.command("memory", short_help="Say what transforms take, side by side.")
@click.argument("transforms", nargs=-1, required=True)
@_PARAMS
@click.option("--grads", help="The dtype of the gradients; by default that of the parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def memory(transforms: tuple[str, ...], params: str | None, grads: str | None, as_json: bool) -> None:
    """Show the bytes of parameters, gradients and state on one device, without allocating them.

    One of the TRANSFORMS gets a row for each field of its state; several get a row each.

    Example: gradxform memory 'sgd(0.1)' 'adam(1e-3)' 'lowbit.quantized(adam(1e-3), 8)'
    """
    try:
        tree = read_params(params)
        reports = [gradxform.memory(read_transform(t), tree, grads=grads) for t in transforms]
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem, **{"memory(tx)": "TRANSFORM"}) from None
    if as_json:
        data = [
            {
                "transform": known.title,
                "device_bytes": known.device_bytes,
                "parameter_bytes": known.total("parameters").bytes,
                "gradient_bytes": known.total("gradients").bytes,
                "state_bytes": known.total("state").bytes,
                "rows": [asdict(row) for row in known.rows],
            }
            for known in reports
        ]
        click.echo(json.dumps(data, indent=1))
    elif len(reports) == 1:
        click.echo(str(reports[0]))
    else:
        parts = ("parameters", "gradients", "state")
        rows = [
            (
                *(f"{known.total(part).bytes:,}" for part in parts),
                f"{sum(known.total(part).bytes for part in parts):,}",
                known.title,
            )
            for known in reports
        ]
        table((*parts, "bytes in all", "transform"), rows, right=(0, 1, 2, 3))
