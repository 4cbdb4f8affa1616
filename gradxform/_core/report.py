"""What a transform is, as rows: the facts behind `describe`, the memory table and the routing printout.

Rows are made from the plan and from abstract shapes; nothing is computed on a device.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from .compat import Tracer
from .leaf import Leaf
from .orders import orders
from .packed import is_packed, packed_leaves
from .placement import typed
from .plan import Link, Plan, selected
from .roles import COUNT, OTHER, Role, roles_of
from .rule import Rule, stack_depth
from .scalars import is_schedule
from .shapes import abstract_state
from .transform import GradientTransformation
from .tree import is_absent, view


@dataclass(frozen=True)
class Size:
    """Bytes of arrays: each array once, and what one device holds of them, in its own memory or in the host's."""

    whole: int = 0
    device: int = 0
    host: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.whole + other.whole, self.device + other.device, self.host + other.host)


@dataclass(frozen=True)
class Slot:
    """One field of a link's state: what it means, and its bytes."""

    field: str
    role: str
    dtype: str
    size: Size


@dataclass(frozen=True)
class LinkRow:
    """One link: what it does to which leaves, what it keeps."""

    address: str
    call: str
    reach: str
    needs: tuple[str, ...]
    scalars: tuple[tuple[str, str], ...]
    leaves: tuple[str, ...]
    parameters: int
    state: Size
    slots: tuple[Slot, ...]
    #: What the rule makes of the axes of a leaf, in words, by path; for rules that say it.
    seen: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Facts:
    """All rows of a transform for a tree of parameters."""

    links: tuple[LinkRow, ...]
    leaves: tuple[tuple[str, tuple[int, ...], str], ...]
    parameters: int
    parameter_size: Size
    state_size: Size
    frozen: tuple[str, ...]
    uphill: tuple[
        str, ...
    ]  # leaves whose direction no link turns; empty if there are links that cannot be read
    orders: tuple[str, ...]  # a line for each order that changes the mathematics
    packed: tuple[tuple[str, int], ...] = ()  # in what arrays of the state are kept, and how many
    devices: int = 1  # of the mesh on which the parameters lie


def align(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of text as columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def size_of(tree: Any) -> Size:
    """The bytes of all arrays of a tree, abstract ones included."""
    return sum((_size(x) for x in jax.tree.leaves(tree) if hasattr(x, "dtype")), Size())


def _size(x: Any) -> Size:
    sharding = getattr(x, "sharding", None)
    each = int(getattr(x.dtype, "itemsize", 4))
    part = x.shape if sharding is None else sharding.shard_shape(x.shape)
    whole, local = (each * int(np.prod(shape, dtype=np.int64)) for shape in (x.shape, part))
    away = "host" in (getattr(sharding, "memory_kind", None) or "")
    return Size(whole, 0 if away else local, local if away else 0)


def size_text(count: int) -> str:
    """Bytes in decimal units, `-` for none."""
    if count == 0:
        return "-"
    number, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number = number / 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def dtypes_text(arrays: Iterable[Any]) -> str:
    """The dtypes of arrays, or in how many bits they are kept."""
    kinds = {x.kind if is_packed(x) else str(x.dtype) for x in arrays if hasattr(x, "dtype")}
    return "/".join(sorted(kinds)) or "-"


def _scalar_text(value: Any) -> str:
    if is_schedule(value):
        return repr(value) if hasattr(value, "spec") else getattr(value, "__name__", "a function")
    if isinstance(value, int | float):
        return f"{value:g}"
    return "traced" if isinstance(value, Tracer) else f"{value}"


def _slots(rule: Rule, state: Any) -> list[Slot]:
    inner = state.inner if rule.scheduled else state
    found = [_slot("count", COUNT, state.count)] if rule.scheduled else []
    own = {name: role for name, role in rule.roles.items() if name not in rule.carried}
    return [*found, *(_slot(name, role, getattr(inner, name)) for name, role in own.items())]


def _slot(name: str, role: Role, tree: Any) -> Slot:
    return Slot(name, role.name, dtypes_text(packed_leaves(tree)), size_of(tree))


def _row(link: Link, state: Any, leaves: list[tuple[str, int]]) -> LinkRow:
    rule = link.rule
    scalars: list[tuple[str, str]] = []
    call = link.address.rsplit("/", 1)[-1]
    if rule is not None:
        slots = _slots(rule, state)
        values = {**rule.decays, **rule.scalars}
        scalars = [(name, _scalar_text(value)) for name, value in values.items()]
        call = rule.call
    elif link.whole is not None and link.inside is not None:
        known = (
            roles_of(type(state)) if link.whole.fields else {}
        )  # no fields: its state is that of what is inside
        own = {name: role for name, role in known.items() if name not in link.whole.fields}
        slots = [_slot(name, role, getattr(state, name)) for name, role in own.items()]
    else:
        slots = [_slot("state", OTHER, state)] if jax.tree.leaves(state) else []
        call = "a transform without spec"
    return LinkRow(
        address=link.address,
        call=call,
        reach=link.reach,
        needs=link.needs,
        scalars=tuple(scalars),
        leaves=tuple(path for path, _ in leaves),
        parameters=sum(size for _, size in leaves),
        state=sum((slot.size for slot in slots), Size()),
        slots=tuple(slots),
    )


def _seen(link: Link, leaves: list[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    """A rule's words on what it makes of each leaf."""
    rule = link.rule
    if rule is None or rule.sees is None:
        return ()
    found: list[tuple[str, str]] = []
    for path, x in leaves:
        shape, depth = np.shape(x), stack_depth(link.stacked, path, x)
        layers = "".join(f"{n} of " for n in shape[:depth])
        found.append((path, layers + rule.sees(Leaf(path, shape[depth:], x.dtype))))
    return tuple(found)


class _Rows:
    """The rows of a plan and of the plans inside its wrappers."""

    def __init__(self) -> None:
        self.found: list[LinkRow] = []
        self.turns: Counter[str] = Counter()
        self.zeroed: set[str] = set()

    def add(self, plan: Plan, parts: Sequence[Any], params: Any) -> None:
        rows = view(params)
        sizes = [0 if is_absent(p) else int(np.prod(np.shape(p), dtype=np.int64)) for p in rows.places]
        cache: dict[Any, Any] = {}
        for link, part in zip(plan.links, parts, strict=True):
            chosen = selected(link, params, rows.paths, rows.places, cache)
            leaves = [(p, size) for p, size, take in zip(rows.paths, sizes, chosen, strict=True) if take]
            taken = [(p, x) for p, x, take in zip(rows.paths, rows.places, chosen, strict=True) if take]
            self.found.append(replace(_row(link, part, leaves), seen=_seen(link, taken)))
            if link.rule is not None and link.rule.call == "set_to_zero":
                self.zeroed.update(path for path, _ in leaves)
            elif link.rule is not None and link.rule.flips:
                self.turns.update(path for path, _ in leaves)
            if link.whole is not None and link.whole.plan is not None:
                hidden = params
                for selector in link.selectors:
                    hidden = selector.hide(params, rows.paths, rows.places, hidden)
                self.inside(link.whole.alternatives(part, hidden), hidden)

    def inside(self, alternatives: list[tuple[Plan, list[Any]]], params: Any) -> None:
        """The rows inside of a wrapper. Of several alternatives one runs at a step, so their turns do not add up."""
        turns, zeroed, ends = self.turns, self.zeroed, list[tuple[Counter[str], set[str]]]()
        for plan, parts in alternatives:
            self.turns, self.zeroed = Counter(turns), set(zeroed)
            self.add(plan, parts, params)
            ends.append((self.turns, self.zeroed))
        self.turns, self.zeroed = ends[0]
        for more, also in ends[1:]:
            self.turns, self.zeroed = self.turns | more, self.zeroed & also


def facts(tx: GradientTransformation, params: Any, mesh: Any = None, rules: Any = None) -> Facts:
    """The rows of `tx` for `params` (arrays or shapes), which may lie on a mesh."""
    rows = view(params)
    state = abstract_state(tx, params, mesh, rules)
    laid = params if mesh is None else typed(params, mesh, rules, "gx.describe(tx, params)")
    parts = tx.body.split(state, "")
    found = _Rows()
    found.add(tx.plan, parts, params)
    zeroed = found.zeroed
    arrays = [(path, p) for path, p in zip(rows.paths, rows.places, strict=True) if not is_absent(p)]
    known = not any(link.foreign for link in tx.plan.flat)
    uphill = tuple(path for path, _ in arrays if path not in zeroed and found.turns[path] % 2 == 0)
    return Facts(
        links=tuple(found.found),
        leaves=tuple(
            (path, tuple(np.shape(p)), str(getattr(p, "dtype", type(p).__name__))) for path, p in arrays
        ),
        parameters=sum(int(np.prod(np.shape(p), dtype=np.int64)) for _, p in arrays),
        parameter_size=size_of(laid),
        state_size=size_of(state),
        frozen=tuple(sorted(zeroed)),
        uphill=uphill if known else (),
        orders=tuple(orders(tx.plan, parts, params, frozenset(zeroed))),
        packed=tuple(sorted(Counter(x.kind for x in packed_leaves(state) if is_packed(x)).items())),
        devices=1 if mesh is None else mesh.size,
    )
