"""Every array of a state under the address of the field that holds it, whoever wrote the transform."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .._core.foreign import pieces
from .._core.packed import packed_leaves
from .._core.plan import Link, Plan
from .._core.roles import COUNT, OTHER, Role, roles_of
from .._core.states import nodes
from .._core.transform import GradientTransformation


@dataclass(frozen=True)
class Field:
    """One field of a link's state. An array that is kept as several is one of `arrays`."""

    address: str
    role: str
    arrays: tuple[Any, ...]


def fields(tx: GradientTransformation, state: Any) -> list[Field]:
    """The fields of a state that is not traced, in the order of its leaves. Every array is in one of them."""
    order = {id(x): i for i, x in enumerate(jax.tree.leaves(state))}
    left = dict(order)
    found: list[tuple[int, Field]] = []
    for address, role, tree in _candidates(tx, state):
        arrays = tuple(x for x in packed_leaves(tree) if any(id(y) in left for y in jax.tree.leaves(x)))
        places = [left.pop(id(y)) for x in arrays for y in jax.tree.leaves(x) if id(y) in left]
        if places:
            found.append((min(places), Field(address, role.name, arrays)))
    return [field for _, field in sorted(found, key=lambda pair: pair[0])]


def _candidates(tx: GradientTransformation, state: Any) -> Iterator[tuple[str, Role, Any]]:
    """What may hold arrays: address, role, tree. The first that has an array is the one whose it is."""
    yield from _of_plan(tx.plan, tx.body.split(state, ""))
    yield from _of_nodes(state, "")
    yield "state", OTHER, state


def _of_plan(plan: Plan, parts: Sequence[Any]) -> Iterator[tuple[str, Role, Any]]:
    for link, part in zip(plan.links, parts, strict=True):
        if link.rule is not None:
            inner = part.inner if link.rule.scheduled else part
            for name, role in link.rule.roles.items():
                yield f"{link.address}/{name}", role, getattr(inner, name)
            if link.rule.scheduled:
                yield f"{link.address}/count", COUNT, part.count
        elif link.inside is not None:
            yield from _of_wrapper(link, part)
        else:
            yield from _of_pieces(link, part)


def _of_wrapper(link: Link, part: Any) -> Iterator[tuple[str, Role, Any]]:
    """First what is inside, so that the wrapper keeps what is its own."""
    if link.whole is not None:
        for plan, parts in link.whole.alternatives(part):
            yield from _of_plan(plan, parts)
    yield from _of_nodes(part, link.address)


def _of_pieces(link: Link, part: Any) -> Iterator[tuple[str, Role, Any]]:
    """Somebody else's state: the links of Optax's chain by the names of their factories."""
    if link.whole is None:
        return
    found = pieces(link.whole.update_fn, part)  # type: ignore[attr-defined]
    names = [name for name, _ in found]
    for i, (name, own) in enumerate(found):
        again = names[:i].count(name)
        label = "" if len(found) == 1 else f"/{name}_{again}" if again else f"/{name}"
        yield from _of_nodes(own, f"{link.address}{label}")
        yield f"{link.address}{label}", OTHER, own


def _of_nodes(state: Any, address: str) -> Iterator[tuple[str, Role, Any]]:
    """The fields of all NamedTuples, those inside of others first."""
    for where, node in reversed(list(nodes(state, address))):
        for name, role in roles_of(type(node)).items():
            yield f"{where}/{name}" if where else name, role, getattr(node, name)
