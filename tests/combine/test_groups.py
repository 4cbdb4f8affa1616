"""`param_groups`: the first match wins, None means nothing at all, every leaf and every key is accounted for."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

PARAMS = {
    "embed": {"table": jnp.full((2, 2), 2.0)},
    "block_0": {"kernel": jnp.asarray([[3.0, 4.0]]), "bias": jnp.asarray([12.0])},
    "bias": jnp.asarray([5.0]),
}


def run(tx: Any, params: Any = PARAMS, steps: int = 1) -> tuple[dict[str, float], Any]:
    """The last update of every leaf (its first element) and the state; the gradient is the parameter."""
    state = tx.init(params)
    updates: Any = None
    for _ in range(steps):
        updates, state = tx.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    found = {
        "/".join(str(key.key) for key in path): float(np.ravel(x)[0])
        for path, x in jax.tree_util.tree_flatten_with_path(updates)[0]
    }
    return found, state


def test_the_first_match_wins() -> None:
    tx = gx.param_groups(
        {
            "block_0/bias": gx.scale(2.0),
            "*/bias": gx.scale(3.0),
            "block_0/*": gx.scale(4.0),
            "*": gx.scale(5.0),
        }
    )
    assert run(tx)[0] == {"bias": 15.0, "block_0/bias": 24.0, "block_0/kernel": 12.0, "embed/table": 10.0}


def test_the_order_of_keys_decides() -> None:
    ahead = gx.param_groups({"*/bias": gx.scale(2.0), "block_0/*": gx.scale(3.0), "*": None})
    behind = gx.param_groups({"block_0/*": gx.scale(3.0), "*/bias": gx.scale(2.0), "*": None})
    assert run(ahead)[0]["block_0/bias"] == 24.0
    assert run(behind)[0]["block_0/bias"] == 36.0
    assert ahead != behind


def test_keys_of_every_kind_stand_side_by_side() -> None:
    def table(path: str, leaf: Any) -> bool:
        return leaf.shape == (2, 2)

    tx = gx.param_groups(
        {
            re.compile(r"block_\d+/k"): gx.scale(2.0),
            ("bias", "nothing"): gx.scale(3.0),
            table: gx.scale(4.0),
            "*": None,
        }
    )
    assert run(tx)[0] == {"bias": 15.0, "block_0/bias": 0.0, "block_0/kernel": 6.0, "embed/table": 8.0}
    assert tx == gx.param_groups(tx.spec.arguments["groups"])


def test_an_expression_is_searched() -> None:
    assert run(gx.param_groups({re.compile("bias"): gx.scale(2.0), "*": None}))[0]["block_0/bias"] == 24.0
    assert run(gx.param_groups({re.compile("^bias"): gx.scale(2.0), "*": None}))[0]["block_0/bias"] == 0.0


def test_none_means_no_state_and_zero_updates() -> None:
    tx = gx.param_groups({"embed/*": None, "*": gx.adam(0.1)})
    updates, state = run(tx, steps=2)
    assert updates["embed/table"] == 0.0
    assert len(jax.tree.leaves(state)) == 1 + 2 * 3
    assert list(state.inner_states) == ["*"]
    everything = gx.param_groups({"*": None})
    updates, state = run(everything)
    assert set(updates.values()) == {0.0}
    assert jax.tree.leaves(state) == []


def test_none_does_no_work() -> None:
    tx = gx.param_groups({"embed/*": None, "*": gx.adam(0.1)})
    live = {k: v for k, v in PARAMS.items() if k != "embed"}
    other = gx.param_groups({"*": gx.adam(0.1)})

    def roots(jaxpr):
        inner = [p.jaxpr for e in jaxpr.eqns for p in e.params.values() if hasattr(p, "jaxpr")]
        return sum(e.primitive.name == "sqrt" for e in jaxpr.eqns) + sum(map(roots, inner))

    mine = jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    without = jax.make_jaxpr(other.update)(live, other.init(live), live)
    assert roots(mine.jaxpr) == roots(without.jaxpr) == 3


def test_frozen_integers_stay_integers() -> None:
    params = {"n": jnp.arange(3), "w": jnp.ones(2)}
    tx = gx.param_groups({"n": None, "*": gx.sgd(1.0)})
    updates, _ = tx.update({"n": jnp.arange(3), "w": jnp.ones(2)}, tx.init(params), params)
    assert updates["n"].dtype == jnp.int32
    assert not np.any(updates["n"])
    assert gx.apply_updates(params, updates)["n"].tolist() == [0, 1, 2]


# ---------------------------------------------------------------------------------------- clips outside and inside


def test_a_clip_outside_the_groups_sees_all_of_them() -> None:
    """The norm of (3, 4), 12 and the rest: sqrt(25 + 144 + 25 + 16) = sqrt(210)."""
    tx = gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.param_groups({"embed/*": None, "*/bias": gx.scale(2.0), "*": gx.identity()}),
    )
    updates, _ = run(tx)
    norm = float(np.sqrt(210.0))
    assert updates["block_0/kernel"] == pytest.approx(3 / norm, rel=1e-6)
    assert updates["block_0/bias"] == pytest.approx(24 / norm, rel=1e-6)
    assert updates["embed/table"] == 0.0


def test_a_clip_inside_a_group_sees_its_group() -> None:
    tx = gx.param_groups(
        {
            "*/bias": gx.chain(gx.clip_by_global_norm(1.3), gx.scale(2.0)),  # |(12, 5)| = 13
            "block_0/*": gx.clip_by_global_norm(1.0),  # |(3, 4)| = 5
            "*": gx.identity(),
        }
    )
    updates, _ = run(tx)
    assert updates["block_0/bias"] == pytest.approx(2.4, rel=1e-6)
    assert updates["bias"] == pytest.approx(1.0, rel=1e-6)
    assert updates["block_0/kernel"] == pytest.approx(0.6, rel=1e-6)
    assert updates["embed/table"] == 2.0


def test_a_clip_behind_the_groups_sees_what_they_made() -> None:
    tx = gx.chain(
        gx.param_groups({"embed/*": None, "block_0/kernel": gx.scale(2.0), "*": None}),
        gx.clip_by_global_norm(1.0),
    )
    assert run(tx)[0]["block_0/kernel"] == pytest.approx(0.6, rel=1e-6)  # |(6, 8)| = 10


def test_groups_in_groups() -> None:
    inner = gx.param_groups({"*/bias": gx.scale(2.0), "*": gx.clip_by_global_norm(1.0)})
    tx = gx.param_groups({"block_0/*": inner, "*": gx.scale(3.0)})
    updates, _ = run(tx)
    assert updates == pytest.approx(
        {"bias": 15.0, "block_0/bias": 24.0, "block_0/kernel": 0.6, "embed/table": 6.0}
    )


# ---------------------------------------------------------------------------------------- Optax, addresses, state


def test_groups_are_optax_s_partition() -> None:
    labels = {"embed": {"table": "f"}, "block_0": {"kernel": "k", "bias": "b"}, "bias": "b"}
    ours = gx.param_groups({"embed/*": None, "*/bias": gx.sgd(0.1, momentum=0.9), "*": gx.adamw(0.1)})
    with jax.numpy_dtype_promotion("standard"):  # Optax's formulas promote
        theirs = optax.partition(
            {"f": optax.set_to_zero(), "b": optax.sgd(0.1, momentum=0.9), "k": optax.adamw(0.1)}, labels
        )
        wanted, their_state = run(theirs, steps=3)
    got, state = run(ours, steps=3)
    assert got == pytest.approx(wanted, rel=1e-5)
    assert type(state) is type(their_state)
    for ours_label, theirs_label in (("*/bias", "b"), ("*", "k")):
        mine, other = state.inner_states[ours_label], their_state.inner_states[theirs_label]
        assert jax.tree.structure(mine) == jax.tree.structure(other)


def test_addresses_of_groups() -> None:
    tx = gx.chain(
        gx.clip(1.0),
        gx.param_groups(
            {"a*": None, re.compile("b$"): gx.scale_by_adam(), ("c", "d"): gx.adam(0.1), "*": gx.chain()}
        ),
    )
    found = [link.address for link in tx.plan.links]
    assert found == ["clip", "[a*]/frozen", "[re:b$]/adam", "[c|d]/adam/adam", "[c|d]/adam/rate"]
    assert len(set(found)) == len(found)


def test_two_predicates_of_one_name_are_two_groups() -> None:
    tx = gx.param_groups(
        {(lambda p, x: x.ndim == 2): gx.trace(0.5), (lambda p, x: x.ndim == 1): gx.trace(0.25)}
    )
    updates, state = run(tx, steps=2)
    assert len(state.inner_states) == 2
    assert updates["block_0/kernel"] == 4.5
    assert updates["bias"] == 6.25


# ---------------------------------------------------------------------------------------- what is refused


def test_a_leaf_that_no_key_takes_is_named() -> None:
    tx = gx.param_groups({"embed/*": None, "*/kernel": gx.sgd(0.1)})
    with pytest.raises(ValueError, match=r"no key takes .*'bias'.*'block_0/bias'"):
        tx.init(PARAMS)
    with pytest.raises(ValueError, match="no key takes"):
        gx.describe(tx, PARAMS)


def test_a_key_that_takes_nothing_is_named() -> None:
    groups = {"embd/*": None, "*": gx.sgd(0.1)}
    with pytest.raises(ValueError, match=r"(?s)nothing belongs to .*'embd/\*'.*unused='ignore'"):
        gx.param_groups(groups).init(PARAMS)
    shadowed = {"*": gx.sgd(0.1), "embed/*": None}
    with pytest.raises(ValueError, match=r"nothing belongs to .*'embed/\*'"):
        gx.param_groups(shadowed).init(PARAMS)
    tx = gx.param_groups(groups, unused="ignore")
    updates, _ = run(tx)
    assert updates["bias"] == -0.5
    empty = gx.param_groups({"nothing": gx.adam(0.1), "*": gx.sgd(0.1)}, unused="ignore")
    assert run(empty)[0]["bias"] == -0.5


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        ({}, TypeError),
        (None, TypeError),
        ([("*", 1)], TypeError),
        ({3: gx.sgd(0.1)}, TypeError),
        ({"*": gx.sgd}, TypeError),
        ({"*": 0.1}, TypeError),
        ({"*": "adam"}, TypeError),
        ({gx.GradientTransformation: gx.sgd(0.1)}, TypeError),
    ],
)
def test_wrong_groups_are_refused(groups: Any, error: Any) -> None:
    with pytest.raises(error, match=r"gx\.param_groups"):
        gx.param_groups(groups)


def test_unused_has_two_values() -> None:
    with pytest.raises(ValueError, match="unused"):
        gx.param_groups({"*": gx.sgd(0.1)}, unused="warn")


def test_a_predicate_answers_with_a_boolean() -> None:
    with pytest.raises(TypeError, match="True or False"):
        gx.param_groups({(lambda path, leaf: 1): gx.sgd(0.1)}).init(PARAMS)


def test_holes_belong_to_no_group() -> None:
    params = {"w": jnp.ones(2), "gone": None, "hidden": optax.MaskedNode()}
    tx = gx.param_groups({"w": gx.adam(0.1)})
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["gone"] is None
    assert updates["hidden"] == optax.MaskedNode()
