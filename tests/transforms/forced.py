"""Teacher forcing: at every step the reference is handed the state and the parameters that the package has come to.

So the error of one step is seen by itself, and a difference that grows along a trajectory is no excuse and no alarm.
Leaves of rank 0 to 4, gradients over eight decades, one row almost zero and one entry exactly zero for three steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from tests import reference

STEPS = 200
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "b": (7,), "s": (), "c": (2, 3, 2), "k": (2, 2, 3, 2)}
SCALES = {"w": 1.0, "b": 30.0, "s": 1e-2, "c": 1e-4, "k": 1.0}


@dataclass(frozen=True)
class Both:
    """One schedule by name and arguments: the package's, and the reference's."""

    name: str
    arguments: dict[str, Any] = field(hash=False)

    @property
    def ours(self) -> Any:
        return getattr(gx, self.name)(**self.arguments)

    @property
    def theirs(self) -> Any:
        for module in (reference.schedules, reference.warmups):
            if hasattr(module, self.name):
                return getattr(module, self.name)(**self.arguments)
        raise AttributeError(self.name)


@dataclass(frozen=True)
class Given(Both):
    """A schedule whose float32 value is what the reference takes: 1 - b cannot know more of b than it was given."""

    @property
    def theirs(self) -> Any:
        values = np.asarray(jax.jit(jax.vmap(self.ours))(jnp.arange(STEPS)), np.float64)
        return lambda count: float(values[count])


def ours(value: Any) -> Any:
    return value.ours if isinstance(value, Both) else value


def theirs(value: Any) -> Any:
    return value.theirs if isinstance(value, Both) else value


def problem(steps: int = STEPS, dtype: Any = np.float32) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(20250301)
    params = {k: rng.normal(size=shape).astype(dtype) for k, shape in SHAPES.items()}
    grads = []
    for i in range(steps):
        tree = {k: SCALES[k] * np.exp(rng.normal()) * (rng.normal(size=s) + 0.5) for k, s in SHAPES.items()}
        tree["w"][3] *= 1e-8
        if i < 3:
            tree["b"][0] = 0.0
        grads.append({k: np.asarray(x, dtype) for k, x in tree.items()})
    return params, grads


def as_state(state: Any) -> Any:
    """A state for the references: the count of a schedule stands beside the fields of the link that it belongs to."""
    got = reference.as_reference(state)
    return [_merged(link) for link in got] if isinstance(got, list) else _merged(got)


def _merged(link: Any) -> Any:
    if isinstance(link, dict) and set(link) == {"count", "inner"}:
        return {"count": link["count"], **link["inner"]}
    if isinstance(link, dict) and set(link) == {"inner_states"}:
        return {"inner_states": {label: _merged(state) for label, state in link["inner_states"].items()}}
    return [_merged(item) for item in link] if isinstance(link, list) else link


def relative(got: Any, want: Any, least: float = 0.0) -> float:
    """The largest difference over the largest number of an array; 0 if both are zero."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    scale, difference = max(np.max(np.abs(want), initial=0), least), np.max(np.abs(got - want), initial=0)
    return 0.0 if difference == 0 else float(difference / scale) if scale else float("inf")


@dataclass
class Errors:
    """The worst relative error of a step's update and of the state that it leaves, by leaf."""

    update: dict[str, float] = field(default_factory=dict[str, float])
    state: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def worst(self) -> float:
        return max(self.update.values())

    @property
    def worst_state(self) -> float:
        return max(self.state.values(), default=0.0)


def forced(
    tx: Any, method: Any, steps: int = STEPS, dtype: Any = np.float32, compiled: bool = True
) -> Errors:
    """Runs `tx` for some steps, compiled or operation by operation, and asks `method` (a reference) at each of them.

    A single number may cancel to almost nothing in one step: a leaf of one number is measured against a tenth of the
    largest that it has been, if that is more than what it is.
    """
    params, grads = problem(steps, dtype)
    step: Callable[..., Any] = jax.jit(tx.update) if compiled else tx.update
    state, errors, largest = tx.init(params), Errors(), {}
    for g in grads:
        old = as_state(state)
        updates, state = step(g, state, params)
        new, wanted = method.update(reference.as_reference(g), old, reference.as_reference(params))
        assert all(u.dtype == dtype for u in updates.values())
        reached = flat_state(as_state(state))
        for found, got, want in (
            (errors.update, updates, reference.flatten(wanted)),
            (errors.state, reached, flat_state(new)),
        ):
            for path, value in want.items():
                value = np.asarray(value)
                key = (id(found), path)
                largest[key] = max(largest.get(key, 0.0), float(np.max(np.abs(value))))
                least = 0.1 * largest[key] if value.size == 1 else 0.0
                found[path] = max(found.get(path, 0.0), relative(got[path], value, least))
        params = {k: p + np.asarray(updates[k]) for k, p in params.items()}
    return errors


def flat_state(state: Any) -> dict[str, Any]:
    """The arrays of a reference state by address; masked-out and scalar places are left out."""
    if isinstance(state, list):
        return {f"{i}/{k}": x for i, link in enumerate(state) for k, x in flat_state(link).items()}
    if isinstance(state, dict):
        return {f"{name}/{k}".rstrip("/"): x for name in state for k, x in flat_state(state[name]).items()}
    return {"": state} if isinstance(state, np.ndarray) or np.isscalar(state) else {}
