"""The floor plan and the budgets of the house, read from the source with `ast`; nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gradxform"

# What each room may import; a room is a top-level module or folder of the package, "face" its __init__.py.
# Arrows run down only, and pillars do not see each other.
PILLARS = {
    "_combine",
    "_linalg",
    "_schedules",
    "lowbit",
    "sharding",
    "fused",
    "diagnostics",
    "interop",
    "testing",
}
SEES: dict[str, set[str]] = {"_core": set(), "build": {"_core"}, **{pillar: {"_core"} for pillar in PILLARS}}
SEES["_transforms"] = {"_core", "build", *PILLARS}
SEES["face"] = {"_transforms", *SEES["_transforms"]}
SEES["_catalog"] = {"face", *SEES["face"]}
SEES["cli"] = {"_catalog", *SEES["_catalog"]}
SEES["__main__"] = {"cli"}

# Each heavy or foreign import has exactly one room, or none.
FOREIGN = {
    "jax.experimental.pallas": "fused",
    "matplotlib": "diagnostics",
    "bokeh": "diagnostics",
    "chex": "testing",
    "hypothesis": "testing",
    "click": "cli",
    "rich": "cli",
    "safetensors": "interop",
    "torch": None,
    "flax": "cli",  # checkpoints are converted in its form; the library itself never imports it
    "equinox": None,
}

FILE_LINES = 400
BODY_LINES = 60  # wanted: 40
# "path::function": why it is clearer in one piece.
LONG_BODIES: dict[str, str] = {}
NAMELESS = {"utils", "util", "misc", "helpers", "helper", "common"}


def sources() -> dict[str, str]:
    """Every module of the package: its path below the package -> its source."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def module_name(path: str) -> str:
    """`_core/tree.py` -> `gradxform._core.tree`; a folder's `__init__.py` stands for the folder."""
    return ".".join(["gradxform", *path.removesuffix(".py").split("/")]).removesuffix(".__init__")


def room(module: str) -> str:
    """`gradxform._core.tree` -> `_core`; a name that is no room's belongs to the face."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in SEES else "face"


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, wherever it stands; `from a import b` gives a.b."""
    package = ["gradxform", *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def upward_imports(path: str, source: str) -> list[str]:
    here = "face" if path == "__init__.py" else room(module_name(path))
    faults = []
    if here == "face" and path != "__init__.py":
        faults.append(f"{path}: stands in no room of the floor plan")
    for line, name in imports(path, source):
        if name.split(".")[0] == "gradxform" and room(name) != here and room(name) not in SEES[here]:
            faults.append(f"{path}:{line}: {here} must not import {name} ({room(name)})")
        for foreign, home in FOREIGN.items():
            if f"{name}.".startswith(f"{foreign}.") and here != home:
                faults.append(
                    f"{path}:{line}: {foreign} may be imported by {home or 'nobody'}, not by {here}"
                )
    return faults


def circles(files: dict[str, str]) -> list[str]:
    """Import circles between modules; an import inside a function counts."""
    modules = {module_name(path) for path in files}
    arrows: dict[str, set[str]] = {}
    for path, source in files.items():
        named = {name for _, name in imports(path, source)}
        targets = {name if name in modules else name.rpartition(".")[0] for name in named}
        arrows[module_name(path)] = (targets & modules) - {module_name(path)}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> Iterator[str]:
        if module in trail:
            yield " -> ".join([*trail[trail.index(module) :], module])
        elif module not in done:
            for target in sorted(arrows[module]):
                yield from walk(target, [*trail, module])
            done.add(module)

    return [circle for module in sorted(arrows) for circle in walk(module, [])]


def bodies(source: str) -> Iterator[tuple[str, int]]:
    """(name, lines of the body without its docstring) of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            statements = node.body[1:] if documented else node.body
            lines = (node.end_lineno or 0) - statements[0].lineno + 1 if statements else 0
            yield node.name, lines


def over_budget(path: str, source: str) -> list[str]:
    faults = []
    if len(source.splitlines()) > FILE_LINES:
        faults.append(f"{path}: {len(source.splitlines())} lines, {FILE_LINES} at most")
    for name, lines in bodies(source):
        if lines > BODY_LINES and f"{path}::{name}" not in LONG_BODIES:
            faults.append(f"{path}::{name}: a body of {lines} lines, {BODY_LINES} at most")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            faults.append(f"{path}:{node.lineno}: assert; raise an error that says what to do")
    faults += [
        f"{path}: {part} says nothing" for part in Path(path).with_suffix("").parts if part in NAMELESS
    ]
    return faults


def more_than_a_face(source: str) -> list[str]:
    """What in the face's source is neither a docstring, a re-export, `__all__` nor a delegating `__getattr__`."""
    tree = ast.parse(source)
    from_core = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("_core")
        for alias in node.names
    }

    def allowed(node: ast.stmt) -> bool:
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                return node is tree.body[0]
            case ast.ImportFrom(level=1) | ast.Assign(targets=[ast.Name(id="__all__")]):
                return True
            case ast.FunctionDef(
                name="__getattr__", body=[*_, ast.Return(value=ast.Call(func=ast.Name(id=name)))]
            ):
                statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
                return len(statements) == 1 and name in from_core
        return False

    return [f"__init__.py:{node.lineno}: not a re-export" for node in tree.body if not allowed(node)]


def test_imports_run_down_only() -> None:
    assert [fault for path, source in sources().items() for fault in upward_imports(path, source)] == []


def test_no_import_circles() -> None:
    assert circles(sources()) == []


def test_budgets() -> None:
    assert [fault for path, source in sources().items() for fault in over_budget(path, source)] == []


def test_long_bodies_are_still_long() -> None:
    long = {
        f"{path}::{name}"
        for path, source in sources().items()
        for name, n in bodies(source)
        if n > BODY_LINES
    }
    assert set(LONG_BODIES) <= long, "an exception that is no longer needed"
    assert all(LONG_BODIES.values()), "an exception has a reason"


def test_the_face_re_exports_only() -> None:
    assert more_than_a_face(sources().get("__init__.py", "")) == []


# Negative controls: each checker reports what it is there for.


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "_core/tree.py",
            "from .._combine.chain import chain",
            "_core must not import gradxform._combine.chain",
        ),
        ("_core/tree.py", "import gradxform", "_core must not import gradxform (face)"),
        (
            "_core/tree.py",
            "def f():\n    from .. import adamw",
            ":2: _core must not import gradxform.adamw (face)",
        ),
        ("lowbit/codec.py", "from ..fused import kernel", "lowbit must not import gradxform.fused.kernel"),
        ("lowbit/codec.py", "import gradxform._transforms.adam", "lowbit must not import"),
        (
            "lowbit/codec.py",
            "from gradxform import sharding",
            "lowbit must not import gradxform.sharding (sharding)",
        ),
        ("build.py", "from ._combine.chain import chain", "build must not import"),
        ("_transforms/adam.py", "from .._catalog import every", "_transforms must not import"),
        ("__init__.py", "from .cli import main", "face must not import gradxform.cli.main"),
        ("_stray.py", "", "stands in no room"),
        ("lowbit/kernel.py", "from jax.experimental import pallas as pl", "may be imported by fused"),
        ("lowbit/kernel.py", "import jax.experimental.pallas.tpu", "may be imported by fused"),
        ("cli/plot.py", "import matplotlib.pyplot as plt", "may be imported by diagnostics"),
        ("diagnostics/table.py", "from rich.table import Table", "may be imported by cli"),
        ("interop/torch.py", "import torch", "may be imported by nobody"),
        ("testing/laws.py", "from flax import nnx", "may be imported by cli"),
    ],
)
def test_an_upward_import_is_reported(path: str, source: str, complaint: str) -> None:
    (fault,) = upward_imports(path, source)
    assert complaint in fault


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_transforms/adam.py", "from .._core.rule import elementwise\nfrom .._combine.chain import chain"),
        ("_transforms/adam.py", "from .decay import add_decayed_weights"),
        ("_catalog.py", "import gradxform as gx\nfrom . import adamw"),
        ("fused/step.py", "from jax.experimental import pallas as pl\nfrom .._core import plan"),
        ("__main__.py", "from .cli import main"),
        ("lowbit/codec.py", "import flaxen\nfrom jax import numpy as jnp"),
    ],
)
def test_a_downward_import_is_not(path: str, source: str) -> None:
    assert upward_imports(path, source) == []


def test_a_circle_is_reported() -> None:
    files = {
        "_core/a.py": "from .b import x",
        "_core/b.py": "def f():\n    from . import c",
        "_core/c.py": "from .a import y",
    }
    assert circles(files) == [
        "gradxform._core.a -> gradxform._core.b -> gradxform._core.c -> gradxform._core.a"
    ]
    assert circles({**files, "_core/c.py": ""}) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("_core/a.py", "\n" * (FILE_LINES + 1), "401 lines"),
        ("_core/a.py", "def f():\n" + "    x = 1\n" * (BODY_LINES + 1), "f: a body of 61 lines"),
        ("_core/a.py", "def f(x):\n    assert x", "_core/a.py:2: assert"),
        ("_core/utils.py", "", "utils says nothing"),
        ("helpers/a.py", "", "helpers says nothing"),
    ],
)
def test_an_overrun_budget_is_reported(path: str, source: str, complaint: str) -> None:
    (fault,) = over_budget(path, source)
    assert complaint in fault


def test_a_docstring_costs_nothing() -> None:
    assert list(bodies('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')) == [("f", 1)]


@pytest.mark.parametrize(
    "line",
    [
        "x = 1",
        "import jax",
        "def f():\n    return 1",
        "'stray'",
        "def __getattr__(name):\n    return f(name)",
        "def __getattr__(name):\n    x = 1\n    return missing(name)",
    ],
)
def test_more_than_a_re_export_is_reported(line: str) -> None:
    face = "'''Doc.'''\nfrom ._core.foreign import missing\nfrom ._x import y as y\n__all__ = ['y']\n"
    assert more_than_a_face(face + "def __getattr__(name):\n    '''Doc.'''\n    return missing(name)\n") == []
    assert len(more_than_a_face(face + line)) == 1
