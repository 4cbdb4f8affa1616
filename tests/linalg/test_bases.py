"""Eigenbases: what a step of iteration does, which signs and order columns have, what is only rounding."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from gradxform._linalg.bases import NOISE, back, first_bases, followed, reordered, rotated, turned
from gradxform._linalg.products import gram_of, times
from gradxform._linalg.whiten import LEAST, whitened

RANDOM = np.random.default_rng(0)


def matrix(rows: int, columns: int, values: Any, dtype: Any = np.float32) -> np.ndarray:
    """A matrix with these singular values."""
    many = min(rows, columns)
    parts = [RANDOM.normal(size=(n, many)) for n in (rows, columns)]
    if np.issubdtype(dtype, np.complexfloating):
        parts = [x + 1j * RANDOM.normal(size=x.shape) for x in parts]
    u, v = (np.linalg.qr(x)[0] for x in parts)
    return np.asarray(u * np.asarray(values) @ v.conj().T, dtype)


def of(x: np.ndarray, left: bool = True, right: bool = True) -> list[Any]:
    x = jnp.asarray(x)
    found = first_bases(x, gram_of(x, -2) if left else None, gram_of(x, -1) if right else None)
    return [None if q is None else np.array(q) for q in found]


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_the_first_bases_are_singular_vectors(shape: tuple[int, int], dtype: Any) -> None:
    """Orthonormal, the largest value first, filled up to the whole space; the matrix is diagonal in them."""
    s = np.array([4.0, 1.0, 0.1, 0.03][: min(shape)])
    x = matrix(*shape, s, dtype)
    left, right = of(x)
    for q, n in ((left, shape[0]), (right, shape[1])):
        np.testing.assert_allclose(q.conj().T @ q, np.eye(n), atol=2e-6)
    inside = np.array(turned(x, left, right))
    np.testing.assert_allclose(np.abs(np.diag(inside)), s, rtol=1e-4)
    np.fill_diagonal(inside, 0)
    np.testing.assert_allclose(inside, 0, atol=2e-5)  # the side that is decomposed sees the squares of values
    np.testing.assert_allclose(back(turned(x, left, right), left, right), x, atol=3e-6)


def test_one_side_alone() -> None:
    x = matrix(3, 5, [3.0, 2.0, 1.0])
    both = of(x)
    left, none = of(x, right=False)
    assert none is None
    np.testing.assert_allclose(left, both[0], atol=1e-6)
    none, right = of(x, left=False)
    assert none is None
    np.testing.assert_allclose(np.abs(np.sum(right[:, :3] * both[1][:, :3], 0)), 1, atol=1e-5)


def test_bases_hang_on_the_matrix_and_not_on_rounding() -> None:
    """Signs and what fills the space up too: a relative change of 1e-7 changes little, and so does the size."""
    x = matrix(4, 9, [4.0, 2.0, 1.0, 0.5])
    wanted = of(x)
    for other in (
        x * np.float32(1 + 3e-7),
        x + np.float32(1e-7) * x[::-1],
        x * np.float32(1e-16),
        x * np.float32(1e16),
    ):
        for q, one in zip(of(other), wanted, strict=True):
            np.testing.assert_allclose(q, one, atol=1e-5)


def test_of_nothing_the_bases_are_finite() -> None:
    for x in (np.zeros((2, 3), np.float32), np.outer([1, 2, 3], [1, -1]).astype(np.float32) * 1e-30):
        for q in of(x):
            np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_following_finds_the_eigenvectors(dtype: Any) -> None:
    """From any start, in order; each step brings neighbours apart by the quotient of their eigenvalues."""
    x = matrix(4, 4, np.sqrt([8.0, 4.0, 2.0, 1.0]), dtype)
    gram = gram_of(jnp.asarray(x), -2)
    basis = jnp.eye(4, dtype=dtype)
    for step in range(30):
        order, basis = followed(gram, basis)
        if step > 3:
            np.testing.assert_array_equal(order, np.arange(4))
    inside = np.asarray(basis).conj().T @ np.asarray(gram) @ np.asarray(basis)
    np.testing.assert_allclose(inside, np.diag([8.0, 4.0, 2.0, 1.0]), atol=1e-4)
    # What is an eigenbasis already stays, signs too; out of order it is put in order.
    _, same = followed(gram, basis)
    np.testing.assert_allclose(same, basis, atol=1e-5)
    order, sorted_ = followed(gram, basis[:, ::-1])
    np.testing.assert_array_equal(order, [3, 2, 1, 0])
    np.testing.assert_allclose(sorted_, basis, atol=1e-5)


def test_what_belongs_to_columns_is_put_in_their_order() -> None:
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    rows, columns = jnp.array([1, 0]), jnp.array([2, 0, 1])
    np.testing.assert_array_equal(reordered(jnp.asarray(x), rows, columns), x[[1, 0]][:, [2, 0, 1]])
    np.testing.assert_array_equal(reordered(jnp.asarray(x), None, None), x)


def test_rounding_is_no_gradient() -> None:
    """In the basis of its own singular vectors a matrix is diagonal, and elsewhere exactly zero."""
    x = matrix(20, 30, [5.0, 4.0, 3.0, 2.0, 1.0, *[0.0] * 15])
    left, right = of(x)
    assert np.count_nonzero(turned(jnp.asarray(x), left, right)) > 300
    inside = np.array(rotated(jnp.asarray(x), left, right))
    np.testing.assert_allclose(np.abs(np.diag(inside)), [5.0, 4.0, 3.0, 2.0, 1.0, *[0.0] * 15], rtol=1e-5)
    np.fill_diagonal(inside, 0)
    assert np.count_nonzero(inside) == 0
    # A row that is small by itself is kept where nothing is mixed into it.
    x[3] *= 1e-9
    assert np.all(rotated(jnp.asarray(x), None, right)[3, :5] != 0)
    np.testing.assert_array_equal(rotated(jnp.asarray(x), None, None), x)
    assert NOISE * 2.0**-23 < 1e-6


def test_several_matrices_are_one_batch() -> None:
    xs = np.stack([matrix(3, 4, [3.0, 2.0, 1.0]) for _ in range(2)])
    left, right = of(xs)
    for i, x in enumerate(xs):
        for q, one in zip((left[i], right[i]), of(x), strict=True):
            np.testing.assert_allclose(q, one, atol=1e-5)
    order, more = followed(gram_of(jnp.asarray(xs), -2), jnp.asarray(left))
    assert order.shape == (2, 3)
    np.testing.assert_allclose(more, left, atol=1e-4)


def test_whitened_grams() -> None:
    """`H H^T = G R^{-1} G^T / n` with R as the basis and the values have it, small values lifted."""
    G = RANDOM.normal(size=(3, 4)).astype(np.float32)
    left, right = (np.linalg.qr(RANDOM.normal(size=(n, n)))[0].astype(np.float32) for n in G.shape)
    l, r = np.array([4.0, 1.0, 0.5], np.float32), np.array([9.0, 1.0, 0.1, 0.0], np.float32)
    (of_left, of_right), (seen_left, seen_right) = whitened(
        jnp.asarray(G), turned(jnp.asarray(G), left, right), (left, right), (jnp.asarray(l), jnp.asarray(r))
    )
    over_right = right @ np.diag(1 / np.maximum(r, LEAST * 9)) @ right.T
    over_left = left @ np.diag(1 / l) @ left.T
    np.testing.assert_allclose(gram_of(of_left, -2), G @ over_right @ G.T / 4, rtol=1e-3)
    np.testing.assert_allclose(gram_of(of_right, -1), G.T @ over_left @ G / 3, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen_left, np.diag(left.T @ G @ over_right @ G.T @ left) / 4, rtol=1e-3)
    np.testing.assert_allclose(seen_right, np.diag(right.T @ G.T @ over_left @ G @ right) / 3, rtol=1e-4)
    plain, _ = whitened(jnp.asarray(G), jnp.asarray(G), (None, None), (None, None))
    np.testing.assert_allclose(gram_of(plain[0], -2), G @ G.T / 4, rtol=1e-5)


def test_products_are_pinned() -> None:
    """Of float32 and of 16 bits, over any axis, whatever the default precision is."""
    x, y = (jnp.asarray(RANDOM.normal(size=(3, 3)), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(times(x, y), np.asarray(x) @ np.asarray(y), rtol=1e-5)
    np.testing.assert_allclose(times(x, y, -2, -2), np.asarray(x).T @ np.asarray(y), rtol=1e-5)
    assert times(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)).dtype == jnp.float32
