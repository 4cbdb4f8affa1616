"""`quantized`: how far a step is off, whether the state forgets, what it takes, and that it is a good transform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build
from gradxform.lowbit import Quantized

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

BF16 = jnp.bfloat16
Q = gx.lowbit.quantized


def worlds(rows: int = 64, columns: int = 1024) -> np.ndarray:
    """Sizes of gradients, one below the other: all alike, by rows and columns, each its own."""
    rng = np.random.default_rng(0)
    alike = np.ones((rows, columns))
    crossed = np.exp(rng.standard_normal((rows, 1)) + rng.standard_normal((1, columns)))
    wild = np.exp(2.0 * rng.standard_normal((rows, columns)))
    return (1e-3 * np.concatenate([alike, crossed, wild])).astype(np.float32)


# ------------------------------------------------------------------------------------------------ one step


@pytest.mark.parametrize(("bits", "most"), [(8, (0.0075, 0.011, 0.02)), (4, (0.134, 0.27, 0.61))])
def test_the_error_of_one_direction(bits: int, most: tuple[float, ...]) -> None:
    """The table of one AdamW direction from moments that were stored once, to nearest.

    bitsandbytes and torchao: 0.0099, 0.028 and 204 with 8 bits; torchao and lpmm with 4: 0.134, 0.63 and 0.92.
    """
    rng, size = np.random.default_rng(1), worlds()
    noise = rng.standard_normal((3, *size.shape)).astype(np.float32)
    mu, nu = size * np.float32(0.23) * noise[0], size**2 * (1 + np.float32(0.045) * noise[1]) ** 2
    grad, count = jnp.asarray(size * noise[2]), jnp.int32(100_000)
    inner = gx.scale_by_adam(eps=1e-8)
    exact = optax.ScaleByAdamState(count, jnp.asarray(mu), jnp.asarray(nu))
    tx = Q(inner, bits, rounding="nearest")

    @jax.jit
    def step(exact: Any, grad: Any) -> Any:
        return tx.update(grad, gx.lowbit.requantized(exact, tx.init(grad)))[0]

    pairs = (np.split(np.asarray(u), 3) for u in (step(exact, grad), inner.update(grad, exact)[0]))
    for got, want, limit in zip(*pairs, most, strict=True):
        assert np.linalg.norm(got - want) < limit * np.linalg.norm(want)
        assert np.abs(got).max() < (1.1 if bits == 8 else 1.7) * np.abs(want).max()


# ------------------------------------------------------------------------------------------------ what is stored


def test_bytes_a_parameter() -> None:
    params = {"w": jnp.zeros((512, 1024)), "b": jnp.zeros(100)}
    for bits, most in ((8, 2.08), (4, 1.07), (16, 4.001)):
        state = jax.eval_shape(Q(gx.scale_by_adam(), bits).init, params)
        assert state.mu["w"].nbytes + state.nu["w"].nbytes <= most * 512 * 1024
        assert not isinstance(state.mu["b"], Quantized)
        assert state.mu["w"].codes.shape == (512, 512 if bits == 4 else 1024)
        assert state.mu["w"].shape == (512, 1024)


def test_what_is_stored_and_what_is_not() -> None:
    params = {
        "embed": {"table": jnp.zeros((100, 64))},
        "head": jnp.zeros((64, 100)),
        "w": jnp.zeros((64, 64)),
        "small": jnp.zeros(4095),
        "h": jnp.zeros((64, 64), BF16),
        "i": jnp.zeros((64, 64), jnp.int32),
        "none": None,
    }
    state = jax.jit(Q(gx.average_params(gx.adamw(1e-3)), paths={"head": 4}).init)(params)
    adam, average = state[0][0], state[1]
    kinds = {name: type(adam.mu[name]).__name__ for name in ("w", "small", "h", "i")}
    assert kinds == {"w": "Quantized", "small": "ArrayImpl", "h": "Quantized", "i": "ArrayImpl"}
    assert isinstance(adam.mu["embed"]["table"], jax.Array)
    assert adam.mu["head"].codes.shape == (64, 50)
    assert not any(
        isinstance(x, Quantized) for x in jax.tree.leaves(average, is_leaf=lambda x: isinstance(x, Quantized))
    )
    assert adam.mu["none"] is None
    mixed = jax.jit(Q(gx.scale_by_adam(), moment=8, second_moment=32).init)(params)
    assert (type(mixed.mu["w"]).__name__, type(mixed.nu["w"]).__name__) == ("Quantized", "ArrayImpl")
    assert mixed.mu["w"].form.relative == "nu"


class Theirs(NamedTuple):
    m: Any
    v: Any
    other: Any


def test_a_state_without_roles_is_read_by_its_names() -> None:
    def init(params: Any) -> Theirs:
        return Theirs(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), params)

    def update(g: Any, state: Theirs, params: Any = None) -> Any:
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, state.v, g)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), m, v), Theirs(m, v, state.other)

    plain = optax.GradientTransformation(init, update)
    params = {"w": jnp.ones((64, 128))}
    tx = Q(plain)
    state = tx.init(params)
    assert [type(getattr(state, name)["w"]).__name__ for name in Theirs._fields] == [
        "Quantized",
        "Quantized",
        "ArrayImpl",
    ]
    exact = plain.init(params)
    for t in range(5):
        g = {"w": jax.random.normal(jax.random.key(t), (64, 128))}
        got, state = tx.update(g, state, params)
        want, exact = plain.update(g, exact, params)
    assert float(jnp.linalg.norm(got["w"] - want["w"]) / jnp.linalg.norm(want["w"])) < 0.03


# ------------------------------------------------------------------------------------------------ a good transform

INNER = {
    "adamw": gx.adamw(1e-2),
    "optax": optax.adamw(1e-2),
    "lion": gx.lion(1e-2),
    "amsgrad": gx.amsgrad(1e-2),
    "guarded": gx.guard(gx.adamw(1e-2), spike=6.0),
    "groups": gx.param_groups({"w": gx.adamw(1e-2), "*": gx.sgd(1e-2, momentum=0.9)}),
}


def params_of(dtype: Any = jnp.float32) -> dict[str, Any]:
    key = jax.random.key(6)
    return {
        "w": jax.random.normal(key, (40, 130), dtype),
        "b": jax.random.normal(key, (4200,), dtype),
        "s": jnp.ones(3, dtype),
    }


@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 8) for name in INNER), ("adamw", 4), ("adamw", 16), ("optax", 4)]
)
def test_the_state_is_a_fixed_point(name: str, bits: int) -> None:
    tx, params = Q(INNER[name], bits), params_of(BF16 if name == "adamw" else jnp.float32)
    state = jax.jit(tx.init)(params)
    like = [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    traced = []

    def update(g: Any, state: Any, params: Any) -> Any:
        traced.append(1)
        return tx.update(g, state, params)

    step = jax.jit(update, donate_argnums=1)
    for _ in range(3):
        updates, state = step(params, state, params)
        assert [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)] == like
    assert len(traced) == 1
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)

    def scanned(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: (tx.update(params, s, params)[1], None), state, None, length=2)

    jax.eval_shape(scanned, state)  # the carry keeps its types


@pytest.mark.parametrize("bits", [8, 4])
def test_eager_is_compiled(bits: int) -> None:
    tx, params = Q(gx.scale_by_adam(), bits), params_of()
    eager = compiled = tx.init(params)
    step = jax.jit(tx.update)
    for t in range(3):
        g = jax.tree.map(lambda p, k=t: p * (1 + k), params)
        _, eager = tx.update(g, eager)
        _, compiled = step(g, compiled)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        differ = np.mean(np.asarray(a) != np.asarray(b))  # a threshold between two roundings of one number
        assert differ < 1e-3


def test_one_program_has_the_same_bits_on_any_mesh() -> None:
    params = {"w": jax.random.normal(jax.random.key(7), (64, 1024))}
    tx = Q(gx.adamw(1e-2))

    step = jax.jit(tx.update)

    def run(params: Any) -> Any:
        state = jax.jit(tx.init)(params)
        for _ in range(3):
            updates, state = step(params, state, params)
        return updates, state

    want = run(params)
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        for spec in (jax.P("x"), jax.P(None, "x")):
            mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
            with jax.set_mesh(mesh):
                got = run(jax.device_put(params, jax.NamedSharding(mesh, spec)))
            for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
                np.testing.assert_array_equal(a, b)
            if kind is jax.sharding.AxisType.Explicit:
                assert got[1][0].mu["w"].codes.sharding.spec == jax.P(*spec, *[None] * (2 - len(spec)))
                assert got[0]["w"].sharding.spec == jax.P(*spec, *[None] * (2 - len(spec)))


def test_under_vmap_and_shard_map() -> None:
    params = jax.random.normal(jax.random.key(8), (8, 64, 128))
    tx = Q(gx.scale_by_adam())

    def run(p: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            updates, state = tx.update(p, state)
            return state, updates

        return jax.lax.scan(step, tx.init(p), None, length=2)[1][-1]

    alone = jnp.stack([jax.jit(run)(p) for p in params])
    np.testing.assert_allclose(jax.vmap(run)(params), alone, rtol=0.1, atol=2e-2)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    got = jax.jit(
        jax.shard_map(lambda p: run(p[0])[None], mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))
    )(params)
    np.testing.assert_allclose(got, alone, rtol=0.1, atol=5e-2)


def test_a_skipped_step_changes_no_code() -> None:
    """Rounding counts writings and not calls: what rests does not wander."""
    params = params_of()
    bad = jax.tree.map(lambda p: p * np.float32(np.nan), params)
    for tx in (gx.guard(Q(gx.adamw(1e-2))), Q(gx.guard(gx.adamw(1e-2)))):
        _, before = jax.jit(tx.update)(params, tx.init(params), params)
        _, after = jax.jit(tx.update)(bad, before, params)
        for a, b in zip(jax.tree.leaves(before.inner_state), jax.tree.leaves(after.inner_state), strict=True):
            np.testing.assert_array_equal(a, b)
    tx = Q(gx.accumulate(gx.adamw(1e-2), 3))
    state = tx.init(params)
    for done in range(2):
        _, state = tx.update(params, state, params)
        assert int(state.inner_state[0].mu["w"].step) == 0, done


def test_memory_between_reading_and_writing_is_that_of_one_leaf() -> None:
    """The arrays in between do not grow with the number of leaves: a float32 state would be 24 leaves here."""
    tx, leaf = Q(gx.adamw(1e-3)), 128 * 1024 * 4

    def temporary(number: int) -> float:
        params = {f"w{i}": jnp.ones((128, 1024)) for i in range(number)}

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state

        state = jax.eval_shape(tx.init, params)
        done = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
        return done.memory_analysis().temp_size_in_bytes / leaf

    assert temporary(12) < 7


def test_it_is_a_value() -> None:
    tx = Q(gx.adamw(1e-3), 4, wide="*embed*", paths={"head": 8})
    assert gx.from_json(gx.to_json(tx)) == tx
    assert repr(tx) == "gx.lowbit.quantized(gx.adamw(0.001), bits=4, paths={'head': 8})"
    assert Q(gx.adam(0.1), like="bitsandbytes") == Q(
        gx.adam(0.1), map="dynamic", rounding="nearest", wide=None
    )
    assert "Quantized(float32[64, 64] in 4 bits)" in repr(Q(gx.adam(0.1), 4).init(jnp.ones((64, 64))))


def test_tuned_and_probed() -> None:
    params = params_of()
    tx = gx.probe(gx.tunable(Q(gx.adamw(1e-2)), "learning_rate"))
    state = gx.set_hyperparams(tx.init(params), learning_rate=0.5)
    _, state = jax.jit(tx.update)(params, state, params)
    found = gx.metrics(state)
    assert float(found["update_norm"]) > 10
    assert np.isfinite(float(found["cosine"]))


def test_a_state_goes_to_floats_and_back() -> None:
    params, inner = params_of(), gx.adamw(1e-2)
    _, exact = jax.jit(inner.update)(params, inner.init(params), params)
    tx = Q(inner)
    state = gx.lowbit.requantized(exact, tx.init(params))
    back = gx.lowbit.dequantized(state)
    assert jax.tree.structure(back) == jax.tree.structure(exact)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(exact), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0.13, atol=0.005 * float(np.max(np.abs(b))))


def test_a_moment_keeps_its_value_when_only_the_second_one_is_new() -> None:
    """It is stored as multiples of the root beside it, and that root has changed."""

    @build.factory
    def squares_only() -> Any:
        def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
            return g, {"nu": s.nu + g * g}

        return build.elementwise(step, state=optax.ScaleByAdamState)

    params = jnp.ones((64, 64))
    exact = optax.ScaleByAdamState(jnp.int32(0), 3 * params, params)
    tx = Q(squares_only())
    state = gx.lowbit.requantized(exact, tx.init(params))
    for _ in range(3):
        _, state = jax.jit(tx.update)(10 * params, state)
    np.testing.assert_allclose(gx.lowbit.dequantized(state).mu, 3.0, rtol=0.05)
    np.testing.assert_allclose(gx.lowbit.dequantized(state).nu, 301.0, rtol=0.01)


def test_keys_with_slashes_are_two_leaves() -> None:
    params = {"a/b": jnp.ones((64, 64)), "a": {"b": jnp.ones((64, 64))}}
    state = Q(gx.scale_by_adam()).init(params)
    assert jax.tree.structure(gx.lowbit.dequantized(state).mu) == jax.tree.structure(params)


def test_what_is_bad_is_refused_or_seen() -> None:
    with pytest.raises(ValueError, match=r"gx\.lowbit\.quantized\(bits=5\): wanted one of 4, 8, 16"):
        Q(gx.adam(0.1), 5)
    with pytest.raises(ValueError, match=r"quantized\(rounding='up'\): wanted 'stochastic' or 'nearest'"):
        Q(gx.adam(0.1), rounding="up")
    with pytest.raises(TypeError, match=r"wanted a transform"):
        Q(0.1)
    with pytest.raises(
        TypeError, match=r"the state's 'nu/w' is complex64\[64, 64\], and codes are of real numbers"
    ):
        Q(gx.scale_by_adam()).init({"w": jnp.zeros((64, 64), jnp.complex64)})
    tx = Q(gx.scale_by_adam())
    state = tx.init({"w": jnp.zeros((64, 64))})
    with pytest.raises(ValueError, match=r"shape \(64, 32\)"):
        tx.update({"w": jnp.zeros((64, 32))}, state)
    g = jnp.ones((64, 64)).at[3, 5].set(np.inf)
    _, state = tx.update({"w": g}, state)
    seen = np.isnan(np.asarray(gx.lowbit.dequantized(state).nu["w"]))
    assert seen[3].all()
    assert seen.sum() == 64
    Q(gx.scale_by_adam(), min_size=0).init(
        {"empty": jnp.zeros((0, 4)), "h": jnp.zeros((64, 64), jnp.float16)}
    )


def test_a_rule_may_leave_slots_alone() -> None:
    """Of a leaf without factors Adafactor writes the second moment only, under jit too."""
    params = {"w": jnp.ones((40, 128))}
    tx = Q(gx.scale_by_factored_rms())
    state = tx.init(params)
    assert isinstance(state.v["w"], Quantized)
    eager, compiled = tx.update(params, state), jax.jit(tx.update)(params, state)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-5)
    assert jax.tree.structure(compiled[1]) == jax.tree.structure(state)
