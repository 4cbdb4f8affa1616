"""Arrays for the trees of `shapes.py`."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shapes import Shapes

BLOCK = 1 << 20  # random numbers are drawn once and repeated: their values cost no time, drawing them does


def size(shapes: Shapes) -> int:
    """How many numbers."""
    return sum(math.prod(shape) for shape in shapes.values())


def tree(shapes: Shapes, seed: int) -> dict[str, jax.Array]:
    """Normal numbers of deviation 0.01, the same for a seed on every machine."""
    numbers = 0.01 * np.random.default_rng(seed).standard_normal(BLOCK, dtype=np.float32)
    return {
        name: jnp.array(np.resize(numbers[7919 * i % (BLOCK // 2) :], shape))
        for i, (name, shape) in enumerate(shapes.items())
    }
