"""`gradxform memory`: what transforms take for some parameters, and what other forms of one would take."""

import json
from typing import Any

import click

import gradxform
from gradxform import lowbit, sharding

from .output import refused
from .params import JSON, MESH, PARAMS, NotShapes, read_mesh, read_params
from .transforms import NotRead, read_transform


@click.command("memory", short_help="Say what transforms take, side by side.")
@click.argument("transforms", nargs=-1, required=True)
@PARAMS
@MESH
@click.option("--dtype", help="The dtype of the parameters; of a model, float32 by default.")
@click.option("--grads", help="The dtype of the gradients; by default that of the parameters.")
@click.option("--step", is_flag=True, help="Compile the step, and ask XLA what it takes on the way.")
@click.option(
    "--ways", is_flag=True, help="Beside TRANSFORM: its state in few bits, cut by ZeRO, on the host."
)
@JSON
def memory(
    transforms: tuple[str, ...],
    params: str | None,
    mesh: str | None,
    dtype: str | None,
    grads: str | None,
    step: bool,
    ways: bool,
    as_json: bool,
) -> None:
    """Show the bytes of parameters, gradients and state on one device, without allocating them.

    One of the TRANSFORMS gets a row for each field of its state; several get a row each, held against the first. With
    --ways, one is held against its other forms; parameters lie whole on each device of the mesh.

    Example: gradxform memory 'adamw(1e-4)' --ways --params 7b --mesh data=8
    """
    if ways and len(transforms) != 1:
        raise click.UsageError(f"--ways is for one transform, got {len(transforms)}")
    try:
        made: list[Any] = [read_transform(word) for word in transforms]
        tree, where = read_params(params, models=True), read_mesh(mesh)
        asked: dict[str, Any] = {"dtype": dtype, "grads": grads, "step": step}
        without: dict[str, str] = {}
        several: Any = made
        if ways:
            several, without = _ways(made[0], tree, where, asked)
        found = gradxform.memory(made[0] if len(made) == 1 and not ways else several, tree, where, **asked)
    except (NotRead, NotShapes, ValueError, TypeError) as problem:
        raise refused(problem, **{"memory(tx)": "TRANSFORM"}) from None
    if as_json:
        click.echo(json.dumps(found.data | ({"without": without} if ways else {}), indent=1))
        return
    click.echo(str(found))
    for name, reason in without.items():
        click.echo(f"without {name}: {reason}")


def _ways(tx: Any, tree: Any, mesh: Any, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The forms of a transform in which it can be built, by name, and why it cannot be in the others."""
    forms: dict[str, Any] = {
        f"{bits} bits": lambda bits=bits: lowbit.quantized(tx, bits) for bits in (16, 8, 4)
    }
    for axis in () if mesh is None else mesh.axis_names:
        forms[f"ZeRO over {axis}"] = lambda axis=axis: sharding.zero(tx, axis)
        forms[f"ZeRO over {axis}, 8 bits"] = lambda axis=axis: sharding.zero(lowbit.quantized(tx), axis)
    forms["on the host"] = lambda: sharding.offload(tx, "*")
    able: dict[str, Any] = {"plain": tx}
    without: dict[str, str] = {}
    for name, make in forms.items():
        try:
            made = make()
            gradxform.memory(made, tree, mesh, **(asked | {"step": False}))
        except (ValueError, TypeError) as problem:
            without[name] = " ".join(str(problem).split())
        else:
            able[name] = made
    return able, without
