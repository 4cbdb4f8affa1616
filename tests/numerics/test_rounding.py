"""Counter-based random bits, and stochastic rounding: unbiased, exact where it can be, never out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradxform.build import leaf_number, random_bits, stochastic_round

BF16 = jnp.bfloat16
ALL = np.arange(2**16, dtype=np.uint16)


def floats(words: np.ndarray) -> np.ndarray:
    """bfloat16 words as float32."""
    return (words.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("x", [1.0, 1.001, -1.0035, 3.14159, 1e-30, -7e33, 1 + 2.0**-8, 1 + 2.0**-19])
def test_unbiased(x: float) -> None:
    """1e5 draws: the mean within four standard errors, and only the two neighbours occur."""
    draws = 100_000
    value = jnp.full(draws, x, jnp.float32)
    got = np.asarray(stochastic_round(value, random_bits(1, 2, 3, (draws,))), np.float64)
    exact = float(np.float32(x))
    low, high = got.min(), got.max()
    gap = np.spacing(np.float32(exact)) * 2.0**16
    assert low <= exact <= high
    assert high - low in (0.0, float(abs(gap)))
    error = got.std() / np.sqrt(draws)
    assert abs(got.mean() - exact) <= 4 * error + 1e-12 * abs(exact)


def test_exact_values_stay() -> None:
    """Every bfloat16, zeros and both infinities included, whatever the bits; a NaN stays a NaN."""
    x = floats(ALL)
    for bits in (0, 0xFFFF, 0x8000, 0xDEADBEEF):
        got = np.asarray(stochastic_round(jnp.asarray(x), jnp.full(x.shape, bits, jnp.uint32)), np.float32)
        same = np.isnan(x) | (got == x)
        assert np.all(same)
        assert np.array_equal(np.isnan(got), np.isnan(x))
        assert np.array_equal(np.signbit(got)[~np.isnan(x)], np.signbit(x)[~np.isnan(x)])


def test_never_creates_inf() -> None:
    """From the float32 values next to all 65,536 bfloat16 values, and from halfway between: finite stays finite."""
    words = ALL.astype(np.uint32) << 16
    for low in (0x0001, 0x7FFF, 0x8000, 0xFFFF):
        x = (words | np.uint32(low)).view(np.float32)
        for bits in (0, 1, 0xFFFF):
            got = stochastic_round(jnp.asarray(x), jnp.full(x.shape, bits, jnp.uint32))
            got = np.asarray(got, np.float32)
            assert np.array_equal(np.isfinite(got), np.isfinite(x))
            assert np.array_equal(np.isnan(got), np.isnan(x))
            known = np.isfinite(x)
            assert np.all(np.signbit(got[known]) == np.signbit(x[known]))
            top = float(jnp.finfo(BF16).max)
            step = np.maximum(np.abs(x[known].astype(np.float64)) * 2.0**-7, 1e-40)
            assert np.all(np.abs(got[known] - x[known].astype(np.float64)) <= np.minimum(step, top))


def test_other_targets_are_refused() -> None:
    with pytest.raises(TypeError, match="float32 to bfloat16 only"):
        stochastic_round(jnp.ones(1), jnp.zeros(1, jnp.uint32), jnp.float16)
    with pytest.raises(TypeError, match="float32 to bfloat16 only"):
        stochastic_round(jnp.ones(1, BF16), jnp.zeros(1, jnp.uint32))


def test_bits_are_reproducible_and_independent_of_the_cut() -> None:
    whole = random_bits(7, 11, leaf_number("block/kernel"), (6, 8))
    again = jax.jit(lambda seed, step: random_bits(seed, step, leaf_number("block/kernel"), (6, 8)))(
        7, jnp.int32(11)
    )
    assert whole.dtype == jnp.uint32
    assert np.array_equal(whole, again)
    for row in range(6):
        part = random_bits(7, 11, leaf_number("block/kernel"), (8,), offset=8 * row)
        assert np.array_equal(part, whole[row])
    traced = jax.jit(lambda offset: random_bits(7, 11, leaf_number("block/kernel"), (2, 8), offset))(
        jnp.int32(16)
    )
    assert np.array_equal(traced, whole[2:4])
    assert random_bits(0, 0, 0, (0, 3)).shape == (0, 3)


def test_bits_of_other_counters_are_other_bits() -> None:
    base = np.asarray(random_bits(1, 2, 3, (4096,)))
    for other in (
        random_bits(2, 2, 3, (4096,)),
        random_bits(1, 3, 3, (4096,)),
        random_bits(1, 2, 4, (4096,)),
    ):
        assert np.mean(base == np.asarray(other)) < 1e-3
        agree = np.unpackbits((base ^ np.asarray(other)).view(np.uint8)).mean()
        assert abs(agree - 0.5) < 4 * 0.5 / np.sqrt(4096 * 32)


def test_every_bit_is_fair() -> None:
    bits = np.asarray(random_bits(3, 1, 4, (100_000,)))
    ones = np.array([((bits >> np.uint32(i)) & 1).mean() for i in range(32)])
    assert np.max(np.abs(ones - 0.5)) < 4.5 * 0.5 / np.sqrt(100_000)
    assert len(np.unique(bits)) == 100_000


def test_leaf_numbers_are_stable() -> None:
    """FNV-1a of the path: written down, so that a checkpointed run goes on with the same bits."""
    assert leaf_number("") == 0x811C9DC5
    assert leaf_number("a") == 0xE40C292C
    assert leaf_number("foobar") == 0xBF9CF968
