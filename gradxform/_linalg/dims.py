"""Which axes of a leaf are those of a matrix: dimension numbers, in every form that people give them.

Optax's forms are one `MuonDimensionNumbers` for all leaves, a tree of them (or a prefix of one) with None where a leaf
is no matrix, and a function of the parameters that gives such a tree. Ours is a function of path and leaf that gives
one or None. None in the place of them all means that leaves are matrices as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from optax.contrib import MuonDimensionNumbers

from .._core.errors import leaf as place, say, short
from .._core.mask import is_predicate
from .._core.nested import Inner, ThroughBody
from .._core.transform import GradientTransformation, wrap
from .._core.tree import is_absent, paths_of, view
from .._core.values import know_tuple
from .fold import Fold, fold

Find = Callable[[str, Any], Any]
know_tuple("optax.contrib:MuonDimensionNumbers", MuonDimensionNumbers)


def _is_dims(x: Any) -> bool:
    return isinstance(x, MuonDimensionNumbers)


def _of_tree(dims: Any) -> bool:
    """Whether dimension numbers are to be asked of a function of the parameters."""
    return callable(dims) and not is_predicate(dims)


def finder(call: str, dims: Any) -> Find | None:
    """Dimension numbers as a function of the path and the shape; None where they are the same for every leaf."""
    if dims is None or _is_dims(dims):
        return None
    if callable(dims):
        return dims
    places, treedef = jax.tree.flatten(dims, is_leaf=lambda x: is_absent(x) or _is_dims(x))
    for x in places:
        if not is_absent(x) and not _is_dims(x):
            wanted = "wanted optax.contrib.MuonDimensionNumbers, or None for a leaf that is no matrix"
            raise TypeError(f"gx.{call}: among the dimension numbers there is {short(x)}; {wanted}")
    known = dict(zip(paths_of(treedef), places, strict=True))

    def find(path: str, leaf: Any) -> Any:
        del leaf
        steps = path.split("/")
        prefixes = ("/".join(steps[:i]) for i in range(len(steps), -1, -1))
        found = next((known[prefix] for prefix in prefixes if prefix in known), None)
        return None if is_absent(found) else found

    return find


def seen_as(call: str, dims: Any, find: Find | None, leaf: Any) -> Fold:
    """How a leaf is seen as matrices."""
    found = dims if find is None else find(leaf.path, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    if found is None and len(leaf.shape) == 2:
        found = MuonDimensionNumbers()
    if found is None:
        fact = f"gx.{call}: {place(leaf.path)} of shape {leaf.shape} is no matrix"
        remedy = "say by dimension numbers which axes are, or by gx.per_layer that the first counts layers"
        raise ValueError(say(fact, remedy, "gx.muon gives such leaves to AdamW"))
    try:
        return fold(leaf.shape, found.reduction_axis, found.output_axis)
    except ValueError as problem:
        raise ValueError(f"gx.{call}: {found} for {place(leaf.path)}: {problem}") from None


class LateBody(ThroughBody):
    """A transform that is made of what a function of the parameters gives, each time when they are there."""

    def __init__(self, call: str, make: Callable[[Any], GradientTransformation], dims: Any) -> None:
        super().__init__(make(None))
        self.call, self.make, self.dims = call, make, dims

    def _made(self, tree: Any) -> Any:
        if all(map(is_absent, view(tree).places)):
            return self.inner.body
        return self.make(self.dims(tree)).body

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self._made(params).init(params, stacked)

    def step(
        self, inner: Inner, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        body = self._made(updates if params is None else params)
        return inner(updates, state, params, extra, body=body)


def resolved(call: str, make: Callable[[Any], GradientTransformation], dims: Any) -> GradientTransformation:
    """What `make` makes of dimension numbers, once they are there."""
    return wrap(LateBody(call, make, dims)) if _of_tree(dims) else make(dims)
