"""`describe`: a transform and its parameters as a table that a person can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._core.report import Facts, LinkRow, Size, align, facts, size_text
from .._core.shapes import mesh_if_known
from .._core.transform import as_transform


@dataclass(frozen=True)
class Description:
    """The table as text (`str`), and the facts it was made from (`facts`), for programs."""

    title: str
    facts: Facts

    def __str__(self) -> str:
        return "\n".join([self.title, "", *_table(self.facts), "", *_summary(self.facts)])

    __repr__ = __str__


def describe(tx: Any, params: Any, mesh: Any = None, *, rules: Any = None) -> Description:
    """What a transform will do to these parameters: links, scalars, which leaves, how much state.

    Args:
        tx: any transform, ours or Optax's (of which less can be known).
        params: the parameters, or their shapes (`jax.eval_shape`): nothing is allocated.
        mesh: the mesh on which they lie; None takes that of the parameters, or of `jax.set_mesh`. On a mesh of several
            devices, an abstract one included, there is a column of what a device holds (`gx.memory` tells more).
        rules: for the names of axes on boxed parameters, as for `gx.sharding.state_shardings`.

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
    mesh = mesh_if_known(params, mesh, "gx.describe(tx, params)")
    return Description(repr(transform), facts(transform, params, mesh, rules))


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


def _summary(known: Facts) -> list[str]:
    lines = _routes(known)
    if known.frozen:
        lines.append(f"frozen: {_listed(known.frozen)}")
    lines.append(
        f"{_number(known.parameters)} parameters in {_plural(len(known.leaves), 'leaf', 'leaves')}, "
        f"{size_text(known.parameter_size.whole)}; {_state(known)}"
    )
    if known.devices > 1:
        lines.append(_shares(known))
    if known.uphill:
        which = "this" if len(known.uphill) == len(known.leaves) else _listed(known.uphill)
        lines.append(
            f"WARNING: {which} ends uphill: no link turns the sign, so adding the updates climbs; "
            "end with gx.scale_by_learning_rate(...) or a schedule"
        )
    return [*lines, *known.orders]


def _state(known: Facts) -> str:
    total = known.state_size.whole
    if not total:
        return "no state"
    by_role: dict[str, int] = {}
    for row in known.links:
        for slot in row.slots:
            by_role[slot.role] = by_role.get(slot.role, 0) + slot.size.whole
    roles = ", ".join(f"{role} {size_text(size)}" for role, size in by_role.items() if size)
    kept = ", ".join(f"{_plural(n, 'array', 'arrays')} in {kind}" for kind, n in known.packed)
    per = f" ({total / known.parameters:.1f} B a parameter)" if known.parameters else ""
    return f"state {size_text(total)}{per}: {'; '.join(filter(None, (roles, kept)))}"


def _shares(known: Facts) -> str:
    """What one of several devices holds."""
    state = known.state_size
    text = f"each of {known.devices} devices: parameters {size_text(_local(known.parameter_size))}"
    text += f", state {size_text(_local(state))}"
    return f"{text}, of it {size_text(state.host)} in host memory" if state.host else text
