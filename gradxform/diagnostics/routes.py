"""Which leaves go the same way through a transform, and what can be read of links that somebody else wrote."""

from dataclasses import dataclass
from math import prod
from typing import Any

from .._core.plan import Plan
from .._core.report import Facts, LinkRow
from .closures import Pair, pieces

#: Links whose only scalar is the rate.
_RATES = ("scale_by_learning_rate", "scale_by_schedule")


@dataclass(frozen=True)
class Group:
    """Leaves that the same links take.

    Attributes:
        leaves: their paths.
        parameters: how many numbers they hold.
        links: the addresses of the links that take them, in order.
        rate: the learning rate, a number or a schedule as text; "-" for none, "?" where it cannot be known. Several
            that apply at different times, or one after the other, are all told.
        decay: the weight decay, in the same way.
        frozen: whether their updates are zero.
    """

    leaves: tuple[str, ...]
    parameters: int
    links: tuple[str, ...]
    rate: str
    decay: str
    frozen: bool


@dataclass(frozen=True)
class Foreign:
    """A link that is somebody else's pair of functions, or a transform in the closure of one.

    Attributes:
        address: of the pair in the transform.
        call: the factory that made it, as far as its function's name tells, behind those that it stands in:
            "masked/add_decayed_weights", "partition[head]/scale_by_adam".
        scalars: the numbers in its closure, by the names that its author gave them.
        leaves: the paths of the leaves that masks and labels in the closure leave to it; None where there are none, or
            where they cannot be asked.
    """

    address: str
    call: str
    scalars: tuple[tuple[str, str], ...]
    leaves: tuple[str, ...] | None = None


def groups(known: Facts, foreign: tuple[Foreign, ...]) -> tuple[Group, ...]:
    """The leaves by the links that take them, in the order of the leaves."""
    takes = [(row, frozenset(row.leaves)) for row in known.links]
    frozen, found = frozenset(known.frozen), dict[Any, list[tuple[str, int]]]()
    for path, shape, _ in known.leaves:
        chosen = tuple(i for i, (_, leaves) in enumerate(takes) if path in leaves)
        found.setdefault((chosen, path in frozen), []).append((path, prod(shape)))
    blind = {link.address for link in foreign}
    made: list[Group] = []
    for (chosen, still), leaves in found.items():
        rows = [known.links[i] for i in chosen]
        open_ended = any(row.address in blind for row in rows)
        made.append(
            Group(
                leaves=tuple(path for path, _ in leaves),
                parameters=sum(size for _, size in leaves),
                links=tuple(row.address for row in rows),
                rate=_told(rows, open_ended, lambda row, name: row.call in _RATES or name == "learning_rate"),
                decay=_told(rows, open_ended, lambda row, name: name == "weight_decay"),
                frozen=still,
            )
        )
    return tuple(made)


def _told(rows: list[LinkRow], open_ended: bool, wanted: Any) -> str:
    values = [value for row in rows for name, value in row.scalars if wanted(row, name)]
    return ", ".join([*values, "?"] if open_ended else values) or "-"


def foreign_links(plan: Plan, params: Any) -> tuple[Foreign, ...]:
    """Every link that is a pair of functions, inside of wrappers too, with what its closure shows."""
    found: list[Foreign] = []
    for link in plan.flat:
        if link.foreign and link.whole is not None:
            asked = None if link.selectors else params  # a mask around it hands it another tree
            pair = Pair(getattr(link.whole, "init_fn", None), getattr(link.whole, "update_fn", None))
            for piece in pieces(pair, asked):
                texts = tuple((name, _text(value)) for name, value in piece.scalars.items())
                found.append(Foreign(link.address, piece.call, texts, piece.leaves))
    return tuple(found)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:g}"
    value = getattr(value, "schedule_fn", value)  # as Optax's injected schedules keep theirs
    return f"a function of the count ({getattr(value, '__qualname__', type(value).__name__).split('.')[0]})"
