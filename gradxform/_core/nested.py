"""Wrappers that decide whether, when, or with what numbers the transform inside of them runs.

Such a wrapper is one link of the plan around it. It sees a whole step: gradients in, updates out, and the inner state
as one value that it may put back. The transform inside is lowered where the wrapper stands (its address, its executor,
the declared stack axes), so reports and messages name its links as if the wrapper were not there.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from . import compat, door
from .numerics import abs_sq, compute_dtype, real_dtype, widen
from .plan import Body, Lowering, Plan, Route
from .reduce import axes_of, reduce_leaves
from .run import run
from .transform import GradientTransformation
from .tree import as_array, is_absent, is_float0, is_inexact, tree_map, view


class NestedBody(Body):
    """A wrapper whose state holds the inner state in the field `inner_state`."""

    #: The wrapper's factory, for messages and as the last name of its address.
    call: str = ""
    #: How far the wrapper itself sees, without what is inside.
    reach: str = "element"

    def __init__(self, inner: GradientTransformation, state: type) -> None:
        self.inner, self.state = inner, state
        self.label = inner.label
        self.rate, self.uncoupled = inner.body.rate, inner.body.uncoupled

    # What a wrapper defines -------------------------------------------------------------------------------------

    def start(self, params: Any, inner_state: Any) -> Any:
        """The wrapper's state around a fresh inner state."""
        raise NotImplementedError

    def step(
        self, inner: "Inner", updates: Any, state: Any, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        """One step: `inner(updates, inner_state, params, extra)` runs the transform inside."""
        raise NotImplementedError

    @property
    def needs(self) -> tuple[str, ...]:
        """What the wrapper itself asks of `update`."""
        return ()

    # What the house asks of a body ------------------------------------------------------------------------------

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self.start(params, self.inner.body.init(params, stacked))

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inner = Inner(self.inner.body, route)
        needs = tuple(dict.fromkeys((*self.needs, *inner.plan.needs)))
        return lowering.whole(
            _Wrapper(self, inner, "/".join((*route.names, self.call))), route, needs, self.call, self.reach
        )

    def split(self, state: Any, address: str) -> list[Any]:
        who = f"{address}/{self.call}" if address else self.call
        return [door.check_state_class(self.state, state, who)]

    def join(self, state: Any, parts: list[Any]) -> Any:
        del state
        return parts.pop(0)


class Inner:
    """The transform inside of a wrapper, ready to run where the wrapper stands."""

    def __init__(self, body: Body, route: Route) -> None:
        self.body, self.route = body, route
        self.address = "/".join(route.names)
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            self._plan = self.of(self.body)
        return self._plan

    def of(self, body: Body) -> Plan:
        """The plan of another body in the same place: the same transform with other numbers."""
        lowering = Lowering()
        body.lower(lowering, Route(self.route.names, (), self.route.executor, self.route.stacked))
        return Plan(tuple(lowering.links), tuple(lowering.segments))

    def __call__(
        self, updates: Any, state: Any, params: Any, extra: Mapping[str, Any], body: Body | None = None
    ) -> tuple[Any, Any]:
        """One step of the transform inside, or of `body` in its place."""
        plan = self.plan if body is None else self.of(body)
        return run(body or self.body, updates, state, params, extra, self.address, plan)


class _Wrapper:
    """A wrapper as a link that sees the whole tree."""

    def __init__(self, body: NestedBody, inner: Inner, address: str) -> None:
        self.body, self.inner, self.address = body, inner, address

    @property
    def plan(self) -> Plan:
        return self.inner.plan

    def parts(self, state: Any) -> list[Any]:
        return self.body.inner.body.split(state.inner_state, self.inner.address)

    def update(self, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> tuple[Any, Any]:
        return self.body.step(self.inner, updates, state, params, extra)


def choose(flag: Any, yes: Any, no: Any) -> Any:
    """`yes` where the flag holds, else `no`, for two states of one structure.

    A selection and no multiplication: 0 * NaN is NaN.
    """

    def one(a: Any, b: Any) -> Any:
        if a is b or is_absent(a):
            return a
        b = b if hasattr(b, "dtype") else jnp.asarray(b)
        a = a if hasattr(a, "dtype") else jnp.asarray(a)
        return jnp.where(flag, a, b if a.dtype == b.dtype else b.astype(a.dtype))

    return jax.tree.map(one, yes, no, is_leaf=is_absent)


def no_updates(updates: Any, params: Any) -> Any:
    """Updates of zero, of the dtypes that a step would give."""

    def zero(u: Any, p: Any) -> Any:
        if is_absent(u) or is_float0(u) or not is_inexact(u):
            return u
        like = u if p is None or is_absent(p) or not is_inexact(p) else p
        return compat.varying_as(jnp.zeros_like(u, dtype=like.dtype), (u, like))

    if params is None:
        return tree_map(lambda u: zero(u, None), updates)
    return jax.tree.map(zero, updates, params, is_leaf=is_absent)


def run_if(flag: Any, step: Any, idle: Any) -> Any:
    """`step()` where the flag holds, else `idle()`; the other one is not executed (but under `vmap`, both are).

    Both return the same structure. The result has the dtypes and weak types of `idle()`, and varies (inside
    `shard_map`) on the mesh axes on which either does.
    """
    resting = jax.eval_shape(idle)
    stepping = jax.eval_shape(step) if compat.manual_axes() else resting

    def alike(make: Any) -> Any:
        return lambda: jax.tree.map(_alike, make(), resting, stepping)

    return jax.lax.cond(flag, alike(step), alike(idle))


def _alike(x: Any, resting: Any, stepping: Any) -> Any:
    x = jnp.asarray(x)
    x = compat.like_weak(compat.strong(x, resting.dtype), resting)
    return compat.varying_as(x, (resting, stepping)) if compat.manual_axes() else x


def squared_norm(tree: Any, axis_names: Any, who: str) -> Any:
    """The sum of squares over all floating leaves, in float32 or wider; Inf where a square overflows, NaN where one is.

    Inside `shard_map` each leaf's part is summed over the axes of `axis_names` on which it varies.
    """
    rows = view(tree)
    partials: list[Any] = []
    axes: list[tuple[str, ...]] = []
    widest = compute_dtype(
        *(x.dtype for x in rows.places if not is_absent(x) and not is_float0(x) and is_inexact(x))
    )
    for path, x in zip(rows.paths, rows.places, strict=True):
        if is_absent(x) or is_float0(x) or not is_inexact(x):
            continue
        x = as_array(x, path, who, "the updates")
        dtype = compute_dtype(x.dtype)
        partials.append(jnp.sum(abs_sq(widen(jnp.asarray(x), dtype))).astype(real_dtype(widest)))
        axes.append(axes_of(path, x, axis_names, who))
    if not partials:
        return jnp.zeros([], jnp.float32)
    return reduce_leaves(partials, axes, "sum")
