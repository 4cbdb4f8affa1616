"""`describe`: a transform and its parameters as a table that a person can read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._core.report import Facts, LinkRow, Size, align, dtypes_text, facts, size_of, size_text
from .._core.shapes import abstract_state, mesh_if_known
from .._core.transform import as_transform
from .fields import fields
from .models import shapes
from .routes import Foreign, Group, foreign_links, groups


@dataclass(frozen=True)
class StateRow:
    """All of a state that has one meaning and one dtype.

    Attributes:
        role: what it means, as `gradxform.build.roles_of` says.
        dtype: of the arrays, or in how many bits they are kept.
        bytes: of all arrays, each counted once.
    """

    role: str
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Description:
    """The table as text (`str`), and the facts it was made from, for programs.

    Attributes:
        title: the transform as text.
        facts: what was found: its `links`, `leaves`, sizes, `frozen` leaves and `orders`.
        groups: the leaves that go the same way, with their rate and decay.
        state: bytes by role and dtype.
        foreign: the links that are somebody else's functions, and what their closures show.
    """

    title: str
    facts: Facts
    groups: tuple[Group, ...] = ()
    state: tuple[StateRow, ...] = ()
    foreign: tuple[Foreign, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """What cannot be known of links that are somebody else's functions, a line each."""
        told = {link.address for link in self.foreign if link.leaves is not None}
        return tuple(
            f"not known of {address}: {'' if address in told else 'which leaves it takes, '}what it needs, its reach, "
            "whether it turns the sign"
            for address in dict.fromkeys(link.address for link in self.foreign)
        )

    @property
    def data(self) -> dict[str, Any]:
        """The same as plain dicts, lists, numbers and strings, for JSON."""
        known = asdict(self.facts)
        known["leaves"] = [
            {"path": path, "shape": list(shape), "dtype": dtype} for path, shape, dtype in self.facts.leaves
        ]
        for link in known["links"]:
            link["scalars"] = dict(link["scalars"])
            link["seen"] = dict(link["seen"])
        known["packed"] = dict(self.facts.packed)
        own = {name: [asdict(x) for x in getattr(self, name)] for name in ("groups", "state", "foreign")}
        return {"transform": self.title, **known, **own, "unknown": list(self.unknown)}

    def __str__(self) -> str:
        lines = [self.title, "", *_table(self.facts), ""]
        split = _groups(self.groups)
        seen = _seen(self.facts)
        parts = [*split, *([""] if split else []), *seen, *([""] if seen else [])]
        return "\n".join([*lines, *parts, *_summary(self, bool(split))])

    __repr__ = __str__


def describe(tx: Any, params: Any, mesh: Any = None, *, rules: Any = None) -> Description:
    """What a transform will do to these parameters: links, scalars, which leaves, how much state.

    Args:
        tx: any transform, ours or Optax's (of which less can be known).
        params: the parameters, or their shapes (`jax.eval_shape`), or the name of a model, such as "7b", as `gx.memory`
            takes it: nothing is allocated.
        mesh: the mesh on which they lie; None takes that of the parameters, or of `jax.set_mesh`. On a mesh of several
            devices, an abstract one included, there is a column of what a device holds (`gx.memory` tells more).
        rules: for the names of axes on boxed parameters, as for `gx.sharding.state_shardings`.

    Returns:
        A `Description`; print it, or read its `facts`, `groups`, `state` and `foreign`, or all of it as `data`, which
        JSON can hold. Where groups of leaves have rates of their own there is a table of these groups. Of Optax's
        transforms it shows what their closures hold, and says what cannot be known. It warns when the chain ends
        uphill, that is, when no link turns the sign, and of every order of links and wrappers that changes the
        mathematics (a clip inside of a group, before an `accumulate`, and so on: see the guide to wrappers).

    Raises:
        TypeError: if `tx` is no transform.
        ValueError: if the parameters lie on different meshes, or no model has that name.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.adamw(1e-3, weight_decay=0.1, mask=gx.matrices())
        >>> print(gx.describe(tx, {"w": jnp.ones((4, 2)), "b": jnp.ones(2)}))
        gx.adamw(0.001, weight_decay=0.1, mask=gx.matrices())
        <BLANKLINE>
        link   does                    reach    leaves  parameters  state  scalars
        adam   scale_by_adam           element       2          10   84 B  b1=0.9 b2=0.999 eps=1e-08 eps_root=0
        decay  add_decayed_weights     element  1 of 2           8      -  weight_decay=0.1; needs params
        rate   scale_by_learning_rate  element       2          10      -  rate=0.001
        <BLANKLINE>
        decay takes w; not b
        10 parameters in 2 leaves, 40 B; state 84 B (8.4 B a parameter): count 4 B, moment 40 B, second moment 40 B
    """
    transform = as_transform(tx, "gx.describe(tx)")
    params = shapes(params, None, "gx.describe(tx, params)")
    mesh = mesh_if_known(params, mesh, "gx.describe(tx, params)")
    known = facts(transform, params, mesh, rules)
    sizes: dict[tuple[str, str], int] = {}
    for field in fields(transform, abstract_state(transform, params, mesh, rules)):
        for array in field.arrays:
            key = (field.role, dtypes_text([array]))
            sizes[key] = sizes.get(key, 0) + size_of(array).whole
    state = tuple(StateRow(*key, size) for key, size in sizes.items() if size)
    foreign = foreign_links(transform.plan, params)
    return Description(repr(transform), known, groups(known, foreign), state, foreign)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _number(count: int) -> str:
    return f"{count:,}"


def _notes(row: LinkRow) -> str:
    scalars = " ".join(f"{name}={value}" for name, value in row.scalars)
    needs = f"needs {', '.join(row.needs)}" if row.needs else ""
    return "; ".join(part for part in (scalars, needs) if part)


def _table(known: Facts) -> list[str]:
    total = len(known.leaves)
    cut = known.devices > 1
    head = [
        "link",
        "does",
        "reach",
        "leaves",
        "parameters",
        "state",
        *(["a device"] if cut else []),
        "scalars",
    ]
    rows = [
        [
            row.address,
            row.call,
            row.reach,
            str(total) if len(row.leaves) == total else f"{len(row.leaves)} of {total}",
            _number(row.parameters),
            size_text(row.state.whole),
            *([size_text(_local(row.state))] if cut else []),
            _notes(row),
        ]
        for row in known.links
    ]
    return align([head, *rows], right=(3, 4, 5, 6) if cut else (3, 4, 5))


def _groups(found: Sequence[Group]) -> list[str]:
    """The table of groups; none where all leaves have one rate."""
    if len({(group.rate, group.frozen) for group in found}) < 2:
        return []
    rows = [["group", "leaves", "parameters", "rate", "decay", "links"]]
    for group in found:
        rate = "frozen" if group.frozen else group.rate
        links = ", ".join(group.links)
        count = (str(len(group.leaves)), _number(group.parameters))
        rows.append([_listed(group.leaves, 3), *count, rate, group.decay, links])
    return align(rows, right=(1, 2))


def _seen(known: Facts) -> list[str]:
    """What rules make of the axes of leaves; those of one shape that are seen alike are one row."""
    rows: list[list[str]] = []
    for link in known.links:
        shapes = {path: shape for path, shape, _ in known.leaves}
        alike: dict[tuple[Any, str], list[str]] = {}
        for path, text in link.seen:
            alike.setdefault((shapes[path], text), []).append(path)
        rows += [
            [link.address, _listed(paths, 3), str(shape), text] for (shape, text), paths in alike.items()
        ]
    return align([["link", "sees", "of shape", "as"], *rows]) if rows else []


def _local(size: Size) -> int:
    return size.device + size.host


def _routes(known: Facts) -> list[str]:
    """Which leaves a link takes that does not take all."""
    lines: list[str] = []
    every = [path for path, _, _ in known.leaves]
    for row in known.links:
        if 0 < len(row.leaves) < len(every):
            others = [path for path in every if path not in set(row.leaves)]
            lines.append(f"{row.address} takes {_listed(row.leaves)}; not {_listed(others)}")
        elif not row.leaves and every:
            lines.append(f"{row.address} takes no leaf")
    return lines


def _listed(paths: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(path or "the single leaf" for path in paths[:most])
    return shown + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _summary(description: Description, split: bool) -> list[str]:
    known = description.facts
    lines = [] if split else _routes(known)
    for link in description.foreign:
        scalars = " ".join(f"{name}={value}" for name, value in link.scalars)
        confined = link.leaves is not None and len(link.leaves) < len(known.leaves)
        takes = f"takes {_listed(link.leaves or ()) or 'no leaf'}" if confined else ""
        lines.append(f"{link.address}: {'; '.join(filter(None, (f'{link.call} {scalars}'.rstrip(), takes)))}")
    lines += description.unknown
    if known.frozen:
        lines.append(f"frozen: {_listed(known.frozen)}")
    lines.append(
        f"{_number(known.parameters)} parameters in {_plural(len(known.leaves), 'leaf', 'leaves')}, "
        f"{size_text(known.parameter_size.whole)}; {_state(description)}"
    )
    if known.devices > 1:
        lines.append(_shares(known))
    if known.uphill:
        which = "" if len(known.uphill) == len(known.leaves) else f" for {_listed(known.uphill)}"
        lines.append(
            f"WARNING: this ends uphill{which}: no link turns the sign, so adding the updates climbs; "
            "end with gx.scale_by_learning_rate(...) or a schedule"
        )
    return [*lines, *known.orders]


def _state(description: Description) -> str:
    known = description.facts
    total = known.state_size.whole
    if not total:
        return "no state"
    by_role: dict[str, list[StateRow]] = {}
    for row in description.state:
        by_role.setdefault(row.role, []).append(row)
    roles = ", ".join(f"{role} {_by_dtype(rows)}" for role, rows in by_role.items())
    kept = ", ".join(f"{_plural(n, 'array', 'arrays')} in {kind}" for kind, n in known.packed)
    per = f" ({total / known.parameters:.1f} B a parameter)" if known.parameters else ""
    return f"state {size_text(total)}{per}: {'; '.join(filter(None, (roles, kept)))}"


def _by_dtype(rows: Sequence[StateRow]) -> str:
    """The bytes of a role; each dtype is named unless all is as one expects, floats of 32 bits and counts."""
    if all(row.dtype in ("float32", "int32") for row in rows):
        return size_text(sum(row.bytes for row in rows))
    return " + ".join(f"{size_text(row.bytes)} ({row.dtype})" for row in rows)


def _shares(known: Facts) -> str:
    """What one of several devices holds."""
    state = known.state_size
    text = f"each of {known.devices} devices: parameters {size_text(_local(known.parameter_size))}"
    text += f", state {size_text(_local(state))}"
    return f"{text}, of it {size_text(state.host)} in host memory" if state.host else text
