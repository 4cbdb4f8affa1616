"""The commands there are. A command is a file of its own, named here."""

import click

from .check_lowbit import check_lowbit


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="gradxform")
def group() -> None:
    """Optimizers looked at and tried from a shell."""


group.add_command(check_lowbit)
