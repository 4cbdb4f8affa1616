"""Hypothesis strategies for small trees of parameters and for gradients of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

from .._core.tree import is_absent, is_inexact

SHAPES = ((3,), (2, 3), (), (1,), (0,), (0, 3))
DTYPES = ("float32", "bfloat16", "float16")
_NAMES = ("a", "b", "c", "d")


def _values(shape: tuple[int, ...], dtype: Any) -> Any:
    """Quarters between -2 and 2, which every floating dtype holds exactly; they shrink towards 1."""
    size = int(np.prod(shape, dtype=np.int64))
    quarters = st.integers(-8, 8).map(lambda i: (i + 4) / 4 if i <= 4 else -i / 4)
    return st.lists(quarters, min_size=size, max_size=size).map(
        lambda xs: jnp.asarray(np.asarray(xs, np.float64).reshape(shape).astype(jnp.dtype(dtype)))
    )


@st.composite
def trees(
    draw: Any,
    *,
    shapes: Any = SHAPES,
    dtypes: Any = DTYPES,
    holes: bool = True,
    nested: bool = True,
    least: int = 0,
    most: int = 3,
) -> Any:
    """Trees of parameters with few small leaves: scalars, empty arrays, holes, no leaf at all.

    Args:
        shapes: the shapes of leaves.
        dtypes: their dtypes, by name; leaves of one tree may differ.
        holes: whether `None` and `optax.MaskedNode()` may stand in the place of a leaf.
        nested: whether leaves may stand in tuples and in dictionaries inside.
        least: the fewest leaves.
        most: the most leaves.

    Example:
        >>> from hypothesis import given, settings
        >>> from gradxform import testing
        >>> @settings(max_examples=3, database=None)
        ... @given(testing.trees(least=1, holes=False))
        ... def test(params):
        ...     assert jax.tree.leaves(params)
        >>> import jax; test()
    """
    count = draw(st.integers(least, most))
    form = draw(st.sampled_from(("flat", "tuple", "inside", "bare"))) if nested else "flat"
    plans: list[Any] = []
    for _ in range(count):
        place = draw(st.sampled_from(("array", None, optax.MaskedNode()))) if holes else "array"
        array = st.tuples(st.sampled_from(shapes), st.sampled_from(dtypes))
        plans.append(draw(array) if isinstance(place, str) else place)
    # Numbers come last, so that a smaller shape shifts only numbers when an example is shrunk.
    leaves = [x if is_absent(x) else draw(_values(tuple(x[0]), x[1])) for x in plans]
    tree: Any = dict(zip(_NAMES, leaves, strict=False)) if count <= len(_NAMES) else list(leaves)
    if form == "tuple":
        return tuple(leaves)
    if form == "inside":
        return {"block": tree, "empty": {}}
    return leaves[0] if form == "bare" and count == 1 and not is_absent(leaves[0]) else tree


def gradients(params: Any, *, dtype: Any = None) -> Any:
    """Gradients for a tree of parameters: same structure and shapes, holes and integers as `None`.

    Args:
        params: the tree.
        dtype: of the gradients; None is that of each parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> from hypothesis import find
        >>> from gradxform import testing
        >>> find(testing.gradients({"w": jnp.zeros(2)}), lambda g: True)
        {'w': Array([1., 1.], dtype=float32)}
    """
    leaves, treedef = jax.tree.flatten(params, is_leaf=is_absent)

    def one(p: Any) -> Any:
        if is_absent(p):
            return st.just(p)
        return _values(tuple(p.shape), dtype or p.dtype) if is_inexact(p) else st.none()

    return st.tuples(*map(one, leaves)).map(treedef.unflatten)
