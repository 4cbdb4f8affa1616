"""Reading the golden files beside this folder: arrays by `run/part/leaf`, facts about the runs as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One file: `meta` (versions, steps kept, the runs' hyperparameters) and `arrays`.

    A file without a problem of its own names the file that has it: `start` and `gradients` come from there.
    """

    meta: dict[str, Any]
    arrays: dict[str, Any]

    @classmethod
    def load(cls, name: str) -> "Golden":
        with np.load(FOLDER / name) as data:
            meta, arrays = json.loads(str(data["meta"])), {k: data[k] for k in data.files if k != "meta"}
        if "problem" in meta:
            with np.load(FOLDER / meta["problem"]) as data:
                arrays |= {k: data[k] for k in data.files if k.split("/")[0] in ("start", "gradients")}
        return cls(meta, arrays)

    def tree(self, prefix: str, index: int | None = None) -> dict[str, Any]:
        """The leaves below `prefix` as a nested dict, at one position of their leading (step) axis if one is given."""
        tree: dict[str, Any] = {}
        for key, value in self.arrays.items():
            if key.startswith(prefix + "/"):
                *folders, name = key[len(prefix) + 1 :].split("/")
                place = tree
                for folder in folders:
                    place = place.setdefault(folder, {})
                place[name] = value if index is None else value[index]
        return tree

    def gradients(self) -> list[dict[str, Any]]:
        """The prescribed gradients, a tree a step."""
        return [self.tree("gradients", i) for i in range(self.meta["steps"])]


def read_json(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())
