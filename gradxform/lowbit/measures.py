"""The figures of `check_lowbit`, and their bounds.

Bounds of 8 bits are those that low-bit states are held to elsewhere in this library: an AdamW direction within 0.035 of
float32's on gradients of one size, 0.09 where they differ by rows or columns, 0.20 where every coordinate has its own;
no step more than 1.6 times as large; second moments within 3 % of the truth; a slow average that correlates with the
truth by 0.94.

With 4 bits 14 codes span the range of a block, so that neighbours of a second moment differ by a factor 2 (one number
an octave, for the range of the stream in which half goes quiet) and by 4 in blocks of many sizes. A stored value
wanders between two neighbours:

    forgetting      a median within one code, 1/2 to 2; the step, its root, within 1.42
    largest step    v too small by two codes of the coarsest lattice is 4 in the root, and m adds a quarter: 5
    direction       the spread of a number that wanders between x and 2 x is about 0.4 x in v and 0.2 in its root, that
                    of m as large again: 0.45 with what outliers add; twice as much for neighbours a factor 4 apart
    correlation     an error of 0.45 of independent sign is a correlation of 1 / sqrt(1 + 0.45^2) = 0.91: 0.90
    stalled         a code that rests while the truth crosses half of the gap to the next: about a tenth; to nearest it
                    is nearly all, so a quarter tells them apart
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .._core.roles import MOMENT, SECOND_MOMENT
from . import worlds
from .dynamic import DynamicCodec
from .float8 import Float8Codec
from .pair import Pair, Snapshot, Steps
from .twin import Key
from .verdict import ZEROS, LowbitRow

#: `direction` alone is for gradients that are given, `slow direction` for steps made of a first moment of more than 100
#: steps, where 0.36 is the error whose correlation with the truth is 0.94.
BOUNDS: dict[int, dict[str, float]] = {
    8: {
        f"direction, {worlds.FLAT}": 0.035,
        f"direction, {worlds.ROWS}": 0.09,
        f"direction, {worlds.COLUMNS}": 0.09,
        f"direction, {worlds.WILD}": 0.20,
        "direction": 0.20,
        "slow direction": 0.36,
        "largest step": 1.6,
        "forgetting": 0.03,
        "quiet steps": 0.03,
        "stalled": 0.01,
        "zero codes": 0.0,
        "correlation": 0.94,
    },
    4: {
        f"direction, {worlds.FLAT}": 0.45,
        f"direction, {worlds.ROWS}": 0.9,
        f"direction, {worlds.COLUMNS}": 0.9,
        f"direction, {worlds.WILD}": 0.9,
        "direction": 0.9,
        "slow direction": 0.48,
        "largest step": 5.0,
        "forgetting": 1.0,
        "quiet steps": 0.42,
        "stalled": 0.25,
        "zero codes": 0.0,
        "correlation": 0.90,
    },
}
#: First moments of more steps are slow.
_SLOW = 100.0
#: A moment has moved if it has changed by this share, and stalled if what is stored has gone less of the way than that.
_MOVED, _FOLLOWED = 0.5, 0.5
_TINY = float(np.finfo(np.float32).tiny)


class Judge:
    """Makes rows of what was seen of a pair; `given` are the caller's own bounds."""

    def __init__(self, pair: Pair, given: Mapping[str, float], constants: Mapping[Key, float]) -> None:
        self.pair, self.given = pair, given
        self.slow = any(n > _SLOW for key, n in constants.items() if key[2] is MOMENT and math.isfinite(n))

    def _bound(self, name: str, bits: int) -> float:
        """The caller's bound of this very figure, the caller's of all of its kind, or ours."""
        kind = name.partition(",")[0]
        return self.given.get(name, self.given.get(kind, BOUNDS[4 if bits == 4 else 8][name]))

    # Steps ----------------------------------------------------------------------------------------------------------

    def direction(self, gradients: str, steps: Mapping[str, Steps]) -> Iterator[LowbitRow]:
        """How far the last steps are off, and how much the largest one is too large."""
        for path, seen in steps.items():
            if not len(seen.error):
                continue
            bits = self.pair.bits(path=path)
            name = "direction" if gradients == "given" else f"direction, {gradients}"
            most = self._bound(name, bits)
            if self.slow and not {name, "direction"} & set(self.given):
                most = max(most, self._bound("slow direction", bits))
            if seen.signs:
                most = _of_signs(most)
            errors, largest = seen.error, seen.largest
            yield LowbitRow(
                "direction",
                gradients,
                path,
                "",
                float(np.median(errors)),
                high=most,
                worst=float(errors.max()),
                advice=self._remedy(path, "direction"),
            )
            top = self._bound("largest step", bits)
            yield LowbitRow(
                "largest step",
                gradients,
                path,
                "",
                float(largest.max()),
                high=top,
                advice=self._remedy(path, "direction"),
            )

    def quiet_steps(self, gradients: str, steps: Mapping[str, Steps]) -> Iterator[LowbitRow]:
        """Sizes of steps where gradients have become small, over float32's: far below one if v does not forget."""
        for path, seen in steps.items():
            if math.isnan(seen.quiet) or seen.signs:
                continue
            share = self._bound("quiet steps", self.pair.bits(path=path))
            yield LowbitRow(
                "quiet steps",
                gradients,
                path,
                "",
                seen.quiet,
                low=1 / (1 + share),
                high=1 + share,
                advice=self._remedy(path, "forgetting"),
            )

    # What is stored -------------------------------------------------------------------------------------------------

    def forgetting(
        self,
        gradients: str,
        now: Snapshot,
        quiet: Mapping[Key, Any],
        parts: tuple[str, ...] = ("quiet", "loud"),
    ) -> Iterator[LowbitRow]:
        """Stored over true second moments, the median of those that have fallen and of the others."""
        for key in self._kept(SECOND_MOMENT):
            true, stored = now.true[key], now.stored[key]
            for part in parts:
                chosen = (quiet[key] if part == "quiet" else ~quiet[key]) & (true > _TINY)
                if not chosen.any():
                    continue
                share = self._bound("forgetting", self.pair.bits(key))
                ratio = float(np.median(stored[chosen] / true[chosen]))
                yield LowbitRow(
                    f"forgets, {part}",
                    gradients,
                    key[1],
                    key[0],
                    ratio,
                    low=1 / (1 + share),
                    high=1 + share,
                    advice=self._remedy(key[1], "forgetting", key),
                )

    def stalled(self, gradients: str, before: Snapshot, now: Snapshot, role: Any) -> Iterator[LowbitRow]:
        """Of the elements whose true value has moved by half, the share whose stored one went less than half as far.

        A second moment moves by factors, a first moment, which has a sign, by differences.
        """
        for key in self._kept(role):
            ends = [look.true[key] for look in (before, now)], [look.stored[key] for look in (before, now)]
            size = np.maximum(*map(np.abs, ends[0]))
            moved = (np.abs(ends[0][1] - ends[0][0]) > _MOVED * size) & (size > _TINY)
            if not moved.any():
                continue
            if role is SECOND_MOMENT:
                ends = (
                    [np.log(np.maximum(x, _TINY)) for x in ends[0]],
                    [np.log(np.maximum(x, _TINY)) for x in ends[1]],
                )
            change, followed = (end[1] - end[0] for end in ends)
            rests = ~(followed * np.sign(change) >= _FOLLOWED * np.abs(change))
            yield LowbitRow(
                "stalled",
                gradients,
                key[1],
                key[0],
                float(np.mean(rests[moved])),
                high=self._bound("stalled", self.pair.bits(key)),
                advice=self._remedy(key[1], "forgetting", key),
            )

    def zero_codes(self, gradients: str, now: Snapshot) -> Iterator[LowbitRow]:
        """Share of the numbers that are not zero and are stored as zero: of a second moment none, its root divides."""
        for role in (SECOND_MOMENT, MOMENT):
            for key in self._kept(role):
                there = np.abs(now.true[key]) > _TINY
                if not there.any():
                    continue
                share = float(np.mean(now.stored[key][there] == 0))
                most = self._bound("zero codes", self.pair.bits(key)) if role is SECOND_MOMENT else math.inf
                advice = self._remedy(key[1], "zeros", key)
                yield LowbitRow(ZEROS, gradients, key[1], key[0], share, high=most, advice=advice)

    def correlation(self, gradients: str, now: Snapshot) -> Iterator[LowbitRow]:
        """Of a stored first moment with the true one."""
        for key in self._kept(MOMENT):
            stored, true = now.stored[key].ravel(), now.true[key].ravel()
            if true.size < 2 or true.std() == 0:
                continue
            least = self._bound("correlation", self.pair.bits(key))
            value = float(np.corrcoef(stored, true)[0, 1]) if stored.std() > 0 else 0.0
            advice = self._remedy(key[1], "forgetting", key)
            yield LowbitRow("correlation", gradients, key[1], key[0], value, low=least, advice=advice)

    def _kept(self, role: Any) -> list[Key]:
        return [key for key in self.pair.checked() if key[2] is role]

    # What to do -----------------------------------------------------------------------------------------------------

    def _remedy(self, path: str, fault: str, key: Key | None = None) -> str:
        if not self.pair.ours:
            return {
                "zeros": "store v on a map without zero, or its root",
                "forgetting": "round up or down by a random number or a threshold that moves, not to nearest",
            }.get(fault, "more bits, smaller blocks, or a map that covers the range of a block")
        forms = [f for k, f in self.pair.forms.items() if k[1] == path and key in (None, k)]
        if any(isinstance(form.codec, Float8Codec) for form in forms):
            return "leave out map='float8': the adaptive map has five bits more"
        if any(isinstance(form.codec, DynamicCodec) for form in forms):
            return "leave out like='bitsandbytes' and map='dynamic': the adaptive map has no zero in a second moment"
        if any(form.nearest for form in forms):
            return "rounding='stochastic': to nearest, an average whose steps are smaller than a code's never moves"
        role = "second_moment" if key is not None and key[2] is SECOND_MOMENT else "moment"
        if self.pair.bits(key, path) == 4:
            return f"bits=8, or {role}=8" if key is not None else "bits=8"
        return f"{role}=16 or paths={{{path!r}: 16}}" if key is not None else f"paths={{{path!r}: 16}}"


def _of_signs(error: float) -> float:
    """The bound for steps that are signs: noise of a share e of a normal number turns e / pi of its signs, each a 2."""
    return 2 * math.sqrt(error / math.pi)
