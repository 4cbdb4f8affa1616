"""Which leaf of a saved state means the same as which leaf of a new one, and why the others do not.

Nodes of one class mean the same; between classes, fields of one role and one name do. Arrays of parameters find each
other by the parameter's path, whatever groups or masks they stand in; counts and readings go with the arrays beside
them. What has to be consistent goes together: a corrected moment with its count, a mean with what it is a mean of.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._core import roles
from .._core.compat import Tracer
from .._core.roles import has_unit, rescales
from .meaning import DENOMINATORS, meanings, same_class, same_role, same_roles, unfit
from .reading import Field, Node

#: A leaf of a node: its field and its path below the field.
Place = tuple[str, str]
#: Where a value was: the saved node, the name of its field, the value.
Source = tuple[Node, str, Any]
#: The field in which `tunable`, and Optax's `inject_hyperparams`, keep numbers that were set.
_TUNED = "hyperparams"


@dataclass
class Found:
    """What has been decided about the leaves of one new node."""

    taken: dict[Place, Source] = field(default_factory=dict[Place, Source])
    reasons: dict[Place, str] = field(default_factory=dict[Place, str])


class Matcher:
    """Holds the nodes of both states against each other; `form` gives shape and dtype of a leaf of the new one."""

    def __init__(self, new: Sequence[Node], saved: Sequence[Node], form: Callable[[Any], Any]) -> None:
        self.new, self.saved, self.form = new, saved, form
        self.claimed: set[tuple[int, str, str]] = set()

    def run(self) -> dict[int, Found]:
        """The decisions by `id` of the new nodes. Whoever has a saved state of its own class comes first."""
        exact = [n for n in self.new if any(same_class(n, s) for s in self.saved)]
        others = [n for n in self.new if n not in exact]
        order = [*exact, *others]
        found: dict[int, Found] = {}
        for rank in (exact, others):
            found.update(
                (id(n), self._slots(n, rank, rank is exact) if _arrays(n) else Found()) for n in rank
            )
        for node in order:
            mine = found[id(node)]
            partner = self._partner(node, mine)
            _of_one_age(node, mine, partner[0])
            self._singles(node, mine, partner)
        return found

    def settle(self, found: Mapping[int, Found]) -> None:
        """Gives up what does not go with what else was found, or was not."""
        for node in self.new:
            self._of_one_unit(node, found)
        for node in self.new:
            _together(node, found[id(node)])

    # ---------------------------------------------------------------------------------- arrays of parameters

    def _slots(self, node: Node, equals: Sequence[Node], exact: bool) -> Found:
        found = Found()
        for path in dict.fromkeys(path for f in node.slots for path in f.leaves):
            names = [f.name for f in node.slots if path in f.leaves]
            fits = same_class if exact else same_roles
            able = [s for s in self.saved if fits(node, s) and any(_has(s, name, path) for name in names)]
            rivals = [n for n in equals if fits(n, able[0]) and _wants(n, path)] if able else []
            saved, reason = pick(node, able, rivals)
            if saved is None:
                reason = reason or self._why_not(node, path)
                found.reasons.update(((name, path), reason) for name in names)
                continue
            self._leaf(node, saved, path, names, found, exact)
        return found

    def _leaf(
        self, node: Node, saved: Node, path: str, names: Sequence[str], found: Found, exact: bool
    ) -> None:
        """The slots of one parameter, from one saved node: all that fit, or none if the rest would be wrong."""
        fitting: dict[Place, Source] = {}
        for name in names:
            theirs = saved.fields.get(name)
            alike = exact or same_role(node, saved, name)
            if theirs is None or path not in theirs.leaves or not alike:
                found.reasons[name, path] = f"the saved {saved.name} has no {name} of it"
            elif (id(saved), name, path) in self.claimed:
                found.reasons[name, path] = f"the saved {name} went to a state of its own class"
            else:
                reason = unfit(theirs.leaves[path], self.form(node.fields[name].leaves[path]))
                if reason:
                    found.reasons[name, path] = reason
                else:
                    fitting[name, path] = (saved, name, theirs.leaves[path])
        wrong = self._inconsistent(node, saved, names, path, fitting, found, exact)
        if wrong:
            found.reasons.update((place, wrong) for place in fitting)
            return
        self.claimed.update((id(saved), name, path) for name, _ in fitting)
        found.taken.update(fitting)

    def _inconsistent(
        self,
        node: Node,
        saved: Node,
        names: Sequence[str],
        path: str,
        fitting: dict[Place, Any],
        found: Found,
        exact: bool,
    ) -> str:
        """Why what fits may not be taken, or an empty text."""
        if exact:
            bad = [found.reasons[name, path] for name in names if (name, path) not in fitting]
            return bad[0] if bad else ""
        if node.count is None or not fitting:
            return ""
        if saved.count is None:
            return f"the saved {saved.name} counts no steps, by which a {next(iter(fitting))[0]} is corrected"
        below = [name for name in names if node.fields[name].role in DENOMINATORS]
        if below and not any((name, path) in fitting for name in below):
            above = next(iter(fitting))[0]
            return (
                f"{below[0]} starts at zero, and a {above} that does not would make its first steps too large"
            )
        return ""

    def _why_not(self, node: Node, path: str) -> str:
        """The reason for which a parameter has no saved slots."""
        kinds = {f.role for f in node.slots if path in f.leaves}
        others = [f.name for s in self.saved for f in s.slots if path in f.leaves and f.role in kinds]
        mine = next(f.name for f in node.slots if path in f.leaves)
        if others:
            return meanings(others[0], mine) or f"the saved {others[0]} means something else than {mine}"
        if any(path in f.leaves for s in self.saved for f in s.slots):
            return (
                f"no {next(iter(kinds)).name} was saved" if roles.OTHER not in kinds else "nothing was saved"
            )
        if any(same_class(node, s) for s in self.saved):
            return "nothing was saved for a parameter of this path"
        return "nothing was saved"

    # ---------------------------------------------------------------------------------- counts, readings, the rest

    def _partner(self, node: Node, found: Found) -> tuple[Node | None, str]:
        """The saved node whose counts and readings go to `node`, or why there is none."""
        if _arrays(node):
            partners = Counter(id(saved) for saved, _, _ in found.taken.values())
            if not partners:
                return None, "it goes with arrays that start anew"
            best = partners.most_common(1)[0][0]
            return next(saved for saved, _, _ in found.taken.values() if id(saved) == best), ""
        able = [s for s in self.saved if same_class(node, s) and not _arrays(s)]
        rivals = [n for n in self.new if n.classes == node.classes and not _arrays(n)]
        counts = all(f.role is roles.COUNT for f in node.singles)
        saved, reason = pick(node, able, rivals)
        if saved is None and able and counts and _agree(able):
            return able[0], ""
        if saved is None and not able and counts and node.singles:
            counted = [s for s in self.saved if s.count is not None]
            if counted and _agree(counted):
                return counted[0], ""
            reason = "the saved counts differ" if counted else "no count was saved"
        return saved, reason or "nothing of its kind was saved"

    def _singles(self, node: Node, found: Found, partner: tuple[Node | None, str]) -> None:
        saved, reason = partner
        for mine in node.singles:
            for rest, leaf in mine.leaves.items():
                place = (mine.name, rest)
                windows = self._windows() if node.gathers and mine.role is roles.COUNT else None
                if saved is None and windows is not None and not unfit(windows[2], self.form(leaf)):
                    found.taken[place] = windows
                    continue
                if saved is None:
                    found.reasons[place] = reason
                    continue
                if mine.name == _TUNED and not self._of_one_method(node, saved):
                    found.reasons[place] = "it was set for another method"
                    continue
                theirs = saved.fields.get(mine.name)
                if mine.role is roles.COUNT and theirs is None:
                    theirs = saved.count
                alike = same_class(node, saved) or mine.role is roles.COUNT
                if theirs is None or rest not in theirs.leaves or not alike:
                    found.reasons[place] = f"the saved {saved.name} has none"
                    continue
                why = unfit(theirs.leaves[rest], self.form(leaf))
                if why:
                    found.reasons[place] = why
                else:
                    found.taken[place] = (saved, theirs.name, theirs.leaves[rest])

    def _windows(self) -> Source | None:
        """The windows, or steps, that a saved run has completed: what the length of a window may follow."""
        able = [s for s in self.saved if s.gathers and s.count] or [s for s in self.saved if s.count]
        count = able[0].count if able and _agree(able) else None
        return None if count is None or "" not in count.leaves else (able[0], count.name, count.leaves[""])

    def _of_one_method(self, node: Node, saved: Node) -> bool:
        """Whether the same methods work inside of two wrappers."""
        mine = [n for n in node.inside(self.new) if _learns(n)]
        theirs = [s for s in saved.inside(self.saved) if _learns(s)]
        known = all(any(same_class(n, s) for s in theirs) for n in mine)
        return known and all(any(same_class(n, s) for n in mine) for s in theirs)

    def _of_one_unit(self, node: Node, decided: Mapping[int, Found]) -> None:
        """Gives up sums and norms of gradients that were multiplied by something else than those that will come."""
        found = decided[id(node)]
        scales = _scales(node, self.new)
        anew = any(not decided[id(scale)].taken for scale in scales)
        for saved in {id(s): s for s, _, _ in found.taken.values()}.values():
            weighed = _weighed(saved) if node.gathers and same_class(node, saved) else None
            if anew or bool(scales) != bool(_scales(saved, self.saved)):
                reason = "it was of gradients with another loss scale"
            elif weighed is not None and node.maker is not None and weighed != node.maker.weighs:
                reason = "weights were put in or taken out in the middle of its window"
            else:
                continue
            for place in [p for p, (s, _, _) in found.taken.items() if s is saved]:
                if has_unit(node.classes[0], place[0]):
                    del found.taken[place]
                    found.reasons[place] = reason


def _of_one_age(node: Node, found: Found, partner: Node | None) -> None:
    """Gives up averages over another number of steps than the count of the state says, when groups are merged."""
    if partner is None or partner.count is None or node.count is None:
        return
    for place, (saved, _, _) in list(found.taken.items()):
        if saved is not partner and not _agree((saved, partner)):
            del found.taken[place]
            found.reasons[place] = (
                "it was averaged over another number of steps than most, and there is one count"
            )


def _together(node: Node, found: Found) -> None:
    """Gives up what is worth nothing without the rest: a ring without its length, a window with a hole."""
    readings = _places_of(f for f in node.singles if f.role is not roles.COUNT)
    windows = _places_of(f for f in node.slots if f.role is roles.ACCUMULATOR)
    groups = [
        (readings, readings),
        (windows, _places_of(f for f in node.fields.values() if f.role is not roles.COUNT)),
    ]
    if _TUNED in node.fields:  # every number is for itself, with what float32 leaves of it
        pairs = [[place for place in readings if place[1] == rest] for rest in node.fields[_TUNED].leaves]
        groups = [(pair, pair) for pair in pairs]
    for wanted, over in groups:
        lost = [place for place in wanted if place not in found.taken]
        for place in over if lost else []:
            if found.taken.pop(place, None) is not None:
                found.reasons[place] = f"it goes together with {lost[0][0]}, which starts anew"


def _places_of(fields: Iterable[Field]) -> list[Place]:
    return [(f.name, rest) for f in fields for rest in f.leaves]


# ------------------------------------------------------------------------------------------------ which of several

#: Parts of a path that a wrapper adds.
_AROUND = ("inner_state", "inner_opt_state", "inner")


def pick(node: Node, able: Sequence[Node], rivals: Sequence[Node]) -> tuple[Node | None, str]:
    """The saved node for a new one: the only one, or that in the same group or at the same place of the chain.

    Never by the order in which nodes come: a dictionary of groups has one order eager and another one out of `jit`.
    """
    if not able:
        return None, ""
    if len(able) == len(rivals) == 1:
        return able[0], ""
    if len(able) == len(rivals):
        mine, theirs = _places(rivals), _places(able)
        here = mine[rivals.index(node)]
        if set(mine) == set(theirs) and len(set(mine)) == len(mine):
            return able[theirs.index(here)], ""
        if all(
            part.isdigit() for place in (*mine, *theirs) for part in place
        ):  # the chain has grown or shrunk
            rank = sorted(mine, key=_numbers).index(here)
            return able[theirs.index(sorted(theirs, key=_numbers)[rank])], ""
    return (
        None,
        f"{len(able)} saved states and {len(rivals)} new ones are {node.name}: which is which cannot be told",
    )


def _places(nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """In what the paths of nodes differ: names of groups and positions, without wrappers."""
    paths = [[part for part in node.path.split("/") if part not in _AROUND] for node in nodes]
    while all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return [tuple(path) for path in paths]


def _numbers(place: tuple[str, ...]) -> list[int]:
    return [int(part) for part in place]


def _learns(node: Node) -> bool:
    """Whether it holds what a method has learnt from gradients."""
    learnt = (roles.MOMENT, *DENOMINATORS, roles.GRAM, roles.BASIS, roles.HISTORY)
    return any(f.role in learnt for f in node.slots)


def _scales(node: Node, nodes: Sequence[Node]) -> list[Node]:
    """The loss scales that are taken off the gradients further inside, and so are on those that come to this node."""
    return [inner for inner in node.inside(nodes) if any(map(rescales, inner.classes))]


def _weighed(saved: Node) -> bool | None:
    """Whether the open window of a saved accumulation has weights; None if that cannot be told, or is the same."""
    fields = [saved.fields.get(name) for name in ("mini_step", "weight")]
    leaves = [f.leaves.get("") for f in fields if f is not None]
    if len(leaves) < 2 or any(x is None or isinstance(x, Tracer) or np.ndim(x) for x in leaves):
        return None
    steps, weight = (float(np.asarray(x)) for x in leaves)
    if steps == 0 or (steps == weight and saved.maker is None):
        return None
    return steps != weight or bool(saved.maker and saved.maker.weighs)


def _arrays(node: Node) -> bool:
    return any(f.leaves for f in node.slots)


def _has(saved: Node, name: str, path: str) -> bool:
    return name in saved.fields and path in saved.fields[name].leaves


def _wants(node: Node, path: str) -> bool:
    return any(path in f.leaves for f in node.slots)


def _agree(saved: Sequence[Node]) -> bool:
    """Whether all counts of these nodes are one number."""
    counts = [leaf for node in saved if node.count is not None for leaf in node.count.leaves.values()]
    if any(isinstance(leaf, Tracer) for leaf in counts):
        return len(counts) == 1
    return len({np.asarray(leaf).tobytes() if np.ndim(leaf) else int(leaf) for leaf in counts}) == 1
