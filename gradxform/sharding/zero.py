"""`zero`: each device of an axis keeps and updates its slice of the state.

    G_i = mean over devices of g, slice i         reduce-scatter, or a slice of what is reduced already
    u_i, s_i = update(G_i, s_i, p_i)              the transform inside; numbers of whole leaves cross the devices
    u = all slices of u side by side              all-gather, in the layout of the parameters

The state is that of the transform inside, of the same classes and global shapes, and only lies elsewhere; so the same
checkpoint is one with ZeRO and without.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .._core import compat, placement
from .._core.errors import kind, say, short
from .._core.factory import factory
from .._core.foreign import link_reach, makers, twins
from .._core.nested import Inner, ThroughBody
from .._core.plan import Link
from .._core.spec import Example
from .._core.specs import names_at, padded
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import is_absent, listed, view
from .slices import LeafSlice, check_layouts, cuts, is_worked, layouts
from .ways import ByHand, Placed, both, check_params, constrained, resharded

_WHO = "gx.sharding.zero"


class ZeroBody(ThroughBody):
    call = "zero"
    reach = "element"

    def __init__(self, inner: GradientTransformation, axes: tuple[str, ...], stage: int, given: Any) -> None:
        super().__init__(inner)
        self.axes, self.stage, self.given = axes, stage, given
        #: Where the state lies, found once for each tree of parameters.
        self._found: dict[Any, dict[str, Any]] = {}

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        way = self.way(params, stacked)
        if way is None:  # on a laptop, for a report: without a mesh there is nothing to cut
            return self.inner.body.init(params, stacked)
        with way.making():
            return way.kept(self.inner.body.init(way.sliced(params), stacked))

    def step(
        self, inner: Inner, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        tree = updates if params is None else params
        way = self.way(tree, inner.route.stacked)
        if way is None:
            fact = f"{_WHO}(axis={short(self._axis)}): there is no mesh to cut the state over"
            remedy = "call it under jax.set_mesh(mesh), or pass param_shardings= of NamedShardings"
            raise ValueError(say(fact, remedy))
        gradients = way.entering(updates, tree, self.stage)
        mine = None if params is None else way.sliced(params)
        extra = {name: way.sliced(x) if _alike(x, tree) else x for name, x in extra.items()}
        plan = None
        if isinstance(way, ByHand):
            self._check_by_hand(inner)
            plan = Inner(self.inner.body, replace(inner.route, shards=way.shards)).plan
        new, fresh = inner(gradients, way.kept(state), mine, extra, plan=plan)
        return way.leaving(new, tree), way.kept(fresh)

    @property
    def _axis(self) -> Any:
        return self.axes[0] if len(self.axes) == 1 else self.axes

    # ------------------------------------------------------------------------------------------ where it runs

    def way(self, tree: Any, stacked: tuple[Any, ...]) -> Placed | ByHand | None:
        """How slices are made where the code runs now; None if nothing says on which mesh."""
        rows = view(tree)
        leaves = {p: x for p, x in zip(rows.paths, rows.places, strict=True) if is_worked(x)}
        manual = compat.manual_axes() & set(self.axes)
        if manual:
            return self._by_hand(tree, leaves, stacked)
        mesh = self._mesh(leaves)
        if mesh is None:
            return None
        missing = [axis for axis in self.axes if axis not in mesh.axis_names]
        if missing:
            fact = f"{_WHO}(axis={short(self._axis)}): the mesh has no axis {listed(missing)}"
            raise ValueError(say(fact, f"its axes are {listed(list(mesh.axis_names))}"))
        sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
        specs = self._specs(leaves, mesh.axis_names)
        found = cuts(self.inner.plan, tree, specs, self.axes, sizes, stacked)
        put: Any = resharded if _explicit(mesh, self.axes) else constrained
        mixed = len(set(mesh.axis_types)) > 1
        if mixed:
            put = partial(both, always=put is constrained)
        return Placed(mesh, found, put, self._layout(tree, found, mesh, stacked), mixed)

    def _mesh(self, leaves: Mapping[str, Any]) -> Any:
        """The mesh of explicit types, of `param_shardings` if none is set, of arrays, of `jax.set_mesh`, or None."""
        for x in leaves.values():
            typed = compat.explicit_sharding(x)
            if typed is not None and set(self.axes) <= set(typed.mesh.axis_names):
                # Outside of jit other arrays, counts, come from one device: for them it takes the mesh with devices.
                return typed.mesh if isinstance(x, compat.Tracer) else x.sharding.mesh
        known = compat.current_mesh()
        for x in jax.tree.leaves(self.given, is_leaf=lambda x: isinstance(x, NamedSharding)):
            if isinstance(x, NamedSharding):
                # Reports and checkpoints ask for layouts on a mesh of their own, of other axis types or another size.
                return known if known is not None and set(self.axes) <= set(known.axis_names) else x.mesh
        for x in leaves.values():
            sharding = getattr(x, "sharding", None)
            if not isinstance(x, compat.Tracer) and isinstance(sharding, NamedSharding):
                return sharding.mesh
        return known

    def _specs(self, leaves: Mapping[str, Any], axes: Any) -> dict[str, PartitionSpec]:
        if self.given is not None:
            return layouts(_WHO, self.given, leaves, axes)
        return {path: placement.spec_of(x) or PartitionSpec() for path, x in leaves.items()}

    def _layout(
        self, tree: Any, found: Mapping[str, LeafSlice], mesh: Any, stacked: tuple[Any, ...]
    ) -> dict[str, Any]:
        """The shape and the sharding of every leaf of the state of slices, by path."""
        rows = view(tree)

        def shape(path: str, x: Any) -> Any:
            if is_absent(x) or not hasattr(x, "shape"):
                return x
            sharding = NamedSharding(mesh, found[path].sliced if path in found else PartitionSpec())
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        places = [shape(path, x) for path, x in zip(rows.paths, rows.places, strict=True)]
        key = (rows.treedef, mesh, stacked, *map(str, places))
        if key not in self._found:
            slices = rows.treedef.unflatten(places)
            inner = SimpleNamespace(init=lambda params: self.inner.body.init(params, stacked))
            shapes = view(jax.eval_shape(inner.init, slices))
            laid = view(placement.state_shardings(inner, slices, mesh))
            shardings = dict(zip(laid.paths, laid.places, strict=True))
            self._found[key] = {
                path: (tuple(x.shape), shardings[path])
                for path, x in zip(shapes.paths, shapes.places, strict=True)
                if not is_absent(x)
            }
        return self._found[key]

    def _by_hand(self, tree: Any, leaves: Mapping[str, Any], stacked: tuple[Any, ...]) -> ByHand:
        manual, mesh = compat.manual_axes(), jax.sharding.get_abstract_mesh()
        rest = [axis for axis in self.axes if axis not in manual]
        if rest:
            fact = (
                f"{_WHO}(axis={short(self._axis)}): this shard_map does not run by hand over {listed(rest)}"
            )
            raise ValueError(say(fact, "name all axes of ZeRO among its axis_names="))
        sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
        specs = {path: PartitionSpec() for path in leaves}
        if self.given is not None:
            specs = layouts(_WHO, self.given, leaves, mesh.axis_names)
        check_params(_WHO, tree, specs, manual)

        def whole(path: str, x: Any) -> Any:
            """The shape without the cuts that are made by hand."""
            if path not in specs:
                return x
            taken = (names_at(entry) for entry in padded(specs[path], x.ndim))
            shape = tuple(
                size * _product(sizes[name] for name in names if name in manual)
                for size, names in zip(x.shape, taken, strict=True)
            )
            return jax.ShapeDtypeStruct(shape, x.dtype)

        rows = view(tree)
        places = [whole(path, x) for path, x in zip(rows.paths, rows.places, strict=True)]
        found = cuts(self.inner.plan, rows.treedef.unflatten(places), specs, self.axes, sizes, stacked)
        tracked = all(map(compat.tracks_varying, self.axes))
        return ByHand(self.axes, found, tracked, manual)

    def _check_by_hand(self, inner: Inner) -> None:
        """Somebody's function that looks at a whole leaf would see a slice of it."""
        for link in inner.plan.flat:
            if link.foreign and link_reach(link) != "element":
                ours = twins(_function(link))
                fact = f"{_WHO} inside shard_map: {_named(link)} sees whole leaves and would be given slices"
                raise ValueError(
                    say(fact, f"use {ours}, or run it under jax.jit" if ours else "run it under jax.jit")
                )


def _function(link: Link) -> Any:
    """The function of somebody's link."""
    return getattr(link.whole, "update_fn", None)


def _named(link: Link) -> str:
    """The address of somebody's link, and who made it."""
    made = " ".join(dict.fromkeys(makers(_function(link))))
    return link.address if link.address.endswith(made) else f"{link.address} ({made})"


def _product(numbers: Any) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def _explicit(mesh: Any, axes: tuple[str, ...]) -> bool:
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return all(kinds[axis] == AxisType.Explicit for axis in axes)


def _alike(x: Any, tree: Any) -> bool:
    """Whether an extra argument is a tree of arrays like the parameters."""
    if jax.tree.structure(x) != jax.tree.structure(tree):
        return False
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(tree), strict=True)
    return all(getattr(a, "shape", None) == getattr(b, "shape", ()) for a, b in pairs)


@factory(label="", sample={"tx": Example("scale_by_adam")})
def zero(tx: Any, axis: Any = "data", stage: Any = 1, param_shardings: Any = None):
    """ZeRO around any transform: each device of an axis of the mesh keeps and updates its slice of the state.

    AdamW's two moments take `8 / n` bytes a parameter on each of `n` devices, and its arithmetic an n-th of the time.
    What crosses the devices is what crosses without it: a gradient, and an update in the place of its second half.

    **Update**: that of `tx`, the same numbers, as the parameters lie.

    Args:
        tx: any transform, ours or Optax's, whose leaves meet in nothing but sums: all of ours; of others, those whose
            reach is declared as "element" or "leaf" (`gx.build.declare`; that of Optax's factories is known).
        axis: the axis of the mesh over which parameters are copies, or several.
        stage: 1: gradients are whole on every device before they are sliced. 2: they are laid in slices as they come
            in, so that the compiler may reduce each where it is needed.
        param_shardings: how the parameters lie: a tree of `NamedSharding` or `jax.P` like them, one for all, or a
            mapping from patterns to `jax.P`. On a mesh with automatic axes a trace cannot see it, and parameters
            that are not whole on every device need it: without it, updates are gathered whole on every device, and
            the state is cut over `axis` alone, whatever `gx.memory` tells of arrays that lie otherwise. What the sum
            of parameters and updates is laid as, XLA chooses there, unless `jit` is given out_shardings
            (`gx.sharding.make_step`).

    A parameter is cut along the first dimension that divides by the number of devices: stacked layers
    (`gx.per_layer`) before others, dimensions that are whole before those that are cut, the last one last. What does
    not divide stays whole on every device, as does a parameter that is cut over `axis` itself; `gx.sharding.slices`
    tells which. A rule of yours that looks at a leaf by other means than `leaf.sum` gets whole layers or whole leaves.

    Under `jit`, on automatic axes (within `jax.set_mesh(mesh)`, or with `NamedSharding`s in `param_shardings`) and on
    explicit ones, gradients are the mean of all devices already, as JAX gives them. Inside `shard_map` over `axis`,
    gradients that differ between the devices are each device's own: a reduce-scatter makes slices of their mean.
    Parameters come in whole, the state in slices, by `gx.sharding.state_shardings(zero(tx), params, mesh)`.
    There `zero` goes around the rest: outside of it, `gx.accumulate`, a norm, another group of `gx.param_groups` would
    have gradients of one device each. That of a parameter cut over `axis` itself is taken as it comes, reduced already.

    State: that of `tx`, of the same global shapes: a checkpoint is one with and without ZeRO.

    Reach: that of `tx`.

    Raises:
        ValueError: when it is built, for a link that sees the whole tree in a way that is not known; at `update`, if
            there is no mesh or it has no such axis.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.sharding.zero(gx.adamw(1e-3))
        >>> mesh = jax.sharding.AbstractMesh((8,), ("data",))
        >>> params = {"w": jax.ShapeDtypeStruct((64, 128), "float32"), "b": jax.ShapeDtypeStruct((3,), "float32")}
        >>> mu = gx.sharding.state_shardings(tx, params, mesh)[0].mu
        >>> mu["w"].spec, mu["b"].spec
        (P('data', None), P(None,))

    Differs from Optax: it has none. MaxText has it for Adam, by hand.
    """
    axes = (axis,) if isinstance(axis, str) else axis
    if not isinstance(axes, tuple | list) or not axes or not all(isinstance(name, str) for name in axes):
        fact = f"{_WHO}(axis={short(axis)}): got {kind(axis)}"
        raise TypeError(say(fact, "give the name of an axis of the mesh, or a tuple of names"))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{_WHO}(axis={short(axis)}): an axis is named twice")
    if not isinstance(stage, int) or isinstance(stage, bool) or stage not in (1, 2):
        raise ValueError(say(f"{_WHO}(stage={short(stage)}): wanted 1 or 2", "slices of parameters are FSDP"))
    check_layouts(_WHO, param_shardings)
    inner = as_transform(tx, f"{_WHO}(tx)")
    for link in inner.plan.flat:
        if link.foreign and link_reach(link) == "tree":
            ours = twins(_function(link))
            fact = f"{_WHO}(tx): as far as is known, {_named(link)} sees the whole tree, and slices are parts of it"
            declared = "declare its reach if it is smaller: gx.build.declare(factory, reach='element')"
            raise ValueError(say(fact, f"use {ours}" if ours else "", declared))
    return wrap(ZeroBody(inner, tuple(axes), stage, param_shardings))


def slices(tx: Any, params: Any, mesh: Any = None, *, rules: Any = None) -> dict[str, str]:
    """How `zero` cuts each parameter, by path: the layout of its slices, or why it stays whole on every device.

    Args:
        tx: a transform of `zero`.
        params: arrays, or shapes, with a `sharding=` if they are cut themselves.
        mesh, rules: as for `gx.sharding.state_shardings`.

    Raises:
        TypeError: for another transform.

    Example:
        >>> import jax
        >>> import gradxform as gx
        >>> mesh = jax.sharding.AbstractMesh((8,), ("data",))
        >>> params = {"w": jax.ShapeDtypeStruct((64, 128), "float32"), "b": jax.ShapeDtypeStruct((3,), "float32")}
        >>> for path, text in gx.sharding.slices(gx.sharding.zero(gx.adam(1e-3)), params, mesh).items():
        ...     print(path, text)
        b whole: no dimension of (3,) divides by 8
        w P('data', None)
    """
    who = "gx.sharding.slices(tx, params)"
    body: Any = getattr(tx, "body", None)
    if not isinstance(body, ZeroBody):
        raise TypeError(say(f"{who}: got {short(tx)}", "pass what gx.sharding.zero returns"))
    mesh = placement.mesh_of([params], mesh, who)
    found: dict[str, str] = {}

    def look(tree: Any) -> None:
        way = body.way(tree, ())
        found.update({path: _told(c) for path, c in way.cuts.items()} if way is not None else {})

    with jax.sharding.use_abstract_mesh(placement.abstract(mesh)):
        jax.eval_shape(look, placement.typed(params, mesh, rules, who))
    return found


def _told(c: LeafSlice) -> str:
    return str(c.sliced) if c.dim is not None else f"whole: {c.reason}"
