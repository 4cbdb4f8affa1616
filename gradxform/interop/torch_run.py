"""A run of PyTorch as arrays and plain data: `TorchRun`, and the file that carries it.

torch is not imported. `examples/torch_export.py` writes the file where torch is, and reads it back there.
"""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.errors import kind, say, short
from .tensors import arrays_of
from .torch_kinds import told_by

#: The version of the file. A later one is refused.
FORMAT = 1
#: The key of the plain data: an array of an .npz, an entry of the metadata of a .safetensors.
KEY = "torch"


@dataclass(frozen=True)
class TorchRun:
    """What PyTorch knows of a run, by the names of `named_parameters()`.

    Attributes:
        optimizer: the name of the class in `torch.optim`, such as "AdamW".
        groups: `optimizer.param_groups` without the parameters, each with their `names`.
        state: `optimizer.state`: for each name the arrays of its slots; `step` is a number.
        weights: the weights; those that no group holds, and buffers, too. May be empty.
        scheduler: `scheduler.state_dict()`, or None.
        tied: further names of weights that have two, to the name that stands for both.

    Arrays have torch's layout and dtype.
    """

    optimizer: str
    groups: tuple[dict[str, Any], ...]
    state: dict[str, dict[str, np.ndarray]]
    weights: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    scheduler: dict[str, Any] | None = None
    tied: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def names(self) -> list[str]:
        """The parameters of all groups, in the order in which torch numbers them."""
        return [name for group in self.groups for name in group["names"]]

    def state_dict(self) -> dict[str, Any]:
        """What `optimizer.load_state_dict` takes, once its arrays are tensors."""
        numbers = {name: i for i, name in enumerate(self.names)}
        groups = [
            {k: v for k, v in group.items() if k != "names"}
            | {"params": [numbers[n] for n in group["names"]]}
            for group in self.groups
        ]
        state = {numbers[name]: dict(slots) for name, slots in self.state.items()}
        return {"state": state, "param_groups": groups}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file that `examples/torch_export.py` loads into torch: `.npz`, bfloat16 as its bits."""
        if Path(path).suffix != ".npz":
            raise ValueError(say(f"TorchRun.save({str(path)!r}): wanted a name that ends in .npz"))
        arrays = {f"weights/{name}": x for name, x in self.weights.items()}
        arrays |= {f"state/{n}/{slot}": x for n, slots in self.state.items() for slot, x in slots.items()}
        dtypes = {key: "bfloat16" for key, x in arrays.items() if x.dtype == jnp.bfloat16}
        arrays |= {key: arrays[key].view(np.uint16) for key in dtypes}
        data = {"format": FORMAT, "optimizer": self.optimizer, "groups": self.groups, "dtypes": dtypes}
        with open(path, "wb") as file:
            text = np.array(json.dumps(data | {"scheduler": self.scheduler, "tied": self.tied}))
            np.savez(file, allow_pickle=False, **{KEY: text}, **arrays)


def read(
    saved: Any,
    who: str,
    optimizer: str | None = None,
    names: Sequence[str] | None = None,
    argument: str = "saved",
) -> TorchRun:
    """A run, from the file of one, or from what `optimizer.state_dict()` gave; `argument` is what the call calls it."""
    if isinstance(saved, TorchRun):
        return saved
    if isinstance(saved, str | os.PathLike):
        return _from_file(Path(saved), who)
    if isinstance(saved, Mapping) and {"state", "param_groups"} <= set(saved):
        return _from_state_dict(saved, optimizer, names, f"{who}: {argument}")
    fact = f"{who}: {argument}: wanted a path, a TorchRun or optimizer.state_dict(), got {kind(saved)}"
    raise TypeError(say(fact, "examples/torch_export.py writes the file"))


def _from_file(path: Path, who: str) -> TorchRun:
    try:
        data, arrays = (_safetensors if path.suffix == ".safetensors" else _npz)(path)
    except (OSError, ImportError):
        raise
    except Exception as problem:
        fact = f"{who}: {path} is no whole .npz or .safetensors of torch_export.py: {problem}"
        raise ValueError(say(fact, "write it with examples/torch_export.py")) from None
    if data.get("format") != FORMAT:
        fact = f"{who}: {path} has format {data.get('format')!r}; this version reads {FORMAT}"
        raise ValueError(say(fact, "take the examples/torch_export.py of this version"))
    for key, dtype in data.get("dtypes", {}).items():
        arrays[key] = arrays[key].view(jnp.dtype(dtype))
    state: dict[str, dict[str, np.ndarray]] = {}
    weights: dict[str, np.ndarray] = {}
    for key, x in arrays.items():
        root, _, rest = key.partition("/")
        name, _, slot = rest.rpartition("/")
        if root == "weights":
            weights[rest] = x
        else:
            state.setdefault(name, {})[slot] = x
    more = data.get("scheduler"), data.get("tied", {})
    return TorchRun(data["optimizer"], tuple(data["groups"]), state, weights, *more)


def _npz(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    # NumPy leaves a file open that it has opened itself and cannot read.
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        return json.loads(str(file[KEY])), {key: file[key] for key in file.files if key != KEY}


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        library = importlib.import_module("safetensors")
    except ImportError:
        fact = "gx.interop.from_torch: safetensors is not installed"
        raise ImportError(say(fact, "pip install 'gradxform[checkpoint]', or write an .npz")) from None
    with library.safe_open(path, framework="numpy") as file:
        data = json.loads((file.metadata() or {})[KEY])
    return data, arrays_of(path, str(path))


def _from_state_dict(saved: Mapping[str, Any], optimizer: str | None, names: Any, who: str) -> TorchRun:
    numbers = [i for group in saved["param_groups"] for i in group["params"]]
    groups = saved["param_groups"]
    if optimizer is None:
        slots = {slot for entry in saved["state"].values() for slot in entry}
        told = {told_by(group, slots) for group in groups}
        optimizer = told.pop() if len(told) == 1 else None
    if optimizer is None:
        fact = f"{who}: this state_dict does not tell of which optimizer it is"
        raise ValueError(say(fact, 'pass optimizer="AdamW", the name of its class, or a gx.interop.TorchRun'))
    if names is None and groups and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    if names is None or len(names) != len(numbers) or len(set(names)) != len(names):
        got = "none" if names is None else f"{len(names)}, {len(set(names))} of them different"
        fact = f"{who}: a state_dict only numbers its {len(numbers)} parameters, got {got} as names"
        remedy = "pass [name for name, _ in model.named_parameters()], as the optimizer got them"
        raise ValueError(say(fact, f"{remedy}, or a gx.interop.TorchRun"))
    name_of = dict(zip(numbers, names, strict=True))
    named = tuple(
        {k: v for k, v in group.items() if k not in ("params", "param_names")}
        | {"names": [name_of[i] for i in group["params"]]}
        for group in groups
    )
    state = {
        name_of[int(i)]: {
            slot: _array(x, f"{name_of[int(i)]}/{slot}", who) for slot, x in slots.items() if x is not None
        }
        for i, slots in saved["state"].items()
    }
    return TorchRun(optimizer, named, state)


def _array(x: Any, name: str, who: str) -> np.ndarray:
    try:
        made = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as problem:
        fact = f"{who}: {name} is {kind(x)}, not an array: {short(str(problem))}"
        raise TypeError(
            say(fact, "x.detach().cpu().numpy(); bfloat16 goes through examples/torch_export.py")
        ) from None
    if made.dtype == object:
        raise TypeError(f"{who}: {name} is {kind(x)}, not an array of numbers")
    return made
