"""`gradxform convert`: a transform into another written form, a checkpoint into the state of another transform."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

import gradxform
from gradxform import interop

from .checkpoint import check_out, read_checkpoint, shaped, write_checkpoint
from .output import refused
from .params import JSON, NotShapes, read_params
from .runs import NotCheckpoint, Run, extra_of, write_run
from .transforms import NotRead, read_transform

_WHOLE = ("opt_state", "state", "optimizer")
_NO_PARAMS = "the checkpoint has no params: say --params, such as '{\"w\": [4, 2]}' or a file"


@click.command("convert", short_help="Write a transform, or a checkpoint for another one.")
@click.argument("source")
@click.option("--to", "form", type=click.Choice(["json", "call"]), default="json", show_default=True)
@click.option("--into", help="The transform that goes on: SOURCE is a checkpoint.")
@click.option("--saved-by", help="The transform that made the state, where its fields do not tell.")
@click.option("--params", help="Shapes of the parameters, if the checkpoint has none: as for describe.")
@click.option("--fresh", multiple=True, help="Pattern of addresses that start anew.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write it: .safetensors, .npz, .msgpack.")
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

    With --into, SOURCE is a checkpoint (a file of gx.interop.save, .npz, a msgpack of Flax, a directory of Orbax), and
    what becomes of each array of its state is shown: a dry run. With --out the new state is written; a file that is
    there is not touched.

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
        if out is not None:
            check_out(out)
        parts, state, report = _restored(read_checkpoint(_path(source)), into, saved_by, params, fresh)
        if out is not None:
            _write(out, parts, state, into)
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


@dataclass(frozen=True)
class _Parts:
    """A checkpoint as a tree; `name` is where the state is in it, empty if there is nothing else."""

    tree: Any
    name: str

    @property
    def state(self) -> Any:
        return self.tree[self.name] if self.name else self.tree

    @property
    def params(self) -> Any:
        return self.tree.get("params") if self.name else None

    @property
    def extra(self) -> Any:
        """What is beside them, for a file that has a place for it."""
        if not self.name:
            return None
        beside = extra_of(self.tree, ("params", "extra", self.name))
        return self.tree.get("extra") if beside is None else beside

    def holding(self, state: Any) -> Any:
        """The checkpoint with another state in the place of the old one."""
        return {**self.tree, self.name: state} if self.name else state


def _restored(
    tree: Any, into: str, saved_by: str | None, shapes: str | None, fresh: tuple[str, ...]
) -> tuple[_Parts, Any, Any]:
    """The checkpoint, the new state, the report."""
    tx = read_transform(into)
    maker = None if saved_by is None else read_transform(saved_by)
    given = None if shapes is None else read_params(shapes)
    if isinstance(tree, Run):
        parts, maker = _opened(tree, maker, given)
    else:
        parts = _parts(tree)
    known = parts.params if given is None else given
    if known is None:
        raise NotShapes(_NO_PARAMS)
    saved = parts.state
    if maker is not None and not isinstance(tree, Run):
        saved = shaped(saved, maker, known)

    def run(fill: float) -> tuple[Any, Any]:
        params = jax.tree.map(lambda x: np.full(x.shape, fill, x.dtype), known) if shapes else known
        return interop.restore_into(tx, params, saved, fresh=list(fresh) or None, saved_by=maker)

    state, report = run(0)
    if shapes is not None and not _same(state, run(1)[0]):
        fact = "a part of the new state begins at the values of the parameters, and --params has shapes only"
        raise NotShapes(f"{fact}; convert a checkpoint that has params beside the state")
    return parts, state, report


def _opened(run: Run, maker: Any, given: Any) -> tuple[_Parts, Any]:
    """What a file of `gx.interop.save` holds, in the classes of whoever saved it, and who that was."""
    like = run.like() if given is None else given
    if like is None:
        raise NotShapes(_NO_PARAMS)
    found = run.load(maker, like)
    tree = {"params": found.params, "state": found.state, "extra": found.extra}
    return _Parts({name: x for name, x in tree.items() if x is not None}, "state"), found.transform


def _parts(tree: Any) -> _Parts:
    """The optimizer's state in a checkpoint, which may be one of several things in it."""
    if not (isinstance(tree, dict) and "params" in tree):
        return _Parts(tree, "")
    found = [name for name in _WHOLE if name in tree]
    if len(found) != 1:
        names = ", ".join(map(str, tree))
        raise NotCheckpoint(
            f"the checkpoint has params and {names}; wanted one of {', '.join(_WHOLE)} beside them"
        )
    return _Parts(tree, found[0])


def _write(out: Path, parts: _Parts, state: Any, into: str) -> None:
    if out.suffix == ".safetensors":
        write_run(out, read_transform(into), state, parts.params, parts.extra)
    else:
        write_checkpoint(out, parts.holding(state))


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
