"""One transform, one function object: what that saves, what it must not keep alive, and what never enters the table."""

import gc
import pickle
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradxform as gx
from gradxform._core.transform import _INTERNED
from tests.values.cases import with_value

PARAMS = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}


@pytest.fixture(scope="module", autouse=True)
def collected() -> None:
    """What is there before these tests need not be looked at by each of their collections."""
    gc.collect()
    gc.freeze()


def held() -> int:
    gc.collect()
    return len(_INTERNED)


# ---------------------------------------------------------------------------------------- equal means same


def test_equal_transforms_share_their_functions() -> None:
    one, other = gx.adamw(1e-3), gx.adamw(1e-3)
    assert one is not other
    assert one.update is other.update
    assert one.init is other.init
    assert one.update is pickle.loads(pickle.dumps(one)).update
    assert gx.adamw(2e-3).update is not one.update


def test_jit_of_a_rebuilt_update_does_not_trace_again() -> None:
    def make() -> Any:
        return gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(b1=0.87), gx.warmup_cosine(1e-3, 2, 10))

    tx = make()
    state = jax.jit(tx.init)(PARAMS)
    jax.jit(tx.update)(PARAMS, state, PARAMS)
    size = jax.jit(tx.update)._cache_size()
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        from gradxform._core import transform

        patch.setattr(transform, "run", lambda *_: pytest.fail("traced again"))
        for _ in range(5):
            again = make()
            assert again.update is tx.update
            jax.jit(again.update)(PARAMS, state, PARAMS)
    assert jax.jit(make().update)._cache_size() == size


def test_a_function_that_died_is_made_anew() -> None:
    gone = weakref.ref(gx.sgd(0.0625).update)
    gc.collect()
    assert gone() is None
    assert gx.sgd(0.0625) == gx.sgd(0.0625)


# ---------------------------------------------------------------------------------------- nothing is kept


def test_the_table_shrinks() -> None:
    before = held()
    made = [gx.chain(gx.scale(1000.0 + i), gx.scale_by_adam(b1=i / 200)) for i in range(100)]
    assert held() >= before + 200
    functions = [weakref.ref(tx.update) for tx in made]
    del made
    assert held() == before
    assert not any(ref() for ref in functions)


def test_a_compiled_update_dies_with_its_transform() -> None:
    """JAX keeps what it has compiled by weak reference to the function, and the function is the transform's own."""

    def once(rate: float) -> Any:
        tx = gx.adam(rate)
        jax.jit(tx.update)(PARAMS, jax.jit(tx.init)(PARAMS), PARAMS)
        return weakref.ref(tx.update)

    gone = [
        once(1.2345e-3 + i * 1e-4) for i in range(3)
    ]  # rates that nobody else has: equal transforms are one
    gc.collect()
    assert not any(ref() for ref in gone)


def test_a_run_leaves_nothing_behind() -> None:
    """Planning, tracing and running build cycles; the collector takes them."""
    before = held()

    def once(rate: float) -> None:
        tx = gx.param_groups(
            {"b": gx.sgd(rate, momentum=0.9), "*": gx.adamw(rate, mask=lambda p: {"w": True, "b": None})}
        )
        state = tx.init(PARAMS)
        tx.update(PARAMS, state, PARAMS)
        repr(tx), hash(tx), gx.describe(tx, PARAMS)

    for i in range(5):
        once(1e-3 + i * 1e-4)
    assert held() == before


def test_the_table_does_not_keep_a_closure_alive() -> None:
    class Rates:
        pass

    rates = Rates()
    gone = weakref.ref(rates)
    tx = gx.sgd(lambda count, rates=rates: 0.1)
    del rates
    assert gone() is not None
    del tx
    gc.collect()
    assert gone() is None


# ---------------------------------------------------------------------------------------- arrays and tracers


def test_what_holds_an_array_on_a_device_is_not_in_the_table() -> None:
    before = held()
    rate = jnp.float32(0.1)
    made = [
        gx.sgd(rate),
        gx.chain(gx.clip(1.0), gx.sgd(rate)),
        gx.param_groups({"*": gx.sgd(rate)}),
        gx.masked(gx.clip(1.0), {"w": jnp.asarray(True)}),
        with_value([{"a": (rate,)}]),
        gx.sgd(gx.constant_schedule(rate)),
    ]
    inner = gx.clip(1.0)  # the only one without an array that is still alive through the others
    assert held() - before <= 2 * len({inner.init})
    assert made[1] == gx.chain(gx.clip(1.0), gx.sgd(jnp.float32(0.1)))
    assert made[1].update == gx.chain(gx.clip(1.0), gx.sgd(jnp.float32(0.1))).update


def wrappings(rate: Any) -> dict[str, Any]:
    """A traced number at every depth at which one can stand."""
    return {
        "argument": gx.sgd(rate),
        "link": gx.chain(gx.clip(1.0), gx.sgd(rate)),
        "schedule as link": gx.chain(gx.constant_schedule(rate)),
        "group": gx.param_groups({"*": gx.adamw(rate, b2=1 - rate)}),
        "masked": gx.masked(gx.scale(rate), "*"),
        "schedule": gx.sgd(gx.linear_schedule(rate, 0.0, 10)),
        "container": with_value([{"a": (rate,)}]),
        "part": gx.sgd(rate)._replace(update=gx.sgd(0.5).update),
    }


@pytest.mark.parametrize("name", wrappings(0.1))
def test_a_traced_number_makes_a_transform_that_equals_itself_only(name: str) -> None:
    before = held()
    seen: list[Any] = []

    @jax.jit
    def step(rate: Any) -> Any:
        one, other = wrappings(rate)[name], wrappings(rate)[name]
        for left, right in ((one, other), (one.update, other.update), (one.init, other.init)):
            assert left == left
            assert left != right
            assert hash(left) == hash(left)
        assert one.spec.traced
        assert jax.tree.structure(one) != jax.tree.structure(other)
        for what in (one, one.update):
            with pytest.raises(pickle.PicklingError, match=r"traced.*outside of jit"):
                pickle.dumps(what)
        with pytest.raises(ValueError, match="traced"):
            gx.to_json(one)
        assert "<traced value" in repr(one)
        inside = list(_INTERNED)
        assert not any(spec.traced for _, spec in inside)
        seen.append(weakref.ref(one.update))
        updates, _ = one.update(PARAMS, one.init(PARAMS), PARAMS)
        return updates

    step(jnp.float32(0.1))
    assert held() == before
    assert all(ref() is None for ref in seen)


def test_a_traced_rate_trains_as_a_static_one_does() -> None:
    @jax.jit
    def step(rate: Any) -> Any:
        tx = gx.chain(gx.clip_by_global_norm(rate), gx.adamw(rate, b1=rate, weight_decay=rate))
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]

    rate = 0.25
    tx = gx.chain(gx.clip_by_global_norm(rate), gx.adamw(rate, b1=rate, weight_decay=rate))
    static = tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]
    got = step(jnp.float32(rate))
    for a, b in zip(jax.tree.leaves(static), jax.tree.leaves(got), strict=True):
        assert jnp.allclose(a, b, rtol=1e-6, atol=0)
