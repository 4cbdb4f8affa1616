"""What make_bitsandbytes.py asks bitsandbytes: inputs that are made again by whoever reads the answers, and options.

Inputs whose bits matter are made of integers and of one IEEE operation each; the random ones are stored.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
#: The 8-bit parameter has 16.5 blocks; the other one is too small for 8 bits.
SHAPES: dict[str, tuple[int, ...]] = {"w": (33, 128), "b": (8, 8)}
OPTIONS: dict[str, Any] = {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}
STEPS = 22
#: The steps behind which the state is kept: two pairs of neighbours, and the gradient between them.
KEPT = [1, 2, 21, 22]


def in_blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Numbers in [-1, 1] in full blocks, each led by a 1, so that its scale is 1 and nothing is rounded."""
    rows = -(-len(values) // (BLOCK - 1))
    filled = np.zeros(rows * (BLOCK - 1), np.float32)
    filled[: len(values)] = values
    return np.concatenate([np.ones((rows, 1), np.float32), filled.reshape(rows, -1)], axis=1).reshape(-1)


def beside(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The numbers and their two neighbours in float32."""
    low, high = np.nextafter(values, np.float32(-2)), np.nextafter(values, np.float32(2))
    return np.stack([low, values, high], axis=1).reshape(-1)


def ramp() -> NDArray[np.float32]:
    """Where their C++ kernel goes from one of its 65,536 numbers to the next, j / 32767.5, and its neighbours."""
    edges = (np.arange(-32767, 32768) / 32767.5).astype(np.float32)
    return in_blocks(beside(edges))


def edges(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """The midpoints of a map and the map itself, each with its neighbours; both zeros; the smallest normal numbers."""
    middles = (numbers[:-1] + numbers[1:]) / np.float32(2)
    small = np.array([0, -0.0, 2.0**-126, -(2.0**-126), 1e-30, -1e-30, 1e-9, -1e-9], np.float32)
    return in_blocks(np.concatenate([beside(middles), beside(numbers[1:-1]), numbers[[0, -1]], small]))


def extreme() -> NDArray[np.float32]:
    """Blocks of the same numbers in [-1, 1] times scales from one end of float32 to the other, and a block of zeros."""
    shape = (np.arange(-128, 128) / 128).astype(np.float32)
    shape = shape * np.abs(shape) ** np.float32(3)
    scales = [2.0**-120, 1e-30, 0.0, 1e-10, 3.0, 1e10, 1e30, 2.0**125, 3e38]
    return (np.array(scales, np.float32)[:, None] * shape).reshape(-1)
