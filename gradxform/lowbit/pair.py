"""A transform and its float32 twin on the same gradients, compiled once, and what is seen of both.

Both see the same constant parameters: what is compared are steps, and a decay of weights that differ would be counted
as an error of the state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._core.roles import MOMENT
from .._core.tree import is_inexact, tree_map, view
from . import worlds
from .stored import CastCodec, Quantized
from .twin import Key, moments
from .worlds import Floats, World

#: Of so many steps at the end the errors are kept.
WINDOW = 32
#: For so many steps without gradients the float32 state is watched, to see how fast it forgets.
_WATCHED = 128
_STATISTICS = 9


class Carry(NamedTuple):
    """Both states, the steps taken, and of the last steps of each floating leaf what `_compared` returns."""

    low: Any
    exact: Any
    count: Any
    seen: Any


@dataclass(frozen=True)
class Snapshot:
    """The moments of both at one step: what is stored and what is true."""

    count: int
    stored: dict[Key, Any]
    true: dict[Key, Any]


class Steps(NamedTuple):
    """What the last steps of one leaf looked like, an entry a step; a step of nothing at all is left out."""

    error: Any  # |u_q - u| / |u|
    largest: Any  # max|u_q| / max|u|
    quiet: float  # sizes of steps where gradients are quiet, over those of float32
    signs: bool  # whether all steps of both have one size


class Pair:
    """Two transforms and the parameters on which they are compared.

    `read` makes of the state in few bits one with arrays. What can be compared is `keys`: moments that are in both.
    """

    def __init__(self, low: Any, exact: Any, params: Any, read: Callable[[Any], Any]) -> None:
        self.tx, self.twin, self.params, self.read = low, exact, params, read
        self.known: Floats = worlds.floats(params)
        self.shapes = dict(zip(self.known.paths, self.known.shapes, strict=True))
        state = jax.eval_shape(low.init, params)
        true = dict(moments(jax.eval_shape(exact.init, params), self.shapes))
        opened = dict(moments(jax.eval_shape(read, state), self.shapes))
        self.truths: list[Key] = [key for key, x in true.items() if is_inexact(x) and np.prod(x.shape) > 0]
        same = [k for k in self.truths if k in opened and opened[k].shape == true[k].shape]
        self.keys: list[Key] = [k for k in same if is_inexact(opened[k])]
        self.forms = {k: x.form for k, x in moments(state, self.shapes) if isinstance(x, Quantized)}
        self.bytes = sum(_bytes(x) for x in jax.tree.leaves(state))
        self.true_bytes = sum(_bytes(x) for x in jax.tree.leaves(jax.eval_shape(exact.init, params)))
        self.parameters = max(1, sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params)))
        self._advance = jax.jit(self._many)
        self._once = jax.jit(partial(self._one, quiet=None))
        self._looked = jax.jit(self._both)
        self._decays = jax.jit(self._watch)
        self._start = jax.jit(lambda params: (low.init(params), exact.init(params)))

    @property
    def ours(self) -> bool:
        """Whether the state is in few bits by `quantized`, so that it is known what is stored and how."""
        return bool(self.forms)

    def checked(self) -> list[Key]:
        """The moments whose stored values are looked at."""
        return [key for key in self.keys if key in self.forms] if self.ours else self.keys

    def bits(self, key: Key | None = None, path: str | None = None) -> int:
        """The fewest bits of one moment, or of those of one leaf; 8 where that is not known."""
        found = [
            16 if isinstance(form.codec, CastCodec) else form.codec.bits
            for known, form in self.forms.items()
            if key in (None, known) and path in (None, known[1])
        ]
        return min(found, default=8)

    # Running --------------------------------------------------------------------------------------------------------

    def begin(self) -> Carry:
        """Both before the first step."""
        low, exact = self._start(self.params)
        seen = jnp.zeros((WINDOW, len(self.known.places), _STATISTICS), jnp.float32)
        return Carry(low, exact, jnp.zeros([], jnp.int32), seen)

    def advance(self, carry: Carry, world: World, steps: int) -> Carry:
        """So many steps in one of the built-in worlds, without a return to Python."""
        return self._advance(carry, world, jnp.asarray(steps, jnp.int32), self.params)

    def step(self, carry: Carry, grads: Any) -> Carry:
        """One step with somebody's gradients."""
        return self._once(carry, grads, self.params)

    def look(self, carry: Carry) -> Snapshot:
        """The moments as they are now."""
        stored, true = jax.device_get(self._looked(carry))
        return Snapshot(
            int(carry.count),
            dict(zip(self.keys, map(np.asarray, stored), strict=True)),
            dict(zip(self.keys, map(np.asarray, true), strict=True)),
        )

    def time_constants(self, carry: Carry) -> dict[Key, float]:
        """After how many steps without gradients a float32 moment has fallen by a factor e; inf for one that does not.

        Measured, so that it is right for whatever decays: a schedule of b2, an average inside of `accumulate`.
        """
        sizes = np.asarray(jax.device_get(self._decays(carry.exact, self.params)), np.float64)
        return {key: _time_constant(sizes[:, k]) for k, key in enumerate(self.truths)}

    def _one(self, carry: Carry, grads: Any, params: Any, quiet: Any) -> Carry:
        mine, low = self.tx.update(grads, carry.low, params)
        theirs, exact = self.twin.update(grads, carry.exact, params)
        pairs = list(zip(view(mine).places, view(theirs).places, strict=True))
        rows = [
            _compared(*pairs[i], None if quiet is None else quiet[k]) for k, i in enumerate(self.known.places)
        ]
        seen = carry.seen.at[carry.count % WINDOW].set(jnp.stack(rows)) if rows else carry.seen
        return Carry(low, exact, carry.count + np.int32(1), seen)

    def _many(self, carry: Carry, world: World, steps: Any, params: Any) -> Carry:
        quiet = worlds.quiet(world)

        def one(_: Any, carry: Carry) -> Carry:
            return self._one(carry, worlds.gradient(world, carry.count, params, self.known), params, quiet)

        return jax.lax.fori_loop(0, steps, one, carry)

    def _both(self, carry: Carry) -> tuple[list[Any], list[Any]]:
        stored, true = (dict(moments(s, self.shapes)) for s in (self.read(carry.low), carry.exact))
        return [_wide(stored[key]) for key in self.keys], [_wide(true[key]) for key in self.keys]

    def _watch(self, state: Any, params: Any) -> Any:
        still = tree_map(jnp.zeros_like, params)
        nothing = tree_map(lambda x: x if is_inexact(x) else None, still)

        def one(state: Any, _: Any) -> tuple[Any, Any]:
            _, state = self.twin.update(nothing, state, still)
            found = dict(moments(state, self.shapes))
            return state, jnp.stack([jnp.mean(jnp.abs(_wide(found[key]))) for key in self.truths])

        return jax.lax.scan(one, state, None, length=_WATCHED)[1] if self.truths else jnp.zeros((1, 0))

    # What was seen --------------------------------------------------------------------------------------------------

    def steps(self, carry: Carry) -> dict[str, Steps]:
        """The last steps of every floating leaf."""
        seen = np.asarray(jax.device_get(carry.seen), np.float64)[: min(WINDOW, int(carry.count))]
        return {path: _steps(seen[:, k]) for k, path in enumerate(self.known.paths)}


def slowest(constants: dict[Key, float], first: bool) -> float:
    """The largest finite time constant of the first moments, or of the second ones; 0 if there is none."""
    found = [n for key, n in constants.items() if (key[2] is MOMENT) == first and np.isfinite(n)]
    return max(found, default=0.0)


def _bytes(x: Any) -> int:
    return int(np.prod(x.shape)) * int(x.dtype.itemsize)


def _wide(x: Any) -> Any:
    return jnp.asarray(x).astype(jnp.float32)


def _compared(mine: Any, theirs: Any, quiet: Any) -> Any:
    """Sums of one step of one leaf, in units of float32's largest element, so that none is out of range."""
    u, v = _wide(mine), _wide(theirs)
    if not u.size:
        return jnp.zeros(_STATISTICS, jnp.float32)
    top = jnp.max(jnp.abs(v))
    unit = jnp.where(top > 0, top, np.float32(1))
    u, v = u / unit, v / unit
    a, b = jnp.abs(u), jnp.abs(v)
    still = jnp.zeros(u.shape, bool) if quiet is None else quiet
    sums = [(u - v) ** 2, v * v, b, u * u, a, jnp.where(still, a, 0), jnp.where(still, b, 0)]
    return jnp.stack([jnp.max(a), jnp.max(b), *(jnp.sum(x) / np.float32(u.size) for x in sums)])


def _steps(seen: Any) -> Steps:
    u_max, v_max, error, v_square, v_mean, u_square, u_mean, u_quiet, v_quiet = seen.T
    moved = (v_max > 0) | (u_max > 0)
    if not moved.any():
        return Steps(np.zeros(0), np.zeros(0), np.nan, False)
    with np.errstate(divide="ignore", invalid="ignore"):
        one_size = (v_mean**2 > 0.998 * v_square) & (u_mean**2 > 0.998 * u_square)
        ratio = u_quiet[moved].sum() / v_quiet[moved].sum()
        return Steps(
            np.sqrt(error / v_square)[moved],
            (u_max / v_max)[moved],
            float(ratio),
            bool(one_size[moved].all()),
        )


def _time_constant(sizes: Any) -> float:
    """Of the last steps at which there is still something left of the first one."""
    left = np.flatnonzero(sizes > max(sizes[0] * 1e-12, 1e-30)) if sizes[0] > 0 else np.zeros(0, int)
    if len(left) == 0:
        return 0.0
    last = int(left[-1])
    before = last // 2
    if last == before:
        return 1.0
    fall = np.log(sizes[before] / sizes[last])
    return float((last - before) / fall) if fall > 1e-5 else float("inf")
