"""Landscapes: paths are those of a loop by hand, noise is fair, and what is wrong is refused by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.diagnostics import landscapes
from gradxform.diagnostics.landscapes import RAVINE, ROSENBROCK, SADDLE, Landscape, surface, trajectory

ALL = (ROSENBROCK, SADDLE, RAVINE)
BOWL = Landscape("bowl", lambda w: (w**2).sum(), (3.0, 1.0), ((-4, 4), (-4, 4)), (0.0, 0.0))


def rosenbrock_gradient(w: Any) -> Any:
    x, y = w
    return np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


def test_a_path_is_heavy_ball_written_by_hand() -> None:
    positions, losses = trajectory(gx.sgd(5e-4, momentum=0.9), ROSENBROCK, 50)
    w, m, found = np.array(ROSENBROCK.start), np.zeros(2), [np.array(ROSENBROCK.start)]
    for _ in range(50):
        m = 0.9 * m + rosenbrock_gradient(w)
        w = w - 5e-4 * m
        found.append(w)
    np.testing.assert_allclose(positions, found, rtol=2e-4, atol=1e-5)
    heights = [(1 - x) ** 2 + 100 * (y - x**2) ** 2 for x, y in np.asarray(positions, np.float64)]
    np.testing.assert_allclose(losses, heights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("landscape", ALL, ids=lambda x: x.name)
def test_what_is_said_of_a_landscape_is_so(landscape: Landscape) -> None:
    lowest = jnp.array(landscape.minimum)
    slope, curve = jax.grad(landscape.fn)(lowest), jax.hessian(landscape.fn)(lowest)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert np.linalg.eigvalsh(np.asarray(curve)).min() > 0
    _, _, z = surface(landscape, 41)
    assert z.min() >= float(landscape.fn(lowest)) - 1e-6
    for point in (landscape.start, landscape.minimum or ()):
        for at, (low, high) in zip(point, landscape.box, strict=True):
            assert low < at < high


def test_the_ravine_is_as_steep_as_it_says_and_turned() -> None:
    curve = np.asarray(jax.hessian(RAVINE.fn)(jnp.zeros(2)))
    values, vectors = np.linalg.eigh(curve)
    np.testing.assert_allclose(values, [0.1, 10], rtol=1e-4)
    np.testing.assert_allclose(abs(vectors[:, 0]), [np.cos(np.pi / 6), np.sin(np.pi / 6)], rtol=1e-4)


def test_the_saddle_is_one() -> None:
    np.testing.assert_allclose(jax.hessian(SADDLE.fn)(jnp.zeros(2)), [[1, 0], [0, -1]])


def test_noise_is_of_the_key_and_of_its_size() -> None:
    rest = Landscape("flat", lambda w: 0 * w.sum(), (0.0, 0.0), ((-1, 1), (-1, 1)), noise=0.5)
    tx = gx.sgd(1.0)
    one, losses = trajectory(tx, rest, 2000)
    np.testing.assert_array_equal(one, trajectory(tx, rest, 2000, key=jax.random.key(0))[0])
    assert not np.array_equal(one, trajectory(tx, rest, 2000, key=jax.random.key(1))[0])
    draws = np.diff(np.asarray(one), axis=0)  # the steps of plain descent are the gradients
    np.testing.assert_allclose(draws.std(axis=0), 0.5, rtol=0.05)
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.04)
    np.testing.assert_array_equal(losses, 0)


def test_every_transform_gets_the_same_noise() -> None:
    one, _ = trajectory(gx.sgd(0.1), RAVINE, 1)
    two, _ = trajectory(gx.sgd(0.2), RAVINE, 1)
    np.testing.assert_allclose(2 * (one[1] - one[0]), two[1] - two[0], rtol=1e-4)


def test_a_row_is_a_matrix_for_muon() -> None:
    tx = gx.chain(gx.scale_by_muon(beta=0.0, nesterov=False), gx.scale_by_learning_rate(0.1))
    positions, _ = trajectory(tx, BOWL, 1, shape=(1, 2))
    step = np.asarray(positions[1] - positions[0])
    np.testing.assert_allclose(step / np.linalg.norm(step), -np.array([3, 1]) / np.sqrt(10), atol=1e-3)
    plain, _ = trajectory(gx.sgd(0.1), RAVINE, 3)
    column, _ = trajectory(gx.sgd(0.1), RAVINE, 3, shape=(2, 1))
    np.testing.assert_allclose(plain, column, rtol=1e-6)


def test_optax_and_its_line_search_run() -> None:
    ours, _ = trajectory(gx.sgd(0.1), BOWL, 3)
    theirs, _ = trajectory(optax.sgd(0.1), BOWL, 3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    _, losses = trajectory(optax.polyak_sgd(), BOWL, 20)  # needs `value`
    assert losses[-1] < 1e-4 * losses[0]


def test_many_rates_are_one_program() -> None:
    rates = jnp.array([0.05, 0.1, 0.25])
    positions, _ = jax.vmap(lambda rate: trajectory(gx.sgd(rate), BOWL, 4))(rates)
    assert positions.shape == (3, 5, 2)
    for path, rate in zip(positions, (0.05, 0.1, 0.25), strict=True):
        np.testing.assert_allclose(path[-1], np.array([3.0, 1.0]) * (1 - 2 * rate) ** 4, rtol=1e-5)


def test_an_equal_transform_compiles_nothing_again() -> None:
    trajectory(gx.sgd(0.123), BOWL, 4)
    before = landscapes._compiled._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
    trajectory(gx.sgd(0.123), BOWL, 4, start=(1.0, 2.0))
    assert landscapes._compiled._cache_size() == before  # pyright: ignore[reportFunctionMemberAccess]
    trajectory(gx.sgd(0.124), BOWL, 4)
    assert landscapes._compiled._cache_size() == before + 1  # pyright: ignore[reportFunctionMemberAccess]


def test_a_path_may_diverge() -> None:
    positions, losses = trajectory(gx.sgd(10.0), ROSENBROCK, 20)
    assert positions.shape == (21, 2)
    assert not np.isfinite(losses[-1])


def test_heights_stand_where_contours_want_them() -> None:
    wide = Landscape("wide", ROSENBROCK.fn, (0, 0), ((-2, 2), (-1, 3)))
    x, y, z = surface(wide, 3)
    assert x.tolist() == [-2, 0, 2]
    assert y.tolist() == [-1, 1, 3]
    wanted = [[(1 - a) ** 2 + 100 * (b - a**2) ** 2 for a in x] for b in y]
    np.testing.assert_allclose(z, wanted)


def test_a_landscape_is_a_value() -> None:
    lists: Any = [[-4, 4], [-4.0, 4]]
    assert hash(Landscape("x", BOWL.fn, (3, 1), lists)) == hash(
        Landscape("x", BOWL.fn, (3.0, 1.0), ((-4, 4), (-4, 4)))
    )


BOX = ((-1, 1), (-1, 1))


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (lambda: Landscape("x", 3, (0, 0), BOX), TypeError, r"Landscape\('x'\): fn: wanted a function of two numbers"),
        (lambda: Landscape("x", abs, (0, 0, 0), BOX), ValueError, r"start: wanted two numbers \(x, y\), got"),
        (lambda: Landscape("x", abs, (0, np.nan), BOX), ValueError, "start: wanted two finite numbers"),
        (lambda: Landscape("x", abs, (0, 0), BOX, "ab"), ValueError, "minimum: wanted two numbers"),
        (lambda: Landscape("x", abs, (0, 0), ((1, -1), (0, 1))), ValueError, "box: wanted .*each from low to high"),
        (lambda: Landscape("x", abs, (0, 0), (1, 2)), ValueError, "box: wanted"),
        (lambda: Landscape("x", abs, (0, 0), BOX, noise=-1), ValueError, "noise: wanted a finite number of at least 0"),
        (lambda: trajectory(3, BOWL, 2), TypeError, r"landscapes.trajectory\(tx\): wanted a transform"),
        (lambda: trajectory(gx.sgd(1.0), "bowl", 2), TypeError, "got a string\n  landscapes.ROSENBROCK"),
        (lambda: trajectory(gx.sgd(1.0), BOWL, 0), ValueError, "steps=0.: wanted a whole number of at least 1"),
        (lambda: trajectory(gx.sgd(1.0), BOWL, 2, shape=(4,)), ValueError, r"shape=\(4,\)\): wanted one of \(2,\), "),
        (lambda: trajectory(gx.sgd(1.0), BOWL, 2, start=3.0), ValueError, r"wanted two numbers .*shape \(\)"),
        (lambda: surface(BOWL, 1), ValueError, "points=1.: wanted a whole number of at least 2"),
        (lambda: surface(BOWL.fn), TypeError, "landscapes.surface.*wanted a Landscape"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(build: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        build()
