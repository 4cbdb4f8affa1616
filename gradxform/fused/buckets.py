"""`Buckets`: a tree kept as a few long arrays; `pack` and `unpack` are the way in and out."""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core.errors import check_flag, describe_array, kind, leaf as place, say
from .._core.joined import Joined, Original
from .._core.transform import as_transform
from .._core.tree import View, difference, is_absent, listed, spread, view
from .layout import Bucket, Layout, check_whole, layout_of, refusals

_PACK = "gx.fused.pack"
_TOLD: set[str] = set()


@jax.tree_util.register_pytree_with_keys_class
class Buckets(Joined):
    """A tree of arrays kept as a few long ones; made by `gx.fused.pack`.

    In JAX it is a tree whose leaves are the buckets and what is carried: integers and plain numbers, as they are.
    `None` and Optax's `MaskedNode` are part of its structure. Gradients and updates for it are such nodes too, and so
    is each field of a state that has one array a parameter.
    """

    def __init__(self, layout: Layout, children: Sequence[Any]) -> None:
        _tell_flax()
        self.layout, self.children = layout, tuple(children)

    @property
    def original(self) -> Original:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The tree that has been packed: its structure and shapes."""
        return self.layout.original

    @property
    def arrays(self) -> dict[str, Any]:
        """The buckets by name, and the leaves that are carried by path."""
        return dict(zip(self.layout.names, self.children, strict=True))

    @property
    def paths(self) -> dict[str, list[str]]:
        """The paths of the leaves in each bucket, in order."""
        known = self.original.paths
        return {bucket.name: [known[i] for i in bucket.members] for bucket in self.layout.buckets}

    def unpack(self) -> Any:
        """The tree, as `gx.fused.unpack` gives it."""
        made: list[Any] = list(self.original.shapes)  # for the holes
        cut = len(self.layout.buckets)
        for bucket, x in zip(self.layout.buckets, self.children[:cut], strict=True):
            for i, part in zip(bucket.members, _parts(bucket, x), strict=True):
                made[i] = part
        for i, x in zip(self.layout.carried, self.children[cut:], strict=True):
            made[i] = x
        return self.original.treedef.unflatten(made)

    def tree_flatten_with_keys(self) -> tuple[Any, Layout]:
        keys = map(jax.tree_util.GetAttrKey, self.layout.names)
        return tuple(zip(keys, self.children, strict=True)), self.layout

    def tree_flatten(self) -> tuple[Any, Layout]:
        return self.children, self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, children: Any) -> "Buckets":
        return cls(layout, children)

    def __repr__(self) -> str:
        told = (describe_array(x) if jax.tree_util.all_leaves([x]) else repr(x) for x in self.children)
        return f"Buckets({', '.join(told)})"


def _parts(bucket: Bucket, x: Any) -> list[Any]:
    """The leaves of one bucket. One `split`, whose transpose is one concatenation: so gradients arrive flat."""
    n = len(bucket.members)
    if is_absent(x):
        return [x] * n
    if not isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        fact = f"gx.fused.unpack: the bucket {bucket.name} is {type(x).__name__}, wanted an array"
        raise TypeError(say(fact, "gx.lowbit.dequantized(state) has arrays in the place of codes"))
    axis, total = (0, n) if bucket.stacked else (x.ndim - 1, sum(bucket.sizes))
    many = bucket.stacked and x.ndim == len(bucket.shape) + 1 and x.shape[1:] == tuple(bucket.shape)
    if many:  # as many members as leaves would be taken for them
        fact = f"gx.fused.unpack: the bucket {bucket.name} is {describe_array(x)}, a batch of stacks"
        raise ValueError(say(fact, "unpack inside of jax.vmap"))
    if x.ndim == 0 or x.shape[axis] != total:
        wanted = f"{n} leaves on the first axis" if bucket.stacked else f"{total} numbers on the last axis"
        raise ValueError(f"gx.fused.unpack: the bucket {bucket.name} is {describe_array(x)}, wanted {wanted}")
    if bucket.stacked:
        shapes = [x.shape[1:]] * n
    else:
        shapes = [(*x.shape[:-1], *shape) for shape in bucket.shapes]
    if isinstance(x, jax.ShapeDtypeStruct):
        return [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    pieces = jax.lax.split(jnp.asarray(x), [1] * n if bucket.stacked else bucket.sizes, axis)
    return [jnp.reshape(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _joined(layout: Layout, places: Sequence[Any], like: Sequence[Any] | None) -> Buckets:
    """The buckets of the leaves of a tree; `like` are those whose shapes and holes they are to have."""
    made: list[Any] = []
    for number, bucket in enumerate(layout.buckets):
        xs, wanted = [places[i] for i in bucket.members], None if like is None else like[number]
        made.append(_one(bucket, layout.original, xs, wanted))
    return Buckets(layout, (*made, *(places[i] for i in layout.carried)))


def _one(bucket: Bucket, original: Original, xs: list[Any], wanted: Any) -> Any:
    if all(map(is_absent, xs)):
        return optax.MaskedNode()
    paths = [original.paths[i] for i in bucket.members]
    for path, x, shape in zip(paths, xs, bucket.shapes, strict=True):
        got = getattr(x, "shape", None)
        lead = () if got is None else got[: len(got) - len(shape)]
        if got is None or (not bucket.stacked and got != (*lead, *shape)):
            raise ValueError(f"{_PACK}: {place(path)} is {describe_array(x)}, wanted shape {shape}")
        check_whole(path, x, _PACK)
    rank = {
        x.ndim - (0 if bucket.stacked else len(shape)) for x, shape in zip(xs, bucket.shapes, strict=True)
    }
    kinds = {(str(x.dtype), x.shape if bucket.stacked else x.shape[: max(rank)]) for x in xs}
    if len(kinds) > 1:
        fact = f"{_PACK}: {listed(paths, 2)} share a bucket, and are not of one kind"
        raise ValueError(say(fact, f"got {' and '.join(sorted(map(describe_array, xs))[:2])}"))
    lead = () if bucket.stacked else xs[0].shape[: max(rank)]
    shape = (len(xs), *xs[0].shape) if bucket.stacked else (*lead, sum(bucket.sizes))
    if wanted is not None and getattr(wanted, "shape", shape) != shape:
        fact = f"{_PACK}: the leaves of {bucket.name} make {list(shape)}, wanted {describe_array(wanted)}"
        raise ValueError(fact)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in xs):
        return jax.ShapeDtypeStruct(shape, xs[0].dtype)
    if bucket.stacked:
        return jnp.stack(xs)
    return jnp.concatenate(
        [jnp.reshape(x, (*lead, size)) for x, size in zip(xs, bucket.sizes, strict=True)], -1
    )


def pack(tree: Any, like: Any, *, stack: bool = False) -> Any:
    """Parameters as buckets for the transform that is to run, or any tree or state as buckets that are there already.

    A step over thousands of small arrays is thousands of small loops, and minutes to compile; over a few long ones it
    is a few. Leaves share a bucket if all links of the transform treat them alike (masks, groups, what is frozen are
    asked of the leaves as they are here) and their dtypes are the same. They are copied once; keep the result as your
    parameters, and let the loss `unpack` it.

    Args:
        tree: parameters, arrays or shapes; or, for the second form, a tree or a state.
        like: the transform, with or without `gx.fused.bucketed` around it. Or buckets or a state with buckets
            (`tx.init(params)` of those): every tree whose counterpart in it is a `Buckets` becomes one like that, in
            its own dtype, as gradients may have another than their parameters.
        stack: lays all leaves of one shape on each other, not only those which a link looks at as a whole (a trust
            ratio, factored moments, Muon). A row of leaves holds any shapes, so that there are fewer of them.

    Returns:
        `Buckets`; in the second form, `tree` with them in the place of trees.

    Raises:
        ValueError: for a leaf that is cut over devices; for one that has not the shape that its place in `like` has;
            for a transform that cannot run on buckets, naming the link.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.ones((3, 2)), "v": jnp.ones((2, 2)), "b": jnp.zeros(3)}
        >>> tx = gx.fused.bucketed(gx.adamw(1e-3, mask=gx.matrices()))
        >>> b = gx.fused.pack(params, tx)
        >>> list(b.paths.values())
        [['b'], ['v', 'w']]
        >>> loss = lambda b: jnp.sum(b.unpack()["w"] ** 2)
        >>> jax.grad(loss)(b)
        Buckets(float32[3], float32[10])
    """
    check_flag("fused.pack", "stack", stack)
    if isinstance(like, optax.GradientTransformation) or hasattr(like, "init"):
        plan = as_transform(like, f"{_PACK}(like)").plan
        check_plan(plan, f"{_PACK}(tree, tx)")
        return _packed(tree, layout_of(tree, plan, stack, _PACK), None)
    if not any(isinstance(x, Buckets) for x in jax.tree.leaves(like, is_leaf=_is_buckets)):
        fact = f"{_PACK}(tree, like): like is {kind(like)}"
        raise TypeError(
            say(fact, "give the transform that is to run, or buckets, or a state that has buckets")
        )

    def one(wanted: Any, part: Any) -> Any:
        return _packed(part, wanted.layout, wanted.children) if isinstance(wanted, Buckets) else part

    try:
        return jax.tree.map(one, like, tree, is_leaf=_is_buckets)
    except (ValueError, TypeError) as problem:
        if str(problem).startswith("gx."):
            raise
        told = str(problem).splitlines()[0]
        raise ValueError(say(f"{_PACK}(tree, like): they are different trees", told)) from None


def _is_buckets(x: Any) -> bool:
    return isinstance(x, Buckets)


def _packed(tree: Any, layout: Layout, like: Any) -> Buckets:
    if isinstance(tree, Buckets):
        raise TypeError(
            say(f"{_PACK}: the tree has been packed already", "gx.fused.unpack gives the tree again")
        )
    first = layout.original
    rows = View(first.treedef, first.paths, list(range(len(first.homes))))
    try:
        places = spread(tree, rows)
    except (ValueError, TypeError):
        problem = difference(view(tree), rows, "the tree", "the buckets") or "they differ"
        raise ValueError(say(f"{_PACK}(tree, like): {problem}", "like was made of another tree")) from None
    return _joined(layout, places, like)


def unpack(tree: Any) -> Any:
    """The tree behind buckets; of a state, or any tree that has buckets in it, the same with trees in their place.

    Differentiable: the gradient with respect to the buckets comes as buckets, by one concatenation each.

    Args:
        tree: `Buckets`, or a tree with some. States with moments in codes go through `gx.lowbit.dequantized` first.

    Returns:
        The tree. `gx.fused.pack(tree, like)` is the way back, to the last bit.

    Raises:
        TypeError, ValueError: for a bucket that holds codes, or has another length than its leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.fused.bucketed(gx.scale_by_adam())
        >>> b = gx.fused.pack({"w": jnp.ones((3, 2)), "v": jnp.ones(2)}, tx)
        >>> plain = gx.fused.unpack(tx.init(b))
        >>> plain.mu["w"].shape, gx.fused.pack(plain, tx.init(b)).mu
        ((3, 2), Buckets(float32[8]))
    """
    return jax.tree.map(lambda x: x.unpack() if isinstance(x, Buckets) else x, tree, is_leaf=_is_buckets)


def check_plan(plan: Any, who: str) -> None:
    """Refuses a transform that cannot run on buckets."""
    found = next(refusals(plan), None)
    if found is not None:
        link, why = found
        raise ValueError(f"{who}: {link.address} {why}")


def _tell_flax() -> None:
    """Registers the class with `flax.serialization`, if the program uses Flax: importing it here would take seconds."""
    flax: Any = sys.modules.get("flax.serialization")
    if _TOLD or not hasattr(flax, "register_serialization_state"):
        return
    _TOLD.add("Buckets")

    def written(x: Buckets) -> dict[str, Any]:
        return {name: flax.to_state_dict(child) for name, child in x.arrays.items()}

    def read(like: Buckets, saved: Any) -> Buckets:
        if set(saved) != set(like.layout.names):
            got, wanted = listed(list(saved)), listed(like.layout.names)
            fact = f"flax.serialization: the saved buckets are {got}, wanted {wanted}"
            raise ValueError(
                say(fact, "they hold other leaves, or in another order: save gx.fused.unpack(state)")
            )
        return Buckets(
            like.layout, [flax.from_state_dict(x, saved[name], name=name) for name, x in like.arrays.items()]
        )

    flax.register_serialization_state(Buckets, written, read)
