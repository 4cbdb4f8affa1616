"""Eight-bit floats as a codec: which codes there are, that each comes back, and what is stored of a whole state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.lowbit.float8 import Float8Codec

CODECS = [Float8Codec(signed=True), Float8Codec(signed=False)]
NAMES = ["signed", "roots"]
#: What the bits of each code mean; 0x7F and 0xFF are no numbers.
MEANS = np.arange(256, dtype=np.uint8).view(jnp.float8_e4m3fn).astype(np.float32)
HALF, LAST = np.float32(0.5), np.float32(1 - 2.0**-24)
TINY = np.float32(2.0**-126)


@functools.cache
def compiled(codec: Float8Codec) -> Any:
    def run(x: Any, threshold: Any) -> Any:
        codes, scales = codec.encode(x, jnp.broadcast_to(threshold, x.shape))
        return jax.lax.bitcast_convert_type(codes, jnp.uint8), scales, codec.decode(codes, scales)

    return jax.jit(run)


def through(codec: Float8Codec, x: Any, threshold: Any = HALF) -> list[np.ndarray]:
    return [np.asarray(y) for y in compiled(codec)(jnp.asarray(x, jnp.float32), threshold)]


def used(codec: Float8Codec) -> np.ndarray:
    """All codes that may be written: no NaN, one zero, and of roots the positive ones alone."""
    codes = np.arange(256, dtype=np.uint8)
    return codes[np.isfinite(MEANS) & (codes != 0x80) & (codec.signed | (codes < 0x80))]


def of_size(codec: Float8Codec, rng: Any, low: float, high: float) -> np.ndarray:
    x = np.minimum(10 ** rng.uniform(low, high, (256, 64)), np.finfo(np.float32).max).astype(np.float32)
    return x * np.sign(rng.standard_normal(x.shape)).astype(np.float32) if codec.signed else x


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_every_code_comes_back_whatever_the_threshold(codec: Float8Codec) -> None:
    codes = used(codec)
    rows = -(-len(codes) // 63)
    given = np.full((rows, 64), 0x7E, np.uint8)  # 448, so that the scale is known
    given[:, 1:].reshape(-1)[: len(codes)] = codes
    for power in (-60, -1, 0, 7, 50):
        scale = np.float32(2.0**power)
        numbers = MEANS[given] * scale
        x = numbers if codec.signed else numbers**2
        for threshold in (np.float32(0), HALF, LAST):
            again, scales, y = through(codec, x, threshold)
            np.testing.assert_array_equal(again, given)
            np.testing.assert_array_equal(scales.astype(np.float32), np.full(rows, scale))
            np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_no_other_code_is_ever_written(codec: Float8Codec) -> None:
    """Numbers of all sizes, with thresholds at both ends: no NaN, no Inf, no second zero, no root of zero above it."""
    rng, seen = np.random.default_rng(0), set[int]()
    arrays = [
        of_size(codec, rng, -37.9, 38.5),
        of_size(codec, rng, -37.9, -37),
        of_size(codec, rng, 37, 38.5),
    ]
    arrays += [of_size(codec, rng, -3, 0), of_size(codec, rng, -0.1, 0)]
    arrays += [of_size(codec, rng, 38, 39.9)]
    for x in arrays:
        for threshold in (np.float32(0), LAST, rng.random(x.shape).astype(np.float32)):
            codes, scales, y = through(codec, x, threshold)
            assert np.all(np.isfinite(y))
            assert np.all(np.isfinite(scales.astype(np.float32)))
            assert codec.signed or np.all((y > 0) | (x < TINY))
            seen |= {int(c) for c in np.unique(codes)}
    assert seen <= set(used(codec).tolist())


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_what_is_stored_grows_with_what_is_given(codec: Float8Codec) -> None:
    x = np.tile(np.linspace(-448 if codec.signed else 0, 448, 63 * 400).reshape(400, 63), 1).astype(
        np.float32
    )
    x = np.concatenate([x, np.full((400, 1), 448)], axis=1).astype(np.float32)
    x = x if codec.signed else x * x
    for threshold in (np.float32(0), HALF, LAST):
        _, _, y = through(codec, x, threshold)
        assert np.all(np.diff(y[:, :-1].reshape(-1)) >= 0)


@pytest.mark.parametrize("codec", CODECS, ids=NAMES)
def test_blocks_of_zeros_and_of_what_is_not_finite(codec: Float8Codec) -> None:
    x = np.abs(np.random.default_rng(1).standard_normal((5, 64))).astype(np.float32)
    x[0], x[1, ::2], x[2, 5], x[3, 0] = 0, 0, np.nan, np.inf
    for threshold in (np.float32(0), LAST):
        codes, _, y = through(codec, x, threshold)
        assert np.all(codes[x == 0] == 0)
        assert np.all(y[x == 0] == 0)
        assert not np.any(np.signbit(y[x == 0]))
        assert np.all(np.isnan(y[2:4]))
        assert np.all(np.isfinite(y[[0, 1, 4]]))


def test_a_state_in_float8() -> None:
    """Codes of that dtype, 2.0625 bytes a parameter, a direction within a tenth, and a second moment that forgets."""
    tx, inner = gx.lowbit.quantized(gx.scale_by_adam(b2=0.9), map="float8"), gx.scale_by_adam(b2=0.9)
    start = jnp.zeros((64, 64))

    @jax.jit
    def run() -> Any:
        def step(t: Any, carry: Any) -> Any:
            g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), start.shape)
            g = jnp.where(t > 40, np.float32(0.1), np.float32(1)) * g
            return {name: tx.update(g, carry[name][1]) for name, tx in both.items()}

        both = {"ours": tx, "exact": inner}
        return jax.lax.fori_loop(0, 120, step, {name: (start, tx.init(start)) for name, tx in both.items()})

    got = run()
    state, exact = (got[name][1] for name in ("ours", "exact"))
    assert {x.codes.dtype for x in (state.mu, state.nu)} == {jnp.dtype(jnp.float8_e4m3fn)}
    assert repr(state.nu) == "Quantized(float32[64, 64] in float8_e4m3fn)"
    assert (state.mu.nbytes + state.nu.nbytes) / start.size < 2.08
    wide = gx.lowbit.dequantized(state)
    assert abs(float(jnp.mean(wide.nu / exact.nu)) - 1) < 0.05  # it was a hundred times as large
    error = jnp.linalg.norm(got["ours"][0] - got["exact"][0]) / jnp.linalg.norm(got["exact"][0])
    assert float(error) < 0.1


def test_the_same_bits_on_any_mesh() -> None:
    params = jax.random.normal(jax.random.key(7), (16, 768))  # 96 numbers a shard: a block and a half
    tx = gx.lowbit.quantized(gx.scale_by_adam(), map="float8")

    @jax.jit
    def run(g: Any) -> Any:
        state = tx.init(g)
        for _ in range(2):
            _, state = tx.update(g, state)
        return jax.tree.map(
            lambda x: jax.lax.bitcast_convert_type(x, jnp.uint8), (state.mu.codes, state.nu.codes)
        )

    want = run(params)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        got = run(jax.device_put(params, jax.NamedSharding(mesh, jax.P(None, "x"))))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
