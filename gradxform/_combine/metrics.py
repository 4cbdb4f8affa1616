"""What a state has to say, for a logger: `metrics`.

Nothing is named here. A field whose role is `Reading` is a metric: a number by the name of its state and field
(`guard/skipped`), a dictionary of numbers by the names that it has (`grad_norm`, `learning_rate`). A `Count` beside it
is one too. A wrapper that annotates its counters so is listed, ours or anybody's.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from .._core.roles import COUNT, READING, roles_of
from .._core.states import nodes, unboxed


def metrics(state: Any) -> dict[str, Any]:
    """The numbers that a state keeps for people, as a flat dictionary for any logger.

    It reads the state and computes nothing: it may stand inside of `jit`, and outside it does not wait for the device.

    Args:
        state: the state of any transform, ours or Optax's; also `nnx.Optimizer.opt_state` or `TrainState.opt_state`.

    Returns:
        Arrays by name, in the order of the names: the readings of `gx.probe` and the hyperparameters of `gx.tunable`
        and `optax.inject_hyperparams` under their own names; the counters of guards, of accumulation and of loss
        scaling, and those of Optax's wrappers, behind the name of their state (`guard/skipped`,
        `multi_steps/mini_step`). The outermost comes first: a second `guard` is `guard_1`, a second `learning_rate`
        stands behind the name of its state. A state without such fields gives an empty dictionary.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.guard(gx.adam(0.1))
        >>> _, state = tx.update(jnp.array(jnp.nan), tx.init(jnp.zeros([])))
        >>> int(gx.metrics(state)["guard/skipped"])
        1
    """
    found: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for _, node in nodes(unboxed(state)):
        readings = list(_readings(node))
        if not readings:
            continue
        kind = state_name(type(node))
        number = seen[kind] = seen.get(kind, -1) + 1
        behind = f"{kind}_{number}" if number else kind
        for name, value, free in readings:
            found[name if free and name not in found else f"{behind}/{name}"] = value
    return dict(sorted(found.items()))


def _readings(node: Any) -> Iterator[tuple[str, Any, bool]]:
    """Name, number, and whether the name is good by itself. Without a reading there is nothing: all states count."""
    known = roles_of(type(node))
    listed = (READING, COUNT) if READING in known.values() else ()
    for field, role in known.items():
        value = getattr(node, field)
        if role not in listed or not jax.tree.leaves(value):
            continue
        if isinstance(value, Mapping):
            yield from ((str(name), entry, True) for name, entry in value.items())
        else:
            yield field, value, False


def state_name(kind: type) -> str:
    """`GuardState` as `guard`, `MultiStepsState` as `multi_steps`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__.removesuffix("State")).lower()
