"""`param_groups`: each parameter to its own transform, by the name it has in the tree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optax

from .._core import door
from .._core.errors import accepts, kind, say, short, signature_text
from .._core.factory import factory
from .._core.joined import Joined
from .._core.mask import MaskSelector, hide
from .._core.plan import Body, Lowering, Route
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import is_absent, is_pattern, listed, matches, pattern_text, view
from .plain import scale, set_to_zero


class GroupSelector:
    """The leaves of one group."""

    def __init__(self, family: "Groups", index: int) -> None:
        self.family, self.index = family, index

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[bool]:
        return [number == self.index for number in self.family.select(tree, paths, places)]

    def hide(self, tree: Any, paths: Sequence[str], places: Sequence[Any], target: Any) -> Any:
        """See `Selector`."""
        return hide(target, self.select(tree, paths, places), view(tree))


class Groups:
    """Patterns in order; every leaf belongs to the first that takes it."""

    def __init__(self, patterns: Sequence[Any], labels: Sequence[str], unused: str) -> None:
        self.patterns, self.labels, self.unused = patterns, labels, unused

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[int]:
        """The group's number for each place, -1 for absent ones."""
        if isinstance(tree, Joined):
            return tree.answers(self.select, "gx.param_groups")
        numbers = [
            -1 if is_absent(p) else self._first(path, p) for path, p in zip(paths, places, strict=True)
        ]
        uncovered = [
            path for path, number in zip(paths, numbers, strict=True) if number == len(self.patterns)
        ]
        if uncovered:
            raise ValueError(
                say(
                    f"gx.param_groups: no key takes {listed(uncovered)}",
                    f"the keys are {listed(self.labels)}",
                    "add a last key '*' for the rest (None freezes it)",
                )
            )
        empty = [label for i, label in enumerate(self.labels) if i not in numbers]
        if empty and self.unused == "error" and any(number >= 0 for number in numbers):
            raise ValueError(
                say(
                    f"gx.param_groups: nothing belongs to the key {listed(empty)}",
                    f"the parameters are {listed(paths)}",
                    "is the pattern right, or does an earlier key take them all? unused='ignore' accepts it",
                )
            )
        return numbers

    def _first(self, path: str, leaf: Any) -> int:
        for i, pattern in enumerate(self.patterns):
            if matches(pattern, path, leaf, "gx.param_groups"):
                return i
        return len(self.patterns)


class Halves(Groups):
    """What a mask takes, and the rest."""

    def __init__(self, mask: Any, labels: tuple[str, str], who: str) -> None:
        super().__init__((), labels, "ignore")
        self.selector = MaskSelector(mask, who)

    def select(self, tree: Any, paths: Sequence[str], places: Sequence[Any]) -> list[int]:
        """0 for what the mask takes, 1 for the rest, -1 where there is nothing."""
        taken = self.selector.select(tree, paths, places)
        return [-1 if is_absent(x) else int(not one) for one, x in zip(taken, places, strict=True)]


class GroupsBody(Body):
    """Groups side by side. A frozen group (None) has no state and its updates are zero."""

    def __init__(self, groups: Groups, transforms: Sequence[GradientTransformation | None]) -> None:
        self.groups, self.transforms = groups, transforms
        self.selectors = [GroupSelector(groups, i) for i in range(len(transforms))]
        bodies = [tx.body for tx in transforms if tx is not None]
        self.rate = max((body.rate for body in bodies), default=0)
        self.uncoupled = any(body.uncoupled for body in bodies)

    def _live(self) -> list[tuple[int, str, GradientTransformation]]:
        return [(i, self.groups.labels[i], tx) for i, tx in enumerate(self.transforms) if tx is not None]

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        rows = view(params)
        if not any(not is_absent(p) for p in rows.places):
            states = {
                label: optax.MaskedState(tx.body.init(params, stacked)) for _, label, tx in self._live()
            }
            return optax.transforms.PartitionState(states)
        numbers = self.groups.select(params, rows.paths, rows.places)
        states: dict[Any, Any] = {}
        for i, label, tx in self._live():
            states[label] = optax.MaskedState(
                tx.body.init(hide(params, [n == i for n in numbers], rows), stacked)
            )
        return optax.transforms.PartitionState(states)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        exits: list[Route] = []
        for selector, label, tx in zip(self.selectors, self.groups.labels, self.transforms, strict=True):
            inside = replace(route, selectors=(*route.selectors, selector))
            body = set_to_zero().body if tx is None else tx.body
            name = "frozen" if tx is None else tx.label
            exits.append(body.lower(lowering, lowering.enter(lowering.enter(inside, f"[{label}]"), name)))
        # Groups share no leaf, so they run side by side; what comes after waits for the last of them.
        last = max(exits, key=lambda r: (r.segment, r.worked), default=route)
        return route.after(last)

    def _inner(self, state: Any, address: str) -> Mapping[Any, Any]:
        state = door.check_state_class(optax.transforms.PartitionState, state, address or "param_groups")
        wanted = [label for _, label, _ in self._live()]
        if set(state.inner_states) != set(wanted):
            raise ValueError(
                say(
                    f"{address or 'param_groups'}: wanted states for the groups {listed(wanted)}, "
                    f"got {listed(list(map(str, state.inner_states)))}",
                    "the keys must be those with which init was called",
                )
            )
        return state.inner_states

    def split(self, state: Any, address: str) -> list[Any]:
        inner = self._inner(state, address)
        parts: list[Any] = []
        for label, tx in zip(self.groups.labels, self.transforms, strict=True):
            if tx is None:
                parts.append(optax.EmptyState())
            else:
                parts.extend(tx.body.split(inner[label].inner_state, f"{address}[{label}]"))
        return parts

    def join(self, state: Any, parts: list[Any]) -> Any:
        new: dict[Any, Any] = {}
        for label, tx in zip(self.groups.labels, self.transforms, strict=True):
            if tx is None:
                parts.pop(0)
            else:
                new[label] = optax.MaskedState(tx.body.join(state.inner_states[label].inner_state, parts))
        return optax.transforms.PartitionState(new)


def _check_key(key: Any) -> None:
    predicate = callable(key) and not isinstance(key, type)
    if not is_pattern(key) and not predicate:
        wanted = "wanted a glob, re.compile(...), or a predicate (path, leaf)"
        raise TypeError(say(f"gx.param_groups: the key {short(key)} is {kind(key)}", wanted))
    if predicate and accepts(key, 2) is False:
        text = f"{short(key)}{signature_text(key)}"
        raise TypeError(f"gx.param_groups: the key {text} cannot be called as a predicate (path, leaf)")


@factory(label="", sample={"groups": {"*": scale(0.5)}})
def param_groups(groups: Any, *, unused: str = "error"):
    """Gives each parameter its own transform, by its path in the tree.

    Args:
        groups: a mapping from patterns to transforms; the first pattern that takes a leaf wins. A pattern is a glob on
            the slash path (`"*/bias"` also takes a top-level `bias`), a compiled regular expression (searched in the
            path), a tuple of these, or a predicate `(path, leaf) -> bool`. The value `None` freezes: zero updates, no
            state, no work. The containers that Flax and haliax put around arrays do not appear in paths.
        unused: "error" refuses a pattern that takes nothing (a typo, usually); "ignore" accepts it.

    Returns:
        A transform. A clip *inside* a group sees that group's leaves only; one that stands before `param_groups` in a
        chain sees all of them.

    State: `optax.transforms.PartitionState` with one `MaskedState` for each group that is not frozen.

    Raises:
        ValueError: when parameters arrive: a leaf that no pattern takes, or a pattern that takes no leaf.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.chain(
        ...     gx.clip_by_global_norm(1.0),
        ...     gx.param_groups({"embed/*": None, "*/bias": gx.sgd(0.1), "*": gx.adamw(1e-3)}),
        ... )
        >>> tx.plan.links[-1].address
        '[*]/adamw/rate'
    """
    if not isinstance(groups, Mapping) or not groups:
        got = "an empty one" if isinstance(groups, Mapping) else kind(groups)
        raise TypeError(
            say(
                f"gx.param_groups(groups): wanted a mapping from patterns to transforms, got {got}",
                "such as {'*/bias': gx.sgd(0.1), '*': gx.adamw(1e-3)}",
            )
        )
    if unused not in ("error", "ignore"):
        raise ValueError(f"gx.param_groups(unused={unused!r}): wanted 'error' or 'ignore'")
    for key in groups:
        _check_key(key)
    lowering = Lowering()
    labels = [lowering.enter(Route(), pattern_text(key)).names[-1] for key in groups]
    transforms = [
        None if tx is None else as_transform(tx, f"gx.param_groups: the group {label!r}")
        for label, tx in zip(labels, groups.values(), strict=True)
    ]
    return wrap(GroupsBody(Groups(list(groups), labels, unused), transforms))
