"""Every schedule against its reference in NumPy, at its edges, at large counts, and as a value."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._core.numerics import INT32_MAX, two_float
from tests import reference

BIG = 20_000_000
COUNTS = [*range(260), 300, 499, 500, 501, 999, 1000, 1001, 5000, 10**5, BIG + 1, INT32_MAX - 1, INT32_MAX]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "constant": ("constant_schedule", {"value": 0.3}),
    "line up": ("linear_schedule", {"init_value": 0.0, "end_value": 1e-3, "transition_steps": 1000}),
    "line down": (
        "linear_schedule",
        {"init_value": 1.0, "end_value": 0.0, "transition_steps": 243, "transition_begin": 13},
    ),
    "line of no length": ("linear_schedule", {"init_value": 0.4, "end_value": 2.0, "transition_steps": 0}),
    "line begun before": (
        "linear_schedule",
        {"init_value": 0.4, "end_value": 2.0, "transition_steps": 9, "transition_begin": -5},
    ),
    "square": (
        "polynomial_schedule",
        {"init_value": 0.0, "end_value": 1.0, "power": 2, "transition_steps": 500},
    ),
    "root": (
        "polynomial_schedule",
        {"init_value": 1.0, "end_value": 0.0, "power": 0.5, "transition_steps": 500},
    ),
    "power": (
        "polynomial_schedule",
        {"init_value": 1.0, "end_value": 0.2, "power": 3.3, "transition_steps": 501, "transition_begin": 5},
    ),
    "power 0": (
        "polynomial_schedule",
        {"init_value": 1.0, "end_value": 0.2, "power": 0, "transition_steps": 50},
    ),
    "steps": (
        "piecewise_constant_schedule",
        {"init_value": 1.0, "boundaries_and_scales": {250: 0.5, 10: 0.1, 4000: 3.0}},
    ),
    "no steps": ("piecewise_constant_schedule", {"init_value": 0.7}),
    "exponential": ("exponential_decay", {"init_value": 0.5, "transition_steps": 49, "decay_rate": 0.7}),
    "stairs": (
        "exponential_decay",
        {
            "init_value": 0.5,
            "transition_steps": 49,
            "decay_rate": 0.7,
            "staircase": True,
            "transition_begin": 3,
        },
    ),
    "exponential to a floor": (
        "exponential_decay",
        {
            "init_value": 0.5,
            "transition_steps": 49,
            "decay_rate": 0.7,
            "end_value": 0.01,
            "transition_begin": 7,
        },
    ),
    "growth to a ceiling": (
        "exponential_decay",
        {"init_value": 0.5, "transition_steps": 49, "decay_rate": 1.7, "end_value": 11.0},
    ),
    "exponential of no length": (
        "exponential_decay",
        {"init_value": 0.5, "transition_steps": 0, "decay_rate": 0.7},
    ),
    "exponential of zero": (
        "exponential_decay",
        {"init_value": 0.5, "transition_steps": 9, "decay_rate": 0.0},
    ),
    "cosine": ("cosine_decay_schedule", {"init_value": 0.8, "decay_steps": 1000}),
    "cosine to a floor": (
        "cosine_decay_schedule",
        {"init_value": 0.8, "decay_steps": 301, "alpha": 0.1, "exponent": 1.7},
    ),
    "Optax's warmup": (
        "warmup_cosine_decay_schedule",
        {"init_value": 0.0, "peak_value": 2.0, "warmup_steps": 100, "decay_steps": 900},
    ),
    "Optax's warmup to a floor": (
        "warmup_cosine_decay_schedule",
        {
            "init_value": 0.1,
            "peak_value": 2.0,
            "warmup_steps": 10,
            "decay_steps": 500,
            "end_value": 0.2,
            "exponent": 0.7,
        },
    ),
    "Optax's warmup, cold": (
        "warmup_cosine_decay_schedule",
        {"init_value": 0.1, "peak_value": 2.0, "warmup_steps": 0, "decay_steps": 500},
    ),
    "Optax's warmup to zero": (
        "warmup_cosine_decay_schedule",
        {"init_value": 0.1, "peak_value": 0.0, "warmup_steps": 10, "decay_steps": 50, "end_value": 0.3},
    ),
    "one cycle": ("cosine_onecycle_schedule", {"transition_steps": 499, "peak_value": 0.9}),
    "one odd cycle": (
        "cosine_onecycle_schedule",
        {
            "transition_steps": 37,
            "peak_value": 0.9,
            "pct_start": 0.45,
            "div_factor": 10.0,
            "final_div_factor": 100.0,
        },
    ),
    "warmup and cosine": ("warmup_cosine", {"peak_value": 3e-4, "warmup_steps": 100, "total_steps": 1000}),
    "warmup by fraction": (
        "warmup_cosine",
        {
            "peak_value": 3e-4,
            "warmup_steps": 0.1,
            "total_steps": 500,
            "init_value": 1e-6,
            "end_value": 3e-5,
            "exponent": 2.0,
        },
    ),
    "no warmup": ("warmup_cosine", {"peak_value": 3e-4, "warmup_steps": 0, "total_steps": 500}),
    "only warmup": (
        "warmup_cosine",
        {"peak_value": 3e-4, "warmup_steps": 500, "total_steps": 500, "end_value": 1e-5},
    ),
    "warmup and line": ("warmup_linear", {"peak_value": 3e-4, "warmup_steps": 0.1, "total_steps": 1000}),
    "no warmup, line": ("warmup_linear", {"peak_value": 3e-4, "warmup_steps": 0, "total_steps": 250}),
    "only warmup, line": ("warmup_linear", {"peak_value": 3e-4, "warmup_steps": 250, "total_steps": 250}),
    "wsd": ("wsd", {"peak_value": 3e-4, "warmup_steps": 0.1, "total_steps": 500, "decay_steps": 0.3}),
    "wsd by cosine": (
        "wsd",
        {"peak_value": 3e-4, "warmup_steps": 9, "total_steps": 500, "decay_steps": 300, "shape": "cosine"},
    ),
    "wsd by root": (
        "wsd",
        {
            "peak_value": 3e-4,
            "warmup_steps": 0,
            "total_steps": 500,
            "decay_steps": 0.3,
            "shape": "sqrt",
            "init_value": 1e-5,
            "end_value": 1e-5,
        },
    ),
    "wsd without decay": (
        "wsd",
        {"peak_value": 3e-4, "warmup_steps": 5, "total_steps": 50, "decay_steps": 0},
    ),
    "inverse root": ("inverse_sqrt", {"peak_value": 3e-4, "warmup_steps": 100, "init_value": 1e-5}),
    "inverse root, cold": ("inverse_sqrt", {"peak_value": 3e-4, "warmup_steps": 0, "timescale": 33.0}),
    "restarts": ("cosine_restarts", {"peak_value": 3e-4, "first_steps": 49}),
    "longer restarts": (
        "cosine_restarts",
        {"peak_value": 3e-4, "first_steps": 49, "multiplier": 2.0, "decay": 0.7, "end_value": 1e-6},
    ),
    "odd restarts": (
        "cosine_restarts",
        {"peak_value": 3e-4, "first_steps": 10, "multiplier": 1.5, "decay": 0.9},
    ),
}
JOINED = (
    [
        ("linear_schedule", {"init_value": 0.0, "end_value": 1.0, "transition_steps": 10}),
        CASES["cosine"],
        CASES["wsd"],
    ],
    [10, 300],
)


def ours(name: str, arguments: dict[str, Any]) -> Any:
    return getattr(gx, name)(**arguments)


def theirs(name: str, arguments: dict[str, Any]) -> Any:
    module = reference.schedules if hasattr(reference.schedules, name) else reference.warmups
    return getattr(module, name)(**arguments)


def joined() -> tuple[Any, Any]:
    parts, edges = JOINED
    return (
        gx.join_schedules([ours(*part) for part in parts], edges),
        reference.schedules.join_schedules([theirs(*part) for part in parts], edges),
    )


def pair(case: str) -> tuple[Any, Any]:
    return joined() if case == "joined" else (ours(*CASES[case]), theirs(*CASES[case]))


def assert_close(got: Any, want: Any, rtol: float) -> None:
    """Relative everywhere, also in the last steps of a decay to zero; below 1e-30 a float32 has no digits left."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-30)


def counts_for(case: str) -> list[int]:
    """The reference walks from one restart to the next: a million steps of it are enough."""
    return [t for t in COUNTS if case != "restarts" or t < 10**6]


every = pytest.mark.parametrize("case", [*CASES, "joined"])


@every
def test_against_the_reference(case: str) -> None:
    """1e-6 relative at every count, under `jit` and `vmap`; the counts are int32 as in a state."""
    schedule, want = pair(case)
    got = jax.jit(jax.vmap(schedule))(jnp.asarray(COUNTS, jnp.int32))
    assert got.dtype == jnp.float32
    few = counts_for(case)
    assert_close(got[: len(few)], [want(t) for t in few], 1e-6)


@every
def test_one_count_in_every_form(case: str) -> None:
    schedule, want = pair(case)
    for count in (0, 7, 261):
        kinds = (int, np.int32, np.int64, np.asarray, jnp.int32, jnp.uint32, float)
        forms = [kind(count) for kind in kinds]
        values = [schedule(form) for form in forms]
        assert all(jnp.shape(v) == () and v.dtype == jnp.float32 and not v.weak_type for v in values)
        assert_close(values, [want(count)] * len(forms), 1e-6)
    assert_close(jax.jit(schedule)(jnp.int32(7)), want(7), 1e-6)


@every
@pytest.mark.usefixtures("x64")
def test_double_precision(case: str) -> None:
    schedule, want = pair(case)
    got = jax.jit(jax.vmap(schedule))(jnp.asarray(COUNTS, jnp.int32))
    assert got.dtype == jnp.float64
    few = counts_for(case)
    assert_close(
        got[: len(few)], [want(t) for t in few], 1e-10 if case.startswith(("expo", "stairs")) else 1e-12
    )


@every
def test_a_count_beyond_int32(case: str) -> None:
    """As a Python or NumPy integer it is exact; what a state counts stops at 2^31 - 1."""
    schedule, want = pair(case)
    for count in (2**31, 2**33 + 1):
        wanted = want(count % 49) if case == "restarts" else want(count)
        assert_close([schedule(count), schedule(np.int64(count))], [wanted] * 2, 1e-6)


@every
def test_it_is_a_value(case: str) -> None:
    one, two = pair(case)[0], pair(case)[0]
    assert one == two
    assert hash(one) == hash(two)
    assert (one != two) is False
    assert gx.from_json(gx.to_json(one)) == one
    assert eval(repr(one), {"gx": gx}) == one
    assert one != gx.constant_schedule(0.123)
    assert len(jax.tree.leaves(one)) == 0


FIRST_AND_LAST = {
    "line up": (0.0, 1e-3),
    "line down": (1.0, 0.0),
    "square": (0.0, 1.0),
    "power": (1.0, 0.2),
    "cosine": (0.8, 0.0),
    "Optax's warmup": (0.0, 0.0),
    "Optax's warmup, cold": (2.0, 0.0),
    "no warmup": (3e-4, 0.0),
    "only warmup": (0.0, 1e-5),
    "warmup and line": (0.0, 0.0),
    "no warmup, line": (3e-4, 0.0),
    "wsd": (0.0, 0.0),
    "wsd by root": (3e-4, 1e-5),
    "wsd without decay": (0.0, 0.0),
    "inverse root": (1e-5, None),
    "restarts": (3e-4, None),
}


@pytest.mark.parametrize("case", FIRST_AND_LAST)
def test_ends_are_exact(case: str) -> None:
    """The first value is the given one and so is the last, to the bit, eager and compiled."""
    schedule = pair(case)[0]
    first, last = FIRST_AND_LAST[case]
    for f in (schedule, jax.jit(schedule)):
        assert float(f(jnp.int32(0))) == np.float32(first)
        if last is not None:
            assert float(f(jnp.int32(1000))) == np.float32(last)
            assert float(f(jnp.int32(INT32_MAX))) == np.float32(last)


LATE: dict[str, Any] = {
    "line": (gx.linear_schedule(1.0, 0.0, 1000, BIG), lambda k: 1 - k / 1000),
    "square": (gx.polynomial_schedule(1.0, 0.0, 2, 1000, BIG), lambda k: (1 - k / 1000) ** 2),
    "exponential": (gx.exponential_decay(1.0, 1000, 0.5, BIG), lambda k: 0.5 ** (k / 1000)),
    "wsd": (gx.wsd(1.0, 100, BIG + 1000, 1000), lambda k: 1 - k / 1000),
    "warmup": (gx.warmup_linear(1.0, BIG, BIG + 1000), lambda k: 1 - k / 1000),
    "cosine": (gx.warmup_cosine(1.0, BIG, BIG + 1000), lambda k: math.cos(math.pi * k / 2000) ** 2),
    "joined": (
        gx.join_schedules([gx.constant_schedule(1.0), gx.linear_schedule(1.0, 0.0, 1000)], [BIG]),
        lambda k: 1 - k / 1000,
    ),
    "restarts": (gx.cosine_restarts(1.0, 1000), lambda k: math.cos(math.pi * (k % 1000) / 2000) ** 2),
}


@pytest.mark.parametrize("case", LATE)
def test_a_late_decay_sees_every_step(case: str) -> None:
    """A decay of 1,000 steps that starts at step 20,000,000: a float32 of the count knows every other step only."""
    schedule, want = LATE[case]
    steps = np.arange(1000)
    got = np.asarray(jax.jit(jax.vmap(schedule))(jnp.asarray(BIG + steps, jnp.int32)), np.float64)
    np.testing.assert_allclose(got, [want(k) for k in steps], rtol=1e-6)
    assert len(np.unique(got)) == 1000


def test_stairs_stand_on_the_step() -> None:
    """XLA divides by multiplying with the reciprocal, which is off by one at an edge; integers are not."""
    for size in (3, 7, 49, 180, 1000, 3001):
        schedule = jax.jit(jax.vmap(gx.exponential_decay(1.0, size, 0.5, staircase=True)))
        edges = size * np.arange(1, 60)
        assert np.array_equal(schedule(jnp.asarray(edges)), 0.5 ** np.arange(1, 60).astype(np.float32))
        assert np.array_equal(schedule(jnp.asarray(edges - 1)), 0.5 ** np.arange(0, 59).astype(np.float32))


def test_C17_edges_beyond_int32() -> None:
    """Optax: OverflowError."""
    far = {
        "line": (gx.linear_schedule(1.0, 0.0, 2**33), lambda t: 1 - t / 2**33),
        "begin": (gx.linear_schedule(1.0, 0.0, 100, 2**40), lambda t: 1.0),
        "exponential": (gx.exponential_decay(1.0, 2**33, 0.5), lambda t: 0.5 ** (t / 2**33)),
        "stairs": (gx.exponential_decay(1.0, 2**33, 0.5, staircase=True), lambda t: 1.0),
        "steps": (
            gx.piecewise_constant_schedule(1.0, {2**31 - 1: 0.5, 2**33: 0.1}),
            lambda t: 0.5 if t == INT32_MAX else 1.0,
        ),
        "join": (
            gx.join_schedules([gx.constant_schedule(1.0), gx.constant_schedule(2.0)], [2**32]),
            lambda t: 1.0,
        ),
        "cosine": (gx.warmup_cosine(1.0, 2**31, 2**33), lambda t: t / 2**31),
        "wsd": (gx.wsd(1.0, 10, 2**34, 2**33), lambda t: min(t / 10, 1.0)),
        "restarts": (gx.cosine_restarts(1.0, 2**33), lambda t: math.cos(math.pi * t / 2**34) ** 2),
    }
    for name, (schedule, want) in far.items():
        for count in (5, 2**30, INT32_MAX):
            for f in (schedule, jax.jit(schedule)):
                assert float(f(jnp.int32(count))) == pytest.approx(want(count), rel=1e-6), name
    assert float(gx.linear_schedule(1.0, 0.0, 2**33)(2**32)) == pytest.approx(0.5)
    assert float(gx.piecewise_constant_schedule(1.0, {2**33: 0.1})(2**33)) == pytest.approx(0.1)


def test_A23_boundaries_are_checked() -> None:
    """Optax never reaches the last schedule if a boundary is missing, and picks the wrong one if they are unsorted."""
    one, two, three = map(gx.constant_schedule, (1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="3 schedules and 1 boundar"):
        gx.join_schedules([one, two, three], [5])
    with pytest.raises(ValueError, match="wanted ascending steps"):
        gx.join_schedules([one, two, three], [10, 5])
    schedule = gx.join_schedules([one, two, three], [5, 10])
    assert [float(schedule(t)) for t in (4, 5, 9, 10)] == [1.0, 2.0, 2.0, 3.0]


PEAKS: dict[str, Any] = {
    "constant": gx.constant_schedule,
    "linear": lambda v: gx.linear_schedule(v, 0.0, 10, 3),
    "polynomial": lambda v: gx.polynomial_schedule(0.0, v, 2, 10),
    "root": lambda v: gx.polynomial_schedule(v, 0.0, 0.5, 10),
    "piecewise": lambda v: gx.piecewise_constant_schedule(v, {3: 0.1}),
    "exponential": lambda v: gx.exponential_decay(v, 1, 1e-30),
    "growth": lambda v: gx.exponential_decay(v, 1, 10.0, end_value=3.0),
    "cosine": lambda v: gx.cosine_decay_schedule(v, 10, exponent=0.5),
    "Optax's warmup": lambda v: gx.warmup_cosine_decay_schedule(0.0, v, 4, 20, exponent=0.5),
    "one cycle": lambda v: gx.cosine_onecycle_schedule(20, v),
    "warmup_cosine": lambda v: gx.warmup_cosine(v, 4, 20, exponent=0.5),
    "warmup_linear": lambda v: gx.warmup_linear(v, 4, 20),
    "wsd": lambda v: gx.wsd(v, 4, 20, shape="sqrt"),
    "inverse_sqrt": lambda v: gx.inverse_sqrt(v, 4),
    "restarts": lambda v: gx.cosine_restarts(v, 4, multiplier=2, decay=0.5),
    "joined": lambda v: gx.join_schedules(
        [gx.constant_schedule(v), gx.exponential_decay(v, 1, 1e-30)], [100]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEAKS)
def test_B11_gradients_with_respect_to_the_peak(name: str) -> None:
    """Finite at every count: nothing infinite stands in the branch not taken. And it is the difference quotient."""
    counts = jnp.asarray([0, 3, 4, 10, 19, 20, 21, 101, 5000, INT32_MAX])
    make = PEAKS[name]
    slopes = jax.jit(jax.vmap(jax.grad(lambda v, t: make(v)(t)), in_axes=(None, 0)))(jnp.float32(1.5), counts)
    assert np.all(np.isfinite(slopes))
    values = jax.vmap(lambda v: jax.vmap(make(v))(counts))(jnp.float32([1.0, 1.5, 2.0]))
    assert np.all(np.isfinite(values))
    np.testing.assert_allclose(slopes, values[2] - values[0], rtol=1e-5, atol=1e-7)


def test_B11_gradients_with_respect_to_rates_and_powers() -> None:
    counts = jnp.asarray([0, 1, 10, 11, INT32_MAX])
    for make in (
        lambda x: gx.exponential_decay(1.0, 2, x, end_value=0.1),
        lambda x: gx.polynomial_schedule(1.0, 0.5, x, 10),
        lambda x: gx.cosine_decay_schedule(1.0, 10, exponent=x),
        lambda x: gx.cosine_restarts(1.0, 3, decay=x),
        lambda x: gx.inverse_sqrt(1.0, 2, timescale=x),
    ):
        slopes = jax.vmap(jax.grad(lambda x, t, make=make: make(x)(t)), in_axes=(None, 0))(
            jnp.float32(0.7), counts
        )
        assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize("name", PEAKS)
def test_peaks_in_parallel(name: str) -> None:
    """Many peaks in one compiled program give what each gives alone; a peak of zero is a peak too."""
    peaks = np.array([0.0, 1e-4, 0.5, 3.0], np.float32)
    make = PEAKS[name]
    got = jax.jit(jax.vmap(lambda v, t: make(v)(t), in_axes=(0, None)))(peaks, jnp.int32(5))
    want = [float(make(float(v))(5)) for v in peaks]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_warmup_errors() -> None:
    for make in (
        lambda w: gx.warmup_cosine(1.0, w, 10),
        lambda w: gx.warmup_linear(1.0, w, 10),
        lambda w: gx.wsd(1.0, w, 10),
        lambda w: gx.warmup_cosine_decay_schedule(0.0, 1.0, w, 10),
    ):
        for bad in (-1, 11, 2.5):
            with pytest.raises(ValueError, match="warmup_steps="):
                make(bad)
    with pytest.raises(ValueError, match="do not fit"):
        gx.wsd(1.0, 6, 10, 5)


def test_seeds_row_10_step_decay_at_milestones() -> None:
    schedule = gx.piecewise_constant_schedule(0.1, {30: 0.1, 60: 0.1, 80: 0.2})
    got = [float(schedule(t)) for t in (0, 29, 30, 59, 60, 79, 80, 10**6)]
    assert got == pytest.approx([0.1, 0.1, 1e-2, 1e-2, 1e-3, 1e-3, 2e-4, 2e-4], rel=1e-6)


def test_a_two_float_is_a_number_too() -> None:
    assert float(gx.constant_schedule(two_float(0.1))(3)) == np.float32(0.1)
    got = jax.jit(lambda v: gx.warmup_cosine(v, 2, 10)(2))(two_float(3e-4))
    assert float(got) == np.float32(3e-4)


def test_a_schedule_in_a_step_reads_the_count_before_it() -> None:
    """The first step reads count 0, as Optax's; 30 steps, one after the other, are the schedule."""
    schedule = gx.warmup_cosine(0.5, 10, 25)
    tx = gx.scale_by_learning_rate(schedule)
    state, step = tx.init(jnp.zeros(())), jax.jit(tx.update)
    assert isinstance(state, optax.ScaleByScheduleState)
    for t in range(30):
        updates, state = step(jnp.ones(()), state)
        assert float(updates) == pytest.approx(-float(schedule(t)), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("key", reference.Golden.load("optax_schedules.npz").meta["schedules"])
@pytest.mark.usefixtures("x64")
def test_optax_s_own_values(key: str) -> None:
    golden = reference.Golden.load("optax_schedules.npz")
    name, arguments = golden.meta["schedules"][key]
    arguments = dict(arguments)
    if "boundaries_and_scales" in arguments:
        arguments["boundaries_and_scales"] = {
            int(k): v for k, v in arguments["boundaries_and_scales"].items()
        }
    got = jax.vmap(ours(name, arguments))(jnp.asarray(golden.arrays["counts"]))
    np.testing.assert_allclose(got, golden.arrays[f"values/{key}"], rtol=1e-11, atol=1e-15)
