"""The commands there are. A command is a file of its own, named here."""

import click

from .check import check
from .check_lowbit import check_lowbit
from .convert import convert
from .describe import describe
from .diagnose import diagnose
from .explain import explain
from .inspect import inspect
from .lines import Commands
from .list_ import list_
from .memory import memory
from .plot import plot
from .race import race


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gradxform")
def group() -> None:
    """Optimizers looked at and tried from a shell."""


for _command in (
    list_,
    explain,
    describe,
    memory,
    check,
    check_lowbit,
    diagnose,
    inspect,
    convert,
    plot,
    race,
):
    group.add_command(_command)
