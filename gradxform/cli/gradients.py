"""Gradients in a file of NumPy's, whose first axis is time."""

from pathlib import Path
from typing import Any

import numpy as np


class NotGradients(ValueError):
    """A file that cannot be read as gradients, with the reason as its message."""


def read_gradients(path: Path) -> Any:
    """One array of a `.npy` file, or the arrays of a `.npz` file by name."""
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as problem:
        raise NotGradients(f"{path}: not a .npy or .npz file of numbers ({problem})") from None
    if isinstance(found, np.ndarray):
        arrays: dict[str, Any] = {"": found}
    else:
        with found:
            arrays = {name: found[name] for name in found.files}
    for name, x in arrays.items():
        if x.dtype.kind not in "fiub" or x.ndim < 1:
            shown = f"{name}: " if name else ""
            raise NotGradients(
                f"{path}: {shown}{x.dtype}{list(x.shape)}, wanted numbers with time as first axis"
            )
    return arrays[""] if list(arrays) == [""] else arrays
