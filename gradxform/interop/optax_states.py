"""A run that was started with Optax's wrappers goes on with ours: `from_optax`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from .._core import roles
from .._core.errors import say
from .._core.states import nodes
from .._core.tree import view
from .manifest import held
from .reading import join
from .restore import Restored, restore_into


def from_optax(state: Any, tx: Any, params: Any, *, made_by: Any = None) -> tuple[Any, Restored]:
    """The state of a run with Optax as the state of `tx`, or an error: no array of a parameter is lost.

    Where an algorithm is the same, so is its state, and nothing has to be moved: `gx.adamw` takes the state of
    `optax.adamw` as it is. This is for what has another form here:

    - `optax.MultiSteps` goes on in `gx.accumulate`: an open window too, its mean as a sum of equal weights;
    - `optax.apply_if_finite` in `gx.guard`: what was skipped in all and in a row;
    - `optax.inject_hyperparams` in `gx.tunable`: the numbers of the names that are tuned, the count of its schedules;
    - `optax.partition`, `multi_transform` and `masked` in `gx.param_groups` and masks: by the parameters' paths.

    In one another, in chains, and around any method, those of `optax.contrib` included. `gx.restore_into` does the
    same and goes further: it also takes over what fits only in part, and starts the rest anew. On the host, between
    steps.

    Args:
        state: the state that the Optax transform has made, or `TrainState.opt_state`. From a checkpoint, restore it
            into its own classes first: a dictionary does not say that its `acc_grads` is a mean.
        tx: the transform that goes on.
        params: the parameters with which it goes on.
        made_by: the transform that made `state`, as `saved_by` of `gx.restore_into`.

    Returns:
        `(state, report)`, as `gx.restore_into`. What the new transform does not keep (hyperparameters that are not
        tuned, the flag of `skip_state`) and what Optax did not have is in the report.

    Raises:
        TypeError, ValueError: as `gx.restore_into`; if an array of a parameter (a moment, an open window's mean) has no
            place in the new state.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gradxform as gx
        >>> from gradxform.interop import from_optax
        >>> params = {"w": jnp.ones(2)}
        >>> saved = optax.MultiSteps(optax.adam(1e-3), 2).init(params)
        >>> saved = saved._replace(mini_step=jnp.int32(1), acc_grads={"w": jnp.full(2, 0.5)})
        >>> state, report = from_optax(saved, gx.accumulate(gx.adam(1e-3), 2), params)
        >>> int(state.mini_step), state.acc_grads["w"].tolist()
        (1, [0.5, 0.5])
        >>> from_optax(saved, gx.accumulate(gx.sgd(0.1), 2), params)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: from_optax(state, tx, params): arrays of parameters would be lost: inner_state/0/mu/w (...
    """
    who = "from_optax(state, tx, params)"
    new, report = restore_into(tx, params, state, saved_by=made_by)
    refuse_losses(report, params, state, who)
    return new, report


def refuse_losses(report: Restored, params: Any, saved: Any, who: str, *remedies: str) -> None:
    """An error if a saved array of a parameter has found no place, unless it is of a window that is closed."""
    paths, closed = view(params).paths, tuple(_closed_windows(saved))
    lost = [row for row in report.dropped if _is_of(row.source, paths) and not row.source.startswith(closed)]
    if lost:
        first = ", ".join(f"{row.source} ({row.note})" for row in lost[:4])
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        fact = f"{who}: arrays of parameters would be lost: {first}{more}"
        other = "gx.restore_into(tx, params, state) takes what fits and says what does not"
        raise ValueError(say(fact, *remedies, other))


def _closed_windows(saved: Any) -> Iterator[str]:
    """Where gradients are accumulated and none is, with a slash behind: nothing is lost with them."""
    for address, node in nodes(held(saved)):
        for name, role in roles.roles_of(type(node)).items():
            if role is roles.ACCUMULATOR and not any(
                bool(jnp.any(x != 0)) for x in jax.tree.leaves(getattr(node, name))
            ):
                yield f"{join(address, name)}/"


def _is_of(path: str, paths: tuple[str, ...]) -> bool:
    """Whether a path of a state ends with that of a parameter."""
    return any(path == one or path.endswith(f"/{one}") for one in paths)
