"""The leaves that a matrix method takes, and the rest: the two groups of `muon`."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from .._combine.groups import Groups, GroupsBody
from .._core.errors import say
from .._core.mask import MaskSelector
from .._core.plan import Lowering, Route
from .._core.rule import stack_depth
from .._core.transform import GradientTransformation
from .._core.tree import is_absent, listed, view
from .._linalg.dims import finder, unused

#: Words in the names of embeddings and output layers, which are arrays of two axes and no matrices to orthogonalise,
#: and of biases and norms, which have two axes in a stack of layers.
_OTHERS = re.compile(
    r"(?i)(^|[/_.])(embed\w*|wte|wpe|unembed|lm_?head|head|logits|bias(es)?|scale|(layer|rms)?norm)([/_.\d]|$)"
)


class Sorted(Groups):
    """The matrices, and the rest. A leading axis that is declared to count layers is not one of a matrix's."""

    def __init__(
        self, call: str, mask: Any, dims: Any, labels: tuple[str, str], stacked: tuple[Any, ...] = ()
    ) -> None:
        super().__init__((), labels, "ignore")
        self.call, self.mask, self.dims, self.stacked = call, mask, dims, stacked
        self.find = finder(call, dims)

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[int]:
        """0 for a matrix, 1 for another leaf, -1 where there is none."""
        taken = [True] * len(places)
        if self.mask is not None:
            taken = MaskSelector(self.mask, f"gx.{self.call}(matrices)").select(tree, paths, places)
        rows = zip(taken, paths, places, strict=True)
        return [-1 if is_absent(x) else int(not (one and self._takes(path, x))) for one, path, x in rows]

    def _takes(self, path: str, x: Any) -> bool:
        shape = x.shape[stack_depth(self.stacked, path, x) :]
        if self.find is not None:
            return self.find(path, jax.ShapeDtypeStruct(shape, x.dtype)) is not None
        return self.dims is not None or self.mask is not None or len(shape) == 2

    def check(self, params: Any) -> None:
        """Raises for a pattern that takes nothing; warns of what is taken because nobody has said otherwise."""
        rows = view(params)
        there = [(path, x) for path, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x)]
        if there and (idle := unused(self.dims, there)):
            fact = f"gx.{self.call}: nothing belongs to {listed(idle)} of the dimension numbers"
            raise ValueError(say(fact, f"the parameters are {listed([path for path, _ in there])}"))
        if self.mask is not None or self.dims is not None:
            return
        numbers = self.select(params, rows.paths, rows.places)
        others = [p for p, n in zip(rows.paths, numbers, strict=True) if n == 0 and _OTHERS.search(p)]
        if others:
            fact = f"gx.{self.call} orthogonalises {listed(others)}"
            reason = "by the name that is an embedding, an output layer, a bias or a norm"
            remedy = (
                'say which are hidden matrices: matrices=gx.matrices(exclude="*embed*"), or dimension numbers'
            )
            warnings.warn(say(fact, reason, remedy), UserWarning, stacklevel=2)


class SortedBody(GroupsBody):
    """A matrix method for the matrices and another for the rest."""

    groups: Sorted

    def __init__(self, groups: Sorted, transforms: Sequence[GradientTransformation]) -> None:
        super().__init__(groups, transforms)

    def _below(self, stacked: tuple[Any, ...]) -> GroupsBody:
        known = self.groups
        labels = (known.labels[0], known.labels[1])
        return GroupsBody(Sorted(known.call, known.mask, known.dims, labels, stacked), self.transforms)

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        below = self._below(stacked)
        below.groups.check(params)  # type: ignore[attr-defined]
        return below.init(params, stacked)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        return (
            self._below(route.stacked).lower(lowering, route)
            if route.stacked
            else super().lower(lowering, route)
        )
