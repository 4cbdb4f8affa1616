"""What commands print: tables, and errors of the library as one sentence."""

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Narrower, cells would be folded where nobody reads along, as in a file.
_WIDTH = 120


def console() -> Console:
    """The terminal, or a page of fixed width where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Prints columns; those numbered in `right` are set to the right, and the last one is folded."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    last = len(head) - 1
    for i, name in enumerate(head):
        align = "right" if i in right else "left"
        drawn.add_column(name, justify=align, no_wrap=i != last, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    target = console()
    with target.capture() as captured:
        target.print(drawn)
    # Rich fills lines with blanks, which have no place in a file.
    text = captured.get() if target.is_terminal else "\n".join(map(str.rstrip, captured.get().splitlines()))
    click.echo(text.rstrip("\n"))


def refused(problem: Exception, **words: str) -> click.UsageError:
    """An error of the library as one of the command line; `words` are what its calls are called here."""
    text = " ".join(str(problem).split())
    for call, word in words.items():
        text = text.replace(f"gx.{call}", word)
    return click.UsageError(text)


def dumped(x: Any) -> Any:
    """A value as JSON has it, else as text."""
    return x if isinstance(x, str | int | float | bool | type(None)) else repr(x)
