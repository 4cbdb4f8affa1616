"""Orders of wrappers and links that change the mathematics, as lines for a report.

What is looked at are facts that links declare: how far they see, whether they clip, what their states hold, whether a
wrapper gathers several gradients for one step (a field of the role Accumulator) or undoes a step (`skips`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import roles
from .foreign import bounds, link_reach, opened
from .plan import Link, Plan, selected
from .roles import roles_of
from .tree import is_absent, view

#: How loud, of which link, what.
Line = tuple[str, str, str]
_WARNING, _NOTE = "WARNING", "NOTE"


@dataclass(frozen=True)
class Place:
    """What a link is and does where it stands, on which leaves."""

    name: str
    leaves: frozenset[str]
    #: Whether it adds up over all leaves that it sees.
    sums: bool = False
    clips: bool = False
    #: Whether it gathers several gradients for one step.
    gathers: bool = False
    #: Whether it undoes a step: "", "counts" or "learns".
    skips: str = ""
    #: Whether it changes the updates that something inside of it has made.
    alters: bool = False
    #: Whether it makes a difference to call it once more with a gradient of zero.
    remembers: bool = False
    #: Whether it keeps a second set of weights, made of the parameters as the update will leave them.
    looks_ahead: bool = False


def _places(link: Link, state: Any, leaves: frozenset[str]) -> list[Place]:
    """A link, or the links of Optax's own chain, as far as it can be looked into."""
    sums = link_reach(link, unknown="element") == "tree"
    if link.rule is None and not link.foreign and link.whole is not None:
        gathers = roles.ACCUMULATOR in roles_of(type(state)).values()
        return [Place(link.address, leaves, sums, bounds(link), gathers, link.whole.skips, link.whole.alters)]
    if link.rule is None:
        return [
            Place(name, leaves, sums, clips, gathers, skips, remembers=remembers and not (gathers or skips))
            for name, clips, gathers, skips, remembers in opened(link, state)
        ]
    rule = link.rule
    decays = rule.coupled or rule.uncoupled
    remembers = decays or rule.scheduled or rule.count_field is not None or bool(rule.slots)
    # What makes the whole step itself keeps weights of before it, as Prodigy does those of the start.
    ahead = rule.rate == 0 and roles.ITERATE in rule.roles.values()
    return [Place(link.address, leaves, sums, bounds(link), remembers=remembers, looks_ahead=ahead)]


def orders(plan: Plan, parts: Sequence[Any], params: Any, frozen: frozenset[str]) -> list[str]:
    """One line for each order that means something else than the order of which people think."""
    rows = view(params)
    every = frozenset(p for p, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x))
    merged: dict[tuple[str, str], list[str]] = {}
    for level, subject, text in _Walk(every, frozen).plan(plan, parts, params, ()):
        subjects = merged.setdefault((level, text), [])
        subjects += [subject] if subject not in subjects else []
    return [f"{level}: {_named(subjects)} {text}" for (level, text), subjects in merged.items()]


def _named(subjects: Sequence[str]) -> str:
    rest = ", ".join(subjects[1:])
    return f"{subjects[0]} (and {rest})" if rest else subjects[0]


class _Walk:
    def __init__(self, every: frozenset[str], frozen: frozenset[str]) -> None:
        self.every, self.frozen = every, frozen

    def plan(self, plan: Plan, parts: Sequence[Any], params: Any, around: tuple[Place, ...]) -> list[Line]:
        rows = view(params)
        cache: dict[Any, Any] = {}
        lines: list[Line] = []
        before: list[Place] = []
        for link, part in zip(plan.links, parts, strict=True):
            chosen = selected(link, params, rows.paths, rows.places, cache)
            leaves = frozenset(p for p, take in zip(rows.paths, chosen, strict=True) if take)
            found = _places(link, part, leaves)
            for place in found:
                lines += self._alone(place)
                for other in before:
                    lines += _pair(other, place) if other.leaves & leaves else []
                for other in around:
                    lines += _nested(other, place)
                before.append(place)
            if link.whole is None or link.inside is None:
                continue
            hidden = params
            for selector in link.selectors:
                hidden = selector.hide(params, rows.paths, rows.places, hidden)
            for inner, states in link.whole.alternatives(part, hidden):
                lines += self.plan(inner, states, hidden, (*around, *found))
        return lines

    def _alone(self, place: Place) -> list[Line]:
        """A sum over leaves inside of a group or mask. What is frozen is not missed."""
        missed = self.every - place.leaves - self.frozen
        if not place.sums or not missed or not place.leaves:
            return []
        text = (
            f"sees {len(place.leaves)} of {len(self.every)} leaves, those of its group or mask, and adds up over them "
            "only; outside of it, it sees all"
        )
        return [(_WARNING, place.name, text)]


def _pair(first: Place, second: Place) -> list[Line]:
    """Two links of one chain, of which the second gets what the first one gives."""
    one, two = first.name, second.name
    before, behind = f"stands before {two}", f"stands behind {one}"
    found: list[Line] = []
    if second.gathers and (first.clips or first.remembers or first.skips):
        text = f"{before}: it works on each micro-batch and not on their mean; put it inside"
        found.append((_WARNING, one, text))
    if first.gathers and second.remembers:
        text = f"{behind}: it runs at every micro-step, with zeros in between; put it inside"
        found.append((_WARNING, two, text))
    if first.skips and second.remembers:
        text = f"{behind}: a step that is skipped is a step of zero for it; put it inside"
        found.append((_WARNING, two, text))
    if second.skips and first.clips:
        found.append((_WARNING, one, f"{before}, which judges what the clip leaves; put it inside"))
    if first.looks_ahead and not second.looks_ahead:
        text = f"{before}: its weights are those that the update so far would give; put it last"
        found.append((_WARNING, one, text))
    return found


def _nested(outer: Place, inner: Place) -> list[Line]:
    """A wrapper, and a link somewhere inside of it."""
    one, two = outer.name, inner.name
    found: list[Line] = []
    if outer.gathers and inner.skips:
        text = f"stands inside of {one}: it judges the mean of the micro-batches, and a bad one costs the whole window"
        found.append((_NOTE, two, text))
    if outer.skips and inner.gathers:
        text = f"stands around {two}: it judges each micro-batch, and one that it skips does not count in the window"
        found.append((_NOTE, one, text))
    if outer.skips and inner.skips == "learns":
        text = f"stands around {two}: it undoes what {two} learns from a step that is bad; put it inside"
        found.append((_WARNING, one, text))
    if outer.alters and inner.looks_ahead:
        text = (
            f"stands inside of {one}, which changes the updates of which its weights are made; put it outside"
        )
        found.append((_WARNING, two, text))
    return found
