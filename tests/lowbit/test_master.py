"""`exact_master`: the cut of a float32 into two halves, the sum that must come out right, training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.lowbit import exact_master, master_params
from gradxform.lowbit.master import cut, joined, moved

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

BF16, F32 = jnp.bfloat16, jnp.float32
ALL = np.arange(2**16, dtype=np.uint32)
LOWS = [0, 1, 2, 0x1234, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xABCD, 0xFFFE, 0xFFFF]
INF, TOP = 0x7F80, 0x7F7F7FFF
TINY = float(np.finfo(np.float32).tiny)


def bf16(words: Any) -> Any:
    return jax.lax.bitcast_convert_type(jnp.asarray(words, jnp.uint16), BF16)


def f32(words: Any) -> Any:
    return jax.lax.bitcast_convert_type(jnp.asarray(words, jnp.uint32), F32)


def bits(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.view({2: np.uint16, 4: np.uint32}[x.dtype.itemsize])


def stored(p: Any, u: Any) -> Any:
    """What every way of adding an update stores; they must agree."""
    ours = gx.apply_updates(p, u)
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.apply_updates(p, u)
    np.testing.assert_array_equal(bits(ours), bits(theirs))
    np.testing.assert_array_equal(bits(jax.jit(gx.apply_updates)(p, u)), bits(ours))
    return ours


# ------------------------------------------------------------------------------------------------ the two halves


@pytest.mark.parametrize("low", LOWS)
def test_all_pairs_go_there_and_back(low: int) -> None:
    p, r = bf16(ALL), jnp.full(2**16, low, jnp.uint16)
    master = jax.jit(joined)(p, r)
    new, rest = jax.jit(cut)(master)
    size = ALL & 0x7FFF
    finite = size < INF
    real = finite & ~((size == 0) & (low >= 0x8000))  # less than nothing
    np.testing.assert_array_equal(bits(new)[real], ALL[real])
    np.testing.assert_array_equal(bits(rest)[real], low)
    np.testing.assert_array_equal(bits(master)[size == 0] & 0x7FFFFFFF, low if low < 0x8000 else 0)
    assert np.isfinite(np.asarray(master)[finite]).all()
    special = np.asarray(master)[~finite]
    np.testing.assert_array_equal(special, np.asarray(p, np.float32)[~finite])
    np.testing.assert_array_equal(np.asarray(new, np.float32)[~finite], special)
    assert not bits(rest)[~finite].any()


@pytest.mark.parametrize("low", LOWS)
def test_all_words_go_there_and_back(low: int) -> None:
    """The upper half is the nearest bfloat16; where it is none of two, the one further from zero."""
    word = (ALL << 16) | low
    master = f32(word)
    p, r = jax.jit(cut)(master)
    back = jax.jit(joined)(p, r)
    size = word & 0x7FFFFFFF
    kept = size <= TOP
    np.testing.assert_array_equal(bits(back)[kept], word[kept])
    over = (size > TOP) & (size < INF << 16)
    np.testing.assert_array_equal(bits(back)[over] & 0x7FFFFFFF, TOP)
    np.testing.assert_array_equal(bits(p)[over] & 0x7FFF, 0x7F7F)
    np.testing.assert_array_equal(np.isnan(np.asarray(back)), np.isnan(np.asarray(master)))
    infinite = size == INF << 16
    np.testing.assert_array_equal(np.asarray(back)[infinite], np.asarray(master)[infinite])
    even = master.astype(BF16)
    tie = low == 0x8000
    np.testing.assert_array_equal(bits(p)[kept], (word[kept] >> 16) + 1 if tie else bits(even)[kept])
    np.testing.assert_array_equal(bits(p)[kept] >> 15, word[kept] >> 31)  # the sign, also of a zero


def test_sixteen_bits_cannot_round_ties_to_even() -> None:
    """The reason why ties go away from zero: of an even number they would be the remainder of two masters."""
    nearest = np.asarray(((1 << 16) * 0x3F80 + np.arange(-(2**16), 2**16)).astype(np.uint32).view(np.float32))
    assert (nearest.astype(jnp.bfloat16) == 1).sum() == 2**16 + 1


# ------------------------------------------------------------------------------------------------ the sum


def pairs(seed: int, change: str) -> tuple[Any, Any, Any]:
    """Every bfloat16 with a random remainder, and updates of one kind."""
    rng = np.random.default_rng(seed)
    r = jnp.asarray(rng.integers(0, 2**16, 2**16), jnp.uint16)
    p = bf16(ALL)
    w = np.asarray(joined(p, r))
    with np.errstate(all="ignore"):
        if change == "any":  # to any other float32 at all
            u = rng.integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32)
        elif change == "cancels":  # to 2^-24 ... 1 of itself, of either sign
            share = np.exp2(-rng.uniform(0, 26, 2**16)) * rng.choice([-1, 1], 2**16)
            u = (share * w - w).astype(np.float32)
        elif change == "grows":  # by up to 2^20
            u = (np.exp2(rng.uniform(0, 20, 2**16)) * rng.choice([-1, 1], 2**16) * w).astype(np.float32)
        else:  # a step of training
            u = (np.exp2(-rng.uniform(1, 24, 2**16)) * rng.choice([-1, 1], 2**16) * w).astype(np.float32)
    return p, r, jnp.asarray(u)


@pytest.mark.parametrize("change", ["trains", "grows", "cancels", "any"])
def test_the_sum_is_the_bfloat16_of_the_new_master(change: str) -> None:
    inexact = total = 0
    for seed in range(4):
        p, r, u = pairs(seed, change)
        wanted, rest = map(np.asarray, jax.jit(cut)(joined(p, r) + u))
        update, new_rest = jax.jit(moved)(p, r, u)
        assert update.dtype == F32
        got = stored(p, update)
        master = np.asarray(joined(got, new_rest))
        nan = np.isnan(np.asarray(wanted, np.float32))
        np.testing.assert_array_equal(np.isnan(np.asarray(got, np.float32)), nan)
        known = ~nan & (np.abs(np.asarray(joined(p, r))) > 2.0**-100)
        known &= (np.abs(np.asarray(wanted, np.float32)) > 2.0**-100) & (
            np.abs(np.asarray(p, np.float32)) < 1e38
        )
        same = bits(got) == bits(wanted)
        np.testing.assert_array_equal(bits(new_rest)[same & known], bits(rest)[same & known])
        np.testing.assert_array_equal(bits(new_rest)[~same], 0)
        np.testing.assert_array_equal(master[~same & ~nan], np.asarray(got, np.float32)[~same & ~nan])
        off = ~same & known
        old, new = np.asarray(p, np.float32)[off], np.asarray(wanted, np.float32)[off]
        before, after = np.asarray(joined(p, r))[off], master[off]
        # What no float32 reaches: from just below a power of two across zero, to an odd multiple of 2^-24 of it.
        assert (np.frexp(np.abs(old))[0] == 0.5).all()
        assert (np.abs(before) < np.abs(old)).all()
        assert (np.signbit(old) != np.signbit(new)).all()
        assert (np.abs(new) < np.abs(old) * 2.0**-16).all()
        assert (np.abs(after - new) == np.abs(old) * 2.0**-24).all()
        inexact, total = inexact + int(off.sum()), total + int(known.sum())
    assert total > 2**17
    assert inexact < (150 if change == "cancels" else 1)


def test_no_update_in_bfloat16_would_do() -> None:
    """The control: the nearest bfloat16 of the difference, and every other one, for two of the examples."""
    every = bf16(ALL)
    for old, new in ((0.5, 129.0), (1.0, -(2.0**-10))):
        sums = np.asarray(gx.apply_updates(jnp.full(2**16, old, BF16), every), np.float32)
        assert not (sums == new).any()
        u, _ = moved(jnp.asarray(old, BF16), jnp.uint16(0), jnp.float32(new - old))
        assert float(stored(jnp.asarray(old, BF16), u)) == new
    p, r, u = pairs(0, "cancels")
    known = np.abs(np.asarray(p, np.float32)) < 1e38
    update, rest = moved(p, r, u)
    short = np.asarray(gx.apply_updates(p, update.astype(BF16)), np.float32)
    assert (short != np.asarray(gx.apply_updates(p, update), np.float32))[known].mean() > 0.3
    del rest


def test_the_one_case_that_float32_does_not_reach() -> None:
    """From just below 1 to odd multiples of 2^-24 below zero: the master is what is stored, 2^-24 beside."""
    k = np.arange(1, 256)
    w = np.float32(1 - 2.0**-24)  # rounds to 1
    u = jnp.asarray((-k * 2.0**-24 - np.float64(w)).astype(np.float32))
    p, r = cut(jnp.full(255, w))
    np.testing.assert_array_equal(p, 1)
    exact = np.asarray(joined(p, r) + u)
    update, rest = moved(p, r, u)
    got = stored(p, update)
    master = np.asarray(joined(got, rest))
    np.testing.assert_array_equal(np.asarray(cut(jnp.asarray(master))[0]), np.asarray(got))
    off = np.abs(master.astype(np.float64) - exact)
    assert off.max() <= 2.0**-24  # one unit in the last place of w
    np.testing.assert_array_equal(off[exact * 2.0**23 == np.round(exact * 2.0**23)], 0)
    assert (off > 0).any()


def test_every_weight_stays_where_nothing_moves_it() -> None:
    """All bfloat16 numbers, zeros of both signs and infinities; what is subnormal as a sum with 0 leaves it."""
    params = bf16(ALL)
    tx = exact_master(gx.sgd(0.1))
    for grad in (jnp.zeros(2**16), jnp.zeros(2**16, BF16)):
        state = tx.init(params)
        for update in (tx.update, jax.jit(tx.update)):
            updates, new = update(grad, state, params)
            got = stored(params, updates)
            wide = np.asarray(params, np.float32)
            nan = np.isnan(wide)
            assert np.isnan(np.asarray(got, np.float32)[nan]).all()
            normal = ~nan & ((np.abs(wide) >= TINY) | (ALL & 0x7FFF == 0))
            np.testing.assert_array_equal(bits(got)[normal], ALL[normal])
            assert not bits(new.remainder).any()
            small = ~nan & ~normal
            left = bits(params + jnp.zeros(2**16, BF16))
            np.testing.assert_array_equal(bits(got)[small] & 0x7FFF, left[small] & 0x7FFF)


def test_all_remainders_stay_too() -> None:
    for low in LOWS:
        params, r = bf16(ALL), jnp.full(2**16, low, jnp.uint16)
        update, rest = jax.jit(moved)(params, r, jnp.zeros(2**16))
        got = stored(params, update)
        size = ALL & 0x7FFF
        real = (size < INF) & (size > 0x80)  # above the least normal one, of which half a step down is none
        np.testing.assert_array_equal(bits(got)[real], ALL[real])
        np.testing.assert_array_equal(bits(rest)[real], low)


def test_numbers_that_are_not_finite() -> None:
    """Inf and NaN are seen and stay; a finite master never shows as Inf, and one step may go from end to end."""
    inf, nan = np.inf, np.nan
    largest = float(jnp.finfo(BF16).max)
    old = jnp.asarray([1.0, 1.0, -1.0, inf, -inf, inf, nan, largest, -largest], BF16)
    u = jnp.asarray([inf, nan, -inf, 1.0, 0.0, -inf, 1.0, 1e36, 3.4e38])
    update, rest = moved(old, jnp.zeros(9, jnp.uint16), u)
    got = np.asarray(stored(old, update), np.float32)
    np.testing.assert_array_equal(got[:7], [inf, nan, -inf, inf, -inf, nan, nan])
    assert got[7] == largest
    assert np.isfinite(got[8])
    np.testing.assert_array_equal(rest[:7], 0)
    huge = moved(-jnp.asarray(largest, BF16), jnp.uint16(0), jnp.float32(3.4e38))[0]
    assert np.isfinite(float(stored(-jnp.asarray(largest, BF16), huge)))
    # A difference of 2^128 is no float32: the largest one takes -2^127 to 2^127 all the same.
    p, r = cut(jnp.float32(-(2.0**127 - 2.0**110)))
    assert float(p) == -(2.0**127)
    update, rest = moved(p, r, jnp.float32(np.finfo(np.float32).max))
    assert float(stored(p, update)) == 2.0**127
    assert float(joined(jnp.asarray(2.0**127, BF16), rest)) == 2.0**127 + 2.0**110 - 2.0**104


# ------------------------------------------------------------------------------------------------ training


def loop(tx: Any, add: Any) -> Any:
    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return add(params, updates), state

    return step


masters_of = jax.jit(master_params)


def widened() -> Any:
    """A link that only casts: float32 training with gradients of bfloat16."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: g.astype(F32), updates), state

    return optax.GradientTransformation(lambda p: optax.EmptyState(), update)


@pytest.mark.parametrize("grads_in", [F32, BF16])
@pytest.mark.parametrize(
    "inner",
    [gx.adamw(1e-2, weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1)],
    ids=["ours", "optax"],
)
def test_a_thousand_steps_are_those_of_float32(inner: Any, grads_in: Any) -> None:
    """The same gradients: the masters have the bits of float32 parameters at every step, the weights are their bf16."""
    rng = np.random.default_rng(0)
    shapes = {"w": (24, 32), "b": (40,), "f": (8,)}
    start = {name: jnp.asarray(rng.normal(size=shape) * 0.02, BF16) for name, shape in shapes.items()}
    start["b"] = jnp.zeros(40, BF16)
    start["f"] = start["f"].astype(F32)  # a float32 leaf among them
    plain = jax.tree.map(lambda p: p.astype(F32), start)
    base, tx = inner, exact_master(inner)
    params, state, other = start, tx.init(start), base.init(plain)
    ours, theirs = loop(tx, gx.apply_updates), loop(gx.chain(widened(), base), gx.apply_updates)
    other = (optax.EmptyState(), other)
    crossings = ties = 0
    with jax.numpy_dtype_promotion("standard"):
        for t in range(1000):
            noise = {name: rng.standard_t(3, size=shape) for name, shape in shapes.items()}
            grads = {
                name: jnp.asarray(x * np.exp2(rng.integers(-6, 3)), grads_in) for name, x in noise.items()
            }
            grads["f"] = grads["f"].astype(F32)
            before = plain["w"]
            params, state = ours(params, state, grads)
            plain, other = theirs(plain, other, grads)
            crossings += int((np.signbit(before) != np.signbit(plain["w"])).sum())
            masters = masters_of(state, params)
            for name in shapes:
                np.testing.assert_array_equal(
                    bits(masters[name]), bits(plain[name]), err_msg=f"{name} at {t}"
                )
            for name in ("w", "b"):
                differs = bits(params[name]) != bits(plain[name].astype(BF16))
                assert (bits(plain[name])[differs] & 0xFFFF == 0x8000).all()
                ties += int(differs.sum())
    assert crossings > 1000
    assert ties < 100
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, other[1])


def test_small_steps_are_not_lost() -> None:
    """Steps of 1e-4 at 1, where bfloat16 has steps of 1/128 and stays where it is."""
    params = jnp.ones(4, BF16)
    tx = exact_master(gx.sgd(1e-4))
    step, state, alone = loop(tx, gx.apply_updates), tx.init(params), params
    bare, empty = loop(gx.sgd(1e-4), gx.apply_updates), gx.sgd(1e-4).init(params)
    for _ in range(1000):
        params, state = step(params, state, -jnp.ones(4))
        alone, empty = bare(alone, empty, -jnp.ones(4))
    np.testing.assert_allclose(master_params(state, params), 1.1, rtol=3e-5)  # 1000 sums in float32
    np.testing.assert_array_equal(params, jnp.asarray(1.1, BF16))
    np.testing.assert_array_equal(alone, 1)


def test_the_inner_transform_sees_the_master_and_the_gradient_in_float32() -> None:
    seen: list[Any] = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        seen.append((updates, params))
        return updates, state

    tx = exact_master(optax.GradientTransformation(lambda p: p, update))
    params = {"w": jnp.asarray([1.0, 2.0], BF16), "f": jnp.ones(1)}
    state = tx.init(params)
    assert state.inner_state["w"].dtype == F32
    state = state._replace(remainder={**state.remainder, "w": jnp.asarray([1, 0xFFFF], jnp.uint16)})
    tx.update({"w": jnp.asarray([2.0**-9, 2.0**100], BF16), "f": jnp.ones(1)}, state, params)
    grads, masters = seen[0]
    assert grads["w"].dtype == masters["w"].dtype == F32
    np.testing.assert_array_equal(masters["w"], np.float32([1 + 2.0**-23, 2 - 2.0**-23]))
    np.testing.assert_array_equal(grads["w"], np.float32([2.0**-9, 2.0**48]))  # squarable, as everywhere
    assert masters["f"] is params["f"]


def test_four_bytes_a_parameter() -> None:
    params = {"w": jnp.ones((64, 64), BF16), "b": jnp.ones(64, BF16)}
    state = exact_master(gx.sgd(0.1)).init(params)
    assert sum(x.nbytes for x in jax.tree.leaves((params, state))) == 4 * (64 * 64 + 64)


def test_weights_that_somebody_else_changes() -> None:
    """The master follows: it rounds to the new weight, whatever the old remainder was."""
    rng = np.random.default_rng(1)
    r = jnp.asarray(rng.integers(0, 2**16, 2**16), jnp.uint16)
    p = bf16(ALL)
    master = np.asarray(joined(p, r))
    size = ALL & 0x7FFF
    np.testing.assert_array_equal(bits(cut(jnp.asarray(master))[0])[size < INF], ALL[size < INF])
    finite = size < INF
    wide, master = np.asarray(p, np.float32)[finite], master[finite]
    step = np.spacing(np.abs(wide)).astype(np.float64) * 2.0**16
    assert (np.abs(master.astype(np.float64) - wide) <= step / 2).all()
