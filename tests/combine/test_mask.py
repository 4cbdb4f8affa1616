"""Masks in every form give one result; `matrices`, `freeze`, `per_layer`."""

import re
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build

PARAMS = {
    "embed": {"table": jnp.ones((5, 2))},
    "layers": [
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    ],
    "scale": jnp.ones(()),
}
KERNELS = {
    "embed": {"table": False},
    "layers": [{"kernel": True, "bias": False}, {"kernel": True, "bias": False}],
    "scale": False,
}


def chosen(tree: Any) -> list[str]:
    """The paths of the leaves that a scaling by 2 has reached."""
    return [
        "/".join(str(getattr(key, "key", getattr(key, "idx", ""))) for key in path)
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
        if float(jnp.max(x)) == 2.0
    ]


def doubled(mask: Any, params: Any = PARAMS) -> list[str]:
    tx = gx.masked(gx.scale(2.0), mask)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    return chosen(updates)


@build.mask
def named(word: str) -> Any:
    """A mask of one's own."""
    return lambda path, leaf: word in path


class Chooser:
    """A callable object that gives a tree."""

    def __call__(self, params: Any) -> Any:
        del params
        return KERNELS


FORMS: dict[str, Any] = {
    "tree": KERNELS,
    "prefix": {"embed": False, "layers": KERNELS["layers"], "scale": False},
    "numpy booleans": jax.tree.map(np.bool_, KERNELS),
    "arrays": jax.tree.map(jnp.asarray, KERNELS),
    "function": lambda params: KERNELS,
    "partial": partial(lambda tree, params: tree, KERNELS),
    "object": Chooser(),
    "glob": "layers/*/kernel",
    "glob across slashes": "*kernel",
    "glob at the end": "*/kernel",
    "globs": ("layers/0/kernel", "layers/1/kernel"),
    "expression": re.compile(r"kernel$"),
    "expressions": [re.compile(r"layers/0/k"), re.compile(r"/1/k")],
    "mixed": ("layers/0/kernel", re.compile(r"1/kernel")),
    "predicate": lambda path, leaf: path.endswith("kernel") and leaf.ndim == 2,
    "predicate with options": lambda path, leaf, ndim=2: "layers" in path and leaf.ndim == ndim,
    "mask": named("kernel"),
    "matrices": gx.matrices(exclude="embed*"),
    "called mask": gx.matrices(exclude=re.compile("table"))(PARAMS),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_result(name: str) -> None:
    assert doubled(FORMS[name]) == ["layers/0/kernel", "layers/1/kernel"]
    if name == "prefix":  # as in Optax, one MaskedNode stands for the whole branch
        return
    for tx in (
        gx.masked(gx.trace(0.9), FORMS[name]),
        gx.adamw(0.1, mask=FORMS[name]),
        gx.freeze(FORMS[name]),
    ):
        state = tx.init(PARAMS)
        same = gx.masked(gx.trace(0.9), KERNELS), gx.adamw(0.1, mask=KERNELS), gx.freeze(KERNELS)
        assert jax.tree.structure(state) in [jax.tree.structure(other.init(PARAMS)) for other in same]


@pytest.mark.parametrize("name", ["tree", "prefix", "function", "object"])
def test_optax_s_forms_mean_what_they_mean_there(name: str) -> None:
    ours, theirs = gx.masked(gx.trace(0.9), FORMS[name]), optax.masked(optax.trace(0.9), FORMS[name])
    assert jax.tree.structure(ours.init(PARAMS)) == jax.tree.structure(theirs.init(PARAMS))


def test_one_boolean_is_a_prefix_of_everything() -> None:
    assert len(doubled(True)) == 6
    assert doubled(False) == []


def test_a_single_array_has_an_empty_path() -> None:
    for mask in (True, "*", "", gx.matrices(), lambda path, leaf: path == "", lambda p: True):
        assert doubled(mask, jnp.ones((2, 2))) == [""]


def test_a_top_level_name_is_taken_by_a_glob_with_a_slash() -> None:
    params = {"bias": jnp.ones(2), "x": {"bias": jnp.ones(2)}, "xbias": jnp.ones(2)}
    assert doubled("*/bias", params) == ["bias", "x/bias"]
    assert doubled("bias", params) == ["bias"]


def test_masked_leaves_have_no_state_and_pass() -> None:
    tx = gx.masked(gx.trace(0.9), "*/kernel")
    state = tx.init(PARAMS)
    assert len(jax.tree.leaves(state)) == 2
    assert state.inner_state.trace["scale"] == optax.MaskedNode()
    updates, _ = tx.update(PARAMS, state, PARAMS)
    np.testing.assert_array_equal(updates["scale"], PARAMS["scale"])


def test_a_module_as_mask_is_never_called() -> None:
    class Model(eqx.Module):
        kernel: Any
        bias: Any

        def __call__(self, *_: Any) -> Any:
            pytest.fail("a mask that is a tree was called")

    params, mask = Model(jnp.ones((2, 2)), jnp.ones(2)), Model(True, False)
    tx = gx.masked(gx.scale(2.0), mask)
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(updates.kernel[0, 0]) == 2.0
    assert float(updates.bias[0]) == 1.0
    assert tx == gx.masked(gx.scale(2.0), Model(True, False))
    assert tx != gx.masked(gx.scale(2.0), Model(True, True))


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (None, TypeError, "mask"),
        (3, TypeError, "mask"),
        (b"*", TypeError, "bytes|mask"),
        ({"embed": 1, "layers": False, "scale": True}, TypeError, "embed"),
        ({"embed": True}, ValueError, r"gx\.masked\(mask\)"),
        (lambda path, leaf: 1, TypeError, "True or False"),
        (lambda p: {"embed": True}, ValueError, r"gx\.masked\(mask\)"),
        (lambda p: jax.tree.map(lambda x: x.sum(), p), TypeError, "embed/table"),
    ],
)
def test_wrong_masks_are_refused(mask: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        doubled(mask)


def test_optax_takes_a_mask_of_ours() -> None:
    updates, _ = optax.masked(optax.scale(2.0), gx.matrices(exclude="embed*")).update(
        PARAMS, optax.masked(optax.scale(2.0), gx.matrices(exclude="embed*")).init(PARAMS), PARAMS
    )
    assert chosen(updates) == ["layers/0/kernel", "layers/1/kernel"]
    tx = optax.adamw(0.1, mask=gx.matrices())
    assert jax.tree.structure(tx.init(PARAMS)) == jax.tree.structure(
        gx.adamw(0.1, mask=gx.matrices()).init(PARAMS)
    )


# ---------------------------------------------------------------------------------------- matrices

STACKED = {
    "layers": {"w": jnp.ones((3, 2, 2)), "b": jnp.ones((3, 2)), "s": jnp.ones(3)},
    "embed": jnp.ones((5, 2)),
    "norm": {"w": jnp.ones((2, 2))},
    "head": jnp.ones((2, 5)),
    "bias": jnp.ones(5),
}


def taken(mask: Any) -> list[str]:
    return doubled(mask, STACKED)


def test_matrices_takes_what_has_two_axes() -> None:
    assert taken(gx.matrices()) == ["embed", "head", "layers/b", "layers/w", "norm/w"]


def test_a_stack_axis_is_no_axis_of_a_matrix() -> None:
    assert taken(gx.matrices(stacked="layers/*")) == ["embed", "head", "layers/w", "norm/w"]
    assert taken(gx.matrices(stacked=re.compile("^layers/"))) == ["embed", "head", "layers/w", "norm/w"]


def test_exclusions() -> None:
    assert taken(gx.matrices(stacked="layers/*", exclude="embed")) == ["head", "layers/w", "norm/w"]
    both = gx.matrices(stacked=("layers/*", "other/*"), exclude=("embed", re.compile("norm")))
    assert taken(both) == ["head", "layers/w"]
    assert both == gx.matrices(stacked=("layers/*", "other/*"), exclude=("embed", re.compile("norm")))


def test_matrices_called_gives_a_tree() -> None:
    tree = gx.matrices(stacked="layers/*")({**STACKED, "gone": None})
    assert tree["layers"] == {"w": True, "b": False, "s": False}
    assert tree["gone"] is None
    tx, optax_s = gx.masked(gx.scale(2.0), gx.matrices()), optax.masked(optax.scale(2.0), gx.matrices())
    ones = jax.tree.map(jnp.ones_like, STACKED)
    assert chosen(tx.update(ones, tx.init(STACKED), STACKED)[0]) == chosen(
        optax_s.update(ones, optax_s.init(STACKED), STACKED)[0]
    )


def test_matrices_wants_patterns() -> None:
    for arguments in ({"stacked": 3}, {"exclude": lambda p: p}, {"exclude": ()}):
        with pytest.raises(TypeError, match=r"gx\.matrices"):
            gx.matrices(**arguments)


# ---------------------------------------------------------------------------------------- freeze, per_layer


def test_freeze_zeroes_and_saves_nothing() -> None:
    tx = gx.chain(gx.adam(0.1), gx.freeze("layers/*"))
    updates, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert not any(np.any(x) for x in jax.tree.leaves(updates["layers"]))
    assert np.all(updates["embed"]["table"])
    assert len(jax.tree.leaves(state)) == 1 + 2 * 6
    assert isinstance(tx.init(PARAMS)[1], optax.MaskedState)


def test_freeze_takes_integers() -> None:
    params = {"n": jnp.arange(3), "w": jnp.ones(2)}
    tx = gx.chain(gx.freeze("n"))
    updates, _ = tx.update({"n": jnp.arange(3), "w": jnp.ones(2)}, tx.init(params), params)
    assert updates["n"].tolist() == [0, 0, 0]
    assert updates["w"].tolist() == [1.0, 1.0]


def test_per_layer_clips_each_layer() -> None:
    grads = {"layers": {"w": jnp.asarray([[6.0, 8.0], [0.3, 0.4]])}, "w": jnp.asarray([6.0, 8.0])}
    tx = gx.per_layer(gx.clip_by_block_rms(1.0), stacked="layers/*")
    updates, _ = tx.update(grads, tx.init(grads))
    rms = float(np.sqrt(50.0))
    np.testing.assert_allclose(updates["layers"]["w"], [[6 / rms, 8 / rms], [0.3, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(updates["w"], [6 / rms, 8 / rms], rtol=1e-6)
    whole, _ = gx.clip_by_block_rms(1.0).update(grads, ())
    assert not np.allclose(whole["layers"]["w"], updates["layers"]["w"])


def test_per_layer_leaves_state_and_element_rules_alone() -> None:
    params = {"layers": {"w": jnp.ones((3, 2))}, "w": jnp.ones(2)}
    plain, layered = gx.adamw(0.1), gx.per_layer(gx.adamw(0.1), "layers/*")
    got, wanted = (
        layered.update(params, layered.init(params), params),
        plain.update(params, plain.init(params), params),
    )
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_stacks_of_stacks() -> None:
    grads = {"layers": {"experts": jnp.arange(1.0, 9.0).reshape(2, 2, 2)}}
    tx = gx.per_layer(gx.per_layer(gx.clip_by_block_rms(1.0), "*experts"), "layers/*")
    updates, _ = tx.update(grads, tx.init(grads))
    g = np.arange(1.0, 9.0).reshape(2, 2, 2)
    rms = np.sqrt(np.mean(g**2, axis=-1, keepdims=True))
    np.testing.assert_allclose(updates["layers"]["experts"], g / np.maximum(1, rms), rtol=1e-6)


def test_per_layer_refuses_what_sees_the_whole_tree() -> None:
    with pytest.raises(ValueError, match="whole tree"):
        gx.per_layer(optax.adam(0.1), "layers/*")
    with pytest.raises(TypeError, match="stacked"):
        gx.per_layer(gx.adam(0.1), 3)
