"""`restore_into` across changes of a run: each goes on, every leaf is accounted for, a dry run says the same."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import gradxform as gx

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PARAMS = {
    "enc_0": {"w": jnp.linspace(-1.0, 1.0, 128).reshape(2, 64)},
    "enc_1": {"w": jnp.ones((2, 64))},
    "b": jnp.zeros(3),
}
ADAMW = gx.adamw(1e-2)
LOW = gx.lowbit.quantized(ADAMW, min_size=16)
RATE = gx.warmup_cosine(1e-2, 2, 10)


@pytest.fixture(autouse=True)
def relaxed() -> Iterator[None]:
    """Optax's own code multiplies floats by integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def gradients(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.cos(3 * p) * 0.5 + 0.1, params)


def train(tx: Any, params: Any = PARAMS, state: Any = None, steps: int = 3) -> tuple[Any, Any]:
    @jax.jit
    def run(params: Any, state: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            params, state = carry
            updates, state = tx.update(gradients(params), state, params)
            return gx.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, state))

    return run(params, tx.init(params) if state is None else state)


def groups(**rates: float) -> Any:
    """AdamW by layers, each at its own rate."""
    return gx.param_groups({f"{name}*": gx.adamw(rate) for name, rate in rates.items()})


_GUARDS: set[str] = set(getattr(gx.guard(ADAMW).init(PARAMS), "_fields", ()))
#: The old transform, the new one, what of the saved state is told to be left behind, and what begins anew.
CHANGES: dict[str, tuple[Any, Any, set[str], set[str]]] = {
    "a clip in front": (ADAMW, gx.chain(gx.clip_by_global_norm(1.0), ADAMW), set(), set()),
    "a clip out": (gx.chain(gx.clip_by_global_norm(1.0), ADAMW), ADAMW, set(), set()),
    "to 8 bits": (ADAMW, LOW, set(), set()),
    "to float32": (LOW, ADAMW, set(), set()),
    "to 4 bits": (LOW, gx.lowbit.quantized(ADAMW, 4, min_size=16), set(), set()),
    "to bfloat16": (ADAMW, gx.adamw(1e-2, mu_dtype="bfloat16"), set(), set()),
    "Adam to AdamW": (gx.adam(1e-2), ADAMW, set(), set()),
    "AdamW to Adam": (ADAMW, gx.adam(1e-2), set(), set()),
    "Optax's Adam to AdamW": (optax.adam(1e-2), ADAMW, set(), set()),
    "a schedule to a constant": (gx.adamw(RATE), ADAMW, {"2/count"}, set()),
    "a constant to a schedule": (ADAMW, gx.adamw(RATE), set(), set()),
    "a guard on": (ADAMW, gx.guard(ADAMW), set(), {"guard"}),
    "a guard off": (gx.guard(ADAMW), ADAMW, _GUARDS, set()),
    "an average on": (ADAMW, gx.average_params(ADAMW, 0.9), set(), {"average"}),
    "an average off": (gx.average_params(ADAMW, 0.9), ADAMW, {"1/count", "1/average"}, set()),
    "accumulation on": (ADAMW, gx.accumulate(ADAMW, 2), set(), {"acc_grads", "mini_step", "weight"}),
    "MultiSteps to accumulation": (
        optax.MultiSteps(ADAMW, 2),
        gx.accumulate(ADAMW, 2),
        set(),
        set(),
    ),
    "groups split": (ADAMW, groups(enc=1e-2, b=1e-3), set(), set()),
    "groups split again": (groups(enc=1e-2, b=1e-3), groups(enc_0=1e-2, enc_1=2e-2, b=1e-3), set(), set()),
    "groups merged": (groups(enc=1e-2, b=1e-3), ADAMW, {"count"}, set()),
}


def accounted(report: Any, state: Any, saved: Any) -> None:
    """Every leaf of either state is in the report, and taken at most once but for counts."""
    assert len(report.matched) + len(report.reset) == len(jax.tree.leaves(gx.lowbit.dequantized(state)))
    sources = {row.source for row in report.matched} | {row.source for row in report.dropped}
    own = int(isinstance(saved, optax.MultiStepsState))  # ours has a weight beside the sum, made of its count
    assert len(sources) == len(jax.tree.leaves(gx.lowbit.dequantized(saved))) + own
    taken = [row.source for row in report.matched if not row.source.endswith("count")]
    assert len(taken) == len(set(taken))


def moments(state: Any) -> dict[str, Any]:
    """Averages by parameter, wherever they stand."""
    flat = jax.tree_util.tree_flatten_with_path(gx.lowbit.dequantized(state))[0]
    found: dict[str, Any] = {}
    for path, x in flat:
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        for name in ("mu", "nu"):
            if f"/{name}/" in f"/{text}":
                found[f"{name}/{text.split(f'{name}/', 1)[1]}"] = x
    return found


def close(a: Any, b: Any, rtol: float) -> None:
    mine, theirs = moments(a), moments(b)
    assert mine.keys() == theirs.keys()
    assert mine
    for name, x in mine.items():
        np.testing.assert_allclose(
            np.float32(x), np.float32(theirs[name]), rtol=rtol, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_across_a_change(name: str) -> None:
    old, new, left, begun = CHANGES[name]
    params, saved = train(old)
    state, report = gx.restore_into(new, params, saved)
    accounted(report, state, saved)
    assert all(any(word in row.source for word in left) for row in report.dropped), report
    assert all(any(word in row.address for word in begun) for row in report.reset), report
    assert (bool(report.dropped), bool(report.reset)) == (bool(left), bool(begun))
    assert all(row.note for row in (*report.dropped, *report.reset))
    coarse = "bits" in name or "float" in name
    close(state, saved, 1.0 if "4" in name else 0.05 if coarse else 0)
    # Dry: the same words, no arrays.
    shapes, dry = gx.restore_into(new, jax.eval_shape(lambda: params), saved, dry_run=True)
    assert str(dry) == str(report)
    assert dry == report
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    like = jax.tree.map(
        lambda x, y: isinstance(x, jax.ShapeDtypeStruct) and (x.shape, x.dtype) == (y.shape, y.dtype),
        shapes,
        state,
    )
    assert all(jax.tree.leaves(like))


@pytest.mark.parametrize(
    "name", ["a clip in front", "Adam to AdamW", "a schedule to a constant", "groups split", "groups merged"]
)
def test_its_next_steps_are_those_of_a_run_that_always_was_so(name: str) -> None:
    """Where the change changes no number: a clip that is never reached, no decay, equal rates."""
    same = {
        "a clip in front": (ADAMW, gx.chain(gx.clip_by_global_norm(1e3), ADAMW)),
        "Adam to AdamW": (gx.adam(1e-2), gx.adamw(1e-2, weight_decay=0.0)),
        "a schedule to a constant": (gx.adamw(gx.constant_schedule(1e-2)), ADAMW),
        "groups split": (ADAMW, groups(enc=1e-2, b=1e-2)),
        "groups merged": (groups(enc=1e-2, b=1e-2), ADAMW),
    }
    old, new = same[name]
    params, saved = train(old)
    state, _ = gx.restore_into(new, params, saved)
    found, wanted = train(new, params, state)[0], train(old, params, saved)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, wanted)
    begun = train(new, params)[0]  # forgetting is seen
    assert not all(
        np.allclose(a, b, rtol=1e-4)
        for a, b in zip(jax.tree.leaves(begun), jax.tree.leaves(wanted), strict=True)
    )


# ------------------------------------------------------------------------------- other names

CALLED = {
    "encoder": {"layers": [{"kernel": PARAMS["enc_0"]["w"]}, {"kernel": PARAMS["enc_1"]["w"]}]},
    "b": PARAMS["b"],
}
RENAMED = {"enc_*/w": "encoder/layers/*/kernel"}


def called(tree: Any) -> Any:
    """A tree of parameters under their new names."""
    return {
        "encoder": {"layers": [{"kernel": tree["enc_0"]["w"]}, {"kernel": tree["enc_1"]["w"]}]},
        "b": tree["b"],
    }


@pytest.mark.parametrize("form", ["classes", "dictionaries", "codes", "codes in dictionaries"])
def test_layers_are_renamed_by_pattern(form: str) -> None:
    tx = LOW if "codes" in form else ADAMW
    params, saved = train(tx)
    source = serialization.to_state_dict(saved) if "dictionaries" in form else saved
    state, report = gx.restore_into(tx, called(params), source, renamed=RENAMED)
    assert report.dropped == report.reset == ()
    for field in ("mu", "nu"):
        mine, theirs = getattr(state[0], field), called(getattr(saved[0], field))
        pairs = zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True)
        assert all(a.dtype == b.dtype and bool((a == b).all()) for a, b in pairs)  # codes as codes
    notes = {row.source: row.note for row in report.matched if row.address.startswith("adam/mu")}
    assert {note for source, note in notes.items() if "enc_" in source} == {"renamed"}
    assert {note for source, note in notes.items() if "enc_" not in source} == {""}
    assert any(source.startswith("0/mu/enc_1/w") for source in notes)
    dry = gx.restore_into(tx, called(params), source, renamed=RENAMED, dry_run=True)[1]
    assert dry == report


def test_without_the_pattern_they_start_anew_and_it_is_said() -> None:
    params, saved = train(ADAMW)
    _, report = gx.restore_into(ADAMW, called(params), saved)
    assert {row.source for row in report.dropped} == {
        f"0/{f}/enc_{i}/w" for f in ("mu", "nu") for i in (0, 1)
    }
    assert all("nothing was saved for a parameter of this path" in row.note for row in report.reset)


def test_with_another_transform_groups_and_layers_added() -> None:
    params, saved = train(ADAMW)
    more = called(params)
    more["encoder"]["layers"].append({"kernel": jnp.ones((2, 64))})
    tx = gx.guard(gx.param_groups({"encoder/*": LOW, "b": gx.adamw(1e-3)}))
    state, report = gx.restore_into(tx, more, saved, renamed=RENAMED)
    begun = {row.address for row in report.reset if "guard" not in row.address}
    assert {address.rsplit("/", 5)[-5] for address in begun} == {"mu", "nu"}
    assert all("layers/2/kernel" in address for address in begun)
    assert not report.dropped
    wide = moments(state)
    (name,) = [name for name in wide if name.startswith("mu/") and "layers/1" in name]
    np.testing.assert_allclose(wide[name], saved[0].mu["enc_1"]["w"], rtol=0.05, atol=1e-6)


def test_names_can_be_swapped_and_the_first_pattern_decides() -> None:
    params, saved = train(ADAMW)
    swap = {"enc_0/w": "enc_1/w", "enc_1/w": "enc_0/w", "enc_*": "nowhere/*"}
    state, report = gx.restore_into(ADAMW, params, saved, renamed=swap)
    assert (state[0].mu["enc_0"]["w"] == saved[0].mu["enc_1"]["w"]).all()
    assert not report.dropped
    _, report = gx.restore_into(ADAMW, params, saved, renamed={"b": "gone/b"})
    assert {(row.source, row.note) for row in report.dropped} == {
        ("0/mu/b", "renamed to gone/b: there is no parameter of this path"),
        ("0/nu/b", "renamed to gone/b: there is no parameter of this path"),
    }


@pytest.mark.parametrize(
    ("renamed", "kind", "words"),
    [
        (
            {"dec_*": "enc_*"},
            ValueError,
            r"renamed\): 'dec_\*' takes no saved parameter; there are 'b', 'enc_0/w', 'enc_1/w'",
        ),
        ({"enc_*/w": "enc/w"}, ValueError, r"'enc_\*/w' has 1 of '\*', 'enc/w' 0"),
        ({"enc_0/w": "enc_1/w"}, ValueError, "'enc_0/w' and 'enc_1/w' would both be 'enc_1/w'"),
        ([("a", "b")], TypeError, r"renamed\): wanted a dictionary of texts, got a list"),
        ({"a": 1}, TypeError, "wanted a dictionary of texts"),
    ],
)
def test_patterns_that_cannot_be_meant(renamed: Any, kind: type[Exception], words: str) -> None:
    for dry in (False, True):
        with pytest.raises(kind, match=words):
            gx.restore_into(ADAMW, PARAMS, ADAMW.init(PARAMS), renamed=renamed, dry_run=dry)


def test_a_dry_run_makes_nothing() -> None:
    """No array of a parameter's size comes to be, on models too large for a second state."""
    _, saved = train(ADAMW)
    before = {id(x) for x in jax.live_arrays()}
    shapes, report = gx.restore_into(LOW, jax.eval_shape(lambda: PARAMS), saved, dry_run=True)
    assert not [x for x in jax.live_arrays() if x.size > 1 and id(x) not in before]
    assert report.matched
    state, _ = gx.restore_into(LOW, PARAMS, saved)
    assert [x for x in jax.live_arrays() if x.size > 1 and id(x) not in before]  # a real one does
    with pytest.raises(TypeError, match=r"restore_into\(dry_run='yes'\): wanted True or False"):
        gx.restore_into(LOW, PARAMS, saved, dry_run="yes")  # pyright: ignore[reportArgumentType]
    del shapes, state
