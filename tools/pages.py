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
    text = _row("", "what it is", "kept for each parameter", "reach", "needs", "`like=`")
    text += _row(*["---"] * 6)
    for entry in entries:
        presets = ", ".join(f'"{name}"' for name in entry.factory.presets)
        name = f"{{py:func}}`{entry.name} <gradxform.{entry.name}>`"
        text += _row(name, entry.summary, _state(entry), entry.reach, ", ".join(entry.needs), presets)
    return text


def pages() -> dict[str, str]:
    """The text of every page by file name."""
    found = [entry for entry in _catalog.entries() if entry.module.split(".")[1] == "_transforms"]
    made: dict[str, str] = {}
    for module, group in groupby(sorted(found, key=lambda e: e.module), key=lambda e: e.module):
        mine = sorted(group, key=lambda e: e.factory.call.__wrapped__.__code__.co_firstlineno)
        doc = (sys.modules[module].__doc__ or "").strip()
        title = doc.partition(":")[0]
        listed = "\n".join(f".. autofunction:: gradxform.{entry.name}" for entry in mine)
        text = f"# {title}\n\n{doc}\n\n{_table(mine)}\n```{{eval-rst}}\n{listed}\n```\n"
        made[module.rpartition(".")[2] + ".md"] = text
    made["_recipes.md"] = _table([entry for entry in found if entry.kind == "recipe"])
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
