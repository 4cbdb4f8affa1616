"""`exact_master` among the other wrappers, under JAX's transformations, on meshes, and with what it refuses."""

import pickle
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx
from gradxform import build
from gradxform.lowbit import exact_master, master_params
from gradxform.lowbit.master import ExactMasterState, cut
from gradxform.testing._subject import form_difference

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

BF16, F32 = jnp.bfloat16, jnp.float32


def start() -> Any:
    rng = np.random.default_rng(0)
    return {
        "a": {"w": jnp.asarray(rng.normal(size=(8, 16)) * 0.1, BF16), "f": jnp.ones(8)},
        "b": jnp.asarray(rng.normal(size=16) * 0.1, BF16),
        "s": jnp.asarray(0.3, BF16),
    }


def grads_of(params: Any, n: int, dtype: Any = F32) -> Any:
    rng = np.random.default_rng(100 + n)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_t(3, size=p.shape), dtype), params)


def exact_grads(params: Any, n: int) -> Any:
    """Gradients with few digits: no product of theirs with a power of two is rounded, so compilers cannot differ."""
    return jax.tree.map(lambda g: jnp.round(jnp.clip(g, -64, 64) * 64) / 64, grads_of(params, n))


def words(x: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x).tobytes(), x)


def float32(tree: Any) -> Any:
    return jax.tree.map(lambda p: p.astype(F32), tree)


def trained(tx: Any, params: Any, steps: int = 6, **extra: Any) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any, grads: Any, value: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=value, **extra)
        return gx.apply_updates(params, updates), state

    state = tx.init(params)
    for n in range(steps):
        params, state = step(params, state, exact_grads(params, n), jnp.float32(1))
    return params, state


@cache
def in_float32(plain: Any, steps: int) -> Any:
    """The parameters of a run without the wrapper, of which several tests ask."""
    return trained(plain, float32(start()), steps)[0]


def is_float32_training(wrapped: Any, plain: Any, steps: int = 6, rtol: float = 0.0) -> Any:
    """The masters of a run are the parameters of a float32 run with `plain`, and round to the weights."""
    params, state = trained(wrapped, start(), steps)
    want = in_float32(plain, steps)
    masters = master_params(state, params)
    jax.tree.map(lambda m, w: np.testing.assert_allclose(m, w, rtol=rtol), masters, want)
    assert rtol or words(masters) == words(want)
    for m, x in zip(jax.tree.leaves(masters), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(x, cut(m)[0] if x.dtype == BF16 else m)
    return state


# ------------------------------------------------------------------------------------------------ other wrappers


TX = gx.adamw(3e-2, weight_decay=0.1)
#: Every product is exact, and only the sums with the parameters are rounded.
EXACT = gx.sgd(2.0**-6, momentum=0.5)
#: What a contraction of a product and a sum may change, where a branch is compiled apart from the sum behind it.
ROUNDING = 3e-5
AROUND = {
    "guard": lambda tx: gx.guard(tx, spike=6.0),
    "guard, gradients only": lambda tx: gx.guard(tx, check_updates=False),
    "accumulate": lambda tx: gx.accumulate(tx, 2),
    "accumulate by weight": lambda tx: gx.accumulate(tx, 1, weight="value"),
    "tunable": lambda tx: gx.tunable(tx, "learning_rate"),
    "loss_scale": lambda tx: gx.loss_scale(tx, 4.0),
    "apply_when": lambda tx: gx.apply_when(tx, lambda n: n % 2 == 0, "zero"),
    "probe": lambda tx: gx.probe(tx),
    "two": lambda tx: gx.guard(gx.accumulate(tx, 2)),
}


@pytest.mark.parametrize("name", AROUND)
def test_inside_of_a_wrapper(name: str) -> None:
    is_float32_training(AROUND[name](exact_master(EXACT)), AROUND[name](EXACT))
    state = is_float32_training(AROUND[name](exact_master(TX)), AROUND[name](TX), rtol=ROUNDING)
    assert form_difference(state, AROUND[name](exact_master(TX)).init(start()), "the new state") is None


@pytest.mark.parametrize("name", [*AROUND, "project", "cautious", "average"])
def test_around_a_wrapper(name: str) -> None:
    more = {
        "project": lambda tx: gx.project(tx, "a/w", gx.max_norm(1.0)),
        "cautious": gx.cautious,
        "average": lambda tx: gx.average_params(tx, 0.9),
    }
    make = {**AROUND, **more}[name]
    is_float32_training(exact_master(make(TX)), make(TX), rtol=ROUNDING)
    if name not in ("project", "cautious"):
        is_float32_training(exact_master(make(EXACT)), make(EXACT))


def test_a_skipped_step_changes_nothing() -> None:
    tx = gx.guard(exact_master(TX))
    params, state = trained(tx, start(), 3)
    bad = jax.tree.map(lambda g: g.at[(0,) * g.ndim].set(jnp.nan), grads_of(params, 7))
    updates, new = jax.jit(tx.update)(bad, state, params)
    assert updates["b"].dtype == F32
    assert words(gx.apply_updates(params, updates)) == words(params)
    assert words(new.inner_state) == words(state.inner_state)


def test_two_of_them_one_after_the_other() -> None:
    """The second begins with the weights that are there; the dtype of an update is that of both."""
    tx = gx.switch_at(3, exact_master(TX), gx.sgd(0.1))
    params, state = trained(tx, start(), 5)
    updates, _ = tx.update(grads_of(params, 0), state, params)
    assert updates["b"].dtype == F32
    assert not bool(jnp.isnan(params["b"]).any())


def test_the_average_is_that_of_the_weights() -> None:
    tx = gx.average_params(exact_master(TX), decay=None)
    params, state = start(), None
    state, seen = tx.init(params), list[Any]()
    for n in range(4):
        updates, state = tx.update(grads_of(params, n), state, params)
        params = gx.apply_updates(params, updates)
        seen.append(float32(params))
    mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state[1].average, mean)


def test_groups_and_masks() -> None:
    """Only some leaves have a master; the updates of the others are those of their dtype."""
    tx = gx.param_groups({"a/*": exact_master(TX), "*": gx.sgd(0.1)})
    params, state = trained(gx.guard(tx), start(), 3)
    updates, _ = tx.update(grads_of(params, 0), tx.init(params), params)
    assert updates["a"]["w"].dtype == F32
    assert updates["b"].dtype == BF16
    masters = master_params(state, params)
    assert masters["a"]["w"].dtype == F32
    assert masters["b"].dtype == BF16
    both = gx.param_groups({"a/*": exact_master(TX), "*": exact_master(gx.sgd(0.1))})
    params, state = trained(both, start(), 3)
    assert all(m.dtype == F32 for m in jax.tree.leaves(master_params(state, params)))
    masked = gx.masked(exact_master(gx.sgd(0.1)), "b")
    state = masked.init(params)
    assert [x.shape for x in jax.tree.leaves(state) if x.dtype == jnp.uint16] == [(16,)]


def test_in_chains_of_both_libraries() -> None:
    clip = gx.clip_by_global_norm(1.0)
    near = {"rtol": ROUNDING}
    is_float32_training(gx.chain(clip, exact_master(TX)), gx.chain(clip, TX), **near)
    is_float32_training(gx.chain(clip, gx.guard(exact_master(TX))), gx.chain(clip, TX), **near)
    is_float32_training(exact_master(gx.chain(clip, TX)), gx.chain(clip, TX), **near)
    is_float32_training(optax.chain(exact_master(EXACT)), EXACT)
    with jax.numpy_dtype_promotion("standard"):
        is_float32_training(exact_master(optax.adamw(3e-2)), optax.adamw(3e-2), **near)


def test_what_changes_its_updates_is_refused() -> None:
    params = start()
    for tx, name in (
        (gx.chain(exact_master(TX), gx.scale(0.5)), "scale"),
        (gx.project(exact_master(TX), "*", gx.max_norm(1.0)), "project"),
        (gx.chain(gx.guard(exact_master(TX)), gx.clip_by_global_norm(1.0)), "clip"),
        (gx.chain(exact_master(TX), optax.scale(0.5)), "scale"),
    ):
        with pytest.raises(
            ValueError, match=rf"{name}: changes the update of the leaf 'a/w' behind \S*(exact_master|guard)"
        ):
            tx.update(grads_of(params, 0), tx.init(params), params)
    with pytest.raises(ValueError, match=r"gx.cautious\(tx\): it changes the updates of exact_master"):
        gx.cautious(exact_master(TX))
    only = {"f": jnp.ones(3)}  # nothing to lose
    tx = gx.chain(exact_master(TX), gx.scale(0.5))
    tx.update(only, tx.init(only), only)


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    "inner", [TX, optax.adamw(3e-2), gx.sgd(0.1), gx.lion(0.1)], ids=["adamw", "optax", "sgd", "lion"]
)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_the_state_is_a_fixed_point_and_the_step_is_traced_once(inner: Any, dtype: Any) -> None:
    traces: list[int] = []
    params = start()
    tx = exact_master(inner)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        traces.append(1)
        updates, new = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), new, updates

    with jax.numpy_dtype_promotion("standard"):
        for n in range(4):
            params, new, updates = step(params, state, grads_of(params, n, dtype))
            assert form_difference(new, state, "the new state") is None
            state = new
    assert len(traces) == 1
    assert updates["b"].dtype == F32
    assert updates["a"]["f"].dtype == F32
    assert form_difference(params, start(), "the parameters") is None
    assert build.roles_of(ExactMasterState)["remainder"].name == "residual"
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(state.remainder)
    ]
    assert paths == ["a/w", "b", "s"]


def test_jit_is_eager_and_scan_is_a_loop() -> None:
    """With exact arithmetic inside, so that nothing but the wrapper could differ."""
    params, tx = start(), exact_master(gx.sgd(2.0**-9))
    grads = [exact_grads(params, n) for n in range(4)]
    state = tx.init(params)
    slow = params, state
    for g in grads:
        updates, new = tx.update(g, slow[1], slow[0])
        slow = gx.apply_updates(slow[0], updates), new

    def step(carry: Any, g: Any) -> Any:
        updates, new = tx.update(g, carry[1], carry[0])
        return (gx.apply_updates(carry[0], updates), new), None

    fast, _ = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(
        (params, state), jax.tree.map(lambda *x: jnp.stack(x), *grads)
    )
    assert words(fast) == words(slow)


def test_vmap_is_a_loop() -> None:
    params = [jax.tree.map(lambda p, k=k: (p * k).astype(p.dtype), start()) for k in (1, 2, 3)]
    tx = exact_master(gx.sgd(2.0**-9))
    grads = [exact_grads(p, k) for k, p in enumerate(params)]
    states = [tx.init(p) for p in params]
    one = [tx.update(g, s, p) for g, s, p in zip(grads, states, params, strict=True)]
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    many = jax.vmap(tx.update)(stack(*grads), stack(*states), stack(*params))
    assert words(many) == words(stack(*one))


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
def test_shardings_are_kept_and_the_numbers_are_the_same(kind: str) -> None:
    params = {k: v for k, v in start().items() if k != "s"}
    want, want_state = trained(exact_master(gx.sgd(2.0**-9)), params, 3)
    axis = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis,))
    with jax.set_mesh(mesh):
        put = lambda x: jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P("x")))  # noqa: E731
        tx, weights = exact_master(gx.sgd(2.0**-9)), jax.tree.map(put, params)
        state = jax.tree.map(put, tx.init(weights))
        step = jax.jit(tx.update)
        for n in range(3):
            updates, new = step(jax.tree.map(put, exact_grads(weights, n)), state, weights)
            for tree, like in ((updates, weights), (new.remainder, state.remainder)):
                for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
                    assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
            weights, state = jax.jit(gx.apply_updates)(weights, updates), new
        masters = jax.jit(master_params)(state, weights)
    assert words(weights) == words(want)
    assert words(state.remainder) == words(want_state.remainder)
    assert words(masters) == words(master_params(want_state, want))


def test_the_state_that_init_makes_is_cut_as_the_parameters() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.ones((8, 4), BF16), jax.P("x"))
        state = exact_master(TX).init(params)
        assert jax.typeof(state.remainder).sharding == jax.typeof(params).sharding
        mu = state.inner_state[0].mu
        assert jax.typeof(mu).sharding == jax.typeof(params).sharding
        assert mu.dtype == F32


def test_donation() -> None:
    params, tx = start(), exact_master(TX)
    state = tx.init(params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    kept = jax.jit(step)(params, state, grads_of(params, 0))
    donated = jax.jit(step, donate_argnums=(0, 1))
    old = jax.tree.leaves((params, state))
    made = donated(params, state, grads_of(params, 0))
    assert words(made) == words(kept)
    assert all(x.is_deleted() for x in old)
    assert donated.lower(*kept, grads_of(params, 1)).compile().memory_analysis().alias_size_in_bytes > 0


def test_init_under_eval_shape_and_as_a_value() -> None:
    tx = exact_master(gx.adamw(3e-4))
    shapes = jax.eval_shape(tx.init, start())
    assert form_difference(shapes, jax.eval_shape(lambda: tx.init(start())), "the state") is None
    assert repr(tx) == "gx.lowbit.exact_master(gx.adamw(0.0003))"
    assert eval(repr(tx), {"gx": gx}) == tx == pickle.loads(pickle.dumps(tx)) == gx.from_json(gx.to_json(tx))
    doubled = optax.tree_map_params(tx, lambda x: x, tx.init(start()))
    assert words(doubled) == words(tx.init(start()))
    assert "exact_master" in str(gx.describe(tx, start()))


# ------------------------------------------------------------------------------------------------ leaves


def test_odd_leaves_are_carried() -> None:
    params = {
        "none": None,
        "masked": optax.MaskedNode(),
        "int": jnp.arange(3),
        "empty": jnp.zeros((0, 3), BF16),
        "scalar": jnp.asarray(1.0, BF16),
        "frozen": jnp.ones(2, BF16),
        "complex": jnp.asarray([1 + 2j], jnp.complex64),
        "f": jnp.ones(2),
    }
    grads = {
        "none": None,
        "masked": optax.MaskedNode(),
        "int": np.zeros(3, jax.dtypes.float0),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.asarray(1.0),
        "frozen": None,
        "complex": jnp.asarray([1j], jnp.complex64),
        "f": jnp.ones(2),
    }
    tx, plain = exact_master(gx.sgd(0.5)), gx.sgd(0.5)
    state = tx.init(params)
    assert {k for k, r in state.remainder.items() if hasattr(r, "dtype")} == {"empty", "scalar", "frozen"}
    updates, new = tx.update(grads, state, params)
    got = gx.apply_updates(params, updates)
    want, _ = plain.update(
        {k: grads[k] for k in ("f", "complex")}, plain.init({k: params[k] for k in ("f", "complex")})
    )
    assert words({k: updates[k] for k in want}) == words(want)
    assert float(got["scalar"]) == 0.5
    assert all(got[name] is params[name] for name in ("none", "masked", "int", "frozen"))
    assert form_difference(new, state, "the new state") is None
    alone = exact_master(gx.adam(0.1))
    for tree in ({}, {"f": jnp.ones(2)}, ()):
        updates, _ = alone.update(tree, alone.init(tree), tree)
        assert jax.tree.structure(updates) == jax.tree.structure(tree)


def test_other_dtypes_are_trained_as_without_it() -> None:
    params = {"f": jnp.linspace(0, 1, 5), "c": jnp.asarray([1 + 2j], jnp.complex64)}
    a, b = trained(exact_master(TX), params, 3)[0], trained(TX, params, 3)[0]
    assert words(a) == words(b)


def test_double_precision_is_left_alone(x64: None) -> None:
    params = {"d": jnp.ones(2, jnp.float64), "h": jnp.ones(2, BF16)}
    tx = exact_master(gx.sgd(0.1))
    updates, state = tx.update(jax.tree.map(lambda p: jnp.ones(p.shape), params), tx.init(params), params)
    assert updates["d"].dtype == jnp.float64
    assert updates["h"].dtype == F32
    assert state.remainder["h"].dtype == jnp.uint16


# ------------------------------------------------------------------------------------------------ errors


def test_float16_is_refused() -> None:
    text = r"exact_master: the leaf 'h' is float16\[2\], which 16 bits more do not make a float32"
    with pytest.raises(TypeError, match=text):
        exact_master(TX).init({"h": jnp.ones(2, jnp.float16)})
    tx = exact_master(TX)
    state = tx.init({"h": jnp.ones(2)})
    with pytest.raises(TypeError, match=text):
        tx.update({"h": jnp.ones(2)}, state, {"h": jnp.ones(2, jnp.float16)})


def test_missing_params_are_one_error() -> None:
    tx = exact_master(gx.adamw(1e-3))
    params = start()
    with pytest.raises(
        ValueError, match=r"^gx.lowbit.exact_master: missing params for exact_master"
    ) as caught:
        tx.update(grads_of(params, 0), tx.init(params))
    assert "tx.update(updates, state, params)" in str(caught.value)


def test_states_of_others_are_refused() -> None:
    params, tx = {"w": jnp.ones(3, BF16), "f": jnp.ones(3)}, exact_master(gx.sgd(0.1))
    grads, state = jax.tree.map(jnp.ones_like, params), tx.init(params)
    with pytest.raises(
        ValueError, match=r"exact_master: wanted the state ExactMasterState\(remainder, inner_state\)"
    ):
        tx.update(grads, gx.sgd(0.1).init(params), params)
    for remainder, text in (
        (
            {"w": jnp.zeros(2, jnp.uint16), "f": None},
            r"'w' is bfloat16\[3\], its remainder in the state uint16\[2\]",
        ),
        ({"w": jnp.zeros(3), "f": None}, r"its remainder in the state float32\[3\]"),
        ({"w": None, "f": None}, "its remainder in the state none"),
        (
            {"w": jnp.zeros(3, jnp.uint16), "f": jnp.zeros(3, jnp.uint16)},
            r"'f' is float32\[3\], its remainder",
        ),
        ({"w": jnp.zeros(3, jnp.uint16)}, "missing in the state's remainder: 'f'"),
    ):
        with pytest.raises(ValueError, match=text):
            tx.update(grads, state._replace(remainder=remainder), params)
    with pytest.raises(
        TypeError, match=r"gx.lowbit.exact_master\(tx\): wanted a transform, got the number 0.1"
    ):
        exact_master(0.1)


# ------------------------------------------------------------------------------------------------ readers


def test_the_reader() -> None:
    params = start()
    tx = exact_master(TX)
    state = tx.init(params)
    assert words(master_params(state, params)) == words(float32(params))
    assert words(jax.jit(master_params)(state, params)) == words(float32(params))
    with pytest.raises(ValueError, match=r"gx.lowbit.master_params\(state, params\): the state has no"):
        master_params(TX.init(params), params)
    with pytest.raises(ValueError, match="wanted bfloat16"):
        master_params(state, float32(params))
    with pytest.raises(ValueError, match="the remainder in the state has no"):
        master_params(state, {"z": jnp.ones(1, BF16)})
    with pytest.raises(ValueError, match=r"its remainder in the state uint16\[16\]"):
        master_params(state, {**params, "b": jnp.ones(3, BF16)})


def test_in_flax() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.ones((2, 3), BF16))
            self.f = nnx.Param(jnp.ones(3))

    with jax.numpy_dtype_promotion("standard"):
        model = Model()
        optimizer = nnx.Optimizer(model, exact_master(gx.sgd(1e-3)), wrt=nnx.Param)
        params = {"w": model.w[...], "f": model.f[...]}
        trainer = TrainState.create(apply_fn=None, params=params, tx=exact_master(gx.sgd(1e-3)))
        for _ in range(3):
            ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
            optimizer.update(model, ones)
            trainer = trainer.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))
        np.testing.assert_allclose(master_params(trainer, trainer.params)["w"], 0.997, rtol=1e-6)
        assert trainer.opt_state.remainder["w"].dtype == jnp.uint16
        for held in (optimizer, optimizer.opt_state):
            got = master_params(held, nnx.state(model, nnx.Param))
            np.testing.assert_allclose(got["w"][...], 0.997, rtol=1e-6)
            assert got["w"][...].dtype == F32
        assert model.w[...].dtype == BF16
        assert trainer.params["w"].dtype == BF16


def test_restored_from_a_state_without_it() -> None:
    """A bfloat16 run goes on with masters: the moments are taken over, in float32, and the remainders begin at 0."""
    params, saved = trained(TX, start(), 3)
    state, report = gx.restore_into(exact_master(TX), params, saved)
    assert form_difference(state, exact_master(TX).init(params), "the state") is None
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(state.remainder))
    np.testing.assert_array_equal(state.inner_state[0].nu["b"], saved[0].nu["b"])
    np.testing.assert_array_equal(state.inner_state[0].mu["b"], saved[0].mu["b"].astype(F32))
    assert "exact_master" in str(report)
    tx = gx.guard(exact_master(TX))
    _, one = trained(exact_master(TX), start(), 3)
    both, _ = gx.restore_into(tx, params, one)
    assert words(both.inner_state.remainder) == words(one.remainder)
    back, _ = gx.restore_into(TX, params, one)
    assert form_difference(back, TX.init(params), "the state") is None
    np.testing.assert_array_equal(back[0].nu["b"], one.inner_state[0].nu["b"])
