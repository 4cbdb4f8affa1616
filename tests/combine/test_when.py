"""`apply_when` and `switch_at`: what does not run does no work, and its state waits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

import gradxform as gx
from gradxform._core.depends import depends

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

BF16 = jnp.bfloat16


def follow(tx: Any, params: Any, number: int, grad: Any = 1.0, **extra: Any) -> tuple[list[Any], Any]:
    """Updates of `number` calls; the parameters follow them."""
    state, found = tx.init(params), []
    step = jax.jit(tx.update)
    for i in range(number):
        now = {name: values[i] for name, values in extra.items()}
        updates, state = step(jnp.full_like(params, grad), state, params, **now)
        params = gx.apply_updates(params, updates)
        found.append(np.asarray(updates))
    assert step._cache_size() == 1
    return found, state


def watched(seen: list[str], name: str) -> Any:
    """An identity that says on the host when it runs."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        jax.debug.callback(lambda: seen.append(name))
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def even(step: Any) -> Any:
    return step % 2 == 0


# ------------------------------------------------------------------------------------------------ apply_when


@pytest.mark.parametrize("otherwise", ["pass", "zero"])
def test_agrees_with_optax(otherwise: str) -> None:
    make = optax.conditionally_transform if otherwise == "pass" else optax.conditionally_mask
    with jax.numpy_dtype_promotion("standard"):
        want, _ = follow(make(optax.adam(0.1), lambda step: step % 3 == 1), jnp.ones(2), 6)
    got, state = follow(gx.apply_when(gx.adam(0.1), lambda step: step % 3 == 1, otherwise), jnp.ones(2), 6)
    np.testing.assert_allclose(got, want, rtol=2e-5)
    assert int(state.count) == 6
    assert int(state.inner_state[0].count) == 2


def test_a_schedule_holds_where_it_is_above_zero() -> None:
    tx = gx.apply_when(gx.scale(10.0), gx.piecewise_constant_schedule(1.0, {2: 0.0}))
    assert [float(u[0]) for u in follow(tx, jnp.zeros(1), 4)[0]] == [10.0, 10.0, 10.0, 1.0][:2] + [1.0, 1.0]


def test_the_name_of_an_extra_argument() -> None:
    tx = gx.apply_when(gx.scale(10.0), "is_last", "zero")
    assert [float(u[0]) for u in follow(tx, jnp.zeros(1), 3, is_last=[False, True, False])[0]] == [
        0.0,
        10.0,
        0.0,
    ]
    with pytest.raises(
        ValueError, match=r"missing is_last for apply_when; call tx\.update\(.*is_last=\.\.\.\)"
    ):
        tx.update(jnp.zeros(1), tx.init(jnp.zeros(1)))
    with pytest.raises(ValueError, match=r"apply_when: is_last= is bool\[2\], wanted one boolean"):
        tx.update(jnp.zeros(1), tx.init(jnp.zeros(1)), is_last=jnp.ones(2, bool))


def test_no_work_while_it_rests() -> None:
    seen: list[str] = []
    follow(gx.apply_when(watched(seen, "x"), even), jnp.zeros(1), 5)
    jax.effects_barrier()
    assert len(seen) == 3


@pytest.mark.parametrize("inner", [gx.adamw(0.1), optax.adamw(0.1)], ids=["ours", "optax"])
@pytest.mark.parametrize("otherwise", ["pass", "zero"])
def test_C3_mixed_precision(inner: Any, otherwise: str) -> None:
    params = {"w": jnp.ones(2), "h": jnp.ones(2, BF16), "weak": jnp.asarray(2.0), "none": None}
    grads = {"w": jnp.ones(2, BF16), "h": jnp.ones(2), "weak": jnp.ones(()), "none": None}
    make = optax.conditionally_transform if otherwise == "pass" else optax.conditionally_mask
    theirs, plain = make(optax.adamw(0.1), even), jnp.ones(2)
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(TypeError, match="cond branches must have equal"),
    ):
        theirs.update(jnp.ones(2, BF16), theirs.init(plain), plain)
    tx = gx.apply_when(inner, even, otherwise)
    state = tx.init(params)
    like = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    step = jax.jit(tx.update, donate_argnums=1)
    for _ in range(3):
        updates, state = step(grads, state, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == like
        assert updates["h"].dtype == BF16
        assert updates["w"].dtype == jnp.float32
    assert step._cache_size() == 1


def test_under_vmap() -> None:
    tx = gx.apply_when(gx.adam(0.1), "go", "zero")
    state = jax.vmap(tx.init)(jnp.ones((2, 3)))
    updates, state = jax.vmap(lambda g, s, go: tx.update(g, s, go=go))(
        jnp.ones((2, 3)), state, jnp.array([True, False])
    )
    np.testing.assert_allclose(updates, [[-0.1] * 3, [0.0] * 3], rtol=1e-5)
    assert state.inner_state[0].count.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (3.0,),
            r"gx\.apply_when\(when=3\.0\): wanted a function of the step count or the name of an extra argument",
        ),
        (("no name",), r"gx\.apply_when\(when='no name'\): wanted the name of an extra argument"),
        (("params",), r"gx\.apply_when\(when='params'\): wanted the name of an extra argument"),
        ((lambda a, b: a,), "wanted a schedule, a function of the step count alone"),
        ((even, "skip"), r"gx\.apply_when\(otherwise='skip'\): wanted 'pass' or 'zero'"),
    ],
)
def test_what_apply_when_refuses(arguments: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gx.apply_when(gx.sgd(0.1), *arguments)


def test_a_condition_that_is_no_number_is_refused() -> None:
    for when, message in (
        (lambda step: jnp.ones(2), r"the schedule has shape \(2,\), wanted one number a step"),
        (lambda step: 2 if step > 3 else 0, "decides by the value of the step count, which is traced"),
    ):
        tx = gx.apply_when(gx.sgd(0.1), when)
        with pytest.raises((ValueError, TypeError), match=message):
            jax.jit(tx.update)(jnp.ones(1), tx.init(jnp.ones(1)))


# ------------------------------------------------------------------------------------------------ switch_at


@pytest.mark.parametrize(
    "pair", [(gx.adam(0.1), gx.sgd(0.5, momentum=0.9)), (optax.adam(0.1), optax.sgd(0.5, 0.9))]
)
def test_the_first_one_and_then_the_other(pair: Any) -> None:
    params = jnp.ones(2)
    got, state = follow(gx.switch_at(2, *pair), params, 5, 0.5)
    with jax.numpy_dtype_promotion("standard"):
        first, _ = follow(pair[0], params, 2, 0.5)
        second, end = follow(pair[1], params + first[0] + first[1], 3, 0.5)
    np.testing.assert_allclose(got, [*first, *second], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.after, end)
    assert int(state.count) == 5


def test_from_step_zero_only_the_second_runs() -> None:
    assert [float(u[0]) for u in follow(gx.switch_at(0, gx.sgd(1.0), gx.sgd(2.0)), jnp.zeros(1), 2)[0]] == [
        -2.0,
        -2.0,
    ]


def anchored() -> Any:
    """A transform whose state is the parameters at which it began; its update leads back to them."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del updates
        return jax.tree.map(lambda a, p: a - p, state, params), state

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.array, params), update)


def test_the_second_state_begins_at_the_parameters_of_the_switch() -> None:
    tx = gx.switch_at(2, gx.sgd(1.0), gx.chain(gx.scale(0.0), anchored()))
    got, state = follow(tx, jnp.array([5.0]), 4)
    assert [float(u[0]) for u in got] == [-1.0, -1.0, 0.0, 0.0]  # 5, 4, 3, and 3 is the anchor
    np.testing.assert_array_equal(state.after[1], [3.0])


def test_what_was_put_into_the_second_state_before_the_switch_stays() -> None:
    """Only what `init` makes of the parameters is made again: here the average, and not the moments or the rate."""
    second = gx.average_params(gx.tunable(gx.adam(0.1), "learning_rate"), 0.5)
    tx = gx.switch_at(1, gx.sgd(1.0), second)
    params = jnp.array([5.0])
    state = gx.set_hyperparams(tx.init(params), learning_rate=0.25)
    adam = (
        state.after[0].inner_state[0]._replace(count=jnp.int32(7), mu=jnp.array([3.0]), nu=jnp.array([9.0]))
    )
    tuned = state.after[0]
    state = state._replace(after=(tuned._replace(inner_state=(adam, *tuned.inner_state[1:])), state.after[1]))
    step = jax.jit(tx.update)
    for _ in range(2):
        updates, state = step(jnp.ones(1), state, params)
        params = gx.apply_updates(params, updates)
    after, average = state.after
    assert float(after.hyperparams["learning_rate"]) == 0.25
    assert int(after.inner_state[0].count) == 8
    np.testing.assert_allclose(after.inner_state[0].mu, 0.9 * 3.0 + 0.1, rtol=1e-6)
    np.testing.assert_array_equal(average.average, params)
    assert step._cache_size() <= 1


def test_what_of_init_depends_on_the_parameters() -> None:
    def init(p: Any) -> Any:
        zeros = jax.lax.optimization_barrier((p, jnp.zeros(2)))[1]
        chosen = jax.lax.cond(True, lambda q: (jnp.ones(1), q), lambda q: (jnp.zeros(1), q + 1), p)
        again = jax.checkpoint(lambda q: (jnp.zeros(1), q * 2))(p)
        return {
            "a": jax.device_put(jnp.zeros(1)),
            "b": zeros,
            "c": chosen,
            "d": again,
            "e": jnp.zeros_like(p),
            "f": p,
        }

    want = {"a": False, "b": False, "c": (False, True), "d": (False, True), "e": False, "f": True}
    assert depends(init, jnp.ones(2)) == jax.tree.leaves(want)


def test_without_parameters_the_second_state_is_that_of_init() -> None:
    tx = gx.switch_at(1, gx.scale(1.0), gx.scale_by_adam())
    state = tx.init(jnp.zeros(1))
    for want in (3.0, 1.0):
        updates, state = tx.update(jnp.full(1, 3.0), state)
        np.testing.assert_allclose(updates, want, rtol=1e-5)


def test_only_one_of_them_runs() -> None:
    seen: list[str] = []
    follow(gx.switch_at(2, watched(seen, "a"), watched(seen, "b")), jnp.zeros(1), 5)
    jax.effects_barrier()
    assert sorted(seen) == ["a", "a", "b", "b", "b"]


def outside(jaxpr: Any) -> list[str]:
    """The primitives of a program, without those inside of its conditions."""
    found: list[str] = []
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        if equation.primitive.name != "cond":
            for inner in jaxprs_in_params(equation.params):
                found.extend(outside(inner))
    return found


def test_both_stand_in_branches() -> None:
    tx = gx.switch_at(2, gx.adam(0.1), gx.rmsprop(0.1))
    got = outside(jax.make_jaxpr(tx.update)(jnp.ones(2), tx.init(jnp.ones(2))).jaxpr)
    assert got.count("cond") == 1
    assert "sqrt" not in got
    assert "rsqrt" not in got


@pytest.mark.parametrize(
    "pair", [(gx.adamw(0.1), gx.lion(0.1)), (optax.adamw(0.1), optax.novograd(0.1))], ids=["ours", "optax"]
)
def test_the_state_is_a_fixed_point(pair: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "h": jnp.ones(2, BF16), "none": None, "i": jnp.arange(2)}
    if pair[1] != gx.lion(0.1):
        params = {"w": jnp.ones((2, 3)), "h": jnp.ones(2, BF16)}
    grads = {**jax.tree.map(jnp.ones_like, params), **({"i": None} if "i" in params else {})}
    tx = gx.switch_at(2, *pair)
    state = tx.init(params)
    like = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    step = jax.jit(tx.update, donate_argnums=1)
    for _ in range(4):
        updates, state = step(grads, state, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == like
        assert updates["h"].dtype == BF16
    assert step._cache_size() == 1
    jax.lax.scan(lambda s, _: (tx.update(grads, s, params)[1], None), state, None, length=2)


def test_under_shard_map() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, params, grad = jax.P("x"), jnp.arange(16.0), jnp.ones(16)
    tx = gx.switch_at(1, gx.sgd(0.1), gx.adam(0.1))
    state = tx.init(params)
    specs = jax.tree.map(lambda x: spec if x.shape else jax.P(), state)
    step = jax.jit(
        jax.shard_map(
            lambda g, s, p: tx.update(g, s, p),
            mesh=mesh,
            in_specs=(spec, specs, spec),
            out_specs=(spec, specs),
        )
    )
    for _ in range(3):
        updates, state = step(grad, state, params)
        np.testing.assert_allclose(updates, -0.1, rtol=1e-5)
    assert int(state.after[0].count) == 2


def test_with_other_wrappers() -> None:
    """A step that is skipped is none of the first ones; a window is one of them."""
    tx = gx.guard(gx.switch_at(1, gx.sgd(1.0), gx.sgd(0.1)))
    state = tx.init(jnp.zeros(1))
    found: list[float] = []
    for g in (np.nan, 1.0, 1.0):
        updates, state = tx.update(jnp.full(1, g), state, jnp.zeros(1))
        found.append(round(float(updates[0]), 6))
    assert found == [0.0, -1.0, -0.1]
    tx = gx.accumulate(gx.switch_at(1, gx.sgd(1.0), gx.sgd(0.1)), 2)
    assert [round(float(u[0]), 6) for u in follow(tx, jnp.zeros(1), 4)[0]] == [0.0, -1.0, 0.0, -0.1]


def test_names_reports_and_rates() -> None:
    tx = gx.switch_at(10, gx.adamw(0.1), gx.sgd(0.5, momentum=0.9))
    addresses = ["switch_at", "before/adam", "before/decay", "before/rate", "after/trace", "after/rate"]
    assert [link.address for link in tx.plan.flat] == addresses
    params = {"w": jnp.ones((2, 2))}
    text = str(gx.describe(tx, params))
    assert "uphill" not in text
    assert "state 56 B" in text
    assert tx.body.rate == 1
    assert gx.switch_at(1, gx.clip(1.0), gx.scale(2.0)).body.rate == 0
    with pytest.raises(ValueError, match="the learning rate is applied 2 times"):
        gx.chain(tx, gx.scale_by_learning_rate(0.1))
    assert repr(tx) == "gx.switch_at(10, gx.adamw(0.1), gx.sgd(0.5, momentum=0.9))"
    assert gx.from_json(gx.to_json(tx)) == tx


def test_what_switch_at_refuses() -> None:
    with pytest.raises(ValueError, match=r"gx\.switch_at\(step=-1\): wanted at least 0"):
        gx.switch_at(-1, gx.sgd(1.0), gx.sgd(1.0))
    with pytest.raises(ValueError, match=r"gx\.switch_at\(step=2147483648\): wanted less than 2\^31"):
        gx.switch_at(2**31, gx.sgd(1.0), gx.sgd(1.0))
    with pytest.raises(TypeError, match=r"gx\.switch_at\(tx_b\): wanted a transform"):
        gx.switch_at(1, gx.sgd(1.0), 0.1)
    tx = gx.switch_at(1, gx.adamw(1.0), gx.sgd(1.0))
    with pytest.raises(ValueError, match="missing params for"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    with pytest.raises(ValueError, match="wanted the state SwitchAtState"):
        tx.update(jnp.ones(1), gx.sgd(1.0).init(jnp.ones(1)), jnp.ones(1))
