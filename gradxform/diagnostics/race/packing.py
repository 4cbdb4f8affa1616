"""Numbers as text in a page, small: 16 bits a number, differences along a path, compressed, base64.

A position is a multiple of 1 / 21,845 of the side of the landscape's box (a screen shows a tenth of that), in an area
three times as wide and as high. A loss is the logarithm to base 10 of how far it is above the lowest, in units of
1 / 800. `ABSENT` stands for what lies outside of the area, is infinite or no number.
"""

import base64
import zlib
from typing import Any

import numpy as np

ABSENT = -32768
#: Units of a decade of the loss, and the lowest loss that is told from 0: that of the saddle is a difference of
#: numbers of size 1/4 in float32.
DECADE, FLOOR = 800, 1e-8
_TOP = 32767


def squeeze(array: Any) -> str:
    """An array as text: the first bytes of all numbers, then the second ones, and so on, by zlib, in base64."""
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    planes = little.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def expand(text: str, dtype: Any, shape: tuple[int, ...]) -> Any:
    """The array that `squeeze` has made text."""
    wanted = np.dtype(dtype).newbyteorder("<")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(wanted.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(wanted).reshape(shape).astype(dtype)


def area(box: Any) -> Any:
    """What positions are kept in: the box and as much again on each side; `[[left, right], [bottom, top]]`."""
    low, high = np.asarray(box, np.float64).T
    return np.stack([low - (high - low), high + (high - low)], axis=1)


def pack_paths(positions: Any, gaps: Any, box: Any) -> str:
    """Paths as text: for each of them x, y and the loss, a row each."""
    low, high = area(box).T
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        share = (positions - low) / (high - low)
        inside = (share >= 0) & (share <= 1)
        place = np.where(inside, np.rint(share * 2 * _TOP) - _TOP, ABSENT)
        height = np.rint(np.log10(np.maximum(gaps, FLOOR)) * DECADE)
        height = np.where(np.isfinite(gaps), height, ABSENT)
    rows = np.concatenate([np.moveaxis(place, -1, -2), height[..., None, :]], axis=-2).astype(np.int16)
    # Neighbours are alike, so their differences are small; they wrap around, as their sums do.
    return squeeze(np.diff(rows, axis=-1, prepend=np.int16(0)))


def unpack_paths(text: str, stops: tuple[int, ...], steps: int, box: Any) -> tuple[Any, Any]:
    """`(positions, gaps)` as `pack_paths` has kept them; NaN where nothing is."""
    rows = np.cumsum(expand(text, np.int16, (*stops, 3, steps + 1)), axis=-1, dtype=np.int16)
    low, high = area(box).T
    place, height = np.moveaxis(rows[..., :2, :], -2, -1), rows[..., 2, :]
    positions = low + (place.astype(np.float64) + _TOP) / (2 * _TOP) * (high - low)
    positions = np.where(place == ABSENT, np.nan, positions)
    return positions, np.where(height == ABSENT, np.nan, 10.0 ** (height / DECADE))
