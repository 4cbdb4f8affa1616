"""What a state in 8 and 4 bits is held to: many steps with the default rounding, forgetting, slow averages, bytes.

One program for each kind of run: the rows of one array are different worlds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

Q = gx.lowbit.quantized


class Ends(NamedTuple):
    """The last updates and states of several transforms that got the same gradients."""

    updates: list[Any]
    states: list[Any]


def together(txs: list[Any], gradient: Any, steps: int, states: Any = None) -> Ends:
    like = gradient(jnp.int32(0))

    @jax.jit
    def run(states: Any) -> Any:
        def step(t: Any, carry: Any) -> Any:
            g = gradient(t)
            new = [tx.update(g, s) for tx, s in zip(txs, carry[1], strict=True)]
            return [u for u, _ in new], [s for _, s in new]

        return jax.lax.fori_loop(0, steps, step, ([jnp.zeros_like(like) for _ in txs], states))

    return Ends(*run([tx.init(like) for tx in txs] if states is None else states))


def worlds(columns: int = 512) -> np.ndarray:
    """Eight rows each: gradients of one size, by rows and columns, by a power of the column, each its own."""
    rng = np.random.default_rng(0)
    rows, wild = rng.standard_normal((8, 1)), rng.standard_normal((8, columns))
    power = np.tile(1 / (1 + rng.permutation(columns)), (8, 1))
    kinds = [np.ones((8, columns)), np.exp(rows + rng.standard_normal((1, columns))), power, np.exp(2 * wild)]
    return (1e-3 * np.concatenate(kinds)).astype(np.float32)


def errors(got: Any, want: Any) -> list[tuple[float, float]]:
    """Of each world: the error of the direction, and the largest element over the exact one."""
    pairs = zip(np.split(np.asarray(got), 4), np.split(np.asarray(want), 4), strict=True)
    return [
        (float(np.linalg.norm(a - b) / np.linalg.norm(b)), float(np.abs(a).max() / np.abs(b).max()))
        for a, b in pairs
    ]


@pytest.mark.parametrize("steps", [40, 4000])
def test_directions_after_many_steps(steps: int) -> None:
    """Asked for: 0.035 flat, 0.20 wild, worst 1.6; a plain implementation of the usual advice: 0.030, 0.18, 1.44.

    Of 4 bits, torchao's and lpmm's figures for a single step: 0.63 with rows and columns, 0.92 wild.
    """
    size, key = jnp.asarray(worlds(256)), jax.random.key(2)

    def gradient(t: Any) -> Any:
        return size * jax.random.t(jax.random.fold_in(key, t), 5.0, size.shape)

    exact = gx.scale_by_adam()
    txs = [exact, Q(exact)] if steps > 40 else [exact, Q(exact), Q(exact, 4)]
    want, *got = together(txs, gradient, steps).updates
    early = [(0.022, 1.1), (0.045, 1.1), (0.05, 1.1), (0.07, 1.1)]
    limits = early if steps == 40 else [(0.022, 1.1), (0.07, 1.2), (0.08, 1.2), (0.12, 1.3)]
    for (error, worst), (most, ratio) in zip(errors(got[0], want), limits, strict=True):
        assert error < most
        assert worst < ratio
    for (error, _), most in zip(errors(got[-1], want), (0.4, 0.63, 0.7, 0.92), strict=True):
        assert error < most


def test_a_second_moment_forgets() -> None:
    """Of 10, 50, 90 and 99 % of a row gradients fall to a tenth; eight time constants at b2 = 0.999 later v is right.

    Rounded to nearest on bitsandbytes' map it is 46 times too large in the quiet ones.
    """
    shares = np.repeat([0.1, 0.5, 0.9, 0.99], 2)
    quiet = np.random.default_rng(0).random((8, 1024)) < shares[:, None]
    size, key = jnp.asarray(np.where(quiet, 0.1, 1.0), jnp.float32), jax.random.key(3)
    inner, ones = gx.scale_by_adam(), jnp.ones(quiet.shape)
    txs = [inner, Q(inner), Q(inner, like="bitsandbytes")]
    start = optax.ScaleByAdamState(jnp.int32(10**6), 0 * ones, ones)
    states = [start, *(gx.lowbit.requantized(start, tx.init(ones)) for tx in txs[1:])]
    ends = together(
        txs, lambda t: size * jax.random.normal(jax.random.fold_in(key, t), size.shape), 8000, states
    )
    true, ours, theirs = (np.asarray(gx.lowbit.dequantized(state).nu) for state in ends.states)
    ratio = ours / true
    for share in np.unique(shares):
        rows = shares == share
        for part in (quiet, ~quiet):
            assert abs(np.median(ratio[rows][part[rows]]) - 1) < 0.03
    assert np.median((theirs / true)[quiet]) > 30


def test_slow_averages_follow() -> None:
    """b = 0.9999: noise of size 1 on a drift of 0.1 that is reversed half way; to nearest the correlation is 0.55.

    Beside a second moment that is faster: thresholds of both that go together would let it grow without end.
    """
    key, half = jax.random.key(4), 8000
    drift = jnp.asarray(np.random.default_rng(5).choice([-0.1, 0.1], (2, 512)), jnp.float32)

    def gradient(t: Any) -> Any:
        return jnp.where(t < half, drift, -drift) + jax.random.normal(jax.random.fold_in(key, t), drift.shape)

    inner = [gx.ema(0.9999), gx.scale_by_adam(b1=0.9999)]
    states = together([*inner, *(Q(tx, min_size=0) for tx in inner)], gradient, 2 * half).states
    for field, want, got in zip(("ema", "mu"), states[:2], states[2:], strict=True):
        pair = [np.asarray(getattr(s, field)).ravel() for s in (want, gx.lowbit.dequantized(got))]
        assert np.corrcoef(*pair)[0, 1] > 0.94


def test_a_weight_without_gradients_does_not_move() -> None:
    """Not in a block with others, not in a block of zeros: an update is exactly zero where all gradients were."""
    dead = np.broadcast_to(np.arange(128) % 3 == 0, (64, 128)) | (np.arange(64) < 2)[:, None]
    txs = [Q(gx.scale_by_adam(), bits) for bits in (8, 4)]
    noise = jnp.asarray(np.random.default_rng(7).standard_normal(dead.shape), jnp.float32)
    updates, _ = together(
        txs, lambda t: jnp.where(dead, jnp.float32(0), noise * jnp.exp(t.astype(jnp.float32) % 7)), 30
    )
    for update in updates:
        assert not np.asarray(update)[dead].any()
        assert np.asarray(update)[~dead].all()


def test_gradients_of_any_size() -> None:
    """Squares that are below the least float32 leave the moments to themselves, those near the largest fit."""
    key, sizes = jax.random.key(6), jnp.asarray([[1e-20], [1e-10], [1.0], [1e18]])
    exact = gx.scale_by_adam(eps=1e-15)
    want, got = together(
        [exact, Q(exact, min_size=0)],
        lambda t: jnp.tile(sizes, (1, 512)) * jax.random.normal(jax.random.fold_in(key, t), (4, 512)),
        60,
    ).updates
    assert np.isfinite(got).all()
    for a, b in zip(np.asarray(got), np.asarray(want), strict=True):
        assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(b)


def test_live_bytes_are_those_of_the_formula() -> None:
    """From the arrays and from the compiled program, in which the old state is where the new one goes."""
    params = {f"w{i}": jnp.zeros((128, 512)) for i in range(2)}
    number = 2 * 128 * 512
    for bits in (8, 4):
        tx = Q(gx.scale_by_adam(), bits)
        state = tx.init(params)
        formula = number * 2 * (bits / 8 + 2 / 64)
        assert formula / number <= (2.08 if bits == 8 else 1.07)
        assert sum(x.nbytes for x in jax.tree.leaves(state)) == pytest.approx(formula, rel=0.02)
        assert (
            sum(x.nbytes for x in jax.live_arrays() if any(x is y for y in jax.tree.leaves(state)))
            < 1.02 * formula
        )
        step = jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p)[1], donate_argnums=1)
        memory = step.lower(params, state, params).compile().memory_analysis()
        assert memory.alias_size_in_bytes == pytest.approx(formula, rel=0.02)
