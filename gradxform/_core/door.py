"""The door: every update is held against the parameters and the state before anything is computed.

It runs while tracing, so it costs nothing when the step runs. Structures must agree, shapes must be equal (a gradient
is never broadcast against a parameter), an integer gradient is refused by whoever would do arithmetic with it. The first
disagreement is reported with the link, the leaf, what came, what was wanted and what to do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .errors import describe_array, kind
from .plan import Link, Plan
from .tree import View, difference, is_absent, is_float0, is_inexact, listed, view

ORDER = "the call is tx.update(updates, state, params)"
REMEDY = "was this state made by tx.init with these parameters?"


def array(x: Any, path: str) -> Any:
    """A place of a tree as something with shape and dtype."""
    if is_absent(x) or (hasattr(x, "shape") and hasattr(x, "dtype")):
        return x
    if isinstance(x, bool | int | float | complex | np.generic):
        return jnp.asarray(x)
    raise TypeError(f"update: the leaf {path!r} of the updates is a {type(x).__name__}, wanted an array")


def enter(plan: Plan, updates: Any, params: Any, extra: Mapping[str, Any]) -> tuple[View, list[Any] | None]:
    """Checks the arguments of `update` against each other; returns the updates as rows and the parameters' leaves."""
    missing = {name: links for name, links in plan.needs.items() if _missing(name, params, extra)}
    if missing:
        asked = "; ".join(f"{name} for {', '.join(links)}" for name, links in missing.items())
        call = ", ".join(["updates", "state", "params", *(f"{n}=..." for n in missing if n != "params")])
        raise ValueError(f"update: missing {asked}; call tx.update({call})")
    got = view(updates)
    places = [array(x, path) for x, path in zip(got.places, got.paths, strict=True)]
    got = View(got.treedef, got.paths, places)
    if params is None:
        return got, None
    wanted = view(params)
    problem = difference(got, wanted, "the updates", "the parameters")
    if problem is not None:
        if _is_state(params):
            raise ValueError(f"update: the third argument is an optimizer state, not parameters; {ORDER}")
        raise ValueError(
            f"update: the updates and the parameters differ: {problem}; {ORDER}, with grads of these params"
        )
    ps = [
        x if is_absent(x) or hasattr(x, "dtype") else array(x, path)
        for x, path in zip(wanted.places, got.paths, strict=True)
    ]
    for path, u, p in zip(got.paths, places, ps, strict=True):
        _check_pair(path, u, p)
    return got, ps


def _missing(name: str, params: Any, extra: Mapping[str, Any]) -> bool:
    return params is None if name == "params" else extra.get(name) is None


def _check_pair(path: str, u: Any, p: Any) -> None:
    if is_absent(u) or is_float0(u):
        return
    if is_absent(p):
        raise ValueError(
            f"update: the leaf {path!r} has an update {describe_array(u)} but no parameter (it is {kind(p)})"
        )
    if u.shape != p.shape:
        raise ValueError(
            f"update: the leaf {path!r} has an update of shape {u.shape} for a parameter of shape {p.shape}; "
            "shapes must be equal, nothing is broadcast: was the gradient reduced or transposed on the way?"
        )


def check_leaf(link: Link, path: str, u: Any) -> None:
    """Refuses a leaf that a rule cannot do arithmetic with."""
    if link.rule is None or link.rule.any_dtype or is_float0(u) or is_inexact(u):
        return
    raise TypeError(
        f"{link.address}: the leaf {path!r} has an update of dtype {u.dtype}, and integers are carried, never updated; "
        "give it the gradient None (or float0), or leave it out with gx.masked or gx.param_groups"
    )


def check_state_class(rule_state: type, state: Any, address: str) -> Any:
    """The link's state if it is of the right class; an empty one may come back from a checkpoint as None or `()`."""
    fields: Sequence[str] = getattr(rule_state, "_fields", ())
    if isinstance(state, rule_state):
        return state
    if not fields and (state is None or (isinstance(state, tuple) and len(state) == 0)):
        return state
    wanted = f"{rule_state.__name__}({', '.join(fields)})" if fields else "an empty state"
    raise ValueError(f"{address}: wanted the state {wanted}, got {_state_text(state)}")


def _is_state(x: Any) -> bool:
    if isinstance(x, optax.EmptyState) or (isinstance(x, tuple) and hasattr(x, "_fields")):
        return True
    return type(x) is tuple and len(x) > 0 and all(_is_state(item) for item in x)


def _state_text(state: Any) -> str:
    if state is None:
        return "None; call state = tx.init(params) first and carry it from step to step"
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return f"{type(state).__name__}({', '.join(state._fields)}); it belongs to another optimizer or another link"
    if isinstance(state, tuple) and _is_state(state):
        return f"a tuple of {len(state)} states, as a chain keeps them; {REMEDY}"
    if isinstance(state, Mapping) and all(map(hasattr, jax.tree.leaves(state), ["shape"] * 10**6)):
        return f"a dict with {listed(list(map(str, state)))}, which looks like parameters; {ORDER}"
    return f"{describe_array(state)}; {ORDER}"


def check_parts(state: Any, names: Sequence[str], address: str) -> Sequence[Any]:
    """The parts of a chain's state, one a link."""
    who = address or "chain"
    if not isinstance(state, tuple | list) or hasattr(state, "_fields"):
        raise ValueError(
            f"{who}: wanted a tuple of {len(names)} states ({', '.join(names)}), got {_state_text(state)}"
        )
    if len(state) != len(names):
        raise ValueError(
            f"{who}: wanted {len(names)} states ({', '.join(names)}), got {len(state)}; the state was made by another chain"
        )
    return state


def check_slot(
    link: Link, name: str, tree: Any, rows: View, chosen: Sequence[bool], plain: bool
) -> list[Any]:
    """One parameter-shaped field of a link's state as rows, held against the updates."""
    try:
        stored = rows.treedef.flatten_up_to(tree)
    except (ValueError, TypeError):
        problem = difference(rows, view(tree), "the updates", f"the state's {name}") or "they differ"
        raise ValueError(f"{link.address}: the updates do not fit the state: {problem}; {REMEDY}") from None
    for path, u, s, take in zip(rows.paths, rows.places, stored, chosen, strict=True):
        if not take or is_float0(u):
            continue
        if is_absent(s):
            raise ValueError(
                f"{link.address}: the leaf {path!r} has an update {describe_array(u)} but no {name} in the state; "
                "it was masked or absent when init was called"
            )
        if plain and getattr(s, "shape", u.shape) != u.shape:
            raise ValueError(
                f"{link.address}: the leaf {path!r} has an update of shape {u.shape}, its {name} in the state has shape "
                f"{s.shape}; shapes must be equal, nothing is broadcast: {REMEDY}"
            )
    return stored
