"""One parameter's entry in the state of an optimizer of bitsandbytes: codes with scales and a map, or float32.

`lowbit/bitsandbytes.py` has the codes themselves and what is known of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import kind, say

#: Numbers a block (2,048 before version 0.44, which the number of scales tells).
BLOCK = 256
_BLOCKS = (BLOCK, 2048)
#: Where `state_dict()` hides what FSDP shall not gather (since 0.49.2).
WRAPPED = "__bnb_optimizer_quant_state__"


class Entry:
    """A mapping with `state1`, `state2`, `step` and, in 8 bits, `absmax1`, `qmap1` and so on; flat or wrapped."""

    def __init__(self, entry: Any, name: str, who: str) -> None:
        self.name, self.who = name, who
        if not isinstance(entry, Mapping):
            wanted = "wanted a mapping with state1, state2, step"
            raise TypeError(self._say(f"the entry of {name} is {kind(entry)}, {wanted}"))
        self.parts: dict[str, Any] = {**entry, **entry.get(WRAPPED, {})}

    @property
    def step(self) -> int:
        """How many steps were made."""
        return int(np.asarray(self._part("step")))

    def moment(self, number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The first or the second moment, float32, in the shape of the parameter."""
        state = np.asarray(self._part(f"state{number}"))
        if state.shape not in (shape, (int(np.prod(shape, dtype=np.int64)),)):
            fact = f"state{number} of {self.name} has shape {state.shape}, the parameter {shape}"
            raise ValueError(
                self._say(fact, "a transposed kernel is read in their shape and transposed then")
            )
        if state.dtype == np.float32:
            return state.reshape(shape)
        if state.dtype != np.uint8:
            fact = f"state{number} of {self.name} is {state.dtype}, wanted uint8 or float32"
            raise ValueError(self._say(fact))
        absmax = np.asarray(self._part(f"absmax{number}"), np.float32)
        numbers = np.asarray(self._part(f"qmap{number}"), np.float32)
        if numbers.shape != (256,):
            raise ValueError(
                self._say(f"qmap{number} of {self.name} has shape {numbers.shape}, wanted (256,)")
            )
        size = next((b for b in _BLOCKS if absmax.shape == (-(-state.size // b),)), None)
        if size is None:
            wanted = f"({-(-state.size // BLOCK)},), one for each {BLOCK} of its {state.size} numbers"
            fact = f"absmax{number} of {self.name} has shape {absmax.shape}, wanted {wanted}"
            raise ValueError(self._say(fact))
        return (numbers[state.reshape(-1)] * np.repeat(absmax, size)[: state.size]).reshape(shape)

    def _part(self, name: str) -> Any:
        if name in self.parts:
            return self.parts[name]
        remedy = {
            "state2": "it is of a method with one moment; this reads Adam and AdamW",
            "step": "give the number of steps taken",
        }
        fact = f"the entry of {self.name} has no {name}"
        raise KeyError(self._say(fact, remedy.get(name, "pass the whole entry")))

    def _say(self, fact: str, *more: str) -> str:
        return say(f"{self.who}: {fact}", *more)
