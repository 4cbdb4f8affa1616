"""A run in one file: `save` and `load`. The arrays as safetensors, with a manifest and a checksum of each."""

import importlib
import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat
from .._core.errors import kind, leaf, say, short
from .._core.shapes import abstract_state, bare, mesh_if_known
from .._core.spec import from_json
from .._core.states import boxed, unboxed
from .._core.transform import as_transform
from .._core.tree import is_absent, is_box, view
from .manifest import CheckpointError, compare, manifest, named, readable, stored

#: The keys of the file's own metadata.
_MANIFEST, _CHECKSUM = "gradxform", "gradxform_crc32"
#: What every reader of safetensors knows. Anything else is written as its bytes, and the manifest says what it is.
_PLAIN = frozenset(
    [
        "bool",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "uint64",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ]
)


class OfOthers(CheckpointError):
    """The file is of the format, and another program wrote it."""


@dataclass(frozen=True)
class Loaded:
    """What `load` found.

    Attributes:
        state: the state of `transform`, as its `init` makes it.
        params: the parameters, as those that were passed; None if the file has none.
        transform: the transform that goes on: what was passed, or what the file names.
        extra: what was saved beside it.
        manifest: see `gradxform.interop.manifest`; each array has its `crc32` too.
    """

    state: Any
    params: Any
    transform: Any
    extra: Any
    manifest: dict[str, Any]


def save(path: str | os.PathLike[str], tx: Any, state: Any, params: Any = None, *, extra: Any = None) -> None:
    """Writes the state of a transform, and the parameters, into one file that is there whole or not at all.

    The file is of the safetensors format: other programs can read the arrays, whose names are paths such as
    `state/0/mu/dense/kernel` and `params/dense/kernel`. Its metadata holds the manifest and checksums, so that `load`
    can tell what it is and whether it is whole. It is written beside its place, brought to the disk, and renamed: until
    then, whatever happens, the file that was there stays. One process writes one path.

    Args:
        path: of the file; any ending will do.
        tx: the transform that made `state`, ours or Optax's.
        state: its state, as `init` and `update` return it or as a training loop holds it.
        params: the parameters, to have both in one file.
        extra: what else belongs to the run and JSON can hold, such as `{"step": 1000}`.

    Raises:
        ImportError: without the package `safetensors` (`pip install 'gradxform[checkpoint]'`).
        TypeError: if `tx` is no transform, `state` is none, or `extra` nothing that JSON can hold.
        ValueError: if another process holds a part of an array (Orbax writes those), or two arrays have one name.
        OSError: if the folder is not there or cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx, params = gx.adamw(1e-3), {"w": jnp.ones((4, 2))}
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.safetensors"
        >>> gx.interop.save(path, tx, tx.init(params), params, extra={"step": 0})
        >>> found = gx.interop.load(path, tx, params)
        >>> found.extra, found.transform == tx, found.params["w"].shape
        ({'step': 0}, True, (4, 2))
    """
    numpy = _safetensors("save").numpy
    who, place = f"gx.interop.save({str(path)!r})", Path(path)
    if place.is_dir():
        raise OSError(f"{who}: that is a folder; name a file in it")
    known = manifest(tx, state, params, extra=extra)
    trees = {"state": unboxed(_state(state, who))} | ({} if params is None else {"params": unboxed(params)})
    arrays: dict[str, np.ndarray] = {}
    for root, tree in trees.items():
        for name, x in named(root, tree).items():
            host = _host(stored(x), name, who)
            known["arrays"][name]["crc32"] = zlib.crc32(_bytes(host).data)
            arrays[name] = host if str(host.dtype) in _PLAIN else _bytes(host)
    text = json.dumps(known)
    metadata = {_MANIFEST: text, _CHECKSUM: str(zlib.crc32(text.encode()))}
    beside = place.with_name(
        f".{place.name}.partial"
    )  # one name: what a killed process leaves is written over
    try:
        beside.touch()
        mode = (
            beside.stat().st_mode
        )  # what the user lets others read; the library's own file would be theirs alone
        numpy.save_file(arrays, beside, metadata)
        beside.chmod(mode)
        _to_disk(beside)
        os.replace(beside, place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _to_disk(place.parent)  # the name, too


def load(path: str | os.PathLike[str], tx: Any, params: Any, *, strict: bool = True) -> Loaded:
    """Reads what `save` wrote. All of it is checked before anything is made of it.

    Args:
        path: of the file.
        tx: the transform that goes on, or None for the one that the file names.
        params: the parameters, or their shapes (`jax.eval_shape(model.init, ...)`). The arrays are laid out as they
            are: on one device or on a mesh, another one than that of the run that saved them too.
        strict: whether `tx` has to be the one that was saved, each number of it included. With False it is enough that
            its state has the same arrays with the same meaning: a rate may have changed.

    Returns:
        A `Loaded`, with `state`, `params`, `transform`, `extra` and `manifest`. Arrays are what was saved, to the bit.

    Raises:
        gradxform.interop.CheckpointError: if the file is not whole, not one of `save`'s, of a later version, of
            another transform or of other parameters. The message says which, and what to do; nothing was changed.
        OSError: if there is no such file.
        ImportError: without the package `safetensors`.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx, params = gx.adamw(1e-3), {"w": jnp.ones((4, 2))}
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.safetensors"
        >>> gx.interop.save(path, tx, tx.init(params))
        >>> gx.interop.load(path, None, params).transform
        gx.adamw(0.001)
        >>> gx.interop.load(path, gx.lion(1e-4), params)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        gradxform.interop.manifest.CheckpointError: ...saved by gx.adamw(0.001), whose state is not that of gx.lion(...)
          not wanted: 'state/0/nu/w'; gx.restore_into takes over what fits
    """
    who = f"gx.interop.load({str(path)!r})"
    data, arrays = read(path, who)
    if tx is None:
        if data["transform"] is None:
            fact = f"{who}: the file does not say how to make {data['text']}"
            raise CheckpointError(say(fact, "pass the transform that made the state"))
        try:
            tx = from_json(json.dumps(data["transform"]))
        except ValueError as problem:  # somebody's factory or function, which a file does not import
            fact = f"{who}: the file was saved by {data['text']}, which cannot be made here: {problem}"
            raise CheckpointError(say(fact, "pass the transform that made the state")) from None
    transform = as_transform(tx, "gx.interop.load(tx)")
    like = abstract_state(transform, params, mesh_if_known(params, None, who))
    compare(data, transform, jax.eval_shape(transform.init, bare(unboxed(params))), strict, who)
    own = {name: entry for name, entry in data["arrays"].items() if name.split("/")[0] == "params"}
    state = _laid("state", like, arrays, data, who)
    return Loaded(
        state, _laid("params", params, arrays, data, who) if own else None, transform, data["extra"], data
    )


def read(path: str | os.PathLike[str], who: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and the arrays of a file, whole and as they were saved, or an error that says what it is instead."""
    library = _safetensors("load")
    raw = Path(path).read_bytes()
    data = _manifest(raw, who)
    try:
        tensors = {name: view["data"] for name, view in library.deserialize(raw)}
    except Exception as problem:
        fact = f"{who}: the file is not whole: {problem}"
        raise CheckpointError(say(fact, "it was cut off or overwritten; load an older one")) from None
    if set(tensors) != set(data["arrays"]):
        apart = sorted(set(tensors) ^ set(data["arrays"]))
        raise CheckpointError(
            f"{who}: the file was changed: its manifest and its arrays differ in {short(apart)}"
        )
    arrays: dict[str, np.ndarray] = {}
    for name, entry in data["arrays"].items():
        if zlib.crc32(tensors[name]) != entry["crc32"]:
            fact = f"{who}: {name} is not what was saved: its checksum differs"
            raise CheckpointError(say(fact, "the file was damaged; load an older one"))
        arrays[name] = np.frombuffer(tensors[name], jnp.dtype(entry["dtype"])).reshape(entry["shape"])
    return data, arrays


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a file that `save` wrote. The arrays are not read, and not checked.

    Args:
        path: of the file.

    Raises:
        gradxform.interop.CheckpointError: if it is none of `save`'s, or its manifest is damaged.
        OSError: if there is no such file.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.safetensors"
        >>> gx.interop.save(path, gx.sgd(0.1), gx.sgd(0.1).init({"w": jnp.ones(2)}), extra={"step": 7})
        >>> known = gx.interop.read_manifest(path)
        >>> known["text"], known["extra"], known["arrays"]
        ('gx.sgd(0.1)', {'step': 7}, {})
    """
    who = f"gx.interop.read_manifest({str(path)!r})"
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        return _manifest(start + file.read(min(length, os.fstat(file.fileno()).st_size)), who)


def _manifest(raw: bytes, who: str) -> dict[str, Any]:
    """The manifest in the first bytes of a file: eight with the header's length, then the header, which is JSON."""
    length = struct.unpack("<Q", raw[:8])[0] if len(raw) >= 8 else 0
    header = raw[8 : 8 + length]
    if not header.startswith(b"{"):
        fact = f"{who}: {'the file is empty' if not raw else 'this is no file of gx.interop.save'}"
        raise CheckpointError(say(fact, "gradxform inspect tells what it can read of others"))
    if len(header) < length:
        fact = f"{who}: the file is not whole: it ends in its header"
        raise CheckpointError(say(fact, "it was cut off; load an older one"))
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except ValueError:
        raise CheckpointError(f"{who}: the header is damaged; load an older one") from None
    text = metadata.get(_MANIFEST)
    if text is None:
        fact = f"{who}: safetensors, but without a manifest of gradxform: another program wrote it"
        raise OfOthers(say(fact, "gx.restore_into takes states of others"))
    if str(zlib.crc32(text.encode())) != metadata.get(_CHECKSUM):
        raise CheckpointError(f"{who}: the manifest is damaged: its checksum differs; load an older one")
    return readable(json.loads(text), who)


def _state(state: Any, who: str) -> Any:
    """The state, out of a training loop's object if it is in one; no transform."""
    if callable(getattr(state, "update", None)) and callable(getattr(state, "init", None)):
        raise TypeError(f"{who}: state: wanted what tx.init or tx.update returned, got {kind(state)}")
    loop = not hasattr(state, "_fields") and hasattr(state, "opt_state")
    return state.opt_state if loop else state


def _host(x: Any, name: str, who: str) -> np.ndarray:
    """An array in the memory of this process, in C order."""
    if isinstance(x, compat.Tracer):
        raise TypeError(f"{who}: {name} is being traced; save outside of jit")
    if not getattr(x, "is_fully_addressable", True):
        fact = f"{who}: {name} lies partly in other processes"
        raise ValueError(say(fact, "save it with Orbax, gx.interop.manifest(tx, state) beside it"))
    return np.ascontiguousarray(x).reshape(np.shape(x))


def _bytes(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1).view(np.uint8)


def _laid(root: str, like: Any, arrays: Any, data: Any, who: str) -> Any:
    """The arrays below `root` in a tree like `like`, each where its twin lies."""
    rows = view(like)
    wanted = [f"{root}/{path}" if path else root for path in rows.paths]
    made: list[Any] = []
    for name, x in zip(wanted, rows.places, strict=True):
        if is_absent(x):
            made.append(x)
            continue
        inside = unboxed(x) if is_box(x) else x
        if name not in arrays:
            raise CheckpointError(f"{who}: the file has no {name}; it was saved from other parameters")
        entry = data["arrays"][name]
        shape = stored(inside).shape
        if tuple(entry["shape"]) != tuple(shape):
            fact = f"{who}: {leaf(name)} has shape {entry['shape']} in the file, wanted {list(shape)}"
            raise CheckpointError(say(fact, "it was saved from other parameters"))
        made.append(boxed(_placed(arrays[name], inside, entry), x))
    return rows.treedef.unflatten(made)


def _placed(host: np.ndarray, like: Any, entry: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    if "key" in entry:
        return jax.random.wrap_key_data(jnp.asarray(host), impl=entry["key"])
    if getattr(like, "weak_type", False) and not host.shape and sharding is None:
        return jnp.asarray(host.item())  # as `init` made it of a Python number
    return jnp.asarray(host) if sharding is None else jax.device_put(host, sharding)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _safetensors(call: str) -> Any:
    try:
        safetensors = importlib.import_module("safetensors")
        importlib.import_module("safetensors.numpy")
    except ImportError:
        fact = f"gx.interop.{call}: safetensors is not installed"
        raise ImportError(say(fact, "pip install 'gradxform[checkpoint]'")) from None
    return safetensors
