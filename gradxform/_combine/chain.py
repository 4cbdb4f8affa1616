"""`chain` and `named_chain`: transforms one after the other.

The state is a tuple of the links' states, nested as Optax nests it, so a checkpoint of either library fits the other.
What runs is the flattened plan: neighbouring element rules share one pass over the leaves.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from .._core import door
from .._core.errors import kind, say
from .._core.factory import factory
from .._core.plan import Body, Lowering, Route
from .._core.schedule import Schedule
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import listed
from .plain import scale, scale_by_learning_rate


class ChainBody(Body):
    """Links in order. The state is a tuple, or an ordered dictionary for a named chain."""

    def __init__(self, links: Sequence[GradientTransformation], names: Sequence[str], named: bool) -> None:
        self.links, self.names, self.named = links, names, named
        self.rate = sum(link.body.rate for link in links)
        self.uncoupled = any(link.body.uncoupled for link in links)
        who = "gx.named_chain" if named else "gx.chain"
        self._check_rates(who)
        self._check_decays(who)

    def _check_rates(self, who: str) -> None:
        if self.rate > 1:
            which = " and ".join(
                name for name, link in zip(self.names, self.links, strict=True) if link.body.rate
            )
            raise ValueError(
                say(
                    f"{who}: the learning rate is applied {self.rate} times, by {which}",
                    "rates multiply, and two turns downhill are one uphill",
                    "keep one: a recipe such as adamw(...) has its own, gx.scale_by_adam() has none",
                )
            )

    def _check_decays(self, who: str) -> None:
        """Refuses a decay on the wrong side of the learning rate."""
        last_rate = max((i for i, link in enumerate(self.links) if link.body.rate), default=-1)
        downhill = ""
        for i, link in enumerate(self.links):
            rules = [inner.rule for inner in link.plan.flat if inner.rule is not None]
            if downhill and any(rule.coupled for rule in rules):
                raise ValueError(
                    say(
                        f"{who}: {self.names[i]} adds the weights to an update that {downhill} has turned downhill, "
                        "so they would grow",
                        "put it before the learning rate, or use coupled=False",
                    )
                )
            if link.body.rate and any(rule.rate and rule.flips for rule in rules):
                downhill = self.names[i]
            if link.body.uncoupled and i < last_rate:
                raise ValueError(
                    say(
                        f"{who}: {self.names[i]} is a decay independent of the learning rate, "
                        f"but {self.names[last_rate]} behind it would scale it",
                        "put it behind the learning rate, or use coupled=True and a positive number",
                    )
                )

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        return self._pack([link.body.init(params, stacked) for link in self.links])

    def _pack(self, states: list[Any]) -> Any:
        return collections.OrderedDict(zip(self.names, states, strict=True)) if self.named else tuple(states)

    def _unpack(self, state: Any, address: str) -> Sequence[Any]:
        if not self.named:
            first = self.links[0].plan.links if self.links else ()
            return door.check_parts(state, self.names, address, any(link.foreign for link in first))
        if not isinstance(state, Mapping) or set(state) != set(self.names):
            raise ValueError(
                door.wrong_state(
                    f"{address or 'named_chain'}: wanted a dict of states with the names {listed(self.names)}",
                    state,
                )
            )
        return [state[name] for name in self.names]

    def lower(self, lowering: Lowering, route: Route) -> Route:
        for name, link in zip(self.names, self.links, strict=True):
            inner = lowering.enter(route, name if self.named else link.label)
            route = route.after(link.body.lower(lowering, inner))
        return route

    def split(self, state: Any, address: str) -> list[Any]:
        parts: list[Any] = []
        for name, link, part in zip(self.names, self.links, self._unpack(state, address), strict=True):
            parts.extend(link.body.split(part, f"{address}/{name}" if address else name))
        return parts

    def join(self, state: Any, parts: list[Any]) -> Any:
        unpacked = self._unpack(state, "")
        new = [link.body.join(part, parts) for link, part in zip(self.links, unpacked, strict=True)]
        return self._pack(new)


def _as_link(x: Any, who: str) -> GradientTransformation:
    return scale_by_learning_rate(x) if isinstance(x, Schedule) else as_transform(x, who)


def _swapped(pair: Any) -> str:
    swapped = isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[1], str)
    return "the name comes first" if swapped else ""


def _names(links: Sequence[GradientTransformation]) -> list[str]:
    lowering = Lowering()
    return [lowering.enter(Route(), link.label or link.spec.factory.name).names[-1] for link in links]


@factory(label="", sample={"args": (scale(0.5), scale(2.0))})
def chain(*args: Any):
    """Applies transforms one after the other: each gets what the one before it made of the gradient.

    Args:
        *args: transforms, ours or Optax's. A gradxform *schedule* standing as a link is read as
            `scale_by_learning_rate(schedule)`. No link at all is the identity.

    Returns:
        One transform. Its reach is that of its widest link.

    State: a tuple of the links' states, in order, as in Optax.

    Raises:
        TypeError: for a link that is not a transform (a factory that was not called, a bare function, a number).
        ValueError: if a learning rate is applied twice.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.chain(
        ...     gx.clip_by_global_norm(1.0),
        ...     gx.scale_by_adam(b2=0.95),
        ...     gx.add_decayed_weights(0.1, mask=gx.matrices()),
        ...     gx.warmup_cosine(3e-4, 1000, 20000),
        ... )
        >>> [link.address for link in tx.plan.links]
        ['clip', 'adam', 'decay', 'rate']

    Differs from Optax: neighbouring element rules run as one pass over each leaf, in float32 or wider, and only the
    result is rounded to the parameter's dtype.
    """
    links = [_as_link(x, f"gx.chain: link {i}") for i, x in enumerate(args)]
    return wrap(ChainBody(links, _names(links), named=False))


@factory(label="", sample={"args": (("half", scale(0.5)), ("twice", scale(2.0)))})
def named_chain(*args: Any):
    """A chain whose links, and whose state, have names of your choosing.

    Args:
        *args: pairs `(name, transform)` with different names.

    State: an ordered dictionary of the links' states by name.

    Example:
        >>> import gradxform as gx
        >>> tx = gx.named_chain(("clip", gx.clip(1.0)), ("adam", gx.scale_by_adam()))
        >>> list(tx.init(0.0))
        ['clip', 'adam']
    """
    for i, pair in enumerate(args):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(
                say(
                    f"gx.named_chain: argument {i} is {kind(pair)}, wanted a pair (name, transform)",
                    _swapped(pair),
                )
            )
    names = [name for name, _ in args]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"Named transformations must have unique names: gx.named_chain got {listed(twice)} twice"
        )
    links = [_as_link(x, f"gx.named_chain: the link {name!r}") for name, x in args]
    return wrap(ChainBody(links, names, named=True))
