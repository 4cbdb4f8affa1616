"""Which axes of a leaf are those of a matrix: dimension numbers, in every form that people give them.

Optax's forms are one `MuonDimensionNumbers` for all leaves, a tree of them (or a prefix of one) with None where a leaf
is no matrix, and a function of the parameters that gives such a tree. Ours are a plan by path, a mapping from globs or
regular expressions to one or None, of which the first that takes a leaf decides, and a function of path and leaf that
gives one or None. None in the place of them all means that leaves are matrices as they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
from optax.contrib import MuonDimensionNumbers

from .._core.errors import leaf as place, say, short
from .._core.mask import is_predicate
from .._core.nested import Inner, ThroughBody
from .._core.transform import GradientTransformation, wrap
from .._core.tree import is_absent, is_pattern, matches, paths_of, pattern_text, view
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
    if _is_plan(dims):
        return _by_pattern(call, dims)
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


def _is_plan(dims: Any) -> bool:
    """Whether it is a mapping from patterns and not a tree by names: no name of a leaf has a star."""

    def globs(key: Any) -> bool:
        return isinstance(key, re.Pattern) or (isinstance(key, str) and any(c in key for c in "*?["))

    return isinstance(dims, Mapping) and any(map(globs, cast(Mapping[Any, Any], dims)))


def _by_pattern(call: str, plan: Mapping[Any, Any]) -> Find:
    for pattern, found in plan.items():
        _check(call, pattern, found)

    def find(path: str, leaf: Any) -> Any:
        number = _first(plan, path, leaf)
        return None if number is None else list(plan.values())[number]

    return find


def _first(plan: Mapping[Any, Any], path: str, leaf: Any) -> int | None:
    return next((i for i, pattern in enumerate(plan) if matches(pattern, path, leaf)), None)


def _check(call: str, pattern: Any, found: Any) -> None:
    if not is_pattern(pattern):
        fact = f"gx.{call}: among the dimension numbers' keys there is {short(pattern)}"
        raise TypeError(say(fact, "wanted a glob or a regular expression on the path"))
    if found is not None and not _is_dims(found):
        fact = f"gx.{call}: the dimension numbers of {pattern_text(pattern)!r} are {short(found)}"
        raise TypeError(say(fact, "wanted optax.contrib.MuonDimensionNumbers, or None for what is no matrix"))


def unused(dims: Any, leaves: Sequence[tuple[str, Any]]) -> list[str]:
    """The patterns of a plan by path to which none of these leaves belongs."""
    if not _is_plan(dims):
        return []
    taken = {_first(dims, path, leaf) for path, leaf in leaves}
    return [pattern_text(pattern) for i, pattern in enumerate(dims) if i not in taken]


def seen_if(call: str, dims: Any, find: Find | None, leaf: Any) -> Fold | None:
    """How a leaf is seen as matrices; None for one that is no matrix."""
    found = dims if find is None else find(leaf.path, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    if found is None and dims is None and len(leaf.shape) == 2:
        found = MuonDimensionNumbers()
    if found is None:
        return None
    try:
        return fold(leaf.shape, found.reduction_axis, found.output_axis)
    except ValueError as problem:
        raise ValueError(f"gx.{call}: {found} for {place(leaf.path)}: {problem}") from None


def seen_as(call: str, dims: Any, find: Find | None, leaf: Any) -> Fold:
    """How a leaf is seen as matrices, where each one has to be."""
    found = seen_if(call, dims, find, leaf)
    if found is None and len(leaf.shape) == 2:
        found = fold(leaf.shape, *MuonDimensionNumbers())
    if found is None:
        fact = f"gx.{call}: {place(leaf.path)} of shape {leaf.shape} is no matrix"
        remedy = "say by dimension numbers which axes are, or by gx.per_layer that the first counts layers"
        raise ValueError(say(fact, remedy, "gx.muon gives such leaves to AdamW"))
    return found


class LateBody(ThroughBody):
    """A transform that is made of what a function of the parameters gives, each time when they are there."""

    def __init__(self, call: str, make: Callable[[Any], GradientTransformation], dims: Any) -> None:
        super().__init__(make(None))
        self.call, self.make, self.dims = call, make, dims

    def decided(self, params: Any) -> Any:
        if all(map(is_absent, view(params).places)):
            return self.inner.body
        return self.make(self.dims(params)).body

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self.decided(params).init(params, stacked)

    def step(
        self, inner: Inner, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        body = self.decided(updates if params is None else params)
        return inner(updates, state, params, extra, body=body)


def resolved(call: str, make: Callable[[Any], GradientTransformation], dims: Any) -> GradientTransformation:
    """What `make` makes of dimension numbers, once they are there."""
    return wrap(LateBody(call, make, dims)) if _of_tree(dims) else make(dims)
