"""Methods whose tests are one file: `test_method_<name>.py` holds the reference, the rows of the grid and the options.

Each such file has `CASES`, rows for `test_against_reference.py`, and `OPTIONS`, values at which each option must show,
for `test_options.py`; and tests of its own for what is true of that method alone.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = [
    import_module(f"{__package__}.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("test_method_*.py"))
]
CASES = [case for module in MODULES for case in module.CASES]
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {}
for _module in MODULES:
    OPTIONS |= _module.OPTIONS
