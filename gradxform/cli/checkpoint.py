"""Checkpoints in files: the arrays of a `.npz`, the tree of a Flax msgpack, an Orbax directory."""

import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .params import nested

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")


class NotCheckpoint(ValueError):
    """A path that cannot be read as a checkpoint, with the reason as its message."""


def read_checkpoint(path: Path) -> Any:
    """The tree of arrays in a file or directory.

    A pickle is refused, whatever its name: reading one runs what somebody has put into it.
    """
    if path.is_dir():
        return _orbax(path)
    start = path.read_bytes()[:2]
    if path.suffix in _PICKLES or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[1:]):
        fact = "a pickle, which runs code when it is read"
        raise NotCheckpoint(f"{path}: {fact}; save it as .npz, with flax.serialization or with Orbax")
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
