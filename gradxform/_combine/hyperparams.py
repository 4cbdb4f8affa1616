"""`get_hyperparams` and `set_hyperparams`: the numbers of an optimizer, read and changed on the state as it is.

What is read comes from the links of the plan: numbers as they were built, schedules at the count in the state, and what
`tunable` or Optax's `inject_hyperparams` keep in the state. What is set are the latter two, wherever wrappers, chains
and groups have put them.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat
from .._core.address import ambiguous, is_number, listed, matching, places, unknown, within
from .._core.errors import describe_array, kind, say, short
from .._core.nested import NestedBody
from .._core.numerics import TwoFloat
from .._core.plan import Link, Plan
from .._core.rule import Rule
from .._core.scalars import is_schedule, resolve
from .._core.schedule import Schedule
from .._core.states import boxed, changed, nodes, unboxed
from .._core.transform import GradientTransformation, as_transform
from .plain import scale_by_learning_rate
from .tunable import TunableBody, TunableState, words

_GET, _SET = "gx.get_hyperparams(tx, state)", "gx.set_hyperparams"
_WRAP = "make them part of it: gx.tunable(tx, 'learning_rate'), and init again"


@jax.tree_util.register_pytree_with_keys_class
class Hyperparams(Mapping[str, Any]):
    """Hyperparameters by path, read-only. `["learning_rate"]` is the one whose path ends so, if there is one only.

    `aliases` are the names that the arguments of recipes have, and the paths of the links' numbers that they are.
    """

    def __init__(self, values: Mapping[str, Any], aliases: Mapping[str, str] = MappingProxyType({})) -> None:
        self._values, self.aliases = MappingProxyType(dict(values)), dict(aliases)

    def __getitem__(self, name: str) -> Any:
        found = matching(name, self._values)
        if not found:
            found = [self.aliases[alias] for alias in matching(name, self.aliases)]
        if len(found) == 1:
            return self._values[found[0]]
        who = "gx.get_hyperparams"
        raise KeyError(ambiguous(who, name, found) if found else unknown(who, name, self, "there is"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Hyperparams({dict(self._values)!r})"

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """For JAX: the values, and the names as static data."""
        keyed = [(jax.tree_util.DictKey(name), value) for name, value in self._values.items()]
        return keyed, (tuple(self._values), tuple(self.aliases.items()))

    def tree_flatten(self) -> tuple[Any, Any]:
        """For JAX, without keys."""
        keyed, names = self.tree_flatten_with_keys()
        return [value for _, value in keyed], names

    @classmethod
    def tree_unflatten(cls, names: Any, values: Any) -> "Hyperparams":
        """For JAX: the inverse of `tree_flatten`."""
        paths, aliases = names
        return cls(dict(zip(paths, values, strict=True)), dict(aliases))


def get_hyperparams(tx: Any, state: Any) -> Hyperparams:
    """Every hyperparameter of every link, as the next step will use it.

    Args:
        tx: any transform. Of one that is not ours the hyperparameters are known that its state holds, as those of
            `optax.inject_hyperparams`.
        state: its state, also as `nnx.Optimizer.opt_state` or a Flax `TrainState.opt_state` keeps it.

    Returns:
        A read-only mapping from paths such as `"adamw/rate/learning_rate"` to values; the end of a path or some of its
        parts will do where one path has them. A number that was built in is a Python number, one that is in the state
        an array, a schedule its value at the count in the state. A learning rate is positive, as it was given. The
        mapping is a pytree: a jitted function may return it. States that are stacked are read under `jax.vmap`.

    Raises:
        KeyError: by the mapping, for a name that fits no path or several.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.linear_schedule(0.5, 0.0, 10), b1=0.95))
        >>> params = jnp.zeros(2)
        >>> _, state = tx.update(jnp.ones(2), tx.init(params), params)
        >>> known = gx.get_hyperparams(tx, state)
        >>> list(known)[:3]
        ['clip/max_norm', 'adamw/adam/b1', 'adamw/adam/b2']
        >>> known["b1"], round(float(known["learning_rate"]), 3)
        (0.95, 0.45)
    """
    transform = as_transform(tx, _GET)
    reader = _Reader()
    reader.plan(transform.plan, transform.body.split(unboxed(state), ""))
    found, also = reader.found, _aliases(transform, reader.found)
    # What no link reads at a step: numbers of wrappers, sizes, what init alone has used.
    for path, value in (*reader.tuned, *_numbers(transform)):
        if not matching(path, (*found, *also)):
            found[path] = value
    return Hyperparams(found, also)


def _numbers(tx: GradientTransformation) -> tuple[tuple[str, Any], ...]:
    """The numbers with which a transform and its parts were built, schedules left out."""
    known = tx.body.__dict__.get("_numbers")
    if known is None:
        all_of = places(tx, scale_by_learning_rate)
        known = tuple((p.path, p.value) for p in all_of if is_number(p.value) and not p.scheduled)
        tx.body.__dict__["_numbers"] = known
    return known


def _aliases(tx: GradientTransformation, found: Mapping[str, Any]) -> dict[str, str]:
    """What recipes call a number that has another name in its link: the `momentum` of `sgd`, `decay` of `trace`."""
    known = tx.body.__dict__.get("_aliases")
    if known is None:
        built = {path: value for link in tx.plan.flat for path, value in _built(link)}
        known = tx.body.__dict__["_aliases"] = {}
        all_of = [place for place in places(tx, scale_by_learning_rate) if not place.scheduled]
        for place in all_of:
            around = place.path.rpartition("/")[0]
            beside = {p.argument for p in all_of if p.path.rpartition("/")[0] == around}
            same = [
                path for path, value in built.items() if _same(value, place.value) and within(path, around)
            ]
            same = [path for path in same if path.rsplit("/", 1)[-1] not in beside]
            if not matching(place.path, built) and len(same) == 1:
                known[place.path] = same[0]
    return {alias: path for alias, path in known.items() if path in found}


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are one number or one schedule. Equal parts of transforms are one object, whose is open."""
    alike = isinstance(a, Schedule) or (isinstance(a, int | float) and isinstance(b, int | float))
    return a is b or (alike and a == b)


def _built(link: Link) -> Iterator[tuple[str, Any]]:
    """The numbers and schedules of a link as it was built."""
    if link.rule is not None:
        for name, value in {**link.rule.decays, **link.rule.scalars}.items():
            yield f"{link.address}/{link.rule.arguments.get(name, name)}", value


class _Reader:
    """The hyperparameters of a plan and of the plans inside its wrappers."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.taken: dict[str, int] = {}
        self.tuned: list[tuple[str, Any]] = []

    def plan(self, plan: Plan, parts: list[Any]) -> None:
        for link, part in zip(plan.links, parts, strict=True):
            again = self.taken[link.address] = self.taken.get(link.address, -1) + 1
            self.link(link, part, f"{link.address}_{again}" if again else link.address)

    def link(self, link: Link, part: Any, address: str) -> None:
        if link.rule is not None:
            self.rule(link.rule, part, address)
        elif link.whole is not None and link.inside is not None:
            self.wrapper(link.whole, part)
        else:
            for _, node in nodes(part):
                for name, value in _held(node).items():
                    self.found[f"{address}/{name}"] = value

    def rule(self, rule: Rule, part: Any, address: str) -> None:
        inner = part.inner if rule.scheduled else part
        field = rule.count_field
        count = part.count if rule.scheduled else 0 if field is None else getattr(inner, field)
        for name, value in {**rule.decays, **rule.scalars}.items():
            argument = rule.arguments.get(name, name)
            self.found[f"{address}/{argument}"] = _value(rule.call, argument, value, count)

    def wrapper(self, whole: Any, part: Any) -> None:
        body: NestedBody = whole.body
        if not isinstance(body, TunableBody):
            for plan, parts in whole.alternatives(part):
                self.plan(plan, parts)
            return
        inner = whole.inners["inner_state"]
        now = body.current(part)
        self.plan(inner.of(now), now.split(part.inner_state, inner.address))
        for name, number in body.numbers.items():
            path = "/".join(filter(None, (inner.address, number.place.path)))
            self.tuned.append((path, jnp.asarray(part.hyperparams[name])))


def _value(call: str, name: str, value: Any, count: Any) -> Any:
    """A hyperparameter as a person reads it."""
    if isinstance(value, TwoFloat):
        return value.hi
    if not is_schedule(value):
        return value.item() if isinstance(value, np.generic) else value
    if np.ndim(count) > 0:
        fact = f"{_GET}: the state holds {np.shape(count)} counts, one for each of several runs"
        raise ValueError(
            say(fact, "read them by jax.vmap(lambda state: gx.get_hyperparams(tx, state))(state)")
        )
    return jnp.asarray(resolve(call, name, value, jnp.asarray(count), np.dtype(np.float32)))


# ------------------------------------------------------------------------------------------------ setting


def _held(node: Any) -> Mapping[str, Any]:
    """The hyperparameters that a node of a state holds."""
    found = getattr(node, "hyperparams", None)
    return found if isinstance(found, Mapping) else {}


def set_hyperparams(state: Any, values: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
    """The state with other hyperparameters: `state = gx.set_hyperparams(state, learning_rate=1e-4)`.

    Only what stands in the state can be set: what `gx.tunable` has put there, or `optax.inject_hyperparams`. It is a
    change of data: the jitted step runs on without compiling anything, and the old state stays as it is. A state does
    not know the method, so ranges are not checked: a `b1` of 1 does what it does.

    Args:
        state: the state of any transform, also as `nnx.Optimizer.opt_state` (assign the result back) or a Flax
            `TrainState.opt_state` keeps it.
        values: new numbers by name, for names that are no Python identifiers (`"adamw/learning_rate"`).
        **more: new numbers by name. A name is one that `tunable` was given, or its end; behind the address of the
            state that holds it (`"1/learning_rate"`) where several do. A number may be an array, traced too: inside
            of `jax.grad` for its derivative, inside of `jax.vmap` for many at once. An array with axes gives a state
            with as many values, for `jax.vmap` of the step.

    Returns:
        A new state of the same structure, dtypes and weak types.

    Raises:
        ValueError: for a name that is not there or stands in several places, for a number that is not finite, for one
            that a schedule of `optax.inject_hyperparams` overwrites.
        TypeError: for what is no real number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.tunable(gx.sgd(0.1), "learning_rate")
        >>> state = tx.init(jnp.zeros(2))
        >>> float(gx.set_hyperparams(state, learning_rate=0.5).hyperparams["learning_rate"])
        0.5
        >>> rates = jnp.array([0.1, 0.2, 0.4])
        >>> states = jax.vmap(lambda rate: gx.set_hyperparams(state, learning_rate=rate))(rates)
        >>> jax.vmap(tx.update, in_axes=(None, 0))(jnp.ones(2), states)[0][:, 0].tolist()
        [-0.10000000149011612, -0.20000000298023224, -0.4000000059604645]
    """
    given = {**(values or {}), **more}
    if values is not None and len(given) < len(values) + len(more):
        raise TypeError(f"{_SET}: {listed(sorted(set(values) & set(more)))} is given twice")
    known: dict[str, tuple[str, str]] = {}
    for address, node in nodes(state):
        for name in _held(node):
            known["/".join(filter(None, (address, name)))] = (address, name)
    chosen: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        path = _only(name, known)
        address, key = known[path]
        new = chosen.setdefault(address, {})
        if key in new:
            raise ValueError(f"{_SET}: {name!r} is given twice, by two names")
        new[key] = value
    return changed(state, lambda at, node: _with(node, chosen[at]) if at in chosen else node)


def _only(name: str, known: Mapping[str, tuple[str, str]]) -> str:
    """The path of the number called `name`."""
    if not known:
        raise ValueError(say(f"{_SET}: this state holds no hyperparameters", _WRAP))
    exact = [path for path, (_, key) in known.items() if key == name]
    found = [name] if name in known else exact or matching(name, known)
    if len(found) > 1:
        raise ValueError(ambiguous(_SET, name, found))
    if not found:
        raise ValueError(say(unknown(_SET, name, known, "the state holds"), f"for others, {_WRAP}"))
    return found[0]


def _with(node: Any, new: Mapping[str, Any]) -> Any:
    """A node with new numbers."""
    hyperparams, scheduled = dict(_held(node)), getattr(node, "hyperparams_states", {})
    pairs = {name: _words(name, value) for name, value in new.items()}
    for name, pair in pairs.items():
        if name in scheduled:
            fact = (
                f"{_SET}({name}=...): optax.inject_hyperparams has a schedule there, which would overwrite it"
            )
            raise ValueError(say(fact, "give inject_hyperparams a number, or change the schedule"))
        hyperparams[name] = _beside(name, pair.hi, hyperparams[name])
    if not isinstance(node, TunableState):
        return node._replace(hyperparams=hyperparams)
    rest = dict(node.rest)
    rest.update((name, _beside(name, pair.lo, rest[name])) for name, pair in pairs.items())
    return node._replace(hyperparams=hyperparams, rest=rest)


def _words(name: str, value: Any) -> TwoFloat:
    """The new number, looked at where it is known."""
    text = f"{_SET}({name}={short(value)})"
    array = isinstance(value, np.ndarray | jax.Array)
    real = array and (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer))
    if not real and not is_number(value):
        got = describe_array(value) if array else kind(value)
        hint = "a schedule is given when the transform is built" if is_schedule(value) else ""
        raise TypeError(say(f"{text}: wanted a number or an array of them, got {got}", hint))
    known = value.hi if isinstance(value, TwoFloat) else value
    if not isinstance(known, compat.Tracer):
        size = np.abs(np.asarray(known, np.float64))
        if not np.all(size <= np.finfo(np.float32).max):  # a comparison with NaN is false
            hint = "" if np.any(~np.isfinite(size)) else ", within the range of float32"
            raise ValueError(f"{text}: wanted a finite number{hint}")
    return words(value)


def _beside(name: str, new: Any, old: Any) -> Any:
    """`new` as the state holds `old`: dtype, shape, box, and the place where it lies."""
    before = jax.tree.leaves(old)[0]
    dtype, shape = jnp.result_type(before), np.shape(before)
    try:
        wanted = np.broadcast_shapes(np.shape(new), shape)
    except ValueError:
        fact = f"{_SET}({name}=...): {np.shape(new)[0]} values for a state of {shape[0]}"
        raise ValueError(say(fact, "one value for each, or one for all")) from None
    made = jnp.broadcast_to(jnp.asarray(new).astype(dtype), wanted)
    return boxed(compat.placed_as(compat.strong(made, dtype), before), old)
