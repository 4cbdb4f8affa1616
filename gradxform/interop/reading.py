"""Any state as nodes with fields, whether it holds NamedTuples or, as a checkpoint gives it back, dictionaries.

A node is what has named fields: a state of a link or of a wrapper. A field holds leaves by path: by the parameter's
path if it has one array a parameter, else by whatever is inside of it. The nesting is not kept: a guard, an average or
a mask more or less around a node changes nothing about the node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import optax

from .._core import roles
from .._core.foreign import pieces
from .._core.plan import Plan
from .._core.roles import Role, declared_classes, roles_of, unit_classes
from .._core.rule import Rule, Scheduled
from .._core.spec import registered
from .._core.tree import is_absent, is_box, is_inexact, view

#: Containers that a dictionary of a checkpoint may stand for, besides those of the new state.
_CONTAINERS = (optax.MaskedState, optax.MultiStepsState, optax.transforms.PartitionState)


@dataclass(eq=False)
class Field:
    """One field of a node: its meaning and its leaves by path."""

    name: str
    role: Role
    per_parameter: bool
    leaves: dict[str, Any]


@dataclass(eq=False)
class Node:
    """One state: `path` is its place, `address` that of the link to which it belongs, which may not be known."""

    address: str
    path: str
    classes: tuple[type, ...]
    maker: "Maker | None" = None
    fields: dict[str, Field] = field(default_factory=dict[str, Field])

    @property
    def name(self) -> str:
        """What the state is called in a message."""
        return self.classes[0].__name__ if len(self.classes) == 1 else f"{{{', '.join(self.fields)}}}"

    @property
    def slots(self) -> list[Field]:
        """The fields with one array a parameter."""
        return [f for f in self.fields.values() if f.per_parameter]

    @property
    def singles(self) -> list[Field]:
        """The other fields."""
        return [f for f in self.fields.values() if not f.per_parameter]

    @property
    def gathers(self) -> bool:
        """Whether it is a window of gradients on their way to a mean."""
        return roles.ACCUMULATOR in roles_of(self.classes[0]).values()

    def inside(self, nodes: "Sequence[Node]") -> "list[Node]":
        """Those of the nodes that stand inside of this one."""
        return [
            node
            for node in nodes
            if node.path.startswith(f"{self.path}/" if self.path else "") and node is not self
        ]

    @property
    def count(self) -> Field | None:
        return next((f for f in self.fields.values() if f.role is roles.COUNT), None)


def join(*parts: str) -> str:
    """A slash path of those parts that are not empty."""
    return "/".join(filter(None, parts))


@dataclass(frozen=True)
class Maker:
    """What is known of a state from the transform that makes it.

    `method` is who has fields of its `own` in it, that mean something else than in other states of the class; empty if
    there are none. `weighs` tells that it is a window with weights.
    """

    address: str
    method: str = ""
    own: tuple[str, ...] = ()
    weighs: bool = False


def makers_of(plan: Plan, parts: Sequence[Any]) -> dict[int, Maker]:
    """The maker of every state, by `id`; those inside of our wrappers and of Optax's chain included."""
    found: dict[int, Maker] = {}
    for link, part in zip(plan.links, parts, strict=True):
        if link.foreign:
            for name, own in pieces(getattr(link.whole, "update_fn", None), part):
                found[id(own)] = _maker("", _twin(name))
        else:
            found[id(part)] = _maker(link.address, link.rule, bool(link.whole and link.whole.asks))
        if link.whole is not None and link.inside is not None:
            # Behind the wrapper, whose state may be the very state of what is inside.
            for inner, states in link.whole.alternatives(part):
                found.update(makers_of(inner, states))
    return found


def _maker(address: str, rule: Rule | None, weighs: bool = False) -> Maker:
    own = () if rule is None else rule.own
    return Maker(address, rule.call if rule and own else "", own, weighs)


def _twin(name: str) -> Rule | None:
    """The rule of our factory of this name."""
    ours = registered().get(name)
    links = () if ours is None or not name.startswith("scale_by_") else ours.example().plan.links
    return links[0].rule if len(links) == 1 else None


class Reader:
    """Collects the nodes of one state; `loose` are the leaves that belong to none."""

    def __init__(
        self, classes: Sequence[type], known: Mapping[int, Maker], params: Mapping[str, Any], learnt: set[Any]
    ) -> None:
        self.classes, self.known, self.params, self.learnt = classes, known, params, learnt
        self.nodes: list[Node] = []
        self.loose: dict[str, Any] = {}

    def read(self, state: Any) -> "Reader":
        self.loose = self._read(state, "", "")
        return self

    def _read(self, x: Any, path: str, address: str) -> dict[str, Any]:
        """Adds the nodes inside of `x`, outermost first; returns the leaves that are in none, by path below `x`."""
        if is_absent(x):
            return {}
        if is_box(x):
            inside = jax.tree.leaves(x)
            return {"": inside[0]} if len(inside) == 1 else _leaves(x)
        classes = self._classes(x)
        if classes:
            maker = self.known.get(id(x))
            self._node(x, Node(maker.address if maker and maker.address else address, path, classes, maker))
            return {}
        if not isinstance(x, tuple | list | Mapping) or hasattr(x, "_fields"):
            return _leaves(x)
        children = x.items() if isinstance(x, Mapping) else enumerate(x)
        loose: dict[str, Any] = {}
        for key, child in children:
            below = self._read(child, join(path, str(key)), join(address, str(key)))
            loose.update((join(str(key), rest), leaf) for rest, leaf in below.items())
        return loose

    def _classes(self, x: Any) -> tuple[type, ...]:
        """The class of a NamedTuple; the classes that a dictionary with these fields may have been."""
        if isinstance(x, tuple) and getattr(x, "_fields", ()):
            return (type(x),)
        if not isinstance(x, Mapping) or not x:
            return ()
        keys = {str(key) for key in x}
        everything = dict.fromkeys(
            (*self.classes, *declared_classes(), *unit_classes(), *_CONTAINERS, Scheduled)
        )
        return tuple(c for c in everything if set(getattr(c, "_fields", ())) == keys)

    def _node(self, x: Any, node: Node) -> None:
        classes, path, address = node.classes, node.path, node.address
        self.nodes.append(node)
        for name in getattr(classes[0], "_fields", ()):
            value = x[name] if isinstance(x, Mapping) else getattr(x, name)
            role = roles_of(classes[0])[name]
            if role.per_parameter or self._like_parameters(classes[0], name, value):
                node.fields[name] = Field(name, role, True, _leaves(value))
                continue
            inside = address if Scheduled in classes else join(address, name)
            leaves = self._read(value, join(path, name), inside)
            if leaves:
                node.fields[name] = Field(name, role, False, leaves)

    def _like_parameters(self, kind: type, name: str, value: Any) -> bool:
        """Whether a field of which nothing is known has one array a parameter, of its shape."""
        if (kind, name) in self.learnt:
            return True
        if not self.params or roles_of(kind)[name] is not roles.OTHER or is_absent(value):
            return False
        leaves = _leaves(value)
        same = leaves.keys() <= self.params.keys() and all(
            self.shape(leaf) == self.params[path].shape and is_inexact(self.form(leaf))
            for path, leaf in leaves.items()
        )
        if same and leaves:
            self.learnt.add((kind, name))
        return same and bool(leaves)

    def form(self, leaf: Any) -> Any:
        """What has the shape and the dtype of a leaf."""
        return leaf

    def shape(self, leaf: Any) -> tuple[int, ...]:
        return tuple(getattr(self.form(leaf), "shape", ()))


class NumberedReader(Reader):
    """Reads a state whose leaves are their numbers; `forms` are the arrays."""

    forms: Sequence[Any] = ()

    def form(self, leaf: Any) -> Any:
        return self.forms[leaf]


def _leaves(tree: Any) -> dict[str, Any]:
    rows = view(tree)
    return {path: x for path, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x)}
