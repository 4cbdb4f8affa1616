"""Which parameter a name of torch's is, and where its axes lie: renaming and layout, explicit and checked."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core.errors import say, short
from .._core.tree import matches
from .renaming import Renaming
from .torch_kinds import ROWS_AND_COLUMNS
from .torch_run import TorchRun

Renamed = Mapping[str, str] | Callable[[str], str] | None
Layout = Mapping[Any, Sequence[int] | Sequence[Sequence[int]]] | None


@dataclass(frozen=True)
class Place:
    """Where an array of torch's lies here: the path of the parameter, and `numpy.transpose`'s axes if they move."""

    path: str
    axes: tuple[int, ...] | None = None

    def here(self, x: np.ndarray) -> np.ndarray:
        return x if self.axes is None else np.transpose(x, self.axes)

    def there(self, x: np.ndarray) -> np.ndarray:
        return x if self.axes is None else np.transpose(x, np.argsort(self.axes))


def _paths(renamed: Renamed, who: str) -> Callable[[str], str]:
    """The path of a name: what `renamed` makes of it, with dots as slashes."""
    rename = renamed if callable(renamed) else Renaming(renamed, who.split("(")[0] + "(renamed)")
    return lambda name: rename(name).replace(".", "/")


def places(
    run: TorchRun, params: Mapping[str, Any], renamed: Renamed, layout: Layout, who: str
) -> dict[str, Place]:
    """The place of every parameter that torch knows, or one error that lists those without."""
    path_of = _paths(renamed, who)
    found: dict[str, str] = {}
    for name in dict.fromkeys((*run.names, *run.weights)):
        path = path_of(name)
        if path in params:
            found[name] = path
    _check_names(run, found, params, path_of, who)
    used: set[Any] = set()
    wrong: list[str] = []
    made: dict[str, Place] = {}
    for name, path in found.items():
        axes, problem = _axes(name, path, shape_of(run, name), tuple(params[path].shape), layout, used)
        made[name] = Place(path, axes)
        wrong += [problem] if problem else []
    if wrong:
        remedy = (
            'layout={"*/kernel": [(1, 0), (2, 3, 1, 0)]}: for each number of axes, numpy.transpose\'s axes'
        )
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(say(f"{who}: {'; '.join(wrong[:8])}{more}", f"{remedy} from torch to here"))
    idle = [pattern for pattern in layout or {} if pattern not in used]
    if idle:
        raise ValueError(say(f"{who}: layout: {short(idle)} takes no parameter of two or more axes"))
    return made


def _check_names(
    run: TorchRun,
    found: Mapping[str, str],
    params: Mapping[str, Any],
    path_of: Callable[[str], str],
    who: str,
) -> None:
    lost = [f"{name!r} (looked for at {path_of(name)!r})" for name in run.names if name not in found]
    without = sorted(set(params) - set(found.values()))
    twice = sorted({p for p in found.values() if list(found.values()).count(p) > 1})
    facts = [f"without a parameter here: {', '.join(lost)}"] if lost else []
    facts += [f"without a name in torch: {', '.join(map(repr, without))}"] if without else []
    facts += [f"two names for {', '.join(map(repr, twice))}"] if twice else []
    if facts:
        remedy = 'renamed={"*.weight": "*/kernel"}, the first pattern that takes a name counts; or a function'
        raise ValueError(say(f"{who}: the names do not fit, {'; '.join(facts)}", remedy))


def shape_of(run: TorchRun, name: str) -> tuple[int, ...] | None:
    """The shape of a parameter in torch, as far as the file has an array of that shape."""
    if name in run.weights:
        return run.weights[name].shape
    slots = {slot: x for slot, x in run.state.get(name, {}).items() if slot not in ("step", "mu_product")}
    for slot, x in slots.items():
        if slot not in ROWS_AND_COLUMNS:
            return x.shape
    if len(slots) == 2:
        return np.broadcast_shapes(*(x.shape for x in slots.values()))
    return None


def _axes(
    name: str, path: str, got: tuple[int, ...] | None, wanted: tuple[int, ...], layout: Layout, used: set[Any]
) -> tuple[tuple[int, ...] | None, str]:
    """How the axes move, and what is wrong with that."""
    axes: tuple[int, ...] | None = None
    for pattern, given in (layout or {}).items():
        choices = [tuple(c) for c in given] if given and isinstance(given[0], Sequence) else [tuple(given)]  # type: ignore[arg-type]
        if len(wanted) < 2 or not matches(pattern, path, None):
            continue
        used.add(pattern)
        axes = next((c for c in choices if sorted(c) == list(range(len(wanted)))), None)  # type: ignore[arg-type]
        break
    if got is None:
        return axes, ""
    shape = got if axes is None or len(axes) != len(got) else tuple(got[i] for i in axes)
    if shape != wanted:
        turned = "" if axes is None else f", {shape} by layout"
        fits = [c for c in itertools.permutations(range(len(got))) if tuple(got[i] for i in c) == wanted]
        hint = f" (the axes {fits[0]} would fit)" if fits and len(got) < 6 else ""
        return axes, f"{name!r} has shape {got} in torch{turned}, {path!r} has {wanted}{hint}"
    renamed_end = name.rsplit(".", 1)[-1] != path.rsplit("/", 1)[-1]
    if axes is None and renamed_end and len(set(got)) < len(got) > 1:
        return axes, f"{name!r} of shape {got} fits {path!r} as it is and transposed; say which"
    return axes, ""
