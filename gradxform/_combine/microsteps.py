"""`accumulate_gradients`: the loss and gradient of a large batch, worked in parts that fit into memory.

    L = sum_i w_i L_i / sum_i w_i,   G = sum_i w_i G_i / sum_i w_i

over the parts i of the batch, and over devices. L_i is the mean loss of part i, w_i how many tokens that mean is over,
so that L and G are those of the whole batch. The sums are float32 or wider, and numbers cross devices once.

What crosses once is worked in a `shard_map`, on explicit axes too. JAX can also hold a sum back by types (parameters
`reduced`, a sum that is `unreduced`), but then every operation of the loss has to have a rule for such types, and some
have none: a `reduced` bias cannot be added to rows that are cut. In a `shard_map` the loss sees plain arrays.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat, placement
from .._core.errors import check_flag, check_integer, kind, leaf, say, short
from .._core.numerics import cast, compute_dtype, real_dtype
from .._core.tree import is_absent, tree_map, view
from .crossing import as_said, axis_size, by_rows, cuts_of, specs_of, summed, varying, without


def accumulate_gradients(
    loss_fn: Callable[..., Any],
    steps: int,
    *,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    weight: Callable[..., Any] | None = None,
    batch_argnums: int | Sequence[int] | None = None,
    axis_names: str | Sequence[str] = (),
    grad_shardings: Any = None,
) -> Callable[..., Any]:
    """`jax.value_and_grad(loss_fn)`, with the batch cut into `steps` parts that are worked one after the other.

    Memory is that of one part and of one float32 sum of gradients. The parts of a batch of n rows are interleaved: part
    i has the rows i, i + steps, i + 2 steps, ..., so that a batch whose rows lie on several devices stays where it is.

    With several devices, say `axis_names=`: every device adds up its own rows, and one reduction follows the last part.
    Without it, under `jit` with a batch that is sharded, XLA reduces the gradients once a part, within the loop.

    Args:
        loss_fn: the mean loss over the rows it is given; with `axis_names`, over this device's rows (it reduces nothing
            across devices itself).
        steps: the number of parts, at least 1. The leading axis of every batch array must divide by it.
        argnums: which positional arguments are differentiated, as for `jax.grad`.
        has_aux: whether `loss_fn` returns `(loss, aux)`.
        weight: a function of the arguments of `loss_fn`, one part of the batch in them, that gives the number of tokens
            (or examples) over which the loss is a mean: `lambda params, batch: batch["mask"].sum()`. A part whose
            weight is not above 0 adds nothing, even if its loss is NaN. None weighs all parts and devices the same.
        batch_argnums: which positional arguments are cut; None means all but `argnums`. The others, keyword arguments,
            and arrays without axes are passed whole. A typed PRNG key (`jax.random.key(0)`) among those that are cut is
            folded with the number of the part, counted over all devices.
        axis_names: the mesh axes over which the batch is sharded: those of the `shard_map` around, or, under `jit`, of
            the mesh of `jax.set_mesh`, over which one is made. In there parameters are whole on each device of these
            axes: what is cut over them (FSDP) is gathered once, before the first part. Other axes of the mesh (tensor
            parallelism) are left to the compiler, or on explicit axes stay in the types. Inside your own `shard_map`,
            a parameter that is itself sharded over one of them (gathered inside of `loss_fn`, whose gradient comes back
            summed) is not reduced again.
        grad_shardings: how the gradients shall be cut over `axis_names`: `PartitionSpec`s or `NamedSharding`s in a tree
            like what is differentiated, or one for a whole branch; other axes in them do not matter. What is cut comes
            out of a reduce-scatter in the place of an all-reduce: each device gets the part that it keeps, as FSDP
            wants it, and `gx.sharding.zero`. None is as the parameters lie on explicit axes, and whole on automatic
            ones, where no layout can be seen.

    Returns:
        A function that returns `(loss, grads)`, or `((loss, aux), grads)` with every array of `aux` stacked: one entry
        a part (and device, the parts of a device one after the other). Gradients have the dtypes of what is
        differentiated. If nothing has a weight, loss and gradients are 0.

    Raises:
        ValueError: for a batch that does not divide, has no rows, or is not among the positional arguments; for
            `grad_shardings` that do not divide their leaves, belong to another tree, or stand without `axis_names`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> def loss(w, x, mask):
        ...     return (mask * (w - x) ** 2).sum() / mask.sum()
        >>> step = gx.accumulate_gradients(loss, 2, weight=lambda w, x, mask: mask.sum())
        >>> value, grad = step(jnp.array(0.0), jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 1.0, 1.0, 0.0]))
        >>> round(float(value), 4), round(float(grad), 4)  # (1 + 4 + 9) / 3, -2 (1 + 2 + 3) / 3
        (4.6667, -4.0)

    Differs from Optax: `optax.MultiSteps` sees gradients only, and each of its micro-steps is a step of the loop.
    """
    if not callable(loss_fn):
        raise TypeError(f"gx.accumulate_gradients(loss_fn): wanted a function, got {kind(loss_fn)}")
    check_integer("accumulate_gradients", "steps", steps, low=1)
    check_flag("accumulate_gradients", "has_aux", has_aux)
    if weight is not None and not callable(weight):
        remedy = "such as lambda params, batch: batch['mask'].sum()"
        raise TypeError(
            say(f"gx.accumulate_gradients(weight={short(weight)}): wanted a function or None", remedy)
        )
    if grad_shardings is not None and not axis_names:
        fact = "gx.accumulate_gradients(grad_shardings=...): without axis_names it cuts nothing"
        raise ValueError(say(fact, "name the axes over which the batch lies"))
    work = _Work(loss_fn, int(steps), argnums, has_aux, weight, batch_argnums, axis_names, grad_shardings)

    @functools.wraps(loss_fn)
    def value_and_grad(*args: Any, **kwargs: Any) -> Any:
        return work(args, kwargs)

    return value_and_grad


class _Work:
    """What is known before the batch comes."""

    def __init__(
        self,
        loss_fn: Any,
        steps: int,
        argnums: Any,
        has_aux: bool,
        weight: Any,
        cut: Any,
        axis_names: Any,
        laid: Any,
    ) -> None:
        self.steps, self.has_aux, self.weight, self.cut, self.laid = steps, has_aux, weight, cut, laid
        self.argnums: Any = argnums if isinstance(argnums, int) else tuple(argnums)
        self.axes: tuple[str, ...] = (axis_names,) if isinstance(axis_names, str) else tuple(axis_names or ())
        self.grad = jax.value_and_grad(loss_fn, argnums=self.argnums, has_aux=has_aux)

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        cut = self._cut(len(args))
        specs = specs_of(self.axes, self.laid, self._trained(args))
        mesh = [name for name in self.axes if name in set(compat.mesh_axes()) - compat.manual_axes()]
        if mesh and len(mesh) == len(self.axes):
            return self._by_hand(args, kwargs, cut, specs)
        return self._here(args, kwargs, cut, specs)

    def _here(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], cut: tuple[int, ...], specs: Any
    ) -> Any:
        """On one device, or on each device of a `shard_map`."""
        _check_rows([args[i] for i in cut], cut, self.steps)
        if self.steps == 1 and not self.axes and self.weight is None:
            loss, aux, grads = self._split(self.grad(*args, **kwargs))
            return self._joined(loss, tree_map(lambda x: jnp.asarray(x)[None], aux), grads)
        sizes = [axis_size(name) for name in self.axes]
        ours, treedef = jax.tree.flatten(self._trained(args))
        across = [tuple(name for name in self.axes if name not in compat.varying_axes(p)) for p in ours]
        if self.weight is not None and any(names != self.axes for names in across):
            fact = "gx.accumulate_gradients(weight=...): a parameter is sharded over the axes of axis_names"
            raise ValueError(
                say(fact, "its gradient is a sum over devices already, and can be weighed no more")
            )
        args = self._with(args, treedef.unflatten(list(map(varying, ours, across))))

        def one(i: Any) -> tuple[list[Any], tuple[Any, Any]]:
            number = i + self.steps * jax.lax.axis_index(self.axes) if self.axes else i
            part = tuple(_part(x, i, self.steps, number) if n in cut else x for n, x in enumerate(args))
            loss, aux, grads = self._split(self.grad(*part, **kwargs))
            w = None if self.weight is None else _number(self.weight(*part, **kwargs))
            new = [_weighed(x, w) for x in (loss, *jax.tree.leaves(grads))]
            return (new if w is None else [*new, w]), (loss, aux)

        def add(sums: list[Any], i: Any) -> tuple[list[Any], tuple[Any, Any]]:
            new, kept = one(i)
            return [a + x for a, x in zip(sums, new, strict=True)], kept

        first = _nothing(jax.eval_shape(one, np.int32(0))[0], ours)
        sums, (losses, aux) = jax.lax.scan(add, first, jnp.arange(self.steps, dtype=jnp.int32))
        cuts = [cuts_of(spec, names) for spec, names in zip(specs, across, strict=True)]
        sums = summed(sums, [self.axes, *across, self.axes][: len(sums)], [(), *cuts, ()][: len(sums)])
        total = sums.pop() if self.weight is not None else np.float32(self.steps * int(np.prod(sizes)))
        loss, *grads = (_mean(x, total) for x in sums)
        grads = [cast(g, p.dtype) for g, p in zip(grads, ours, strict=True)]
        return self._joined(cast(loss, losses.dtype), aux, treedef.unflatten(grads))

    def _by_hand(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], cut: tuple[int, ...], specs: Any
    ) -> Any:
        """The same in a `shard_map` over the axes, of which `jit` makes no reduction in the loop."""
        shards, whole = jax.P(self.axes), jax.P()
        sizes = jax.sharding.get_abstract_mesh().shape
        devices = int(np.prod([sizes[name] for name in self.axes]))
        _check_rows([args[i] for i in cut], cut, self.steps, devices)
        batch = {
            i: jax.tree.map(lambda x: x if _rows(x) is None else by_rows(self.axes, x), args[i]) for i in cut
        }
        trained = self._trained(args)
        rows = jax.tree.map(lambda x: whole if _rows(x) is None else shards, batch)
        laid = jax.tree.structure(trained).unflatten(specs)

        def local(trained: Any, batch: Any) -> Any:
            mine = tuple(batch.get(i, x) for i, x in enumerate(args))
            return self._here(self._with(mine, trained), kwargs, cut, specs)

        ends: Any = (((whole, shards) if self.has_aux else whole), laid)
        inside = jax.shard_map(local, in_specs=(whole, rows), out_specs=ends, axis_names=set(self.axes))
        value, grads = inside(jax.tree.map(lambda p: without(self.axes, p), trained), batch)
        if self.laid is not None:
            return value, as_said(self.axes, self.laid, grads)
        return value, jax.tree.map(placement.laid, grads, trained)

    def _cut(self, number: int) -> tuple[int, ...]:
        """The positions of the arguments that are cut."""
        trained = {i % number if number else i for i in np.atleast_1d(self.argnums).tolist()}
        if self.cut is None:
            return tuple(i for i in range(number) if i not in trained)
        cut = tuple(int(i) for i in np.atleast_1d(self.cut))
        both = [i for i in cut if i in trained]
        if both or any(not 0 <= i < number for i in cut):
            fact = f"gx.accumulate_gradients(batch_argnums={short(self.cut)}): there are {number} positional arguments"
            raise ValueError(
                say(fact, f"argument {both[0]} is differentiated" if both else "they count from 0")
            )
        return cut

    def _trained(self, args: tuple[Any, ...]) -> Any:
        return args[self.argnums] if isinstance(self.argnums, int) else tuple(args[i] for i in self.argnums)

    def _with(self, args: tuple[Any, ...], trained: Any) -> tuple[Any, ...]:
        new = list(args)
        if isinstance(self.argnums, int):
            new[self.argnums] = trained
        else:
            for i, x in zip(self.argnums, trained, strict=True):
                new[i] = x
        return tuple(new)

    def _split(self, got: Any) -> tuple[Any, Any, Any]:
        value, grads = got
        loss, aux = value if self.has_aux else (value, None)
        return loss, aux, grads

    def _joined(self, loss: Any, aux: Any, grads: Any) -> Any:
        return ((loss, aux) if self.has_aux else loss), grads


def _rows(x: Any) -> int | None:
    """The number of rows of a batch array; None for what is passed whole."""
    return None if np.ndim(x) == 0 else int(np.shape(x)[0])


def _check_rows(batch: list[Any], positions: Sequence[int], steps: int, devices: int = 1) -> None:
    """Refuses arrays that do not divide, or that have different numbers of rows."""
    each = f" on each of {devices} devices" if devices > 1 else ""
    who, first = f"gx.accumulate_gradients(steps={steps})", ""
    count: int | None = None
    for number, tree in zip(positions, batch, strict=True):
        found = view(tree)
        for path, x in zip(found.paths, found.places, strict=True):
            rows = None if is_absent(x) else _rows(x)
            if rows is None:
                continue
            name = f"argument {number}" + (f", {leaf(path)}," if path else "")
            if count is not None and rows != count:
                fact = f"{who}: {name} has {rows} rows and {first} has {count}"
                remedy = (
                    "name what is a batch in batch_argnums=; a PRNG key is jax.random.key(0), not PRNGKey"
                )
                raise ValueError(say(fact, remedy))
            if rows == 0 or rows % (steps * devices):
                fact = f"{who}: {name} has {rows} rows, which cannot be cut into {steps} equal parts{each}"
                raise ValueError(
                    say(fact, "drop the rest, or pad it and give the padding no weight by weight=")
                )
            count, first = rows, name.rstrip(",")
    keyed = any(compat.is_key(x) for x in jax.tree.leaves(batch))
    if count is None and steps > 1 and not keyed:
        remedy = "pass the batch by position; keyword arguments and numbers are passed whole"
        raise ValueError(
            say(f"{who}: no positional argument is an array that could be cut, or a PRNG key", remedy)
        )


def _part(tree: Any, i: Any, steps: int, number: Any) -> Any:
    """Part i of the batch: every `steps`-th row, so that rows stay on the devices on which they are.

    `number` tells the parts of all devices apart.
    """

    def one(x: Any) -> Any:
        rows = _rows(x)
        if rows is None:
            return jax.random.fold_in(x, number) if compat.is_key(x) else x
        x = x if hasattr(x, "dtype") else jnp.asarray(x)
        cut = jnp.reshape(x, (rows // steps, steps, *x.shape[1:]))
        return jax.lax.dynamic_index_in_dim(cut, i, axis=1, keepdims=False)

    return jax.tree.map(one, tree)


def _nothing(like: list[Any], params: list[Any]) -> list[Any]:
    """The sums before the first part: of the types that they have after it, gradients laid out as their parameters."""
    numbers = [jnp.zeros([], x.dtype) for x in (like[0], *like[1 + len(params) :])]
    grads = [jnp.zeros_like(p, dtype=x.dtype) for p, x in zip(params, like[1:], strict=False)]
    return [compat.varying_as(z, (x,)) for z, x in zip([numbers[0], *grads, *numbers[1:]], like, strict=True)]


def _number(value: Any) -> Any:
    """A weight as float32, 0 where it is not above 0."""
    if np.shape(value) != ():
        fact = f"gx.accumulate_gradients(weight=...): the function gave an array of shape {np.shape(value)}"
        raise ValueError(say(fact, "wanted one number, the tokens of this part"))
    weight = jnp.asarray(value).astype(jnp.float32)
    return jnp.where(weight > 0, weight, np.float32(0))


def _weighed(x: Any, w: Any) -> Any:
    dtype = compute_dtype(x.dtype)
    x = x.astype(dtype)
    return x if w is None else jnp.where(w > 0, w.astype(real_dtype(dtype)) * x, jnp.zeros_like(x))


def _mean(x: Any, total: Any) -> Any:
    total = total.astype(real_dtype(x.dtype))
    one = np.asarray(1, total.dtype)
    return jnp.where(total > 0, x / jnp.where(total > 0, total, one), jnp.zeros_like(x))
