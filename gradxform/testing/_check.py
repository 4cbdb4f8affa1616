"""`check_transform`: the laws, one after the other, on anybody's transform."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from .._core.compat import promotion, rank_promotion
from ._example import example
from ._law import NEEDS, Broken, Inapplicable, Law, Unable, find
from ._report import BROKEN, INAPPLICABLE, KEPT, NOT_RUN, Outcome, Report
from ._subject import Subject

#: The theme that is tried also on a transform that takes no step under jit.
FIRST = "starting"


def check_transform(
    tx: Any,
    *,
    params: Any = None,
    laws: Iterable[str | Law] | str | None = None,
    seed: int | None = None,
    examples: int = 10,
    reach: str | None = None,
    extra: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    raises: bool = True,
    mesh: Any = None,
) -> Report:
    """Tries to break every law with one transform: ours, Optax's or a pair of functions written by hand.

    It prints the call that repeats the run. Laws that need what the caller does not have, 8 devices or strict flags,
    are "not run"; laws that say nothing of this transform are "not applicable"; each with its reason.

    Args:
        tx: the transform.
        params: a tree of parameters, for a transform that takes certain trees only (masks by name, matrices). Laws
            that try other trees are then not run.
        laws: names of the laws to try; None means all.
        seed: of the examples that are drawn; None draws one.
        examples: how many trees each law draws that draws any.
        reach: "element", "leaf" or "tree", to claim a reach for a transform that declares none.
        extra: `extra(params, grads)` gives the keyword arguments of a step. Without it, `value`, `grad` and
            `value_fn` are those of `quadratic(params, grads)`.
        raises: whether a broken law raises. With False the report is returned, and is false.
        mesh: a mesh on which the trees of all laws lie, each array cut over every axis of it that divides one of its
            own; None means that they lie on one device.

    Returns:
        A `Report`: printed, it is a table, with code to paste for each broken law.

    Raises:
        LawBroken: an AssertionError with the report as text, if a law is broken and `raises`.

    Example:
        >>> import optax
        >>> from gradxform import testing
        >>> report = testing.check_transform(optax.sgd(0.1), laws=["pure", "shapes_refused"], seed=1, raises=False)
        check_transform(chain, seed=1)
        >>> [outcome.law.name for outcome in report.broken]
        ['shapes_refused']
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        hint = "; a factory is called first: check_transform(factory(...))" if callable(tx) else ""
        raise TypeError(f"check_transform: wanted a transform with init and update, got {tx!r}{hint}")
    if reach not in (None, "element", "leaf", "tree"):
        raise ValueError(f"check_transform(reach={reach!r}): wanted 'element', 'leaf' or 'tree'")
    if not isinstance(examples, int) or examples < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"check_transform(examples={examples!r}): wanted a whole number of at least 1")
    if seed is not None and not isinstance(seed, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"check_transform(seed={seed!r}): wanted a whole number, or None to draw one")
    chosen = find(laws)
    if not chosen:
        raise ValueError("check_transform(laws=[]): no law is named; None means all")
    seed = secrets.randbelow(2**31) if seed is None else seed
    text = label(tx)
    print(f"check_transform({text}, seed={seed})")
    subject = Subject(tx, params, seed=seed, examples=examples, reach=reach, extra=extra, mesh=mesh)
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        stops = _first_step(subject)
        report = Report(text, seed, tuple(_try(law, subject, stops) for law in chosen))
    if raises:
        report.raise_if_broken()
    return report


def label(tx: Any) -> str:
    """What a report calls the transform: its repr if it has one, else the function that made it."""
    if hasattr(tx, "spec"):
        return repr(tx)
    return str(getattr(tx.update, "__qualname__", type(tx).__name__)).split(".<locals>")[0]


def _first_step(subject: Subject) -> str | None:
    """Why the other laws cannot be tried: not even a plain step works."""
    try:
        with promotion("standard"), rank_promotion("allow"):
            subject.first_step()
    except Exception as problem:
        return f"it takes no step under jit: {type(problem).__name__}"
    return None


def _missing(law: Law, subject: Subject) -> str | None:
    """What the law needs and the caller does not have."""
    config: Any = jax.config
    strict = config.jax_numpy_dtype_promotion == "strict"
    have = {
        "8 devices": jax.device_count() >= 8,
        "strict flags": strict and config.jax_numpy_rank_promotion == "raise",
        "own trees": subject.given is None,
        "own mesh": subject.mesh is None,
    }
    return next((NEEDS[need] for need in law.needs if not have[need]), None)


def _try(law: Law, subject: Subject, stops: str | None) -> Outcome:
    missing = stops if stops is not None and law.theme != FIRST else _missing(law, subject)
    if missing is not None:
        return Outcome(law, NOT_RUN, missing)
    subject.law, start = law.name, time.perf_counter()

    def outcome(verdict: str, reason: str = "", example: str = "") -> Outcome:
        return Outcome(law, verdict, reason, example, time.perf_counter() - start)

    try:
        # A transform that promotes silently breaks the law about strict flags, and no other.
        if "strict flags" in law.needs:
            law.function(subject)
        else:
            with promotion("standard"), rank_promotion("allow"):
                law.function(subject)
    except Inapplicable as answer:
        return outcome(INAPPLICABLE, str(answer))
    except Unable as answer:
        return outcome(NOT_RUN, str(answer))
    except Broken as breach:
        asked = () if subject.supply is not None else subject.asked
        return outcome(BROKEN, breach.fact, example(breach.trees, breach.then, asked))
    except Exception as problem:
        first = str(problem).strip().splitlines() or [""]
        return outcome(BROKEN, f"{type(problem).__name__}: {first[0]}"[:300])
    return outcome(KEPT)
