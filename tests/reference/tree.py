"""From one array to a nested dict of arrays, and from single links to a chain; states are laid out as Optax lays them.

A masked-out leaf (mask False) and a `None` gradient pass through unchanged and keep their slots as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .scalars import Array, State, advance

Tree = Any  # an array, None, or a dict of trees


# Fields of a state that are one number for all leaves, by the names that Optax (`count`, Adan's `t`) and we give them.
SHARED = ("count", "count_m2", "t", "mu_product")


class LeafMethod(Protocol):
    """A method for one array."""

    def init(self, p: Array, /) -> State: ...
    def update(self, g: Array, state: State, p: Array | None = None, /) -> tuple[State, Array]: ...


class TreeMethod(Protocol):
    """The same for a tree; a leaf method is one too, for the tree that is a single array."""

    def init(self, params: Tree, /) -> Any: ...
    def update(self, grads: Tree, state: Any, params: Tree = None, /) -> tuple[Any, Tree]: ...


def map_tree(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """f on every leaf of `tree`; whatever in `rest` stops earlier (a mask True, None) is repeated below."""
    if not isinstance(tree, dict):
        return f(tree, *rest)
    return {k: map_tree(f, v, *(r[k] if isinstance(r, dict) else r for r in rest)) for k, v in tree.items()}


def flatten(tree: Tree, path: str = "") -> dict[str, Any]:
    """The leaves by slash path, in the order of the keys as they stand."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key in tree for k, v in flatten(tree[key], f"{path}/{key}".lstrip("/")).items()}


@dataclass(frozen=True)
class Leafwise:
    """A leaf method on a tree: state {"count": one number, "mu": tree, ...}. `mask`: a (prefix) tree of bools, or a
    function from the parameters to one.
    """

    method: LeafMethod
    mask: Any = True

    def _mask(self, params: Tree) -> Tree:
        return self.mask(params) if callable(self.mask) else self.mask

    def init(self, params: Tree) -> State:
        def slot(name: str) -> Tree:
            return map_tree(
                lambda p, take: self.method.init(p)[name] if take and p is not None else None,
                params,
                self._mask(params),
            )

        fields = self.method.init(np.zeros(()))
        return {name: fields[name] if name in SHARED else slot(name) for name in fields}

    def update(self, grads: Tree, state: State, params: Tree = None) -> tuple[State, Tree]:
        names = [name for name in state if name not in SHARED]
        shared = {name: state[name] for name in state if name in SHARED}
        new = {**shared, **advance(shared)}

        def leaf(g: Any, take: bool, p: Any, *slots: Any) -> tuple[State, Any]:
            old = dict(zip(names, slots, strict=True))
            if not take or g is None:
                return old, g
            reached, u = self.method.update(g, {**shared, **old}, p)
            new.update((name, reached[name]) for name in shared)
            return reached, u

        mask = self._mask(grads if params is None else params)
        pairs = map_tree(leaf, grads, mask, params, *(state[name] for name in names))
        slots = {name: map_tree(lambda pair, n=name: pair[0][n], pairs) for name in names}
        return {**new, **slots}, map_tree(lambda pair: pair[1], pairs)


class Chain:
    """Links one after another, each fed the update of the one before; the state is a list, one entry a link."""

    def __init__(self, *links: TreeMethod):
        self.links = links

    def init(self, params: Tree) -> list[Any]:
        return [link.init(params) for link in self.links]

    def update(self, grads: Tree, state: Sequence[Any], params: Tree = None) -> tuple[list[Any], Tree]:
        new = []
        for link, old in zip(self.links, state, strict=True):
            entry, grads = link.update(grads, old, params)
            new.append(entry)
        return new, grads


def apply(params: Tree, updates: Tree) -> Tree:
    """p + u, the only write."""
    return map_tree(lambda p, u: p if u is None else p + u, params, updates)


def run(
    method: TreeMethod,
    params: Tree,
    gradients: Sequence[Tree] | Callable[[Tree], Tree],
    steps: int | None = None,
) -> Iterator[tuple[Any, Tree, Tree]]:
    """Yield (state, update, params) after each step, for prescribed gradients or for a function of the parameters."""
    state = method.init(params)
    if callable(gradients) and steps is None:
        raise ValueError("a gradient function needs the number of steps")
    for i in range(len(gradients) if steps is None else steps):  # pyright: ignore[reportArgumentType]
        grads = gradients(params) if callable(gradients) else gradients[i]
        state, update = method.update(grads, state, params)
        params = apply(params, update)
        yield state, update, params


def as_reference(tree: Any) -> Any:
    """A state, parameters or gradients of Optax or gradxform as this module wants them: NamedTuples become dicts (a
    masked state its inner state), tuples lists, integers `int`, arrays float64.
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {k: as_reference(v) for k, v in tree.items()}
    if hasattr(tree, "_fields"):
        fields = {k: as_reference(getattr(tree, k)) for k in tree._fields}
        return fields["inner_state"] if set(fields) == {"inner_state"} else fields
    if isinstance(tree, tuple | list):
        return [as_reference(v) for v in tree]
    x = np.asarray(tree)
    return int(x) if x.ndim == 0 and np.issubdtype(x.dtype, np.integer) else x.astype(np.float64)
