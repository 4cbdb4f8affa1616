"""A rule: what a method does to one leaf, as a list of stages, with the state that it keeps.

    reduce(g, s, p, k, leaf) -> partials     numbers of one leaf that the whole tree adds up (optional)
    once(c)                  -> scalars      the step's scalars: bias corrections, a clip factor, a rate (optional)
    step(g, s, p, k, leaf)   -> u, slots     the update and the new slots of one leaf

`g` is this link's *own input* (what the links before it made of the gradient), `s` the leaf's slots by field name, `p`
the parameter or None, `k` the step's scalars by name, `leaf` what is known of the leaf (`Leaf`). All arrays arrive in
the compute dtype, at least float32; the engine casts, masks, decodes and encodes around the rule, which cannot tell a
tree from a bucket, a kernel or a shard. `step` returns `u` alone if it changes no slot, else `(u, {field: new})`.

Most methods have one stage. A method whose reduction needs what its own step has just written (Prodigy: the moments
first, then their sums, then the step) has several, and each later `reduce` sees the slots that the stage before left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import roles
from .errors import leaf as place, say
from .leaf import Leaf
from .numerics import canonical, compute_dtype, next_count
from .roles import Count, Role, roles_of
from .scalars import is_others, is_schedule, resolve, resolve_decay
from .shards import Cut, cut_in_making
from .tree import as_array, is_absent, is_inexact, matches, pattern_text, view


@dataclass(frozen=True, eq=False)
class Stage:
    """One reduction, its scalars and one pass over the leaves; each part is optional.

    Args:
        step: see the module's head; None passes the update on.
        once: takes a `Context`, returns a dict of scalars, or `(scalars, fields)` to renew scalar state fields too.
        reduce: returns any pytree of 0-d arrays.
        combine: how partials of leaves become one: "sum" or "max".
    """

    step: Callable[..., Any] | None = None
    once: Callable[[Any], Any] | None = None
    reduce: Callable[..., Any] | None = None
    combine: str = "sum"


class Scheduled(NamedTuple):
    """The state of a link that must count steps for its schedules and whose own state has no counter."""

    count: Count
    inner: Any


class Context(SimpleNamespace):
    """What `once` sees.

    The hyperparameters of this step by name, and `count` (completed steps, int32), `t` (this step's number, floating,
    1 at the first), `sums` (what the stage's `reduce` gave for the whole tree), `state` (the scalar fields of the state
    by name), `extra` (keyword arguments of `update`), `dtype`.
    """


Init = Callable[[Any, Leaf], Any]


def stack_depth(stacked: tuple[Any, ...], path: str, leaf: Any) -> int:
    """How many leading axes of a leaf are declared as stack axes, one for each pattern that takes it."""
    depth = sum(1 for pattern in stacked if matches(pattern, path, leaf))
    if depth > len(leaf.shape):
        patterns = " and ".join(map(pattern_text, stacked))
        fact = (
            f"gx.per_layer(stacked={patterns!r}): {place(path)} of shape {leaf.shape} has no axis of layers"
        )
        raise ValueError(say(fact, "name the stacked leaves only"))
    return depth


@dataclass(frozen=True, eq=False)
class Rule:
    """A method, ready to be run by any executor. Made by the lifts of `gradxform.build`, not by hand."""

    call: str
    stages: tuple[Stage, ...]
    reach: str
    state: type = optax.EmptyState
    scalars: Mapping[str, Any] = field(default_factory=dict[str, Any])
    decays: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dtypes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    init: Mapping[str, Init] = field(default_factory=dict[str, Init])
    fields: Mapping[str, Callable[[], Any]] = field(default_factory=dict[str, Callable[[], Any]])
    needs: tuple[str, ...] = ()
    axis_names: Any = None
    sharded: bool = False
    any_dtype: bool = False
    rate: int = 0
    flips: bool = False
    uncoupled: bool = False
    coupled: bool = False
    counted: bool = False
    bounds: bool = False
    wide: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    sees: Callable[[Leaf], str] | None = None

    @property
    def roles(self) -> dict[str, Role]:
        return roles_of(self.state)

    @property
    def slots(self) -> tuple[str, ...]:
        """The fields that hold one array a parameter."""
        return tuple(name for name, role in self.roles.items() if role.per_parameter)

    @property
    def count_fields(self) -> tuple[str, ...]:
        """The counts: the first is the one that is asked, the others are counted along with it."""
        return tuple(name for name, role in self.roles.items() if role is roles.COUNT)

    @property
    def count_field(self) -> str | None:
        return next(iter(self.count_fields), None)

    @property
    def asked_of_others(self) -> tuple[str, ...]:
        """The hyperparameters that are somebody's functions of the count."""
        return tuple(n for n, v in (*self.scalars.items(), *self.decays.items()) if is_others(v))

    @property
    def takes_shards(self) -> bool:
        """Whether it is right on one shard of a leaf: numbers over elements go through `leaf` and `reduce` alone."""
        return self.reach == "element" or self.sharded or self.axis_names is not None

    @property
    def scheduled(self) -> bool:
        """Whether the state is wrapped in `Scheduled`."""
        values = (*self.scalars.values(), *self.decays.values())
        return self.count_field is None and (self.counted or any(map(is_schedule, values)))

    def owned(self, state: Any) -> Any:
        """A state of this rule without what it carries of other links."""
        return state._replace(**dict.fromkeys(self.carried, ())) if self.carried else state

    def slot_dtype(self, name: str, dtype: Any) -> Any:
        """The dtype in which a slot is stored for a parameter of `dtype`.

        A second moment of a 16-bit parameter, or a factor of one, is float32 unless asked otherwise: in bfloat16,
        0.999 v rounds back to v and never decays; in float16 the square of 300 is infinite. `wide` names others.
        Where a real dtype is asked for, a complex parameter keeps its imaginary part.
        """
        asked = self.dtypes.get(name)
        if asked is not None:
            signed = self.roles[name] is not roles.SECOND_MOMENT
            return (
                compute_dtype(asked, dtype) if signed and _drops_imaginary(asked, dtype) else canonical(asked)
            )
        squares = self.roles[name] in (roles.SECOND_MOMENT, roles.FACTOR)
        if (squares or name in self.wide) and jnp.dtype(dtype) in (jnp.float16, jnp.bfloat16):
            return jnp.dtype(jnp.float32)
        return dtype

    def init_slot(self, name: str, p: Any, path: str, depth: int) -> Any:
        """One slot of one leaf, `depth` of whose leading axes are declared stack axes."""
        dtype = self.slot_dtype(name, canonical(p.dtype)) if is_inexact(p) else canonical(p.dtype)
        maker = self.init.get(name)
        if maker is None or not is_inexact(p):
            return jnp.zeros_like(p, dtype=dtype)
        cut = (
            cut_in_making(path, p, f"init of {self.call}").below(depth) if self.reach != "element" else Cut()
        )
        leaf = Leaf(path, tuple(p.shape[depth:]), jnp.dtype(p.dtype), *cut)

        def one(x: Any) -> Any:
            return jnp.array(maker(x, leaf), dtype)  # a copy: a state that is donated shares nothing with `p`

        for _ in range(depth):
            one = jax.vmap(one)
        return one(p)

    def init_state(self, params: Any, stacked: tuple[Any, ...]) -> Any:
        """The state for `params`, derived from the roles of its fields."""
        rows = view(params)
        ps = [
            as_array(p, path, f"init of {self.call}", "the parameters")
            for path, p in zip(rows.paths, rows.places, strict=True)
            if self.slots
        ]
        made: dict[str, Any] = {}
        for name, role in self.roles.items():
            if name in self.fields:
                made[name] = self.fields[name]()
            elif name in self.carried:
                made[name] = ()
            elif role is roles.COUNT:
                made[name] = jnp.zeros([], jnp.int32)
            elif role.per_parameter:
                slots = [
                    p if is_absent(p) else self.init_slot(name, p, path, stack_depth(stacked, path, p))
                    for path, p in zip(rows.paths, ps, strict=True)
                ]
                made[name] = rows.treedef.unflatten(slots)
            else:
                raise TypeError(
                    f"{self.call}: the state field {name!r} has no role and no initial value in fields="
                )
        state = self.state(**made)
        return Scheduled(jnp.zeros([], jnp.int32), state) if self.scheduled else state

    def hyper(self, count: Any, dtype: Any) -> dict[str, Any]:
        """Every hyperparameter at this count."""
        asked = self.arguments
        found: dict[str, Any] = {
            n: resolve(self.call, asked.get(n, n), v, count, dtype) for n, v in self.scalars.items()
        }
        found.update({n: resolve_decay(self.call, n, v, count, dtype) for n, v in self.decays.items()})
        return found


def _drops_imaginary(asked: Any, dtype: Any) -> bool:
    complex_too = jnp.issubdtype(jnp.dtype(asked), jnp.complexfloating)
    return jnp.issubdtype(dtype, jnp.complexfloating) and not complex_too


class Running:
    """One link's state while a step runs: read once, renewed by the stages, written once."""

    def __init__(self, rule: Rule, state: Any, slots: dict[str, list[Any]]) -> None:
        self.rule, self.state, self.slots = rule, state, slots
        self.inner = state.inner if rule.scheduled else state
        if rule.scheduled:
            self.count = state.count
        elif rule.count_field is not None:
            self.count = getattr(self.inner, rule.count_field)
        else:
            self.count = None
        owned = [(n, r) for n, r in rule.roles.items() if n not in rule.carried]
        singles = [n for n, r in owned if not r.per_parameter and r is not roles.COUNT]
        self.fields = {name: getattr(self.inner, name) for name in singles}
        self.k: dict[str, Any] = {}

    def begin(self, dtype: Any) -> None:
        count = None if self.count is None else jnp.asarray(self.count)
        self.k = self.rule.hyper(0 if count is None else count, dtype)

    def scalars(self, stage: Stage, sums: Any, extra: Mapping[str, Any], dtype: Any) -> None:
        """Runs a stage's `once`."""
        if stage.once is None:
            return
        count = 0 if self.count is None else jnp.asarray(self.count)
        t = jnp.asarray(count, dtype) + np.asarray(1, dtype)
        context = Context(
            **self.k,
            count=count,
            t=t,
            sums=sums,
            state=SimpleNamespace(**self.fields),
            extra=extra,
            dtype=dtype,
        )
        got = stage.once(context)
        fresh, fields = got if isinstance(got, tuple) else (got, {})
        self.k = {**self.k, **fresh}
        for name, value in fields.items():
            self.fields[name] = jnp.asarray(value).astype(self.fields[name].dtype)

    def end(self, nest: Callable[[list[Any], Any], Any], keep: Callable[[Any, Any], Any]) -> Any:
        """The new state; `nest(places, old)` makes a slot's tree, `keep(new, old)` stores the scalar fields."""
        rule = self.rule
        if not rule.roles and not rule.scheduled:
            return self.state
        made: dict[str, Any] = {
            name: keep(value, jnp.asarray(getattr(self.inner, name))) for name, value in self.fields.items()
        }
        made.update({name: getattr(self.inner, name) for name in rule.carried})
        made.update({name: nest(places, getattr(self.inner, name)) for name, places in self.slots.items()})
        if self.count is not None:
            old = jnp.asarray(self.count)
            count = keep(next_count(old), old)
            if rule.scheduled:
                return Scheduled(count, rule.state(**made) if rule.roles else self.inner)
            made[str(rule.count_field)] = count
            for name in rule.count_fields[1:]:
                other = jnp.asarray(getattr(self.inner, name))
                made[name] = keep(next_count(other), other)
        return rule.state(**made)
