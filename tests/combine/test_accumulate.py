"""`accumulate`: one step a window, the mean over all tokens, nothing in between, and no NaN that stays."""

from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

import gradxform as gx
from gradxform import build

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

NAN = np.array([np.nan, 1.0], np.float32)
BF16 = jnp.bfloat16


def run(tx: Any, params: Any, *grads: Any, **extra: Any) -> list[Any]:
    """The updates of one call for each gradient; the parameters stay."""
    found, _ = follow(tx, params, *grads, **extra)
    return found


def follow(tx: Any, params: Any, *grads: Any, **extra: Any) -> tuple[list[Any], Any]:
    state, found = tx.init(params), []
    step = jax.jit(tx.update)
    for i, g in enumerate(grads):
        now = {name: values[i] for name, values in extra.items()}
        updates, state = step(jax.tree.map(jnp.asarray, g), state, params, **now)
        found.append(jax.tree.map(np.asarray, updates))
    return found, state


def gradients(number: int, shape: tuple[int, ...] = (3,), dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for _ in range(number)]


# ------------------------------------------------------------------------------------------------ the numbers


def test_one_step_a_window_with_the_mean() -> None:
    grads = gradients(8)
    params = jnp.ones(3)
    got = run(gx.accumulate(gx.adamw(0.1), 4), params, *grads)
    want = run(gx.adamw(0.1), params, np.mean(grads[:4], 0), np.mean(grads[4:], 0))
    for i in (0, 1, 2, 4, 5, 6):
        np.testing.assert_array_equal(got[i], np.zeros(3))
    np.testing.assert_allclose(got[3], want[0], rtol=1e-6)
    np.testing.assert_allclose(got[7], want[1], rtol=1e-5)


@pytest.mark.parametrize("inner", [gx.adamw(0.1), optax.adamw(0.1)], ids=["ours", "optax"])
def test_agrees_with_multisteps(inner: Any) -> None:
    grads = gradients(9)
    params = jnp.ones(3)
    theirs = optax.MultiSteps(optax.adamw(0.1), 3).gradient_transformation()
    with jax.numpy_dtype_promotion("standard"):
        want, _ = follow(theirs, params, *grads)
    got, state = follow(gx.accumulate(inner, 3), params, *grads)
    for ours, other in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, other, rtol=2e-5, atol=1e-7)
    assert int(state.gradient_step) == 3
    assert int(state.mini_step) == 0


def test_the_mean_is_exact_to_one_rounding_of_the_sum(x64: None) -> None:
    del x64
    grads = gradients(16, (100,), np.float32)
    got = run(gx.accumulate(gx.scale(1.0), 16), jnp.zeros(100, jnp.float32), *grads)[-1]
    want = np.mean(np.asarray(grads, np.float64), 0)
    # Sixteen float32 additions: an error of at most 16 half-units of the largest partial sum.
    assert np.max(np.abs(got - want)) < 16 * 2**-24 * np.max(np.sum(np.abs(grads), 0)) / 16
    wide = [g.astype(np.float64) for g in grads]
    got = run(gx.accumulate(gx.scale(1.0), 16), jnp.zeros(100, jnp.float64), *wide)[-1]
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-16)


def test_a_sum_of_bfloat16_is_kept_in_float32() -> None:
    """1 + 255 times 1/256: in bfloat16 the sum stays at 1 (Optax's default accumulator had that)."""
    grads = [jnp.ones(1, BF16), *[jnp.full(1, 2.0**-8, BF16)] * 255]
    tx = gx.accumulate(gx.scale(1.0), 256)
    got, state = follow(tx, jnp.zeros(1, BF16), *grads)
    want = np.float32((1 + 255 / 256) / 256)
    assert got[-1].dtype == BF16
    assert state.acc_grads.dtype == jnp.float32
    assert abs(float(got[-1][0]) / want - 1) <= 2**-8
    naive = grads[0]
    for g in grads[1:]:
        naive = naive + g
    assert float(naive[0]) == 1.0  # the control: half of the sum is lost


@pytest.mark.parametrize("steps", [1, pytest.param(np.int64(1), marks=pytest.mark.slow)])
def test_one_step_is_the_transform_itself(steps: Any) -> None:
    """Optax's k = 1 casts, multiplies by 1 and keeps a sum; this is the same call, bit for bit."""
    params = {"w": jnp.ones(3), "h": jnp.ones(2, BF16)}
    grads = [{"w": g, "h": jnp.asarray(g[:2], BF16)} for g in gradients(3)]
    tx = gx.accumulate(gx.adamw(0.1), steps)
    for a, b in zip(run(tx, params, *grads), run(gx.adamw(0.1), params, *grads), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    state = tx.init(params)
    assert jax.tree.leaves(state.acc_grads) == []  # and it has no accumulator
    assert int(tx.update(grads[0], state, params)[1].gradient_step) == 1


# ------------------------------------------------------------------------------------------------ weights


def test_weights_give_the_mean_over_tokens_and_not_a_mean_of_means() -> None:
    grads, tokens = gradients(3), [10, 200, 3]
    tx = gx.accumulate(gx.scale(1.0), 3, weight="tokens")
    got = run(tx, jnp.zeros(3), *grads, tokens=tokens)[-1]
    want = np.average(np.asarray(grads, np.float64), 0, tokens)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert np.max(np.abs(np.mean(grads, 0) - want)) > 0.1  # the control: what MultiSteps would give


def test_weight_zero_adds_nothing_even_a_nan() -> None:
    tx = gx.accumulate(gx.scale(1.0), 3, weight="tokens")
    grads = [np.array([1.0, 2.0], np.float32), NAN, np.array([4.0, 8.0], np.float32)]
    got, state = follow(tx, jnp.zeros(2), *grads, tokens=[2.0, 0.0, 1.0])
    np.testing.assert_allclose(got[-1], [2.0, 4.0], rtol=1e-6)
    assert int(state.gradient_step) == 1
    assert int(state.mini_step) == 0


def test_a_window_without_weight_makes_no_step() -> None:
    tx = gx.accumulate(gx.adam(0.1), 2, weight="n")
    got, state = follow(tx, jnp.zeros(2), NAN, NAN, np.ones(2), np.ones(2), n=[0, 0, 5, 5])
    np.testing.assert_array_equal(got[:3], np.zeros((3, 2)))
    np.testing.assert_allclose(got[3], -0.1, rtol=1e-5)
    assert int(state.gradient_step) == 1
    assert int(state.inner_state[0].count) == 1


def test_weight_with_one_step() -> None:
    tx = gx.accumulate(gx.adam(0.1), 1, weight="n")
    got, state = follow(tx, jnp.zeros(2), NAN, np.ones(2), n=[0, 7])
    np.testing.assert_array_equal(got[0], np.zeros(2))
    np.testing.assert_allclose(got[1], -0.1, rtol=1e-5)
    assert int(state.gradient_step) == 1


def test_a_nan_weight_adds_nothing() -> None:
    tx = gx.accumulate(gx.scale(1.0), 2, weight="n")
    got = run(tx, jnp.zeros(2), NAN, np.ones(2), n=[np.float32(np.nan), np.float32(1)])
    np.testing.assert_array_equal(got[1], np.ones(2))


# ------------------------------------------------------------------------------------------------ windows


def test_steps_follow_a_schedule_of_completed_windows() -> None:
    steps = gx.piecewise_constant_schedule(1, {1: 2.0, 2: 2.0})  # 1, then 2 (from window 1), then 4
    tx = gx.accumulate(gx.scale(1.0), lambda window: steps(window))
    got = [float(u[0]) for u in run(tx, jnp.zeros(1), *[np.full(1, i + 1.0, np.float32) for i in range(7)])]
    assert got == [1.0, 0.0, 2.5, 0.0, 0.0, 0.0, 5.5]


@pytest.mark.parametrize(
    "value", [0, pytest.param(-3, marks=pytest.mark.slow), np.float32(np.nan), np.float32(0.4)]
)
def test_a_scheduled_number_below_one_acts_as_one(value: Any) -> None:
    tx = gx.accumulate(gx.scale(1.0), lambda window: value)
    assert [float(u[0]) for u in run(tx, jnp.zeros(1), *[np.ones(1)] * 2)] == [1.0, 1.0]


def test_a_scheduled_number_is_rounded() -> None:
    tx = gx.accumulate(gx.scale(1.0), lambda window: 2.6)
    assert [float(u[0]) for u in run(tx, jnp.zeros(1), *[np.ones(1)] * 3)] == [0.0, 0.0, 1.0]


def test_steps_are_set_between_steps() -> None:
    """The batch grows in a running job, and nothing is compiled again."""
    tx = gx.tunable(gx.accumulate(gx.sgd(1.0), 2), "steps")
    step, state, found = jax.jit(tx.update), tx.init(jnp.zeros(1)), list[float]()
    for i in range(6):
        if i == 2:
            state = gx.set_hyperparams(state, steps=4)
        updates, state = step(jnp.full(1, i + 1.0), state)
        found.append(float(updates[0]))
    assert found == [0.0, -1.5, 0.0, 0.0, 0.0, -4.5]
    assert step._cache_size() == 1


def test_D8_flush_ends_the_last_window() -> None:
    """Six micro-batches in windows of four: Optax loses the last two."""
    grads = [np.full(1, i + 1.0, np.float32) for i in range(6)]
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.MultiSteps(optax.sgd(1.0), 4).gradient_transformation(), jnp.zeros(1), *grads)
    assert sum(float(u[0]) for u in theirs) == -2.5  # the last two are lost
    got, state = follow(gx.accumulate(gx.sgd(1.0), 4), jnp.zeros(1), *grads, flush=[False] * 5 + [True])
    assert [float(u[0]) for u in got] == [0.0, 0.0, 0.0, -2.5, 0.0, -5.5]
    assert int(state.mini_step) == 0
    assert float(state.weight) == 0.0
    assert int(state.gradient_step) == 2
    (first, _), _ = follow(gx.accumulate(gx.sgd(1.0), 4), jnp.zeros(1), *grads[:2], flush=[True] * 2)
    assert float(first[0]) == -1.0, "and the sum of a window that is over is not read"


def test_flush_without_a_gradient() -> None:
    """Zeros of weight 0 end a window whose last gradient has come, and do nothing to an empty one."""
    tx = gx.accumulate(gx.adam(0.1), 4, weight="n")
    zero, one = np.zeros(2), np.ones(2)
    got, state = follow(tx, jnp.zeros(2), one, zero, zero, n=[3, 0, 0], flush=[False, True, True])
    np.testing.assert_allclose(got[1], -0.1, rtol=1e-5)
    np.testing.assert_array_equal(got[2], zero)
    assert int(state.inner_state[0].count) == 1
    assert int(state.gradient_step) == 1
    assert int(state.mini_step) == 0


def test_a_window_is_resumed_from_a_checkpoint() -> None:
    tx, params, grads = gx.accumulate(gx.adamw(0.1), 3), jnp.ones(3), gradients(6)
    step = jax.jit(tx.update)
    whole, _ = follow(tx, params, *grads)
    state = tx.init(params)
    for i, g in enumerate(grads):
        updates, state = step(jnp.asarray(g), state, params)
        np.testing.assert_array_equal(updates, whole[i])
        data = flax.serialization.to_bytes(state)  # killed and restored between any two micro-steps
        state = jax.tree.map(jnp.asarray, flax.serialization.from_bytes(tx.init(params), data))


# ------------------------------------------------------------------------------------------------ what is not finite


def test_B1_one_nan_spoils_its_own_window_only() -> None:
    grads = [NAN, *[np.ones(2, np.float32)] * 5]
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(), jnp.zeros(2), *grads)
    assert all(np.isnan(u[0]) for u in theirs)  # the defect
    got = run(gx.accumulate(gx.sgd(1.0), 2), jnp.zeros(2), *grads)
    np.testing.assert_array_equal(got[0], np.zeros(2))
    assert np.isnan(got[1][0])
    assert got[1][1] == -1.0
    np.testing.assert_array_equal(got[2:], [np.zeros(2), -np.ones(2)] * 2)


@pytest.mark.parametrize(
    "bad", [np.nan, *(pytest.param(x, marks=pytest.mark.slow) for x in (np.inf, -np.inf))]
)
def test_B2_B3_a_guard_inside_skips_that_window(bad: float) -> None:
    grads = [np.full(2, bad, np.float32), *[np.ones(2, np.float32)] * 5]
    theirs = optax.MultiSteps(optax.apply_if_finite(optax.sgd(1.0), 99), 2).gradient_transformation()
    with jax.numpy_dtype_promotion("standard"):
        assert not np.any(run(theirs, jnp.zeros(2), *grads))  # the defect: it never trains again
    got, state = follow(gx.accumulate(gx.guard(gx.adam(1.0)), 2), jnp.zeros(2), *grads)
    assert [float(u[0]) for u in got[:3]] == [0.0, 0.0, 0.0]
    clean = run(gx.accumulate(gx.adam(1.0), 2), jnp.zeros(2), *grads[2:])
    np.testing.assert_array_equal(got[2:], clean)
    assert int(state.inner_state.skipped) == 1
    assert int(state.gradient_step) == 3


def test_a_guard_outside_skips_that_micro_step() -> None:
    one = np.ones(2, np.float32)
    got, state = follow(gx.guard(gx.accumulate(gx.adam(1.0), 2)), jnp.zeros(2), one, NAN, one * 3, one, one)
    clean, end = follow(gx.accumulate(gx.adam(1.0), 2), jnp.zeros(2), one, one * 3, one, one)
    np.testing.assert_array_equal(got[1], np.zeros(2))
    np.testing.assert_array_equal([got[0], *got[2:]], clean)
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, end)
    assert int(state.skipped) == 1


def test_B4_nothing_leaks_between_steps() -> None:
    """An inner transform that would give NaN on a micro-step is not asked then."""
    theirs = optax.MultiSteps(optax.normalize_by_update_norm(eps=0.0), 2).gradient_transformation()
    with jax.numpy_dtype_promotion("standard"):
        assert np.isnan(run(theirs, jnp.zeros(1), np.zeros(1), np.ones(1))[0])  # the defect
    got = run(
        gx.accumulate(optax.normalize_by_update_norm(eps=0.0), 2), jnp.zeros(1), np.zeros(1), np.ones(1)
    )
    assert [float(u[0]) for u in got] == [0.0, 1.0]


def test_B5_apply_every_keeps_a_nan() -> None:
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.apply_every(2), jnp.zeros(1), np.array([np.nan]), *[np.ones(1)] * 3)
    assert all(np.isnan(u) for u in theirs)  # the defect
    got = run(gx.accumulate(gx.scale(2.0), 2), jnp.zeros(1), np.array([np.nan]), *[np.ones(1)] * 3)
    assert float(got[3][0]) == 2.0


# ------------------------------------------------------------------------------------------------ no work in between


def counting(seen: list[int]) -> Any:
    """An identity that calls the host whenever it runs."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        jax.debug.callback(lambda: seen.append(1))
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_the_inner_transform_runs_once_a_window() -> None:
    ours: list[int] = []
    follow(gx.accumulate(counting(ours), 4), jnp.zeros(1), *[np.ones(1)] * 8)
    jax.effects_barrier()
    assert len(ours) == 2
    theirs: list[int] = []
    with jax.numpy_dtype_promotion("standard"):
        follow(
            optax.MultiSteps(counting(theirs), 4).gradient_transformation(), jnp.zeros(1), *[np.ones(1)] * 8
        )
    jax.effects_barrier()
    assert len(theirs) == 8  # the defect


def names(jaxpr: Any) -> list[str]:
    """The primitives of a program, without those inside of its conditions."""
    found: list[str] = []
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        if equation.primitive.name != "cond":
            for inner in jaxprs_in_params(equation.params):
                found.extend(names(inner))
    return found


def test_the_inner_step_stands_in_a_branch() -> None:
    """Of somebody else's functions, of which nothing is known."""
    params = {"w": jnp.ones((3, 3))}

    def outside(tx: Any) -> list[str]:
        state = tx.init(params)
        return names(jax.make_jaxpr(lambda g, s: tx.update(g, s, params))(params, state).jaxpr)

    assert "sqrt" in outside(gx.adam(0.1))
    ours = outside(gx.accumulate(optax.adam(0.1), 4))
    assert "sqrt" not in ours
    assert ours.count("cond") == 1
    tx = gx.accumulate(optax.adam(0.1), 4)
    text = jax.jit(tx.update).lower(params, tx.init(params)).compile().as_text()
    entry = text[text.index("ENTRY") :]
    assert entry.count("conditional(") == 1
    assert "sqrt" not in entry


def test_a_cheap_inner_step_stands_in_none_on_a_cpu(as_users: Any) -> None:
    """Its state is held where it is made: no branch, and no copy of anything."""
    params = {"w": jnp.ones((64, 64)), "v": jnp.ones((64, 64))}
    tx = gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), 4)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params), params)
    compiled = lowered.compile(as_users)
    assert "conditional(" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < params["w"].nbytes // 2


# ------------------------------------------------------------------------------------- micro-steps that are told


CYCLE = [np.array([1.0, -2.0], np.float32) * (i + 1) for i in range(6)]


@pytest.mark.parametrize("weight", [None, "tokens"])
def test_a_told_micro_step_is_a_counted_one(weight: Any) -> None:
    """The same updates and state, and one way goes on where the other has stopped."""
    tx = gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), 3, weight)
    step = jax.jit(tx.update, static_argnames="micro_step")
    params = jnp.ones(2)
    counted = told = tx.init(params)
    for i, g in enumerate(CYCLE):
        extra = {} if weight is None else {weight: jnp.float32(i % 4)}
        wanted, counted = step(g, counted, params, **extra)
        # The last window is counted, in a state that was told before.
        number = {} if i > 2 else {"micro_step": i}
        got, told = step(g, told, params, **extra, **number)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), told, counted)


def test_a_told_window_reads_nothing_of_the_one_before_and_ends_early() -> None:
    tx = gx.accumulate(gx.sgd(1.0), 4)
    params, step = jnp.zeros(1), jax.jit(tx.update, static_argnames="micro_step")
    state = tx.init(params)._replace(acc_grads=jnp.full(1, jnp.nan))
    seen = list[float]()
    for number, g in ((0, 1.0), (1, 2.0), (3, 6.0), (3, 5.0), (0, 7.0)):
        updates, state = step(jnp.full(1, g), state, params, micro_step=number)
        seen.append(float(updates[0]))
    assert seen == [0.0, 0.0, -3.0, -5.0, 0.0]
    assert (int(state.mini_step), int(state.gradient_step), float(state.weight)) == (1, 2, 1.0)


def test_a_told_micro_step_does_its_own_work_only(as_users: Any) -> None:
    params = {"w": jnp.ones((64, 64)), "v": jnp.ones((64, 64))}
    tx = gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), 4)

    def step(params: Any, state: Any, grads: Any, micro_step: int) -> Any:
        updates, state = tx.update(grads, state, params, micro_step=micro_step)
        return gx.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1), static_argnames="micro_step")
    for number, loops in ((0, 0), (1, 2), (3, 8)):
        compiled = jitted.lower(params, tx.init(params), params, micro_step=number).compile(as_users)
        text = compiled.as_text()
        entry = text[text.index("ENTRY") :]
        made = [line for line in entry.splitlines() if "f32[64,64]" in line and " fusion(" in line]
        assert len([line for line in made if "= f32[64,64]" in line]) == loops, number
        assert compiled.memory_analysis().temp_size_in_bytes < params["w"].nbytes // 2


@pytest.mark.parametrize(
    ("steps", "extra", "error", "message"),
    [
        (4, {"micro_step": 4}, ValueError, r"accumulate: micro_step=4: wanted 0 to 3"),
        (4, {"micro_step": -1}, ValueError, r"accumulate: micro_step=-1: wanted 0 to 3"),
        (4, {"micro_step": True}, TypeError, r"micro_step=True: wanted a Python integer, got a bool"),
        (4, {"micro_step": 1}, ValueError, r"micro_step=1: the state has seen 0 micro-steps of this window"),
        (4, {"micro_step": 0, "flush": True}, ValueError, r"micro_step=0: flush= says for itself"),
        (lambda count: 4, {"micro_step": 0}, ValueError, r"the length of the window is not known before"),
    ],
)
def test_what_a_told_micro_step_refuses(steps: Any, extra: Any, error: Any, message: str) -> None:
    tx = gx.accumulate(gx.sgd(1.0), steps)
    with pytest.raises(error, match=message):
        tx.update(jnp.zeros(1), tx.init(jnp.zeros(1)), **extra)


def test_a_traced_micro_step_is_refused() -> None:
    tx = gx.accumulate(gx.sgd(1.0), 4)
    with pytest.raises(TypeError, match=r"(?s)wanted a Python integer, got .*jax.jit\(step, static_argnames"):
        jax.jit(tx.update)(jnp.zeros(1), tx.init(jnp.zeros(1)), micro_step=0)


# ------------------------------------------------------------------------------------------------ the protocol


def test_C12_extra_arguments_come_through_a_chain() -> None:
    """`value` is that of the call that ends the window."""
    tx = gx.chain(gx.accumulate(optax.polyak_sgd(), 2))
    got = run(tx, jnp.ones(1), np.ones(1), np.ones(1), value=[9.0, 0.5])
    assert float(got[0][0]) == 0.0
    np.testing.assert_allclose(got[1], -0.5, rtol=1e-6)
    theirs = optax.chain(optax.MultiSteps(optax.polyak_sgd(), 2).gradient_transformation())
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'value'"):
        theirs.update(jnp.ones(1), theirs.init(jnp.ones(1)), jnp.ones(1), value=1.0)


@pytest.mark.parametrize(
    ("inner", "grad_dtype", "weight"),
    [
        (gx.adamw(0.1), jnp.float32, "n"),
        (gx.adamw(0.1), BF16, None),
        (optax.adamw(0.1), jnp.float32, None),
        pytest.param(optax.adamw(0.1), BF16, "n", marks=pytest.mark.slow),
    ],
    ids=["ours, float32, weighted", "ours, bfloat16", "optax, float32", "optax, bfloat16, weighted"],
)
def test_the_state_is_a_fixed_point(inner: Any, grad_dtype: Any, weight: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "h": jnp.ones(2, BF16), "weak": jnp.asarray(2.0), "none": None}
    params["empty"] = jnp.ones((0, 2))
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 0.5, grad_dtype), params)
    tx = gx.accumulate(inner, 2, weight)
    extra = {} if weight is None else {"n": 3}
    state = tx.init(params)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra), donate_argnums=1)
    like = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    for _ in range(4):
        updates, state = step(grads, state, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == like
        assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
    assert step._cache_size() == 1
    scanned = jax.lax.scan(
        lambda s, _: (tx.update(grads, s, params, **extra)[1], None), state, None, length=2
    )
    assert jax.tree.structure(scanned[0]) == jax.tree.structure(state)


def test_odd_leaves_are_carried() -> None:
    params = {"w": jnp.ones(2), "table": jnp.arange(3), "masked": optax.MaskedNode(), "none": None}
    float0 = np.zeros(3, jax.dtypes.float0)
    grads = {"w": jnp.ones(2), "table": float0, "masked": optax.MaskedNode(), "none": None}
    tx = gx.accumulate(gx.sgd(1.0), 2)
    state = tx.init(params)
    for want in (0.0, -1.0):
        updates, state = tx.update(grads, state, params)
        np.testing.assert_array_equal(updates["w"], np.full(2, want))
        assert updates["table"].dtype == jax.dtypes.float0
        assert updates["none"] is None
    assert state.acc_grads["table"].dtype == jnp.int32
    empty, _ = tx.update({}, tx.init({}), {})
    assert empty == {}


def test_a_leaf_without_gradient_stays_without() -> None:
    """A weight that is not trained must not decay because its gradient became zeros in the sum."""
    tx = gx.accumulate(gx.adamw(0.1, weight_decay=1.0), 2)
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update({"a": jnp.ones(1), "b": None}, state, params)
    assert updates["b"] is None
    assert float(updates["a"][0]) < -0.19


def test_under_vmap() -> None:
    tx = gx.accumulate(gx.adam(0.1), 2, weight="n")
    params = jnp.ones((3, 2))
    grads = jnp.asarray(gradients(2, (3, 2)))
    n = jnp.array([[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    state = jax.vmap(tx.init)(params)
    step = jax.jit(jax.vmap(lambda g, s, p, w: tx.update(g, s, p, n=w)))
    for g, w in zip(grads, n, strict=True):
        updates, state = step(g, state, params, w)
    alone = [run(tx, params[i], *grads[:, i], n=list(n[:, i]))[-1] for i in range(3)]
    np.testing.assert_allclose(updates, alone, rtol=1e-6)
    assert state.gradient_step.tolist() == [1, 1, 0]


@pytest.mark.parametrize("check", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_under_shard_map(check: bool) -> None:
    mesh = jax.make_mesh((8,), ("x",))
    tx = gx.accumulate(
        gx.chain(gx.clip_by_global_norm(1.0, axis_names={"*": "x"} if not check else "x"), gx.adam(0.1)), 2
    )
    params, grads = jnp.ones(16), gradients(4, (16,))
    spec = jax.P("x")
    state = tx.init(params)
    specs = jax.tree.map(lambda x: spec if x.shape else jax.P(), state)
    body = lambda g, s, p: tx.update(g, s, p)  # noqa: E731
    step = jax.jit(
        jax.shard_map(body, mesh=mesh, in_specs=(spec, specs, spec), out_specs=(spec, specs), check_vma=check)
    )
    with jax.set_mesh(mesh):
        put = lambda x: jax.device_put(x, jax.NamedSharding(mesh, spec if jnp.shape(x) else jax.P()))  # noqa: E731
        state = jax.tree.map(put, state)
        want = run(gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1)), 2), params, *grads)
        for g, w in zip(grads, want, strict=True):
            updates, state = step(put(g), state, put(params))
            np.testing.assert_allclose(updates, w, rtol=1e-5, atol=1e-7)


def test_where_some_axes_are_manual_and_others_automatic() -> None:
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tx, spec, params = gx.accumulate(gx.adam(0.1), 2), jax.P("x"), jnp.ones(8)
    state = tx.init(params)
    specs = jax.tree.map(lambda x: spec if x.shape else jax.P(), state)
    step = jax.jit(
        jax.shard_map(
            lambda g, s, p: tx.update(g, s, p),
            mesh=mesh,
            in_specs=(spec, specs, spec),
            out_specs=(spec, specs),
            axis_names={"x"},
        )
    )
    for want in (0.0, -0.1):
        updates, state = step(jnp.arange(1.0, 9.0), state, params)
        np.testing.assert_allclose(updates, want, rtol=1e-5)


def test_the_rate_is_differentiable_through_a_window() -> None:
    def loss(rate: Any) -> Any:
        tx = gx.accumulate(gx.sgd(rate), 2)
        p, state = jnp.ones(2), tx.init(jnp.ones(2))
        for g in (1.0, 3.0):
            updates, state = tx.update(jnp.full(2, g), state, p)
            p = p + updates
        return p.sum()

    assert float(jax.grad(loss)(0.1)) == pytest.approx(-4.0)


def test_accumulate_inside_accumulate() -> None:
    tx = gx.accumulate(gx.accumulate(gx.sgd(1.0), 2), 3)
    got = [float(u[0]) for u in run(tx, jnp.zeros(1), *[np.full(1, i + 1.0, np.float32) for i in range(6)])]
    assert got == [0.0] * 5 + [-3.5]


def test_it_is_a_value() -> None:
    tx = gx.accumulate(gx.adam(0.1), 4, weight="tokens")
    assert tx == gx.accumulate(gx.adam(0.1), 4, "tokens")
    assert hash(tx) == hash(gx.accumulate(gx.adam(0.1), 4, "tokens"))
    assert repr(tx) == "gx.accumulate(gx.adam(0.1), 4, weight='tokens')"
    assert gx.from_json(gx.to_json(tx)) == tx
    assert [link.address for link in tx.plan.flat] == ["accumulate", "adam", "rate"]
    assert build.roles_of(type(tx.init(1.0)))["acc_grads"].name == "accumulator"


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"gx\.accumulate\(steps=0\): wanted at least 1, got 0; 1 is no accumulation"),
        ((-2,), r"gx\.accumulate\(steps=-2\): wanted at least 1"),
        ((2.5,), r"gx\.accumulate\(steps=2\.5\): wanted a whole number"),
        ((True,), r"gx\.accumulate\(steps=True\): wanted a whole number, got a boolean"),
        ((lambda a, b: 1,), "wanted a schedule, a function of the step count alone"),
        ((2, 3.0), r"gx\.accumulate\(weight=3\.0\): wanted a name or None"),
        ((2, "flush"), r"gx\.accumulate\(weight='flush'\): this argument of update has another meaning"),
    ],
)
def test_A26_what_is_refused_when_it_is_built(arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gx.accumulate(gx.sgd(0.1), *arguments)


def test_weights_that_differ_between_devices_are_refused() -> None:
    tx = gx.accumulate(gx.sgd(0.1), 2, weight="tokens")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    state, params = tx.init(jnp.zeros(2)), jnp.zeros(2)

    def step(tokens: Any) -> Any:
        return tx.update(params, state, params, tokens=tokens[0])[0]

    with pytest.raises(ValueError, match=r"tokens= differs between the devices of the mesh axes \['data'\]"):
        jax.shard_map(step, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P())(jnp.ones(8))


def test_weights_of_models_that_differ_between_devices() -> None:
    tx = gx.accumulate(gx.sgd(1.0), 2, weight="tokens")
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(params: Any, tokens: Any) -> Any:
        state = tx.init(params)
        _, state = tx.update(params, state, params, tokens=tokens[0])
        return tx.update(3 * params, state, params, tokens=jnp.float32(1))[0]

    spec = jax.P("model")
    got = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.ones(8), jnp.arange(8.0))
    np.testing.assert_allclose(got, -(np.arange(8) + 3) / (np.arange(8) + 1), rtol=1e-6)


def test_what_is_refused_at_a_step() -> None:
    tx = gx.accumulate(gx.sgd(0.1), 2, weight="tokens")
    state = tx.init(jnp.zeros(2))
    with pytest.raises(
        ValueError, match=r"missing tokens for accumulate; call tx.update\(updates, state, params, tok"
    ):
        tx.update(jnp.zeros(2), state)
    with pytest.raises(ValueError, match="accumulate: tokens= is -1, wanted one number of at least 0"):
        tx.update(jnp.zeros(2), state, tokens=-1)
    with pytest.raises(ValueError, match=r"tokens= is shape \(2,\), wanted one number"):
        tx.update(jnp.zeros(2), state, tokens=jnp.ones(2))
    with pytest.raises(TypeError, match="flush= is 1, wanted one boolean"):
        tx.update(jnp.zeros(2), state, tokens=1, flush=1)
    with pytest.raises(
        ValueError, match=r"the only leaf has an update of shape \(3,\), its acc_grads \(2,\)"
    ):
        tx.update(jnp.zeros(3), state, tokens=1)
    with pytest.raises(ValueError, match="missing in the updates: 'b'"):
        gx.accumulate(gx.identity(), 2).update(
            {"a": 1.0}, gx.accumulate(gx.identity(), 2).init({"a": 1.0, "b": 1.0})
        )
    with pytest.raises(ValueError, match=r"has an update float32.* and no acc_grads in the state"):
        gx.accumulate(gx.identity(), 2).update(jnp.ones(2), gx.accumulate(gx.identity(), 2).init(None))
