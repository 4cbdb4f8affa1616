"""Adam-mini: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, bias_correction, hyper

from .forced import SHAPES, ours, theirs
from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, WARM, Case


def block_means(x: Array, kept: tuple[int, ...], heads: int = 0) -> Array:
    """The mean over each block, written into all of its places; with heads the one kept axis is cut into runs."""
    if heads:
        parts = np.split(x, heads, axis=kept[0])
        return np.concatenate([np.full_like(part, part.mean()) for part in parts], axis=kept[0])
    gone = tuple(i for i in range(x.ndim) if i not in kept)
    return np.broadcast_to(x.mean(gone, keepdims=True), x.shape)


def small(x: Array, kept: tuple[int, ...], heads: int = 0) -> Array:
    """One number a block of an array that has the same in all places of one."""
    each = x.shape[kept[0]] // heads if heads else 1
    return x[tuple(slice(None, None, each) if i in kept else slice(0, 1) for i in range(x.ndim))]


def wide(v: Array, shape: tuple[int, ...]) -> Array:
    for axis, n in enumerate(shape):
        v = np.repeat(v, n // v.shape[axis], axis)
    return v


@dataclass(frozen=True)
class AdamMini:
    """Adam for a dictionary of arrays, whose squares are averaged over blocks before they are averaged over time."""

    kept: Mapping[str, tuple[int, ...]]
    b1: Hyper = 0.9
    b2: Hyper = 0.999
    eps: Hyper = 1e-8
    heads: Mapping[str, int] | None = None

    def update(self, grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count, mu, nu, u = state["count"], {}, {}, {}
        b1, b2, eps = (hyper(h, count) for h in (self.b1, self.b2, self.eps))
        for k, g in grads.items():
            kept = tuple(i % g.ndim for i in self.kept[k])
            heads = (self.heads or {}).get(k, 0)
            mu[k] = b1 * state["mu"][k] + (1 - b1) * g
            v = b2 * wide(state["nu"][k], g.shape) + (1 - b2) * block_means(g * g, kept, heads)
            root = np.sqrt(v / bias_correction(b2, count + 1)) + eps
            m = mu[k] / bias_correction(b1, count + 1)
            u[k] = np.divide(m, root, out=np.zeros_like(root), where=root > 0)
            nu[k] = small(v, kept, heads)
        return {"count": count + 1, "mu": mu, "nu": nu}, u


#: What the names of the grid's leaves say by default: the last axis.
LAST = {"w": (-1,), "b": (-1,), "s": (), "c": (-1,), "k": (-1,)}
FIRST = {name: (0,) if shape else () for name, shape in SHAPES.items()}
MIXED = {"w": (0,), "b": (), "s": (), "c": (0, 2), "k": (1, -1)}


def case(factory: str, options: dict[str, Any], kept: Any = LAST) -> Case:
    def made() -> Any:
        return getattr(gx, factory)(**{k: ours(v) for k, v in options.items()})

    def method() -> Any:
        o = {k: theirs(v) for k, v in options.items()}
        own = AdamMini(kept, **{k: o[k] for k in ("b1", "b2", "eps", "heads") if k in o})
        if factory == "scale_by_adam_mini":
            return own
        mask = o.get("mask", True)
        return ref.Chain(
            own,
            ref.Leafwise(ref.AddDecayedWeights(o.get("weight_decay", 0.0)), mask),
            ref.Leafwise(ref.ScaleByLearningRate(o["learning_rate"])),
        )

    def text(value: Any) -> str:
        return getattr(value, "name", None) or ("dict" if isinstance(value, dict) else str(value))

    name = f"{factory}({', '.join(f'{k}={text(v)}' for k, v in options.items())})"
    narrow = "mu_dtype" in options
    return Case(name, made, method, 2.0**-7 if narrow else 2e-6, narrow)


CASES = [
    case("scale_by_adam_mini", {}),
    case("scale_by_adam_mini", {"blocks": 0, "b1": 0.0, "b2": 0.5}, FIRST),
    case("scale_by_adam_mini", {"blocks": (), "b1": 0.99, "eps": 1e-3}, dict.fromkeys(SHAPES, ())),
    case("scale_by_adam_mini", {"blocks": MIXED, "eps": 0.0}, MIXED),
    case("scale_by_adam_mini", {"b1": BETA1, "b2": BETA2, "eps": GROW}),
    case("scale_by_adam_mini", {"blocks": {"w": 0}, "heads": {"w": 2, "c": 1}}, LAST | {"w": (0,)}),
    case("scale_by_adam_mini", {"mu_dtype": jnp.bfloat16}),
    case("adam_mini", {"learning_rate": 1e-3, "weight_decay": 0.1, "mask": MATRICES}),
    case(
        "adam_mini",
        {"learning_rate": WARM, "weight_decay": FALL, "b1": 0.8, "b2": 0.95, "eps": 1e-6}
        | {"blocks": MIXED, "heads": {"w": 4}, "mu_dtype": jnp.bfloat16},
        MIXED,
    ),
]
_MOMENTS = {
    "b1": [0.0, 0.8],
    "b2": [0.9],
    "eps": [0.1],
    "blocks": [0, (), {"b": ()}, lambda path, leaf: None if path == "b" else 0],
    "heads": [{"w": 1}],
    "mu_dtype": [jnp.bfloat16],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_adam_mini": ({}, _MOMENTS),
    "adam_mini": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        _MOMENTS | {"learning_rate": [0.2], "weight_decay": [0.0, 0.2], "mask": [{"w": True, "b": False}]},
    ),
}

KEY = jax.random.key(3)
PARAMS = {
    "embed": {"embedding": jax.random.normal(KEY, (10, 8))},
    "pos_embedding": jax.random.normal(KEY, (1, 5, 8)),
    "attention": {
        "query": {"kernel": jax.random.normal(KEY, (8, 4, 2)), "bias": jax.random.normal(KEY, (4, 2))},
        "value": {"kernel": jax.random.normal(KEY, (8, 4, 2))},
        "out": {"kernel": jax.random.normal(KEY, (4, 2, 8))},
        "q_proj": {"kernel": jax.random.normal(KEY, (8, 12))},
    },
    "patch_embed": {"kernel": jax.random.normal(KEY, (6, 8)), "bias": jax.random.normal(KEY, (8,))},
    "norm": {"scale": jax.random.normal(KEY, (8,))},
}
GRADS = jax.tree.map(jnp.sin, PARAMS)


def shapes(tx: Any, params: Any = PARAMS) -> dict[str, tuple[int, ...]]:
    """What is kept of each leaf, by path."""
    found = jax.tree_util.tree_leaves_with_path(tx.init(params).nu)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in found}


def run(tx: Any, steps: int = 5, params: Any = PARAMS) -> tuple[list[Any], Any]:
    state, seen, step = tx.init(params), [], jax.jit(tx.update)
    for i in range(steps):
        updates, state = step(
            jax.tree.map(lambda p, i=i: jnp.cos(p + np.asarray(i, p.dtype)), params), state, params
        )
        seen.append(updates)
    return seen, state


def assert_close(got: Any, want: Any, rtol: float = 2e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), got, want)


def test_names_say_what_is_a_block() -> None:
    assert shapes(gx.scale_by_adam_mini()) == {
        "embed/embedding": (10, 1),
        "pos_embedding": (1, 1, 8),
        "attention/query/kernel": (1, 4, 1),
        "attention/query/bias": (4, 2),
        "attention/value/kernel": (1, 4, 2),
        "attention/out/kernel": (1, 1, 8),
        "attention/q_proj/kernel": (1, 12),
        "patch_embed/kernel": (1, 8),
        "patch_embed/bias": (8,),
        "norm/scale": (1,),
    }


def test_patterns_go_before_names_and_the_first_that_fits_before_others() -> None:
    blocks = {re.compile("value"): (), ("*/out/*", "*/nothing"): (0, -1), "attention/*": 0}
    found = shapes(gx.scale_by_adam_mini(blocks=blocks, heads={"*/q_proj/kernel": 4}))
    assert found["attention/value/kernel"] == (1, 1, 1)
    assert found["attention/out/kernel"] == (4, 1, 8)
    assert found["attention/query/kernel"] == (8, 1, 1)
    assert found["attention/query/bias"] == (4, 1)
    assert found["attention/q_proj/kernel"] == (4, 1)
    assert found["embed/embedding"] == (10, 1)


def test_heads_lie_side_by_side_on_the_kept_axis() -> None:
    """A kernel of [in, heads * width] with heads is the kernel of [in, heads, width] that keeps its second axis."""
    fused = {"q": PARAMS["attention"]["q_proj"]["kernel"]}
    apart = {"q": fused["q"].reshape(8, 4, 3)}
    got, state = run(gx.scale_by_adam_mini(heads={"q": 4}), params=fused)
    want, other = run(gx.scale_by_adam_mini(blocks=1), params=apart)
    assert state.nu["q"].shape == (1, 4)
    assert_close([u["q"].reshape(8, 4, 3) for u in got], [u["q"] for u in want])
    np.testing.assert_allclose(state.nu["q"], other.nu["q"].reshape(1, 4), rtol=1e-6)


def test_blocks_of_one_number_are_adam() -> None:
    tx = gx.scale_by_adam_mini(blocks=lambda path, leaf: tuple(range(len(leaf.shape))))
    got, state = run(tx)
    want, other = run(gx.scale_by_adam())
    assert_close(got, want)
    assert jax.tree.map(jnp.shape, state.nu) == jax.tree.map(jnp.shape, other.nu)


def test_a_block_of_equal_gradients_is_adam() -> None:
    """Nothing is lost where the numbers of a block agree in size."""
    p = {"w": jnp.ones((4, 3))}
    signs = jnp.where(PARAMS["embed"]["embedding"][:4, :3] > 0, 1.0, -1.0)
    g = {"w": signs * jnp.array([[1.0, 10.0, 0.1]])}
    for tx in (gx.scale_by_adam_mini(), gx.scale_by_adam_mini(blocks=lambda path, leaf: 1)):
        got, _ = tx.update(g, tx.init(p))
        want, _ = gx.scale_by_adam().update(g, gx.scale_by_adam().init(p))
        assert_close(got, want)


def test_the_state_is_half_of_adam_s() -> None:
    p = {"w": jnp.ones((256, 256)), "head": {"kernel": jnp.ones((256, 64))}}
    mini, adam = (
        sum(row.bytes for row in gx.memory(make(), p).rows if row.part == "state")
        for make in (gx.scale_by_adam_mini, gx.scale_by_adam)
    )
    assert mini < 0.51 * adam


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_means_of_16_bits_are_float32(dtype: Any) -> None:
    p = {"w": jnp.full((4, 3), 300.0, dtype)}
    tx = gx.scale_by_adam_mini()
    updates, state = tx.update(p, tx.init(p))
    assert state.nu["w"].dtype == jnp.float32
    assert state.mu["w"].dtype == updates["w"].dtype == dtype
    np.testing.assert_allclose(state.nu["w"], np.full((1, 3), 90.0), rtol=1e-2)


def test_a_complex_weight_has_one_size() -> None:
    p = {"w": jnp.array([[3.0 + 4.0j, 1.0j], [0.0j, 1.0 + 0j]])}
    tx = gx.scale_by_adam_mini()
    updates, state = tx.update(p, tx.init(p))
    updates, state = tx.update(p, state)
    np.testing.assert_allclose(np.abs(updates["w"]), [[np.sqrt(2), 1], [0, 1]], rtol=1e-5, atol=1e-7)
    assert not np.any(np.imag(state.nu["w"]))


def test_a_layer_of_a_stack_is_an_array_of_its_own() -> None:
    """Axes and heads are those of one layer."""
    one = {"q": {"kernel": jax.random.normal(KEY, (6, 4))}, "w": jax.random.normal(KEY, (6, 4))}
    several = [jax.tree.map(lambda x, i=i: x * np.float32(i + 1), one) for i in range(3)]
    stack = {"layers": jax.tree.map(lambda *xs: jnp.stack(xs), *several)}
    options: dict[str, Any] = {"heads": {"*q/kernel": 2}, "blocks": {"*w": 0}}
    got, state = run(gx.per_layer(gx.scale_by_adam_mini(**options), "layers/*"), params=stack)
    assert {k: x.shape for k, x in state.nu["layers"].items() if k == "w"} == {"w": (3, 6, 1)}
    assert state.nu["layers"]["q"]["kernel"].shape == (3, 1, 2)
    for i, params in enumerate(several):
        want, _ = run(gx.scale_by_adam_mini(**options), params=params)
        assert_close([jax.tree.map(lambda x, i=i: x[i], u["layers"]) for u in got], want)


def test_buckets_hold_leaves_of_equal_blocks_only() -> None:
    """Two kernels of one shape, of which one goes by rows and one by columns, do not share a bucket."""
    p = {"a": jnp.ones((4, 4)), "b": {"embed": jnp.ones((4, 4))}, "c": jnp.ones((4, 4)), "bias": jnp.ones(3)}
    p = jax.tree.map(lambda x: x * jax.random.normal(KEY, x.shape), p)
    tx = gx.scale_by_adam_mini(heads={"c": 2})
    bucketed = gx.fused.bucketed(tx)
    packed, state = gx.fused.pack(p, bucketed), None
    assert len(jax.tree.leaves(packed)) == 4
    state, plain = bucketed.init(packed), tx.init(p)
    for i in range(3):
        g = jax.tree.map(lambda x, i=i: jnp.sin(x + np.float32(i)), p)
        u, state = bucketed.update(gx.fused.pack(g, bucketed), state, packed)
        want, plain = tx.update(g, plain, p)
        assert_close(u.unpack(), want)


def test_leaves_alike_share_a_program() -> None:
    """The shape of what is kept tells the blocks, so that a deep model is not traced leaf by leaf."""
    layer = {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}
    p = {f"block_{i}": layer for i in range(6)}
    tx = gx.scale_by_adam_mini()
    jaxpr = jax.make_jaxpr(tx.update)(p, tx.init(p))
    calls = [e.params["jaxpr"] for e in jaxpr.eqns if e.params.get("name", "").endswith("_pass")]
    assert len(calls) == 12
    assert len(set(map(id, calls))) == 2


MESH = {
    "w": jax.P("x", None),
    "e": jax.P(None, "x"),
    "v": jax.P("x"),
    "scale": jax.P("x"),
    "q": jax.P(None, "x"),
}
CUT = {"w": (8, 4), "e": (4, 8), "v": (8,), "scale": (8,), "q": (4, 16)}


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("blocks", [None, 0, -1, ()])
def test_shards_give_what_whole_arrays_give(blocks: Any, check_vma: bool) -> None:
    """Also where a device has one number along a kept axis, so that the shape of `nu` does not tell."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    p = {name: jax.random.normal(KEY, shape) for name, shape in CUT.items()}
    tx = gx.scale_by_adam_mini(blocks=blocks)
    over = gx.sharding.reduce_over(tx, MESH)

    def two(tx: Any, p: Any) -> Any:
        _, state = tx.update(p, tx.init(p), p)
        return tx.update(jax.tree.map(jnp.cos, p), state, p)[0]

    cut = jax.shard_map(
        lambda p: two(over, p), mesh=mesh, in_specs=(MESH,), out_specs=MESH, check_vma=check_vma
    )
    assert_close(jax.jit(cut)(p), jax.jit(lambda p: two(tx, p))(p))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_heads_on_a_mesh(kind: str) -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    tx = gx.scale_by_adam_mini(heads={"q": 4})
    p = {name: jax.random.normal(KEY, shape) for name, shape in CUT.items()}
    placed = {name: jax.device_put(x, jax.NamedSharding(mesh, MESH[name])) for name, x in p.items()}
    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(placed)
        updates, state = jax.jit(tx.update)(placed, state, placed)
        assert updates["q"].sharding.spec == MESH["q"]
    want, _ = tx.update(p, tx.init(p), p)
    assert_close(jax.device_get(updates), want)
    with pytest.raises(ValueError, match=r"scale_by_adam_mini sees whole leaves"):
        gx.sharding.reduce_over(tx, MESH)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.scale_by_adam_mini\(b1=1\.0\).*\(in gx\.adam_mini\)"):
        gx.adam_mini(1e-3, b1=1.0)
    with pytest.raises(ValueError, match=r"gx\.adam_mini\(weight_decay=-0\.1\)"):
        gx.adam_mini(1e-3, weight_decay=-0.1)
    for blocks, got in (("rows", "rows"), (0.5, "0.5"), ((0, None), "None"), (True, "True")):
        with pytest.raises(
            TypeError, match=rf"(?s)\(blocks=.*wanted an axis or a tuple of axes, got .*{got}.*-1 one a"
        ):
            gx.scale_by_adam_mini(blocks=blocks)
    with pytest.raises(
        TypeError, match=r"(?s)blocks=\{'w': 'rows'\}\): wanted an axis or a tuple.*\(in gx\.adam_mini"
    ):
        gx.adam_mini(1e-3, blocks={"w": "rows"})
    with pytest.raises(TypeError, match=r"blocks=\{3: \.\.\.\}\): wanted patterns of leaves; such as"):
        gx.scale_by_adam_mini(blocks={3: 0})
    with pytest.raises(TypeError, match=r"(?s)heads=12\): wanted a mapping from patterns.*write heads=\{"):
        gx.scale_by_adam_mini(heads=12)
    with pytest.raises(ValueError, match=r"heads\['w'\]=0\): wanted at least 1"):
        gx.scale_by_adam_mini(heads={"w": 0})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "axis": (
        {"blocks": 1},
        r"(?s)\(blocks\): the leaf 'b' of shape \(3,\) has no axis 1.*name axes of the array",
    ),
    "function": (
        {"blocks": lambda path, leaf: "rows"},
        r"\(blocks=<lambda>\) of the leaf 'b': wanted an axis.*got 'rows'",
    ),
    "pattern": (
        {"blocks": {"kernel": 0}},
        r"\(blocks\): the pattern 'kernel' takes no leaf; there are 'b', 'w'",
    ),
    "no heads": ({"heads": {"q": 2}}, r"\(heads\): the pattern 'q' takes no leaf"),
    "divided": (
        {"heads": {"w": 3}},
        r"(?s)\(heads\): the leaf 'w' of shape \(6, 4\) has 4 numbers along axis 1.*3 heads",
    ),
    "whole": (
        {"heads": {"w": 2}, "blocks": {"w": ()}},
        r"(?s)the leaf 'w' of shape \(6, 4\) keeps no axis.*side by",
    ),
    "both": (
        {"heads": {"w": 2}, "blocks": {"w": (0, 1)}},
        r"(?s)'w' of shape \(6, 4\) keeps the axes \(0, 1\).*blocks",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_leaves_that_do_not_fit_are_named(which: str) -> None:
    options, message = WRONG[which]
    error = TypeError if which == "function" else ValueError
    with pytest.raises(error, match=message):
        gx.adam_mini(0.1, **options).init({"b": jnp.ones(3), "w": jnp.ones((6, 4))})
