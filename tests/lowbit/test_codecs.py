"""The codes of one array: every code, every scale, the ends of the range, and rounding that is right on average."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradxform.lowbit.codecs import RootCodec, SignedCodec, fold, from_blocks, to_blocks
from gradxform.lowbit.float8 import Float8Codec
from gradxform.lowbit.stored import Form, Quantized, again, decode, stored
from tests.golden.lowbit_runs import CODECS as RECORDED

CODECS = [RootCodec(8), RootCodec(4), SignedCodec(8), SignedCodec(4)]
NAMES = ["root 8", "root 4", "signed 8", "signed 4"]


def signed(codec: Any) -> bool:
    return isinstance(codec, SignedCodec)


def codes_of(codec: Any) -> np.ndarray:
    most = 2 ** (codec.bits - 1) - 1 if signed(codec) else 2**codec.bits - 1
    return np.arange(-most if signed(codec) else 0, most + 1)


def blocks(rng: Any, codec: Any, spread: float, rows: int = 64) -> np.ndarray:
    x = np.exp(spread * rng.standard_normal((rows, codec.block))).astype(np.float32)
    return x * np.sign(rng.standard_normal(x.shape)).astype(np.float32) if signed(codec) else x


@functools.cache
def compiled(codec: Any) -> Any:
    def run(x: Any, threshold: Any) -> Any:
        codes, scales = codec.encode(x, threshold)
        return codes, scales, codec.decode(codes, scales)

    return jax.jit(run)


def through(codec: Any, x: Any, threshold: Any = None) -> Any:
    """Codes, scales and what they stand for; a threshold of one number is that of all."""
    if threshold is not None:
        threshold = jnp.broadcast_to(jnp.asarray(threshold, jnp.float32), x.shape)
    return compiled(codec)(jnp.asarray(x, jnp.float32), threshold)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_every_code_of_every_kind_of_block_round_trips(codec: Any) -> None:
    """Decoded and encoded again, to nearest or with any threshold, a number keeps its code, and the map is monotone."""
    rng, found, seen = np.random.default_rng(0), set[int](), set[tuple[int, int]]()
    for spread in (0.01, 0.1, 0.3, 0.7, 1.0, 2.0, 3.0, 5.0):
        _, scales, first = through(codec, blocks(rng, codec, spread, rows=256))
        found |= {int(s) & 15 for s in np.asarray(scales).ravel()}
        every = np.tile(codes_of(codec), (len(scales), 1))
        table = np.asarray(codec.decode(jnp.asarray(every), scales))
        assert np.all(np.diff(table, axis=1) > 0)
        assert np.all(table[every == 0] == 0)
        # Every code among numbers of its block that need this scale, eight at a time.
        start = np.asarray(first)
        for threshold in (None, np.float32(0.0), np.float32(0.5), np.float32(1 - 2**-24)):
            x = start.copy()
            picks = (np.arange(x.shape[0])[:, None] * 8 + np.arange(8)) % table.shape[1]
            places = np.argsort(np.abs(x), axis=1)[:, 8:16]
            np.put_along_axis(x, places, np.take_along_axis(table, picks, 1), 1)
            _, again, y = through(codec, x, threshold)
            same = np.asarray(again) == np.asarray(scales)
            np.testing.assert_array_equal(np.asarray(y)[same], x[same])
            seen |= {
                (int(s) & 15, int(c))
                for s, row in zip(np.asarray(scales)[same].ravel(), picks[same], strict=True)
                for c in row
            }
    kinds = {kind for kind, _ in seen}
    assert len(kinds) >= (4 if codec.bits == 8 else 2)
    # Of some kinds of lattice the last codes are of no block: a finer or a coarser one has its numbers.
    assert sum(len({c for k, c in seen if k == kind}) for kind in kinds) > 0.8 * len(kinds) * len(
        codes_of(codec)
    )


@pytest.mark.parametrize("codec", [RootCodec(8), RootCodec(4)], ids=["8", "4"])
def test_every_number_of_every_lattice_of_second_moments_is_kept(codec: RootCodec) -> None:
    """All codes of all lattices, which start at an eighth of an octave: also alone, on the finest lattice there is."""
    codes = jnp.tile(jnp.arange(256 if codec.bits == 8 else 16), (8 * len(codec._octaves), 1))
    starts, kinds = np.meshgrid(8 * 120 + np.arange(8), [m + 1 for m in codec._octaves])
    table = codec.decode(codes, jnp.asarray((starts << 4 | kinds).reshape(-1), jnp.uint16))
    numbers = np.asarray(table)
    assert np.all(np.diff(numbers, axis=1) > 0)
    alone = np.zeros((numbers.size, codec.block), np.float32)
    alone[:, 0] = numbers.reshape(-1)
    for threshold in (None, 0.0, 1 - 2**-24):
        np.testing.assert_array_equal(through(codec, alone, threshold)[2], alone)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_a_block_of_zeros_is_zero_and_a_zero_is_zero(codec: Any) -> None:
    rng = np.random.default_rng(1)
    x = blocks(rng, codec, 1.0)
    x[:8] = 0
    x[8:, ::3] = 0
    for threshold in (None, jnp.asarray(rng.random(x.shape), jnp.float32)):
        codes, _, y = through(codec, x, threshold)
        assert np.all(np.asarray(y)[x == 0] == 0)
        assert np.all(np.asarray(codes)[x == 0] == 0)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_zeros_of_both_signs_are_the_same_zero(codec: Any) -> None:
    x = blocks(np.random.default_rng(10), codec, 1.0)
    x[:, ::5] = 0
    other = x.copy()
    other[:, ::10] = -0.0
    for one, same in zip(through(codec, x), through(codec, other), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("codec", [RootCodec(8), RootCodec(4)], ids=["8", "4"])
@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0, 18.0])
def test_a_second_moment_above_zero_is_never_zero(codec: Any, spread: float) -> None:
    rng = np.random.default_rng(2)
    x = np.maximum(np.minimum(blocks(rng, codec, spread), 3e38), 1.2e-38).astype(np.float32)
    for threshold in (None, jnp.asarray(rng.random(x.shape), jnp.float32)):
        codes, _, y = through(codec, x, threshold)
        assert np.all(np.asarray(codes) > 0)
        assert np.all(np.asarray(y) > 0)
        # Whatever is out of reach is stored as more than it is: a step too small, never one too large.
        coarsest = 0.25 if codec.bits == 8 else 3.01
        assert np.all(np.asarray(y) >= x / (1 + coarsest) * (1 - 1e-6))


@pytest.mark.parametrize(
    ("codec", "spread", "most"),
    [
        (RootCodec(8), 0.01, 0.0020),
        (RootCodec(8), 0.7, 0.02),
        (RootCodec(8), 3.0, 0.08),
        (RootCodec(4), 0.01, 0.07),
        (SignedCodec(8), 0.01, 0.011),
    ],
)
def test_the_distance_of_codes_fits_the_range(codec: Any, spread: float, most: float) -> None:
    """The error to nearest as a share of the number: a block of equal numbers has the finest lattice."""
    x = blocks(np.random.default_rng(3), codec, spread)
    _, _, y = through(codec, x)
    assert np.max(np.abs(np.asarray(y) / x - 1)) <= most


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_thresholds_make_it_right_on_average(codec: Any) -> None:
    """Over 512 evenly spread thresholds the mean of what is stored is the number, wherever it is in reach."""
    rng = np.random.default_rng(4)
    x = np.concatenate([blocks(rng, codec, spread, rows=4) for spread in (0.2, 2.0)])
    codes, scales, _ = through(codec, x)
    ends = np.asarray(codec.decode(jnp.tile(codes_of(codec)[[1, -1]], (8, 1)), scales))
    inside = (np.abs(x) <= ends[:, 1:]) & (np.abs(x) >= (0 if signed(codec) else ends[:, :1]))
    around = jnp.asarray(codes).astype(jnp.int32)[None] + jnp.arange(-1, 2).reshape(3, 1, 1)
    gap = np.ptp(np.asarray(codec.decode(jnp.clip(around, *codes_of(codec)[[0, -1]]), scales[None])), 0)
    thresholds = (jnp.arange(512, dtype=jnp.float32) + np.float32(0.5)) / np.float32(512)

    def total(threshold: Any) -> Any:
        codes, scales = codec.encode(jnp.asarray(x), jnp.broadcast_to(threshold, x.shape))
        return codec.decode(codes, scales)

    mean = np.asarray(jnp.mean(jax.jit(jax.vmap(total))(thresholds), 0), np.float64)
    assert inside.mean() > 0.9
    # A share is hit within half a threshold's distance.
    assert np.all(np.abs(mean - x)[inside] <= (gap / 1024 + 1e-6 * np.abs(x))[inside])


DRAWN = {**RECORDED, "float8": Float8Codec(signed=True), "float8 roots": Float8Codec(signed=False)}


@pytest.mark.parametrize("name", DRAWN)
def test_a_hundred_thousand_draws_are_unbiased(name: str) -> None:
    """By the thresholds of 400 writings of 256 numbers, within the error that as many independent draws would have."""
    codec, steps = DRAWN[name], 400
    squares = isinstance(codec, RootCodec) or not getattr(codec, "signed", True)
    x = np.exp(0.3 * np.random.default_rng(8).standard_normal((1, 256))).astype(np.float32)
    x[0, 1::2] *= 1 if squares else -1
    form = Form(codec, "float32", "mu", salt=77)
    given, first = jnp.asarray(x), stored(form, jnp.asarray(x))

    def write(old: Quantized, _: None) -> tuple[Quantized, Any]:
        new = again(given, old)
        return new, decode(new)

    got = np.asarray(jax.jit(lambda: jax.lax.scan(write, first, None, length=steps)[1])(), np.float64)
    inside = (got.min(0) <= x) & (x <= got.max(0))  # -1 is not on the dynamic map
    assert inside.mean() > 0.98
    spread = got.std(0)
    assert np.all(np.abs(got.mean(0) - x)[inside] <= (5 * spread / np.sqrt(steps) + 1e-6)[inside])
    whole = np.sum((got.mean(0) - x)[inside]) / np.sqrt(np.sum(spread[inside] ** 2) / steps + 1e-12)
    assert abs(whole) < 4
    assert np.mean(spread > 0) > 0.95


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_no_finite_number_becomes_infinite(codec: Any) -> None:
    """Words of all exponents up to the largest number of all, and thresholds at both ends."""
    rng = np.random.default_rng(9)
    word = rng.integers(0x00800000, 0x7F800000, (256, codec.block), dtype=np.uint32)
    word[::2] = np.maximum(word[::2], 0x7F7FFFFF - rng.integers(0, 2**25, word[::2].shape, dtype=np.uint32))
    word[::8, 0] = 0x7F7FFFFF
    x = word.view(np.float32) * (1 if not signed(codec) else rng.choice(np.float32([-1, 1]), word.shape))
    for threshold in (0.0, 0.5, 1 - 2**-24):
        assert np.all(np.isfinite(np.asarray(through(codec, x, threshold)[2])))


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_what_is_not_finite_is_seen_in_its_block_only(codec: Any) -> None:
    x = blocks(np.random.default_rng(5), codec, 1.0, rows=4)
    x[1, 7], x[2, 0] = np.nan, np.inf
    _, _, y = through(codec, x)
    assert np.all(np.isnan(np.asarray(y)[1:3]))
    assert np.all(np.isfinite(np.asarray(y)[[0, 3]]))


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
@pytest.mark.parametrize("size", [1.6e38, 1e30, 1e-30, 4e-38])
def test_the_ends_of_float32(codec: Any, size: float) -> None:
    x = np.full((1, codec.block), size, np.float32)
    x[0, ::2] = size / 2
    _, _, y = through(codec, x)
    assert np.all(np.isfinite(np.asarray(y)))
    np.testing.assert_allclose(np.asarray(y), x, rtol=0.35)


@pytest.mark.parametrize("codec", [RootCodec(8), RootCodec(4)], ids=["8", "4"])
def test_a_finer_lattice_has_the_numbers_of_a_coarser_one(codec: RootCodec) -> None:
    """A second moment that is stored does not move when others leave its block, so that no noise comes of it."""
    x = blocks(np.random.default_rng(6), codec, 0.5, rows=32)
    _, _, y = through(codec, x)
    fewer = np.asarray(y)[:, :8].repeat(8, axis=1)
    np.testing.assert_array_equal(through(codec, fewer)[2], fewer)


@pytest.mark.parametrize(
    "shape", [(64,), (65,), (3, 130), (4, 5, 6), (128, 2), (1, 1, 300), (0,), (0, 3), (7, 0)]
)
def test_blocks_of_any_shape_come_back(shape: tuple[int, ...]) -> None:
    x = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    cut = to_blocks(x, 64)
    assert cut.shape[-1] == 64
    np.testing.assert_array_equal(from_blocks(cut, shape), x)
    lead, size = fold(shape, 64)
    assert cut.shape[:-2] == lead
    assert cut.shape[-2] == -(-size // 64)


@pytest.mark.parametrize("shape", [(16, 768), (3, 200), (4, 16, 8), (2, 1024)])
def test_blocks_of_an_array_that_a_mesh_has_cut_elsewhere(shape: tuple[int, ...]) -> None:
    """Eight shards of the last axis, explicit: of 96, 25, 1 and 128 numbers. Only the last are of whole blocks."""
    x = jnp.arange(int(np.prod(shape)), dtype=jnp.float32).reshape(shape)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.P(*[None] * (len(shape) - 1), "x")
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, jax.NamedSharding(mesh, spec))
        cut, back = jax.jit(lambda x: (to_blocks(x, 64), from_blocks(to_blocks(x, 64), shape)))(placed)
    np.testing.assert_array_equal(cut, to_blocks(x, 64))
    np.testing.assert_array_equal(back, x)
    assert (back.sharding.spec == spec) == (shape == (2, 1024))
