"""`gradxform plot`: the pictures of `gx.plots`, written to a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import gradxform

from .output import refused
from .transforms import NotRead, read_schedule, read_transform

_OUT = click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
_HISTORY = click.argument("history", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_STEPS = click.option("--steps", type=int, default=100, show_default=True, help="How many steps are drawn.")


@click.group("plot", short_help="Draw schedules, readings, ratios, moments, paths.")
def plot() -> None:
    """Draw a picture into OUT, whose ending says the format: .png, .svg, .pdf.

    Example: gradxform plot schedule rate.png 'warmup_cosine(1e-3, 100, 1000)' --steps 1000
    """


@plot.command("schedule")
@_OUT
@click.argument("schedules", nargs=-1, required=True)
@_STEPS
@click.option("--log", is_flag=True, help="Values on a logarithmic axis.")
def schedule(out: Path, schedules: tuple[str, ...], steps: int, log: bool) -> None:
    """Draw SCHEDULES, such as 'wsd(1e-3, 100, 1000, 200)', over their steps.

    Example: gradxform plot schedule rate.png 'warmup_cosine(1e-3, 100, 1000)' 5e-4 --steps 1000
    """
    _write(out, lambda: gradxform.plots.schedule(*map(read_schedule, schedules), steps=steps, log=log))


@plot.command("readings")
@_OUT
@_HISTORY
@click.option(
    "--key", "keys", multiple=True, help="A reading to be drawn; by default the loss and the norms."
)
def readings(out: Path, history: Path, keys: tuple[str, ...]) -> None:
    """Draw the readings in HISTORY (.jsonl, .csv or .tsv, a row a step).

    Example: gradxform plot readings run.png run.jsonl --key loss --key grad_norm
    """
    _write(out, lambda: gradxform.plots.readings(history, list(keys) or None))


@plot.command("ratios")
@_OUT
@_HISTORY
def ratios(out: Path, history: Path) -> None:
    """Draw the update-to-weight ratios in HISTORY, a row for each group of parameters.

    Example: gradxform plot ratios ratios.png run.jsonl
    """
    _write(out, lambda: gradxform.plots.ratios(history))


@plot.command("moments")
@_OUT
@click.argument("transform")
@click.option("--start", type=float, default=5.0, show_default=True, help="The weight before the first step.")
@_STEPS
def moments(out: Path, transform: str, start: float, steps: int) -> None:
    """Draw the moments of TRANSFORM on w^2, step by step, with their bias corrections.

    Example: gradxform plot moments adam.png 'adam(0.01)' --steps 50
    """

    def gradient(w: Any) -> Any:
        return 2 * w

    _write(
        out, lambda: gradxform.plots.moments(read_transform(transform), gradient, start=start, steps=steps)
    )


@plot.command("paths")
@_OUT
@click.argument("transforms", nargs=-1, required=True)
@click.option("--landscape", default="rosenbrock", show_default=True, help="Also saddle and ravine.")
@_STEPS
def paths(out: Path, transforms: tuple[str, ...], landscape: str, steps: int) -> None:
    """Draw the paths of TRANSFORMS over a landscape of two parameters.

    Example: gradxform plot paths race.png 'sgd(0.002)' 'adam(0.2)' --landscape saddle
    """

    def draw() -> Any:
        known = {word: read_transform(word) for word in transforms}
        return gradxform.plots.paths(known, landscape, steps=steps, key=_key())

    _write(out, draw)


def _key() -> Any:
    import jax

    return jax.random.key(0)


def _write(out: Path, draw: Callable[[], Any]) -> None:
    if not out.parent.is_dir():
        raise click.UsageError(f"{out}: there is no folder {out.parent}")
    try:
        draw().savefig(out)
    except (NotRead, ImportError, ValueError, TypeError, OSError) as problem:
        raise refused(problem) from None
    click.echo(str(out))
