"""A saved state into another transform: `restore_into`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._core import compat, roles
from .._core.errors import check_flag, kind, say
from .._core.numerics import cast
from .._core.porting import ported
from .._core.states import nodes
from .._core.transform import GradientTransformation, as_transform
from .._core.tree import is_absent, is_inexact, matches, view
from .coded import Coded
from .matching import Found, Matcher
from .meaning import meanings
from .reading import Field, Node, NumberedReader, Reader, join, makers_of
from .renaming import Renaming
from .restored import Restored as Restored, RestoredLeaf as RestoredLeaf


def restore_into(
    tx: Any,
    params: Any,
    saved_state: Any,
    *,
    fresh: Any = None,
    saved_by: Any = None,
    renamed: Any = None,
    dry_run: bool = False,
) -> tuple[Any, Restored]:
    """The state of `tx` for these parameters, with what means the same taken over from the state of another run.

    For changing the optimizer of a running job, and for checkpoints from before a guard, a mean, a group or a schedule
    was put in or taken out. On the host, between steps.

    Arrays of parameters are matched by state class, field and the parameter's path, else by role and field name; the
    nesting does not count. Counts and readings come from the state from which the arrays beside them come; the count of
    a schedule from a saved schedule, or from any count if all agree, so that schedules go on. A momentum sum (`trace`)
    is not made of an average (`mu`), nor an average of a sum: they differ in size by 1 / (1 - momentum). Numbers that
    were set (`gx.tunable`) stay with the state classes that they were set for; sums and norms of gradients go on under
    the same loss scale only, and windows with the weights that they were begun with. A leaf whose shape differs starts
    anew, alone; another floating dtype is cast, and what is kept in codes is decoded and encoded as the new state keeps
    it. Nothing is guessed: where two saved states are alike and it cannot be
    told which is meant, both new ones start anew.

    Args:
        tx: the transform that goes on, ours or Optax's.
        params: the parameters with which it goes on.
        saved_state: the state of any transform, also `nnx.Optimizer.opt_state` or `TrainState.opt_state`, or what a
            checkpoint gives without a target: dictionaries and lists in the place of the NamedTuples.
        fresh: patterns of addresses that shall start anew, such as `"rate/*"` for a new schedule.
        saved_by: the transform that made `saved_state`, where its classes do not say it: Adamax and Yogi keep in Adam's
            state class (as in Optax) a second moment that is another. Without it a state of this class is taken for one
            of the method that goes on. Inside of Optax's wrappers, but for its chain, it is not looked into.
        renamed: parameters that were called otherwise, as a dictionary of globs on their saved paths and what takes
            their place: `{"dense_*/kernel": "layers/*/w"}`. Each `*` stands for what the pattern's took. All are
            renamed at once; of patterns that take one path the first decides.
        dry_run: whether only to say what would be done. No array is made; `params` may be shapes.

    Returns:
        `(state, report)`: the structure, shapes and dtypes of `tx.init(params)`, and a `Restored`, which prints as a
        table and has a row for each leaf of either state. Saved arrays are taken over, not copied: do not use
        `saved_state` after a step that donates the new one. With `dry_run` the state is shapes.

    Raises:
        TypeError, ValueError: for something that is no state, such as a transform, a training loop's object, the
            parameters; for a pattern of `fresh` or `renamed` that takes nothing; for two parameters of one new name.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.ones(2)}
        >>> _, saved = gx.adam(0.1).update({"w": jnp.ones(2)}, gx.adam(0.1).init(params), params)
        >>> state, report = gx.restore_into(gx.guard(gx.lion(0.01)), params, saved)
        >>> print(report)
        matched 2, reset 5, dropped 1
        outcome  field    leaves  from  note
        reset    guard/*       5        nothing of its kind was saved
        matched  lion/*        2  0/*
        dropped                1  0/nu  nothing here keeps it
        >>> state.inner_state[0].mu["w"].tolist() == saved[0].mu["w"].tolist()
        True
    """
    transform = as_transform(tx, "gx.restore_into(tx)")
    check_flag("gx.restore_into", "dry_run", dry_run)
    _check(params, saved_state)
    names = Renaming(renamed)
    if not dry_run:
        return _restored(transform, params, saved_state, fresh, saved_by, names)
    found: list[Restored] = []
    saved = ported(saved_state, jax.eval_shape(transform.init, params))  # counts stay numbers

    def run(params: Any) -> Any:
        state, report = _restored(transform, params, saved, fresh, saved_by, names)
        found.append(report)
        return state

    shapes = jax.eval_shape(run, params)
    return shapes, found[0]


def _restored(
    transform: GradientTransformation,
    params: Any,
    saved_state: Any,
    fresh: Any,
    saved_by: Any,
    names: Renaming,
) -> tuple[Any, Restored]:
    fresh_state = transform.init(params)
    coded = Coded(fresh_state, ported(saved_state, fresh_state), names)
    leaves, treedef = jax.tree.flatten(coded.new)
    leaves = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in leaves]
    numbered = treedef.unflatten(range(len(leaves)))
    learnt: set[Any] = set()
    known = makers_of(transform.plan, transform.body.split(numbered, ""))
    rows = view(params)
    if len(set(rows.paths)) < len(rows.paths):
        twice = next(p for p in rows.paths if rows.paths.count(p) > 1)
        raise ValueError(
            say(f"gx.restore_into(params): two leaves are called {twice!r}", "a key with a slash in it?")
        )
    shapes = {p: x for p, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x)}
    new = NumberedReader((), known, shapes, learnt)
    new.forms = leaves
    new.read(numbered)
    made = [] if saved_by is None else _made_by(as_transform(saved_by, "gx.restore_into(saved_by)"), params)
    saved = Reader([c for node in (*new.nodes, *made) for c in node.classes], {}, {}, learnt).read(
        coded.saved
    )
    if made:
        _recognise(saved.nodes, {node.path: node for node in made})
    names.apply(saved.nodes, (fresh_state, saved_state))
    matcher = Matcher(new.nodes, saved.nodes, new.form)
    decided = matcher.run()
    if fresh is not None:
        _start_anew(new.nodes, decided, fresh)
    matcher.settle(decided)
    coded.settle(new.nodes, decided, leaves)
    report = [
        *_new_rows(new, saved, decided, leaves, coded, names),
        *_dropped(new, saved, decided, shapes, names),
    ]
    return coded.closed(treedef.unflatten(leaves)), Restored(tuple(report))


def _check(params: Any, saved: Any) -> None:
    who = "gx.restore_into(tx, params, saved_state)"
    if hasattr(params, "opt_state") and not isinstance(params, tuple):
        raise TypeError(say(f"{who}: params is {kind(params)}, wanted parameters", "pass its params"))
    for name, value in (("params", params), ("saved_state", saved)):
        if isinstance(value, optax.GradientTransformation):
            raise TypeError(say(f"{who}: {name} is a transform", "the transform comes first"))
    if hasattr(saved, "opt_state") and not isinstance(saved, tuple):
        raise TypeError(say(f"{who}: saved_state is {kind(saved)}, wanted a state", "pass its opt_state"))
    if not isinstance(saved, tuple | list | Mapping) and not any(map(_is_number, jax.tree.leaves(saved))):
        raise TypeError(say(f"{who}: saved_state is {kind(saved)}, wanted a state"))
    ours, theirs = view(params).paths, view(saved).paths
    if _has_roles(params) or _is_below(theirs, ours):
        raise TypeError(
            say(f"{who}: params is a state", "the order is the transform, the parameters, the state")
        )
    if ours and ours == theirs and ours != ("",):
        raise ValueError(
            say(
                f"{who}: saved_state has the leaves of the parameters",
                "the state that belongs to them is meant",
            )
        )


def _has_roles(params: Any) -> bool:
    return any(
        role is not roles.OTHER for _, node in nodes(params) for role in roles.roles_of(type(node)).values()
    )


def _is_below(paths: Sequence[str], others: Sequence[str]) -> bool:
    """Whether every path is the end of a longer one among the others, as parameters' paths are in a state."""
    ends = {other[i + 1 :] for other in others for i, letter in enumerate(other) if letter == "/"}
    return bool(paths) and paths != ("",) and ends.issuperset(paths)


def _made_by(tx: GradientTransformation, params: Any) -> list[Node]:
    """The states that a transform makes, without their numbers."""
    made = jax.eval_shape(tx.init, params)
    return Reader((), makers_of(tx.plan, tx.body.split(made, "")), {}, set()).read(made).nodes


def _recognise(saved: Sequence[Node], made: Mapping[str, Node]) -> None:
    """Tells the saved states who has made them."""
    for node in saved:
        known = made.get(node.path)
        if known is None or not set(known.classes) & set(node.classes):
            fact = f"gx.restore_into(saved_by): it makes no {node.name} at {node.path or 'the root'} of saved_state"
            raise ValueError(say(fact, "pass the transform whose update gave this state, or leave it out"))
        node.classes, node.maker = known.classes, known.maker


def _is_number(x: Any) -> bool:
    return hasattr(x, "dtype") or isinstance(x, int | float)


def _start_anew(new: Sequence[Node], decided: Mapping[int, Found], fresh: Any) -> None:
    """Gives up what was found for the addresses that the user wants to start anew."""
    hit = False
    for node in new:
        found = decided[id(node)]
        for name, rest in [(f.name, rest) for f in node.fields.values() for rest in f.leaves]:
            if matches(fresh, join(node.address, name, rest), None):
                hit = True
                found.taken.pop((name, rest), None)
                found.reasons[name, rest] = "asked for by fresh="
    if not hit:
        there = sorted({join(node.address, name) for node in new for name in node.fields})
        raise ValueError(
            say(f"gx.restore_into(fresh={fresh!r}): no address is taken", f"there are {', '.join(there)}")
        )


def _new_rows(
    new: NumberedReader,
    saved: Reader,
    decided: Mapping[int, Found],
    leaves: list[Any],
    coded: Coded,
    names: Renaming,
) -> list[RestoredLeaf]:
    """Puts the saved arrays into `leaves` and says what was done, one row for each leaf of the new state."""
    rows: list[RestoredLeaf] = []
    for node in new.nodes:
        found = decided[id(node)]
        for field in (*node.slots, *node.singles):
            for rest, number in field.leaves.items():
                where = join(node.address, field.name)
                taken = found.taken.get((field.name, rest))
                if taken is None:
                    note = found.reasons.get((field.name, rest), "") + _under_a_count(
                        node, field, rest, found
                    )
                    rows.append(RestoredLeaf("reset", join(where, rest), "", note, where))
                    continue
                origin, name, value = taken
                leaves[number], note = _placed(value, leaves[number])
                note = coded.note(value, number, note)
                if origin.maker is None and node.maker and field.name in node.maker.own:
                    whose = f"if it is of {node.maker.method}; else say saved_by="
                    note = f"{note}, {whose}" if note else whose
                source = join(origin.path, name)
                was = names.was(rest) if field.per_parameter else rest
                if was != rest:
                    note = "; ".join(filter(None, ("renamed", note)))
                rows.append(
                    RestoredLeaf("matched", join(where, rest), join(source, was), note, where, source)
                )
    for rest, number in new.loose.items():
        taken = saved.loose.get(rest)
        same = taken is not None and jnp.shape(taken) == jnp.shape(leaves[number])
        if same:
            leaves[number], note = _placed(taken, leaves[number])
            rows.append(RestoredLeaf("matched", rest, rest, note, rest, rest))
        else:
            rows.append(RestoredLeaf("reset", rest, "", "it belongs to no state with a name", rest))
    return rows


def _under_a_count(node: Node, field: Field, path: str, found: Found) -> str:
    """A warning where the averages of a parameter start at zero under a count that goes on."""
    count = node.count
    going = count is not None and any((count.name, rest) in found.taken for rest in count.leaves)
    corrected = field.role in (roles.MOMENT, roles.SECOND_MOMENT)
    if not (going and corrected) or any((f.name, path) in found.taken for f in node.slots):
        return ""
    return "; it starts at zero under a count that goes on: warm up, or give it a group of its own"


def _placed(value: Any, like: Any) -> tuple[Any, str]:
    """A saved array as the new state wants it, and what was changed."""
    array = jnp.asarray(value)
    note = ""
    if array.dtype != like.dtype:
        before = getattr(value, "dtype", None)
        array = cast(array, like.dtype) if is_inexact(array) else array.astype(like.dtype)
        note = "" if before is None or not is_inexact(like) else f"{before} to {like.dtype}"
    if not compat.is_key(array):
        array = compat.like_weak(compat.strong(array, array.dtype), like)
    known = not isinstance(like, compat.Tracer)  # in a dry run nothing lies anywhere
    if known and getattr(like, "committed", False) and getattr(array, "sharding", None) != like.sharding:
        array = jax.device_put(array, like.sharding)
    return array, note


def _dropped(
    new: Reader, saved: Reader, decided: Mapping[int, Found], params: Mapping[str, Any], names: Renaming
) -> list[RestoredLeaf]:
    """A row for each saved leaf that nobody has taken."""
    used = {
        (id(node), name, rest)
        for found in decided.values()
        for (_, rest), (node, name, _) in found.taken.items()
    }
    fields = {f.name for node in new.nodes for f in node.fields.values()}
    rows: list[RestoredLeaf] = []
    for node in saved.nodes:
        for field in node.fields.values():
            where = join(node.path, field.name)
            for rest in field.leaves:
                if (id(node), field.name, rest) in used:
                    continue
                note = "it has no place here"
                if field.per_parameter and rest not in params:
                    note = "there is no parameter of this path"
                elif field.name not in fields:
                    others = [
                        meanings(field.name, f.name) for n in new.nodes for f in n.slots if rest in f.leaves
                    ]
                    note = next(filter(None, others), "nothing here keeps it")
                was = names.was(rest) if field.per_parameter else rest
                if was != rest:
                    note = f"renamed to {rest}: {note}"
                rows.append(RestoredLeaf("dropped", "", join(where, was), note, "", where))
    rows += [
        RestoredLeaf("dropped", "", rest, "nothing here keeps it", "", rest.rpartition("/")[0])
        for rest in saved.loose
        if rest not in new.loose
    ]
    return rows
