"""`gradxform race`: the interactive page."""

from pathlib import Path

import click

from .output import refused


@click.command("race", short_help="Write the page on which optimizers race.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="race.html")
@click.option("--steps", type=int, default=300, show_default=True, help="Of each path.")
def race(file: Path, steps: int) -> None:
    """Write one HTML FILE (by default race.html) that needs no network: paths of seven methods, and Adam step by step.

    It takes about a minute. An existing file is replaced.

    Example: gradxform race race.html
    """
    if not file.parent.is_dir():
        raise click.UsageError(f"{file}: there is no folder {file.parent}")
    from ..diagnostics.race import write

    try:
        written = write(file, steps=steps)
    except (ImportError, ValueError, TypeError, OSError) as problem:
        raise refused(problem) from None
    click.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB")
