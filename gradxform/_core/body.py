"""The two bodies that are not made of others: one rule, and a pair of functions that somebody wrote."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from . import automatic, compat, door
from .plan import Body, Lowering, Plan, Route
from .rule import Rule, Scheduled
from .tree import is_inexact


class RuleBody(Body):
    """One rule, lifted to trees."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.rate, self.uncoupled = rule.rate, rule.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self.rule.init_state(params, stacked)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        return lowering.rule(self.rule, route)

    def split(self, state: Any, address: str) -> list[Any]:
        who = address or self.rule.call
        if self.rule.scheduled:
            door.check_state_class(Scheduled, state, who)
            door.check_state_class(self.rule.state, state.inner, who)
            return [state]
        return [door.check_state_class(self.rule.state, state, who)]

    def join(self, state: Any, parts: list[Any]) -> Any:
        del state
        return parts.pop(0)


class PairBody(Body):
    """`init` and `update` functions, Optax's or a user's. They see the whole tree, under the promotion they expect.

    Optax's transforms multiply floats by integers and let a state's dtype drift when gradients and parameters differ
    in theirs; here they run under JAX's standard promotion, and what they return keeps the dtypes of the state that
    they were given, so that a scan or a donated step around them stays stable.
    """

    def __init__(self, init: Any, update: Any, label: str, needs: tuple[str, ...] = ()) -> None:
        self.init_fn, self.update_fn, self.label, self.needs = init, update, label, needs

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        del stacked
        with compat.promotion("standard"), compat.rank_promotion("allow"):
            return automatic.run_init(self.init_fn, params)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        return lowering.whole(_Pair(self.init_fn, self.update_fn), route, self.needs)

    def split(self, state: Any, address: str) -> list[Any]:
        del address
        return [state]

    def join(self, state: Any, parts: list[Any]) -> Any:
        del state
        return parts.pop(0)


class HandBody(PairBody):
    """`gx.GradientTransformation(init, update)`: on its own it is the two functions and nothing in between."""

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        del stacked
        return self.init_fn(params)

    def direct(self, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> tuple[Any, Any]:
        return self.update_fn(updates, state, params, **extra)


class _Pair:
    """Runs an `update` function as a whole-tree link."""

    plan = None
    skips, alters, exact = "", False, False
    fields: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()

    def __init__(self, init: Any, update: Any) -> None:
        self.init_fn, self.update_fn = init, update  # of `init_fn` only what its closure shows is asked

    def parts(self, state: Any) -> list[Any]:
        return [state]

    def alternatives(self, state: Any, params: Any = None) -> list[tuple[Plan, list[Any]]]:
        del state, params
        return []

    def update(self, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> tuple[Any, Any]:
        with compat.promotion("standard"), compat.rank_promotion("allow"):
            new, fresh = automatic.run_update(self.update_fn, updates, state, params, extra)
        return new, keep_dtypes(fresh, state)


def keep_dtypes(new: Any, old: Any) -> Any:
    """`new` with the floating dtypes of `old`; another structure is handed on as it is."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        return new

    def back(x: Any, before: Any) -> Any:
        if not hasattr(x, "dtype") or not hasattr(before, "dtype") or x.dtype == before.dtype:
            return x
        return jnp.asarray(x).astype(before.dtype) if is_inexact(x) and is_inexact(before) else x

    return jax.tree.map(back, new, old)


def pair_label(update: Any) -> str:
    """`adam` for the `update` of `optax.scale_by_adam()`: the factory's name as the closure remembers it."""
    name = (
        str(getattr(update, "__qualname__", "")).split(".<locals>")[0].removesuffix(".update").split(".")[-1]
    )
    return "transform" if not name or name == "<lambda>" else name.removeprefix("scale_by_")


def tolerant(update: Any) -> Any:
    """`update` so that it may be called with any extra argument; it is given those that it takes."""
    try:
        parameters = inspect.signature(update).parameters.values()
    except (TypeError, ValueError):
        return update
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return update
    known = {p.name for p in parameters}

    @functools.wraps(update)
    def call(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return update(
            updates, state, params, **{name: value for name, value in extra.items() if name in known}
        )

    return call


def with_extra(tx: Any) -> tuple[Any, Any]:
    """`(init, update)` of any Optax transform, `update` taking and ignoring extra arguments."""
    if isinstance(tx, optax.GradientTransformation):
        tx = optax.with_extra_args_support(tx)
    return tx.init, tolerant(tx.update)
