"""Which numbers of a transform can live in a state, what they are called there, and why others cannot.

A factory is asked by trying: it is called with a traced number in the place of the one it has, and the trace says which
hyperparameters of which links depend on it. So nothing has to be declared, also not by factories of others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core import compat
from .._core.address import (
    Place,
    ambiguous,
    is_foreign_pair,
    is_number,
    listed,
    matching,
    parts_of,
    places,
    replaced,
    unknown,
)
from .._core.errors import kind, say, short
from .._core.foreign import makers, twins
from .._core.numerics import TwoFloat
from .._core.plan import Link, Plan
from .._core.scalars import is_schedule, resolve
from .._core.schedule import Schedule
from .._core.transform import GradientTransformation
from .plain import scale_by_learning_rate

CALL = "gx.tunable(tx)"


@dataclass(frozen=True)
class Number:
    """A hyperparameter in the state. `exact` says that its factory takes a pair of words, not only an array."""

    place: Place
    exact: bool


class Numbers:
    """The numbers that can be tuned in a transform, and the reasons why others cannot."""

    def __init__(self, tx: GradientTransformation) -> None:
        self.tx = tx
        self.places = places(tx, scale_by_learning_rate)
        self.taken = _tuned(tx, ())
        self.numbers = [p for p in self.places if is_number(p.value) and p.keys not in self.taken]

    def find(self, name: Any) -> Number:
        """The number called `name`."""
        if not isinstance(name, str):
            remedy = "gx.tunable(gx.adamw(3e-4), 'learning_rate', 'b1')"
            raise TypeError(say(f"{CALL}: a name is a string, got {kind(name)}", remedy))
        who = f"gx.tunable(tx, {name!r})"
        likely = [p for p in self.places if is_number(p.value) or is_schedule(p.value)]
        found = matching(name, (place.path for place in likely)) or self._by_link(name)
        if len(found) > 1:
            raise ValueError(ambiguous(who, name, found))
        place = next((p for p in likely if p.path in found), None)
        if place is None or place.keys in self.taken or not is_number(place.value):
            raise ValueError(self._refusal(who, name, place))
        return self._number(who, place)

    def _by_link(self, name: str) -> list[str]:
        """The number that a link of the plan reads under this name: `adam/b1` for the `b1` of `gx.adamw`."""
        found: list[str] = []
        for place in self.numbers:
            if place.argument == parts_of(name)[-1]:
                try:
                    found += [place.path] if name in _readers(self.tx, place, False) else []
                except Exception:  # it shapes the program
                    continue
        return found

    def _refusal(self, who: str, name: str, place: Place | None) -> str:
        """Why there is no such number."""
        if place is None:
            paths = matching(name, (p.path for p in self.places))
            others = [p for p in self.places if p.path in paths]
            others.sort(key=lambda p: p.value is None)  # a None says least
            place = others[0] if others else None
        if place is not None:
            return say(f"{who}: {self._why_not(place)}", self._instead(place))
        known = self.possible()
        pairs = [place for place in self.places if is_foreign_pair(place.value)]
        if not pairs:
            return unknown(who, name, known, "what can be tuned:")
        value = pairs[0].value
        if isinstance(value, GradientTransformation):
            value = value.spec.arguments.get("transform", value)
        which = f"the link {pairs[0].path!r}" if pairs[0].path else "this"
        fact = f"{who}: {which} is a pair of functions without a spec, whose numbers cannot be reached"
        return say(fact, _in_its_place(value), f"what can be tuned: {listed(known)}" if known else "")

    def possible(self, within: tuple[Any, ...] = ()) -> list[str]:
        """The paths of the numbers that can be tuned, all or those inside of one argument."""
        found: list[str] = []
        for place in self.numbers:
            if place.keys[: len(within)] != within:
                continue
            try:
                self._number("", place)
            except ValueError:
                continue
            found.append(place.path)
        return found

    def _why_not(self, place: Place) -> str:
        value, text = place.value, f"{place.call}({place.argument}={short(place.value)})"
        if place.keys in self.taken:
            return f"{text} is in the state already, by the tunable inside"
        if is_schedule(value):
            return f"{text} is a schedule, which would overwrite what is set"
        if value is None:
            return f"{text}: there is no number to begin with"
        return f"{text} is {kind(value)}, wanted a number"

    def _instead(self, place: Place) -> str:
        if place.keys in self.taken:
            return ""
        if isinstance(place.value, Schedule):
            inside = self.possible(place.keys)
            reads = "gx.get_hyperparams reads its value"
            return f"inside of it there are {listed(inside)}; {reads}" if inside else reads
        if is_schedule(place.value):
            return "gx.get_hyperparams reads its value; a gradxform schedule can be tuned inside"
        return "build it with a number that can be changed later" if place.value is None else ""

    def _number(self, who: str, place: Place) -> Number:
        """How the factories take it from the state, or why they cannot."""
        text = f"{place.call}({place.argument}={short(place.value)})"
        made: list[Plan] = []
        try:
            exact = bool(_readers(self.tx, place, True, made))
        except Exception:  # a factory of somebody's that does arithmetic with its arguments takes an array
            exact = False
        readers: list[str] = []
        if not exact:
            try:
                readers = _readers(self.tx, place, False, made)
            except Exception as problem:
                cause = str(problem).splitlines()[0].replace("<traced float32[]>", "...")
                fact = f"{who}: {text} shapes the program and stays as it is built"
                raise ValueError(say(fact, cause)) from None
        if not exact and not readers and _starts_with(made[-1]):
            fact = f"{who}: {text} is read by init only, so that setting it later would do nothing"
            raise ValueError(say(fact, "build the transform with it"))
        if _layout(made[-1]) != _layout(self.tx.plan):
            fact = f"{who}: with {text} the transform has other links or another state than with most numbers"
            raise ValueError(say(fact, "build it with one of those, and set this one in the state"))
        return Number(place, exact)


def _in_its_place(foreign: Any) -> str:
    """What to do about somebody else's transform."""
    if "inject_hyperparams" in makers(foreign):
        return "its state holds them already: gx.set_hyperparams works on it as it is"
    ours = twins(foreign)
    return f"its twin is {ours}" if ours else "a factory of your own around it gives it one: gx.build.factory"


def _tuned(tx: Any, keys: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    """The keys of the numbers that tunables inside of `tx` hold in their states."""
    found: set[tuple[Any, ...]] = set()
    if isinstance(tx, GradientTransformation) and not is_foreign_pair(tx):
        if tx.spec.factory.name == "tunable":
            numbers: Mapping[str, Number] = getattr(tx.body, "numbers", {})
            found = {(*keys, "tx", *number.place.keys) for number in numbers.values()}
        for name, value in tx.spec.arguments.items():
            found |= _tuned(value, (*keys, name))
    elif isinstance(tx, Mapping):
        for key, value in tx.items():
            found |= _tuned(value, (*keys, key))
    elif isinstance(tx, tuple | list) and not is_foreign_pair(tx):
        for i, value in enumerate(tx):
            found |= _tuned(value, (*keys, i))
    return found


def _layout(plan: Plan) -> list[Any]:
    """What decides the structure of the state."""
    return [
        (link.address, link.rule and (link.rule.state, link.rule.scheduled, link.rule.slots))
        for link in plan.flat
    ]


def _readers(
    tx: GradientTransformation, place: Place, exact: bool, made: list[Plan] | None = None
) -> list[str]:
    """The hyperparameters of links that depend on a number: it is traced, and the trace is read."""
    names: list[str] = []

    def build(hi: Any, lo: Any, count: Any) -> Any:
        plan = replaced(tx, {place.keys: TwoFloat(hi, lo) if exact else hi}).plan
        values: list[Any] = []
        for link in plan.flat:
            for name, value in _numbers_of(link, count).items():
                names.append(f"{link.address}/{name}")
                values.append(jnp.asarray(jax.tree.leaves(value)[0]))
        if made is not None:
            made.append(plan)
        return values

    shapes = [jax.ShapeDtypeStruct((), dtype) for dtype in (np.float32, np.float32, np.int32)]
    jaxpr = jax.make_jaxpr(build)(*shapes).jaxpr
    depends: set[Any] = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(x in depends for x in equation.invars if not hasattr(x, "val")):
            depends.update(equation.outvars)
    return [
        name for name, x in zip(names, jaxpr.outvars, strict=True) if not hasattr(x, "val") and x in depends
    ]


def _numbers_of(link: Link, count: Any) -> dict[str, Any]:
    """What a link reads at a step, by argument; a wrapper's own numbers too."""
    if link.rule is not None:
        asked = link.rule.arguments
        return {asked.get(n, n): x for n, x in link.rule.hyper(count, jnp.float32).items()}
    body: Any = getattr(link.whole, "body", None)
    own: Mapping[str, Any] = getattr(body, "scalars", {})
    return {n: resolve(body.call, n, x, count, np.dtype(np.float32)) for n, x in own.items()}


def _starts_with(plan: Plan) -> bool:
    """Whether the maker of a slot or field has closed over the traced number."""
    for link in plan.flat:
        if link.rule is None:
            continue
        for maker in (*link.rule.init.values(), *link.rule.fields.values()):
            cells = getattr(maker, "__closure__", None) or ()
            if any(isinstance(cell.cell_contents, compat.Tracer) for cell in cells):
                return True
    return False
