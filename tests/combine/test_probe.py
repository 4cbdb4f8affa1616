"""`probe`: what is read is what happened, nothing else changes, and nothing is paid for where there is none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import gradxform as gx
from gradxform._combine.probe import ProbeState
from gradxform._core import observe
from gradxform._core.nested import NestedBody
from gradxform._core.transform import wrap

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

W = np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], np.float32)
B = np.array([0.5, -4.0], np.float32)


def params() -> dict[str, Any]:
    return {"w": jnp.asarray(W), "b": jnp.asarray(B)}


def grads(k: float = 1.0) -> dict[str, Any]:
    return {"w": jnp.asarray(k * W[::-1]), "b": jnp.asarray(k * np.array([2.0, 1.0], np.float32))}


def norm(*arrays: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in arrays)))


def readings(tx: Any, steps: int = 1, k: float = 1.0) -> dict[str, float]:
    """The readings after some steps of one gradient; the parameters stay where they are."""
    state, update = tx.init(params()), jax.jit(tx.update)
    for _ in range(steps):
        _, state = update(grads(k), state, params())
    return {name: float(x) for name, x in gx.metrics(state).items()}


# ------------------------------------------------------------------------------------------------ what is read


def test_readings_are_numpy_s() -> None:
    got = readings(gx.probe(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1, momentum=0.5))), steps=2)
    g = norm(*grads().values())
    wanted = {
        "grad_norm": g, "clip/norm_in": g, "clip/norm_out": 1.0, "clip/clipped": 1.0,
        "sgd/trace/norm_in": 1.0, "sgd/trace/norm_out": 1.5, "sgd/trace/cosine": 1.0, "cosine": 1.0,
        "sgd/rate/norm_in": 1.5, "sgd/rate/norm_out": 0.15, "sgd/rate/learning_rate": 0.1,
        "learning_rate": 0.1, "update_norm": 0.15, "param_norm": norm(W, B),
        "update_ratio": 0.15 / norm(W, B), "unmoved": 0.0,
    }  # fmt: skip
    assert got.keys() == wanted.keys()
    for name, number in wanted.items():
        assert got[name] == pytest.approx(number, rel=1e-6), name


def test_before_the_first_step_all_are_zero_and_the_names_are_there() -> None:
    tx = gx.probe(gx.adamw(1e-3))
    state = tx.init(params())
    assert all(float(x) == 0 and x.dtype == jnp.float32 for x in state.readings.values())
    _, after = tx.update(grads(), state, params())
    assert state.readings.keys() == after.readings.keys()


def test_the_cosine_is_that_of_the_gradient_and_the_momentum_before_it() -> None:
    tx = gx.probe(gx.scale_by_adam(b1=0.9))
    state = tx.init(params())
    mu = {name: np.zeros_like(x) for name, x in grads().items()}
    for k, sign in enumerate((1.0, -1.0, 1.0)):
        g = {"w": sign * grads()["w"], "b": grads()["b"] * (k + 1)}
        dot = sum(float(np.sum(np.asarray(g[n]) * mu[n])) for n in g)
        size = norm(*g.values()) * norm(*mu.values())
        _, state = tx.update(g, state, params())
        assert float(state.readings["cosine"]) == pytest.approx(dot / size if size else 0.0, abs=1e-6)
        mu = {n: 0.9 * mu[n] + 0.1 * np.asarray(g[n]) for n in g}


def test_a_schedule_s_rate_is_that_of_the_step() -> None:
    tx = gx.probe(gx.sgd(gx.linear_schedule(1.0, 0.0, 4)))
    assert [readings(tx, n)["learning_rate"] for n in (1, 2, 3)] == [1.0, 0.75, 0.5]


@pytest.mark.parametrize(
    ("clip", "k", "share"),
    [
        (gx.clip(1.5), 1.0, 3 / 8),  # 3, -2 of w, 2 of b
        (optax.clip(1.5), 1.0, 3 / 8),
        (gx.clip_by_block_rms(1.59), 1.0, 6 / 8),  # rms of w is 1.598, of b 1.581
        (optax.clip_by_block_rms(1.59), 1.0, 6 / 8),
        (gx.clip_by_global_norm(1.0), 1.0, 1.0),
        (gx.clip_by_global_norm(1.0), 0.1, 0.0),
        (optax.clip_by_global_norm(1.0), 1.0, 1.0),
        (optax.clip_by_global_norm(1.0), 0.1, 0.0),
    ],
    ids=range(8),
)
def test_clipped_is_the_share_of_elements_that_a_clip_changes(clip: Any, k: float, share: float) -> None:
    got = readings(gx.probe(gx.chain(clip, gx.sgd(0.1))), k=k)
    assert [x for name, x in got.items() if name.endswith("/clipped")] == [pytest.approx(share)]


def test_a_link_that_makes_updates_smaller_is_no_clip() -> None:
    assert not [name for name in readings(gx.probe(gx.adamw(1e-3))) if name.endswith("/clipped")]


def test_zeros_that_a_global_clip_leaves_as_they_are_do_not_count_against_it() -> None:
    tx = gx.probe(gx.clip_by_global_norm(1.0))
    _, state = tx.update(jnp.array([0.0, 0.0, 0.0, 5.0]), tx.init(jnp.zeros(4)), jnp.zeros(4))
    assert float(state.readings["clip_by_global_norm/clipped"]) == 1.0


def test_groups_have_their_norms() -> None:
    tx = gx.probe(gx.chain(gx.clip(10.0), gx.param_groups({"b": gx.sgd(0.5), "*": gx.sgd(0.1)})))
    got = readings(tx)
    assert got["[b]/grad_norm"] == pytest.approx(norm(grads()["b"]), rel=1e-6)
    assert got["[*]/grad_norm"] == pytest.approx(norm(grads()["w"]), rel=1e-6)
    assert got["[b]/update_norm"] == pytest.approx(0.5 * norm(grads()["b"]), rel=1e-6)
    assert got["[*]/param_norm"] == pytest.approx(norm(W), rel=1e-6)
    assert got["[b]/update_ratio"] == pytest.approx(0.5 * norm(grads()["b"]) / norm(B), rel=1e-6)
    assert got["[b]/sgd/rate/learning_rate"] == 0.5
    assert "learning_rate" not in got  # there are two


def test_groups_inside_of_a_mask_have_their_leaves_of_it_only() -> None:
    inner = gx.param_groups({"w": gx.sgd(0.5), "*": gx.sgd(0.1)}, unused="ignore")
    got = readings(gx.probe(gx.masked(gx.guard(inner), {"w": False, "b": True})))
    assert got["[w]/grad_norm"] == 0.0
    assert got["[*]/grad_norm"] == pytest.approx(norm(grads()["b"]), rel=1e-6)


def test_unmoved_is_the_share_that_rounding_leaves() -> None:
    p = jnp.array([256.0, 256.0, 1.0, 8.0], jnp.bfloat16)  # neighbours of 256: 255 and 258
    u = jnp.array([0.5, 2.0, 0.5, 0.0], jnp.bfloat16)
    tx = gx.probe(gx.scale(1.0))
    _, state = jax.jit(tx.update)(u, tx.init(p), p)
    assert float(state.readings["unmoved"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_unmoved_is_what_apply_updates_leaves_unmoved(dtype: str) -> None:
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.normal(size=2000), dtype)
    g = jnp.asarray(np.exp(rng.normal(size=2000) * 3), dtype)
    tx = gx.probe(gx.sgd(1e-3))
    u, state = jax.jit(tx.update)(g, tx.init(p), p)
    stays = (gx.apply_updates(p, u) == p) & (u != 0)
    share = float(stays.sum() / (u != 0).sum())
    assert float(state.readings["unmoved"]) == pytest.approx(share, abs=1e-6)
    assert share > 0.3


def test_foreign_links_are_read_from_outside() -> None:
    tx = gx.probe(gx.chain(optax.clip(1.0), optax.adam(0.1)))
    got = readings(tx, steps=2)
    inside = np.clip(np.asarray(grads()["w"]), -1, 1), np.clip(np.asarray(grads()["b"]), -1, 1)
    assert got["clip/norm_out"] == pytest.approx(norm(*inside), rel=1e-6)
    foreign = next(name.removesuffix("/cosine") for name in got if name.endswith("/cosine"))
    assert got[f"{foreign}/norm_in"] == pytest.approx(norm(*inside), rel=1e-6)
    assert got[f"{foreign}/norm_out"] == pytest.approx(got["update_norm"], rel=1e-6)
    assert got["cosine"] == pytest.approx(1.0, rel=1e-6)


def test_without_links_the_tree_and_the_groups_remain() -> None:
    tx = gx.probe(gx.chain(gx.clip(1.0), gx.param_groups({"b": gx.sgd(0.5), "*": None})), links=False)
    norms = ("grad_norm", "param_norm", "update_norm", "update_ratio")
    of_tree = ("grad_norm", "learning_rate", "param_norm", "unmoved", "update_norm", "update_ratio")
    of_groups = [f"{group}/{name}" for group in ("[*]", "[b]") for name in norms]
    assert list(readings(tx)) == [*of_groups, *of_tree]


# ------------------------------------------------------------------------------------------------ inside of wrappers


def test_a_step_that_waits_keeps_the_last_readings_of_what_is_inside() -> None:
    tx = gx.probe(gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1)), 2))
    g = norm(*grads().values())
    first, second, third = (readings(tx, n) for n in (1, 2, 3))
    assert (first["clip/norm_in"], first["update_norm"], first["clip/clipped"]) == (0.0, 0.0, 0.0)
    assert second["clip/norm_in"] == pytest.approx(g)
    assert second["update_norm"] == pytest.approx(0.1)
    assert third["clip/norm_in"] == second["clip/norm_in"]
    assert third["update_norm"] == 0.0


def test_a_skipped_step_is_read_outside_of_the_guard_and_forgotten_inside() -> None:
    bad = {**grads(), "b": jnp.array([jnp.nan, 1.0])}
    outside, inside = gx.probe(gx.guard(gx.sgd(0.1))), gx.guard(gx.probe(gx.sgd(0.1)))
    for tx, seen in ((outside, np.nan), (inside, norm(*grads().values()))):
        state = tx.init(params())
        for g in (grads(), bad):
            _, state = tx.update(g, state, params())
        got = gx.metrics(state)
        assert float(got["grad_norm"]) == pytest.approx(seen, nan_ok=True)
        assert int(got["guard/skipped"]) == 1


def test_probes_inside_of_probes_see_the_same() -> None:
    got = readings(gx.probe(gx.guard(gx.probe(gx.chain(gx.clip(1.0), gx.sgd(0.1))))))
    inner = {name.removeprefix("probe_1/"): x for name, x in got.items() if name.startswith("probe_1/")}
    assert inner
    assert all(got[name] == x for name, x in inner.items())


class _Twice(NestedBody):
    """A wrapper of somebody who does not know of probes: its transform runs in a branch and in a jitted function."""

    call = "twice"

    def start(self, params: Any, inner_state: Any) -> Any:
        del params
        return ProbeState(None, {}, inner_state)

    def step(self, inner: Any, updates: Any, state: Any, params: Any, extra: Any) -> Any:
        def go(s: Any) -> Any:
            return jax.jit(lambda u, s: inner(u, s, params, extra))(updates, s)

        new, inner_state = jax.lax.cond(jnp.asarray(True), go, go, state.inner_state)
        return new, state._replace(inner_state=inner_state)


def test_what_runs_in_another_trace_is_not_read_and_runs() -> None:
    tx = gx.probe(wrap(_Twice(gx.sgd(0.1), ProbeState)))
    got = readings(tx)
    assert got["rate/norm_in"] == 0.0
    assert got["update_norm"] == pytest.approx(0.1 * got["grad_norm"])


def test_one_step_in_so_many_is_measured() -> None:
    tx = gx.probe(gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1)), 2), every=3)
    each = gx.probe(gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1)), 2))
    state, other = tx.init(params()), each.init(params())
    update, seen, wanted = jax.jit(tx.update), list[Any](), list[Any]()
    for k in (1.0, 2.0, 3.0, 4.0, 5.0):
        u, state = update(grads(k), state, params())
        v, other = each.update(grads(k), other, params())
        for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        seen.append(float(state.readings["grad_norm"]))
        wanted.append(float(other.readings["grad_norm"]))
    assert seen == pytest.approx([wanted[0]] * 3 + [wanted[3]] * 2)
    assert float(state.readings["clip/norm_out"]) == pytest.approx(1.0)
    assert int(state.count) == 5
    assert update._cache_size() == 1


def test_a_transform_with_other_numbers_in_its_place_is_read() -> None:
    got = readings(gx.probe(gx.tunable(gx.chain(gx.clip(1.5), gx.sgd(0.1)), "learning_rate")))
    assert got["learning_rate"] == pytest.approx(0.1)
    assert got["clip/clipped"] == pytest.approx(3 / 8)


# ------------------------------------------------------------------------------------------------ what stays


UNCHANGED = {
    "clipped adamw": gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-2)),
    "guarded groups": gx.guard(gx.param_groups({"b": gx.sgd(0.1, 0.9), "*": gx.lamb(1e-2)})),
    "adafactor": gx.adafactor(1e-2, min_dim_size_to_factor=2),
    "two stages": gx.chain(gx.scale(3.0), gx.clip_by_block_rms(0.5), gx.adan(1e-2)),
    "optax": gx.chain(optax.clip(1.0), optax.adamw(1e-2)),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_no_number_changes(name: str) -> None:
    """Bit by bit, compiled."""
    tx, probed = UNCHANGED[name], gx.probe(UNCHANGED[name])
    rng = np.random.default_rng(0)
    p = {
        "w": jnp.asarray(rng.normal(size=(32, 17)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=9), jnp.bfloat16),
    }
    states = tx.init(p), probed.init(p)
    plain, watched = jax.jit(tx.update), jax.jit(probed.update)
    for _ in range(3):
        g = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), p)
        u, s = plain(g, states[0], p)
        v, t = watched(g, states[1], p)
        states = s, t
        for a, b in zip(jax.tree.leaves((u, s)), jax.tree.leaves((v, t.inner_state)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_without_a_probe_there_is_not_one_equation_more() -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    state = tx.init(params())

    def program() -> str:
        return str(jax.make_jaxpr(lambda g, s: tx.update(g, s, params()))(grads(), state))

    before = program()
    readings(gx.probe(tx))
    assert program() == before
    assert observe.watching() == 0


def test_a_step_that_fails_closes_the_observer() -> None:
    tx = gx.probe(gx.sgd(0.1))
    with pytest.raises(ValueError, match="shape"):
        tx.update({"w": jnp.ones(3), "b": jnp.asarray(B)}, tx.init(params()), params())
    assert observe.watching() == 0


def test_scan_and_donation_see_one_structure() -> None:
    tx = gx.probe(gx.chain(gx.clip(1.5), gx.adamw(1e-2)))

    def step(carry: Any, k: Any) -> Any:
        p, state = carry
        u, state = tx.update(jax.tree.map(lambda x: k * x, grads()), state, p)
        return (gx.apply_updates(p, u), state), state.readings["grad_norm"]

    ks = jnp.array([1.0, 2.0, 0.5])
    (p, state), seen = jax.jit(lambda c: jax.lax.scan(step, c, ks))((params(), tx.init(params())))
    np.testing.assert_allclose(seen, ks * norm(*grads().values()), rtol=1e-6)
    donated, carry = jax.jit(step, donate_argnums=0), (params(), tx.init(params()))
    for k in ks:
        carry, _ = donated(carry, k)
    assert donated._cache_size() == 1
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves((p, state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_odd_trees() -> None:
    p = {
        "none": None,
        "masked": optax.MaskedNode(),
        "zero": jnp.ones([]),
        "empty": jnp.ones((0, 2)),
        "int": jnp.arange(3),
    }
    g = {**p, "int": np.zeros(3, jax.dtypes.float0)}
    tx = gx.probe(gx.adamw(0.1))
    _, state = tx.update(g, tx.init(p), p)
    assert float(state.readings["grad_norm"]) == 1.0
    empty = gx.probe(gx.adamw(0.1))
    _, state = empty.update({}, empty.init({}), {})
    assert all(float(x) == 0 for name, x in state.readings.items() if "learning_rate" not in name)


def test_without_parameters_what_needs_them_stays_zero() -> None:
    tx = gx.probe(gx.sgd(0.1))
    _, state = tx.update(grads(), tx.init(params()))
    assert float(state.readings["param_norm"]) == float(state.readings["update_ratio"]) == 0.0
    assert float(state.readings["update_norm"]) == pytest.approx(0.1 * norm(*grads().values()), rel=1e-6)


def test_sixteen_bits_are_added_in_float32() -> None:
    p = jnp.zeros(5000, jnp.float16)
    tx = gx.probe(gx.sgd(1.0))
    _, state = tx.update(jnp.full(5000, 300.0, jnp.float16), tx.init(p), p)
    assert float(state.readings["grad_norm"]) == pytest.approx(300 * 5000**0.5, rel=1e-5)


def test_shards_are_added_over_the_mesh() -> None:
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    p, g = (
        {"w": jnp.ones((8, 2)), "b": jnp.full(3, 2.0)},
        {"w": jnp.arange(16.0).reshape(8, 2), "b": jnp.ones(3)},
    )
    tx = gx.probe(gx.chain(gx.clip(5.5), gx.sgd(0.1, 0.9)), axis_names="x")
    specs = {"w": P("x"), "b": P()}

    def step(g: Any, p: Any) -> Any:
        return tx.update(g, tx.init(p), p)[1].readings

    sharded = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(specs, specs), out_specs=P()))(g, p)
    whole = step(g, p)
    for name, x in whole.items():
        np.testing.assert_allclose(sharded[name], x, rtol=1e-6, err_msg=name)
    assert float(whole["clip/clipped"]) == pytest.approx(10 / 19)
    blind = gx.probe(gx.sgd(0.1))
    with pytest.raises(ValueError, match="axis_names"):
        jax.shard_map(
            lambda g, p: blind.update(g, blind.init(p), p)[1].readings,
            mesh=mesh, in_specs=(specs, specs), out_specs=P(),
        )(g, p)  # fmt: skip


def test_every_is_a_number_of_steps() -> None:
    with pytest.raises(ValueError, match=r"gx\.probe\(every=0"):
        gx.probe(gx.sgd(0.1), every=0)


def test_links_is_a_flag() -> None:
    with pytest.raises(TypeError, match=r"gx\.probe\(links"):
        gx.probe(gx.sgd(0.1), links="all")  # type: ignore[arg-type]
