"""Cautious optimizers: an update moves no weight against its gradient.

    keep = u_t g_t > 0                          u the update uphill (behind a rate its sign is turned), g the gradient
    u_t = size / (kept + xi) u_t  or 0          where keep, or not; size and kept count the elements of one array

A momentum goes on where the gradient has turned; here it waits. What is kept is made larger, so that the array moves
about as far as without the mask. Liang, Chen, Liu & Liu, Cautious optimizers: improving training with one line of code,
2024, arXiv:2411.16085.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._core import automatic
from .._core.errors import check_flag, check_number, concrete, say
from .._core.factory import factory
from .._core.leaf import STACKED, Leaf
from .._core.nested import Inner, NestedBody
from .._core.numerics import cast, compute_dtype, real_dtype, side
from .._core.plan import Link, Plan, selected
from .._core.rule import stack_depth
from .._core.shards import cut_of
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import View, is_absent, is_float0, is_inexact, view
from .plain import scale


class CautiousState(NamedTuple):
    """The state of `cautious`: that of its transform."""

    inner_state: Any


class CautiousBody(NestedBody):
    call = "cautious"
    reach = "leaf"
    alters = True

    def __init__(
        self, inner: GradientTransformation, xi: Any, downhill: bool | None, axis_names: Any
    ) -> None:
        super().__init__(inner, CautiousState)
        self.xi, self.downhill, self.axis_names = xi, downhill, axis_names

    def start(self, params: Any, inner_state: Any) -> CautiousState:
        del params
        return CautiousState(inner_state)

    def step(
        self, inner: Inner, updates: Any, state: CautiousState, params: Any, extra: Mapping[str, Any]
    ) -> Any:
        new, inner_state = inner(updates, state.inner_state, params, extra)
        rows, us = view(updates), view(new).places
        parts = inner.body.split(state.inner_state, inner.address)
        down = self._downhill(inner.plan, parts, rows, params)
        made = [
            u if _passed(g, u) else self._one(inner, path, g, u, turned)
            for path, g, u, turned in zip(rows.paths, rows.places, us, down, strict=True)
        ]
        return rows.treedef.unflatten(made), CautiousState(inner_state)

    def _downhill(self, plan: Plan, parts: Sequence[Any], rows: View, params: Any) -> list[bool]:
        """Which leaves' updates point against the gradient."""
        if self.downhill is not None:
            return [self.downhill] * len(rows.places)
        tree = rows.treedef.unflatten(rows.places) if params is None else params
        return [turn % 2 == 1 for turn in _turns(plan, parts, tree, rows)]

    def _one(self, inner: Inner, path: str, g: Any, u: Any, downhill: bool) -> Any:
        depth = stack_depth(inner.route.stacked, path, u)
        cut = cut_of(path, u, inner.axis_names(self.axis_names), inner.address or "cautious")
        leaf = Leaf(
            path, u.shape[depth:], u.dtype, *cut.below(depth), STACKED if depth and not cut.known else ""
        )
        dtype = compute_dtype(u.dtype)
        wide, slope = jnp.asarray(u).astype(dtype), jnp.asarray(g).astype(compute_dtype(g.dtype))
        slope = automatic.laid(slope, u)
        against = side(wide, slope) * np.asarray(-1 if downhill else 1, real_dtype(dtype)) <= 0
        over = tuple(range(depth, against.ndim))
        size = jnp.sum(jnp.ones_like(against, dtype=real_dtype(dtype)), axis=over, keepdims=True)
        kept = jnp.sum((~against).astype(real_dtype(dtype)), axis=over, keepdims=True)
        size, kept = leaf.across((size, kept))
        below = kept + jnp.asarray(self.xi).astype(kept.dtype)
        factor = jnp.broadcast_to(size / jnp.where(below == 0, np.asarray(1, below.dtype), below), u.shape)
        # What is not a number is on no side: it is kept, to be seen.
        return cast(jnp.where(against, jnp.zeros_like(wide), factor.astype(dtype) * wide), u.dtype)


def _passed(g: Any, u: Any) -> bool:
    return is_absent(u) or is_absent(g) or is_float0(u) or is_float0(g) or not is_inexact(u)


def _turns(plan: Plan, parts: Sequence[Any], tree: Any, rows: View) -> list[int]:
    """How many links turn the sign of each leaf, those inside of wrappers included."""
    kinds, cache = view(tree).places, dict[Any, Any]()
    turns = [0] * len(kinds)
    for link, part in zip(plan.links, parts, strict=True):
        more = selected(link, tree, rows.paths, kinds, cache) if link.rule and link.rule.flips else turns[:0]
        if link.whole is not None and link.inside is not None:
            hidden = tree
            for selector in link.selectors:
                hidden = selector.hide(tree, rows.paths, kinds, hidden)
            either = [
                _turns(inner, states, hidden, rows) for inner, states in link.whole.alternatives(part, hidden)
            ]
            if any((a - b) % 2 for other in either for a, b in zip(either[0], other, strict=True)):
                fact = (
                    f"gx.cautious(tx): of the transforms in {link.address} one goes uphill and one downhill"
                )
                raise ValueError(say(fact, "put cautious around each of them"))
            more = either[0]
        turns = [turn + one for turn, one in zip(turns, more, strict=True)] if more else turns
    return turns


def _unknown(link: Link) -> bool:
    """Whether a link may turn the sign without saying so: somebody's functions, a factor that has no sign yet."""
    if link.rule is None or link.rule.rate:
        return link.foreign
    return "factor" in link.rule.scalars and concrete(link.rule.scalars["factor"]) is None


@factory(label="", sample={"tx": scale(0.5)})
def cautious(tx: Any, xi: Any = 1.0, *, downhill: bool | None = None, axis_names: Any = None):
    """Masks what an update would move against the gradient of this step, and makes the rest larger for it.

    For methods with momentum: Adam, Lion, momentum SGD. The loss then falls in every small enough step. The paper and
    those who repeated it report gains in pretraining without new hyperparameters; try it at the rate that you have.

    **Update**: `u = size / (kept + xi) u` where the update of `tx` and the gradient agree, else 0; `size` is the number
    of elements of the array and `kept` that of those which agree. An element whose gradient is 0 does not agree.

    Args:
        tx: any transform: a recipe with its learning rate, or `scale_by_...` before one. Around a recipe with weight
            decay, the decay is masked too; the paper's AdamW is `chain(cautious(scale_by_adam()),
            add_decayed_weights(...), scale_by_learning_rate(...))`.
        xi: at least 0, added to the number of those kept; the paper's 1. It halves the update of a scalar parameter;
            0 does not, and leaves the mean size of an update as it is.
        downhill: whether the updates of `tx` point downhill, as a recipe's do. None finds out: each leaf's sign is
            turned by the links that apply a learning rate or a negative factor. For Optax's transforms and for factors
            that are schedules it has to be said.
        axis_names: inside `shard_map`, the mesh axes over which arrays are cut, as in `clip_by_global_norm`.

    State: `CautiousState(inner_state)`; nothing of its own.

    Reach: leaf. A stack of layers in one array is one array unless `gx.per_layer` says otherwise. Arrays with few
    gradients that are not 0, such as embeddings, keep few elements, and these are made large: leave them out with
    `gx.param_groups`.

    Returns:
        A transform with the direction of `tx`.

    Raises:
        ValueError: for a negative `xi`; if it cannot be seen whether `tx` goes downhill.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.cautious(gx.sgd(1.0, momentum=0.5), xi=0.0)
        >>> params = jnp.zeros(2)
        >>> _, state = tx.update(jnp.array([4.0, 4.0]), tx.init(params), params)
        >>> tx.update(jnp.array([1.0, -1.0]), state, params)[0].tolist()  # the momentum is 3 and 1
        [-6.0, 0.0]
    """
    inner = as_transform(tx, "gx.cautious(tx)")
    check_number("cautious", "xi", xi, low=0, schedule=False)
    if downhill is not None:
        check_flag("cautious", "downhill", downhill)
    else:
        unknown = [link.address for link in inner.plan.flat if _unknown(link)]
        if unknown:
            fact = f"gx.cautious(tx): whether {' and '.join(unknown)} turns the sign cannot be seen"
            remedy = "say downhill=True if the updates of tx are to be added as they are, False before a learning rate"
            raise ValueError(say(fact, remedy))
    return wrap(CautiousBody(inner, xi, None if downhill is None else bool(downhill), axis_names))
