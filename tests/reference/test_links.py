"""The small links, the masks, the count: by hand."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from . import (
    AdaptiveGradClip,
    AddDecayedWeights,
    Chain,
    Clip,
    ClipByBlockRms,
    ClipByGlobalNorm,
    Leafwise,
    Scale,
    ScaleByLearningRate,
    Sign,
    Trace,
    adamw,
    apply,
    as_reference,
    flatten,
    map_tree,
    run,
    unitwise_norm,
)


def test_clips_by_hand() -> None:
    g, p = np.array([3.0, -4.0]), np.array([0.6, 0.8])
    assert Clip(3.5).update(g, {})[1].tolist() == [3.0, -3.5]
    np.testing.assert_allclose(ClipByBlockRms(0.5).update(g, {})[1], g * 0.5 / math.sqrt(12.5))
    np.testing.assert_allclose(AdaptiveGradClip(0.01).update(g, {}, p)[1], g * 0.01 / 5)
    np.testing.assert_allclose(
        AdaptiveGradClip(0.01).update(g, {}, 0 * p)[1], g * 1e-5 / 5
    )  # eps: fresh zeros can move
    tree = {"a": g, "b": {"c": np.array(12.0)}}  # the norm is 13
    np.testing.assert_allclose(ClipByGlobalNorm(1.0).update(tree, {})[1]["b"]["c"], 12 / 13)
    assert ClipByGlobalNorm(13.0).update(tree, {})[1]["a"].tolist() == [3.0, -4.0]


@pytest.mark.parametrize(
    ("shape", "units"), [((), 1), ((5,), 1), ((1, 5), 1), ((2, 3), 3), ((2, 3, 4), 12), ((2, 2, 3, 4), 4)]
)
def test_units(shape: tuple[int, ...], units: int) -> None:
    x = np.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    norm = unitwise_norm(x)
    assert norm.shape == shape
    assert len(np.unique(norm)) == units
    assert math.isclose(np.sum(norm**2) * units / x.size, np.sum(x**2), rel_tol=1e-12)


def test_decay_before_the_rate_is_coupled_and_after_it_independent() -> None:
    p, zero = {"w": np.array(2.0)}, {"w": np.array(0.0)}
    for method, factor in (
        (adamw(0.1, weight_decay=0.01), 1e-3),
        (adamw(0.1, weight_decay=0.01, independent=True), 1e-2),
    ):
        _, _, params = next(run(method, p, [zero]))
        assert math.isclose(params["w"], 2.0 * (1 - factor), rel_tol=1e-15)


def test_masks_pass_the_leaf_through() -> None:
    p = {"w": np.ones(2), "b": {"c": np.ones(2)}}
    decay = Leafwise(AddDecayedWeights(0.5), mask={"w": True, "b": False})
    assert flatten(decay.update(p, decay.init(p), p)[1])["b/c"].tolist() == [1.0, 1.0]
    masked = Leafwise(Trace(0.9), mask=lambda p: map_tree(lambda x: x is p["w"], p))
    state, update = masked.update(p, masked.init(p), p)
    assert state["trace"]["b"]["c"] is None
    assert flatten(update)["b/c"] is p["b"]["c"]


def test_hyperparameters_follow_the_count() -> None:
    """Step t = 1 reads count 0; a constant function is the constant."""
    p, gradients = np.array(1.0), [np.array(g) for g in (1.0, -2.0, 3.0)]
    halves = Chain(ScaleByLearningRate(lambda t: 0.5**t))
    assert [float(u) for _, u, _ in run(halves, p, gradients)] == [-1.0, 1.0, -0.75]
    same = [
        adamw(0.1, weight_decay=0.2),
        adamw(lambda t: 0.1, lambda t: 0.9, lambda t: 0.999, weight_decay=lambda t: 0.2),
    ]
    for (_, _, a), (_, _, b) in zip(*(run(m, p, gradients) for m in same), strict=True):
        assert a == b


def test_small_links_and_foreign_states() -> None:
    class Inner(NamedTuple):
        count: Any
        mu: Any

    class Masked(NamedTuple):
        inner_state: Any

    state = as_reference((Masked(Inner(np.int32(3), {"w": np.float32(0.5)})), ()))
    assert state == [{"count": 3, "mu": {"w": 0.5}}, []]
    assert state[0]["mu"]["w"].dtype == np.float64
    assert Sign().update(np.array([-2.0, 0.0, 5.0]), {})[1].tolist() == [-1.0, 0.0, 1.0]
    assert Scale(3.0).update(np.array(2.0), {})[1] == 6.0
    assert apply({"a": np.array(1.0), "b": np.array(1.0)}, {"a": np.array(2.0), "b": None}) == {
        "a": 3.0,
        "b": 1.0,
    }
