"""Writes docs/laws.md: every law, and which transforms of Optax break it.

    python tools/laws_page.py

It tries all laws on all factories of Optax, which takes a quarter of an hour. What is found is kept in
tests/laws/optax.json, so that the words of the page can be changed without it: `python tools/laws_page.py --words`.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import jax
import optax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

DATA, PAGE = ROOT / "tests" / "laws" / "optax.json", ROOT / "docs" / "laws.md"

HEAD = """# The laws, and Optax

`gradxform.testing` holds {laws} laws that every transform should keep; [testing](guide/testing.md) says how to try them
on your own. Here they have been tried on {factories} factories of Optax {version}: all that take parameters as ours
do, some of them once more with arguments in which a defect is known. Of gradxform's, none keeps
`sharded_jit_init` (zeros made under `jit` do not know of automatic axes; on explicit ones they do), and all keep the
others, but for the few that `tests/laws/arguments.py` lists with a reason.

Not every breach is a defect. Optax never promised that a wrong shape is refused, that a gradient may be missing, or
that an update has the dtype of its parameter. These are laws because each has cost somebody days.

"Broken by" counts factories; a recipe breaks what its parts break. The last column names one of them and the fact that
was found, with the defects (A1 to D11, listed below) of which it is a sign. Written by `python tools/laws_page.py`.
"""


def collect() -> dict[str, Any]:
    """Runs everything."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    from tests.laws.optax_factories import check, names

    found: dict[str, Any] = {}
    for name in names():
        with contextlib.redirect_stdout(io.StringIO()):
            report = check(name)
        found[name] = {o.law.name: _plain(o.reason) for o in report.broken}
        print(name, *found[name], flush=True)
    return {"optax": optax.__version__, "found": found}


def _plain(text: str, most: int = 110) -> str:
    text = " ".join(text.replace("|", "/").replace("`", "'").split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def page(data: dict[str, Any]) -> str:
    """The page for what was found."""
    from gradxform import testing
    from tests.laws.optax_factories import DEFECTS

    laws, found = testing.laws(), data["found"]
    blocks = [HEAD.format(laws=len(laws), factories=len(found), version=data["optax"])]
    blocks.append("\n| law | it says | broken by | for example |\n|---|---|---|---|\n")
    for law in laws:
        names = [name for name in found if law.name in found[name]]
        ids = [key for key, defect in DEFECTS.items() if defect.law == law.name]
        first = next((DEFECTS[i].factory for i in ids if law.name in found.get(DEFECTS[i].factory, {})), None)
        first = first or (names[0] if names else None)
        fact = f"`{first}`: {found[first][law.name]}" if first else "nothing; its control breaks it"
        fact += f" ({', '.join(ids)})" if ids else ""
        blocks.append(f"| `{law.name}` | {law.sentence} | {len(names)} | {fact} |\n")
    blocks.append(
        "\n## Defects\n\nWhat is known to be wrong in Optax 0.2.8, and the law that finds it. "
        "No law here speaks of what is no transform (`apply_updates`, norms, schedules), nor of wrappers that "
        "should recover from NaN.\n\n"
    )
    blocks.append("| | what | where | law |\n|---|---|---|---|\n")
    for key, defect in DEFECTS.items():
        blocks.append(f"| {key} | {defect.about} | `{defect.factory}` | `{defect.law}` |\n")
    silent = [f"`{law.name}`" for law in laws if not any(law.name in broken for broken in found.values())]
    blocks.append(
        f"\n## Laws that nothing in Optax breaks\n\n{', '.join(silent)}.\n\n"
        "Those about reach do not speak of a transform that declares none, and only a gradxform transform has a text. "
        "That each law can fail is shown by its control, a transform that is wrong on purpose, in "
        "`tests/laws/controls.py`.\n"
        if silent
        else ""
    )
    blocks.append("\n## Who breaks what\n\n")
    for law in laws:
        names = [name for name in found if law.name in found[name]]
        if names:
            blocks.append(f"`{law.name}`\n: {', '.join(names)}\n\n")
    return "".join(blocks).rstrip() + "\n"


if __name__ == "__main__":
    if "--words" not in sys.argv:
        DATA.write_text(json.dumps(collect(), indent=0) + "\n", "utf-8")
    PAGE.write_text(page(json.loads(DATA.read_text("utf-8"))), "utf-8")
