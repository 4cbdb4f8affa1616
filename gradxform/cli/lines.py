"""The group of commands, which answers whatever is wrong with a command in one line."""

import difflib
import sys
from typing import Any

import click


class Commands(click.Group):
    """A group whose errors are one line on stderr: the command, what is wrong, where its help is. It ends with 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs as click does, but for what is said of an error."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as problem:
            problem.show()
            sys.exit(problem.exit_code)
        except click.ClickException as problem:
            click.echo(_line(problem, extra.get("prog_name") or self.name or ""), err=True)
            sys.exit(problem.exit_code)
        except click.Abort:
            click.echo("stopped", err=True)
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's; a name that is none gets the near one."""
        name = str(args[0])
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"there is no command {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)


def _line(problem: click.ClickException, program: str) -> str:
    ctx = getattr(problem, "ctx", None)
    path = program if ctx is None else ctx.command_path
    text = " ".join(problem.format_message().split())
    return f"{path}: {text} ({path} -h)" if isinstance(problem, click.UsageError) else f"{path}: {text}"
