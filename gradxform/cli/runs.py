"""Runs in one file: what `gx.interop.save` wrote, opened for the commands, and written by them."""

import json
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import interop
from ..interop.checkpoint import OfOthers, read
from ..interop.tensors import arrays_of
from .params import nested


class NotCheckpoint(ValueError):
    """A path that cannot be read as a checkpoint, with the reason as its message."""


@dataclass(frozen=True)
class Run:
    """A file of `save`'s: its arrays by name, checked, and its manifest."""

    path: Path
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def tree(self) -> Any:
        """The arrays as dictionaries in dictionaries."""
        return nested(dict(self.arrays))

    @property
    def roles(self) -> dict[str, str]:
        """What each array means."""
        return {name: entry.get("role", "") for name, entry in self.manifest["arrays"].items()}

    @property
    def maker(self) -> str:
        """Who saved it, in a line."""
        by = self.manifest.get("versions", {}).get("gradxform", "?")
        return f"{self.manifest['text']}, gradxform {by}, format {self.manifest['format']}"

    def like(self) -> Any:
        """The parameters in it as shapes, or None: dictionaries in the order in which they were, lists among them too.

        The order matters to what lays leaves one behind the other, and in a dictionary of JAX's 10 comes before 2.
        """
        flat = {
            name.removeprefix("params/"): jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in self.arrays.items()
            if name.startswith("params/")
        }
        if "params" in self.arrays:
            x = self.arrays["params"]
            return jax.ShapeDtypeStruct(x.shape, x.dtype)
        return _ordered(nested(flat)) if flat else None

    def load(self, maker: Any, like: Any) -> interop.Loaded:
        """The state as it was; `maker` is needed where the file does not say it."""
        try:
            return interop.load(self.path, maker, like)
        except interop.CheckpointError as problem:
            text = _line(problem).replace(f"gx.interop.load({str(self.path)!r})", str(self.path))
            remedy = "say --saved-by TRANSFORM"
            raise NotCheckpoint(text.replace("pass the transform that made the state", remedy)) from None


def is_safetensors(path: Path) -> bool:
    """By its name, or by its first bytes: eight of a length that is not enormous, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (start[5:8] == b"\0\0\0" and start[8:] == b"{")


def read_run(path: Path) -> Any:
    """A `Run`; the arrays by name if another program wrote the file."""
    try:
        return Run(path, *read(path, str(path)))
    except OfOthers:
        return _of_others(path)
    except ImportError:
        raise NotCheckpoint(f"{path}: read with safetensors: pip install 'gradxform[checkpoint]'") from None
    except interop.CheckpointError as problem:
        raise NotCheckpoint(_line(problem)) from None


def write_run(path: Path, tx: Any, state: Any, params: Any, extra: Any) -> None:
    """Writes what `gx.interop.load` reads; not over a file that is there."""
    with tempfile.TemporaryDirectory(prefix=".gradxform-", dir=path.parent) as folder:
        beside = Path(folder) / path.name
        try:
            interop.save(beside, tx, state, params, extra=extra)
        except ImportError:
            raise NotCheckpoint(
                "--out: written with safetensors: pip install 'gradxform[checkpoint]'"
            ) from None
        os.link(beside, path)  # unlike a renaming it fails if somebody has written there meanwhile


def plain(tree: Any) -> Any:
    """A tree with dictionaries in the place of those that keep an order, which Flax does not write."""

    def one(x: Any) -> Any:
        return {key: plain(value) for key, value in x.items()} if isinstance(x, OrderedDict) else x  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, OrderedDict))


def extra_of(tree: dict[str, Any], used: tuple[str, ...]) -> Any:
    """What else is in a checkpoint, as JSON has it: numbers and texts beside the parameters and the state."""
    rest = {str(key): value for key, value in tree.items() if key not in used}
    try:
        return json.loads(json.dumps(rest, default=_number)) or None
    except (TypeError, ValueError) as problem:
        fact = f"--out: a .safetensors holds params, a state and what JSON can hold beside them: {problem}"
        raise NotCheckpoint(f"{fact}; write a .msgpack") from None


def _number(x: Any) -> Any:
    array = np.asarray(x)
    if array.ndim or array.dtype.kind not in "biufU":
        raise TypeError(f"there is an array {array.dtype}{list(array.shape)}")
    return array.item()


def _ordered(tree: Any) -> Any:
    return OrderedDict((k, _ordered(v)) for k, v in tree.items()) if isinstance(tree, dict) else tree  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _line(problem: Exception) -> str:
    """The lines of a message as one."""
    return "; ".join(line.strip() for line in str(problem).splitlines() if line.strip())


def _of_others(path: Path) -> Any:
    try:
        return nested(dict(arrays_of(path, str(path))))
    except ValueError as problem:
        raise NotCheckpoint(_line(problem)) from None
