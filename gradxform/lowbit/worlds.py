"""Streams of gradients with which a state in few bits is tried, for parameters of any shapes.

    g_t(i) = late(i) or size(i), by whether t is past the turn, times noise_t(i), +- drift(i)

Noise is cut out of one long row of random numbers at a place that a hash of the step and the leaf gives: a step costs
a copy, and a number comes back to the same element only after hundreds of thousands of steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._core.numerics import random_bits
from .._core.tree import is_absent, is_inexact, view

_POOL = 2**20
#: What gradients are of: a network's are small, and an epsilon of 1e-8 shall not matter.
_UNIT = 1e-3


class World(NamedTuple):
    """The arrays of one stream, an entry a floating leaf, the step at which it turns, and the row of random numbers."""

    size: list[Any]
    late: list[Any]
    drift: list[Any]
    turn: Any
    pool: Any


@dataclass(frozen=True)
class Kind:
    """A way to draw a world: sizes of gradients before and after the turn, the drift, whose tails are heavy."""

    name: str
    sizes: Callable[[np.random.Generator, tuple[int, ...]], Any]
    quiet: float = 1.0
    drift: float = 0.0
    tails: bool = True


def _even(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.ones(shape)


def _rows_and_columns(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.exp(rng.standard_normal((*shape[:-1], 1)) + rng.standard_normal(shape[-1:]))


def _columns(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(1.0 / (1.0 + rng.permutation(shape[-1])), shape)


def _wild(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.exp(2.0 * rng.standard_normal(shape))


FLAT, ROWS, COLUMNS, WILD = "flat", "rows and columns", "power-law columns", "wild"
QUIET, TURNING = "half goes quiet", "drift turns"
#: One step of each is looked at, and what is stored at the end.
STEADY = (
    Kind(FLAT, _even),
    Kind(ROWS, _rows_and_columns),
    Kind(COLUMNS, _columns),
    Kind(WILD, _wild),
)
#: Every other gradient of a block falls to a tenth, and what is stored of it must follow.
HALF_QUIET = Kind(QUIET, _even, quiet=0.1, tails=False)
#: A drift of a tenth of the noise changes its sign, and an average must follow.
DRIFT_TURNS = Kind(TURNING, _even, drift=0.1, tails=False)


@dataclass(frozen=True)
class Floats:
    """The floating leaves of a tree of parameters: their numbers among all places, paths and shapes."""

    places: tuple[int, ...]
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


def floats(params: Any) -> Floats:
    """Which leaves of a tree have gradients."""
    rows = view(params)
    known = [i for i, x in enumerate(rows.places) if not is_absent(x) and is_inexact(x)]
    shapes = tuple(tuple(int(n) for n in rows.places[i].shape) for i in known)
    return Floats(tuple(known), tuple(rows.paths[i] for i in known), shapes)


def pools(seed: int, shapes: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
    """Rows of normal and of Student's t numbers (5 degrees of freedom), both of variance one."""
    rng = np.random.default_rng(seed)
    length = max(_POOL, *(int(np.prod(shape)) + 2**16 for shape in shapes))
    normal = rng.standard_normal(length, np.float32)
    heavy = (rng.standard_t(5.0, length) * np.sqrt(3 / 5)).astype(np.float32)
    return jnp.asarray(normal), jnp.asarray(heavy)


def draw(kind: Kind, seed: int, shapes: Sequence[tuple[int, ...]], turn: int, rows: tuple[Any, Any]) -> World:
    """A world of one kind that turns at the step `turn`."""
    rng = np.random.default_rng([seed, 1])
    size, late, drift = list[Any](), list[Any](), list[Any]()
    for shape in shapes:
        wide = shape or (1,)
        sizes = _UNIT * np.reshape(kind.sizes(rng, wide), shape)
        quiet = np.reshape(np.arange(int(np.prod(shape))) % 2 == 0, shape)
        signs = np.where(rng.standard_normal(shape) > 0, 1.0, -1.0)
        size.append(jnp.asarray(sizes, jnp.float32))
        late.append(jnp.asarray(np.where(quiet, kind.quiet, 1.0) * sizes, jnp.float32))
        drift.append(jnp.asarray(kind.drift * _UNIT * signs, jnp.float32))
    return World(size, late, drift, jnp.asarray(turn, jnp.int32), rows[1] if kind.tails else rows[0])


def quiet(world: World) -> list[Any]:
    """Which elements are quiet after the turn."""
    return [late < size for size, late in zip(world.size, world.late, strict=True)]


def gradient(world: World, t: Any, params: Any, known: Floats) -> Any:
    """The gradients of step `t`, a tree like the parameters."""
    rows, after = view(params), t >= world.turn
    places: list[Any] = [None] * len(rows.places)  # what is no float has none
    for k, (i, shape) in enumerate(zip(known.places, known.shapes, strict=True)):
        number = int(np.prod(shape))
        bits = random_bits(0, t, k, (1,))[0]
        start = (bits % np.uint32(world.pool.shape[0] - number)).astype(jnp.int32)
        noise = jax.lax.dynamic_slice(world.pool, (start,), (number,)).reshape(shape)
        g = jnp.where(after, world.late[k], world.size[k]) * noise
        g = g + jnp.where(after, -world.drift[k], world.drift[k])
        places[i] = g.astype(rows.places[i].dtype)
    return rows.treedef.unflatten(places)
