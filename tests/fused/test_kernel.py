"""The kernel against the plain way: the same numbers, written in place, in words that Triton knows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import _catalog
from gradxform._core.run import run
from gradxform.fused.body import Unfit, evaluate
from gradxform.fused.kernel import tiled
from gradxform.fused.step import by_kernel

TILE = 128
SCHEDULE = gx.warmup_cosine_decay_schedule(1e-3, 1e-2, 2, 10)


def clipped_adamw() -> gx.GradientTransformation:
    decay = gx.adamw(SCHEDULE, weight_decay=0.1, mask=gx.matrices())
    return gx.chain(gx.clip_by_global_norm(1.0), decay)


def tree(seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Leaves shorter and longer than a tile, of whole tiles and not, a matrix, and what is no row of numbers."""
    rng = np.random.default_rng(seed)
    shapes = {f"n{n}": (n,) for n in (1, TILE - 1, TILE, TILE + 1)}
    shapes |= {"matrix": (3, 50), "number": (), "empty": (0,)}
    made = {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return {**made, "none": None}


def steps(tx: Any, kernel: str | None, grads: Any, params: Any, **extra: Any) -> Any:
    """Parameters and state after two steps."""

    def one(grads: Any, state: Any, params: Any) -> Any:
        return gx.fused.apply_gradients(tx, grads, state, params, kernel=kernel, tile=TILE, **extra)

    step, state = jax.jit(one), tx.init(params)
    for share in (1.0, 0.5):
        now = jax.tree.map(lambda g, share=share: g * jnp.asarray(share, g.dtype), grads)
        params, state = step(now, state, params)
    return params, state


def check_equal(tx: Any, grads: Any, params: Any, units: int = 4, **extra: Any) -> Any:
    """The result of the kernel, if it is that of the plain way to a few units in the last place."""
    got, wanted = (steps(tx, kernel, grads, params, **extra) for kernel in ("pallas", None))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        if not jnp.issubdtype(mine.dtype, jnp.inexact):
            np.testing.assert_array_equal(mine, theirs)
            continue
        most = units * float(jnp.finfo(mine.dtype).eps)
        mine, theirs = (np.asarray(x, np.float64) for x in (mine, theirs))
        np.testing.assert_allclose(mine, theirs, rtol=most, atol=1e-2 * most)
    return got


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_is_the_plain_way(dtype: Any) -> None:
    params, state = check_equal(clipped_adamw(), tree(0, dtype), tree(1, dtype))
    assert int(state[1][0].count) == 2
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, tree(1, dtype))
    assert all(moved[name] for name in ("n1", "n129", "matrix", "number"))


def test_several_passes_write_the_update_in_between() -> None:
    tx = gx.chain(gx.scale(10.0), gx.clip_by_global_norm(1.0), gx.lion(1e-2))
    assert len(tx.plan.segments) == 2
    check_equal(tx, tree(0), tree(1))


def test_what_is_inside_of_a_wrapper_goes_through_the_kernel_too() -> None:
    tx = gx.guard(gx.adam(1e-2))
    params = {"w": jnp.ones(TILE + 1)}
    check_equal(tx, {"w": jnp.full(TILE + 1, 0.5)}, params)
    got, _ = steps(tx, "pallas", {"w": jnp.full(TILE + 1, jnp.nan)}, params)
    np.testing.assert_array_equal(got["w"], params["w"])  # a bad step has not happened


def test_a_nan_stays_where_it_is_also_behind_a_clip() -> None:
    grads = {"w": jnp.linspace(-3.0, 3.0, 2 * TILE).at[TILE + 3].set(jnp.nan)}
    tx = gx.chain(gx.clip(1.0), gx.sgd(0.1, momentum=0.9))
    params, _ = check_equal(tx, grads, {"w": jnp.zeros(2 * TILE)})
    assert np.flatnonzero(np.isnan(params["w"])).tolist() == [TILE + 3]


def test_groups_and_masks_choose_whole_leaves() -> None:
    tx = gx.param_groups({"*matrix": gx.adam(1e-2), "n1": gx.set_to_zero(), "*": gx.sgd(0.1)})
    params, _ = check_equal(tx, tree(0), tree(1))
    np.testing.assert_array_equal(params["n1"], tree(1)["n1"])


def test_outside_of_jit_too() -> None:
    tx, params = gx.adamw(1e-2), {"w": jnp.ones(TILE)}
    state = tx.init(params)
    for _ in range(2):  # a step that comes again may be compiled as a whole, and this one is not
        got, wanted = (
            gx.fused.apply_gradients(tx, params, state, params, kernel=kernel) for kernel in ("pallas", None)
        )
        for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_what_is_changed_behind_the_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def copying(*args: Any) -> Any:
        updates, state = run(*args)
        return jax.tree.map(lambda u: u + jnp.zeros((), u.dtype), updates), state

    monkeypatch.setattr("gradxform.fused.step.run", copying)
    tx, params = gx.sgd(0.1), {"w": jnp.ones(TILE)}
    with pytest.raises(RuntimeError, match="what the kernel has written has been changed behind it"):
        gx.fused.apply_gradients(tx, params, tx.init(params), params, kernel="pallas")


def eight_bits() -> gx.GradientTransformation:
    return gx.lowbit.quantized(clipped_adamw(), min_size=0, wide=())


def blocks(seed: int) -> dict[str, Any]:
    """Whole blocks of 64, of which the last do not fill a tile."""
    rng = np.random.default_rng(seed)
    return {"matrix": jnp.asarray(rng.standard_normal((7, 64)), jnp.float32)}


def test_codes_are_read_and_written_in_the_kernel() -> None:
    """The very codes: the thresholds belong to the numbers of elements in the leaf, and not in a tile."""
    _, state = check_equal(eight_bits(), blocks(0), blocks(1))
    assert state[1][0].mu["matrix"].codes.dtype == jnp.int8


def test_what_is_read_is_written_in_its_place() -> None:
    tx = clipped_adamw()
    params = {"w": jnp.ones(3 * TILE)}
    state = tx.init(params)
    jaxpr = jax.make_jaxpr(lambda g, s, p: by_kernel(tx, g, s, p, {}, interpret=True))(params, state, params)
    (call,) = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "pallas_call"]
    large = [x.aval.shape for x in call.outvars if x.aval.size > 1]
    assert large == [(3 * TILE,)] * 3  # p, mu and nu, and no update
    aliases = dict(call.params["input_output_aliases"])
    assert sorted(aliases.values()) == [0, 1, 2]
    assert all(call.invars[i].aval == call.outvars[o].aval for i, o in aliases.items())


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # by JAX 0.12
@pytest.mark.parametrize("form", ["float32", "bfloat16", "8 bits"])
def test_it_can_be_written_down_for_a_gpu(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's words for it are found without a GPU; what the machine makes of them is not seen here."""
    tx = eight_bits() if form == "8 bits" else clipped_adamw()
    dtype = jnp.float32 if form == "8 bits" else jnp.dtype(form)
    params = {name: jnp.zeros(n, dtype) for name, n in (("a", 4096), ("b", 1024 + 64))}
    state = jax.eval_shape(tx.init, params)
    # What is done for a CPU's compiler alone, the branches around codes, is not to be in it.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    step = jax.jit(lambda g, s, p: by_kernel(tx, g, s, p, {}), donate_argnums=(1, 2))
    try:
        text = step.trace(params, state, params).lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as problem:  # JAX 0.12 asks the machine what it is
        pytest.skip(str(problem))
    assert text.count("xla.gpu.triton") == 2
    assert text.count("tf.aliasing_output") == len(jax.tree.leaves((state, params)))


def _cumulative() -> gx.GradientTransformation:
    return gx.build.elementwise(lambda g, s, p, k, leaf: jnp.cumsum(g), call="cumulative")


def _centred() -> gx.GradientTransformation:
    return gx.build.treewise(lambda g, s, p, k, leaf: g - leaf.mean(g), call="centred")


WHO = r"gx.fused.apply_gradients\(kernel='pallas'\): "
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "leaf": (lambda: gx.lamb(1e-3), WHO + "trust_ratio looks at whole leaves"),
    "optax": (
        lambda: optax.scale_by_adam(),
        WHO + "transform is a pair of functions(.|\n)*use gx.scale_by_adam",
    ),
    "hand": (
        lambda: gx.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s)),
        WHO + ".*is a pair of functions, of whose numbers nothing is known",
    ),
    "untrue": (_cumulative, WHO + r"cumulative_pass: cumsum of \[128\] looks beyond its own place"),
    "sum": (_centred, WHO + r"centred_pass: reduce_sum over \[128\] goes over a whole leaf"),
    "complex": (lambda: gx.sgd(0.1), WHO + r".*complex64.*: a kernel has no such numbers"),
    "blocks": (eight_bits, WHO + "(.|\n)*in whole blocks"),
    "probe": (lambda: gx.probe(gx.sgd(0.1)), WHO + "no leaf went through the kernel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_cut_is_refused(case: str) -> None:
    make, words = REFUSED[case]
    tx, dtype = make(), jnp.complex64 if case == "complex" else jnp.float32
    params = {"w": jnp.ones(TILE + 1, dtype)}
    with pytest.raises(ValueError, match=words):
        gx.fused.apply_gradients(tx, params, tx.init(params), params, kernel="pallas", tile=TILE)


def test_other_kernels_and_tiles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tx, params = gx.sgd(0.1), {"w": jnp.ones(2)}

    def call(**options: Any) -> Any:
        return gx.fused.apply_gradients(tx, params, tx.init(params), params, **options)

    with pytest.raises(ValueError, match=r"\(kernel='cuda'\): wanted None or 'pallas'"):
        call(kernel="cuda")
    for tile in (32, 1000):
        with pytest.raises(ValueError, match=rf"\(tile={tile}\): wanted a power of two of at least 64"):
            call(kernel="pallas", tile=tile)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="the kernel is Triton's, and this is a tpu"):
        call(kernel="pallas")


def traced(fn: Any, *args: Any) -> Any:
    closed = jax.make_jaxpr(fn)(*args)
    return lambda *given: evaluate(closed.jaxpr, closed.consts, given, range(len(closed.jaxpr.outvars)))


def test_a_reduction_of_a_pair_becomes_two() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8)), jnp.float32)
    start = (np.float32(0), np.float32(0))

    def fold(x: Any, y: Any, combine: Any) -> Any:
        return jax.lax.reduce((x, y), start, combine, (1,))

    def apart(x: Any, y: Any) -> Any:
        return fold(x, y, lambda a, b: (jnp.maximum(a[0], b[0]), a[1] + b[1]))

    def crossed(x: Any, y: Any) -> Any:
        return fold(x, y, lambda a, b: (a[0] + b[0], a[0] + b[1]))

    again = traced(apart, x, -x)
    for mine, theirs in zip(again(x, -x), apart(x, -x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    names = [e.primitive.name for e in jax.make_jaxpr(again)(x, -x).jaxpr.eqns]
    assert "reduce" not in names
    with pytest.raises(Unfit, match="whose numbers meet"):
        traced(crossed, x, -x)(x, -x)


def test_a_leaf_is_counted_in_32_bits() -> None:
    rows = jax.ShapeDtypeStruct((2**31 - 64,), jnp.float32)
    fn: Any = lambda u, p, ks, stored, start=None: (u, ())  # noqa: E731
    with pytest.raises(Unfit, match="2147483584 numbers: wanted less than 2\\^31"):
        jax.eval_shape(lambda u: tiled(fn, (u, None, (), ()), interpret=True), rows)


def test_a_number_of_the_leaf_cannot_be_made_of_a_tile() -> None:
    def fn(u: Any, p: Any, ks: Any, stored: Any, start: Any = None) -> Any:
        return u, ({"top": u[0]},)

    u = jnp.ones(256)
    with pytest.raises(Unfit):
        tiled(fn, (u, None, (), ({"top": jnp.zeros([])},)), tile=128, interpret=True)


CATALOGUE = {
    entry.name: entry.example
    for entry in _catalog.entries()
    if isinstance(entry.example, gx.GradientTransformation)
    and all(link.reach != "leaf" and not link.foreign for link in entry.example.plan.flat)
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - {"probe"}))
def test_the_kernel_is_the_plain_way_for_the_catalogue(name: str) -> None:
    tx = CATALOGUE[name]
    extra = {need: jnp.asarray(1.0) for need in tx.plan.needs if need != "params"}
    check_equal(tx, {"w": tree(0)["n129"]}, {"w": tree(1)["n129"]}, units=32, **extra)


def test_the_catalogue_is_tried() -> None:
    assert {"adamw", "lion", "guard", "scale_by_adam", "clip_by_global_norm"} <= set(CATALOGUE)
    assert len(CATALOGUE) > 50
