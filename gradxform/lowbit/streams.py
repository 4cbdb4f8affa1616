"""Somebody's gradients, a tree at a time, and parameters to go with them, checked before they are used."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.errors import describe_array, kind, leaf, say
from .._core.tree import as_array, difference, is_absent, is_inexact, view
from .pair import WINDOW


def like_params(who: str, params: Any, seed: int) -> Any:
    """Parameters as arrays; small random numbers in the place of shapes."""
    rng, rows = np.random.default_rng(seed), view(params)
    places: list[Any] = []
    for path, x in zip(rows.paths, rows.places, strict=True):
        if is_absent(x):
            places.append(x)
            continue
        x = as_array(x, path, f"{who}(params)", "the parameters")
        _check_real(f"{who}(params)", path, x)
        shape = isinstance(x, jax.ShapeDtypeStruct)
        places.append(_small(rng, x) if shape else jnp.asarray(x))
    if not any(not is_absent(x) and is_inexact(x) and x.size for x in places):
        raise ValueError(say(f"{who}(params): there is no floating leaf", "a tree of parameters is wanted"))
    return rows.treedef.unflatten(places)


def _small(rng: np.random.Generator, like: Any) -> Any:
    """Weights as they are at the start, about 0.02 large."""
    return jnp.asarray(0.02 * rng.standard_normal(like.shape), like.dtype)


def _check_real(who: str, path: str, x: Any) -> None:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        fact = f"{who}: {leaf(path)} is {describe_array(x)}, and codes are of real numbers"
        raise TypeError(say(fact, "check the transform on the real leaves only"))


class Stream:
    """Gradients in the order in which they came, at most `most` of them, as arrays like the parameters."""

    def __init__(self, who: str, gradients: Any, params: Any, seed: int, most: int) -> None:
        self.who = f"{who}(gradients)"
        trees = islice(self._trees(gradients, params), most)
        start = list(islice(trees, WINDOW))
        if len(start) < WINDOW:
            raise ValueError(self._too_few(len(start)))
        first = start[0]
        self.params = like_params(who, self._shapes(first) if params is None else params, seed)
        self.rows = view(self.params)
        self._one(first, 1)  # refused now, before anything is compiled
        self._rest = chain(start, trees)

    def __iter__(self) -> Iterator[Any]:
        for number, tree in enumerate(self._rest, start=1):
            yield self._one(tree, number)

    def _too_few(self, number: int) -> str:
        fact = f"{self.who}: {number} of them, wanted at least {WINDOW}"
        return say(fact, "the leading axis of a stacked tree is time")

    def _trees(self, gradients: Any, params: Any) -> Iterator[Any]:
        stacked = hasattr(gradients, "shape") or isinstance(gradients, dict) or hasattr(gradients, "_fields")
        if params is not None and not hasattr(gradients, "__next__"):
            stacked = stacked or view(gradients).treedef == view(params).treedef
        if stacked:
            return self._sliced(gradients)
        if not isinstance(gradients, Iterable):
            hint = "pass an iterable of trees, or one tree with a leading axis of time"
            raise TypeError(say(f"{self.who}: got {kind(gradients)}", hint))
        return iter(gradients)

    def _sliced(self, gradients: Any) -> Iterator[Any]:
        rows = view(gradients)
        known = [
            (path, np.shape(x)) for path, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x)
        ]
        lengths = {shape[:1] for _, shape in known}
        if len(lengths) != 1 or lengths == {()}:
            shown = ", ".join(f"{path or 'the only leaf'} {list(shape)}" for path, shape in known[:4])
            fact = f"{self.who}: the leading axes differ or are missing: {shown or 'no array'}"
            raise ValueError(say(fact, "every leaf of a stacked tree has time as its first axis"))
        ((length,),) = lengths
        for t in range(length):
            yield rows.treedef.unflatten([x if is_absent(x) else x[t] for x in rows.places])

    def _one(self, tree: Any, number: int) -> Any:
        rows, places = view(tree), list[Any]()
        different = difference(rows, self.rows, "the gradients", "the parameters")
        if different:
            raise ValueError(say(f"{self.who}: gradient {number}: {different}"))
        for path, g, p in zip(rows.paths, rows.places, self.rows.places, strict=True):
            if is_absent(g) or is_absent(p):
                places.append(g)
                continue
            g = as_array(g, path, self.who, "the gradients")
            _check_real(self.who, path, g)
            if g.shape != p.shape:
                wanted = f"gradient {number}: {leaf(path)} is {describe_array(g)}, its parameter {describe_array(p)}"
                raise ValueError(say(f"{self.who}: {wanted}", "with an axis of time, pass one stacked tree"))
            if is_inexact(g) and not np.isfinite(np.asarray(g, np.float32)).all():
                fact = f"{self.who}: gradient {number}: {leaf(path)} has numbers that are not finite"
                raise ValueError(say(fact, "a block with one is NaN in any format; leave such steps out"))
            places.append(jnp.asarray(g, p.dtype) if is_inexact(g) else g)
        return rows.treedef.unflatten(places)

    def _shapes(self, tree: Any) -> Any:
        """What the parameters of a gradient look like."""
        rows, places = view(tree), list[Any]()
        for path, x in zip(rows.paths, rows.places, strict=True):
            x = as_array(x, path, self.who, "the gradients")
            if is_absent(x):
                places.append(x)
                continue
            _check_real(self.who, path, x)
            places.append(jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)))
        return rows.treedef.unflatten(places)
