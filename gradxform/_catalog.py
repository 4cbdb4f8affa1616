"""Every public factory, asked what it is: feeds tests, tables of the docs and the command line.

Nothing is written down here: names come from the face, kinds from the folder in which a factory stands and from what it
makes, the rest from its signature, its docstring and the spec and plan of its example.
"""

import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gradxform

from ._core.foreign import reach_of
from ._core.mask import Mask
from ._core.roles import Role, roles_of
from ._core.spec import Factory, registered
from ._core.transform import GradientTransformation

#: `**Update**: ...`, `**Advice.** ...`, `Args:`, `Differs from Optax: ...` at the start of a line.
_HEADING = re.compile(
    r"\*\*(\w+)(?:\*\*:|\.\*\*)|((?:Args|State|Reach|Returns|Raises|Example|References|Differs from \w+)):"
)
#: Where a sentence ends and another one begins.
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z`])")
_KINDS = {"_combine": "combinator", "_schedules": "schedule", "_transforms": "transform"}


@dataclass(frozen=True)
class Entry:
    """One public factory."""

    factory: Factory

    @property
    def name(self) -> str:
        return self.factory.name

    @property
    def module(self) -> str:
        """The file in which it stands, as a module's name."""
        return self.factory.call.__module__

    @cached_property
    def kind(self) -> str:
        """ "transform", "recipe" (its docstring is advice), "combinator", "schedule", "mask" or "projection"."""
        if not isinstance(self.example, GradientTransformation):
            other = "mask" if isinstance(self.example, Mask) else "projection"
            return "schedule" if "_schedules" in self.module else other
        room = _KINDS[self.module.split(".")[1]]
        return (
            "recipe" if room == "transform" and not self.name.startswith("scale_by_") and self.rate else room
        )

    @cached_property
    def example(self) -> Any:
        """What the factory makes of its defaults and, where there are none, of its sample."""
        return self.factory.example()

    def presets(self) -> dict[str, Any]:
        """The example under each name that `like=` knows."""
        return {name: self.factory.call(**self.factory.samples(), like=name) for name in self.factory.presets}

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        text = (inspect.getdoc(self.factory.call) or "").split("\n\n")[0].replace("\n", " ")
        return _SENTENCE.split(text, maxsplit=1)[0]

    @property
    def section(self) -> dict[str, str]:
        """The docstring's sections by heading: Update, Args, State, Reach, Advice, ..."""
        found: dict[str, str] = {}
        head = "Summary"
        for line in (inspect.getdoc(self.factory.call) or "").splitlines():
            heading = _HEADING.match(line)
            if heading is not None:
                head, line = next(filter(None, heading.groups())), line[heading.end() :]
            found[head] = f"{found.get(head, '')}\n{line}".strip()
        return found

    @property
    def rate(self) -> int:
        """How often a learning rate is applied in the example."""
        return self.example.body.rate

    @property
    def reach(self) -> str:
        return reach_of(self.example)

    @property
    def needs(self) -> tuple[str, ...]:
        """What `update` of the example must be given."""
        rules = [link.rule for link in self.example.plan.flat if link.rule is not None]
        return tuple(dict.fromkeys(name for rule in rules for name in rule.needs))

    @property
    def roles(self) -> dict[str, dict[str, Role]]:
        """The state fields of each link of the example by address, with their roles."""
        links = self.example.plan.flat
        return {link.address: roles_of(link.rule.state) for link in links if link.rule is not None}


def entries(kind: str | None = None) -> tuple[Entry, ...]:
    """The public factories by name, all or those of one kind."""
    face = vars(gradxform)
    found = [
        Entry(f)
        for name, f in sorted(registered().items())
        if inspect.isfunction(f.call) and face.get(name) is f.call
    ]
    return tuple(entry for entry in found if kind in (None, entry.kind))
