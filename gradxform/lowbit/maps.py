"""Code maps: which number each code of a block stands for, in units of the block's largest magnitude. NumPy only.

A map is a float32 array in ascending order, at most 1 in magnitude; code c means `map[c] * scale`. Encoding to nearest
needs the `midpoints` between neighbours.

The dynamic map ("tree" map) spends its codes on decades. For `bits` bits, of which `exponent_bits` = E can be spent on
the exponent, decade i = 0 ... E - 1 reaches from 10^(i-E) to 10^(i-E+1) and is cut into

    2^(i + bits - 1 - E)         equal cells a sign, if the map is signed
    2^(i + bits - E)             equal cells, if not

each of which is represented by its middle: the top decade has half of all codes, the next one a quarter. Zero and 1
are added, so that the largest number of a block is exact. -1 is not there: in a signed map -absmax is stored as
-0.993 absmax.

Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, 2015 (the data type); Dettmers et al., 8-bit Optimizers
via Block-wise Quantization, 2021 (its use for optimizer state).
"""

import numpy as np
from numpy.typing import NDArray

from .._core.errors import check_flag, check_integer

Map = NDArray[np.float32]


def dynamic_map(signed: bool, exponent_bits: int = 7, bits: int = 8) -> Map:
    """The dynamic map, number for number as bitsandbytes and torchao build it.

    Args:
        signed: both signs, for a first moment; or not, for a second moment.
        exponent_bits: the number of decades, 1 to `bits - 1`; a map that is not signed has `bits - 1`.
        bits: the size of a code, 2 to 8.

    Returns:
        `2**bits` float32 numbers, strictly ascending.

    Raises:
        TypeError: for anything but a flag and whole numbers.
        ValueError: for numbers out of range.

    Example:
        >>> from gradxform.lowbit.maps import dynamic_map
        >>> [round(float(x), 4) for x in dynamic_map(signed=True, exponent_bits=3, bits=4)[7:]]
        [0.0, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1.0]
        >>> map8 = dynamic_map(signed=False)
        >>> len(map8), float(map8[0]), float(map8[-1])
        (256, 0.0, 1.0)

    References: Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, 2015.
    """
    call = "lowbit.maps.dynamic_map"
    check_flag(call, "signed", signed)
    check_integer(call, "bits", bits, low=2)
    check_integer(call, "exponent_bits", exponent_bits, low=1)
    if bits > 8:
        raise ValueError(f"gx.{call}(bits={bits}): wanted at most 8, since a code is a byte")
    free = bits - 1 - exponent_bits
    if free < 0 or (free and not signed):
        wanted = (
            f"at most {bits - 1}" if signed else f"{bits - 1}, the one number for which the codes are used up"
        )
        raise ValueError(f"gx.{call}(exponent_bits={exponent_bits}): wanted {wanted} with bits={bits}")
    cells = [2 ** (i + free + (not signed)) for i in range(exponent_bits)]
    decades = [_middles(n, i + 1 - exponent_bits) for i, n in enumerate(cells)]
    if free:
        decades.append(_middles(2**free - 1, 0))
    positive = np.concatenate(decades)
    negative = -positive if signed else positive[:0]
    return np.sort(np.concatenate([negative, positive, np.array([0, 1], np.float32)]))


def linear_map(bits: int = 4) -> Map:
    """`(i + 1) / 2^bits`: equal steps and no zero, as torchao and lpmm store a second moment in 4 bits.

    Args:
        bits: the size of a code, 1 to 8.

    Returns:
        `2**bits` float32 numbers, strictly ascending, all exact.

    Raises:
        TypeError: for anything but a whole number.
        ValueError: for a number out of range.

    Example:
        >>> from gradxform.lowbit.maps import linear_map
        >>> linear_map(bits=2).tolist()
        [0.25, 0.5, 0.75, 1.0]

    References: Li et al., Memory Efficient Optimizers with 4-bit States, 2023.
    """
    check_integer("lowbit.maps.linear_map", "bits", bits, low=1)
    if bits > 8:
        raise ValueError(f"gx.lowbit.maps.linear_map(bits={bits}): wanted at most 8, since a code is a byte")
    n = 2**bits
    return np.arange(1, n + 1, dtype=np.float32) / np.float32(n)


def midpoints(numbers: Map) -> Map:
    """The middle between each two neighbours of a map, in float32: where encoding to nearest changes its mind.

    Args:
        numbers: a map of n numbers.

    Returns:
        n - 1 numbers. The code of x to nearest, a tie going down, is the count of those below x.

    Example:
        >>> import numpy as np
        >>> from gradxform.lowbit.maps import linear_map, midpoints
        >>> midpoints(linear_map(bits=2)).tolist()
        [0.375, 0.625, 0.875]
        >>> np.searchsorted(midpoints(linear_map(bits=2)), np.float32([0.3, 0.375, 0.38])).tolist()
        [0, 0, 1]
    """
    return (numbers[:-1] + numbers[1:]) / np.float32(2)


def _middles(n: int, power: int) -> Map:
    """The middles of `n` equal cells of [0.1, 1], times `10^power`, rounded as torch rounds them in float32."""
    # torch.linspace: a step in float32, then each edge with one rounding, counted from the nearer end. A product of two
    # float32 numbers is exact in double precision.
    low, high = np.float32(0.1), np.float32(1)
    step = float((high - low) / np.float32(n))
    i = np.arange(n + 1)
    edges = np.where(i < (n + 1) // 2, float(low) + step * i, float(high) - step * (n - i)).astype(np.float32)
    return np.float32(10.0**power) * midpoints(edges)
