"""Which leaves go the same way through a transform, and what can be read of links that somebody else wrote."""

from dataclasses import dataclass
from math import prod
from typing import Any

from .._core.foreign import readable
from .._core.plan import Plan
from .._core.report import Facts, LinkRow

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
    """A link that is somebody else's pair of functions, or one link of Optax's chain.

    Attributes:
        address: of the pair in the transform.
        call: the factory that made it, as far as its function's name tells.
        scalars: the numbers in its closure, by the names that its author gave them.
    """

    address: str
    call: str
    scalars: tuple[tuple[str, str], ...]


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


def foreign_links(plan: Plan) -> tuple[Foreign, ...]:
    """Every link that is a pair of functions, inside of wrappers too, with what its closure shows."""
    found: list[Foreign] = []
    for link in plan.flat:
        if link.foreign and link.whole is not None:
            for call, scalars in readable(getattr(link.whole, "update_fn", None)):
                texts = tuple((name, _text(value)) for name, value in scalars.items())
                found.append(Foreign(link.address, call, texts))
    return tuple(found)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:g}"
    return f"a function of the count ({getattr(value, '__qualname__', type(value).__name__).split('.')[0]})"
