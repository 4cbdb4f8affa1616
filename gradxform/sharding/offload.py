"""`offload`: chosen leaves of a state live in the host's memory and visit the device for the step.

They come to the device before the first rule reads them and go back behind the last one; in between nothing knows of
it, so the links of the transform stay in the passes in which they would be without. What a branch of the step carries
(a guard's, an accumulation's) would have to be in one memory in both arms and would be copied in both; so `offload`
stands outside of such wrappers, and its patterns reach through them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .._core import compat
from .._core.errors import say, short
from .._core.factory import factory
from .._core.plan import Body, Link, Lowering, Route
from .._core.spec import Example
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import View, gather, is_absent, is_pattern, listed, matches, pattern_text, view


class OffloadBody(Body):
    """A transform whose state is its own, some leaves of it in the host's memory between steps."""

    def __init__(self, inner: GradientTransformation, pattern: Any) -> None:
        self.inner, self.pattern = inner, pattern
        self.label, self.rate, self.uncoupled = inner.label, inner.body.rate, inner.body.uncoupled
        self._known: dict[Any, list[str]] = {}

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        state = self.inner.body.init(params, stacked)
        rows = view(state)
        if not any(self._taken(rows)) and any(not is_absent(p) for p in view(params).places):
            fact = f"gx.sharding.offload(pattern={pattern_text(self.pattern)!r}): the pattern takes no leaf"
            raise ValueError(say(f"{fact} of the state", f"there are {listed(self._largest(rows), 6)}"))
        return self._moved(state, host=True)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inside = self.inner.body.lower(lowering, replace(route, offloaded=True))
        return route.after(inside)

    def split(self, state: Any, address: str) -> list[Any]:
        return self.inner.body.split(self._moved(state, host=False), address)

    def join(self, state: Any, parts: list[Any]) -> Any:
        return self._moved(self.inner.body.join(state, parts), host=True)

    def _moved(self, state: Any, host: bool) -> Any:
        rows = view(state)
        places = [
            compat.moved(x, host) if take else x
            for x, take in zip(rows.places, self._taken(rows), strict=True)
        ]
        return gather(places, state, rows)

    def _taken(self, rows: View) -> list[bool]:
        """Which places of the state the pattern takes, by their path in it or by the address of their link."""
        call = "gx.sharding.offload(pattern)"
        return [
            not is_absent(x) and any(matches(self.pattern, name, x, call) for name in dict.fromkeys(pair))
            for x, *pair in zip(rows.places, rows.paths, self._names(rows), strict=True)
        ]

    def _largest(self, rows: View) -> list[str]:
        named = zip(rows.places, self._names(rows), strict=True)
        sizes = [(x.size if hasattr(x, "size") else 0, name) for x, name in named if not is_absent(x)]
        return [name for _, name in sorted(sizes, key=lambda pair: -pair[0])]

    def _names(self, rows: View) -> list[str]:
        """The places of the state by the addresses of links, as reports and errors call them."""
        found = self._known.get(rows.treedef)
        if found is None:
            numbers = rows.treedef.unflatten(range(len(rows.places)))
            found = list(rows.paths)
            _name(self.inner.plan.links, self.inner.body.split(numbers, ""), found)
            self._known[rows.treedef] = found
        return found


def _name(links: Sequence[Link], parts: Sequence[Any], found: list[str]) -> None:
    """Writes the name of every numbered place; those inside of wrappers are called as without the wrapper."""
    for link, part in zip(links, parts, strict=True):
        rows = view(part if link.rule is None else link.rule.owned(part))
        for path, number in zip(rows.paths, rows.places, strict=True):
            if isinstance(number, int):
                found[number] = f"{link.address}/{path}" if path else link.address
        if link.whole is not None and link.inside is not None:
            for plan, inner in link.whole.alternatives(part):
                _name(plan.links, inner, found)


@factory(label="", sample={"tx": Example("scale_by_adam"), "pattern": "*"})
def offload(tx: Any, pattern: Any):
    """Keeps chosen leaves of the state of any transform in the memory of the host (`pinned_host`) between steps.

    For state that does not fit on the devices and is needed once a step: each leaf travels to its device and back, with
    its sharding, and XLA overlaps what it can. The numbers are those of `tx`.

    **Update**: that of `tx`.

    Args:
        tx: any transform, ours or Optax's, a whole optimizer as a rule.
        pattern: which leaves, by their paths in the state (`0/nu/w`) or by the addresses that `gx.describe` and the
            laws speak (`adam/nu/w`): a glob such as `"*/nu/*"` or `"*"`, a regular expression, several of them in a
            tuple, or a predicate `(path, leaf) -> bool`.

    Returns:
        A transform of the reach of `tx`. Compile its step with `gx.sharding.make_step`: a plain `jax.jit` that donates
        may write a host leaf over one of the device.

    State: that of `tx`, with the same classes and shapes: a checkpoint goes from one to the other.

    Raises:
        ValueError: when `init` meets a state of which the pattern takes nothing; and where `gx.guard`,
            `gx.accumulate`, `gx.loss_scale`, `gx.apply_when` or `gx.switch_at` goes around it: what they decide in a
            branch has to be on the device. Write `offload(guard(tx), pattern)`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.sharding.offload(gx.adam(1e-3), "*/nu/*")
        >>> state = tx.init({"w": jnp.ones(4)})
        >>> state[0].nu["w"].sharding.memory_kind, state[0].mu["w"].sharding.memory_kind
        ('pinned_host', 'device')

    Differs from Optax: it has none.
    """
    if not is_pattern(pattern) and (not callable(pattern) or isinstance(pattern, type)):
        fact = f"gx.sharding.offload(pattern={short(pattern)}): wanted a glob, a regular expression, a tuple of them"
        raise TypeError(say(f"{fact} or a predicate (path, leaf)", "the transform comes first"))
    return wrap(OffloadBody(as_transform(tx, "gx.sharding.offload(tx)"), pattern))
