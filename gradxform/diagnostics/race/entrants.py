"""Who races: seven methods by the names of their factories, and at which stops the sliders stand.

A room of the house does not see the methods, so they are named as a file would name them, and found in the registry.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._core.numerics import TwoFloat, two_float
from ..._core.spec import find_factory

#: The stops of the sliders. Rates in the steps 1, 2, 5 of every decade.
RATES = tuple(float(f"{digit}e{decade}") for decade in range(-4, 0) for digit in (1, 2, 5)) + (1.0,)
B1 = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
B2 = (0.9, 0.95, 0.99, 0.999)
STOPS: Mapping[str, tuple[float, ...]] = {"rate": RATES, "b1": B1, "b2": B2}
#: Where the sliders of the decays stand at first. 0.99 is Lion's own b2, and 300 steps are too few for Adam's 0.999.
FIRST = {"b1": 0.9, "b2": 0.99}


@dataclass(frozen=True)
class Entrant:
    """A method of the race.

    Args:
        name: what the page calls it.
        factory: its factory, by name; it takes the learning rate first.
        sliders: which decays it has, and what its factory calls them: `{"b1": "momentum"}`.
        fixed: what else its factory is given.
        shape: how it sees the two numbers.
        note: what a reader should know of it; a sentence, or nothing.
    """

    name: str
    factory: str
    sliders: Mapping[str, str] = field(default_factory=dict[str, str])
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shape: tuple[int, ...] = (2,)
    note: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        """The sliders that move it, from the slowest to the quickest axis of its grid."""
        return ("rate", *self.sliders)

    def grid(self) -> dict[str, Any]:
        """What each of its paths is given: a row of numbers for every slider."""
        columns = zip(*itertools.product(*(STOPS[axis] for axis in self.axes)), strict=True)
        given = dict(zip(self.axes, columns, strict=True))
        return {axis: _row(axis, values) for axis, values in given.items()}

    def build(self, stop: Mapping[str, Any]) -> Any:
        """The transform at one stop of the sliders: numbers, or what stands for them while they are traced."""
        decays = {argument: stop[slider] for slider, argument in self.sliders.items()}
        return find_factory(self.factory).call(stop["rate"], **decays, **self.fixed)

    def text(self) -> str:
        """The call that a reader would write, with the sliders' names where their numbers stand."""
        decays = [f"{argument}={slider}" for slider, argument in self.sliders.items()]
        fixed = [f"{argument}={value!r}" for argument, value in self.fixed.items()]
        return f"gx.{self.factory}({', '.join(['rate', *decays, *fixed])})"


def _row(axis: str, values: tuple[float, ...]) -> Any:
    if axis == "rate":
        return jnp.asarray(values, np.float32)
    # In two words, so that 1 - b is as exact as from the number itself.
    pairs = [two_float(value) for value in values]
    return TwoFloat(jnp.stack([pair.hi for pair in pairs]), jnp.stack([pair.lo for pair in pairs]))


ENTRANTS = (
    Entrant("SGD", "sgd"),
    Entrant("Momentum", "sgd", {"b1": "momentum"}),
    Entrant("RMSprop", "rmsprop", {"b2": "decay"}),
    Entrant("Adam", "adam", {"b1": "b1", "b2": "b2"}),
    Entrant(
        "AdamW",
        "adamw",
        {"b1": "b1", "b2": "b2"},
        {"weight_decay": 0.1},
        note="Its decay draws towards (0, 0), so it comes to rest beside a lowest point that is elsewhere.",
    ),
    Entrant("Lion", "lion", {"b1": "b1", "b2": "b2"}),
    Entrant(
        "Muon",
        "muon",
        {"b1": "beta"},
        shape=(1, 2),
        note="It needs a matrix: it sees the two numbers as one of 1 row and 2 columns, which has one singular value.",
    ),
)
