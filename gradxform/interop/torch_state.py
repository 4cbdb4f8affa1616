"""One run of torch and the parameters here, by the same names: its arrays into a state, and back."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core import roles
from .._core.errors import say, short
from .._core.spec import find_factory
from .._core.tree import is_absent, view
from . import torch_kinds
from .reading import Field, Node, NumberedReader
from .torch_bits import is_of_bitsandbytes, plain
from .torch_kinds import KINDS, ROWS_AND_COLUMNS, Kind
from .torch_names import Layout, Place, Renamed, places
from .torch_run import TorchRun

#: How torch runs a step, which is `jax.jit`'s to decide; and what is not an option of the rule.
NOT_OPTIONS = {"foreach", "fused", "capturable", "differentiable", "names", "params", "lr", "initial_lr"}


@dataclass
class Part:
    """Parameters with the same options and the same number of steps."""

    options: dict[str, Any]
    rate: float
    base: float
    step: int
    names: list[str]


class Move:
    """One run and the parameters here, by the same names."""

    def __init__(self, run: TorchRun, params: Any, renamed: Renamed, layout: Layout, who: str) -> None:
        if is_of_bitsandbytes(run):
            run = plain(run, who)
        if run.optimizer not in KINDS:
            fact = f"{who}: optimizer {run.optimizer!r} is not one of {', '.join(KINDS)}"
            raise ValueError(say(fact, "bring its arrays into a state by hand, then gx.restore_into"))
        self.run, self.who, self.tree = run, who, view(params)
        self.kind: Kind = KINDS[run.optimizer]
        rows = zip(self.tree.paths, self.tree.places, strict=True)
        self.params = {path: x for path, x in rows if not is_absent(x)}
        complex_ = [path for path, x in self.params.items() if jnp.issubdtype(x.dtype, jnp.complexfloating)]
        if complex_:
            fact = f"{who}: {short(complex_)} is complex, whose squares torch keeps for each part"
            raise ValueError(say(fact, "keep real and imaginary parts as two parameters"))
        self.places = places(run, self.params, renamed, layout, who)
        self.names = {place.path: name for name, place in self.places.items()}
        held = set(run.names)
        self.frozen = [path for path, name in self.names.items() if name not in held]

    def parts(self) -> list[Part]:
        """The groups: those with the same options as one, and one for each number of steps."""
        found: dict[str, Part] = {}
        for group in self.run.groups:
            options = {k: v for k, v in group.items() if k not in NOT_OPTIONS}
            rate = float(np.asarray(group["lr"]))
            base = float(np.asarray(group.get("initial_lr", rate)))
            for name in group["names"]:
                step = self.step(name)
                if self.kind.rows:
                    options["transposed"] = self.places[name].axes == (1, 0)
                key = json.dumps([options, rate, base, step], sort_keys=True, default=str)
                found.setdefault(key, Part(dict(options), rate, base, step, [])).names.append(name)
        return list(found.values())

    def step(self, name: str) -> int:
        """How many steps torch says that a parameter has made; SGD and Muon do not say."""
        slots = self.run.state.get(name, {})
        if "step" in slots:
            return round(float(np.asarray(slots["step"])))
        return 0 if self.kind.counts else self.kind.count[bool(slots)]

    def position(self, steps_per_epoch: int, step: int | None) -> int | None:
        """The count of a schedule: the scheduler's, inside of its epoch the optimizer's; or what the user says."""
        if step is not None or self.run.scheduler is None:
            return step
        epoch = int(self.run.scheduler["last_epoch"])
        made = max((self.step(name) for name in self.run.names), default=0)
        counts = any("step" in slots for slots in self.run.state.values())
        return made if counts and made // steps_per_epoch == epoch else epoch * steps_per_epoch

    def transform(self, parts: Sequence[Part], rates: Sequence[Any]) -> Any:
        """The transform of all parts: one alone, or groups by exact paths, of which the largest comes last."""
        made = [
            torch_kinds.make(self.run.optimizer, part.options, rate, self.who)
            for part, rate in zip(parts, rates, strict=True)
        ]
        if len(made) == 1 and not self.frozen:
            return made[0]
        groups: dict[Any, Any] = {tuple(map(_exactly, self.frozen)): None} if self.frozen else {}
        order = sorted(range(len(parts)), key=lambda i: len(parts[i].names))
        for i in order[:-1]:
            groups[tuple(_exactly(self.places[name].path) for name in parts[i].names)] = made[i]
        groups["*"] = made[order[-1]]
        return find_factory("param_groups").call(groups)

    def weights(self) -> Any:
        """The weights as parameters, or None if the file has none."""
        if not self.run.weights:
            return None
        lost = [name for name in self.places if name not in self.run.weights]
        if lost:
            raise ValueError(say(f"{self.who}: the file has weights, but not of {short(lost)}"))
        made = [
            x
            if is_absent(x)
            else _like(self.places[self.names[path]].here(self.run.weights[self.names[path]]), x)
            for path, x in zip(self.tree.paths, self.tree.places, strict=True)
        ]
        return self.tree.treedef.unflatten(made)

    def notes(self) -> tuple[str, ...]:
        left = [name for name in self.run.weights if name not in self.places]
        notes = (
            [f"in no group of torch's optimizer, so frozen: {', '.join(self.frozen)}"] if self.frozen else []
        )
        idle = [path for path, name in self.names.items() if self.step(name) == 0 and path not in self.frozen]
        if idle and len(idle) + len(self.frozen) < len(self.names) and self.kind.counts:
            rule = "torch leaves alone what has no gradient, here a gradient of zero is decayed"
            notes += [f"without a step in torch: {', '.join(idle)} ({rule})"]
        notes += [f"no parameter here, left in the file: {', '.join(left)}"] if left else []
        return tuple(notes)

    def filled(self, tx: Any, params: Any, parts: Sequence[Part], position: int | None) -> Any:
        """The state of `tx` with torch's arrays in it."""
        leaves, treedef = jax.tree.flatten(tx.init(params))
        part_of = {self.places[name].path: part for part in parts for name in part.names}
        for nodes in self._nodes(treedef.unflatten(range(len(leaves))), leaves):
            paths = [path for node in nodes for f in node.slots for path in f.leaves]
            # Without arrays there are only counts of schedules.
            part = part_of[paths[0]] if paths else parts[0]
            for node, f, path, number in _each(nodes):
                value = self._value(node, f, path, part, position)
                if value is None:
                    continue
                if np.shape(value) != leaves[number].shape:
                    fact = (
                        f"{self.who}: {f.name} of {path or 'the state'} has shape {np.shape(value)} in torch"
                    )
                    raise ValueError(say(f"{fact}, wanted {leaves[number].shape}"))
                leaves[number] = _like(value, leaves[number])
        return treedef.unflatten(leaves)

    def _value(self, node: Node, f: Field, path: str, part: Part, position: int | None) -> Any:
        """What torch has for one leaf of ours; None where it has nothing, so that it stays as it was made."""
        if f.per_parameter:
            slots, place = self.run.state.get(self.names[path], {}), self.places[self.names[path]]
            if not slots or f.name not in self.kind.slots:
                return None
            slot = _turned(self.kind.slots[f.name], place, len(self.params[path].shape), self.who)
            if slot not in slots and slot not in (*ROWS_AND_COLUMNS, "variance"):
                raise ValueError(
                    say(f"{self.who}: {self.names[path]!r} has no {slot}; it has {short(list(slots))}")
                )
            return _squeezed(place.here(slots[slot]), f.name) if slot in slots else None
        if f.role is roles.COUNT:
            if optax.ScaleByScheduleState not in node.classes:
                return np.int32(part.step or 0)
            if position not in (None, part.step) and self.kind.ages(part.options):
                fact = f"{self.who}: the rate depends on the steps ({part.step}) and on the scheduler ({position})"
                raise ValueError(say(fact, "one count cannot say both: pass a tx with a schedule of yours"))
            return np.int32(part.step or 0 if position is None else position)
        slots = next((s for s in map(self.run.state.get, part.names) if s), {})
        return slots.get(self.kind.slots.get(f.name, ""))

    def taken(self, state: Any, step: int) -> tuple[dict[str, dict[str, np.ndarray]], int]:
        """torch's arrays out of a state, and the count of its schedule; `step` where the state does not count."""
        leaves, treedef = jax.tree.flatten(state)
        found: dict[str, dict[str, np.ndarray]] = {}
        position = 0
        for nodes in self._nodes(treedef.unflatten(range(len(leaves))), leaves):
            shared: dict[str, np.ndarray] = {}
            names: list[str] = []
            for node, f, path, number in _each(nodes):
                value = np.asarray(leaves[number])
                if f.per_parameter and f.name in self.kind.slots:
                    name = self.names[path]
                    names.append(name)
                    slot, value = self._torchs(f, path, value)
                    if slot:
                        found.setdefault(name, {})[slot] = value
                elif optax.ScaleByScheduleState in node.classes and f.role is roles.COUNT:
                    position = max(position, int(value))
                elif f.role is roles.COUNT:
                    shared |= {"step": np.asarray(value, np.float32)} if self.kind.counts else {}
                elif f.name in self.kind.slots:
                    shared[self.kind.slots[f.name]] = value
            if self.kind.counts:
                shared.setdefault("step", np.asarray(position or step, np.float32))
            for name in names:
                found[name] = shared | found[name]
            if self.kind.counts and not shared["step"]:  # before the first step torch has nothing
                found = {name: slots for name, slots in found.items() if name not in names}
        return found, position

    def _nodes(self, numbered: Any, leaves: list[Any]) -> Iterator[list[Node]]:
        """The nodes of a state, those of a group together."""
        groups = getattr(numbered, "inner_states", None)
        for part in [numbered] if groups is None else groups.values():
            reader = NumberedReader((), {}, self.params, set())
            reader.forms = leaves
            yield reader.read(part).nodes

    def _torchs(self, f: Field, path: str, value: np.ndarray) -> tuple[str, np.ndarray]:
        """The slot of torch's that an array of ours is, and the array as torch has it; no slot for a stand-in."""
        place, rank = self.places[self.names[path]], len(self.params[path].shape)
        slot = self.kind.slots[f.name]
        if slot in ROWS_AND_COLUMNS:
            value = np.expand_dims(value, -1 if f.name == "v_row" else -2) if rank > 1 else value
            return (_turned(slot, place, rank, self.who), place.there(value)) if rank > 1 else ("", value)
        if slot == "variance" and rank > 1:
            return "", value
        return slot, place.there(value)


def _each(nodes: Iterable[Node]) -> Iterator[tuple[Node, Field, str, int]]:
    for node in nodes:
        for f in node.fields.values():
            for path, number in f.leaves.items():
                yield node, f, path, number


def _turned(slot: str, place: Place, rank: int, who: str) -> str:
    """The slot that is meant where the last two axes change places: rows are columns then."""
    if slot not in ROWS_AND_COLUMNS or place.axes is None or rank < 2:
        return slot
    last = place.axes[-2:]
    if sorted(last) != [rank - 2, rank - 1]:
        fact = f"{who}: layout moves the axes of {place.path!r} by {place.axes}; torch keeps {slot} of the last two"
        raise ValueError(say(fact, "move the axes of the parameters after the run has moved"))
    other = ROWS_AND_COLUMNS[1 - ROWS_AND_COLUMNS.index(slot)]
    return slot if last[0] < last[1] else other


def _squeezed(x: np.ndarray, name: str) -> np.ndarray:
    """The statistics of rows and columns without the axis of one element."""
    return np.squeeze(x, -1) if name == "v_row" else np.squeeze(x, -2) if name == "v_col" else x


def _like(x: np.ndarray, leaf: Any) -> Any:
    """An array in the dtype of a leaf, and where that lies."""
    made = jnp.asarray(np.asarray(x).astype(leaf.dtype))
    return jax.device_put(made, leaf.sharding) if getattr(leaf, "committed", False) else made


def _exactly(path: str) -> Any:
    """A pattern that takes this path and no other."""
    return path if not re.search(r"[*?\[]", path) else re.compile(rf"^{re.escape(path)}$")
