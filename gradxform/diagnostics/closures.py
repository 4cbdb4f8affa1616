"""What the closures of somebody else's transforms show: factories, numbers, and which leaves their masks take."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax

from .._core.foreign import ADAPTER, makers
from .._core.transform import Method
from .._core.tree import is_absent, view

#: Functions of time, where Optax's factories take them.
_TIMED = ("step_size_fn", "learning_rate", "schedule", "every_k_schedule")
#: Whether arguments are passed on: it changes no number.
_PLUMBING = ("mask_compatible_extra_args", "forward_extra_args")
_CHAINS = ("chain", "named_chain")


class Pair(NamedTuple):
    """A transform as its two functions."""

    init: Any
    update: Any


@dataclass(frozen=True)
class Piece:
    """One factory's transform somewhere in the closure of another.

    Attributes:
        call: the factory, behind those that it stands in: "masked/add_decayed_weights", "partition[head]/scale".
        scalars: the numbers and functions of time that it holds, by the names that its author gave them.
        leaves: the paths of the leaves that masks and labels around it leave to it; None where there are none, or where
            they cannot be asked.
    """

    call: str
    scalars: dict[str, Any]
    leaves: tuple[str, ...] | None = None


def pieces(tx: Any, params: Any) -> list[Piece]:
    """All that can be read of a foreign transform; `params` answer its masks, None leaves them unasked."""
    return list(_walk(tx, "", params, None))


def _walk(tx: Any, route: str, params: Any, leaves: tuple[str, ...] | None) -> Iterator[Piece]:
    tx = _bare(tx)
    update = getattr(tx, "update", tx)
    if isinstance(update, Method):  # ours, inside of theirs
        yield Piece(f"{route}{update!r}".removesuffix(".update"), {}, leaves)
        return
    held, inner = _held(tx), dict[str, Any]()
    name = makers(tx)[0] if not _is_chain(tx) else "chain"
    for key, value in held.items():
        inner.update(_transforms(key, value))
    if name not in _CHAINS:
        maker = held.get("inner_factory")
        call = f"{name}({maker.__name__})" if callable(maker) and hasattr(maker, "__name__") else name
        scalars = _scalars(held)
        if scalars or not inner:
            yield Piece(f"{route}{call}", scalars, leaves)
        route = f"{route}{call}"
    for label, part in inner.items():
        if name in _CHAINS:
            yield from _walk(part, route, params, leaves)
        else:
            own = _chosen(held, label, params, leaves)
            yield from _walk(part, f"{route}[{label}]/" if label else f"{route}/", params, own)


def _is_chain(tx: Any) -> bool:
    return getattr(getattr(tx, "update", tx), "__qualname__", "").split(".")[0] in _CHAINS


def _bare(tx: Any) -> Any:
    """What is inside of Optax's adapter for extra arguments."""
    update = getattr(tx, "update", tx)
    if getattr(update, "__qualname__", "").startswith(ADAPTER):
        for value in _closure(update).values():
            if hasattr(value, "update"):
                return _bare(value)
    return tx


def _closure(fn: Any) -> dict[str, Any]:
    """The names and values that a function, or the object it is a method of, holds."""
    owner = getattr(fn, "__self__", None)
    if owner is not None:
        return {name.strip("_"): value for name, value in getattr(owner, "__dict__", {}).items()}
    names = getattr(getattr(fn, "__code__", None), "co_freevars", ())
    found: dict[str, Any] = {}
    for name, cell in zip(names, getattr(fn, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def _held(tx: Any) -> dict[str, Any]:
    """What `update` holds, and of what `init` holds the hyperparameters that a state begins with."""
    held = _closure(getattr(tx, "update", tx))
    begun = _closure(getattr(tx, "init", None))
    return held | {name: value for name, value in begun.items() if name == "numeric_hps"}


def _transforms(name: str, value: Any) -> dict[str, Any]:
    """The transforms in one value: itself, or those of a dict or a sequence; a label tells several apart."""
    if name.endswith("_hps"):  # hyperparameters; a schedule with a state has the two functions as well
        return {}
    if _is_transform(value):
        return {"": value}
    if isinstance(value, Mapping):
        named = {str(key): part for key, part in cast("Mapping[Any, Any]", value).items()}
    elif isinstance(value, list | tuple):
        items = list(cast("list[Any]", value))
        named = dict(
            part if isinstance(part, tuple) and len(cast("Any", part)) == 2 else (str(i), part)
            for i, part in enumerate(items)
        )
    else:
        return {}
    found: dict[str, Any] = {
        key: part
        for key, part in named.items()
        if _is_transform(part) or (name == "update_fns" and callable(part))
    }
    return found if len(found) == len(named) else {}


def _is_transform(x: Any) -> bool:
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))


def _scalars(held: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in held.items():
        if name in _PLUMBING:
            continue
        if isinstance(value, int | float):
            found[name] = value
        elif callable(value) and name in _TIMED:
            found[name] = _constant(value)
        elif isinstance(value, dict) and name.endswith("_hps"):  # injected hyperparameters
            inner = cast("dict[str, Any]", value)
            found |= {key: x for key, x in inner.items() if callable(x) or isinstance(x, int | float)}
    return found


def _constant(fn: Callable[..., Any]) -> Any:
    """The number that a function of time was made of, where it is constant because a number was given."""
    held = list(_closure(fn).values())
    constant = (
        getattr(fn, "__name__", "") == "<lambda>" and len(held) == 1 and isinstance(held[0], int | float)
    )
    return held[0] if constant else fn


def _chosen(
    held: Mapping[str, Any], label: str, params: Any, leaves: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """The leaves that `masked` or `partition` hand on; what they are already confined to stays a bound."""
    for name, wanted in (("mask", None), ("param_labels", label)):
        if name not in held or params is None:
            continue
        paths = _answered(held[name], wanted, params)
        if paths is None:
            return leaves
        return paths if leaves is None else tuple(path for path in paths if path in set(leaves))
    return leaves


def _answered(mask: Any, label: str | None, params: Any) -> tuple[str, ...] | None:
    """The paths where a mask says yes, or where the labels are `label`."""
    try:
        said = mask(params) if callable(mask) else mask
        each = jax.tree.broadcast(said, params, is_leaf=lambda x: is_absent(x))
        rows, answers = view(params), jax.tree.leaves(each)
    except Exception:  # it is anybody's function, and may want other parameters
        return None
    paths = [path for path, place in zip(rows.paths, rows.places, strict=True) if not is_absent(place)]
    if len(paths) != len(answers):
        return None
    hits = [bool(answer) if label is None else str(answer) == label for answer in answers]
    return tuple(path for path, hit in zip(paths, hits, strict=True) if hit)
