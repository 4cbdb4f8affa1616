"""A pytest plugin for a run of Optax's own tests: puts gradxform's functions in the place of Optax's, and takes notes.

Loaded with `-p swap` in a process of its own, before any test module is imported. Wherever a module of Optax holds one
of Optax's public functions that the face of gradxform has too (`optax.adam`, `optax._src.alias.adam`,
`optax.transforms._clipping.clip`, ...), it holds gradxform's from then on. So not only the tests call ours: the rest of
Optax is built from ours too (`optax.lamb` chains our `scale_by_adam` with our `chain`).

Environment: SWAP_MODE is `plain` (nothing is replaced), `ours`, or `wrong` (as ours, but `scale` scales by twice the
number: a negative control); SWAP_NOTES is the file that gets what was replaced and how every test ended.
"""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import optax

MODE = os.environ.get("SWAP_MODE", "plain")
NOTES = os.environ.get("SWAP_NOTES", "")
#: Names on both faces that are classes for isinstance and annotations: Optax's own transforms must stay instances.
CLASSES = {"GradientTransformation", "Schedule"}
#: From good to bad. A test has several reports (set-up, call, subtests, tear-down); the worst one is its outcome.
RANKS = ("passed", "skipped", "failed")


def shared_names(face: ModuleType) -> dict[str, Any]:
    """Optax's public functions that `face` has under the same name, by name."""
    rooms = (optax, optax.transforms, optax.schedules, optax.contrib)
    found: dict[str, Any] = {}
    for name in vars(face):
        theirs = next((getattr(room, name) for room in rooms if hasattr(room, name)), None)
        if not name.startswith("_") and name not in CLASSES and callable(theirs):
            found[name] = theirs
    return found


def import_all_of_optax() -> None:
    for module in pkgutil.walk_packages(optax.__path__, "optax."):
        if not module.name.endswith("_test"):
            importlib.import_module(module.name)


def replace(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Every `module.name` at which one of Optax's functions was found and replaced."""
    places: list[str] = []
    for path, module in sorted(sys.modules.items()):
        if path != "optax" and not path.startswith("optax."):
            continue
        for name, function in theirs.items():
            if vars(module).get(name) is function:
                setattr(module, name, ours[name])
                places.append(f"{path}.{name}")
    return places


def wrong_scale(right: Callable[..., Any]) -> Callable[..., Any]:
    def scale(step_size: Any) -> Any:
        return right(2 * step_size)

    return scale


def swap() -> list[str]:
    import gradxform as gx

    import_all_of_optax()
    theirs = shared_names(gx)
    ours = {name: getattr(gx, name) for name in theirs}
    if MODE == "wrong":
        ours["scale"] = wrong_scale(ours["scale"])
    return replace(theirs, ours)


class Notes:
    """Collects outcomes, from all processes of a parallel run, and writes them at the end."""

    def __init__(self, places: list[str]) -> None:
        self.places, self.outcomes, self.texts = places, dict[str, str](), dict[str, str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        known = self.outcomes.get(report.nodeid, "passed")
        if RANKS.index(report.outcome) >= RANKS.index(known):
            self.outcomes[report.nodeid] = report.outcome
            if report.outcome == "failed":
                self.texts[report.nodeid] = report.longreprtext

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.texts[f"collecting {report.nodeid}"] = report.longreprtext

    def pytest_sessionfinish(self, session: Any) -> None:
        if NOTES and not hasattr(session.config, "workerinput"):
            notes = {"replaced": self.places, "outcomes": self.outcomes, "texts": self.texts}
            with open(NOTES, "w", encoding="utf-8") as file:
                json.dump(notes, file, indent=1)


def pytest_configure(config: Any) -> None:
    config.pluginmanager.register(Notes(PLACES), "swap-notes")


PLACES = [] if MODE == "plain" else swap()
