"""What is derived from a decay rate: 1 - b and 1 - b^t to 1e-6, for numbers that are known and those that are not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._core.numerics import INT32_MAX, TwoFloat, debias, decay_of, two_float
from gradxform._core.scalars import resolve_decay
from tests import reference

DECAYS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
TIMES = np.unique(np.concatenate([np.arange(1, 200), np.round(np.logspace(0, 7, 800)).astype(int)]))
HAND = reference.golden.read_json("adam_by_hand.json")


def derived(decay: Any, times: Any) -> tuple[Any, Any]:
    """1 - b, and 1 - b^t at all times."""
    resolved = resolve_decay("test", "b", decay, jnp.int32(0), jnp.float32)
    return resolved.complement, debias(resolved, times)


# One compiled program for all dynamic values of a kind; the static ones have to be compiled each.
FORMS: dict[str, Callable[[float], tuple[Any, Any]]] = {}
TIMES32 = jnp.asarray(TIMES, jnp.float32)
_dynamic = jax.jit(derived)
FORMS["number"] = lambda b: jax.jit(lambda t: derived(b, t))(TIMES32)
FORMS["numpy number"] = lambda b: jax.jit(lambda t: derived(np.float64(b), t))(TIMES32)
FORMS["constant_schedule"] = lambda b: jax.jit(lambda t: derived(gx.constant_schedule(b), t))(TIMES32)
FORMS["two_float"] = lambda b: _dynamic(two_float(b), TIMES32)
FORMS["schedule of two_float"] = lambda b: jax.jit(lambda x, t: derived(gx.constant_schedule(x), t))(
    two_float(b), TIMES32
)
FORMS["traced float32"] = lambda b: _dynamic(jnp.float32(b), TIMES32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("b", DECAYS)
def test_one_minus_b_to_the_t(form: str, b: float) -> None:
    """For a traced float32 the reference takes the float32 that was given: it cannot know the number that was meant."""
    complement, corrections = FORMS[form](b)
    meant = float(np.float32(b)) if form == "traced float32" else b
    assert complement.dtype == corrections.dtype == jnp.float32
    np.testing.assert_allclose(float(complement), 1 - meant, rtol=1e-6)
    want = np.array([reference.bias_correction(meant, int(t)) for t in TIMES])
    np.testing.assert_allclose(np.asarray(corrections, np.float64), want, rtol=1e-6)


@pytest.mark.parametrize("b", DECAYS)
def test_a_weight_and_its_complement_add_up(b: float) -> None:
    for x in (b, two_float(b), np.float32(b)):
        decay = decay_of(x, np.float32)
        assert abs(float(decay.value) + float(decay.complement) - 1) < 6e-8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_narrow_array_is_taken_as_it_is(dtype: Any) -> None:
    decay = decay_of(jnp.asarray(0.9, dtype), jnp.float32)
    assert float(decay.complement) == np.float32(1) - np.float32(jnp.asarray(0.9, dtype))


@pytest.mark.usefixtures("x64")
def test_double_precision() -> None:
    for b in DECAYS:
        for x in (b, jnp.float64(b), gx.constant_schedule(b)):
            decay = resolve_decay("test", "b", x, 0, jnp.float64)
            got = debias(decay, jnp.asarray(TIMES, jnp.float64))
            want = np.array([reference.bias_correction(b, int(t)) for t in TIMES])
            np.testing.assert_allclose(got, want, rtol=1e-9 if b < 0.9999 else 1e-10)
            assert got.dtype == jnp.float64
        pair = decay_of(two_float(b), jnp.float64)
        np.testing.assert_allclose(float(pair.complement), 1 - b, rtol=1e-8)


def ulps(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    unit = np.spacing(np.maximum(np.maximum(np.abs(a), np.abs(b)), np.finfo(np.float32).tiny))
    return float(np.max(np.abs(a.astype(np.float64) - b) / unit))


NUMBERS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 1e-16}
PAIRS: dict[str, tuple[Any, Any]] = {
    "constant schedules and numbers": (NUMBERS, {k: gx.constant_schedule(v) for k, v in NUMBERS.items()}),
    "two_float and numbers": (NUMBERS, {k: two_float(v) for k, v in NUMBERS.items()}),
    "NumPy float64 and numbers": (NUMBERS, {k: np.float64(v) for k, v in NUMBERS.items()}),
    "NumPy arrays and numbers": (NUMBERS, {k: np.asarray(v) for k, v in NUMBERS.items()}),
    "float32 arrays and NumPy float32": (
        {k: np.float32(v) for k, v in NUMBERS.items()},
        {k: jnp.float32(v) for k, v in NUMBERS.items()},
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_static_and_dynamic_agree(pair: str, nesterov: bool) -> None:
    """Within 2 ulp a step, from one state; the dynamic values come through `jit`, where nothing is known of them."""
    static, dynamic = PAIRS[pair]
    known = gx.scale_by_adam(**static, nesterov=nesterov)
    values = {k: v for k, v in dynamic.items() if isinstance(v, TwoFloat | jax.Array)}
    inside = {k: v for k, v in dynamic.items() if k not in values}
    plain = jax.jit(known.update)
    traced = jax.jit(
        lambda values, g, state: gx.scale_by_adam(**inside, **values, nesterov=nesterov).update(g, state)
    )
    rng = np.random.default_rng(11)
    state = known.init(jnp.zeros(64))
    for _ in range(50):
        g = jnp.asarray(rng.normal(size=64) * np.exp(rng.normal(size=64)), jnp.float32)
        want, new = plain(g, state)
        got, other = traced(values, g, state)
        assert ulps(got, want) <= 2
        assert all(ulps(a, b) <= 2 for a, b in zip(other, new, strict=True))
        state = new


def test_a_learning_rate_is_the_same_number_in_every_form() -> None:
    g, p = jnp.array([0.3, -2.0]), jnp.ones(2)
    want = gx.adamw(3e-4, weight_decay=0.1)
    want = want.update(g, want.init(p), p)[0]
    form = jax.jit(lambda rate, decay: (tx := gx.adamw(rate, weight_decay=decay)).update(g, tx.init(p), p)[0])
    for rate, decay in (
        (jnp.float32(3e-4), jnp.float32(0.1)),
        (two_float(3e-4), two_float(0.1)),
        (3e-4, 0.1),
    ):
        assert ulps(form(rate, decay), want) <= 2


def test_seeds_row_5_adam_by_hand() -> None:
    """Eight steps on w^2 from 5 at the rate 0.01, every moment visible; SGD with and without momentum beside it."""
    runs = {
        "adam": gx.adam(0.01),
        "sgd_momentum": gx.sgd(0.01, momentum=0.9),
        "sgd": gx.sgd(0.01),
    }
    for name, tx in runs.items():
        w, step = jnp.asarray(5.0), jax.jit(tx.update)
        state = tx.init(w)
        for row in HAND[name]:
            updates, state = step(2 * w, state, w)
            w = gx.apply_updates(w, updates)
            assert float(w) == pytest.approx(row["w"], rel=1e-6)
            assert float(w) ** 2 == pytest.approx(row["loss"], rel=1e-6)
            if name == "adam":
                moments = state[0]
                assert float(moments.mu) == pytest.approx(row["m"], rel=1e-6)
                assert float(moments.nu) == pytest.approx(row["v"], rel=1e-6)
                assert int(moments.count) == row["step"]
            if name == "sgd_momentum":
                assert float(state[0].trace) == pytest.approx(row["trace"], rel=1e-6)


def test_seeds_row_6_bias_corrections() -> None:
    for row in HAND["bias_correction"]:
        for text in ("0.9", "0.999"):
            got = debias(decay_of(float(text), jnp.float32), jnp.float32(row["t"]))
            assert float(got) == pytest.approx(row[text], rel=1e-6)
    tx = gx.scale_by_adam()
    updates, state = tx.update(jnp.asarray(7.0), tx.init(jnp.asarray(0.0)))
    m, v = float(state.mu), float(state.nu)
    first = HAND["first_step"]
    assert float(updates) == pytest.approx(first["both_corrected"], rel=1e-6)
    assert m / v**0.5 == pytest.approx(first["neither_corrected"], rel=1e-6)
    assert m / 0.1 / v**0.5 == pytest.approx(first["only_first_moment_corrected"], rel=1e-6)


def test_seeds_row_7_decay_is_not_l2() -> None:
    """On a steady gradient Adam moves by its sign; L2 hides in it, AdamW's decay shows as rate * decay * weight."""
    w, g = jnp.asarray(2.0), jnp.asarray(50.0)
    links = gx.scale_by_adam(), gx.add_decayed_weights(0.5), gx.scale_by_learning_rate(0.01)
    for chain, want in ((gx.chain(*links), -0.02), (gx.chain(links[1], links[0], links[2]), -0.01)):
        assert float(chain.update(g, chain.init(w), w)[0]) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "tx",
    [
        gx.scale_by_adam(),
        gx.scale_by_lion(),
        gx.trace(gx.linear_schedule(0.9, 0.5, 10)),
        gx.adamw(
            gx.warmup_cosine(1e-3, 10, 100), weight_decay=gx.linear_schedule(0.1, 0.0, 50), nesterov=True
        ),
        gx.chain(gx.clip(gx.constant_schedule(1.0)), gx.inverse_sqrt(1e-3, 10)),
    ],
    ids=repr,
)
def test_counts_saturate(tx: Any) -> None:
    """Far beyond the end of any run the counter stays where it is instead of turning negative."""
    params = jnp.array([1.0, -2.0])
    full = jax.tree.map(lambda x: jnp.full_like(x, INT32_MAX) if x.dtype == jnp.int32 else x, tx.init(params))
    step = jax.jit(tx.update)
    state = full
    for _ in range(3):
        updates, state = step(jnp.array([0.5, 3.0]), state, params)
        assert np.all(np.isfinite(updates))
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.int32]
    assert counts
    assert all(int(x) == INT32_MAX for x in counts)


@pytest.mark.parametrize("name", ["b1", "b2"])
@pytest.mark.parametrize("b", [0.0, 0.9])
def test_gradients_with_respect_to_a_decay_are_finite(name: str, b: float) -> None:
    grads = [jnp.asarray([1.0, -0.5]), jnp.asarray([2.0, -3.0])]

    def total(tx: Any) -> Any:
        state, moved = tx.init(grads[0]), jnp.zeros(())
        for g in grads:
            updates, state = tx.update(g, state)
            moved = moved + updates.sum()
        return moved

    got = jax.grad(lambda x: total(gx.scale_by_adam(**{name: x})))(b)
    with jax.numpy_dtype_promotion("standard"):
        wanted = jax.grad(lambda x: total(optax.scale_by_adam(**{name: x})))(b)
    np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_two_float_is_a_tree_of_two_leaves() -> None:
    pair = two_float(0.999)
    assert isinstance(pair, TwoFloat)
    assert float(pair.hi) + float(pair.lo) == pytest.approx(0.999, abs=1e-15)
    same = jax.jit(lambda x: x)(pair)
    assert (same.hi, same.lo) == (pair.hi, pair.lo)
    assert isinstance(gx.scale_by_adam().init(jnp.zeros(2)), optax.ScaleByAdamState)
