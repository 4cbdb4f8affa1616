"""What the project says of itself holds: dependencies, commands in the prose, the script that must run anywhere."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PROSE = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {*ROOT.glob("docs/_build/**/*.md")})

# Hosts of package registries and paths of one machine. The pattern does not match itself.
PRIVATE = re.compile(r"pypi\.org|python[h]osted|npmjs\.|(?<![\w./])/(work|root|home/\w+)/")


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_a_runtime_dependency_has_a_lower_bound_and_no_cap(text: str) -> None:
    assert [bound.operator for bound in Requirement(text).specifier] == [">="]


def test_the_runtime_dependencies_are_four() -> None:
    assert {Requirement(text).name for text in PROJECT["dependencies"]} == {
        "jax",
        "optax",
        "numpy",
        "jaxtyping",
    }


def commands() -> set[str]:
    """The targets of the Makefile."""
    (line,) = re.findall(r"(?m)^COMMANDS = (.*)$", (ROOT / "Makefile").read_text("utf-8"))
    return {"help", *line.split()}


def mentioned(text: str) -> set[str]:
    """The commands that prose tells a reader to type: `make X` or `python tools/dev.py X`, in code."""
    return set(re.findall(r"(?m)(?:^ *(?:\$ )?|`)(?:make|python3? tools/dev\.py) ([a-z][a-z-]*)", text))


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_prose_mentions_only_commands_that_exist(page: Path) -> None:
    assert mentioned(page.read_text("utf-8")) <= commands()


def test_commands_in_prose_are_found() -> None:
    text = "Run `make demo`, which will make sure; then\n\n    make no-such\n    $ python tools/dev.py lint --fix\n"
    assert mentioned(text) == {"demo", "no-such", "lint"}


def script() -> ast.Module:
    return ast.parse((ROOT / "tools/dev.py").read_text("ascii"))


def test_every_make_target_is_a_command_of_the_script() -> None:
    functions = {node.name.rstrip("_") for node in script().body if isinstance(node, ast.FunctionDef)}
    assert {command.replace("-", "_") for command in commands()} <= functions


def test_old_pythons_can_parse_the_script() -> None:
    """So that they can say that they are too old: nothing that Python 2.7 takes for a syntax error."""
    for node in ast.walk(script()):
        match node:
            case ast.FunctionDef(args=ast.arguments(posonlyargs=[], kwonlyargs=[]), returns=None):
                assert not any(argument.annotation for argument in node.args.args), node.lineno
            case ast.FunctionDef() | ast.JoinedStr() | ast.NamedExpr() | ast.AnnAssign() | ast.Match():
                pytest.fail(f"tools/dev.py:{node.lineno}: new syntax")
            case ast.Call(args=[*early, _]):
                assert not any(isinstance(a, ast.Starred) for a in early), (
                    f"tools/dev.py:{node.lineno}: *x before the end"
                )


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listing.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_tracked_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    faults = []
    for path in tracked():
        for number, line in enumerate(path.read_bytes().decode("utf-8", "ignore").splitlines(), 1):
            if PRIVATE.search(line):
                faults.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert faults == []


def test_a_private_name_is_found() -> None:
    assert PRIVATE.search("see https://pypi!org/x".replace("!", "."))
    assert PRIVATE.search("open('!work!data')".replace("!", "/"))
    assert not PRIVATE.search("a/work/b and docs/work/c")
