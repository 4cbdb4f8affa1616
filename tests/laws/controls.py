"""One deliberately wrong transform for each law. All but a few break their law and no other.

Each is `gx.trace(0.9)` with one thing done wrong. Functions stand at the top of the module, so that a pair of them can
be pickled; only the control of `is_value` is a closure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx
from gradxform import build
from gradxform._core import compat
from gradxform._core.compat import Tracer

GOOD = gx.trace(0.9)
F16, BF16 = jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16)


class Control(NamedTuple):
    """A wrong transform, the reach that it claims, and the laws that it cannot help breaking as well."""

    tx: Any
    also: frozenset[str] = frozenset()
    reach: str | None = None


def _good_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    del extra
    return GOOD.update(updates, state, params)


def _good_init(params: Any) -> Any:
    return GOOD.init(params)


def _pair(init: Any = _good_init, update: Any = _good_update) -> Any:
    return optax.GradientTransformationExtraArgs(init, update)


@dataclass(frozen=True)
class Bent:
    """The good update with `fn(u, g, p)` done to each leaf that has a gradient."""

    fn: Callable[[Any, Any, Any], Any]

    def __call__(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        u, new = _good_update(updates, state, params, **extra)

        def one(u: Any, g: Any, p: Any) -> Any:
            if not hasattr(g, "dtype") or g.dtype == jax.dtypes.float0:
                return u
            return self.fn(u, g, p)

        return jax.tree.map(one, u, updates, updates if params is None else params, is_leaf=_absent), new


def _absent(x: Any) -> bool:
    return x is None or isinstance(x, optax.MaskedNode)


def _bent(fn: Any) -> Any:
    return _pair(update=Bent(fn))


def _state(fn: Any, state: Any) -> Any:
    return state._replace(trace=jax.tree.map(fn, state.trace))


def never(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    raise RuntimeError("not today")


def wide_state(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    return u, _state(lambda x: x.astype(jnp.float32) if x.dtype == F16 else x, new)


def wide_update(u: Any, g: Any, p: Any) -> Any:
    return u.astype(jnp.float32) if p.dtype == F16 else u


def asks_for_values(params: Any) -> Any:
    for p in jax.tree.leaves(params):
        if isinstance(p, Tracer) and p.dtype == F16:
            float(p.sum())
    return GOOD.init(params)


def ones_if_traced(params: Any) -> Any:
    traced = any(isinstance(p, Tracer) for p in jax.tree.leaves(params))
    return _state(lambda x: x + 1 if traced and x.dtype == jnp.float32 else x, GOOD.init(params))


def the_parameters_themselves(params: Any) -> Any:
    return optax.TraceState(jax.tree.map(lambda p: jnp.array(p, p.dtype) if p.weak_type else p, params))


def doubled_if_eager(u: Any, g: Any, p: Any) -> Any:
    return u if isinstance(u, Tracer) else 2 * u


def _plain(params: Any) -> bool:
    """Whether these are the parameters that most laws use: then a fault stays with one law."""
    return isinstance(params, dict) and set(params) == {"b", "w"} and np.shape(params["w"]) == (2, 3)


class Weak(NamedTuple):
    """A state whose second field is weakly typed at first."""

    trace: Any
    factor: Any


def weak_init(params: Any) -> Any:
    return Weak(GOOD.init(params).trace, jnp.asarray(1.0) if _plain(params) else jnp.asarray(np.float32(1.0)))


def weak_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, optax.TraceState(state.trace), params)
    return u, Weak(new.trace, state.factor * np.float32(1.0))


def weak_zeros(params: Any) -> Any:
    return optax.TraceState(jax.tree.map(jnp.zeros_like, params))


def strong(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    return u, _state(lambda x: jax.lax.convert_element_type(x, x.dtype), new)


class Folded(optax.GradientTransformationExtraArgs):
    """A pair that says of itself that it is a chain of two links, and is twice what they are."""

    links = (GOOD, gx.scale(0.5))
    body = property(lambda self: self)


def _folded() -> Any:
    chain = gx.chain(*Folded.links)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        u, new = chain.update(updates, state, params)
        return jax.tree.map(lambda u: 2 * u, u), new

    return Folded(chain.init, update)


class Drifts:
    """An update that is another one each time that it is traced."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, u: Any, g: Any, p: Any) -> Any:
        self.times += 1
        return u * np.asarray(self.times, u.dtype)


class Growing(NamedTuple):
    """A state that gets a field at the first step."""

    trace: Any
    seen: Any


def growing_init(params: Any) -> Any:
    return Growing(GOOD.init(params).trace, None if _plain(params) else jnp.zeros(()))


def growing_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, optax.TraceState(state.trace), params)
    return u, Growing(new.trace, jnp.zeros(()))


_SEEN: set[bytes] = set()


def remembers(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    arrays = jax.tree.leaves((updates, state))
    if any(isinstance(x, Tracer) for x in arrays) or not any(
        np.asarray(x).any() for x in jax.tree.leaves(state)
    ):
        return u, new
    key = b"".join(np.asarray(x).tobytes() for x in arrays)
    twice = key in _SEEN
    _SEEN.add(key)
    return jax.tree.map(lambda x: 2 * x if twice else x, u), new


@jax.custom_batching.custom_vmap
def _same(x: Any) -> Any:
    return x


@_same.def_vmap
def _same_vmap(size: Any, batched: Any, x: Any) -> Any:
    del size
    return 2 * x, batched[0]


def other_in_batches(u: Any, g: Any, p: Any) -> Any:
    return _same(u)


def no_others(updates: Any, state: Any, params: Any = None, *, value: Any = None) -> Any:
    return _good_update(updates, state, params)


def promotes(u: Any, g: Any, p: Any) -> Any:
    return u * jnp.asarray(1, jnp.int32)


def first_axis(u: Any, g: Any, p: Any) -> Any:
    if p.ndim == 0 and not getattr(p, "weak_type", False):
        raise IndexError("tuple index out of range")
    return u


def by_size(u: Any, g: Any, p: Any) -> Any:
    return u * (p.size // p.size)


def dislikes_masks(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    for x in jax.tree.leaves(updates, is_leaf=_absent):
        if isinstance(x, optax.MaskedNode):
            raise TypeError("MaskedNode times float")
    return _good_update(updates, state, params)


def wants_leaves(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    if isinstance(updates, dict | tuple) and not updates:
        raise IndexError("list index out of range")
    return _good_update(updates, state, params)


def counts_integers(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    whole = isinstance(params, dict) and "n" in params and params["n"].dtype == jnp.int32
    return {**u, "n": jnp.ones_like(params["n"])} if whole else u, new


def decays_the_absent(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    absent = isinstance(updates, dict) and updates.get("b", 0) is None and params["b"] is not None
    return {**u, "b": params["b"]} if absent else u, new


def by_name(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    return {**u, "w": 0.5 * u["w"]} if isinstance(u, dict) and "w" in u else u, new


def by_company(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)
    floats = [x for x in jax.tree.leaves(u) if jnp.issubdtype(x.dtype, jnp.inexact)]
    company = 0.5 ** (len(floats) - 1)
    return jax.tree.map(lambda x: x * company if jnp.issubdtype(x.dtype, jnp.inexact) else x, u), new


def by_largest(u: Any, g: Any, p: Any) -> Any:
    wide = u.astype(jnp.float32) if u.dtype in (F16, BF16) else u
    return (wide / (1 + jnp.max(jnp.abs(wide), initial=0.0))).astype(u.dtype)


def nothing_by_nothing(u: Any, g: Any, p: Any) -> Any:
    return jnp.where(g == 0, jnp.nan, u).astype(u.dtype) if p.dtype == F16 else u


def overflows(u: Any, g: Any, p: Any) -> Any:
    return jnp.where(jnp.abs(g) > 6e4, jnp.inf, u).astype(u.dtype) if p.dtype == F16 else u


def creeps(u: Any, g: Any, p: Any) -> Any:
    return u + jnp.asarray(1e-9, u.dtype)


def yesterday_s(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, state, params)

    def before(u: Any, g: Any, t: Any) -> Any:
        return t.astype(u.dtype) if hasattr(g, "dtype") and g.dtype != jax.dtypes.float0 else u

    return jax.tree.map(before, u, updates, state.trace, is_leaf=_absent), new


def leans(u: Any, g: Any, p: Any) -> Any:
    return u if jnp.iscomplexobj(u) else 0.5 * u + 0.125 * jnp.abs(u)


def changes_its_mind(u: Any, g: Any, p: Any) -> Any:
    return jnp.where(jnp.max(jnp.abs(g), initial=0.0) > 1.3, -u, u)


def stalled(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    """An average of 0.999 in the parameter's dtype."""
    u, new = _good_update(updates, state, params)

    def average(t: Any, g: Any, fine: Any) -> Any:
        if not hasattr(g, "dtype") or g.dtype == jax.dtypes.float0:
            return fine
        return (0.999 * t + 0.001 * g.astype(t.dtype)).astype(t.dtype)

    def out(u: Any, g: Any, t: Any) -> Any:
        return t.astype(u.dtype) if hasattr(g, "dtype") and g.dtype != jax.dtypes.float0 else u

    trace = jax.tree.map(average, state.trace, updates, new.trace, is_leaf=_absent)
    return jax.tree.map(out, u, updates, trace, is_leaf=_absent), optax.TraceState(trace)


def norm_in_16_bits(u: Any, g: Any, p: Any) -> Any:
    if u.size == 0 or jnp.iscomplexobj(u):
        return u
    return u / jnp.maximum(1, jnp.sqrt(jnp.max(u * u, initial=0))).astype(u.dtype)


def cancels(u: Any, g: Any, p: Any) -> Any:
    wide = jnp.float64 if u.dtype in (jnp.float64, jnp.complex128) else jnp.float32
    factor = np.asarray(0.001, wide) / (np.asarray(1, wide) - np.asarray(0.999, wide))
    return u * jnp.asarray(factor, jnp.real(u).dtype)


def broadcasts(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    def fit(g: Any, p: Any) -> Any:
        return (
            jnp.broadcast_to(g, p.shape) if hasattr(g, "dtype") and hasattr(p, "dtype") and p.ndim == 2 else g
        )

    if params is not None:
        updates = jax.tree.map(fit, updates, params, is_leaf=_absent)
    return _good_update(updates, state, params)


def must_have(updates: Any, state: Any, params: Any, **extra: Any) -> Any:
    return _good_update(updates, state, params)


def obliging(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    if isinstance(params, optax.TraceState):
        state, params = params, state
    return _good_update(updates, state, params)


def squares(u: Any, g: Any, p: Any) -> Any:
    return u * u if jnp.iscomplexobj(u) else u


@jax.tree_util.register_dataclass
@dataclass
class Odd:
    """A state that is no NamedTuple."""

    trace: Any


def odd_init(params: Any) -> Any:
    return Odd(GOOD.init(params).trace)


def odd_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, optax.TraceState(state.trace), params)
    return u, Odd(new.trace)


class Sized(NamedTuple):
    """A state with a number for each parameter beside its average."""

    trace: Any
    norms: Any


def sized_init(params: Any) -> Any:
    return Sized(GOOD.init(params).trace, jax.tree.map(lambda p: jnp.zeros(()), params))


def sized_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    u, new = _good_update(updates, optax.TraceState(state.trace), params)
    return u, Sized(new.trace, state.norms)


def boxed_init(params: Any) -> Any:
    return optax.TraceState(jax.tree.map(lambda t: {"average": t}, GOOD.init(params).trace))


def boxed_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    def is_box(x: Any) -> bool:
        return isinstance(x, dict) and set(x) == {"average"}

    plain = jax.tree.map(lambda x: x["average"], state.trace, is_leaf=is_box)
    u, new = _good_update(updates, optax.TraceState(plain), params)
    return u, optax.TraceState(jax.tree.map(lambda t: {"average": t}, new.trace))


def _closure() -> Any:
    return optax.GradientTransformationExtraArgs(
        _good_init, lambda *args, **extra: _good_update(*args, **extra)
    )


class Liar(gx.GradientTransformation):
    """Prints as another transform."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "gx.trace(0.5)"


def _on_auto_mesh() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size == 8 and all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def everywhere(params: Any) -> Any:
    state = GOOD.init(params)
    if not _on_auto_mesh() or any(isinstance(p, Tracer) for p in jax.tree.leaves(params)):
        return state
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)


def forgets_where(params: Any) -> Any:
    if not _on_auto_mesh():
        return GOOD.init(params)
    return optax.TraceState(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))


def gathers(u: Any, g: Any, p: Any) -> Any:
    return jax.lax.with_sharding_constraint(u, jax.P()) if _on_auto_mesh() and isinstance(u, Tracer) else u


@build.factory
def by_what_is_here():
    """It says that it is right on shards, and asks the array for its size where it should ask the leaf."""

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return g * np.asarray(max(1, g.size), g.dtype)

    return build.leafwise(step, sharded=True)


def as_the_gradient(u: Any, g: Any, p: Any) -> Any:
    there = compat.explicit_sharding(g)
    return u if there is None else jax.reshard(u, there)


def _also(*names: str) -> frozenset[str]:
    return frozenset(names)


CONTROLS: dict[str, Control] = {
    "takes_a_step": Control(_pair(update=never)),
    "state_form": Control(_pair(update=wide_state)),
    "update_form": Control(_bent(wide_update)),
    "init_shapes": Control(_pair(asks_for_values)),
    "init_jit": Control(_pair(ones_if_traced)),
    "init_copies": Control(_pair(the_parameters_themselves)),
    "jit_is_eager": Control(_bent(doubled_if_eager)),
    "one_trace": Control(_pair(weak_init, weak_update)),
    "weak_trace": Control(_pair(weak_zeros, strong)),
    "loops": Control(_pair(growing_init, growing_update), _also("one_trace", "double", "sixteen_tracks")),
    "pure": Control(_pair(update=remembers)),
    "vmap": Control(_bent(other_in_batches)),
    "unknown_extra": Control(_pair(update=no_others)),
    "strict_flags": Control(_bent(promotes)),
    "folds": Control(_folded()),
    "held": Control(_bent(Drifts())),
    "scalar_leaves": Control(_bent(first_axis)),
    "empty_leaves": Control(_bent(by_size)),
    "holes": Control(_pair(update=dislikes_masks)),
    "empty_tree": Control(_pair(update=wants_leaves)),
    "integer_leaves": Control(_pair(update=counts_integers)),
    "missing_gradients": Control(_pair(update=decays_the_absent)),
    "names": Control(_pair(update=by_name)),
    "other_leaves": Control(_pair(update=by_company), reach="leaf"),
    "cutting": Control(_bent(by_largest), reach="element"),
    "zeros_finite": Control(_bent(nothing_by_nothing)),
    "sixteen_finite": Control(_bent(overflows)),
    "zeros_still": Control(_bent(creeps)),
    "acts_at_once": Control(_pair(update=yesterday_s)),
    "odd": Control(_bent(leans)),
    "one_side": Control(_bent(changes_its_mind)),
    "sixteen_tracks": Control(_pair(update=stalled)),
    "sixteen_agrees": Control(_bent(norm_in_16_bits)),
    "double": Control(_bent(cancels)),
    "shapes_refused": Control(_pair(update=broadcasts)),
    "params_said": Control(_pair(update=must_have)),
    "swapped_refused": Control(_pair(update=obliging)),
    "complex_leaves": Control(_bent(squares)),
    "file": Control(_pair(odd_init, odd_update)),
    "labels": Control(_pair(sized_init, sized_update)),
    "addresses": Control(_pair(boxed_init, boxed_update), _also("labels")),
    "is_value": Control(_closure()),
    "text": Control(tuple.__new__(Liar, tuple(gx.trace(0.9)))),
    "sharded_init": Control(_pair(everywhere), _also("sharded_update")),
    "sharded_jit_init": Control(_pair(forgets_where), _also("sharded_init", "sharded_update")),
    "sharded_update": Control(_bent(gathers)),
    "on_shards": Control(by_what_is_here()),
    "sharded_mixed": Control(_bent(as_the_gradient)),
}
