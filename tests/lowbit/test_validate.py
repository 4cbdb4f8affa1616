"""`check_lowbit`: it calls the healthy healthy and the sick sick, and says why."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gradxform as gx
from gradxform.lowbit import LowbitReport, LowbitRow, LowbitUnfit, check_lowbit
from gradxform.lowbit.measures import Judge
from gradxform.lowbit.pair import Pair, slowest
from gradxform.lowbit.streams import Stream
from gradxform.lowbit.twin import float32_twin

Q = gx.lowbit.quantized
ADAM = gx.scale_by_adam(b2=0.95)


def noise(steps: int = 40, shape: tuple[int, ...] = (64, 128), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((steps, *shape), np.float32)


def measures(report: LowbitReport) -> set[str]:
    return {row.measure for row in report.bad}


# ------------------------------------------------------------------------------------------------ the twin


@pytest.mark.parametrize(
    ("tx", "twin"),
    [
        (Q(gx.adamw(1e-3)), gx.adamw(1e-3)),
        (Q(gx.adamw(1e-3), like="bitsandbytes"), gx.adamw(1e-3)),
        (
            gx.chain(gx.clip(1.0), gx.guard(Q(gx.scale_by_adam(), 4)), gx.scale(-0.1)),
            gx.chain(gx.clip(1.0), gx.guard(gx.scale_by_adam()), gx.scale(-0.1)),
        ),
        (
            gx.param_groups({"*/kernel": Q(gx.adamw(1e-3)), "*": gx.sgd(0.1)}),
            gx.param_groups({"*/kernel": gx.adamw(1e-3), "*": gx.sgd(0.1)}),
        ),
        (
            gx.named_chain(("a", gx.clip(1.0)), ("b", Q(gx.lion(1e-3)))),
            gx.named_chain(("a", gx.clip(1.0)), ("b", gx.lion(1e-3))),
        ),
        (Q(gx.accumulate(Q(gx.adam(1e-3)), 4), 16), gx.accumulate(gx.adam(1e-3), 4)),
    ],
)
def test_the_twin_is_the_same_value_without_quantized(tx: Any, twin: Any) -> None:
    assert float32_twin(tx) == twin


def test_what_has_no_quantized_inside_is_its_own_twin() -> None:
    tx = gx.chain(gx.clip(1.0), optax.adamw(1e-3))
    assert float32_twin(tx) is tx
    inner = optax.adamw(1e-3)
    assert float32_twin(Q(inner)) is inner


# ------------------------------------------------------------------------------------------------ time constants


@pytest.mark.parametrize(
    ("tx", "first", "second"),
    [
        (gx.scale_by_adam(b1=0.9, b2=0.999), 9.49, 999.5),
        (gx.scale_by_adam(b1=0.0, b2=0.5), 0.0, 1.44),
        (gx.trace(0.99), 99.5, 0.0),
        (gx.scale_by_rss(), 0.0, 0.0),
    ],
)
def test_how_fast_a_state_forgets_is_measured(tx: Any, first: float, second: float) -> None:
    """-1 / log(b), whatever the method calls it; a sum of squares never forgets, and has no finite one."""
    pair = Pair(tx, tx, {"w": jnp.ones((3, 4))}, lambda state: state)
    carry = pair.begin()
    for g in noise(3, (3, 4)):
        carry = pair.step(carry, {"w": jnp.asarray(g)})
    constants = pair.time_constants(carry)
    assert slowest(constants, True) == pytest.approx(first, rel=2e-3, abs=1e-6)
    assert slowest(constants, False) == pytest.approx(second, rel=2e-3, abs=1e-6)


# ------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.slow
def test_eight_bits_are_healthy() -> None:
    report = check_lowbit(gx.chain(gx.clip_by_global_norm(1.0), Q(gx.adamw(1e-3, b2=0.95))))
    assert report.ok, report
    assert report.reference == repr(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3, b2=0.95)))
    assert dict(report.time_constants)["1/0/nu"] == pytest.approx(19.5, abs=0.1)
    assert report.bytes == pytest.approx(2.063, abs=0.005)
    assert report.reference_bytes == pytest.approx(8.0, abs=0.01)
    assert not report.notes
    flat, rows, columns, wild = report.of("direction")
    assert flat.value < 0.025 < rows.high < wild.high
    assert columns.gradients == "power-law columns"
    assert {row.measure for row in report} >= {"forgets, quiet", "forgets, loud", "quiet steps", "stalled"}
    assert all(row.value == 0 for row in report.of("zero codes") if row.moment == "1/0/nu")
    report.raise_if_bad()


@pytest.mark.slow
def test_the_rule_of_bitsandbytes_is_sick() -> None:
    report = check_lowbit(Q(gx.scale_by_adam(), like="bitsandbytes"))
    sick = {"direction", "largest step", "forgets, quiet", "quiet steps", "stalled", "zero codes"}
    assert not report
    assert sick <= measures(report)
    (quiet,) = report.of("forgets, quiet")
    assert 40 < quiet.value < 50  # 46.2 in bitsandbytes 0.50.2
    assert report.of("quiet steps")[0].value == pytest.approx(quiet.value**-0.5, rel=0.05)
    assert max(row.value for row in report.of("zero codes") if row.moment == "nu") > 0.1
    assert not report.notes
    assert report.advice == (
        "leave out like='bitsandbytes' and map='dynamic': the adaptive map has no zero in a second moment",
    )
    text = str(report)
    assert text.endswith("figures out of bounds")
    assert "what to do: leave out like='bitsandbytes'" in text
    with pytest.raises(LowbitUnfit, match="not healthy") as caught:
        report.raise_if_bad()
    assert caught.value.report is report


def test_rounding_to_nearest_is_sick() -> None:
    report = check_lowbit(Q(gx.scale_by_rms(decay=0.995), rounding="nearest"))
    assert {"forgets, quiet", "stalled"} <= measures(report)
    (row,) = report.of("stalled")
    assert row.value > 0.9
    assert row.advice.startswith("rounding='stochastic'")


@pytest.mark.slow
def test_four_bits_have_bounds_of_their_own() -> None:
    report = check_lowbit(Q(gx.scale_by_adam(b2=0.95), 4))
    assert report.ok, report
    assert report.of("direction")[0].value > 0.1
    tight = check_lowbit(Q(gx.ema(0.9), 4), gradients=noise(), bounds={"direction": 0.1})
    (row,) = tight.bad
    assert (row.measure, row.high, row.advice) == ("direction", 0.1, "bits=8")


def test_signs_are_held_to_the_bound_of_signs() -> None:
    """A step that is a sign is off by 2 or not at all: 0.2 of the whole is one sign in a hundred."""
    report = check_lowbit(Q(gx.scale_by_lion(b2=0.9)))
    assert report.ok, report
    flat = report.of("direction")[0]
    assert flat.high == pytest.approx(2 * np.sqrt(0.035 / np.pi))
    assert flat.value > 0.035
    assert not report.of("forgets, quiet")


# ------------------------------------------------------------------------------------------------ other people's


class ToyState(NamedTuple):
    mu: Any
    nu: Any


def toy(store: Any, read: Any) -> optax.GradientTransformation:
    """An Adam without corrections whose v is kept as `store` makes it."""

    def init(params: Any) -> ToyState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ToyState(zeros, jax.tree.map(store, zeros))

    def update(updates: Any, state: ToyState, params: Any = None) -> Any:
        nu = jax.tree.map(lambda g, v: 0.95 * read(v) + 0.05 * g * g, updates, state.nu, is_leaf=_is_pair)
        mu = jax.tree.map(lambda g, m: 0.9 * m + 0.1 * g, updates, state.mu)
        step = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + np.float32(1e-8)), mu, nu)
        return step, ToyState(mu, jax.tree.map(store, nu))

    return optax.GradientTransformation(init, update)


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple)


def _linear(v: Any) -> Any:
    top = jnp.max(v)
    scaled = jnp.round(v / jnp.where(top > 0, top, np.float32(1)) * np.float32(127))
    return scaled.astype(jnp.int8), top


def _float(stored: Any) -> Any:
    return stored[0].astype(jnp.float32) * stored[1] / np.float32(127)


PLAIN = toy(lambda v: v, lambda v: v)
LINEAR = toy(_linear, _float)


def test_a_linear_second_moment_of_somebody_else_is_sick() -> None:
    """Codes that nobody can read: steps alone show it. With `read`, the zero codes are counted too."""
    sizes = np.exp(2 * np.random.default_rng(1).standard_normal((8, 16))).astype(np.float32)
    gradients = [{"w": jnp.asarray(g * sizes)} for g in noise(40, (8, 16))]
    report = check_lowbit(LINEAR, reference=PLAIN, gradients=gradients)
    assert {"direction", "largest step"} <= measures(report)
    assert any("pass read=" in note for note in report.notes)

    def read(state: ToyState) -> ToyState:
        return ToyState(state.mu, jax.tree.map(_float, state.nu, is_leaf=_is_pair))

    report = check_lowbit(LINEAR, reference=PLAIN, gradients=gradients, read=read)
    (zeros,) = (row for row in report.of("zero codes") if row.moment == "nu")
    assert zeros.value > 0.2
    assert zeros.advice == "store v on a map without zero, or its root"


def test_a_transform_beside_itself_has_no_error() -> None:
    report = check_lowbit(PLAIN, reference=PLAIN, gradients=noise(33, (2, 3)))
    assert report.ok, report
    assert report.of("direction")[0].value == 0
    assert report.of("correlation")[0].value == pytest.approx(1)


# ------------------------------------------------------------------------------------------------ given gradients


def test_gradients_may_be_stacked_or_come_one_by_one() -> None:
    """A tree with time in front, a list, a generator; float64 and NumPy's arrays become what the parameters are."""
    stacked = {"w": noise(40, (3, 4)).astype(np.float64)}
    params = {"w": jnp.ones((3, 4), jnp.bfloat16)}
    for given in (stacked, [{"w": g} for g in stacked["w"]], ({"w": g} for g in stacked["w"])):
        came = list(Stream("mine", given, params, 0, 36))
        assert len(came) == 36
        for got, g in zip(came, stacked["w"], strict=False):
            assert got["w"].dtype == jnp.bfloat16
            np.testing.assert_array_equal(got["w"], jnp.asarray(g, jnp.bfloat16))
    (leaf,) = jax.tree.leaves(Stream("mine", stacked, None, 0, 36).params)
    assert (leaf.shape, leaf.dtype) == ((3, 4), jnp.float32)


def test_what_short_streams_cannot_show_is_said() -> None:
    report = check_lowbit(Q(gx.scale_by_rms(decay=0.95)), gradients=noise())
    assert report.ok
    assert report.of("direction")[0].high == 0.20
    assert any("2.1 time constants" in note for note in report.notes)
    assert any("no second moment fell" in note for note in report.notes)


def test_a_fall_in_given_gradients_is_found() -> None:
    g = noise(200, (64, 128))
    g[60:, :, ::2] *= np.float32(0.1)
    report = check_lowbit(Q(gx.scale_by_rms(decay=0.95)), gradients=g)
    (quiet,) = report.of("forgets, quiet")
    assert quiet.verdict == "ok"
    assert report.of("forgets, loud")
    assert not report.notes


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"gradients": noise(5)}, ValueError, "5 of them, wanted at least 32"),
        ({"gradients": []}, ValueError, "0 of them"),
        ({"gradients": 3}, TypeError, "got an int; pass an iterable of trees"),
        ({"gradients": {"a": noise(40, (3,)), "b": noise(41, (3,))}}, ValueError, "the leading axes differ"),
        ({"gradients": noise(40, (2, 3)).astype(np.complex64)}, TypeError, r"complex64\[2, 3\]"),
        ({"params": {"w": jnp.ones(3, jnp.complex64)}}, TypeError, r"the leaf 'w' is complex64\[3\]"),
        ({"params": {"w": jnp.ones(3, jnp.int32)}}, ValueError, "there is no floating leaf"),
        (
            {"gradients": [{"w": g} for g in noise()], "params": {"v": jnp.ones((64, 128))}},
            ValueError,
            "gradient 1: the gradients, .* different trees",
        ),
        (
            {"gradients": [{"w": g} for g in noise()], "params": {"w": jnp.ones((64, 12))}},
            ValueError,
            r"the leaf 'w' is float32\[64, 128\], its parameter float32\[64, 12\]",
        ),
        ({"bounds": {"directions": 1.0}}, ValueError, "there is no figure 'directions'"),
        ({"steps": 8}, ValueError, "wanted at least 32"),
        ({"seed": "0"}, TypeError, "wanted a whole number"),
    ],
)
def test_what_cannot_be_checked_is_refused(given: dict[str, Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        check_lowbit(Q(ADAM), **given)
    assert "check_lowbit" in str(caught.value)


def test_gradients_that_are_not_finite_are_refused_by_number() -> None:
    g = noise(40, (8, 4))
    g[7, 3, 3] = np.nan
    with pytest.raises(ValueError, match="gradient 8: the leaf 'w' has numbers that are not finite"):
        check_lowbit(PLAIN, reference=PLAIN, gradients={"w": g})


def test_a_transform_that_makes_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="made no step in float32"):
        check_lowbit(gx.set_to_zero(), reference=gx.set_to_zero(), gradients=noise(40, (8, 4)))
    wild = gx.scale(float(np.finfo(np.float32).max))
    with pytest.raises(ValueError, match="in float32 are not finite"):
        check_lowbit(wild, reference=wild, gradients=10 * noise(40, (8, 4)))


def test_a_quantized_inside_of_a_closure_cannot_be_taken_out() -> None:
    hidden = optax.chain(optax.clip(1.0), Q(ADAM))
    with pytest.raises(ValueError, match="stands inside of a closure") as caught:
        check_lowbit(hidden)
    assert "reference=" in str(caught.value)


def test_updates_that_are_differences_of_short_weights_are_refused() -> None:
    params = {"w": jnp.ones((64, 128), jnp.bfloat16)}
    with pytest.raises(ValueError, match="differences of 16-bit weights"):
        check_lowbit(gx.lowbit.exact_master(Q(gx.adamw(1e-3))), params=params)


@pytest.mark.parametrize(
    ("tx", "given", "why"),
    [
        (Q(ADAM), {"gradients": noise(40, (3, 4))}, "the largest leaf has 12 numbers; look at min_size"),
        (Q(ADAM, wide="*"), {}, "nothing is stored in few bits"),
        (gx.sign_sgd(0.1), {}, "its state has no moments"),
    ],
)
def test_where_nothing_is_stored_nothing_passes(tx: Any, given: dict[str, Any], why: str) -> None:
    report = check_lowbit(tx, **given)
    assert not report
    assert why in report.advice[0]
    assert [row.measure for row in report] == ["stored"]


# ------------------------------------------------------------------------------------------------ many leaves, a report


@pytest.mark.slow
def test_every_leaf_has_its_rows_and_the_table_the_worst() -> None:
    """Leaves of other dtypes and sizes, absent and integer ones; one of them stored in 16 bits."""
    params = {
        "a": jax.ShapeDtypeStruct((64, 128), jnp.float32),
        "b": jax.ShapeDtypeStruct((4200,), jnp.bfloat16),
        "c": jnp.ones((3,)),
        "d": None,
        "e": jnp.zeros(2, jnp.int32),
    }
    report = check_lowbit(Q(gx.ema(0.99), paths={"a": 16}), params=params, steps=64)
    assert any("0.3 time constants, not 4: raise steps=" in note for note in report.notes)
    flat = {row.leaf: row for row in report.of("direction") if row.gradients == "flat"}
    assert set(flat) == {"a", "b", "c"}
    assert flat["c"].value == 0
    assert flat["a"].value < flat["b"].value < flat["b"].high == 0.035
    assert {row.leaf for row in report.of("correlation")} == {"a", "b"}
    (shown,) = (row for row in report.worst if row.measure == "direction" and row.gradients == "flat")
    assert shown.leaf == "b"
    assert str(report).count("\n  direction") == 4


def test_a_row_knows_its_verdict() -> None:
    row = LowbitRow("forgets, quiet", "half goes quiet", "w", "nu", 46.0, low=0.97, high=1.03)
    assert (row.verdict, row.bound, row.figure, row.of) == ("bad", "0.97 to 1.03", "46.0", "nu/w")
    assert LowbitRow("direction", "flat", "w", "", float("nan"), high=0.1).verdict == "bad"
    assert LowbitRow("zero codes", "flat", "w", "mu", 0.5).verdict == "-"
    assert LowbitRow("direction", "flat", "w", "", 0.02, high=0.035, worst=0.03).figure == "0.0200 (0.0300)"


def test_one_bound_is_for_all_streams_of_its_kind() -> None:
    gradients = jax.random.normal(jax.random.key(0), (48, 64, 128))
    tight = gx.lowbit.check_lowbit(
        gx.lowbit.quantized(gx.adam(1e-3)), gradients=gradients, bounds={"direction": 1e-6}
    )
    assert {row.measure for row in tight.bad} == {"direction"}
    judge = Judge.__new__(Judge)
    judge.given = {"direction": 0.1, "direction, wild": 0.3}
    assert [judge._bound(f"direction, {name}", 8) for name in ("flat", "wild")] == [0.1, 0.3]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [([0.1], "wanted a mapping"), ({"direction": -1.0}, "direction"), ({"direction": "a"}, "direction")],
)
def test_a_bound_is_a_number(bounds: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        gx.lowbit.check_lowbit(gx.adam(1e-3), bounds=bounds)


def test_a_state_without_roles_is_looked_at() -> None:
    """Optax's contrib has no roles declared: what `init` stores by the names of fields, the check sees."""
    gradients = jax.random.normal(jax.random.key(0), (48, 64, 128))
    report = gx.lowbit.check_lowbit(gx.lowbit.quantized(optax.contrib.ademamix(1e-3)), gradients=gradients)
    assert report.of("zero codes"), str(report)
