"""The report of `restore_into`: what became of every leaf, as rows and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .._core.report import align
from .reading import join


@dataclass(frozen=True)
class RestoredLeaf:
    """What became of one leaf.

    `outcome` is "matched", "reset" or "dropped"; `address` says where it is in the new state (`adam/mu/dense/kernel`),
    `source` where it is in the saved one, `note` why it is not matched, or what was changed about it.
    """

    outcome: str
    address: str
    source: str = ""
    note: str = ""
    #: The address without the part that is the leaf's own: lines of the table are made of it.
    field: str = ""
    came_from: str = ""


@dataclass(frozen=True)
class Restored:
    """The report of `restore_into`: one row a leaf, as text a table."""

    rows: tuple[RestoredLeaf, ...]

    @cached_property
    def matched(self) -> tuple[RestoredLeaf, ...]:
        """The leaves of the new state that were taken over."""
        return tuple(row for row in self.rows if row.outcome == "matched")

    @cached_property
    def reset(self) -> tuple[RestoredLeaf, ...]:
        """The leaves of the new state that are as `tx.init` made them."""
        return tuple(row for row in self.rows if row.outcome == "reset")

    @cached_property
    def dropped(self) -> tuple[RestoredLeaf, ...]:
        """The leaves of the saved state for which there is no place."""
        return tuple(row for row in self.rows if row.outcome == "dropped")

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {len(getattr(self, name))}" for name in ("matched", "reset", "dropped"))
        return "\n".join([counts, *_table(self.rows)])

    __repr__ = __str__


def _table(rows: Sequence[RestoredLeaf]) -> list[str]:
    """Rows of one field, one source and one note as one line."""
    groups: dict[Any, list[RestoredLeaf]] = {}
    whole: dict[Any, int] = {}
    for row in rows:
        groups.setdefault((row.outcome, row.field, row.came_from, row.note), []).append(row)
        place = (row.field, "" if row.field else row.came_from)
        whole[place] = whole.get(place, 0) + 1
    lines = [("outcome", "field", "leaves", "from", "note")]
    for (outcome, field, source, note), found in groups.items():
        names = ""
        if len(found) < whole[field, "" if field else source]:
            paths = [(row.address or row.source).removeprefix(field or source).strip("/") for row in found]
            names = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        lines.append((outcome, field, str(len(found)), source, ": ".join(filter(None, (names, note)))))
    return align(_merged(lines), right=(2,))


def _merged(lines: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The fields of one state of which the same is to be said as one line, `guard/*`; a field of many arrays stays."""
    made: list[tuple[str, ...]] = [lines[0]]
    for line in lines[1:]:
        last, (outcome, field, leaves, source, note) = made[-1], line
        single = outcome != "matched" or (leaves == "1" and (last[2] == "1" or last[1].endswith("*")))
        if single and (last[0], last[4]) == (outcome, note) and _state(last) == _state(line):
            total = str(int(last[2]) + int(leaves))
            made[-1] = (
                outcome,
                *(_all(x) if i != 1 else total for i, x in enumerate((field, "", source))),
                note,
            )
        else:
            made.append(line)
    return made


def _state(line: tuple[str, ...]) -> tuple[str, str]:
    return line[1].rpartition("/")[0], line[3].rpartition("/")[0]


def _all(path: str) -> str:
    return join(path.rpartition("/")[0], "*") if path else ""
