"""A transform over buckets does what it does over a tree: recipes, wrappers, reports; and what is refused."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import _catalog, build
from gradxform.fused import Buckets, apply_gradients, bucketed, pack, unpack


def _params():
    rng = np.random.default_rng(0)

    def some(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "embed": some(6, 4),
        "layers": [{"w": some(3, 4), "b": some(4)}, {"w": some(3, 4), "b": some(4)}],
        "scale": some(),
        "half": some(5).astype("bfloat16"),
        "rest": None,
    }


def _gradients(tree, i: int):
    return jax.tree.map(lambda p: jnp.cos(p.astype("float32") * (i + 1)).astype(p.dtype), tree)


def _run(tx, params, steps: int, jitted: bool = True):
    def step(i, params, state):
        updates, state = tx.update(_gradients(params, i), state, params)
        return gx.apply_updates(params, updates), state

    step = jax.jit(step) if jitted else step
    state = tx.init(params)
    for i in range(steps):
        params, state = step(jnp.float32(i), params, state)
    return params, state


def _close(got, wanted, rtol: float = 2e-5) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        wide = 2e-2 if x.dtype == jnp.bfloat16 else rtol
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=wide, atol=wide / 10
        )


def _equal_to_plain(tx, params=None, steps: int = 3, rtol: float = 2e-5, jitted: bool = True) -> None:
    """Parameters and states after some steps are those over the tree."""
    params = _params() if params is None else params
    got, state = _run(bucketed(tx), pack(params, tx), steps, jitted)
    wanted, plain = _run(tx, params, steps, jitted)
    _close(unpack(got), wanted, rtol)
    _close(unpack(state), plain, rtol)


RECIPES = {
    "clipped adamw": lambda: gx.chain(
        gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine(1e-2, 2, 10), mask=gx.matrices())
    ),
    "lamb": lambda: gx.lamb(1e-2),
    "groups": lambda: gx.param_groups(
        {
            "embed": gx.lion(1e-2),
            "layers/0/*": None,
            "*/w": gx.adafactor(1e-2),
            "*": gx.sgd(1e-2, momentum=0.9),
        }
    ),
    "two masks": lambda: gx.masked(
        gx.chain(gx.adam(1e-2), gx.freeze("layers/0/*")),
        lambda tree: jax.tree.map(lambda p: p.ndim > 0, tree),
    ),
    "tree of booleans": lambda: gx.masked(
        gx.adam(1e-2), {**jax.tree.map(lambda p: p.size > 4, _params()), "rest": True}
    ),
}
WRAPPERS = {
    "guard": lambda tx: gx.guard(tx),
    "accumulate": lambda tx: gx.accumulate(tx, 2),
    "tunable": lambda tx: gx.tunable(tx, "learning_rate"),
    "cautious": lambda tx: gx.cautious(tx),
    "average": lambda tx: gx.average_params(tx),
    "apply_when": lambda tx: gx.apply_when(tx, lambda step: step % 2 == 0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str):
    # Outside of `jit` one of them is enough: the third step is compiled as a whole there.
    _equal_to_plain(RECIPES[name](), jitted=name != "two masks")


@pytest.mark.parametrize(
    "name",
    [name if name == "tunable" else pytest.param(name, marks=pytest.mark.slow) for name in WRAPPERS],
)
def test_wrappers_inside(name: str):
    _equal_to_plain(WRAPPERS[name](gx.chain(gx.clip_by_global_norm(1.0), gx.adam(1e-2))))


@pytest.mark.slow
def test_wrappers_around():
    params, inner = _params(), gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(1e-2))
    tx = gx.guard(gx.accumulate(bucketed(inner), 2))
    got, state = _run(tx, pack(params, tx), 4)
    wanted, plain = _run(gx.guard(gx.accumulate(inner, 2)), params, 4)
    _close(unpack(got), wanted)
    _close(unpack(state), plain)


@pytest.mark.slow
@pytest.mark.parametrize("entry", _catalog.entries(), ids=lambda entry: entry.name)
def test_the_whole_catalogue(entry: _catalog.Entry):
    if not isinstance(entry.example, gx.GradientTransformation):
        return
    params = {
        "w": jnp.linspace(-1.0, 2.0, 12).reshape(3, 4),
        "v": jnp.ones((3, 4)),
        "b": jnp.linspace(1.0, 2.0, 5),
    }
    try:
        jax.eval_shape(entry.example.update, params, entry.example.init(params), params)
    except ValueError as refused:
        if "is no matrix" not in str(refused):
            raise
        del params["b"]
    # A product in a batch rounds in another way, and Newton-Schulz magnifies small singular values 40 times.
    _equal_to_plain(entry.example, params, 2, 2e-5 if "b" in params else 1e-3)


def test_a_step_has_as_many_loops_for_many_leaves_as_for_few(as_users):
    tx = bucketed(RECIPES["clipped adamw"]())

    def compiled(number: int):
        names = {
            f"{kind}{i}": shape for i in range(number) for kind, shape in (("w", (64, 64)), ("b", (640,)))
        }
        params = pack({name: jnp.ones(shape) for name, shape in names.items()}, tx)
        # Arguments in the order of the results: JAX gives the buffers of the one to the other in this order.
        step = jax.jit(lambda p, s, g: apply_gradients(tx, g, s, p), donate_argnums=(0, 1))
        made = step.lower(params, tx.init(params), params).compile(compiler_options=as_users)
        assert made.memory_analysis().temp_size_in_bytes < 64 * 64 * 4  # no copy of the gradients
        return made.as_text().count(" fusion(")

    assert compiled(40) == compiled(20)


def test_low_bit_states_store_what_they_store_without_buckets():
    params = {
        "embed": jnp.ones((64, 16)),
        "w": jnp.linspace(-1.0, 1.0, 4096).reshape(64, 64),
        "v": jnp.linspace(0.5, 1.0, 4160),
        "b": jnp.ones(3),
    }
    inner = gx.lowbit.quantized(gx.adam(1e-2), min_size=256)
    tx = bucketed(inner)
    b = pack(params, tx)
    assert list(b.paths.values()) == [["embed", "b"], ["w", "v"]]
    stored = tx.init(b)[0].mu
    assert [isinstance(x, gx.lowbit.Quantized) for x in stored.children] == [False, True]
    got, state = _run(tx, b, 1)
    wanted, plain = _run(inner, params, 1)
    for x, y in zip(jax.tree.leaves(unpack(got)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=1e-3)
    floats = unpack(gx.lowbit.dequantized(state))
    assert jax.tree.structure(floats) == jax.tree.structure(gx.lowbit.dequantized(plain))
    again = gx.lowbit.requantized(pack(floats, gx.lowbit.dequantized(state)), state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    with pytest.raises(
        TypeError, match=r"is Quantized, wanted an array\n  gx.lowbit.dequantized\(state\) has arrays"
    ):
        unpack(state)
    with pytest.raises(ValueError, match=r"gx.lowbit.quantized: it takes one of 'b', 'v' and not the other"):
        inner.init(pack(params, gx.adam(1e-2)))


def test_optax_inside():
    _equal_to_plain(gx.chain(gx.clip_by_global_norm(1.0), optax.adam(1e-2)), steps=1)
    with pytest.raises(
        ValueError, match=r"\(clip_by_global_norm\) is not known to work .*; use gx.clip_by_global_norm"
    ):
        bucketed(optax.clip_by_global_norm(1.0))
    with pytest.raises(ValueError, match=r"has masks of its own, and would ask them of buckets; use gx\."):
        bucketed(gx.chain(gx.adam(1e-2), optax.add_decayed_weights(0.1, mask={"w": True})))
    by_hand = gx.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    with pytest.raises(
        ValueError, match=r"is not known to work element by element; keep the parameters as a tree"
    ):
        bucketed(by_hand)


def test_it_is_a_value():
    tx = bucketed(gx.adamw(1e-3))
    assert repr(tx) == "gx.fused.bucketed(gx.adamw(0.001))"
    assert pickle.loads(pickle.dumps(tx)) == tx == bucketed(gx.adamw(1e-3))
    assert gx.from_json(gx.to_json(tx)) == tx


def test_reports_and_restoring():
    params = {"w": jnp.ones((3, 2)), "v": jnp.ones(4), "b": jnp.ones(3)}
    tx = bucketed(gx.adam(1e-3))
    b = pack(params, tx)
    state = tx.init(b)
    assert "in all 212 B: parameters 52 B, gradients 52 B, state 108 B" in str(gx.memory(tx, b)).replace(
        "\n", " "
    )
    assert "13 parameters" in str(gx.describe(tx, b))
    new = bucketed(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(1e-3)))
    _, state = tx.update(b, state, b)
    restored, _ = gx.restore_into(new, b, state)
    assert jax.tree.structure(restored) == jax.tree.structure(new.init(b))
    mu = next(x.mu for x in jax.tree.leaves(restored, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu"))
    _close(mu, state[0].mu)


@build.factory
def _centred():
    def step(g, s, p, k, leaf):
        return g - leaf.mean(g)

    def reduce(g, s, p, k, leaf):
        return g.sum()

    return build.treewise(step, reduce=reduce, sharded=True)


@build.factory
def _by_leaves():
    def reduce(g, s, p, k, leaf):
        return abs(g).max() ** 2

    def step(g, s, p, k, leaf):
        return g

    return build.treewise(step, reduce=reduce)


def test_refusals():
    params = {"w": jnp.ones((3, 2)), "v": jnp.ones((3, 2)), "b": jnp.ones(3)}
    tx = bucketed(gx.adam(1e-3))
    b = pack(params, tx)
    state = tx.init(b)
    with pytest.raises(TypeError, match=r"bucketed: got a dict, wanted gx.fused.Buckets\n  params = gx"):
        tx.init(params)
    with pytest.raises(TypeError, match=r"bucketed: got a dict, wanted gx.fused.Buckets"):
        tx.update(params, state)
    with pytest.raises(
        TypeError, match=r"the parameters are in buckets, the updates are a dict\n  parameters: gx"
    ):
        tx.update(params, state, b)
    with pytest.raises(TypeError, match=r"the updates are in buckets, the parameters are a dict"):
        tx.update(b, state, params)
    lamb = bucketed(gx.lamb(1e-3))
    with pytest.raises(
        ValueError, match=r"trust_ratio looks at whole leaves, and 'flat_\w+' has 'b', 'v', 'w' in one"
    ):
        lamb.update(b, lamb.init(b), b)
    plain = gx.lamb(1e-3)
    stacks = pack(params, plain)
    with pytest.raises(
        ValueError, match=r"trust_ratio looks at .*\n  put gx.fused.bucketed around the transform"
    ):
        plain.update(stacks, plain.init(stacks), stacks)
    decay = bucketed(gx.adamw(1e-3, mask=gx.matrices()))
    with pytest.raises(
        ValueError, match=r"\(mask\): it takes one of 'b', 'v' and not the other, which share a bucket"
    ):
        decay.update(b, decay.init(b), b)
    with pytest.raises(
        ValueError, match=r"is mapped over layers by gx.per_layer, which have no axis in buckets"
    ):
        bucketed(gx.per_layer(gx.lamb(1e-3), "w"))
    with pytest.raises(
        ValueError, match=r"does not say sharded=True, so its sums may be those of whole leaves"
    ):
        bucketed(_by_leaves())
    with pytest.raises(
        ValueError, match=r"holds several leaves in one row, and a sum over one of them was asked for"
    ):
        bucketed(_centred()).update(
            pack(params, _centred()), bucketed(_centred()).init(pack(params, _centred()))
        )


def test_element_rules_over_layers_are_left_as_they_are():
    _equal_to_plain(gx.per_layer(gx.adam(1e-2), "layers/*/w"))


def test_one_call_for_step_and_sum():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3)}
    tx = gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
    b = pack(params, tx)
    got, state = apply_gradients(bucketed(tx), b, bucketed(tx).init(b), b)
    assert isinstance(got, Buckets)
    wanted, plain = apply_gradients(tx, params, tx.init(params), params)
    _close(unpack(got), wanted)
    _close(unpack(state), plain)
    again, _ = apply_gradients(optax.sgd(0.1), params, optax.sgd(0.1).init(params), params)
    np.testing.assert_allclose(np.asarray(again["b"]), 0.9)


def test_a_kernel_takes_buckets_as_it_takes_leaves():
    params = {
        "w": jnp.ones((9, 8)),
        "v": jnp.linspace(0.0, 1.0, 12).reshape(4, 3),
        "b": jnp.linspace(1.0, 2.0, 3),
    }
    tx = bucketed(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-2, mask=gx.matrices())))
    b = pack(params, tx)
    got = apply_gradients(tx, b, tx.init(b), b, kernel="pallas", tile=64)
    _close(got, apply_gradients(tx, b, tx.init(b), b))
