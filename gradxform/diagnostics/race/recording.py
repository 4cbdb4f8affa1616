"""`read`: the numbers of a page, back from the file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._core.errors import short
from .packing import expand, unpack_paths
from .page import data_of


@dataclass(frozen=True, repr=False)
class Recording:
    """The numbers of a page: paths by method and landscape, and Adam's steps on w^2. `read` makes it.

    Args:
        data: what the page knows, as its JSON holds it.

    Example:
        >>> import pathlib, tempfile
        >>> from gradxform.diagnostics import landscapes, race
        >>> path = pathlib.Path(tempfile.mkdtemp(), "race.html")
        >>> page = race.read(race.write(path, steps=3, landscapes=[landscapes.ROSENBROCK]))
        >>> page.methods
        ('SGD', 'Momentum', 'RMSprop', 'Adam', 'AdamW', 'Lion', 'Muon')
        >>> positions, gaps = page.path("Lion", "Rosenbrock", rate=0.1, b1=0.9, b2=0.99)
        >>> positions.round(2).tolist()
        [[-1.2, 1.0], [-1.1, 1.1], [-1.0, 1.2], [-1.1, 1.1]]
        >>> print(page.adam(rate=0.01, b1=0.9, b2=0.999)["m"][1:5].round(4))
        [1. 1.898 2.7042 3.4278]
    """

    data: dict[str, Any]

    def __repr__(self) -> str:
        return f"<{len(self.methods)} methods on {', '.join(self.landscapes)}, {self.data['steps']} steps>"

    @property
    def methods(self) -> tuple[str, ...]:
        """Who walks."""
        return tuple(method["name"] for method in self.data["methods"])

    @property
    def landscapes(self) -> tuple[str, ...]:
        """Where they walk."""
        return tuple(landscape["name"] for landscape in self.data["landscapes"])

    def best_rate(self, method: str, landscape: str) -> float:
        """The learning rate with which the page begins."""
        land = self.data["landscapes"][_place(self.landscapes, landscape, "landscape")]
        return self.data["stops"]["rate"][land["best"][_place(self.methods, method, "method")]]

    def path(self, method: str, landscape: str, **sliders: float) -> tuple[Any, Any]:
        """A path at one stop of the sliders `rate`, `b1`, `b2`; those that the method does not have are ignored.

        Returns:
            `(positions, gaps)` of shapes `(steps + 1, 2)` and `(steps + 1,)`: where it is, and how far the loss is
            above its lowest; NaN where it has left the kept area, or is infinite.
        """
        number = _place(self.methods, method, "method")
        land = self.data["landscapes"][_place(self.landscapes, landscape, "landscape")]
        axes = self.data["methods"][number]["axes"]
        stops = tuple(len(self.data["stops"][axis]) for axis in axes)
        positions, gaps = unpack_paths(land["paths"][number], stops, self.data["steps"], land["box"])
        at = self._at(axes, sliders)
        return positions[at], gaps[at]

    def adam(self, **sliders: float) -> dict[str, Any]:
        """Adam's steps on w^2 at one stop of `rate`, `b1`, `b2`: arrays by name, whose entry 0 is the start."""
        known = self.data["adam"]
        stops = tuple(len(self.data["stops"][axis]) for axis in known["axes"])
        shape = (*stops, len(known["fields"]), known["steps"] + 1)
        rows = expand(known["rows"], np.float32, shape)[self._at(known["axes"], sliders)]
        return dict(zip(known["fields"], rows, strict=True))

    def _at(self, axes: Any, sliders: dict[str, float]) -> tuple[int, ...]:
        missing = [axis for axis in axes if axis not in sliders]
        if missing:
            raise TypeError(
                f"Recording: wanted a stop of {', '.join(axes)}, got none of {', '.join(missing)}"
            )
        return tuple(_place(self.data["stops"][axis], sliders[axis], axis) for axis in axes)


def _place(known: Any, wanted: Any, what: str) -> int:
    if wanted not in known:
        raise ValueError(f"Recording: {what}={short(wanted)}: wanted one of {', '.join(map(str, known))}")
    return list(known).index(wanted)


def read(path: Any) -> Recording:
    """The numbers of a page that `write` has made.

    Args:
        path: of the file.

    Returns:
        A `Recording`.

    Raises:
        ValueError: for another file.

    Example:
        >>> import pathlib, tempfile
        >>> from gradxform.diagnostics import landscapes, race
        >>> path = race.write(pathlib.Path(tempfile.mkdtemp(), "r.html"), steps=3, landscapes=[landscapes.SADDLE])
        >>> race.read(path).landscapes
        ('saddle',)
    """
    return Recording(data_of(Path(path).read_text("utf-8")))
