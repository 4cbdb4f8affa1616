"""The weights to evaluate with: `eval_params`, one function for every method that has others than those it trains.

average_params       the average
Schedule-Free        x = z + (y - z) / b1,  y the parameters that are trained and z in the state
lookahead            the slow weights of the pair that is trained
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import ScheduleFreeState

from .._core import compat
from .._core.errors import kind, say, short
from .._core.numerics import cast, compute_dtype
from .._core.states import beside, nodes, unboxed
from .._core.tree import is_absent, view
from .average import ParamAverageState

_KNOWN = "average_params, schedule_free (ours or Optax's), optax.lookahead"


def eval_params(state: Any, params: Any, which: str | None = None) -> Any:
    """The parameters to evaluate with: the average, the x of Schedule-Free, the slow weights of lookahead.

    Args:
        state: the state of any transform with one of these in it, wherever wrappers, masks and accumulations have put
            it (lookahead stands outermost, since it trains a pair); also `nnx.Optimizer.opt_state` or
            `TrainState.opt_state`.
        params: the parameters that are trained; with lookahead, the `optax.LookaheadParams` pair.
        which: the address of the one that is meant, if a leaf is in several; the message lists them. Averages of
            groups that share no leaf are one set of weights.

    Returns:
        A tree with the structure and the dtypes of `params` (with lookahead, of the slow weights). A leaf that has no
        second value (masked, frozen, of integers) is that of `params`.

    Raises:
        ValueError: if the state holds nothing to evaluate with, or several and `which` does not choose; if the
            parameters are not those of the state.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.guard(gx.average_params(gx.sgd(1.0), 0.5))
        >>> params, state = {"w": jnp.array([2.0])}, tx.init({"w": jnp.array([2.0])})
        >>> for _ in range(2):  # the parameter is 1, then 0
        ...     updates, state = tx.update({"w": jnp.array([1.0])}, state, params)
        ...     params = gx.apply_updates(params, updates)
        >>> round(float(gx.eval_params(state, params)["w"][0]), 4)
        0.3333

    Differs from Optax: one function in the place of `schedule_free_eval_params` and `params.slow`; the former takes the
    state itself only, without anything around it.
    """
    found = _found(state, params)
    if not found:
        fact = "gx.eval_params(state, params): the state holds no second set of weights"
        raise ValueError(
            say(fact, f"looked for {_KNOWN}", "without one of these, evaluate with params themselves")
        )
    if which is not None and which not in found:
        raise ValueError(f"gx.eval_params(which={short(which)}): there is {' and '.join(map(repr, found))}")
    if which is None and not _apart(list(found.values())):
        fact = f"gx.eval_params: {len(found)} sets of weights are in the state, at {' and '.join(map(repr, found))}"
        raise ValueError(say(fact, "say which=, one of these addresses"))
    for node in found.values() if which is None else [found[which]]:
        if isinstance(node, ParamAverageState):
            params = _averaged(node, params)
        else:
            params = _schedule_free(node, params) if isinstance(node, ScheduleFreeState) else node
    return params


def _apart(found: list[Any]) -> bool:
    """Whether no leaf has two second values: there is one set of weights, or each is of a group of its own."""
    if len(found) == 1:
        return True
    taken: list[str] = []
    for node in found:
        if not isinstance(node, ParamAverageState | ScheduleFreeState):
            return False
        rows = view(unboxed(node.average if isinstance(node, ParamAverageState) else node.z))
        taken += [path for path, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x)]
    return len(set(taken)) == len(taken)


def _found(state: Any, params: Any) -> dict[str, Any]:
    """The nodes that know other weights, and the slow weights themselves, by address."""
    found: dict[str, Any] = {}
    for address, node in nodes(state):
        if isinstance(node, ParamAverageState | ScheduleFreeState):
            found[address] = node
        elif isinstance(node, optax.LookaheadState):
            if not isinstance(params, optax.LookaheadParams):
                fact = f"gx.eval_params: the state of lookahead has no weights, and params is {kind(params)}"
                raise ValueError(say(fact, "pass the optax.LookaheadParams pair that is trained"))
            found[address] = jax.tree.map(
                lambda x: jnp.array(x, copy=True) if hasattr(x, "dtype") else x, params.slow
            )
    return found


def _averaged(node: ParamAverageState, params: Any) -> Any:
    def one(p: Any, m: Any) -> Any:
        # A copy: the state, and the average in it, is donated to the next step.
        return jnp.array(m, copy=True) if m.dtype == p.dtype else cast(jnp.asarray(m), p.dtype)

    return beside("gx.eval_params", one, params, node.average, "average")


def _schedule_free(node: ScheduleFreeState, params: Any) -> Any:
    b1 = jnp.asarray(compat.moved(jnp.asarray(unboxed(node.b1)), host=False))

    def one(y: Any, z: Any) -> Any:
        dtype = compute_dtype(y.dtype, z.dtype)
        wide, base = jnp.asarray(y).astype(dtype), jnp.asarray(z).astype(dtype)
        # Under vmap there is a b1 for each of several trainings.
        decay = b1.astype(dtype).reshape(b1.shape + (1,) * (base.ndim - b1.ndim))
        return cast(base + (wide - base) / jnp.broadcast_to(decay, base.shape), y.dtype)

    return beside("gx.eval_params", one, params, node.z, "z")
