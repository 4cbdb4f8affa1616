"""Which dimension of a leaf is cut over the axes of ZeRO, and why a leaf is not.

A slice is more of what the layout of a parameter is already: the same `PartitionSpec`, with the axes added to one
dimension. The choice depends on the global shape and the layout alone, so that `jit` and `shard_map` make the same one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from .._core.errors import kind, leaf as place, say, short
from .._core.plan import Executor, Plan, selected
from .._core.rule import stack_depth
from .._core.specs import names_at, padded
from .._core.tree import is_absent, is_float0, is_inexact, listed, matches, pattern_text, view


@dataclass(frozen=True)
class LeafSlice:
    """The layout of a leaf as a parameter, its layout in slices, and the dimension that is cut; None is none."""

    whole: PartitionSpec
    sliced: PartitionSpec
    dim: int | None
    #: Why it is not cut; empty if it is, and where there is nothing to cut.
    reason: str = ""


def cut(
    shape: Sequence[int],
    spec: PartitionSpec,
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    depth: int = 0,
    layers: bool = False,
    fits: Callable[[tuple[int, ...], tuple[int, ...]], bool] = lambda part, whole: True,
) -> LeafSlice:
    """How a leaf is cut over `axes`.

    Args:
        shape: the global shape.
        spec: how the parameter is cut.
        axes: the axes to cut it over, all of them along one dimension.
        sizes: of the axes of the mesh.
        depth: how many of the leading dimensions stack arrays that are worked one by one.
        layers: whether an array of the stack has to stay whole.
        fits: whether a part of a shape can be stored by itself, `fits(part, whole)`.
    """
    entries = padded(spec, len(shape))
    whole = PartitionSpec(*entries)
    taken = [names_at(entry) for entry in entries]
    if any(axis in names for names in taken for axis in axes):
        return LeafSlice(whole, whole, None, f"the parameter itself is cut over {listed(axes)}")
    if prod(shape) == 0:
        return LeafSlice(whole, whole, None, "it is empty")
    ways, best, blocked = prod(sizes[axis] for axis in axes), None, False
    here = [size // prod(sizes[name] for name in names) for size, names in zip(shape, taken, strict=True)]
    for i, (size, names) in enumerate(zip(shape, taken, strict=True)):
        stacks = i < depth
        if size % (prod(sizes[name] for name in names) * ways) or (layers and not stacks):
            continue
        if not fits((*here[:i], here[i] // ways, *here[i + 1 :]), tuple(shape)):
            blocked = True
            continue
        # Codes in few bits come in blocks along the last dimension, and a dimension that is cut already
        # would have to be cut finer: both last.
        rank = (not stacks, bool(names), i == len(shape) - 1, i)
        best = rank if best is None or rank < best else best
    if best is None:
        what = "no axis of layers" if layers else "no dimension"
        blocks = " in whole blocks of codes" if blocked else ""
        return LeafSlice(whole, whole, None, f"{what} of {tuple(shape)} divides by {ways}{blocks}")
    dim = best[-1]
    made = (*taken[dim], *axes)
    sliced = (*entries[:dim], made[0] if len(made) == 1 else made, *entries[dim + 1 :])
    return LeafSlice(whole, PartitionSpec(*sliced), dim)


def is_worked(x: Any) -> bool:
    """Whether a place of a tree holds an array that a rule works on: floating or complex numbers."""
    return not is_absent(x) and not is_float0(x) and hasattr(x, "shape") and is_inexact(x)


def cuts(
    plan: Plan,
    tree: Any,
    specs: Mapping[str, PartitionSpec],
    axes: tuple[str, ...],
    sizes: Mapping[str, int],
    stacked: tuple[Any, ...],
) -> dict[str, LeafSlice]:
    """The cut of every leaf that is worked, by path; `tree` has global shapes, `stacked` are the stacks around."""
    rows = view(tree)
    needs = _Needs(stacked)
    depths, layers = needs.of(plan, tree)

    def fits(path: str) -> Any:
        kept = needs.executors.get(path, ())
        return lambda part, whole: all(executor.cuttable(part, whole) for executor in kept)

    return {
        path: cut(x.shape, specs[path], axes, sizes, depths.get(path, 0), path in layers, fits(path))
        for path, x in zip(rows.paths, rows.places, strict=True)
        if is_worked(x)
    }


class _Needs:
    """What the links of a plan ask of a leaf: how many stack axes it has, and whether its arrays stay whole."""

    def __init__(self, stacked: tuple[Any, ...]) -> None:
        self.stacked = stacked
        self.depths: dict[str, int] = {}
        self.layers: set[str] = set()
        #: How the slots of a leaf are stored.
        self.executors: dict[str, set[Executor]] = {}

    def of(self, plan: Plan, tree: Any) -> tuple[dict[str, int], set[str]]:
        rows, cache = view(tree), dict[Any, Any]()
        for link in plan.links:
            chosen = selected(link, tree, rows.paths, rows.places, cache)
            for path, x, take in zip(rows.paths, rows.places, chosen, strict=True):
                if not take or not is_worked(x):
                    continue
                patterns = tuple(dict.fromkeys((*self.stacked, *link.stacked)))
                self.depths[path] = max(self.depths.get(path, 0), stack_depth(patterns, path, x))
                if link.rule is not None and needs_whole(link.rule):
                    self.layers.add(path)
                if link.rule is not None and link.rule.slots:
                    self.executors.setdefault(path, set()).add(link.executor)
            if link.inside is not None:
                hidden = tree
                for selector in link.selectors:
                    hidden = selector.hide(tree, rows.paths, rows.places, hidden)
                self.of(link.inside, hidden)
        return self.depths, self.layers


def needs_whole(rule: Any) -> bool:
    """Whether a rule looks at an array as a whole by other means than the sums of its `Leaf`."""
    return not rule.takes_shards


# ------------------------------------------------------------------------------------------ what is said of layouts

_WANTED = "wanted a tree like the parameters of NamedSharding or jax.P, or a mapping from patterns to jax.P"


def is_layout(x: Any) -> bool:
    """Whether `x` says of one leaf how it is cut."""
    return isinstance(x, NamedSharding | PartitionSpec)


def check_layouts(who: str, given: Any) -> None:
    """Refuses what says no layout."""
    for x in jax.tree.leaves(given, is_leaf=is_layout):
        if not is_layout(x):
            fact = f"{who}(param_shardings): {short(x)} is {kind(x)}"
            raise TypeError(
                say(fact, f"{_WANTED}; arrays know theirs: jax.tree.map(lambda x: x.sharding, params)")
            )


def layouts(who: str, given: Any, leaves: Mapping[str, Any], axes: Sequence[str]) -> dict[str, PartitionSpec]:
    """What `param_shardings` says of every leaf, by path; `axes` are those of the mesh."""
    found = {path: _said(who, given, path, x) for path, x in leaves.items()}
    for path, spec in found.items():
        ndim = len(leaves[path].shape)
        if len(spec) > ndim:
            fact = f"{who}(param_shardings): {spec} for {place(path)} of {ndim} dimensions"
            raise ValueError(say(fact, "give one entry a dimension"))
        unknown = [name for entry in spec for name in names_at(entry) if name not in axes]
        if unknown:
            fact = f"{who}(param_shardings): {spec} for {place(path)}, and the mesh has no axis {listed(unknown)}"
            raise ValueError(say(fact, f"its axes are {listed(list(axes))}"))
    return found


def _said(who: str, given: Any, path: str, x: Any) -> PartitionSpec:
    if is_layout(given):
        return _spec(given)
    if isinstance(given, Mapping) and all(map(is_layout, given.values())):
        if path in given:
            return _spec(given[path])
        for pattern, spec in given.items():
            if matches(pattern, path, x, f"{who}(param_shardings)"):
                return _spec(spec)
        fact = f"{who}(param_shardings): no pattern takes {place(path)}; there are "
        raise ValueError(say(fact + listed([pattern_text(p) for p in given]), "add '*': jax.P()"))
    theirs = view(given)
    known = dict(zip(theirs.paths, theirs.places, strict=True))
    if path not in known or not is_layout(known[path]):
        fact = f"{who}(param_shardings): nothing is said of {place(path)}"
        raise ValueError(say(fact, _WANTED))
    return _spec(known[path])


def _spec(layout: Any) -> PartitionSpec:
    return layout.spec if isinstance(layout, NamedSharding) else layout
