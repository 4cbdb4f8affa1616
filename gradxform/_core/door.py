"""The door: every update is held against the parameters and the state before anything is computed.

It runs while tracing, so it costs nothing when the step runs. Structures must agree, shapes must be equal (a gradient
is never broadcast against a parameter), an integer leaf is refused by whoever would do arithmetic with it. The first
disagreement is reported with the link, the leaf, what came, what was wanted and what to do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import roles
from .errors import describe_array, kind, leaf, say
from .joined import Joined
from .leaf import Leaf
from .plan import Link, Plan
from .tree import View, as_array, difference, is_absent, is_float0, is_inexact, listed, spread, view

ORDER = "the call is tx.update(updates, state, params)"
REMEDY = "was this state made by tx.init with these parameters?"
WITHOUT = "one that was saved without this wrapper goes through gx.restore_into(tx, params, state)"
FIRST = "call state = tx.init(params) once and carry it from step to step"
EXACT = "are made for the sum with the parameters and with nothing else"
EQUAL = "shapes must be equal, nothing is broadcast"
CARRIED = (
    "integers are carried, never updated: give it the gradient None (or float0), or leave it out with gx.masked or "
    "gx.param_groups"
)


def enter(
    plan: Plan, updates: Any, params: Any, extra: Mapping[str, Any], who: str
) -> tuple[View, list[Any] | None]:
    """Checks the arguments of `update` against each other; returns the updates as rows and the parameters' leaves."""
    missing = {name: links for name, links in plan.needs.items() if _missing(name, params, extra)}
    if missing:
        asked = "; ".join(f"{name} for {', '.join(links)}" for name, links in missing.items())
        call = ", ".join(["updates", "state", "params", *(f"{n}=..." for n in missing if n != "params")])
        raise ValueError(say(f"{who}: missing {asked}", f"call tx.update({call})"))
    got = view(updates)
    places = [as_array(x, path, who, "the updates") for x, path in zip(got.places, got.paths, strict=True)]
    got = View(got.treedef, got.paths, places)
    if params is None:
        return got, None
    wanted = view(params)
    problem = difference(got, wanted, "the updates", "the parameters")
    if problem is not None:
        if isinstance(updates, Joined) != isinstance(params, Joined):
            told = "the parameters", "the updates"
            one, other = told if isinstance(params, Joined) else told[::-1]
            fact = f"{who}: {one} are in buckets, {other} are {kind(updates if other == told[1] else params)}"
            remedy = (
                "parameters: gx.fused.pack(params, tx), once; gradients: those of the loss of params.unpack()"
            )
            raise TypeError(say(fact, remedy))
        if isinstance(params, optax.LookaheadParams):
            fact = f"{who}: the parameters are a LookaheadParams pair, of which only the fast weights have gradients"
            raise ValueError(
                say(fact, "optax.lookahead goes around our transforms, outermost, and not inside of them")
            )
        if _is_state(params):
            fact = f"{who}: the third argument is an optimizer state, wanted the parameters"
            raise ValueError(say(fact, ORDER))
        raise ValueError(say(f"{who}: {problem}", f"{ORDER}, with the gradients of these parameters"))
    ps = [
        x if is_absent(x) or hasattr(x, "dtype") else as_array(x, path, who, "the parameters")
        for x, path in zip(wanted.places, got.paths, strict=True)
    ]
    for path, u, p in zip(got.paths, places, ps, strict=True):
        _check_pair(who, path, u, p)
    return got, ps


def _missing(name: str, params: Any, extra: Mapping[str, Any]) -> bool:
    return params is None if name == "params" else extra.get(name) is None


def _check_pair(who: str, path: str, u: Any, p: Any) -> None:
    if is_absent(u) or is_float0(u):
        return
    if is_absent(p):
        fact = f"{who}: {leaf(path)} has an update {describe_array(u)} and no parameter (it is {kind(p)})"
        raise ValueError(say(fact, "differentiate and update the same tree"))
    if u.shape != p.shape:
        fact = f"{who}: {leaf(path)} has an update of shape {u.shape} for a parameter of shape {p.shape}"
        raise ValueError(say(fact, f"{EQUAL}: was the gradient reduced or transposed on the way?"))
    if jnp.issubdtype(u.dtype, jnp.complexfloating) and not jnp.issubdtype(p.dtype, jnp.complexfloating):
        fact = f"{who}: {leaf(path)} has an update {describe_array(u)} for a parameter {describe_array(p)}"
        raise TypeError(say(fact, "a real parameter has a real gradient: was its real part meant?"))


def check_leaf(link: Link, path: str, u: Any, p: Any) -> None:
    """Refuses a leaf that a rule cannot do arithmetic with."""
    if link.rule is None or link.rule.any_dtype or is_float0(u):
        return
    if not is_inexact(u):
        raise TypeError(say(f"{link.address}: {leaf(path)} has an update {describe_array(u)}", CARRIED))
    if not is_absent(p) and not is_inexact(p):
        fact = f"{link.address}: {leaf(path)} is a parameter {describe_array(p)} with an update {describe_array(u)}"
        raise TypeError(say(fact, CARRIED))


def check_rates(
    who: str, links: Sequence[Link], chosen: Sequence[Sequence[bool]], paths: Sequence[str]
) -> None:
    """Refuses a leaf to which two links apply a learning rate, each of them turning it downhill."""
    turning = [
        i for i, link in enumerate(links) if link.rule is not None and link.rule.rate and link.rule.flips
    ]
    for row, path in enumerate(paths):
        found = [links[i].address for i in turning if chosen[i][row]]
        if len(found) > 1:
            raise ValueError(
                say(
                    f"{who}: the learning rate is applied {len(found)} times to {leaf(path)}, by {' and '.join(found)}",
                    "rates multiply, and two turns downhill are one uphill: keep one",
                )
            )


def check_count(address: str, count: Any) -> None:
    """Refuses a counter of steps that is not one integer."""
    if isinstance(count, int) and not isinstance(count, bool):
        return
    dtype, shape = getattr(count, "dtype", None), getattr(count, "shape", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        fact = f"{address}: the count in the state is {describe_array(count)}, wanted int32[]"
        raise ValueError(say(fact, "is it a state of one step, not a stack of states?" if shape else REMEDY))


def check_result(
    link: Link, known: Leaf, before: Any, u: Any, new: Mapping[str, Any], slots: Mapping[str, Any]
) -> None:
    """Holds what a rule returned for one leaf against what it was given; an author's mistake."""
    if u is None or np.shape(u) != np.shape(before):
        fact = f"the rule gave {describe_array(u)} for {leaf(known.path)}, wanted shape {np.shape(before)}"
        raise ValueError(f"{link.address}: {fact}")
    unknown = [name for name in new if name not in slots]
    if unknown:
        fields = listed(list(slots)) or "none"
        raise ValueError(
            f"{link.address}: the rule renews {listed(unknown)}; the fields of its state are {fields}"
        )


def check_exact(link: Link, path: str, exact: str) -> None:
    """Refuses a link that changes updates which another one, `exact`, has made for one sum."""
    if exact:
        fact = f"{link.address}: changes the update of {leaf(path)} behind {exact}, whose updates {EXACT}"
        raise ValueError(say(fact, "put it inside"))


def check_state_class(rule_state: type, state: Any, address: str, remedy: str = "") -> Any:
    """The link's state if its class is right; an empty one may come back from a checkpoint as None, `()` or `{}`."""
    fields: Sequence[str] = getattr(rule_state, "_fields", ())
    if isinstance(state, rule_state):
        return state
    if not fields and (state is None or (isinstance(state, tuple | dict) and len(state) == 0)):
        return state
    wanted = f"the state {rule_state.__name__}({', '.join(fields)})" if fields else "an empty state"
    theirs: Sequence[str] = getattr(state, "_fields", fields)
    counts = ("count" in fields) != ("count" in theirs) and {*fields, *theirs} <= {"count", "inner", "trace"}
    hint = "or one has a schedule where the other has a number" if counts else ""
    raise ValueError(
        wrong_state(f"{address}: wanted {wanted}", state, hint or (remedy if _is_state(state) else ""))
    )


def wrong_state(wanted: str, state: Any, hint: str = "") -> str:
    """The message for a state that is not what was wanted."""
    got, remedy = _state_text(state)
    return say(f"{wanted}, got {got}", remedy, hint)


def _is_state(x: Any) -> bool:
    if isinstance(x, optax.EmptyState) or (isinstance(x, tuple) and hasattr(x, "_fields")):
        return True
    return type(x) is tuple and len(x) > 0 and all(_is_state(item) for item in x)


def _state_text(state: Any) -> tuple[str, str]:
    """What came in the place of a state, and what to do."""
    if state is None:
        return "None", FIRST
    if isinstance(state, optax.GradientTransformation) or callable(state):
        return ("a transform" if isinstance(state, tuple) else kind(state)), FIRST
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        fields = ", ".join(getattr(state, "_fields", ()))
        return f"{type(state).__name__}({fields})", "it belongs to another optimizer or another link"
    if isinstance(state, tuple) and _is_state(state):
        return f"a tuple of {len(state)} states, as a chain keeps them", REMEDY
    if isinstance(state, tuple) and len(state) == 0:
        return "an empty tuple", FIRST
    if _is_returned(state):
        return "a pair (updates, state)", "write updates, state = tx.update(grads, state, params)"
    if isinstance(state, Mapping):
        keys = list(map(str, state))
        written = {"count", "mu", "nu", "trace", "inner_state"}
        if written & set(keys) or all(key.isdigit() for key in keys):
            return f"a dict with {listed(keys)}", "restore a checkpoint into the structure of tx.init(params)"
        if any(map(_is_state, state.values())):
            return f"a dict of states with the names {listed(keys)}", "the state was made by another chain"
        return f"a dict with {listed(keys)}, which looks like parameters", ORDER
    return describe_array(state), ORDER


def _is_returned(x: Any) -> bool:
    """Whether this is what `update` returns: the updates and a state."""
    if type(x) is not tuple or len(x) != 2 or not _is_state(x[1]) or not jax.tree.leaves(x[0]):
        return False  # an empty state may come back from a checkpoint as None, `()` or `{}`
    named = isinstance(x[0], Mapping) and len(x[0]) > 0 and all(map(_is_state, x[0].values()))
    return not named and not _is_state(x[0])


def check_parts(state: Any, names: Sequence[str], address: str, foreign: bool = False) -> Sequence[Any]:
    """The parts of a chain's state, one a link. A foreign first link may keep anything, even a pair."""
    wanted = f"{address or 'chain'}: wanted a tuple of {len(names)} states ({', '.join(names)})"
    if (
        not isinstance(state, tuple | list)
        or hasattr(state, "_fields")
        or (not foreign and _is_returned(state))
    ):
        raise ValueError(wrong_state(wanted, state))
    if len(state) == 0 and len(names) > 0:
        raise ValueError(wrong_state(wanted, ()))
    if len(state) != len(names):
        came = f"{len(state)} ({', '.join(type(x).__name__ for x in state)})"
        raise ValueError(say(f"{wanted}, got {came}", "the state was made by another chain"))
    return state


def check_slot(
    link: Link, name: str, tree: Any, rows: View, chosen: Sequence[bool], plain: bool
) -> list[Any]:
    """One parameter-shaped field of a link's state as rows, held against the updates."""
    try:
        stored = spread(tree, rows)
        forms = [s if is_absent(s) else link.executor.form(s) for s in stored]
        if plain and not jax.tree_util.all_leaves([s for s in forms if not is_absent(s)]):
            raise ValueError("a branch in the place of an array")
    except (ValueError, TypeError):
        problem = difference(rows, view(tree), "the updates", f"the state's {name}") or "they differ"
        raise ValueError(say(f"{link.address}: {problem}", REMEDY)) from None
    for path, u, x, s, take in zip(rows.paths, rows.places, stored, forms, chosen, strict=True):
        if not take or is_float0(u) or (s is None and not is_absent(x)):
            continue
        if is_absent(s):
            fact = (
                f"{link.address}: {leaf(path)} has an update {describe_array(u)} and no {name} in the state"
            )
            raise ValueError(say(fact, "it was masked or absent when init was called"))
        if plain:
            _check_stored(link, name, path, u, s)
    return stored


def _check_stored(link: Link, name: str, path: str, u: Any, s: Any) -> None:
    s = as_array(s, path, link.address, f"the state's {name}")
    if s.shape != u.shape:
        fact = f"{link.address}: {leaf(path)} has an update of shape {u.shape}"
        raise ValueError(say(f"{fact}, its {name} in the state has shape {s.shape}", f"{EQUAL}: {REMEDY}"))
    kept = link.rule is None or link.rule.roles[name] not in (roles.MOMENT, roles.SECOND_MOMENT)
    if is_inexact(u) and not is_inexact(s) and not kept:
        fact = f"{link.address}: {leaf(path)} has an update {describe_array(u)}, its {name} is {describe_array(s)}"
        raise TypeError(say(fact, "the parameter was an integer when init was called", CARRIED))
