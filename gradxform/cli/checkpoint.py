"""Checkpoints in files: `gx.interop.save`'s, the arrays of a `.npz`, a Flax msgpack, an Orbax directory."""

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.tree import view
from .params import nested
from .runs import NotCheckpoint, is_safetensors, plain, read_run

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


def read_checkpoint(path: Path) -> Any:
    """The tree of arrays in a file or directory, or the `Run` that a file of `gx.interop.save` is.

    A pickle is refused, whatever its name: reading one runs what somebody has put into it.
    """
    if path.is_dir():
        return _orbax(path)
    start = path.read_bytes()[:2]
    if path.suffix in _PICKLES or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[1:]):
        fact = "a pickle, which runs code when it is read"
        raise NotCheckpoint(f"{path}: {fact}; save it as .npz, with flax.serialization or with Orbax")
    if start != b"PK" and is_safetensors(path):
        return read_run(path)
    return _npz(path) if start == b"PK" else _msgpack(path)


def _npz(path: Path) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return nested({name: arrays[name] for name in arrays})
    except Exception as problem:
        raise NotCheckpoint(f"{path}: not a .npz file of numbers ({problem})") from None


def _msgpack(path: Path) -> Any:
    try:
        import msgpack
    except ImportError:
        raise NotCheckpoint(f"{path}: what is no .npz is read with msgpack: pip install msgpack") from None
    try:
        found: Any = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False, strict_map_key=False)
    except Exception as problem:
        raise NotCheckpoint(f"{path}: neither .npz nor a msgpack of Flax ({problem})") from None
    if not isinstance(found, dict):
        raise NotCheckpoint(f"{path}: neither .npz nor a msgpack of Flax: no tree but {type(found).__name__}")
    return found  # pyright: ignore[reportUnknownVariableType]


def _array(code: int, data: bytes) -> Any:
    """Flax's extensions: 1 is an array and 3 a scalar of NumPy's, each as shape, name of the dtype, bytes."""
    import msgpack

    if code not in (1, 3):
        raise ValueError(f"extension {code} is no array")
    shape, name, raw = msgpack.unpackb(data, raw=True)
    return np.frombuffer(raw, jnp.dtype(name.decode())).reshape(shape)


def _orbax(path: Path) -> Any:
    try:
        import orbax.checkpoint as orbax
    except ImportError:
        raise NotCheckpoint(f"{path}: a directory is read with Orbax: pip install orbax-checkpoint") from None
    try:
        with warnings.catch_warnings():  # it reads the layout from the checkpoint, and warns that it does
            warnings.filterwarnings("ignore", message="Sharding info not provided", category=UserWarning)
            return orbax.PyTreeCheckpointer().restore(path.absolute())
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        raise NotCheckpoint(f"{path}: Orbax cannot read it: {text}") from None


def shaped(saved: Any, maker: Any, params: Any) -> Any:
    """A state that came back as dictionaries in the classes of the transform that made it, codes included."""
    try:
        from flax import serialization
    except ImportError:
        raise NotCheckpoint("--saved-by: the state is put together with Flax: pip install flax") from None
    like = maker.init(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params))
    try:
        return serialization.from_state_dict(like, saved)
    except Exception as problem:
        text = " ".join(str(problem).split())[:200]
        raise NotCheckpoint(f"--saved-by: the state was not made by {maker!r}: {text}") from None


def check_out(path: Path) -> None:
    """Raises unless a checkpoint can be written there: a form that is known, a folder, and no file."""
    if path.suffix not in (".safetensors", ".npz", ".msgpack"):
        raise NotCheckpoint(f"--out: {path} ends neither with .safetensors nor .npz nor .msgpack")
    if path.exists():
        raise NotCheckpoint(f"--out: {path} is there already; name another file")
    if not path.parent.is_dir():
        raise NotCheckpoint(f"--out: there is no folder {path.parent}")


def write_checkpoint(path: Path, tree: Any) -> None:
    """Writes a tree in the form of `flax.serialization`, as a `.npz` with slashes in its names or as a msgpack.

    The file is there whole or not at all, and one that is there already is left as it is.
    """
    try:
        from flax import serialization
    except ImportError:
        raise NotCheckpoint("--out: states are written with Flax: pip install flax") from None
    named = serialization.to_state_dict(plain(tree))
    handle, name = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if path.suffix == ".npz":
                np.savez(file, allow_pickle=False, **_flat(path, named))
            else:
                file.write(serialization.msgpack_serialize(named))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # unlike a renaming it fails if somebody has written there meanwhile
    finally:
        os.unlink(name)


def _flat(path: Path, tree: Any) -> dict[str, Any]:
    rows = view(tree)
    arrays = {name: np.asarray(x) for name, x in zip(rows.paths, rows.places, strict=True)}
    for name, x in arrays.items():
        if x.dtype.kind in "VO":
            what = None if x.dtype.kind == "O" else x.dtype
            raise NotCheckpoint(f"--out: {path}: .npz has no {what} ({name}); write a .msgpack")
    return arrays
