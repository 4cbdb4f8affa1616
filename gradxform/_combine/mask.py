"""`masked`, `freeze` and `per_layer`: a transform on some of the leaves, or on the layers inside stacked ones."""

from dataclasses import replace
from typing import Any

import optax

from .._core import door
from .._core.errors import check_flag, say, short
from .._core.factory import factory, mask as mask_factory
from .._core.joined import Joined
from .._core.mask import MaskSelector
from .._core.plan import Body, Lowering, Route
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import is_absent, is_pattern, listed, matches, pattern_text, view
from .plain import scale, set_to_zero


class MaskedBody(Body):
    """A transform on the leaves that a mask selects; the others pass unchanged and have no state."""

    def __init__(self, inner: GradientTransformation, mask: Any, who: str, mask_extra: bool) -> None:
        self.inner, self.mask_extra = inner, mask_extra
        self.selector = MaskSelector(mask, who)
        self.label = inner.label
        self.uncoupled = inner.body.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        rows = view(params)
        if not any(
            not is_absent(p) for p in rows.places
        ):  # nothing to mask, or a placeholder that asks for the layout
            return optax.MaskedState(self.inner.body.init(params, stacked))
        hidden = self.selector.hide(params, rows.paths, rows.places, params)
        return optax.MaskedState(self.inner.body.init(hidden, stacked))

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inside = replace(
            route, selectors=(*route.selectors, self.selector), mask_extra=route.mask_extra or self.mask_extra
        )
        return route.after(self.inner.body.lower(lowering, inside))

    def split(self, state: Any, address: str) -> list[Any]:
        state = door.check_state_class(optax.MaskedState, state, address or "masked")
        return self.inner.body.split(state.inner_state, address)

    def join(self, state: Any, parts: list[Any]) -> Any:
        return optax.MaskedState(self.inner.body.join(state.inner_state, parts))


@factory(label="", sample={"inner": scale(0.5), "mask": True})
def masked(inner: Any, mask: Any, *, mask_compatible_extra_args: bool = False):
    """Applies a transform to some leaves only; the others are passed through and have no state.

    Args:
        inner: any transform, ours or Optax's.
        mask: which leaves: a tree of booleans or a prefix of one; a function of the parameters that gives one; a glob
            or regular expression on the slash path, or several in a tuple; a predicate `(path, leaf) -> bool`; a value
            such as `gx.matrices()`. A mask that is a pytree is never called.
        mask_compatible_extra_args: whether extra arguments shaped like the parameters are masked too.

    Returns:
        A transform of the reach of `inner`.

    State: `optax.MaskedState(inner_state)`.

    Raises:
        TypeError, ValueError: for a mask with leaves that are not booleans, or that does not fit the parameters; for a
            pattern that takes no leaf (a predicate may take none).

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.masked(gx.scale(2.0), "*/kernel")
        >>> grads = {"dense": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> float(updates["dense"]["kernel"][0]), float(updates["dense"]["bias"][0])
        (2.0, 1.0)

    Differs from Optax: a mask that depends on values or dtypes is evaluated on the parameters where they are given, so
    that gradients of another dtype do not change it.
    """
    check_flag("masked", "mask_compatible_extra_args", mask_compatible_extra_args)
    if isinstance(mask, optax.GradientTransformation):
        raise TypeError(
            "gx.masked(inner, mask): the mask is a transform; the transform comes first, then the mask"
        )
    tx = as_transform(inner, "gx.masked(inner)")
    return wrap(MaskedBody(tx, mask, "gx.masked(mask)", mask_compatible_extra_args))


@factory(label="freeze", sample={"mask": True})
def freeze(mask: Any):
    """Sets the updates of the masked leaves to zero; the others pass.

    It zeroes updates and saves nothing: to keep no state for frozen leaves, give them `None` in `gx.param_groups`.

    Args:
        mask: True for what is frozen; every form that `gx.masked` takes.

    State: `optax.MaskedState(EmptyState())`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.chain(gx.sgd(0.1), gx.freeze("embed/*"))
        >>> grads = {"embed": {"table": jnp.ones(1)}, "head": jnp.ones(1)}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> float(updates["embed"]["table"][0])
        0.0
    """
    return wrap(MaskedBody(set_to_zero(), mask, "gx.freeze(mask)", False))


@mask_factory
def matrices(*, stacked: Any = None, exclude: Any = None):
    """The mask that weight decay wants: leaves with at least two axes, so no biases, no norms' scales.

    Args:
        stacked: patterns of leaves whose first axis counts layers (a model run by `lax.scan`): it is not an axis of the
            matrix, so a leaf needs three. Glob, regular expression, or a tuple of them.
        exclude: patterns of leaves that are not taken although they are matrices, such as `"embed/*"`.

    Returns:
        A mask value: called with parameters it gives a tree of booleans.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.matrices(exclude="embed*")({"embed": jnp.ones((5, 2)), "w": jnp.ones((2, 2)), "b": jnp.ones(2)})
        {'b': False, 'embed': False, 'w': True}
    """
    for name, pattern in (("stacked", stacked), ("exclude", exclude)):
        if pattern is not None and not is_pattern(pattern):
            raise TypeError(
                f"gx.matrices({name}={short(pattern)}): wanted a glob, a regular expression or a tuple of them"
            )

    def takes(path: str, leaf: Any) -> bool:
        if exclude is not None and matches(exclude, path, leaf):
            return False
        least = 3 if stacked is not None and matches(stacked, path, leaf) else 2
        return getattr(leaf, "ndim", 0) >= least

    return takes


class PerLayerBody(Body):
    """A transform whose leaf rules are mapped over the first axis of the stacked leaves."""

    def __init__(self, inner: GradientTransformation, stacked: Any) -> None:
        self.inner, self.stacked = inner, stacked
        self.label = inner.label
        self.rate, self.uncoupled = inner.body.rate, inner.body.uncoupled

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        rows = view(params)
        taken = [matches(self.stacked, path, p) for path, p in zip(rows.paths, rows.places, strict=True)]
        known = not isinstance(params, Joined) and not any(map(is_absent, rows.places))
        if taken and not any(taken) and known:
            fact = f"gx.per_layer(stacked={pattern_text(self.stacked)!r}): the pattern takes no leaf"
            raise ValueError(say(fact, f"there are {listed(rows.paths, 6)}"))
        return self.inner.body.init(params, (*stacked, self.stacked))

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inside = replace(route, stacked=(*route.stacked, self.stacked))
        return route.after(self.inner.body.lower(lowering, inside))

    def split(self, state: Any, address: str) -> list[Any]:
        return self.inner.body.split(state, address)

    def join(self, state: Any, parts: list[Any]) -> Any:
        return self.inner.body.join(state, parts)


@factory(label="", sample={"inner": scale(0.5), "stacked": "*"})
def per_layer(inner: Any, stacked: Any):
    """Declares that the first axis of some leaves counts layers, so that a method per array works per layer.

    A model run by `lax.scan` keeps the weights of all its layers in one array. A clip of the root mean square of an
    array, a trust ratio or a factored moment should then see one layer at a time, not the stack. Element rules do not
    care and are left as they are; the layout of the state does not change.

    Args:
        inner: a transform of ours. (Optax's see whole trees and cannot be mapped.)
        stacked: patterns of the stacked leaves, such as `"layers/*"`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.per_layer(gx.clip_by_block_rms(1.0), stacked="layers/*")
        >>> grads = {"layers": {"w": jnp.array([[4.0, 4.0], [0.5, 0.5]])}}
        >>> tx.update(grads, tx.init(grads))[0]["layers"]["w"].tolist()
        [[1.0, 1.0], [0.5, 0.5]]
    """
    if not is_pattern(stacked):
        order = "the transform comes first" if isinstance(stacked, optax.GradientTransformation) else ""
        fact = (
            f"gx.per_layer(stacked={short(stacked)}): wanted a glob, a regular expression or a tuple of them"
        )
        raise TypeError(say(fact, order))
    tx = as_transform(inner, "gx.per_layer(inner)")
    for link in tx.plan.flat:
        if link.foreign:
            raise ValueError(
                f"gx.per_layer: {link.address} sees the whole tree at once and cannot work per layer"
            )
    return wrap(PerLayerBody(tx, stacked))
