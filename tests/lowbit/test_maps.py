"""Code maps: bitsandbytes' numbers, ascending, and refused where the codes do not come out."""

import doctest

import numpy as np
import pytest

from gradxform.lowbit import maps
from gradxform.lowbit.maps import dynamic_map, linear_map, midpoints
from tests.reference import Golden

GOLDEN = Golden.load("bitsandbytes.npz")

DYNAMIC = [(signed, bits - 1, bits) for signed in (False, True) for bits in range(2, 9)]
SIGNED = [(True, e, bits) for bits in range(3, 9) for e in range(1, bits - 1)]


@pytest.mark.parametrize(("kind", "signed"), [("signed", True), ("unsigned", False)])
def test_the_maps_are_those_of_bitsandbytes(kind: str, signed: bool) -> None:
    ours, theirs = dynamic_map(signed), GOLDEN.arrays[f"map/{kind}"]
    assert ours.dtype == theirs.dtype == np.float32
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize(("signed", "exponent_bits", "bits"), DYNAMIC + SIGNED)
def test_ascending_complete_and_within_one(signed: bool, exponent_bits: int, bits: int) -> None:
    numbers = dynamic_map(signed, exponent_bits, bits)
    assert numbers.shape == (2**bits,)
    assert np.all(np.diff(numbers) > 0)
    assert numbers[-1] == 1
    assert np.count_nonzero(numbers == 0) == 1
    assert numbers[0] == 0 if not signed else -1 < numbers[0] < 0
    if signed:
        zero = int(np.flatnonzero(numbers == 0)[0])
        assert np.array_equal(-numbers[:zero][::-1], numbers[zero + 1 : -1])


def test_the_four_bit_maps() -> None:
    """As torchao has them."""
    positive = np.array([0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875])
    want = np.concatenate([-positive[::-1], [0], positive, [1]])
    np.testing.assert_allclose(dynamic_map(True, 3, 4), want, rtol=2e-7)
    assert np.array_equal(linear_map(), np.arange(1, 17) / 16)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_linear_map(bits: int) -> None:
    numbers = linear_map(bits)
    assert numbers.dtype == np.float32
    assert np.array_equal(numbers, np.arange(1, 2**bits + 1) / 2**bits)


@pytest.mark.parametrize("numbers", [dynamic_map(True), dynamic_map(False), linear_map()])
def test_midpoints_lie_between_and_decide_to_nearest(numbers: np.ndarray) -> None:
    middles = midpoints(numbers)
    assert middles.dtype == np.float32
    assert np.all(numbers[:-1] < middles)
    assert np.all(middles < numbers[1:])
    x = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    x = np.concatenate([x, x * np.float32(1e-4)])
    nearest = np.abs(x[:, None].astype(np.float64) - numbers).min(1)
    chosen = np.abs(x - numbers[np.searchsorted(middles, x)].astype(np.float64))
    np.testing.assert_allclose(chosen, nearest, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamic_map(1), "wanted True or False"),
        (lambda: dynamic_map(True, bits=9), r"dynamic_map\(bits=9\): wanted at most 8"),
        (lambda: dynamic_map(True, bits=1), "wanted at least 2"),
        (lambda: dynamic_map(True, 0), "wanted at least 1"),
        (lambda: dynamic_map(True, 8), "wanted at most 7 with bits=8"),
        (lambda: dynamic_map(False, 6), "wanted 7, the one number"),
        (lambda: dynamic_map(False, 7, 4), r"exponent_bits=7\): wanted 3"),
        (lambda: linear_map(9), r"linear_map\(bits=9\): wanted at most 8"),
        (lambda: linear_map(2.0), "wanted a whole number"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_the_examples_run() -> None:
    assert doctest.testmod(maps).failed == 0
