"""What the orders of wrappers mean: the rows of the table in docs/guide/wrappers.md, in numbers; what `describe` says.

Each row is one test: two orders of the same parts, the numbers of both, and for each order whether it is warned of.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

#: Gradients of norm 3 and 4: the whole has norm 5.
G = {"w": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
P = {"w": jnp.array([1.0, 1.0]), "b": jnp.array([1.0])}
BAD = {"w": jnp.array([3.0, 0.0]), "b": jnp.array([jnp.nan])}


def times(k: float) -> Any:
    return jax.tree.map(lambda g: k * g, G)


def run(tx: Any, *gradients: Any, params: Any = P) -> tuple[list[Any], Any, Any]:
    """The updates of all steps, the last state and the last parameters."""
    state, made = tx.init(params), list[Any]()
    for g in gradients:
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        made.append(updates)
    return made, state, params


def size(updates: Any) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(u))) for u in jax.tree.leaves(updates))))


def says(tx: Any, *, params: Any = P) -> list[str]:
    """The lines of `describe` about orders."""
    return [
        line for line in str(gx.describe(tx, params)).splitlines() if line.startswith(("WARNING", "NOTE"))
    ]


def node(state: Any, name: str) -> Any:
    return next(x for _, x in gx._core.states.nodes(state) if type(x).__name__ == name)


def same(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


CLIP = gx.clip_by_global_norm(1.0)


# ------------------------------------------------------------------------------------------------ clip


def test_clip_and_groups() -> None:
    """Before the groups the whole has norm 1; inside, each group has."""
    before = gx.chain(CLIP, gx.param_groups({"w": gx.sgd(1.0), "b": gx.sgd(1.0)}))
    inside = gx.param_groups({name: gx.chain(CLIP, gx.sgd(1.0)) for name in P})
    assert size(run(before, G)[0][0]) == pytest.approx(1.0)
    assert size(run(inside, G)[0][0]) == pytest.approx(2**0.5)
    assert says(before) == []
    assert says(inside) == [
        "WARNING: [w]/clip (and [b]/clip) sees 1 of 2 leaves, those of its group or mask, and adds up over them only; "
        "outside of it, it sees all"
    ]


def test_clip_and_mask() -> None:
    assert "sees 1 of 2 leaves" in says(gx.chain(gx.masked(CLIP, "w"), gx.sgd(1.0)))[0]
    assert (
        "sees 1 of 2 leaves" in says(gx.chain(gx.masked(optax.clip_by_global_norm(1.0), "w"), gx.sgd(1.0)))[0]
    )
    assert says(gx.chain(gx.masked(gx.clip(1.0), "w"), gx.sgd(1.0))) == []  # by element: the same everywhere


def test_clip_and_frozen_groups() -> None:
    """What is frozen is not missed: its gradients do not count, and need not be computed."""
    tx = gx.param_groups({"w": gx.chain(CLIP, gx.sgd(1.0)), "b": None})
    assert size(run(tx, G)[0][0]) == pytest.approx(1.0)
    assert says(tx) == []
    assert size(
        run(gx.chain(CLIP, gx.param_groups({"w": gx.sgd(1.0), "b": None})), G)[0][0]
    ) == pytest.approx(0.6)


def test_clip_and_accumulate() -> None:
    """Inside, the mean of 5 and 0 is 2.5 and becomes 1; before it, 5 becomes 1, and the mean is 0.5."""
    inside = gx.accumulate(gx.chain(CLIP, gx.sgd(1.0)), 2)
    before = gx.chain(CLIP, gx.accumulate(gx.sgd(1.0), 2))
    assert size(run(inside, G, times(0.0))[0][1]) == pytest.approx(1.0)
    assert size(run(before, G, times(0.0))[0][1]) == pytest.approx(0.5)
    assert says(inside) == []
    assert says(before) == [
        "WARNING: clip stands before sgd/accumulate: it works on each micro-batch and not on their mean; put it inside"
    ]


def test_clip_and_optax_s_accumulation() -> None:
    steps = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    assert says(gx.chain(CLIP, steps))[0].startswith("WARNING: clip stands before")
    assert says(gx.chain(optax.clip_by_global_norm(1.0), steps))[0].startswith("WARNING: clip_by_global_norm")


def test_clip_and_guard() -> None:
    """Inside of the guard a hundredfold gradient is a spike; a guard behind the clip sees a norm of 1 every time."""
    usual = [times(k) for k in (0.9, 1.0, 1.1, 1.0)]
    inside = gx.guard(gx.chain(CLIP, gx.sgd(1.0)), spike=6.0, window=4)
    before = gx.chain(CLIP, gx.guard(gx.sgd(1.0), spike=6.0, window=4))
    skipped = [int(gx.metrics(run(tx, *usual, times(100.0))[1])["guard/skipped"]) for tx in (inside, before)]
    assert skipped == [1, 0]
    assert says(inside) == []
    assert says(before) == [
        "WARNING: clip stands before sgd/guard, which judges what the clip leaves; put it inside"
    ]


def test_clip_and_loss_scale() -> None:
    """The clip before it works on gradients that are still scaled: 5 * 1024 becomes 1, and 1 / 1024 is left."""
    scaled = times(1024.0)
    inside = gx.loss_scale(gx.chain(CLIP, gx.sgd(1.0)), 2.0**10)
    before = gx.chain(CLIP, gx.loss_scale(gx.sgd(1.0), 2.0**10))
    assert size(run(inside, scaled)[0][0]) == pytest.approx(1.0)
    assert size(run(before, scaled)[0][0]) == pytest.approx(1 / 1024)
    assert says(inside) == []
    assert "stands before sgd/loss_scale" in says(before)[0]


# ------------------------------------------------------------------------------------------------ guard


def test_guard_and_accumulate() -> None:
    """Inside, a bad micro-batch costs its window: 1, bad | 3, 5. Around, it costs itself: 1, 3 | 5, ..."""
    batches = [times(1.0), BAD, times(3.0), times(5.0)]
    inside, around = gx.accumulate(gx.guard(gx.sgd(1.0)), 2), gx.guard(gx.accumulate(gx.sgd(1.0), 2))
    assert [size(u) for u in run(inside, *batches)[0]] == pytest.approx([0, 0, 0, 5 * 4])
    assert [size(u) for u in run(around, *batches)[0]] == pytest.approx([0, 0, 5 * 2, 0])
    assert says(inside) == [
        "NOTE: guard stands inside of accumulate: it judges the mean of the micro-batches, "
        "and a bad one costs the whole window"
    ]
    assert says(around) == [
        "NOTE: guard stands around accumulate: it judges each micro-batch, "
        "and one that it skips does not count in the window"
    ]


def test_guard_and_groups() -> None:
    """Around the groups a step counts or does not; inside, one group goes on while the other rests."""
    around = gx.guard(gx.param_groups({"w": gx.sgd(1.0), "b": gx.sgd(1.0)}))
    inside = gx.param_groups({name: gx.guard(gx.sgd(1.0)) for name in P})
    assert size(run(around, BAD)[0][0]) == 0.0
    assert size(run(inside, BAD)[0][0]) == 3.0
    assert says(around) == []
    assert "[w]/sgd/guard (and [b]/sgd/guard) sees 1 of 2 leaves" in says(inside)[0]


def test_guard_around_a_part_of_the_chain() -> None:
    """Adam behind the guard makes a step of zero of what is skipped; inside, the step has never happened."""
    part = gx.chain(gx.guard(CLIP), gx.adam(1.0))
    whole = gx.guard(gx.chain(CLIP, gx.adam(1.0)))
    counts = [int(node(run(tx, G, BAD)[1], "ScaleByAdamState").count) for tx in (part, whole)]
    assert counts == [2, 1]
    moved = [size(run(tx, G, BAD)[0][1]) for tx in (part, whole)]
    assert moved[0] > 0.5
    assert moved[1] == 0.0
    assert "stands behind clip/guard: a step that is skipped is a step of zero for it" in says(part)[0]
    assert says(whole) == []


def test_guard_and_loss_scale() -> None:
    """Around it, the guard undoes what the loss scale learns from an overflow: the scale never falls."""
    inf = jax.tree.map(lambda g: g * jnp.inf, {"w": jnp.array([1.0, 1.0]), "b": jnp.array([1.0])})
    inside = gx.loss_scale(gx.guard(gx.sgd(1.0)), 2.0**10)
    around = gx.guard(gx.loss_scale(gx.sgd(1.0), 2.0**10))
    scales = [float(gx.metrics(run(tx, inf, inf, inf)[1])["loss_scale/scale"]) for tx in (inside, around)]
    assert scales == [2.0**7, 2.0**10]
    assert says(inside) == []
    assert says(around) == [
        "WARNING: guard stands around loss_scale: it undoes what loss_scale learns from a step that is bad; "
        "put it inside"
    ]


# ------------------------------------------------------------------------------------------------ average


def mean(tx: Any, *gradients: Any) -> float:
    """The average of `b` after some steps."""
    _, state, params = run(tx, *gradients)
    return float(gx.eval_params(state, params)["b"][0])


def test_average_and_accumulate() -> None:
    """b goes 1, -1, -3 in two windows: inside, the average takes -1 and -3; behind, 1, -1, -1, -3."""
    half = times(0.5)
    inside = gx.accumulate(gx.average_params(gx.sgd(1.0), decay=None), 2)
    behind = gx.average_params(gx.accumulate(gx.sgd(1.0), 2), decay=None)
    assert mean(inside, *[half] * 4) == pytest.approx((-1 - 3) / 2)
    assert mean(behind, *[half] * 4) == pytest.approx((1 - 1 - 1 - 3) / 4)
    assert says(inside) == []
    assert "it runs at every micro-step, with zeros in between" in says(behind)[0]


def test_schedule_free_stands_as_an_average_does() -> None:
    """z goes 1, -1, -3 in two windows, and x is the mean of the z of all steps; what is behind moves x too."""
    half, free = times(0.5), gx.schedule_free(gx.sgd(1.0), 1.0)
    inside = gx.accumulate(free, 2)
    behind = gx.schedule_free(gx.accumulate(gx.sgd(1.0), 2), 1.0)
    assert mean(inside, *[half] * 4) == pytest.approx((-1 - 3) / 2)
    assert mean(behind, *[half] * 4) == pytest.approx((1 - 1 - 1 - 3) / 4)
    assert says(inside) == []
    assert "it runs at every micro-step, with zeros in between" in says(behind)[0]
    clipped = gx.chain(free, gx.clip(0.09))
    assert mean(clipped, half) == pytest.approx(-1 + (1 - 0.09 + 1) / 0.9)  # z + (y - z) / b1
    assert "put it last" in says(clipped)[0]
    assert "put it outside" in says(gx.cautious(free))[0]


def test_average_and_guard() -> None:
    """b goes 1, -1, and stays there at a bad step: inside, the average knows of one step; behind, of two."""
    half = times(0.5)
    inside = gx.guard(gx.average_params(gx.sgd(1.0), decay=0.5))
    behind = gx.average_params(gx.guard(gx.sgd(1.0)), decay=0.5)
    steps = (half, half, BAD)  # -1, -3, -3
    assert mean(inside, *steps) == pytest.approx((0.5 * -1 + -3) / 1.5)
    assert mean(behind, *steps) == pytest.approx((0.25 * -1 + 0.5 * -3 + -3) / 1.75)
    assert says(inside) == []
    assert "a step that is skipped is a step of zero for it" in says(behind)[0]


def test_average_and_what_comes_behind_it() -> None:
    """An average of parameters that nobody has: it stands before the learning rate."""
    last = gx.average_params(gx.chain(gx.scale_by_sign(), gx.scale_by_learning_rate(0.1)), decay=None)
    early = gx.chain(gx.average_params(gx.scale_by_sign(), decay=None), gx.scale_by_learning_rate(0.1))
    assert mean(last, G) == pytest.approx(0.9)
    assert mean(early, G) == pytest.approx(2.0)
    assert says(last) == []
    assert "put it last" in says(early)[0]


def test_average_and_groups() -> None:
    """The same: an average is a leaf's own affair."""
    around = gx.average_params(gx.param_groups({"w": gx.sgd(0.1), "b": gx.sgd(0.2)}), decay=0.5)
    inside = gx.param_groups({"w": gx.average_params(gx.sgd(0.1), decay=0.5), "b": gx.sgd(0.2)})
    for tx in (around, inside):
        _, state, params = run(tx, G, G)
        assert gx.eval_params(state, params)["w"][0] == pytest.approx((0.5 * 0.7 + 0.4) / 1.5)
        assert says(tx) == []


# ------------------------------------------------------------------------------------------------ accumulate


def test_accumulate_and_decay() -> None:
    """A decay behind the accumulation decays at every micro-step."""
    decay = gx.add_decayed_weights(0.1, coupled=False)
    inside = gx.accumulate(gx.chain(gx.sgd(1.0), decay), 2)
    behind = gx.chain(gx.accumulate(gx.sgd(1.0), 2), decay)
    still = [times(0.0)] * 2
    assert float(run(inside, *still)[2]["b"][0]) == pytest.approx(0.9)
    assert float(run(behind, *still)[2]["b"][0]) == pytest.approx(0.81)
    assert says(inside) == []
    assert "it runs at every micro-step" in says(behind)[0]


def test_accumulate_and_groups() -> None:
    """The same: groups that all wait for the same number of micro-batches."""
    around = gx.accumulate(gx.param_groups({"w": gx.sgd(0.1), "b": gx.adam(0.2)}), 2)
    inside = gx.param_groups({"w": gx.accumulate(gx.sgd(0.1), 2), "b": gx.accumulate(gx.adam(0.2), 2)})
    same(run(around, G, times(3.0), G)[2], run(inside, G, times(3.0), G)[2])
    assert says(around) == says(inside) == []


# ------------------------------------------------------------------------------------------------ tunable, probe


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda tx: gx.guard(tx),
        lambda tx: gx.accumulate(tx, 2),
        lambda tx: gx.average_params(tx, 0.5),
        lambda tx: gx.probe(tx),
    ],
    ids=["guard", "accumulate", "average", "probe"],
)
def test_tunable_and_any_other(wrapper: Any) -> None:
    """The same, and a number that has been set stays, also over a step that is skipped."""
    core = gx.chain(CLIP, gx.adam(0.1))
    ends: list[Any] = []
    for tx in (gx.tunable(wrapper(core), "learning_rate"), wrapper(gx.tunable(core, "learning_rate"))):
        state, params = gx.set_hyperparams(tx.init(P), learning_rate=0.5), P
        for g in (G, BAD if wrapper(core) == gx.guard(core) else G, times(2.0)):
            updates, state = tx.update(g, state, params)
            params = gx.apply_updates(params, updates)
        ends.append(params)
        assert float(gx.metrics(state)["learning_rate"]) == 0.5
        assert [line for line in says(tx) if line.startswith("WARNING")] == []
    for x, y in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)  # two programs


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda tx: gx.guard(tx),
        lambda tx: gx.accumulate(tx, 2),
        lambda tx: gx.average_params(tx, 0.5),
        lambda tx: gx.tunable(tx, "learning_rate"),
    ],
    ids=["guard", "accumulate", "average", "tunable"],
)
def test_probe_and_any_other(wrapper: Any) -> None:
    """It changes nothing. What it reads depends on where it stands (tests/combine/test_probe.py)."""
    core = gx.chain(CLIP, gx.adam(0.1))
    plain = run(wrapper(core), G, G, times(2.0))[2]
    for tx in (gx.probe(wrapper(core)), wrapper(gx.probe(core))):
        same(run(tx, G, G, times(2.0))[2], plain)
        assert [line for line in says(tx) if line.startswith("WARNING")] == []


def test_probe_in_a_group_or_behind_a_clip() -> None:
    """In a group it reads the group's norms; behind a clip, what the clip has left."""
    group = gx.param_groups({"w": gx.probe(gx.sgd(1.0)), "b": gx.sgd(1.0)})
    assert float(gx.metrics(run(group, G)[1])["grad_norm"]) == 3.0
    assert "[w]/sgd/probe sees 1 of 2 leaves" in says(group)[0]
    behind = gx.chain(CLIP, gx.probe(gx.sgd(1.0)))
    assert float(gx.metrics(run(behind, G)[1])["grad_norm"]) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------ the recommended one


def test_the_recommended_order_is_not_warned_of() -> None:
    groups = gx.param_groups({"b": gx.adam(1e-3), "*": gx.adamw(1e-3)})
    inner = gx.average_params(gx.chain(CLIP, groups), 0.99)
    tx = gx.probe(gx.tunable(gx.accumulate(gx.guard(inner, spike=6.0), 4), "adam/learning_rate"))
    assert [line for line in says(tx) if line.startswith("WARNING")] == []
    _, state, params = run(tx, *[G] * 4)
    assert float(gx.metrics(state)["grad_norm"]) == pytest.approx(5.0)
    assert gx.eval_params(state, params)["b"].shape == (1,)


def test_orders_are_facts_for_programs() -> None:
    facts = gx.describe(gx.chain(CLIP, gx.accumulate(gx.sgd(1.0), 2)), P).facts
    assert len(facts.orders) == 1
    assert gx.describe(gx.adamw(1e-3), P).facts.orders == ()


def test_what_optax_s_own_parts_do_in_an_order() -> None:
    """A clip, a momentum and a decay of Optax's are known for what they are, in its own chain too."""
    clip, many = optax.clip_by_global_norm(1.0), optax.MultiSteps(optax.adam(0.1), 2)
    for tx, first in (
        (
            gx.chain(clip, many),
            "WARNING: clip_by_global_norm stands before MultiSteps: it works on each micro-batch",
        ),
        (
            gx.chain(optax.chain(clip, optax.chain(many.gradient_transformation()))),
            "WARNING: chain/clip_by_global_norm stands before chain/MultiSteps: it works on each micro-batch",
        ),
        (
            gx.chain(gx.guard(gx.scale(1.0)), optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1))),
            "WARNING: chain/trace (and chain/add_decayed_weights) stands behind scale/guard: a step that is skipped",
        ),
        (
            gx.chain(optax.apply_if_finite(optax.identity(), 3), optax.adam(0.1)),
            "WARNING: chain/scale_by_adam stands behind apply_if_finite: a step that is skipped is a step of zero",
        ),
        (
            gx.chain(gx.accumulate(gx.scale(1.0), 2), optax.trace(0.9), optax.scale(-1.0)),
            "WARNING: trace stands behind scale/accumulate: it runs at every micro-step",
        ),
    ):
        lines = says(tx)
        assert len(lines) == 1
        assert lines[0].startswith(first)
    for quiet in (
        gx.chain(optax.zero_nans(), gx.accumulate(gx.sgd(0.1), 2)),
        gx.chain(gx.accumulate(gx.sgd(0.1), 2), optax.contrib.reduce_on_plateau()),
        gx.chain(optax.snapshot("name", lambda *a, **k: 0.0), gx.accumulate(gx.sgd(0.1), 2)),
    ):
        assert says(quiet) == []
    odd = optax.GradientTransformation(
        lambda params: ((), ()), lambda updates, state, params=None: (updates, state)
    )
    known = says(gx.chain(optax.chain(odd, optax.clip_by_global_norm(1.0)), gx.accumulate(gx.sgd(0.1), 2)))
    assert known[0].startswith("WARNING: chain/clip_by_global_norm stands before sgd/accumulate")
    for tx in (
        optax.adamw(0.1),
        gx.accumulate(optax.adamw(0.1), 2),
        gx.guard(gx.chain(clip, optax.adam(0.1))),
    ):
        assert says(tx) == []


def test_an_average_inside_of_what_changes_updates() -> None:
    assert says(gx.average_params(gx.cautious(gx.sgd(0.1)))) == []
    assert says(gx.cautious(gx.average_params(gx.sgd(0.1)))) == [
        "WARNING: average stands inside of cautious, which changes the updates of which its weights are made; put it "
        "outside"
    ]
    tx = gx.cautious(gx.average_params(gx.sgd(1.0, momentum=0.9), 0.0))
    _, state, params = run(tx, G, times(-0.1))
    assert not np.array_equal(gx.eval_params(state, params)["w"], params["w"])
