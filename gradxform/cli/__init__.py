"""The command line: `gradxform COMMAND`, or `python -m gradxform COMMAND`.

Click reads the arguments and rich draws the tables; both come with the extra `cli`, and nothing else of the package
needs them.
"""

import importlib.util
import sys

_NEEDED = ("click", "rich")


def main() -> None:
    """Runs the command that the process was started with, and ends the process."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        lacking = " and ".join(missing)
        print(f"gradxform: the command line needs {lacking}: pip install 'gradxform[cli]'", file=sys.stderr)
        sys.exit(2)
    from .group import group

    group(prog_name="gradxform")
