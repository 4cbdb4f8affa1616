"""`describe`: when it warns that a chain climbs."""

import json
from typing import Any

import jax.numpy as jnp
import optax
import pytest

import gradxform as gx

PARAMS = {"a": jnp.ones(2), "b": jnp.ones(3)}

DOWNHILL = {
    "recipe": gx.adamw(0.1),
    "two recipes side by side": gx.chain(gx.masked(gx.sgd(0.1), "a"), gx.masked(gx.sgd(0.2), "b")),
    "groups": gx.param_groups({"a": gx.sgd(0.1), "b": gx.adam(0.1)}),
    "frozen": gx.param_groups({"a": gx.sgd(0.1), "b": None}),
    "what cannot be read": gx.chain(optax.adam(0.1)),
}


@pytest.mark.parametrize("name", DOWNHILL)
def test_what_goes_downhill_is_not_warned_of(name: str) -> None:
    assert "WARNING" not in str(gx.describe(DOWNHILL[name], PARAMS))


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (gx.scale_by_adam(), "WARNING: this ends uphill"),
        (gx.chain(gx.sgd(0.1), gx.scale(-1.0)), "WARNING: this ends uphill"),
        (gx.masked(gx.sgd(0.1), "a"), "WARNING: this ends uphill for b:"),
        (gx.param_groups({"a": gx.sgd(0.1), "b": gx.scale_by_sign()}), "WARNING: this ends uphill for b:"),
    ],
)
def test_what_ends_uphill_is_named(tx: Any, words: str) -> None:
    assert words in str(gx.describe(tx, PARAMS))


def test_groups_have_leaves_rates_and_decay() -> None:
    rate = gx.warmup_cosine(1e-3, 10, 100)
    tx = gx.param_groups(
        {"w*": gx.adamw(rate, weight_decay=0.1, mask=gx.matrices()), "b": gx.sgd(0.5), "f": None}
    )
    params = {"w1": jnp.ones((2, 3)), "w2": jnp.ones(4), "b": jnp.ones(5), "f": jnp.ones(7)}
    found = {g.leaves: g for g in gx.describe(tx, params).groups}
    told = {leaves: (g.parameters, g.rate, g.decay, g.frozen) for leaves, g in found.items()}
    assert told == {
        ("w1",): (6, repr(rate), "0.1", False),
        ("w2",): (4, repr(rate), "-", False),
        ("b",): (5, "0.5", "-", False),
        ("f",): (7, "-", "-", True),
    }
    assert found["w1",].links == ("[w*]/adamw/adam", "[w*]/adamw/decay", "[w*]/adamw/rate")
    text = str(gx.describe(tx, params))
    (line,) = [x for x in text.splitlines() if x.startswith("b  ")]
    assert line.split()[:5] == ["b", "1", "5", "0.5", "-"]
    assert "frozen: f" in text
    assert "group  " not in str(gx.describe(gx.adamw(1e-3, mask=gx.matrices()), params)), "one rate, no table"


def test_leaves_that_the_same_links_take_are_one_group() -> None:
    (group,) = gx.describe(gx.adam(1e-3), PARAMS).groups
    assert (group.leaves, group.parameters, group.links) == (("a", "b"), 5, ("adam", "rate"))


def test_state_is_told_by_role_and_dtype() -> None:
    params = {"w": jnp.ones((64, 64), jnp.bfloat16), "s": jnp.ones(2, jnp.bfloat16)}

    def rows(tx: Any) -> list[tuple[str, str, int]]:
        return [(row.role, row.dtype, row.bytes) for row in gx.describe(tx, params).state]

    assert rows(gx.adam(1e-3)) == [
        ("count", "int32", 4),
        ("moment", "bfloat16", 8196),
        ("second moment", "float32", 16392),
    ]
    assert "moment 8.2 kB (bfloat16), second moment 16.4 kB" in str(gx.describe(gx.adam(1e-3), params))
    stored = gx.describe(gx.lowbit.quantized(gx.adam(1e-3)), params).state
    assert {row.dtype for row in stored if row.role == "second moment"} == {"8 bits", "float32"}
    for tx in (
        gx.adamw(1e-3),
        gx.guard(gx.muon(1e-3)),
        optax.adamw(1e-3),
        gx.lowbit.quantized(gx.adam(1e-3), 4),
    ):
        told = gx.describe(tx, params)
        assert sum(row.bytes for row in told.state) == told.facts.state_size.whole


def test_of_optax_it_tells_what_closures_hold_and_what_is_not_known() -> None:
    known = gx.describe(optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-3, b2=0.95)), PARAMS)
    links = {link.call: dict(link.scalars) for link in known.foreign}
    assert links["clip_by_global_norm"] == {"max_norm": "0.5"}
    assert links["scale_by_adam"]["b2"] == "0.95"
    assert links["scale"] == {"step_size": "-0.001"}
    assert [row.role for row in known.state] == ["count", "moment", "second moment"]
    assert known.groups[0].rate == known.groups[0].decay == "?"
    assert "not known of transform: which leaves it takes" in str(known)
    assert "a function of the count" in str(
        gx.describe(optax.adam(optax.linear_schedule(1.0, 0.0, 9)), PARAMS)
    )
    by_hand = gx.GradientTransformation(lambda p: (), lambda u, s, p: (u, s))
    assert [link.scalars for link in gx.describe(by_hand, PARAMS).foreign] == [()]
    assert gx.describe(gx.adam(1e-3), PARAMS).unknown == ()


def _read(tx: Any) -> dict[str, tuple[dict[str, str], tuple[str, ...] | None]]:
    return {link.call: (dict(link.scalars), link.leaves) for link in gx.describe(tx, PARAMS).foreign}


def test_masks_and_labels_in_closures_are_asked() -> None:
    adam, still = optax.scale_by_adam(), optax.set_to_zero()
    found = _read(optax.partition({"go": adam, "stay": still}, {"a": "go", "b": "stay"}))
    assert found["partition[go]/scale_by_adam"][1] == ("a",)
    assert found["partition[stay]/set_to_zero"] == ({}, ("b",))
    tx = optax.partition({"go": adam, "stay": still}, {"a": "go", "b": "stay"})
    assert "not known of transform: what it needs" in str(gx.describe(tx, PARAMS))
    assert "transform: partition[stay]/set_to_zero; takes b" in str(gx.describe(tx, PARAMS))
    both = optax.masked(
        optax.masked(adam, lambda p: {"a": True, "b": False}), lambda p: {"a": True, "b": True}
    )
    assert _read(both)["masked/masked/scale_by_adam"][1] == ("a",)
    assert _read(optax.adamw(0.1, mask={"a": False, "b": False}))["masked/add_decayed_weights"][1] == ()
    assert "weight_decay=0.0001; takes no leaf" in str(
        gx.describe(optax.adamw(0.1, mask={"a": False, "b": False}), PARAMS)
    )
    # A mask that is handed another tree than the parameters is not guessed at.
    assert (
        _read(gx.masked(optax.masked(adam, {"a": True, "b": False}), "a"))["masked/scale_by_adam"][1] is None
    )


def test_wrappers_of_optax_show_what_is_inside() -> None:
    found = _read(optax.MultiSteps(optax.sgd(0.5), 4))
    assert found["MultiSteps"][0]["every_k_schedule"] == "4"
    assert found["MultiSteps/scale"][0] == {"step_size": "-0.5"}
    injected, _ = _read(optax.inject_hyperparams(optax.adam)(optax.cosine_decay_schedule(1.0, 9), b1=0.8))[
        "inject_hyperparams(adam)"
    ]
    assert injected["b1"] == "0.8"
    assert injected["learning_rate"] == "a function of the count (cosine_decay_schedule)"
    assert "apply_if_finite/scale" in _read(optax.apply_if_finite(optax.sgd(0.5), 3))
    assert _read(optax.chain(gx.sgd(0.5), optax.scale(2.0))) == {
        "gx.sgd(0.5)": ({}, None),
        "scale": ({"step_size": "2"}, None),
    }


@pytest.mark.parametrize("name", [*DOWNHILL, "Optax", "8 bits"])
def test_data_survives_json(name: str) -> None:
    more = {"Optax": optax.adam(0.1), "8 bits": gx.lowbit.quantized(gx.adam(0.1))}
    tx: Any = {**DOWNHILL, **more}[name]
    data = json.loads(json.dumps(gx.describe(tx, PARAMS).data))
    assert data["parameters"] == 5
    assert [leaf["path"] for leaf in data["leaves"]] == ["a", "b"]
    assert {"links", "groups", "state", "frozen", "foreign", "unknown"} <= set(data)
    again = gx.memory(tx, PARAMS).data
    assert json.loads(json.dumps(again)) == again
    assert again["device_bytes"] == 40 + again["totals"]["state"]["bytes"]


def test_describe_says_which_sides_have_a_basis() -> None:
    params = {"wide": jnp.ones((3, 9)), "b": jnp.ones(3)}
    told = {
        line.split("  ")[1].strip(): line
        for line in str(gx.describe(gx.soap(0.1), params)).splitlines()
        if "bases" in line or "no matrix" in line
    }
    assert told["wide"].endswith("3 x 9, bases left and right")
    assert told["b"].endswith("no matrix: Adam")
    seen = gx.describe(gx.soap(0.1, max_precondition_dim=4), params).facts.links[0].seen
    assert dict(seen)["wide"] == "3 x 9, bases left"
