"""The pages of the reference that are made from the catalogue: one for each file of methods, and the table of recipes.

Sphinx calls `write` before it reads its sources (docs/conf.py); nothing of this is kept under version control. A new
method therefore needs no page of its own: its docstrings are the page.
"""

import sys
from itertools import groupby
from pathlib import Path

from gradxform import _catalog

PAGES = Path(__file__).parents[1] / "docs" / "api" / "methods"


def _state(entry: _catalog.Entry) -> str:
    """The roles of what is kept for each parameter, or "nothing"."""
    roles = [role.name for fields in entry.roles.values() for role in fields.values() if role.per_parameter]
    return ", ".join(roles) or "nothing"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _table(entries: list[_catalog.Entry]) -> str:
    """One row for each; a column in which nobody has anything is left out."""
    columns: dict[str, list[str]] = {
        "": [f"{{py:func}}`{entry.name} <gradxform.{entry.name}>`" for entry in entries],
        "what it is": [entry.summary for entry in entries],
        "kept for each parameter": [_state(entry) for entry in entries],
        "reach": [entry.reach for entry in entries],
        "needs": [", ".join(entry.needs) for entry in entries],
        "`like=`": [", ".join(f'"{name}"' for name in entry.factory.presets) for entry in entries],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [_row(*columns), _row(*["---"] * len(columns))]
    return "".join(rows + [_row(*cells) for cells in zip(*columns.values(), strict=True)])


def families(room: str = "_transforms") -> dict[str, list[_catalog.Entry]]:
    """The entries of every file in a folder of the package by the file's name, in the order of the file."""
    found = [entry for entry in _catalog.entries() if entry.module.split(".")[1] == room]
    by_file = groupby(sorted(found, key=lambda e: e.module), key=lambda e: e.module)
    return {
        module.rpartition(".")[2]: sorted(
            group, key=lambda e: e.factory.call.__wrapped__.__code__.co_firstlineno
        )
        for module, group in by_file
    }


_LEFT = (
    "The updates for gradients along one direction: calm, a spike five times as large, calm, then a sign that changes "
    "at every step. Each curve is drawn over its largest value."
)
_RIGHT = (
    "The way down a ravine with noise, from the cross to the star, 60 steps; in brackets the rate, of 25, at which the "
    "loss is lowest on average."
)


def _figure(name: str, entries: list[_catalog.Entry]) -> str:
    """The picture of a page (figures.py draws it), with what it shows in words."""
    recipes = [entry.name for entry in entries if entry.kind == "recipe"]
    caption = f"Left: {_LEFT} Right: {_RIGHT}" if recipes else _LEFT
    shown = ", ".join(entry.name for entry in entries)
    alt = f"Updates of {shown} for a stream of gradients"
    alt += f", and the paths of {', '.join(recipes)} down a ravine" if recipes else ""
    return f"```{{figure}} figures/{name}.png\n:alt: {alt}\n\n{caption}\n```\n"


def pages() -> dict[str, str]:
    """The text of every page by file name."""
    made: dict[str, str] = {}
    for name, mine in families().items():
        doc = (sys.modules[mine[0].module].__doc__ or "").strip()
        title = doc.partition(":")[0]
        listed = "\n".join(f".. autofunction:: gradxform.{entry.name}" for entry in mine)
        text = (
            f"# {title}\n\n{doc}\n\n{_table(mine)}\n{_figure(name, mine)}\n```{{eval-rst}}\n{listed}\n```\n"
        )
        made[f"{name}.md"] = text
    every = sorted((entry for mine in families().values() for entry in mine), key=lambda e: e.name)
    made["_recipes.md"] = _table([entry for entry in every if entry.kind == "recipe"])
    return made


def write() -> None:
    """Writes what has changed, so that a second build reads nothing anew."""
    PAGES.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in PAGES.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        path = PAGES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
