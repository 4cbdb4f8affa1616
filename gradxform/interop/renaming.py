"""Parameters that are called otherwise than when the state was saved: patterns and what takes their place."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._core.address import listed
from .._core.errors import kind, say, short
from .._core.packed import is_packed, packed_leaves
from .coded import parts_of
from .reading import Node


class Renaming:
    """New names of parameters by their saved ones; `given` maps globs to what takes their place.

    Each `*` of a pattern, which also crosses slashes, stands in the replacement for what it took. All names are changed
    at once, so that two can be swapped; of patterns that take one name the first decides.
    """

    def __init__(self, given: Any, who: str = "gx.restore_into(renamed)") -> None:
        self.who = who
        self.old: dict[str, str] = {}
        self.suffixes: set[str] = set()
        self.rules: list[tuple[str, re.Pattern[str], list[str]]] = []
        if given is None:
            return
        if not isinstance(given, Mapping) or not all(
            isinstance(x, str) for pair in given.items() for x in pair
        ):  # pyright: ignore[reportUnknownVariableType]
            fact = f"{who}: wanted a dictionary of texts, got {kind(given)}"
            raise TypeError(say(fact, "such as {'dense_*/kernel': 'layers/*/w'}: what was, what is now"))
        for pattern, new in given.items():  # pyright: ignore[reportUnknownVariableType]
            self._add(str(pattern), str(new))  # pyright: ignore[reportUnknownArgumentType]

    def _add(self, pattern: str, new: str) -> None:
        if pattern.count("*") != new.count("*"):
            fact = f"{self.who}: {pattern!r} has {pattern.count('*')} of '*', {new!r} {new.count('*')}"
            raise ValueError(say(fact, "each one stands for what the pattern's took, in their order"))
        made = "(.*?)".join(map(re.escape, pattern.split("*")))
        self.rules.append((pattern, re.compile(made), new.split("*")))

    def __call__(self, path: str) -> str:
        """What a saved parameter is called now."""
        for _, pattern, parts in self.rules:
            found = pattern.fullmatch(path)
            if found is not None:
                return "".join(a + b for a, b in zip(parts, (*found.groups(), ""), strict=True))
        return path

    def apply(self, saved: Sequence[Node], states: Iterable[Any]) -> None:
        """Gives the leaves of saved nodes their new names; `states` say what parts arrays in codes have."""
        if not self.rules:
            return
        self.suffixes = {
            name for state in states for x in packed_leaves(state) if is_packed(x) for name in parts_of(x)
        }
        fields = [f for node in saved for f in node.slots]
        names = list(dict.fromkeys(self._whole(rest)[0] for f in fields for rest in f.leaves))
        for pattern, compiled, _ in self.rules:
            if not any(map(compiled.fullmatch, names)):
                raise ValueError(
                    say(f"{self.who}: {pattern!r} takes no saved parameter", f"there are {listed(names)}")
                )
        self.old = {}
        for name in names:
            new = self(name)
            if new in self.old:
                fact = f"{self.who}: {self.old[new]!r} and {name!r} would both be {short(new)}"
                raise ValueError(say(fact, "rename the other one too"))
            self.old[new] = name
        for f in fields:
            f.leaves = {self._renamed(rest): leaf for rest, leaf in f.leaves.items()}

    def was(self, rest: str) -> str:
        """The saved name of a leaf that has been renamed."""
        name, suffix = self._whole(rest) if self.rules else (rest, "")
        return self.old.get(name, name) + suffix

    def _renamed(self, rest: str) -> str:
        name, suffix = self._whole(rest)
        return self(name) + suffix

    def _whole(self, rest: str) -> tuple[str, str]:
        """The parameter's path, and what follows for a part of an array in codes."""
        name, slash, last = rest.rpartition("/")
        return (name, slash + last) if last in self.suffixes and slash else (rest, "")
