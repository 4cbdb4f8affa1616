"""`describe`: a transform and its parameters as a table that a person can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._core.report import Facts, LinkRow, align, facts
from .._core.transform import as_transform


@dataclass(frozen=True)
class Description:
    """The table as text (`str`), and the facts it was made from (`facts`), for programs."""

    title: str
    facts: Facts

    def __str__(self) -> str:
        return "\n".join([self.title, "", *_table(self.facts), "", *_summary(self.facts)])

    __repr__ = __str__


def describe(tx: Any, params: Any) -> Description:
    """What a transform will do to these parameters: links, scalars, which leaves, how much state.

    Args:
        tx: any transform, ours or Optax's (of which less can be known).
        params: the parameters, or their shapes (`jax.eval_shape`): nothing is allocated.

    Returns:
        A `Description`; print it. It warns when the chain ends uphill, that is, when no link turns the sign, and of
        every order of links and wrappers that changes the mathematics (a clip inside of a group, before an
        `accumulate`, and so on: see the guide to wrappers).

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
    return Description(repr(transform), facts(transform, params))


def _size(count: int) -> str:
    if count == 0:
        return "-"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return ""


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
    head = ("link", "does", "reach", "leaves", "parameters", "state", "scalars")
    rows = [
        (
            row.address,
            row.call,
            row.reach,
            str(total) if len(row.leaves) == total else f"{len(row.leaves)} of {total}",
            _number(row.parameters),
            _size(row.state_bytes),
            _notes(row),
        )
        for row in known.links
    ]
    return align([head, *rows], right=(3, 4, 5))


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


def _summary(known: Facts) -> list[str]:
    by_role: dict[str, int] = {}
    for row in known.links:
        for _, role, _, size in row.slots:
            by_role[role] = by_role.get(role, 0) + size
        if not row.slots and row.state_bytes:
            by_role["other"] = by_role.get("other", 0) + row.state_bytes
    roles = ", ".join(f"{role} {_size(size)}" for role, size in by_role.items() if size)
    per = f" ({known.state_bytes / known.parameters:.1f} B a parameter)" if known.parameters else ""
    kept = ", ".join(f"{_plural(n, 'array', 'arrays')} in {kind}" for kind, n in known.packed)
    roles = "; ".join(filter(None, (roles, kept)))
    lines = _routes(known)
    if known.frozen:
        lines.append(f"frozen: {_listed(known.frozen)}")
    lines.append(
        f"{_number(known.parameters)} parameters in {_plural(len(known.leaves), 'leaf', 'leaves')}, "
        f"{_size(known.parameter_bytes)}; "
        + (f"state {_size(known.state_bytes)}{per}: {roles}" if known.state_bytes else "no state")
    )
    if known.uphill:
        which = "this" if len(known.uphill) == len(known.leaves) else _listed(known.uphill)
        lines.append(
            f"WARNING: {which} ends uphill: no link turns the sign, so adding the updates climbs; "
            "end with gx.scale_by_learning_rate(...) or a schedule"
        )
    return [*lines, *known.orders]
