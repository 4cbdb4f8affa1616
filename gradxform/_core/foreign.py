"""What is Optax's: the state classes that have no public name, and what is known of transforms that have no spec.

A run that was started with Optax continues here on the same state object, so the classes must be the same. A few of
them are not exported; this is the one place that looks for them.
"""

import collections
import importlib
from collections.abc import Callable
from typing import Any

from .roles import Count, declare_roles


def state_class(module: str, name: str, *fields: str) -> Any:
    """A state class out of one of Optax's private modules, or a twin of ours if it has moved."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return collections.namedtuple(name, fields)  # pyright: ignore[reportUntypedNamedTuple]


WeightDecaySchedule = state_class("optax.transforms._adding", "WeightDecaySchedule", "count")
declare_roles(WeightDecaySchedule, count=Count)

_REACHES = ("element", "leaf", "tree")
_DECLARED: dict[str, str] = {}


def declare(factory: Callable[..., Any], *, reach: str) -> None:
    """Says how far the transforms of a factory see that we did not write.

    Args:
        factory: the function that makes them, such as `optax.scale_by_yogi`.
        reach: "element", "leaf" or "tree"; undeclared means "tree", which is always safe. Roles of a foreign state
            class are declared by `gradxform.build.declare_roles`.

    Example:
        >>> import optax
        >>> from gradxform import build
        >>> build.declare(optax.scale_by_yogi, reach="element")
        >>> build.reach_of(optax.scale_by_yogi())
        'element'
    """
    if reach not in _REACHES:
        raise ValueError(f"declare({factory.__name__}, reach={reach!r}): wanted one of {', '.join(_REACHES)}")
    _DECLARED[f"{factory.__module__}:{factory.__qualname__}"] = reach


def reach_of(tx: Any) -> str:
    """How far a transform sees: the widest of its links, or what has been declared for a foreign one.

    Example:
        >>> import gradxform as gx
        >>> from gradxform import build
        >>> build.reach_of(gx.scale_by_adam()), build.reach_of(gx.clip_by_global_norm(1.0))
        ('element', 'tree')
    """
    plan = getattr(tx, "plan", None)
    if plan is None:
        return _DECLARED.get(_maker(tx.update), "tree")
    return max(map(_reach, plan.flat), key=_REACHES.index, default="element")


def _reach(link: Any) -> str:
    return _DECLARED.get(_maker(link.whole.update_fn), "tree") if link.foreign else link.reach


def _maker(update: Any) -> str:
    """The factory whose closure `update` is."""
    inner = _unwrapped(update)
    return (
        f"{inner.__module__}:{inner.__qualname__.split('.<locals>')[0]}"
        if hasattr(inner, "__qualname__")
        else ""
    )


def _unwrapped(update: Any) -> Any:
    """The author's function inside Optax's adapter for extra arguments."""
    if getattr(update, "__qualname__", "").startswith("with_extra_args_support"):
        cells = getattr(update, "__closure__", None) or ()
        for cell in cells:
            candidate = getattr(cell.cell_contents, "update", None)
            if candidate is not None:
                return candidate
    return update
