"""Numbers inside of a transform by name: `learning_rate`, `adamw/b1`, `clip/max_norm`, `learning_rate/peak_value`.

A transform is a tree of calls: a factory and its arguments, among which are other transforms and schedules. The path of
a number in that tree is made of the labels that links have in the plan, the argument's name and, inside of a schedule,
the name there. A name may be less than the whole path: its end, or some of its parts in order with the last one last,
as long as it fits one path only.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import optax

from .errors import say
from .numerics import TwoFloat
from .plan import Lowering, Route
from .schedule import Schedule
from .spec import INTERNAL, Spec
from .transform import GradientTransformation, as_transform
from .tree import pattern_text

_PAIR = ("GradientTransformation", *INTERNAL)


@dataclass(frozen=True)
class Place:
    """One argument of one call in the tree: its path for people, and the keys that lead to it for `replaced`."""

    path: str
    keys: tuple[Any, ...]
    value: Any
    #: The call as a programmer writes it: `gx.adamw`.
    call: str
    #: Whether it stands inside of a schedule.
    scheduled: bool = False

    @property
    def argument(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def is_number(x: Any) -> bool:
    """Whether an argument is one real number: Python's, NumPy's, a pair of words, an array without axes."""
    if isinstance(x, bool | np.bool_):
        return False
    if isinstance(x, int | float | np.number | TwoFloat):
        return not isinstance(x, complex | np.complexfloating)
    dtype = getattr(x, "dtype", None)
    if dtype is None or getattr(x, "shape", None) != ():
        return False
    return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def is_foreign_pair(x: Any) -> bool:
    """Whether `x` is a pair of functions, of which only the names are known: Optax's, or one made by hand."""
    if isinstance(x, GradientTransformation):
        return x.spec.factory.name in _PAIR
    return isinstance(x, optax.GradientTransformation)


def _is_transform(x: Any) -> bool:
    return isinstance(x, optax.GradientTransformation)


def places(tx: GradientTransformation, as_link: Any = None) -> list[Place]:
    """Every argument of every call in the tree of `tx`; `as_link` reads a schedule that stands as a link."""
    return list(_Walk(as_link).transform(tx, Route(), ()))


class _Walk:
    """Goes through the tree as lowering does, so that labels are numbered as in the plan."""

    def __init__(self, as_link: Any) -> None:
        self.lowering, self.as_link = Lowering(), as_link

    def transform(self, tx: Any, route: Route, keys: tuple[Any, ...]) -> Iterator[Place]:
        if is_foreign_pair(tx):
            yield Place("/".join(route.names), keys, tx, "")
            return
        spec: Spec = tx.spec
        inside = [name for name, value in spec.arguments.items() if _is_transform(value)]
        fields = list(getattr(tx.body, "inners", inside))  # a wrapper of several names them as its state does
        levels = dict(zip(inside, fields if len(fields) == len(inside) else inside, strict=True))
        for name, value in spec.arguments.items():
            here = (*keys, name)
            if _is_transform(value):
                below = route if len(inside) == 1 else self.lowering.enter(route, levels[name])
                yield from self.transform(value, below, here)
            elif self._holds_transforms(value):
                yield from self._several(value, route, here)
            else:
                yield from self._argument(value, (*route.names, name), here, spec.factory.text)

    def _holds_transforms(self, value: Any) -> bool:
        if isinstance(value, Mapping):
            return any(map(_is_transform, value.values()))
        return isinstance(value, tuple | list) and any(
            _is_transform(item) or self._is_rate(item) or self._is_named(item) for item in value
        )

    def _is_rate(self, item: Any) -> bool:
        return isinstance(item, Schedule) and self.as_link is not None

    def _is_named(self, item: Any) -> bool:
        return isinstance(item, tuple | list) and len(item) == 2 and _is_transform(item[1])

    def _several(self, value: Any, route: Route, keys: tuple[Any, ...]) -> Iterator[Place]:
        """Links in order, named links, or groups."""
        if isinstance(value, Mapping):
            names = Lowering()
            for key, item in value.items():
                label = names.enter(Route(), pattern_text(key)).names[-1]
                if _is_transform(item):
                    inside = self._enter(self.lowering.enter(route, f"[{label}]"), item)
                    yield from self.transform(item, inside, (*keys, key))
            return
        for i, item in enumerate(value):
            if self._is_named(item):
                yield from self.transform(item[1], self.lowering.enter(route, item[0]), (*keys, i, 1))
            elif _is_transform(item):
                yield from self.transform(item, self._enter(route, item), (*keys, i))
            elif self._is_rate(item):
                spec = self.as_link(item).spec
                names = (*self.lowering.enter(route, spec.factory.label).names, next(iter(spec.arguments)))
                yield from self._argument(item, names, (*keys, i), spec.factory.text)

    def _enter(self, route: Route, tx: Any) -> Route:
        return self.lowering.enter(route, as_transform(tx, "").label)

    def _argument(
        self, value: Any, names: tuple[str, ...], keys: tuple[Any, ...], call: str, scheduled: bool = False
    ) -> Iterator[Place]:
        """An argument that is no transform, and what is inside of it."""
        inside: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Schedule):
            yield Place("/".join(names), keys, value, call, scheduled)
            inside, call, scheduled = value.spec.arguments.items(), value.spec.factory.text, True
        elif isinstance(value, tuple | list) and not isinstance(value, TwoFloat) and value:
            inside = enumerate(cast("Sequence[Any]", value))
        elif isinstance(value, Mapping) and value:
            inside = value.items()
        else:
            yield Place("/".join(names), keys, value, call, scheduled)
        for key, item in inside:
            yield from self._argument(item, (*names, str(key)), (*keys, key), call, scheduled)


def replaced(value: Any, edits: Mapping[tuple[Any, ...], Any]) -> Any:
    """The same tree of calls, called again with other values at some places."""
    if () in edits:
        return edits[()]
    below: dict[Any, dict[tuple[Any, ...], Any]] = {}
    for keys, new in edits.items():
        below.setdefault(keys[0], {})[keys[1:]] = new
    if isinstance(value, GradientTransformation | Schedule):
        arguments = dict(value.spec.arguments)
        arguments.update((name, replaced(arguments[name], inside)) for name, inside in below.items())
        return Spec(value.spec.factory, arguments).rebuild()
    if isinstance(value, Mapping):
        return {key: replaced(x, below[key]) if key in below else x for key, x in value.items()}
    return type(value)(replaced(x, below[i]) if i in below else x for i, x in enumerate(value))


# ------------------------------------------------------------------------------------------------ names


def parts_of(name: str) -> tuple[str, ...]:
    """`[*/bias]/sgd/momentum` in three parts: a slash inside of brackets belongs to a pattern."""
    parts, depth = [""], 0
    for letter in name:
        depth += (letter == "[") - (letter == "]")
        if letter == "/" and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(parts)


def matching(name: str, paths: Iterable[str]) -> list[str]:
    """The paths that a name fits: itself; else those that end in it; else those that have its parts in order."""
    known = list(paths)
    if name in known:
        return [name]
    ends = [path for path in known if path.endswith(f"/{name}")]
    return ends or [path for path in known if _in_order(parts_of(name), parts_of(path))]


def _in_order(few: tuple[str, ...], many: tuple[str, ...]) -> bool:
    rest = iter(many)
    return few[-1] == many[-1] and all(part in rest for part in few)


def within(path: str, around: str) -> bool:
    """Whether the parts of `around`, a path of labels, lead to `path`."""
    rest = iter(parts_of(path))
    return not around or all(part in rest for part in parts_of(around))


def ambiguous(who: str, name: str, found: Sequence[str]) -> str:
    """The message about a name that fits several paths."""
    return say(f"{who}: {name!r} may be {listed(found)}", "write as much of the path as tells them apart")


def unknown(who: str, name: str, paths: Iterable[str], what: str) -> str:
    """The message about a name that fits no path."""
    known = list(dict.fromkeys(paths))
    ends = {path.rsplit("/", 1)[-1]: path for path in reversed(known)}
    last = name.rsplit("/", 1)[-1]
    near = difflib.get_close_matches(name, known, n=1) or [
        ends[end] for end in difflib.get_close_matches(last, ends, n=1)
    ]
    hint = f"did you mean {near[0]!r}?" if near else ""
    return say(
        f"{who}: there is no {name!r}", hint, f"{what} {listed(known)}" if known else f"{what} nothing"
    )


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in a message."""
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
