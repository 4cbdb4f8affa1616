"""`gradxform convert`: a transform into another written form, a checkpoint into the state of another transform."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

import gradxform
from gradxform import interop

from .checkpoint import NotCheckpoint, read_checkpoint, shaped, write_checkpoint
from .output import refused
from .params import JSON, NotShapes, read_params
from .transforms import NotRead, read_transform

_WHOLE = ("opt_state", "state", "optimizer")


@click.command("convert", short_help="Write a transform, or a checkpoint for another one.")
@click.argument("source")
@click.option("--to", "form", type=click.Choice(["json", "call"]), default="json", show_default=True)
@click.option("--into", help="The transform that goes on: SOURCE is a checkpoint.")
@click.option("--saved-by", help="The transform that made the state, where its fields do not tell.")
@click.option("--params", help="Shapes of the parameters, if the checkpoint has none: as for describe.")
@click.option("--fresh", multiple=True, help="Pattern of addresses that start anew.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the state here: .npz or .msgpack.")
@JSON
def convert(
    source: str,
    form: str,
    into: str | None,
    saved_by: str | None,
    params: str | None,
    fresh: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Print SOURCE, a transform given as a call, FILE.py:NAME, module:NAME or JSON, as JSON or as a call.

    With --into, SOURCE is a checkpoint (.npz, a msgpack of Flax, a directory of Orbax), and what becomes of each array
    of its state is shown: a dry run. With --out the new state is written; a file that is there is not touched.

    Example: gradxform convert run.msgpack --into 'guard(adamw(1e-3))' -o new.msgpack
    """
    if into is None:
        for name, given in {
            "--saved-by": saved_by,
            "--params": params,
            "--fresh": fresh,
            "--out": out,
        }.items():
            if given:
                raise click.UsageError(f"{name} is for a checkpoint: say --into TRANSFORM")
        click.echo(_written(source, form))
        return
    try:
        tree = read_checkpoint(_path(source))
        state, report = _restored(tree, into, saved_by, params, fresh)
        if out is not None:
            write_checkpoint(out, _with(tree, state))
    except (NotRead, NotShapes, NotCheckpoint, ValueError, TypeError, OSError) as problem:
        raise refused(problem, **{"restore_into(tx)": "--into"}) from None
    if as_json:
        counts = {name: len(getattr(report, name)) for name in ("matched", "reset", "dropped")}
        rows = [
            {k: v for k, v in asdict(r).items() if k in ("outcome", "address", "source", "note")}
            for r in report.rows
        ]
        click.echo(json.dumps(counts | {"rows": rows, "out": None if out is None else str(out)}, indent=1))
        return
    click.echo(str(report))
    click.echo("nothing is written without --out" if out is None else f"written: {out}")


def _written(source: str, form: str) -> str:
    try:
        tx = read_transform(source)
        text = gradxform.to_json(tx) if form == "json" else repr(tx)
    except (NotRead, ValueError, TypeError) as problem:
        raise refused(problem) from None
    if form == "call" and getattr(tx, "spec", None) is None:
        raise click.UsageError("TRANSFORM was made by another library or by hand, and has no text")
    return text


def _path(source: str) -> Path:
    if not Path(source).exists():
        raise NotCheckpoint(f"{source}: there is no such file or directory")
    return Path(source)


def _restored(
    tree: Any, into: str, saved_by: str | None, shapes: str | None, fresh: tuple[str, ...]
) -> tuple[Any, Any]:
    tx = read_transform(into)
    maker = None if saved_by is None else read_transform(saved_by)
    inside = isinstance(tree, dict) and "params" in tree
    if shapes is None and not inside:
        raise NotShapes("the checkpoint has no params: say --params, such as '{\"w\": [4, 2]}' or a file")
    known = tree["params"] if shapes is None else read_params(shapes)
    saved = _state(tree)
    if maker is not None:
        saved = shaped(saved, maker, known)

    def run(fill: float) -> tuple[Any, Any]:
        params = jax.tree.map(lambda x: np.full(x.shape, fill, x.dtype), known) if shapes else known
        return interop.restore_into(tx, params, saved, fresh=list(fresh) or None, saved_by=maker)

    state, report = run(0)
    if shapes is not None and not _same(state, run(1)[0]):
        fact = "a part of the new state begins at the values of the parameters, and --params has shapes only"
        raise NotShapes(f"{fact}; convert a checkpoint that has params beside the state")
    return state, report


def _state(tree: Any) -> Any:
    """The optimizer's state in a checkpoint, which may be one of several things in it."""
    if isinstance(tree, dict) and "params" in tree:
        found = [name for name in _WHOLE if name in tree]
        if len(found) != 1:
            names = ", ".join(map(str, tree))
            raise NotCheckpoint(
                f"the checkpoint has params and {names}; wanted one of {', '.join(_WHOLE)} beside them"
            )
        return tree[found[0]]
    return tree


def _with(tree: Any, state: Any) -> Any:
    """The checkpoint with another state in the place of the old one."""
    if isinstance(tree, dict) and "params" in tree:
        name = next(name for name in _WHOLE if name in tree)
        return {**tree, name: state}
    return state


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
