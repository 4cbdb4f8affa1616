"""Trees seen as rows: slash paths, leaves side by side, patterns that pick leaves, and readable differences.

`None` and Optax's `MaskedNode` stand for "no array here"; both are kept as places of their own, so that a tree of
gradients with holes still lines up with a tree of parameters. Containers that only box one array (an NNX `Variable`, a
Linen `Partitioned`, a haliax `NamedArray`) do not appear in the path: a user calls the leaf `dense/kernel`, not
`dense/kernel/value`.
"""

import fnmatch
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .errors import describe_array, kind, leaf, say, short

ABSENT_TYPES = (type(None), optax.MaskedNode)
_BOXES = frozenset(
    {("flax.nnx.variablelib", "Variable"), ("flax.core.meta", "AxisMetadata"), ("haliax.core", "NamedArray")}
)


def is_absent(x: Any) -> bool:
    """Whether a place of a tree holds no array: `None` or `MaskedNode`."""
    return isinstance(x, ABSENT_TYPES)


def is_float0(x: Any) -> bool:
    """Whether `x` is what `jax.grad(..., allow_int=True)` gives for an integer parameter."""
    return getattr(x, "dtype", None) == jax.dtypes.float0


def is_inexact(x: Any) -> bool:
    """Whether `x` is an array (or number) of floating or complex dtype."""
    return jnp.issubdtype(jnp.result_type(x) if not hasattr(x, "dtype") else x.dtype, jnp.inexact)


@cache
def _is_box_type(kind: type) -> bool:
    return any((base.__module__, base.__name__) in _BOXES for base in kind.__mro__)


def is_box(x: Any) -> bool:
    """Whether `x` is a container of one array that does not appear in paths."""
    return _is_box_type(type(x))


def is_variable(x: Any) -> bool:
    """Whether `x` is an NNX `Variable`."""
    return is_box(x) and hasattr(x, "get_metadata")


def key_text(key: Any) -> str:
    """One step of a path as text: a dictionary's key, a sequence's index, an attribute's name."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def path_text(path: Sequence[Any]) -> str:
    """A path of JAX keys as `block_0/kernel`."""
    return "/".join(map(key_text, path))


class View(NamedTuple):
    """A tree as rows. `places` holds one entry a place, arrays and absent ones alike."""

    treedef: Any
    paths: tuple[str, ...]
    places: list[Any]


def view(tree: Any) -> View:
    """Flattens a tree, holes included; the paths are worked out once for each structure."""
    places, treedef = jax.tree.flatten(tree, is_leaf=is_absent)
    return View(treedef, paths_of(treedef), places)


@lru_cache(maxsize=4096)
def _paths(treedef: Any) -> tuple[str, ...]:
    tree = jax.tree.unflatten(treedef, [_Place(i) for i in range(treedef.num_leaves)])
    paths = [""] * treedef.num_leaves
    for path, x in jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: isinstance(x, _Place) or is_box(x)
    )[0]:
        inside = jax.tree_util.tree_flatten_with_path(x)[0]
        for rest, place in inside:
            if isinstance(place, _Place):
                paths[place.index] = path_text(path if len(inside) == 1 else (*path, *rest))
    return tuple(paths)


def paths_of(treedef: Any) -> tuple[str, ...]:
    """The slash path of every place of a structure."""
    try:
        return _paths(treedef)
    except TypeError:  # a structure with unhashable static data, or a container that refuses foreign leaves
        try:
            return _paths.__wrapped__(treedef)
        except Exception:
            return tuple(f"leaf {i}" for i in range(treedef.num_leaves))


class _Place:
    """A stand-in leaf that knows its number."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def as_array(x: Any, path: str, who: str, what: str) -> Any:
    """A place of a tree as something with shape and dtype; what has no number in it is refused."""
    if is_absent(x):
        return x
    if isinstance(x, bool | int | float | complex):
        return jnp.asarray(x)
    dtype = getattr(x, "dtype", None)
    if dtype is None or not hasattr(x, "shape"):
        remedy = "keep arrays only, and put None in the place of what is not trained"
        raise TypeError(say(f"{who}: {leaf(path)} of {what} is {kind(x)}, wanted an array", remedy))
    if dtype == jax.dtypes.float0 or dtype == np.bool_ or jnp.issubdtype(dtype, np.number):
        return x
    raise TypeError(
        say(f"{who}: {leaf(path)} of {what} is {kind(x)}, wanted numbers", "put None in its place")
    )


def tree_map(fn: Any, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` that passes over absent places (they stay as they are)."""
    return jax.tree.map(lambda x, *xs: x if is_absent(x) else fn(x, *xs), tree, *rest, is_leaf=is_absent)


def _numbered(rows: View) -> Any:
    return rows.treedef.unflatten(list(range(len(rows.places))))


def spread(tree: Any, rows: View) -> list[Any]:
    """One entry for each place of `rows`; a `MaskedNode` that hides a whole branch is repeated for its places."""
    try:
        return rows.treedef.flatten_up_to(tree)
    except (ValueError, TypeError):
        found: list[Any] = []

    def add(place: Any, branch: Any) -> None:
        if not is_absent(place) and not isinstance(branch, int):
            raise ValueError("an array in the place of a branch")
        found.extend([place] * len(jax.tree.leaves(branch)))

    jax.tree.map(add, tree, _numbered(rows), is_leaf=is_absent)
    return found


def gather(places: Sequence[Any], like: Any, rows: View) -> Any:
    """The inverse of `spread`: one entry for each place of `rows`, nested as `like` is."""
    try:
        rows.treedef.flatten_up_to(like)
    except (ValueError, TypeError):
        return jax.tree.map(
            lambda place, number: place if is_absent(place) else places[number],
            like,
            _numbered(rows),
            is_leaf=is_absent,
        )
    return rows.treedef.unflatten(places)


# ------------------------------------------------------------------------------------------------ patterns


def is_pattern(x: Any) -> bool:
    """A glob, a regular expression, or a sequence of them."""
    if _is_one_pattern(x):
        return True
    return isinstance(x, tuple | list) and len(x) > 0 and all(map(_is_one_pattern, x))


def _is_one_pattern(x: Any) -> bool:
    return isinstance(x, str) or (isinstance(x, re.Pattern) and isinstance(x.pattern, str))


def matches(pattern: Any, path: str, leaf: Any, who: str = "") -> bool:
    """Whether a pattern picks a leaf.

    A string is a glob on the whole slash path (`*` also crosses slashes, and `*/x` also takes a top-level `x`), a
    compiled expression is searched in the path, a sequence picks what any of its items picks, and a function is
    called as `pattern(path, leaf)`.
    """
    if isinstance(pattern, str):
        if fnmatch.fnmatchcase(path, pattern):
            return True
        return pattern.startswith("*/") and fnmatch.fnmatchcase(path, pattern[2:])
    if isinstance(pattern, re.Pattern):
        return pattern.search(path) is not None
    if isinstance(pattern, tuple | list):
        return any(matches(item, path, leaf) for item in pattern)
    if not callable(pattern):
        fact = f"the pattern {short(pattern)} is {type(pattern).__name__}"
        raise TypeError(
            say(f"{who}: {fact}" if who else fact, "give a glob, a compiled expression or a function")
        )
    answer = pattern(path, leaf)
    if not isinstance(answer, bool | np.bool_):
        values = "decide by path, shape or dtype, not by values" if hasattr(answer, "dtype") else ""
        fact = f"the predicate {short(pattern)} gave {short(answer)} for {path!r}, wanted True or False"
        raise TypeError(say(f"{who}: {fact}" if who else fact, values))
    return bool(answer)


def pattern_text(pattern: Any) -> str:
    """A pattern as a short label."""
    if isinstance(pattern, str):
        return pattern
    if isinstance(pattern, re.Pattern):
        return f"re:{pattern.pattern}"
    if isinstance(pattern, tuple | list):
        return "|".join(map(pattern_text, pattern))
    return getattr(pattern, "__name__", type(pattern).__name__)


# ------------------------------------------------------------------------------------------------ differences


def difference(got: View, wanted: View, got_name: str, wanted_name: str) -> str | None:
    """How two structures differ, in one line, or None if they are the same."""
    if got.treedef == wanted.treedef:
        return None
    missing = [path for path in wanted.paths if path not in set(got.paths)]
    extra = [path for path in got.paths if path not in set(wanted.paths)]
    parts: list[str] = []
    if missing:
        parts.append(f"missing in {got_name}: {_listed(missing)}")
    if extra:
        parts.append(f"missing in {wanted_name}: {_listed(extra)}")
    if parts and len(missing) < len(wanted.paths):
        return "; ".join(parts)
    trees = f"{got_name}, {_outline(got)}, and {wanted_name}, {_outline(wanted)}"
    return f"{trees}, are different trees" if parts else f"{trees}, have the same paths in other containers"


def _listed(paths: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(repr(path) if path else "the single leaf" for path in paths[:most])
    return shown + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _outline(rows: View) -> str:
    """`[*, *]`: the containers of a tree, or what it is if it is a single leaf."""
    text = str(rows.treedef).removeprefix("PyTreeDef(").removesuffix(")")
    if text == "*":
        return describe_array(rows.places[0])
    return text if len(text) <= 60 else f"{text[:57]}..."


listed = _listed
