"""Masks: which leaves a transform works on, in every form that people write them.

Optax's forms are a tree of booleans (or a prefix of one) and a function of the parameters that gives such a tree. Ours
are a glob or regular expression on the slash path (or several), a predicate `(path, leaf) -> bool`, and a `Mask` value
such as `matrices()`. A mask that is itself a pytree is never called, even if its class has `__call__`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from .errors import kind, short
from .spec import Spec, reduce_for_pickle
from .tree import difference, is_absent, is_pattern, matches, view


@jax.tree_util.register_static
class Mask:
    """A predicate on path and leaf, as a value; called with a tree it gives the tree of booleans."""

    __slots__ = ("spec", "takes")

    def __init__(self, takes: Callable[[str, Any], bool], spec: Spec) -> None:
        self.takes, self.spec = takes, spec

    def __call__(self, tree: Any) -> Any:
        rows = view(tree)
        answers = [
            p if is_absent(p) else bool(self.takes(path, p))
            for path, p in zip(rows.paths, rows.places, strict=True)
        ]
        return rows.treedef.unflatten(answers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return repr(self.spec)

    def __reduce__(self) -> Any:
        return reduce_for_pickle(self, self.spec)


def _is_predicate(fn: Any) -> bool:
    """Whether a function wants `(path, leaf)` rather than a tree: two required arguments."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 2


def _is_function(x: Any) -> bool:
    return callable(x) and (jax.tree_util.all_leaves([x]) or isinstance(x, jax.tree_util.Partial))


class MaskSelector:
    """Reads any form of mask; see the head of this module."""

    def __init__(self, mask: Any, who: str) -> None:
        self.mask, self.who = mask, who
        if isinstance(mask, str | bytes) and not isinstance(mask, str):
            raise TypeError(f"{who}: a mask of bytes; use a string")
        if mask is None or (isinstance(mask, int | float) and not isinstance(mask, bool)):
            raise TypeError(
                f"{who}: wanted a tree of booleans, a function of the parameters, a pattern or a predicate, got {short(mask)}"
            )

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[bool]:
        mask = self.mask
        if not any(not is_absent(place) for place in places):
            return [False] * len(places)
        if isinstance(mask, Mask):
            return self._by_leaf(mask.takes, paths, places)
        if is_pattern(mask):
            return self._by_leaf(lambda path, leaf: matches(mask, path, leaf), paths, places)
        if _is_function(mask):
            if _is_predicate(mask):
                return self._by_leaf(lambda path, leaf: matches(mask, path, leaf), paths, places)
            mask = mask(tree)
        return self._by_tree(mask, tree)

    def _by_leaf(
        self, takes: Callable[[str, Any], bool], paths: Sequence[str], places: Sequence[Any]
    ) -> list[bool]:
        return [not is_absent(p) and bool(takes(path, p)) for path, p in zip(paths, places, strict=True)]

    def _by_tree(self, mask: Any, tree: Any) -> list[bool]:
        rows, flags = view(tree), view(mask)
        for path, flag in zip(flags.paths, flags.places, strict=True):
            self._check_flag(path, flag)
        try:
            spread = jax.tree.map(
                lambda flag, part: [flag] * len(view(part).places),
                flags.treedef.unflatten(flags.places),
                tree,
                is_leaf=is_absent,
            )
        except (ValueError, TypeError):
            problem = difference(flags, rows, "the mask", "the parameters") or "they differ"
            raise ValueError(f"{self.who}: the mask does not fit the parameters: {problem}") from None
        return [not is_absent(flag) and bool(flag) for flag in jax.tree.leaves(spread, is_leaf=is_absent)]

    def _check_flag(self, path: str, flag: Any) -> None:
        where = f"{self.who}: the mask's leaf {path!r}" if path else f"{self.who}: the mask"
        if isinstance(flag, jax.core.Tracer):
            raise TypeError(
                f"{where} is traced; a mask must be known when the step is compiled: use shapes and paths"
            )
        if is_absent(flag) or isinstance(flag, bool | np.bool_):
            return
        if getattr(flag, "shape", None) == () and getattr(flag, "dtype", None) == np.bool_:
            return
        raise TypeError(f"{where} is {kind(flag)} ({short(flag)}), wanted True or False")


def hide(tree: Any, chosen: Sequence[bool]) -> Any:
    """`tree` with `MaskedNode` in the place of every leaf that is not chosen."""
    rows = view(tree)
    places = [p if take else optax.MaskedNode() for p, take in zip(rows.places, chosen, strict=True)]
    return rows.treedef.unflatten(places)
