"""`gradxform describe` and `gradxform memory`: what a transform is for some parameters, and what it costs."""

import json
from typing import Any

import click

import gradxform

from .output import refused
from .params import NotShapes, read_params
from .transforms import NotRead, read_transform

_PARAMS = click.option("--params", help="JSON of shapes, a .json or .npz file; by default a small tree.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("describe", short_help="Say what a transform does to parameters.")
@click.argument("transform")
@_PARAMS
@_JSON
def describe(transform: str, params: str | None, as_json: bool) -> None:
    """Show the links of TRANSFORM in order, with their scalars, which leaves they take, and their state.

    Nothing is allocated.

    Example: gradxform describe 'adamw(1e-3, mask=matrices())' --params '{"w": [4, 2], "b": [2]}'
    """
    try:
        found = gradxform.describe(read_transform(transform), read_params(params))
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem, **{"describe(tx)": "TRANSFORM"}) from None
    click.echo(json.dumps(found.data, indent=1) if as_json else str(found))


@click.command("memory", short_help="Say what transforms take, side by side.")
@click.argument("transforms", nargs=-1, required=True)
@click.option(
    "--params", help='A model such as "7b", a count, JSON of shapes, a file; by default a small tree.'
)
@click.option("--dtype", help="The dtype of the parameters; of a model, float32 by default.")
@click.option("--grads", help="The dtype of the gradients; by default that of the parameters.")
@click.option("--step", is_flag=True, help="Compile the step, and ask XLA what it takes on the way.")
@_JSON
def memory(
    transforms: tuple[str, ...],
    params: str | None,
    dtype: str | None,
    grads: str | None,
    step: bool,
    as_json: bool,
) -> None:
    """Show the bytes of parameters, gradients and state on one device, without allocating them.

    One of the TRANSFORMS gets a row for each field of its state; several get a row each, held against the first.

    Example: gradxform memory 'sgd(0.1)' 'adam(1e-3)' 'lowbit.quantized(adam(1e-3), 8)' --params 7b
    """
    try:
        made: Any = [read_transform(word) for word in transforms]
        tree = read_params(params, models=True)
        one_or_all = made[0] if len(made) == 1 else made
        found = gradxform.memory(one_or_all, tree, dtype=dtype, grads=grads, step=step)
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem, **{"memory(tx)": "TRANSFORM"}) from None
    click.echo(json.dumps(found.data, indent=1) if as_json else str(found))
