"""Shapes of parameters as a word on the command line: JSON, a file with it, arrays of NumPy's, or a small tree.

'{"dense": {"kernel": [16, 32], "bias": "bfloat16[32]"}}'    JSON: a leaf is its shape, with or without a dtype
shapes.json                                                  a file with it
params.npz                                                   the arrays' shapes; slashes in names are folders
"""

import json
import re
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

#: What stands for somebody's parameters where no others are named: an embedding, a matrix, a bias and a norm.
SMALL: dict[str, Any] = {
    "embed": [1000, 64],
    "dense": {"kernel": [64, 256], "bias": [256]},
    "norm": {"scale": [64]},
}
#: The options of commands that take parameters.
PARAMS = click.option(
    "--params", help='A model such as "7b", a count, JSON of shapes, a file; by default a small tree.'
)
MESH = click.option("--mesh", help="The mesh on which they lie: data=8,model=4; no device is asked.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_AXIS = re.compile(r"([A-Za-z_]\w*)=([1-9]\d*)")
_LEAF = re.compile(r"(\w+)\[([\d\s,]*)\]")


class NotShapes(ValueError):
    """A word that stands for no parameters, with the reason as its message."""


def read_params(text: str | None, models: bool = False) -> Any:
    """The tree of `jax.ShapeDtypeStruct`s that a word stands for; a small one for None.

    With `models`, a word that is neither JSON nor a file is a count, or left to be the name of a model.
    """
    if text is None:
        return _tree(SMALL, "")
    if text.lstrip().startswith("{"):
        return _of_json(text, "--params")
    path = Path(text)
    if models and path.suffix not in (".json", ".npz"):
        return int(text) if text.replace("_", "").isdigit() else text
    if not path.is_file():
        raise NotShapes(f"--params: there is no file {text}; wanted one, or JSON such as '{{\"w\": [4, 2]}}'")
    if path.suffix == ".npz":
        return _of_arrays(path)
    if path.suffix == ".json":
        return _of_json(path.read_text(encoding="utf-8"), text)
    raise NotShapes(f"--params: {text} ends neither with .json nor with .npz")


def read_mesh(text: str | None) -> Any:
    """The abstract mesh that a word such as data=8,model=4 stands for, with automatic axes; None for None."""
    if text is None:
        return None
    found = [_AXIS.fullmatch(part.strip()) for part in text.split(",")]
    axes = [(match[1], int(match[2])) for match in found if match is not None]
    if len(axes) < len(found) or len(dict(axes)) < len(axes):
        raise NotShapes(
            f"--mesh: got {text}, wanted axes with their sizes, each once, such as data=8,model=4"
        )
    names, sizes = zip(*axes, strict=True)
    return jax.sharding.AbstractMesh(sizes, names)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Names with slashes as dictionaries in dictionaries.

    Raises:
        ValueError: if one name stands for an array and for a folder.
    """
    tree: dict[str, Any] = {}
    for name, x in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name}: {folder} is an array and a folder")
        if last in place:
            raise ValueError(f"{name} is an array and a folder")
        place[last] = x
    return tree


def _of_json(text: str, where: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError as problem:
        raise NotShapes(f"{where}: not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise NotShapes(f"{where}: wanted an object with shapes by name, got {type(found).__name__}")
    return _tree(found, "")


def _of_arrays(path: Path) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            flat = {name: jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in arrays}
        return nested(flat)
    except Exception as problem:
        raise NotShapes(f"--params: {path}: no arrays can be read ({problem})") from None


def _tree(x: Any, path: str) -> Any:
    match x:
        case dict():
            return {str(k): _tree(v, f"{path}/{k}".lstrip("/")) for k, v in x.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() if all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in x):  # pyright: ignore[reportUnknownVariableType]
            return jax.ShapeDtypeStruct(tuple(x), jnp.float32)  # pyright: ignore[reportUnknownArgumentType]
        case str() if found := _LEAF.fullmatch(x.strip()):
            shape = tuple(int(n) for n in found[2].split(",") if n.strip())
            try:
                return jax.ShapeDtypeStruct(shape, jnp.dtype(found[1]))
            except TypeError:
                raise NotShapes(f"--params: {path}: there is no dtype {found[1]}") from None
        case _:
            wanted = 'a shape such as [4, 2] or "bfloat16[4, 2]"'
            raise NotShapes(f"--params: {path}: got {json.dumps(x)[:40]}, wanted {wanted}")
