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

from .compat import Tracer
from .errors import accepts, describe_array, kind, leaf, say, short, signature_text
from .joined import Joined
from .spec import Spec, reduce_for_pickle
from .tree import View, difference, gather, is_absent, is_pattern, listed, matches, pattern_text, spread, view


class Mask:
    """A predicate on path and leaf, as a value; called with a tree it gives the tree of booleans.

    In trees it is a leaf, not a static node as a transform is: Optax calls a mask only if its leaves are callable.
    """

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

    def __copy__(self) -> "Mask":
        return self

    def __deepcopy__(self, memo: Any) -> "Mask":
        return self

    def __reduce__(self) -> Any:
        return reduce_for_pickle(self, self.spec)


def is_predicate(fn: Any) -> bool:
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


def _not_a_mask(mask: Any) -> str:
    """What is wrong with a mask that can be seen without the parameters; empty if nothing is."""
    entry = getattr(mask, "entry", None)
    if entry is not None:
        return f"{entry.text} itself: call it, {entry.text}(...)"
    if isinstance(mask, optax.GradientTransformation):
        return "a transform: is the order of the arguments right?"
    if (
        mask is None
        or isinstance(mask, bytes)
        or (isinstance(mask, int | float) and not isinstance(mask, bool))
    ):
        return short(mask)
    if not _is_function(mask) or accepts(mask, 1) is not False or accepts(mask, 2) is not False:
        return ""
    return f"{getattr(mask, '__name__', type(mask).__name__)}{signature_text(mask)}"


class MaskSelector:
    """Reads any form of mask; see the head of this module."""

    def __init__(self, mask: Any, who: str) -> None:
        self.mask, self.who = mask, who
        got = _not_a_mask(mask)
        if got:
            wanted = "a tree of booleans, a function of the parameters, a pattern or a predicate (path, leaf)"
            raise TypeError(say(f"{who}: wanted {wanted}", f"got {got}"))

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[bool]:
        mask = self.mask
        if isinstance(tree, Joined):
            return tree.answers(self.select, self.who)
        if not any(not is_absent(place) for place in places):
            return [False] * len(places)
        if isinstance(mask, Mask):
            return self._by_leaf(mask.takes, paths, places)
        if self._looks_at_leaves():
            chosen = self._by_leaf(lambda path, leaf: matches(mask, path, leaf, self.who), paths, places)
            if is_pattern(mask) and not any(chosen):
                self._check_pattern(paths, places)
            return chosen
        return self._by_tree(mask(tree) if _is_function(mask) else mask, tree)

    def _check_pattern(self, paths: Sequence[str], places: Sequence[Any]) -> None:
        """A pattern that takes no leaf is a typo, unless what it would take may be hidden by a mask further out."""
        if not any(map(is_absent, places)):
            fact = f"{self.who}: the pattern {pattern_text(self.mask)!r} takes no leaf; there are {listed(paths, 6)}"
            raise ValueError(
                say(fact, "if that is meant, pass a predicate (path, leaf) -> bool, which may take none")
            )

    def _looks_at_leaves(self) -> bool:
        mask = self.mask
        return isinstance(mask, Mask) or is_pattern(mask) or (_is_function(mask) and is_predicate(mask))

    def hide(self, tree: Any, paths: Sequence[str], places: Sequence[Any], target: Any) -> Any:
        """See `Selector`. A branch for which a tree of booleans says False gets one `MaskedNode`, as in Optax."""
        chosen = self.select(tree, paths, places)
        if self._looks_at_leaves() or isinstance(tree, Joined):
            return hide(target, chosen, view(tree))
        flags = self.mask(tree) if _is_function(self.mask) else self.mask

        def one(flag: Any, part: Any) -> Any:
            keep = is_absent(part) if is_absent(flag) else bool(flag)
            return part if keep else optax.MaskedNode()

        try:
            return jax.tree.map(one, flags, target, is_leaf=is_absent)
        except (
            ValueError,
            TypeError,
        ):  # a mask further out has hidden a branch of which this mask sees the leaves
            return hide(target, chosen, view(tree))

    def _by_leaf(
        self, takes: Callable[[str, Any], bool], paths: Sequence[str], places: Sequence[Any]
    ) -> list[bool]:
        return [not is_absent(p) and bool(takes(path, p)) for path, p in zip(paths, places, strict=True)]

    def _by_tree(self, mask: Any, tree: Any) -> list[bool]:
        if mask is None:
            raise TypeError(f"{self.who}: {short(self.mask)} gave None, wanted a tree of booleans")
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
            remedy = "a mask has the parameters' structure, or is True or False in the place of a branch"
            raise ValueError(say(f"{self.who}: {problem}", remedy)) from None
        return [not is_absent(flag) and bool(flag) for flag in jax.tree.leaves(spread, is_leaf=is_absent)]

    def _check_flag(self, path: str, flag: Any) -> None:
        where = f"{self.who}: {leaf(path)} of the mask" if path else f"{self.who}: the mask"
        if isinstance(flag, Tracer):
            remedy = "a mask must be known when the step is compiled: decide by path, shape or dtype, not by values"
            raise TypeError(
                say(f"{where} is a traced value {describe_array(flag)}, wanted True or False", remedy)
            )
        if is_absent(flag) or isinstance(flag, bool | np.bool_):
            return
        if getattr(flag, "shape", None) == () and getattr(flag, "dtype", None) == np.bool_:
            return
        got = kind(flag) if hasattr(flag, "shape") else f"{kind(flag)}, {short(flag)}"
        remedy = (
            "leaves are named by a pattern, 'a/*', or several in a tuple" if isinstance(flag, str) else ""
        )
        raise TypeError(say(f"{where} is {got}, wanted True or False", remedy))


def hide(tree: Any, chosen: Sequence[bool], rows: View) -> Any:
    """`tree`, whose leaves are places of `rows`, with `MaskedNode` in the place of every array that is not chosen."""
    hidden = [
        place if take or is_absent(place) else optax.MaskedNode()
        for place, take in zip(spread(tree, rows), chosen, strict=True)
    ]
    return gather(hidden, tree, rows)
