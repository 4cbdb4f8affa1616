"""The look-up gives what the function gives from which its table was made: on every step, beside it, and in between."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradxform.lowbit import search
from gradxform.lowbit.maps import dynamic_map, linear_map, midpoints
from gradxform.lowbit.search import find, search_table

#: In `make test-fast` the tests of the codes stand for those of all low-bit states.
pytestmark = pytest.mark.slow

TINY = np.float32(2.0**-126)
MAPS = {
    "signed": dynamic_map(True),
    "unsigned": dynamic_map(False),
    "4 bits": dynamic_map(True, 3, 4),
    "linear": linear_map(),
    "one step": np.array([-1, 1], np.float32),
}


def everywhere(middles: np.ndarray) -> np.ndarray:
    """Each step with four neighbours on either side, a sweep of all binades, the ends."""
    words = middles.view(np.int32)[:, None] + np.arange(-4, 5, dtype=np.int32)
    beside = words.astype(np.int32).view(np.float32).reshape(-1)
    sweep = np.arange(0x00800000, 0x3F800001, 20011, dtype=np.uint32).view(np.float32)
    ends = np.array([1, -1, TINY, -TINY], np.float32)
    found = np.concatenate([beside, sweep, -sweep, ends])
    return found[(np.abs(found) <= 1) & (np.abs(found) >= TINY)]


@pytest.mark.parametrize("name", MAPS)
def test_to_nearest(name: str) -> None:
    middles = midpoints(MAPS[name])
    y = everywhere(middles)
    table = search_table(lambda y: np.searchsorted(middles, y))
    want = np.searchsorted(middles, y)
    assert np.array_equal(np.asarray(find(table, jnp.asarray(y))), want)
    assert np.array_equal(np.asarray(jax.jit(lambda y: find(table, y))(y)), want)
    assert table.entries.nbytes < 30_000


def test_beyond_one_and_not_a_number_stay_inside() -> None:
    table = search_table(lambda y: np.searchsorted(midpoints(MAPS["signed"]), y))
    y = jnp.array([1 + 2.0**-23, 2, jnp.inf, -1 - 2.0**-23, -jnp.inf], jnp.float32)
    assert find(table, y).tolist() == [255, 255, 255, 0, 0]
    assert find(table, jnp.array([jnp.nan])).shape == (1,)


def test_zero_counts_as_the_smallest_number_of_its_sign() -> None:
    table = search_table(lambda y: np.searchsorted(midpoints(MAPS["signed"]), y))
    assert find(table, jnp.array([0.0, -0.0, 1e-44, -1e-44])).tolist() == [127] * 4
    assert find(search_table(lambda y: (y > 0).astype(int)), jnp.array([0.0, -0.0])).tolist() == [1, 0]


def test_shapes() -> None:
    table = search_table(lambda y: (y > 0.5).astype(int))
    for shape in [(), (0,), (3, 0), (2, 3, 4)]:
        found = find(table, jnp.zeros(shape))
        assert (found.shape, found.dtype) == (shape, jnp.uint8)


def test_steps_that_are_too_close_are_refused() -> None:
    close = np.array([0.5, 0.5 + 2.0**-20], np.float32)
    with pytest.raises(ValueError, match="two steps of the function are closer"):
        search_table(lambda y: np.searchsorted(close, y))


def test_a_step_of_many_codes_is_one_step() -> None:
    table = search_table(lambda y: np.where(y > 0.25, 200, 3))
    assert find(table, jnp.array([0.25, 0.2500001, -1.0])).tolist() == [3, 200, 3]


def test_the_examples_run() -> None:
    assert doctest.testmod(search).failed == 0
