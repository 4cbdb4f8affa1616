"""The problem of the golden runs: three leaves, and gradients that are prescribed, not computed from the parameters.

Their sizes span eight decades, one row is almost zero (so that epsilon shows), one entry is exactly zero for three
steps (0 / (0 + eps)), and signs change. The files store them: NumPy promises no stable random streams.
"""

import numpy as np
from numpy.typing import NDArray

SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "b": (3,), "s": ()}
SCALES = {"w": 1.0, "b": 30.0, "s": 1e-2}
#: For methods that factor: a matrix, a stack of matrices, a vector and a number.
TENSORS: dict[str, tuple[int, ...]] = {"w": (4, 3), "b": (3,), "s": (), "k": (2, 2, 3)}


def with_tensors(steps: int) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """The same kind of problem with a leaf of rank three."""
    return problem(steps, 20250102, TENSORS)


def problem(
    steps: int, seed: int = 20250101, shapes: dict[str, tuple[int, ...]] = SHAPES
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Initial parameters by leaf, and gradients by leaf with a leading step axis."""
    rng = np.random.default_rng(seed)
    params = {k: rng.normal(size=shape) for k, shape in shapes.items()}
    grads = {}
    for k, shape in shapes.items():
        size = SCALES.get(k, 1.0) * np.exp(rng.normal(size=(steps,) + (1,) * len(shape)))
        grads[k] = size * (rng.normal(size=(steps, *shape)) + 0.5)
    grads["w"][:, 3] *= 1e-8
    grads["b"][:3, 0] = 0.0
    return params, grads
