"""`average_params`: every average against float64, the parameters as they are stored, odd leaves, addresses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build
from gradxform._combine.average import ParamAverageState
from gradxform._combine.behind import rounded, stored

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

STEPS = 60


def walk(seed: int = 0, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A start, and updates that are added to it."""
    random = np.random.default_rng(seed)
    return random.normal(size=size), random.normal(size=(STEPS, size))


def averages(tx: Any, dtype: Any = jnp.float32, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """All averages and all parameters of a walk, computed by `tx` around the identity."""
    start, updates = walk()

    def step(carry: Any, u: Any) -> Any:
        p, state = carry
        u, state = tx.update(u, state, p)
        p = gx.apply_updates(p, u)
        return (p, state), (gx.eval_params(state, p), p)

    p = jnp.asarray(start, dtype)
    _, (found, params) = jax.lax.scan(step, (p, tx.init(p)), jnp.asarray(updates[:steps], dtype))
    return np.asarray(found, np.float64), np.asarray(params, np.float64)


def weighted(params: np.ndarray, weight: Any) -> np.ndarray:
    """The weighted means of p_1 .. p_t for every t; `weight(i, t)` is the weight of p_i at t, not yet normalised."""
    rows = []
    for t in range(1, len(params) + 1):
        w = np.array([weight(i, t) for i in range(1, t + 1)], np.float64)
        rows.append((w[:, None] * params[:t]).sum(0) / w.sum())
    return np.array(rows)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_moving_average_is_the_normalised_sum(decay):
    found, params = averages(gx.average_params(gx.identity(), decay))
    wanted = weighted(params, lambda i, t: decay ** (t - i))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(found[0], params[0])


def test_the_mean_is_the_mean():
    found, params = averages(gx.average_params(gx.identity(), None))
    np.testing.assert_allclose(found, np.cumsum(params, 0) / np.arange(1, STEPS + 1)[:, None], atol=3e-6)


@pytest.mark.parametrize("power", [1.0, 3.0, 8.0])
def test_a_power_weighs_by_rising_factorials(power):
    """The running form gives the i-th the weight i (i + 1) .. (i + power - 1), which is about i^power."""

    def weight(i: int, t: int) -> float:
        del t
        return float(np.prod([float(i + j) for j in range(int(power))]))

    found, params = averages(gx.average_params(gx.identity(), None, power=power))
    np.testing.assert_allclose(found, weighted(params, weight), atol=5e-6)
    # Half of the weight lies within the last 1 - 2^(-1 / (power + 1)) of the steps.
    w = np.array([weight(i, 0) for i in range(1, 1001)])
    half = 1000 - int(np.searchsorted(np.cumsum(w) / w.sum(), 0.5))
    assert half == pytest.approx(1000 * (1 - 0.5 ** (1 / (power + 1))), rel=0.03)


@pytest.mark.parametrize("options", [{"decay": 0.8}, {"decay": None}, {"decay": None, "power": 2.0}])
def test_steps_before_the_start_are_as_if_they_had_never_been(options):
    found, params = averages(gx.average_params(gx.identity(), **options, start=20))
    np.testing.assert_array_equal(found[:21], params[:21])
    rest = weighted(
        params[20:],
        (lambda i, t: 0.8 ** (t - i))
        if options["decay"]
        else (lambda i, t: float(i * (i + 1)) if options.get("power") else 1.0),
    )
    np.testing.assert_allclose(found[20:], rest, atol=5e-6)


def test_only_every_nth_step_enters():
    found, params = averages(gx.average_params(gx.identity(), None, start=10, every=5))
    np.testing.assert_array_equal(found[:15], params[:15])
    taken = params[14::5]
    for t in range(15, STEPS + 1):
        np.testing.assert_allclose(found[t - 1], taken[: (t - 10) // 5].mean(0), atol=3e-6)


def test_a_scheduled_decay_is_read_at_each_step():
    schedule = gx.linear_schedule(0.5, 0.9, STEPS)
    found, params = averages(gx.average_params(gx.identity(), schedule))
    m = params[0]
    for t in range(2, STEPS + 1):
        d = 0.5 + 0.4 * (t - 1) / STEPS
        m = m + (1 - d) / (1 - d**t) * (params[t - 1] - m)
        np.testing.assert_allclose(found[t - 1], m, atol=5e-6)


def test_A4_A6_an_average_of_bfloat16_parameters_does_not_stall():
    """Parameters that stand at 1 after a long time at 0: a bfloat16 average stops on the way."""
    p = jnp.ones(1, jnp.bfloat16)

    def final(tx: Any) -> float:
        # As if 10,000 steps at zero had been: the average is 0 and no longer corrected.
        state = (tx.init(p)[0], tx.init(p)[1]._replace(count=jnp.asarray(10_000, jnp.int32)))
        state = (state[0], state[1]._replace(average=jnp.zeros_like(state[1].average)))

        def step(_: Any, state: Any) -> Any:
            return tx.update(jnp.zeros_like(p), state, p)[1]

        return float(jax.jit(lambda s: jax.lax.fori_loop(0, 5_000, step, s))(state)[1].average[0])

    exact = 1 - 0.999**5000
    ours, stalled = (
        gx.average_params(gx.identity(), 0.999),
        gx.average_params(gx.identity(), 0.999, accumulator_dtype=jnp.bfloat16),
    )
    assert ours.init(p)[1].average.dtype == jnp.float32
    assert final(ours) == pytest.approx(exact, abs=1e-4)
    assert final(stalled) == 0.25

    def theirs(_: Any, average: Any) -> Any:
        return optax.incremental_update(p, average, 1e-3)

    with jax.numpy_dtype_promotion("standard"):
        assert float(jax.lax.fori_loop(0, 20_000, theirs, jnp.zeros(1, jnp.bfloat16))[0]) == 0.5


@pytest.mark.parametrize("options", [{"decay": None}, {"decay": 0.9999}, {"decay": None, "power": 8.0}])
def test_float32_is_enough_for_a_hundred_thousand_steps(options):
    """Weights of 1 with a noise of 0.01: the float32 average is off by less than 1e-5 from that of float64."""
    n, random = 100_000, np.random.default_rng(0)
    params = 1 + (random.normal(size=(n, 2)) * 1e-2).astype(np.float32)
    tx = gx.average_params(gx.identity(), **options)
    state = tx.init(jnp.zeros(2))
    follow = jax.jit(
        lambda s: jax.lax.scan(lambda s, p: (tx.update(jnp.zeros(2), s, p)[1], None), s, params)[0]
    )
    wanted, power = params[0].astype(np.float64), options.get("power", 0.0)
    for i, p in enumerate(params[1:].astype(np.float64), 2):
        d = options["decay"]
        wanted += ((power + 1) / (i + power) if d is None else (1 - d) / (1 - d**i)) * (p - wanted)
    np.testing.assert_allclose(follow(state)[1].average, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_average_is_of_the_parameters_as_they_are_stored(dtype):
    """An update below half a unit leaves the parameter where it is, and the average too, also under `jit`."""
    tx = gx.average_params(gx.identity(), 0.0)
    p = jnp.full(4, 1.0, dtype)
    small = jnp.full(4, 1e-5, dtype)
    _, state = jax.jit(tx.update)(small, tx.init(p), p)
    np.testing.assert_array_equal(state[1].average, 1.0)
    found, params = averages(tx, dtype)
    np.testing.assert_array_equal(found, params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounding_is_that_of_a_cast(dtype):
    random = np.random.default_rng(0)
    x = (random.normal(size=2000) * 2.0 ** random.integers(-30, 10, 2000)).astype(np.float32)
    wanted = jnp.asarray(x).astype(dtype)
    np.testing.assert_array_equal(
        jax.jit(lambda x: rounded(x, dtype))(jnp.asarray(x)), wanted.astype(jnp.float32)
    )
    p = jnp.asarray(random.normal(size=2000), dtype)
    new = jax.jit(lambda p, u: stored(p, u, dtype))(p.astype(jnp.float32), jnp.asarray(x))
    np.testing.assert_array_equal(new, gx.apply_updates(p, wanted).astype(jnp.float32))


def test_updates_are_those_of_the_transform():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}
    grads = jax.tree.map(lambda p: 0.3 * jnp.ones_like(p), params)
    bare, averaged = gx.adamw(1e-2), gx.average_params(gx.adamw(1e-2))
    a, _ = bare.update(grads, bare.init(params), params)
    b, _ = averaged.update(grads, averaged.init(params), params)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b))


def test_nothing_is_renamed_and_the_pass_is_shared():
    tx = gx.average_params(gx.adamw(1e-2))
    assert [link.address for link in tx.plan.links] == ["adam", "decay", "rate", "average"]
    assert len(tx.plan.segments) == 1
    twice = gx.average_params(tx, None)
    assert [link.address for link in twice.plan.links][-2:] == ["average", "average_1"]
    assert build.roles_of(ParamAverageState)["average"].name == "iterate"


def test_the_state_holds_copies_and_keeps_its_types():
    params = {"w": jnp.ones((2, 3)), "n": jnp.arange(2), "h": jnp.ones(2, jnp.float16), "x": None}
    tx = gx.average_params(optax.sgd(0.1))
    state = tx.init(params)
    grads = {"w": jnp.ones((2, 3)), "n": None, "h": jnp.ones(2, jnp.float16), "x": None}
    _, new = jax.jit(tx.update, donate_argnums=1)(grads, state, params)
    assert float(params["w"].sum()) == 6.0, "the average shares nothing with the parameters"
    old = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(new)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(old)
    ]
    evaluated = gx.eval_params(new, params)
    np.testing.assert_array_equal(evaluated["n"], params["n"])
    assert evaluated["x"] is None
    assert evaluated["h"].dtype == jnp.float16


def test_a_skipped_step_is_not_averaged_inside_of_a_guard():
    tx = gx.guard(gx.average_params(gx.sgd(1.0), None))
    p, state = jnp.zeros(1), tx.init(jnp.zeros(1))
    for g in (-1.0, float("nan"), -1.0):
        u, state = tx.update(jnp.array([g]), state, p)
        p = gx.apply_updates(p, u)
    assert float(gx.eval_params(state, p)[0]) == 1.5
    assert int(state.inner_state[1].count) == 2


def test_a_new_start_forgets_what_is_not_a_number():
    tx = gx.average_params(gx.identity(), 0.5, start=1)
    state = tx.init(jnp.array([jnp.nan]))
    _, state = tx.update(jnp.zeros(1), state, jnp.array([jnp.nan]))
    _, state = tx.update(jnp.zeros(1), state, jnp.array([2.0]))
    assert float(state[1].average[0]) == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, "decay=1.0"),
        ({"decay": -0.1}, "decay=-0.1"),
        ({"decay": 0.9, "power": 3.0}, "a decay and a power are two averages"),
        ({"decay": None, "power": -1.0}, "power=-1.0"),
        ({"start": -1}, "start=-1"),
        ({"every": 0}, "every=0"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=r"gx\.average_params") as caught:
        gx.average_params(gx.sgd(0.1), **options)
    assert message in str(caught.value)


def test_parameters_are_asked_for():
    tx = gx.average_params(gx.sgd(0.1))
    with pytest.raises(ValueError, match="missing params for average"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_a_value():
    tx = gx.average_params(gx.adamw(1e-2), None, power=8.0, start=100)
    assert repr(tx) == "gx.average_params(gx.adamw(0.01), decay=None, start=100, power=8.0)"
    assert gx.from_json(gx.to_json(tx)) == tx
