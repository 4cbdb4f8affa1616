"""Arrays as matrices and back, and dimension numbers in every form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers as Dims

from gradxform._core.leaf import Leaf
from gradxform._linalg.dims import finder, seen_as
from gradxform._linalg.fold import fold


@pytest.mark.parametrize(
    ("rows", "columns", "shape"),
    [
        (0, 1, (4, 5, 2, 3)),
        (1, (0, 3), (4, 3, 10)),
        ((3, 0), (1,), (4, 10, 3)),
        ((0, 1), (2, 3), (6, 20)),
        ((), -1, (2, 3, 4, 1, 5)),
    ],
)
def test_there_and_back(rows: Any, columns: Any, shape: tuple[int, ...]) -> None:
    x = np.arange(120).reshape(2, 3, 4, 5)
    seen = fold(x.shape, rows, columns)
    y = seen.matrices(x)
    assert y.shape == shape
    assert seen.size == shape[-2:]
    np.testing.assert_array_equal(seen.array(y), x)


def test_a_matrix_is_not_touched() -> None:
    x = jnp.ones((2, 3))
    assert fold((2, 3), 0, 1).matrices(x) is x
    jaxpr = jax.make_jaxpr(lambda x: fold((2, 3), -2, -1).array(fold((2, 3), -2, -1).matrices(x)))(x)
    assert not jaxpr.eqns


def test_axes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"there is no axis 2 in the shape \(2, 3\)"):
        fold((2, 3), 0, 2)
    with pytest.raises(ValueError, match=r"the axes 0 and -2 of the shape \(2, 3\) meet"):
        fold((2, 3), 0, -2)


def known(path: str, *shape: int) -> Leaf:
    return Leaf(path, shape, jnp.dtype(jnp.float32))


def test_trees_of_dimension_numbers_may_be_prefixes() -> None:
    tree = {"a": Dims(1, 0), "b": None, "c": [Dims(), None]}
    find = finder("f", tree)
    assert find is not None
    assert find("a/deep/er", None) == Dims(1, 0)
    assert find("b/x", None) is None
    assert find("c/0", None) == Dims()
    assert find("c/1", None) is None
    assert find("other", None) is None
    assert seen_as("f", tree, find, known("a/x", 2, 3)).size == (3, 2)
    assert finder("f", None) is None
    assert finder("f", Dims()) is None


def test_a_function_of_path_and_leaf() -> None:
    def dims(path: str, leaf: Any) -> Any:
        return Dims(0, (1, 2)) if path.endswith("qkv") and len(leaf.shape) == 3 else None

    find = finder("f", dims)
    assert seen_as("f", dims, find, known("h/qkv", 2, 3, 4)).size == (2, 12)
    assert seen_as("f", dims, find, known("h/mlp", 2, 3)).size == (2, 3)
    with pytest.raises(ValueError, match=r"gx\.f: the leaf 'b' of shape \(3,\) is no matrix"):
        seen_as("f", dims, find, known("b", 3))


def test_what_is_no_dimension_number() -> None:
    with pytest.raises(TypeError, match=r"gx\.f: among the dimension numbers there is .*\(0, 1\)|0"):
        finder("f", {"w": (0, 1)})
    with pytest.raises(
        ValueError, match=r"gx\.f: MuonDimensionNumbers.* for the leaf 'w': there is no axis 5"
    ):
        seen_as("f", Dims(5, 0), None, known("w", 2, 3))
