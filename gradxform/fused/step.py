"""`apply_gradients`: a step and its sum in one call, as XLA makes it of the rules or by one kernel a leaf."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from .._core.apply import apply_updates
from .._core.body import HandBody
from .._core.errors import say, short
from .._core.foreign import twins
from .._core.plan import Link, Lowering, Plan, Route
from .._core.run import run
from .._core.transform import GradientTransformation, as_transform
from .._core.tree import is_absent, view
from .body import TILE, Unfit, refuse

_WHO = "gx.fused.apply_gradients"
_KERNELS = (None, "pallas")


def apply_gradients(
    tx: Any,
    grads: Any,
    state: Any,
    params: Any,
    *,
    kernel: str | None = None,
    tile: int = TILE,
    **extra: Any,
) -> tuple[Any, Any]:
    """One step and its sum: the new parameters and the new state.

    To be donated, parameters and state have to be arguments in the order in which they are returned: JAX gives the
    memory of donated arguments to results by their order and shapes, and a step that takes `(state, params)` and
    returns `(params, state)` copies all of them.

    Args:
        tx: any transform, ours or Optax's.
        grads: the gradients.
        state: `tx`'s state.
        params: the parameters.
        kernel: None: `tx.update` and `gx.apply_updates`, of which XLA makes its loops. "pallas": a leaf's whole way,
            the sum included, is one Triton kernel on an NVIDIA GPU, which reads gradient, parameter and slots once and
            writes parameter and slots in their own place; donate both, and call it inside of `jit`. On a CPU it runs
            interpreted, slowly, to be tested. Not yet measured on a GPU.
        tile: how many numbers one program of the kernel works on, a power of two.
        **extra: what else `tx.update` asks for, such as `value=loss`.

    Returns:
        `(params, state)`, in the order in which a training loop carries them. With a kernel the numbers are those of
        the plain way within rounding.

    Raises:
        ValueError: with a kernel, for a transform with a link that looks beyond one number of a leaf, such as Muon's or
            a trust ratio; for one that is a pair of functions, as Optax's are; for another `kernel` or `tile`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx, params = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.5)), {"w": jnp.ones(2)}
        >>> params, state = gx.fused.apply_gradients(tx, {"w": jnp.ones(2)}, tx.init(params), params)
        >>> [round(float(x), 3) for x in params["w"]]
        [0.5, 0.5]
    """
    tx = as_transform(tx, f"{_WHO}(tx)")
    if kernel is None:
        updates, state = tx.update(grads, state, params, **extra)
        return apply_updates(params, updates), state
    if kernel not in _KERNELS:
        raise ValueError(f"{_WHO}(kernel={short(kernel)}): wanted None or 'pallas'")
    if tile < 64 or tile & (tile - 1):
        raise ValueError(f"{_WHO}(tile={tile}): wanted a power of two of at least 64")
    backend = jax.default_backend()
    if backend not in ("cpu", "gpu", "cuda"):
        fact = f"{_WHO}(kernel='pallas'): the kernel is Triton's, and this is a {backend}"
        raise ValueError(say(fact, "leave out kernel="))
    return by_kernel(tx, grads, state, params, extra, tile=tile, interpret=backend == "cpu")


def by_kernel(
    tx: GradientTransformation,
    grads: Any,
    state: Any,
    params: Any,
    extra: Mapping[str, Any],
    *,
    tile: int = TILE,
    interpret: bool = False,
) -> tuple[Any, Any]:
    """The new parameters and the new state, each leaf's pass as one kernel.

    A transform of one pass writes the parameters too. What has several passes writes the update in between, and so does
    what is inside of a wrapper that may change it.
    """
    lowering = Lowering()
    passes = _Passes(tile, interpret)
    if not isinstance(tx.body, HandBody):
        tx.body.lower(lowering, Route(execute=passes))
    plan = Plan(tuple(lowering.links), tuple(lowering.segments))
    _check(tx, plan)
    passes.applies = _single(plan)
    updates, state = run(tx.body, grads, state, params, extra, tx.spec.factory.text, plan, passes)
    rows, new = view(params), view(updates)
    if not passes.made and any(not is_absent(p) for p in rows.places):
        fact = f"{_WHO}(kernel='pallas'): no leaf went through the kernel"
        cause = "arrays on explicit axes, readings of gx.probe and what is frozen are worked without it"
        raise ValueError(say(fact, cause, "leave out kernel="))
    if not passes.applies:
        return apply_updates(params, updates), state
    if (
        not {id(u) for u in new.places} >= passes.made.keys()
    ):  # they would be added to the parameters once more
        raise RuntimeError(f"{_WHO}(kernel='pallas'): what the kernel has written has been changed behind it")
    left = [None if id(u) in passes.made else u for u in new.places]
    moved = view(apply_updates(params, new.treedef.unflatten(left))).places
    done = [passes.made.get(id(u), p) for u, p in zip(new.places, moved, strict=True)]
    return rows.treedef.unflatten(done), state


class _Passes:
    """Runs the passes of leaves; see `Execute`."""

    def __init__(self, tile: int, interpret: bool) -> None:
        self.tile, self.interpret, self.applies = tile, interpret, False
        #: What has come out in the place of updates, by identity: new parameters, where it applies.
        self.made: dict[int, Any] = {}

    def __call__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        from .kernel import tiled  # and Pallas, which takes a while

        u, p, ks, stored = args
        apply = self.applies and p is not None
        try:
            got, new = tiled(fn, (u, p, ks, stored), apply=apply, tile=self.tile, interpret=self.interpret)
        except Unfit as problem:
            raise refuse(problem, f"{_WHO}(kernel='pallas'): {fn.__name__}") from None
        if apply or not self.applies:
            self.made[id(got)] = got
        return got, new


def _check(tx: GradientTransformation, plan: Plan) -> None:
    for link in plan.flat or (None,):
        fact, remedy = _problem(link)
        if fact:
            name = repr(tx) if link is None else link.address
            remedy = f"{remedy}, or leave out kernel=" if remedy else "leave out kernel="
            raise ValueError(say(f"{_WHO}(kernel='pallas'): {name} {fact}", remedy))


def _problem(link: Link | None) -> tuple[str, str]:
    """Why a link cannot run in a kernel, and what to do."""
    if link is None or link.foreign:
        ours = "" if link is None else twins(getattr(link.whole, "update_fn", None))
        return "is a pair of functions, of whose numbers nothing is known", f"use {ours}" if ours else ""
    if link.reach == "leaf":
        return "looks at whole leaves, and a kernel has a tile of one at a time", ""
    return "", ""


def _single(plan: Plan) -> bool:
    """Whether there is one pass, whose update nothing changes."""
    wholes = [link for link in plan.links if link.whole is not None]
    if not wholes:
        return len(plan.segments) == 1
    return False
