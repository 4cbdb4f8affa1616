"""Newton-Schulz: what is known of the result without running it, for every set of coefficients and every form."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradxform._linalg.newton_schulz import DION, STANDARD, coefficients, orthogonalise, polar_express

#: How near to 1 a set brings singular values that are at least `low` of the norm; steps, lowest, bounds.
BANDS: dict[str, tuple[Any, float, float, float]] = {
    "standard": ((STANDARD,) * 5, 5e-3, 0.68, 1.16),
    "standard, 9 steps": ((STANDARD,) * 9, 1e-4, 0.68, 1.14),
    "dion": (DION, 1e-2, 0.97, 1.04),
    "polar express": (polar_express(5), 1e-3, 0.84, 1.13),
    "polar express, 6 steps": (polar_express(6), 1e-3, 0.993, 1.002),
    "polar express, 9 steps": (polar_express(9), 1e-3, 1 - 1e-5, 1 + 1e-5),
}
run = partial(jax.jit, static_argnames=("preconditioning", "dtype"))(orthogonalise)


def matrix(rows: int, columns: int, values: Any, seed: int = 0) -> np.ndarray:
    """A matrix with these singular values."""
    random = np.random.default_rng(seed)
    many = min(rows, columns)
    u, v = (np.linalg.qr(random.normal(size=(n, many)))[0] for n in (rows, columns))
    return np.asarray(u * np.asarray(values) @ v.T, np.float32)


@pytest.mark.parametrize("name", BANDS)
def test_polynomials_stay_in_their_bands(name: str) -> None:
    triples, low, least, most = BANDS[name]
    s = np.geomspace(low, 1, 100_001)
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    assert least <= s.min() <= s.max() <= most


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("name", ["standard", "dion", "polar express"])
def test_singular_values_are_in_the_band_and_vectors_stay(name: str, shape: tuple[int, int]) -> None:
    triples, _, least, most = BANDS[name]
    given = np.geomspace(1.0, 0.05, min(shape))
    x = matrix(*shape, 7.0 * given / np.linalg.norm(given))
    u, s, v = np.linalg.svd(x, full_matrices=False)
    inside = u.T @ np.asarray(run(jnp.asarray(x), triples)) @ v.T
    assert np.all((least - 1e-4 <= np.diag(inside)) & (np.diag(inside) <= most + 1e-4))
    np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=3e-5)
    assert s[0] > 4


def test_to_the_end_it_is_the_polar_factor() -> None:
    x = matrix(4, 7, [3.0, 2.0, 0.5, 0.1])
    u, _, v = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(run(jnp.asarray(x), polar_express(10)), u @ v, atol=1e-5)
    # What is orthogonal already stays.
    np.testing.assert_allclose(run(jnp.asarray(u @ v), polar_express(10)), u @ v, atol=1e-5)


def test_a_matrix_of_rank_one_becomes_its_normalised_outer_product() -> None:
    random = np.random.default_rng(1)
    p, q = (random.normal(size=n).astype(np.float32) for n in (6, 4))
    wanted = np.outer(p, q) / np.linalg.norm(p) / np.linalg.norm(q)
    got = np.asarray(run(jnp.asarray(np.outer(p, q)), polar_express(8)))
    np.testing.assert_allclose(got, wanted, atol=3e-4)  # what rounding adds is made 2000 times as large
    factor = float(np.sum(np.asarray(run(jnp.asarray(np.outer(p, q)), (STANDARD,) * 5)) * wanted))
    s = 1.0
    for _ in range(5):
        s = STANDARD[0] * s + STANDARD[1] * s**3 + STANDARD[2] * s**5
    assert abs(factor - s) < 1e-5


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_neither_a_turn_nor_a_factor_changes_it(preconditioning: str) -> None:
    x = jnp.asarray(matrix(4, 6, [3.0, 1.0, 0.7, 0.3]))
    go = partial(run, triples=(STANDARD,) * 4, eps=0.0, preconditioning=preconditioning)
    y = go(x)
    np.testing.assert_allclose(go(x.T).T, y, atol=2e-6)
    for factor in (1e-9, 1e9):  # Optax's "aol" and "schatten" do nothing at 1e-9
        np.testing.assert_allclose(go(jnp.float32(factor) * x), y, atol=5e-6)
    np.testing.assert_allclose(go(-x), -y, atol=2e-6)
    both = go(jnp.stack([x, 2 * x, -x]))
    np.testing.assert_allclose(both, jnp.stack([y, y, -y]), atol=3e-6)


@pytest.mark.parametrize("preconditioning", ["frobenius", "aol", "schatten"])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zeros_stay_and_hurt_nobody(preconditioning: str, eps: float) -> None:
    x = jnp.zeros((2, 3, 4)).at[1, 0].set(1.0)
    got = run(x, (STANDARD,) * 3, eps=eps, preconditioning=preconditioning)
    assert not got[0].any()
    assert bool(jnp.isfinite(got).all())
    assert bool(got[1, 0].all())
    assert not got[1, 1:].any()
    assert orthogonalise(jnp.zeros((0, 3)), (STANDARD,)).shape == (0, 3)


def test_complex_matrices_become_unitary() -> None:
    random = np.random.default_rng(2)
    for shape in ((3, 5), (5, 3)):
        x = jnp.asarray(random.normal(size=shape) + 1j * random.normal(size=shape), jnp.complex64)
        with jax.numpy_dtype_promotion("standard"):
            y = run(x, polar_express(9))
        u, _, v = np.linalg.svd(np.asarray(x), full_matrices=False)
        np.testing.assert_allclose(y, u @ v, atol=1e-4)


def products(x: Any, **options: Any) -> list[Any]:
    """The equations of the products."""
    jaxpr = jax.make_jaxpr(lambda x: orthogonalise(x, (STANDARD,) * 5, **options))(x).jaxpr
    assert not {"transpose", "pjit", "while", "scan"} & {eqn.primitive.name for eqn in jaxpr.eqns}
    return [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 3, 8)])
def test_products_are_on_the_smaller_side_without_a_turn(shape: tuple[int, ...]) -> None:
    """Three products a step, of two axes for one matrix and of one batch for several; no array is transposed."""
    found = products(jnp.ones(shape))
    assert len(found) == 15
    for i, eqn in enumerate(found):
        out = eqn.outvars[0].aval.shape
        assert len(out) == len(shape)
        assert out[-2:] == (shape[-2:] if i % 3 == 2 else (3, 3))
        assert eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2


def test_short_factors_are_summed_in_float32() -> None:
    x = jnp.asarray(matrix(6, 9, np.linspace(1.0, 0.2, 6)))
    for eqn in products(x, dtype=jnp.bfloat16):
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype(jnp.bfloat16)}
        assert eqn.outvars[0].aval.dtype == jnp.float32
    got = run(x, (STANDARD,) * 5, dtype=jnp.bfloat16)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, run(x, (STANDARD,) * 5), atol=0.05)


def test_coefficients_are_read() -> None:
    assert coefficients("f", "standard", 5).shape == (3,)
    assert coefficients("f", "polar_express", 7).shape == (7, 3)
    np.testing.assert_array_equal(coefficients("f", "dion", 5), DION)
    with pytest.raises(
        ValueError, match=r"gx\.f\(ns_coeffs='best'\): wanted 'standard', 'dion', 'polar_express'"
    ):
        coefficients("f", "best", 5)
    for wrong in ((1.0, 2.0), "1", object(), ((1.0, 2.0, 3.0), (1.0,)), 1.0):
        with pytest.raises(ValueError, match=r"gx\.f\(ns_coeffs=.*wanted"):
            coefficients("f", wrong, 5)
    with pytest.raises(ValueError, match=r"gx\.f\(ns_steps=4\): there are triples for 5 steps"):
        coefficients("f", DION, 4)
