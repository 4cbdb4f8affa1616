"""bitsandbytes' codes and states: equal to what its package makes, number for number."""

import doctest
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._core.eight_bits import WRAPPED
from gradxform.lowbit import bitsandbytes
from gradxform.lowbit.bitsandbytes import decode, encode, read_state
from gradxform.lowbit.maps import dynamic_map
from tests.golden.bitsandbytes_runs import BLOCK, SHAPES, edges, extreme, ramp
from tests.reference import Golden

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

GOLDEN = Golden.load("bitsandbytes.npz")
ARRAYS = GOLDEN.arrays
TINY = np.float32(2.0**-126)
KINDS = {"signed": True, "unsigned": False}
#: Our rule -> the kernel of theirs, and the name of its scales.
KERNELS = {"nearest": ("torch", "torch_absmax"), "cpu": ("cpu", "absmax")}
RULES = ["nearest", "cuda", "cpu"]
jitted = jax.jit(encode, static_argnums=(1, 2))
read = jax.jit(decode, static_argnums=(2, 3))


def given(kind: str, name: str) -> np.ndarray:
    x = {
        "wild": lambda: ARRAYS[f"{kind}/wild/x"],
        "edges": lambda: edges(ARRAYS[f"map/{kind}"]),
        "ramp": ramp,
        "extreme": extreme,
    }[name]()
    return x if KINDS[kind] else np.abs(x)


@pytest.mark.parametrize("rule", KERNELS)
@pytest.mark.parametrize("name", ["wild", "edges", "ramp", "extreme"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_codes_are_theirs(kind: str, name: str, rule: str) -> None:
    """Midpoints and their neighbours, all steps of their grid, zeros, a short block, scales from 2^-120 to 3e38."""
    x = given(kind, name)
    codes, absmax = (np.asarray(y) for y in jitted(jnp.asarray(x), KINDS[kind], rule))
    their_codes, their_absmax = (ARRAYS[f"{kind}/{name}/{part}"] for part in KERNELS[rule])
    assert codes.dtype == np.uint8
    assert np.array_equal(absmax, their_absmax)
    # XLA takes what is subnormal for zero: those of the block whose scale is 2^-120.
    same = (np.abs(x) >= TINY) | (x == 0) | (name != "extreme")
    assert np.array_equal(codes[same], their_codes[same])
    assert np.count_nonzero(~same) == (name == "extreme") * 92


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_theirs(kind: str) -> None:
    x, codes, absmax, decoded = (ARRAYS[f"{kind}/wild/{part}"] for part in ("x", "cpu", "absmax", "decoded"))
    assert np.array_equal(np.asarray(decode(codes, absmax, KINDS[kind])), decoded)
    error = np.abs(decoded - x).reshape(-1)
    assert np.all(error <= 0.011 * np.repeat(absmax, BLOCK)[: x.size])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1.0, 0.37, 3e-30, 2.0**127, 3e38])
@pytest.mark.parametrize("signed", [True, False])
def test_all_codes_come_back(signed: bool, scale: float, rule: str) -> None:
    """But for those that the grid of the C++ kernel cannot reach."""
    codes = jnp.arange(256, dtype=jnp.uint8)
    absmax = jnp.asarray([scale], jnp.float32)
    again, same = jitted(read(codes, absmax, signed), signed, rule)
    assert np.array_equal(same, absmax)
    reached = np.full(256, True) if rule != "cpu" else np.abs(dynamic_map(signed)) > 1e-4
    assert np.array_equal(np.asarray(again)[reached], np.arange(256)[reached])
    once = decode(again, same, signed)
    assert np.array_equal(encode(once, signed, rule)[0], again) or rule == "cpu"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("signed", [True, False])
def test_zeros_stay_zero(signed: bool, rule: str) -> None:
    x = jnp.zeros(600).at[300].set(2.0)
    got = np.asarray(read(*jitted(x, signed, rule), signed))
    assert np.all(got[:256] == 0)
    assert np.all(got[512:] == 0)
    inside = np.delete(got[256:512], 300 - 256)
    # The C++ kernel's own: a zero beside other numbers comes back as the next number of its grid.
    assert np.all(inside == 0) or (rule == "cpu" and np.all((inside > 0) & (inside < 5e-5)))
    assert not np.any(np.asarray(read(*jitted(jnp.full(600, TINY / 2), signed, rule), signed)))


@partial(jax.jit, static_argnums=1)
def both_ways(x: Any, rule: str) -> Any:
    """By each map: codes, scales, the numbers that come back, those of the flat codes, the codes of the flat array."""
    made = {}
    for signed, value in ((True, x), (False, x * x)):
        codes, absmax = encode(value, signed, rule)
        back, flat = decode(codes, absmax, signed), decode(codes.reshape(-1), absmax, signed, x.shape)
        made[signed] = codes, absmax, back, flat, encode(value.reshape(-1), signed, rule)[0]
    return made


def some(*shape: int) -> Any:
    return jnp.asarray((np.random.default_rng(3).normal(size=shape) * 1e-3).astype(np.float32))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(), (1,), (255,), (256,), (257,), (3, 5, 7), (16, 32), (0,), (4, 0)])
def test_any_shape(shape: tuple[int, ...], rule: str) -> None:
    size = int(np.prod(shape))
    for codes, absmax, back, flat_back, flat in both_ways(some(*shape), rule).values():
        assert (codes.shape, absmax.shape) == (shape, (-(-size // BLOCK),))
        assert (back.shape, back.dtype) == (shape, jnp.float32)
        assert np.array_equal(back, flat_back)
        assert np.array_equal(flat, codes.reshape(-1))


@pytest.mark.parametrize("rule", RULES)
def test_jit_changes_nothing(rule: str) -> None:
    for signed, (codes, absmax, back, *_) in both_ways(some(257), rule).items():
        value = some(257) if signed else some(257) ** 2
        for one, other in zip(encode(value, signed, rule), (codes, absmax), strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(decode(codes, absmax, signed), back)


def test_the_rules_differ_where_they_say() -> None:
    x = jnp.array([1.0, 0.0, -0.0, 1e-9, -1e-9, -2.7e-7, 2.7e-7, 1e-5])
    numbers = dynamic_map(True)
    nearest, cuda, cpu = (
        numbers[np.asarray(encode(x, True, rule)[0])] for rule in ("nearest", "cuda", "cpu")
    )
    smallest = 5.5e-7
    assert nearest[1:7].tolist() == [0] * 6
    np.testing.assert_allclose(cuda[1:7], [0, -smallest, 0, -smallest, -smallest, 0], rtol=1e-6)
    np.testing.assert_allclose(cpu[[1, 2, 3, 6, 7]], 2.125e-5, rtol=1e-6)
    np.testing.assert_allclose(nearest[7], 7.75e-6, rtol=1e-6)
    second = dynamic_map(False)[np.asarray(encode(jnp.array([1.0, 0.0]), False, "cpu")[0])]
    np.testing.assert_allclose(second, [1, 1.5625e-5], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_not_finite_is_seen(bad: float, rule: str) -> None:
    x = jnp.ones(600).at[3].set(bad)
    back = np.asarray(read(*jitted(x, True, rule), True))
    assert not np.any(np.isfinite(back[:256]))
    assert np.isnan(bad) <= np.all(np.isnan(back[:256]))
    assert np.all(back[256:] == 1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_worked_in_float32(dtype: Any) -> None:
    x = jnp.linspace(-1, 1, 300).astype(dtype)
    for one, other in zip(encode(x, True), encode(x.astype(jnp.float32), True), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.usefixtures("x64")
def test_double_precision_changes_nothing() -> None:
    x = np.random.default_rng(1).normal(size=700)
    codes, absmax = encode(jnp.asarray(x), True)
    assert (codes.dtype, absmax.dtype) == (jnp.uint8, jnp.float32)
    assert decode(codes, absmax, True).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode(jnp.arange(3), True), r"wanted an array of floats, got int32\[3\]"),
        (lambda: encode(jnp.zeros(3, jnp.complex64), True), r"got complex64\[3\]"),
        (lambda: encode(1.0, True), "wanted an array of floats, got a float"),
        (lambda: encode(jnp.zeros(3), True, "gpu"), "rule='gpu'.*wanted one of 'nearest', 'cuda', 'cpu'"),
        (lambda: decode(jnp.zeros(300, jnp.uint8), jnp.zeros(1), True), r"300 codes have 2 scales.*\(1,\)"),
        (lambda: decode(jnp.zeros(3, jnp.uint8), jnp.zeros(1), True, (2, 2)), "got 3 codes"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


# ------------------------------------------------------------------------------------------------ training


def entry(step: int, name: str) -> dict[str, Any]:
    """What their `state_dict` had of one parameter behind a step."""
    maps = {"qmap1": ARRAYS["map/signed"], "qmap2": ARRAYS["map/unsigned"]} if name == "w" else {}
    return {"step": step, **GOLDEN.tree(f"adamw/{step}/state/{name}"), **maps}


def entries(step: int) -> dict[str, Any]:
    return {name: entry(step, name) for name in SHAPES}


def params_at(step: int) -> dict[str, Any]:
    return {
        k: jnp.asarray(v)
        for k, v in GOLDEN.tree("adamw/start" if not step else f"adamw/{step}/params").items()
    }


@pytest.mark.parametrize("step", [1, 2, 22])
def test_their_next_state_follows_from_their_last(step: int) -> None:
    """Decode, AdamW in float32, encode: every code of theirs. Torch fuses each average into one rounding."""
    options = GOLDEN.meta["options"]
    (b1, b2), gradient = options["betas"], ARRAYS[f"adamw/{step}/gradients/w"]
    if step == 1:
        m = v = np.zeros_like(gradient)
    else:
        before = read_state(entries(step - 1), params_at(step - 1))
        m, v = np.asarray(before.mu["w"]), np.asarray(before.nu["w"])
    m = multiply_add(np.float32(1 - b1), gradient, np.float32(b1) * m)
    v = multiply_add(np.float32(1 - b2) * gradient, gradient, np.float32(b2) * v)
    after = entry(step, "w")
    for number, (moment, signed) in enumerate(((m, True), (v, False)), start=1):
        codes, absmax = encode(jnp.asarray(moment), signed, "cpu")
        assert np.array_equal(codes, after[f"state{number}"])
        assert np.array_equal(absmax, after[f"absmax{number}"])


def multiply_add(a: Any, b: Any, c: Any) -> np.ndarray:
    """`a * b + c` with one rounding to float32 (in all but one of some 2^29 cases)."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("step", [1, 21])
def test_a_run_of_theirs_goes_on(step: int) -> None:
    """Their state in the place of Adam's: the next update is theirs, in 8 bits and in 32, weight decay included."""
    options = GOLDEN.meta["options"]
    params = params_at(step)
    b1, b2 = options["betas"]
    tx = gx.adamw(options["lr"], b1=b1, b2=b2, eps=options["eps"], weight_decay=options["weight_decay"])
    state = tx.init(params)
    state = (read_state(entries(step), params), *state[1:])
    gradients = {k: jnp.asarray(v) for k, v in GOLDEN.tree(f"adamw/{step + 1}/gradients").items()}
    updates, state = tx.update(gradients, state, params)
    after = optax.apply_updates(params, updates)
    for name, want in params_at(step + 1).items():
        np.testing.assert_allclose(after[name], want, rtol=3e-6, atol=1e-7)
    assert int(state[0].count) == step + 1
    np.testing.assert_allclose(state[0].nu["b"], entry(step + 1, "b")["state2"], rtol=1e-6)


# ------------------------------------------------------------------------------------------------ reading


class Tensor:
    """Something like a tensor of another library: it can become an array, and nothing else."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.value, dtype)


def test_wrapped_entries_tensors_and_holes() -> None:
    plain = read_state(entries(2), params_at(2))
    wrapped = {
        name: {
            "step": Tensor(2),
            WRAPPED: {k: Tensor(v) for k, v in entry(2, name).items() if k != "step"},
        }
        for name in SHAPES
    }
    params = {**params_at(2), "frozen": None, "masked": optax.MaskedNode()}
    state = read_state(wrapped, params)
    assert jax.tree.structure(state.mu) == jax.tree.structure(params)
    assert (int(state.count), state.count.dtype) == (2, jnp.int32)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
        assert np.array_equal(one, other)
        assert isinstance(one, jax.Array)


def test_blocks_of_2048_and_maps_that_are_not_ours() -> None:
    """As before version 0.44: the scales say how long a block is, and the entry's own map counts."""
    codes = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    scales = np.array([1, 10, 100], np.float32)
    numbers = np.linspace(-1, 1, 256).astype(np.float32)
    theirs = {"state1": codes, "state2": codes, "step": 1, "absmax1": scales, "absmax2": scales}
    state = read_state(
        {"w": {**theirs, "qmap1": numbers, "qmap2": np.abs(numbers)}}, {"w": jnp.zeros((50, 100))}
    )
    want = numbers[codes] * np.repeat(scales, 2048)[:5000]
    assert np.array_equal(state.mu["w"], want.reshape(50, 100))
    assert np.array_equal(state.nu["w"], np.abs(want).reshape(50, 100))


def changed(**parts: Any) -> dict[str, Any]:
    return {**entries(2), "w": {**entry(2, "w"), **parts}}


def without(name: str) -> dict[str, Any]:
    return {**entries(2), "w": {k: v for k, v in entry(2, "w").items() if k != name}}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"w": entry(2, "w")}, "the leaf 'b' of params has no entry"),
        ({**entries(2), 0: {}}, "no parameter is called '0'; there are 'b', 'w'"),
        (without("state1"), "the entry of the leaf 'w' has no state1"),
        (without("state2"), "has no state2.*method with one moment"),
        (without("absmax2"), "has no absmax2"),
        (without("qmap1"), "has no qmap1"),
        (without("step"), "has no step"),
        ({**entries(2), "w": 3}, "the entry of the leaf 'w' is .*wanted a mapping"),
        (changed(state1=np.zeros((128, 33), np.uint8)), r"state1 of the leaf 'w' has shape \(128, 33\)"),
        (changed(state2=np.zeros((33, 128), np.int32)), "is int32, wanted uint8 or float32"),
        (
            changed(absmax1=np.zeros(16, np.float32)),
            r"shape \(16,\), wanted \(17,\), one for each 256 of its 4224",
        ),
        (
            changed(qmap2=np.zeros(16, np.float32)),
            r"qmap2 of the leaf 'w' has shape \(16,\), wanted \(256,\)",
        ),
        (changed(step=5), "the step of the leaf 'b' is 2, that of the leaf 'w' 5"),
    ],
)
def test_a_broken_entry_is_named(theirs: Any, message: str) -> None:
    with pytest.raises((KeyError, ValueError, TypeError), match=f"(?s){message}"):
        read_state(theirs, params_at(2))


def test_nothing_to_read() -> None:
    state = read_state({}, {})
    assert (int(state.count), state.mu, state.nu) == (0, {}, {})


def test_the_examples_run() -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert doctest.testmod(bitsandbytes).failed == 0
