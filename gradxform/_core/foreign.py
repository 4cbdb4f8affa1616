"""What is Optax's: the state classes that have no public name, and what is known of transforms that have no spec.

A run that was started with Optax continues here on the same state object, so the classes must be the same. A few of
them are not exported; this is the one place that looks for them.
"""

import collections
import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, cast

import optax

from .roles import ACCUMULATOR, COUNT, FACTOR, MOMENT, SECOND_MOMENT, Count, declare_roles, roles_of
from .spec import Factory, registered
from .states import nodes


def state_class(module: str, name: str, *fields: str) -> Any:
    """A state class out of one of Optax's private modules, or a twin of ours if it has moved."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return collections.namedtuple(name, fields)  # pyright: ignore[reportUntypedNamedTuple]


WeightDecaySchedule = state_class("optax.transforms._adding", "WeightDecaySchedule", "count")
declare_roles(WeightDecaySchedule, count=Count)

#: Whose closure holds the author's function, where Optax has put its adapter for extra arguments around it.
ADAPTER = "with_extra_args_support"
_REACHES = ("element", "leaf", "tree")
_DECLARED: dict[str, str] = {}
_BOUNDS: set[str] = set()


def declare(factory: Callable[..., Any], *, reach: str, bounds: bool = False) -> None:
    """Says how far the transforms of a factory see that we did not write, and whether they clip.

    Args:
        factory: the function that makes them, such as `optax.scale_by_yogi`.
        reach: "element", "leaf" or "tree"; undeclared means "tree", which is always safe. Roles of a foreign state
            class are declared by `gradxform.build.declare_roles`.
        bounds: whether they bound what comes in and leave alone what is within the bound; reports count what is not.

    Example:
        >>> import optax
        >>> from gradxform import build
        >>> build.declare(optax.scale_by_yogi, reach="element")
        >>> build.reach_of(optax.scale_by_yogi())
        'element'
    """
    if reach not in _REACHES:
        raise ValueError(f"declare({factory.__name__}, reach={reach!r}): wanted one of {', '.join(_REACHES)}")
    name = f"{factory.__module__}:{factory.__qualname__}"
    _DECLARED[name] = reach
    if bounds:
        _BOUNDS.add(name)


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
        return _widest(tx.update, "tree")
    return max(map(link_reach, plan.flat), key=_REACHES.index, default="element")


def link_reach(link: Any, unknown: str = "tree") -> str:
    """How far a link sees; `unknown` is said of what is somebody else's and not declared."""
    return _widest(link.whole.update_fn, unknown) if link.foreign else link.reach


def _widest(update: Any, unknown: str) -> str:
    """How far somebody's function sees: what is declared of its factory, else the widest of what it is made of."""
    declared = _DECLARED.get(_maker(update))
    parts = () if declared is not None else _parts(update)
    if not parts:
        return declared or unknown
    found = [_widest(part, unknown) for part in parts]
    return next((reach for reach in (unknown, *reversed(_REACHES)) if reach in found), unknown)


#: Optax's factories that run the transforms in their closure, each on some leaves or on what another one has made.
_OF_OTHERS = ("chain", "named_chain", "masked", "partition", "multi_transform")


def _parts(update: Any) -> tuple[Any, ...]:
    """The functions in the closure of one of `_OF_OTHERS`."""
    update = _unwrapped(update)
    maker = _maker(update)
    if not maker.startswith("optax.") or maker.rsplit(":", 1)[-1] not in _OF_OTHERS:
        return ()
    for cell in getattr(update, "__closure__", None) or ():
        held = cell.cell_contents
        held = held.values() if isinstance(held, dict) else (held,) if hasattr(held, "update") else held
        if isinstance(held, str) or not isinstance(held, Iterable):
            continue
        items = [item[-1] if type(item) is tuple else item for item in held]
        found = tuple(getattr(item, "update", item) for item in items)
        if found and all(callable(part) and hasattr(part, "__qualname__") for part in found):
            return found
    return ()


def hides(update: Any) -> bool:
    """Whether masks of Optax's are in somebody's function: they are asked of the tree that it is given."""
    name = _maker(update).rsplit(":", 1)[-1]
    return name in ("masked", "partition", "multi_transform") or any(map(hides, _parts(update)))


def bounds(link: Any) -> bool:
    """Whether a link clips: it bounds what comes in, and leaves alone what is within the bound."""
    if link.rule is not None:
        return link.rule.bounds
    return link.foreign and _maker(link.whole.update_fn) in _BOUNDS


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
    if getattr(update, "__qualname__", "").startswith(ADAPTER):
        cells = getattr(update, "__closure__", None) or ()
        for cell in cells:
            candidate = getattr(cell.cell_contents, "update", None)
            if candidate is not None:
                return candidate
    return update


declare(optax.clip, reach="element", bounds=True)
declare(optax.clip_by_block_rms, reach="leaf", bounds=True)
declare(optax.clip_by_global_norm, reach="tree", bounds=True)
declare(optax.adaptive_grad_clip, reach="leaf", bounds=True)

#: What each of Optax's factories sees of a tree; recipes are chains of these. What is in neither list sees all of it.
_OF_ELEMENTS = """
    add_decayed_weights apply_every ema identity keep_params_nonnegative scale scale_by_adadelta scale_by_adam
    scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief scale_by_lion scale_by_optimistic_gradient
    scale_by_radam scale_by_rms scale_by_rprop scale_by_rss scale_by_schedule scale_by_sign scale_by_stddev
    scale_by_yogi set_to_zero trace contrib.scale_by_acprop contrib.scale_by_ademamix contrib.scale_by_adopt
    contrib.scale_by_simplified_ademamix
"""
_OF_LEAVES = """
    centralize scale_by_distance_over_gradients scale_by_factored_rms scale_by_novograd scale_by_param_block_norm
    scale_by_param_block_rms scale_by_sm3 scale_by_trust_ratio stateless_with_tree_map zero_nans contrib.scale_by_muon
    contrib._muon.scale_by_shape
"""


def _declare_all(names: str, reach: str) -> None:
    for name in names.split():
        try:
            found: Any = functools.reduce(getattr, name.split("."), cast("Any", optax))
        except AttributeError:  # of another version of Optax
            continue
        declare(found, reach=reach)


_declare_all(_OF_ELEMENTS, "element")
_declare_all(_OF_LEAVES, "leaf")


def makers(tx: Any) -> tuple[str, ...]:
    """The names of the factories that made a foreign transform, one for each link if it is Optax's chain."""
    links = _chain_links(tx)
    if links:
        return tuple(name for link in links for name in makers(link))
    update = _unwrapped(getattr(tx, "update", tx))
    return (_maker(update).rsplit(":", 1)[-1].removesuffix(".update"),)


def opened(link: Any, state: Any) -> list[tuple[str, bool, bool, str, bool]]:
    """What a foreign link does, or each link of Optax's chain: name, clips, gathers, skips, remembers.

    What remembers keeps what it has learnt or counted, as far as its roles say, or adds a decay.
    """
    found: list[tuple[str, bool, bool, str, bool]] = []
    parts = pieces(link.whole.update_fn, state)
    for name, own in parts:
        known = [role for _, node in nodes(own) for role in roles_of(type(node)).values()]
        gathers = ACCUMULATOR in roles_of(type(own)).values()
        remembers = any(role in _LEARNT for role in known) or name == "add_decayed_weights"
        clips = any(maker.endswith(f":{name}") for maker in _BOUNDS)
        address = link.address if len(parts) == 1 else f"{link.address}/{name}"
        found.append((address, clips, gathers, "counts" if name == "apply_if_finite" else "", remembers))
    return found


_LEARNT = (COUNT, MOMENT, SECOND_MOMENT, FACTOR)


def pieces(update: Any, state: Any) -> list[tuple[str, Any]]:
    """The factories of a foreign transform's links and their states; one, if it is not Optax's chain."""
    links = _chain_links(update)
    if not links or type(state) is not tuple or len(links) != len(state):
        return [(makers(update)[0] if not links else "chain", state)]
    return [piece for link, own in zip(links, state, strict=True) for piece in pieces(link, own)]


def _chain_links(update: Any) -> tuple[Any, ...]:
    """The links in the closure of Optax's `chain`; none for anything else."""
    update = _unwrapped(getattr(update, "update", update))
    if not getattr(update, "__qualname__", "").startswith("chain.<locals>"):
        return ()
    cells = [cell.cell_contents for cell in getattr(update, "__closure__", None) or ()]
    return next((cell for cell in cells if isinstance(cell, tuple)), ())


#: How a learning rate is called: here, and in Optax for a schedule and for a number (`scale`).
_RATES = ("scale_by_learning_rate", "scale_by_schedule")


def twins(tx: Any) -> str:
    """Our factories that make what a foreign transform is, as text; empty if there are none."""
    made = tuple("scale" if name in _RATES else name for name in makers(tx))
    ours = {name: factory for name, factory in registered().items() if factory.text == f"gx.{name}"}
    if len(made) == 1 and made[0] in ours:
        return ours[made[0]].text
    found = [factory.text for factory in ours.values() if made == _links(factory)]
    single = [f"{ours[name].text}(...)" for name in makers(tx) if name in ours]
    if not found and len(single) == len(made) > 1:
        return f"gx.chain({', '.join(single)})"
    return " or ".join(found[:3])


def _links(factory: Factory) -> tuple[str, ...]:
    """What the links of a recipe's example are called, the rate `scale`."""
    if "_transforms" not in factory.call.__module__:
        return ()
    rules = [link.rule for link in factory.example().plan.links]
    return tuple("scale" if rule.call in _RATES else rule.call for rule in rules if rule is not None)
