"""The engine: one step of any body, segment by segment, leaf by leaf.

For every segment: add up the partials of its reductions, compute its scalars once, then take each leaf through all its
stages. The scalars are folded into the leaves' arithmetic, so a clip in front of Adam costs one read of the gradients
and one multiplication inside a loop that runs anyway; no clipped copy of the gradients ever exists.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from . import automatic, door, observe, roles
from .leaf import PARTIAL, STACKED, Leaf
from .numerics import compute_dtype, real_dtype, widen
from .plan import Body, Link, Plan, Segment, kept, selected
from .reduce import reduce_leaves
from .rule import Rule, Running, Stage, stack_depth
from .scalars import at_dtype
from .shards import Cut, cut_if_said, cut_of
from .tree import View, gather, is_absent, is_inexact, spread
from .working import leave, out_dtype, promotion, work_dtype, workable


def run(
    body: Body,
    updates: Any,
    state: Any,
    params: Any,
    extra: Mapping[str, Any],
    who: str = "",
    plan: Plan | None = None,
) -> tuple[Any, Any]:
    """`update` of a transform whose body is `body`; `who` is the factory, for messages.

    A wrapper that runs `body` inside of its own step passes the plan that was lowered where it stands.
    """
    plan = plan or body.plan
    parts = body.split(state, who)
    rows, ps = door.enter(plan, updates, params, extra, who or "update")
    step = _Step(plan, rows, ps, updates if params is None else params, parts, extra)
    door.check_rates(who or "update", plan.links, step.chosen, rows.paths)
    for segment in plan.segments:
        step.segment(segment)
    for watch in step.watches:
        watch.close([running and running.k for running in step.running])
    return step.updates(), body.join(state, step.parts())


class _Step:
    """One call of `update`: the leaves on their way and the states of all links."""

    def __init__(
        self,
        plan: Plan,
        rows: View,
        ps: list[Any] | None,
        tree: Any,
        parts: list[Any],
        extra: Mapping[str, Any],
    ) -> None:
        self.plan, self.rows, self.extra = plan, rows, extra
        self.us = list(rows.places)
        self.ps: list[Any] = [None] * len(self.us) if ps is None else ps
        self.has_params = ps is not None
        self.touched = [False] * len(self.us)
        self.out = [out_dtype(u, p) for u, p in zip(self.us, self.ps, strict=True)]
        #: The link whose updates of this leaf are made for one sum, so that none behind it may change them.
        self.exact = [""] * len(self.us)
        self.dtypes = [work_dtype(u, p) for u, p in zip(self.us, self.ps, strict=True)]
        widest = compute_dtype(*(dtype for dtype in self.dtypes if dtype is not None))
        self.dtype = real_dtype(widest)
        cache: dict[Any, Any] = {}
        self.tree, self.kinds = tree, self.us[:] if ps is None else ps
        self.chosen = [selected(link, tree, rows.paths, self.kinds, cache) for link in plan.links]
        self.states = parts
        #: For executors that work one leaf after the other: what the next one waits for.
        self.last: Any = None
        self.running = [self._start(i, link) for i, link in enumerate(plan.links)]
        slots = [running.slots for running in self.running if running is not None]
        #: Whether types say how arrays are cut, so that those of one leaf must be brought together.
        self.explicit = automatic.explicit_mesh(self.us, self.ps, slots) is not None
        self.watches = observe.watches(plan, rows, self.dtype)

    def _start(self, number: int, link: Link) -> Running | None:
        if link.rule is None:
            return None
        chosen = self.chosen[number]
        for i, path in enumerate(self.rows.paths):
            if chosen[i] and not is_absent(self.us[i]):
                door.check_leaf(link, path, self.us[i], self.ps[i])
        chosen = [c and workable(u, link.rule) for c, u in zip(chosen, self.us, strict=True)]
        self.chosen[number] = chosen
        state = self.states[number]
        inner = state.inner if link.rule.scheduled else state
        slots = {
            name: door.check_slot(
                link,
                name,
                getattr(inner, name),
                self.rows,
                chosen,
                name not in link.rule.init,
            )
            for name in link.rule.slots
        }
        running = Running(link.rule, state, slots)
        if link.rule.scheduled or link.rule.count_field is not None:
            door.check_count(link.address, running.count)
        running.begin(self.dtype)
        return running

    # ---------------------------------------------------------------------------------------- one segment

    def segment(self, segment: Segment) -> None:
        scaled: dict[tuple[int, Any], SimpleNamespace] = {}
        for number, i in segment.stages:
            running = self.running[number]
            stage = running.rule.stages[i] if running else None
            if running is None or stage is None:
                continue
            sums = self._reduce(number, stage, running) if stage.reduce is not None else None
            running.scalars(stage, sums, self.extra, self.dtype)
        for row in range(len(self.us)):
            entries = [
                (n, i)
                for n, i in segment.stages
                if self.chosen[n][row] and self._stage(n, i).step is not None
            ]
            if entries:
                self._leaf(row, entries, scaled)
        for number in segment.wholes:
            self._whole(number)

    def _stage(self, number: int, i: int) -> Stage:
        rule = self.plan.links[number].rule
        return Stage() if rule is None else rule.stages[i]

    def _value(self, row: int) -> Any:
        """A leaf's update in its compute dtype."""
        return widen(
            jnp.asarray(self.us[row]), self.dtypes[row], None if self.touched[row] else self.out[row]
        )

    def _param(self, row: int) -> Any:
        p = self.ps[row]
        return None if is_absent(p) or not is_inexact(p) else widen(jnp.asarray(p), self.dtypes[row])

    def _slots(self, number: int, row: int, stored: Mapping[str, Any] | None = None) -> SimpleNamespace:
        """The slots of a leaf as arrays; of `stored`, if they are not to be those of the state."""
        link, running = self.plan.links[number], self.running[number]
        if running is None or not running.slots:
            return SimpleNamespace()
        stored = self._stored(running, row) if stored is None else stored
        dtypes: dict[str, Any] = {}
        for name in stored:
            squares = running.rule.roles[name] is roles.SECOND_MOMENT
            dtypes[name] = real_dtype(self.dtypes[row]) if squares else self.dtypes[row]
        return SimpleNamespace(**link.executor.decode(stored, dtypes))

    def _stored(self, running: Running, row: int) -> dict[str, Any]:
        return {name: rows[row] for name, rows in running.slots.items()}

    def _together(self, number: int, row: int, u: Any, s: Any, p: Any) -> tuple[Any, Any, Any]:
        """Update, slots and parameter of a leaf, cut alike on explicit axes: where the state lies, if it has any.

        Slots of another shape than the parameter's are cut as `init` makes them, for the rule works as that did.
        """
        running = self.running[number]
        if not self.explicit or running is None:
            return u, s, p
        link, forms = self.plan.links[number], self._forms(number, row)
        like = next((x for x in forms.values() if x.shape == u.shape), p if forms and p is not None else u)
        made: dict[str, Any] = {}
        for name, x in vars(s).items():
            fresh = like if x.shape == u.shape else self._fresh(link, running.rule, name, row, like)
            made[name] = automatic.laid(x, fresh)
        return automatic.laid(u, like), SimpleNamespace(**made), automatic.laid(p, like)

    def _fresh(self, link: Link, rule: Rule, name: str, row: int, like: Any) -> Any:
        """The shape of a slot as `init` makes it of a parameter that is cut like `like`."""
        path, p = self.rows.paths[row], self.us[row] if is_absent(self.ps[row]) else self.ps[row]
        depth = stack_depth(link.stacked, path, p)
        return jax.eval_shape(lambda p: rule.init_slot(name, p, path, depth), automatic.shape_of(p, like))

    def _forms(self, number: int, row: int) -> dict[str, Any]:
        running, link = self.running[number], self.plan.links[number]
        return (
            {}
            if running is None
            else {n: link.executor.form(x) for n, x in self._stored(running, row).items()}
        )

    def _info(self, number: int, row: int) -> tuple[Leaf, int]:
        """What a rule may know of a leaf, and the number of its leading stack axes."""
        link, u, path = self.plan.links[number], self.us[row], self.rows.paths[row]
        if link.reach == "element":
            cut = cut_if_said(path, u, link.axis_names, link.address) or Cut()
            return Leaf(path, u.shape, self.out[row], *cut), 0
        depth = stack_depth(link.stacked, path, u)
        cut = cut_of(path, u, link.axis_names, link.address)
        why = STACKED if depth and not cut.known else ""
        return Leaf(path, u.shape[depth:], self.out[row], *cut.below(depth), why), depth

    def _part(self, number: int, row: int) -> Leaf | None:
        """Which part of a leaf is here, if that has been said."""
        link, u, path = self.plan.links[number], self.us[row], self.rows.paths[row]
        cut = cut_if_said(path, u, link.axis_names, link.address)
        return None if cut is None else Leaf(path, u.shape, self.out[row], *cut)

    def _reduce(self, number: int, stage: Stage, running: Running) -> Any:
        partials: list[Any] = []
        axes: list[tuple[str, ...]] = []
        reduce: Any = stage.reduce
        for row, take in enumerate(self.chosen[number]):
            if not take:
                continue
            link, path, dtype = self.plan.links[number], self.rows.paths[row], self.dtypes[row]
            cut = cut_of(path, self.us[row], link.axis_names, link.address)
            leaf = Leaf(path, self.us[row].shape, self.out[row], *cut, PARTIAL)
            k = _at(running.k, real_dtype(dtype))
            u, s, p = self._together(
                number, row, self._value(row), self._slots(number, row), self._param(row)
            )
            with promotion(dtype):
                partial = reduce(u, s, p, k, leaf)
                partials.append(jax.tree.map(lambda x: jnp.asarray(x).astype(self.dtype), partial))
            axes.append(cut.axes)
        if not partials:  # nothing to add up: ask the rule for the shape of its partials
            empty = jnp.zeros((0,), self.dtype)
            slots = SimpleNamespace(**dict.fromkeys(running.slots, empty))
            leaf = Leaf("", (0,), self.dtype)
            partial = reduce(empty, slots, empty, _at(running.k, self.dtype), leaf)
            return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=self.dtype), partial)
        return reduce_leaves(partials, axes, stage.combine)

    def _leaf(
        self, row: int, entries: list[tuple[int, int]], scaled: dict[tuple[int, Any], SimpleNamespace]
    ) -> None:
        """Takes one leaf through all its stages of this segment."""
        p, dtype = self._param(row), self.dtypes[row]
        rules = [self.plan.links[number].rule for number, _ in entries]
        # What is only passed on is not bounded for squaring either.
        u = jnp.asarray(self.us[row]) if all(rule and rule.any_dtype for rule in rules) else self._value(row)
        real = real_dtype(dtype)
        for number, i in entries:
            running = self.running[number]
            if running is None:
                continue
            k = scaled.get((number, real))
            if k is None:
                k = scaled[number, real] = _at(running.k, real)
            u = self._stage_of(row, number, i, running, u, p, k)
        self.us[row], self.touched[row] = u, True

    def _stage_of(self, row: int, number: int, i: int, running: Running, u: Any, p: Any, k: Any) -> Any:
        """One stage of one link on one leaf: its update, and its slots written."""
        link, dtype = self.plan.links[number], self.dtypes[row]
        leaf, depth = self._info(number, row)
        u, _, p = self._together(number, row, u, SimpleNamespace(), p)
        part = self._part(number, row)

        def work(u: Any, stored: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
            _, s, _ = self._together(number, row, u, self._slots(number, row, stored), p)
            before = u
            try:
                with promotion(dtype):
                    u, new = _call(running.rule.stages[i].step, u, s, p, k, leaf, depth)
            except Exception as problem:
                problem.add_note(
                    f"while {link.address} worked on the leaf {leaf.path!r} ({dtype.name}{list(u.shape)})"
                )
                raise
            door.check_result(link, leaf.path, self.us[row], u, new, running.slots)
            if u is not before:
                door.check_exact(link, leaf.path, self.exact[row])
            for watch in self.watches:
                watch.stage(number, i, row, before, u, s)
            if self.explicit:
                forms = self._forms(number, row)
                new = {name: automatic.laid(x, forms[name]) for name, x in new.items()}
            return u, link.executor.encode(new, stored, part) if new else {}

        stored = self._stored(running, row)
        if self.watches:  # what they see cannot leave an enclosure
            u, made = work(u, stored)
        else:
            u, made, self.last = link.executor.enclosed(work, u, stored, self.last)
        for name, value in made.items():
            running.slots[name][row] = value
        return u

    def _whole(self, number: int) -> None:
        """Hands the whole tree to a transform that is not made of rules."""
        link, chosen = self.plan.links[number], self.chosen[number]
        if link.whole is None:
            return
        masked = bool(link.selectors)
        # A wrapper that works in float32 for any parameter is given what the links before it have made in float32.
        # Somebody's functions expect the parameter's dtype; ours take what is more exact.
        given = [self.touched[i] and link.foreign for i in range(len(self.us))]
        now = [leave(u, self.out[i]) if given[i] else u for i, u in enumerate(self.us)]
        unflatten = self.rows.treedef.unflatten
        us = self._hide(link, unflatten(now))
        params = self._hide(link, unflatten(self.ps)) if self.has_params else None
        extra = self._hidden_extra(link) if link.mask_extra else self.extra
        stored = self.states[number]
        old = link.executor.opened(stored) if link.foreign else stored
        try:
            got, fresh = link.whole.update(us, old, params, extra)
        except Exception as problem:
            problem.add_note(f"while the link {link.address} ran")
            raise
        self.states[number] = link.executor.closed(fresh, stored) if link.foreign else fresh
        new = spread(got, self.rows)
        for watch in self.watches:
            watch.whole(number, now, new, chosen, old)
        for row, value in enumerate(new):
            if (chosen[row] or not masked) and not is_absent(value):
                if value is not now[row]:
                    door.check_exact(link, self.rows.paths[row], self.exact[row])
                if link.whole.exact and self.out[row] not in (None, value.dtype):
                    self.exact[row], self.out[row] = link.address, value.dtype
                self.us[row], self.touched[row] = value, True

    def _hide(self, link: Link, tree: Any) -> Any:
        """A tree as the masks around a link leave it, outermost first."""
        for selector in link.selectors:
            tree = selector.hide(self.tree, self.rows.paths, self.kinds, tree)
        return tree

    def _hidden_extra(self, link: Link) -> dict[str, Any]:
        """The extra arguments, those that are shaped like the parameters masked as they are."""
        same = {
            n: x
            for n, x in self.extra.items()
            if jax.tree.structure(x, is_leaf=is_absent) == self.rows.treedef
        }
        return {**self.extra, **{name: self._hide(link, x) for name, x in same.items()}}

    # ---------------------------------------------------------------------------------------- leaving

    def updates(self) -> Any:
        done = [leave(u, dtype) for u, dtype in zip(self.us, self.out, strict=True)]
        if self.explicit:
            like = zip(self.ps, self.rows.places, strict=True)
            like = [g if is_absent(p) else p for p, g in like]
            done = [u if is_absent(u) else automatic.laid(u, x) for u, x in zip(done, like, strict=True)]
        return self.rows.treedef.unflatten(done)

    def parts(self) -> list[Any]:
        return [
            state if running is None else self._end(running)
            for running, state in zip(self.running, self.states, strict=True)
        ]

    def _end(self, running: Running) -> Any:
        return running.end(lambda places, old: gather(places, old, self.rows), kept)


def _at(k: Mapping[str, Any], dtype: Any) -> SimpleNamespace:
    return SimpleNamespace(**{name: at_dtype(value, dtype) for name, value in k.items()})


def _call(
    step: Any, u: Any, s: SimpleNamespace, p: Any, k: Any, leaf: Leaf, depth: int
) -> tuple[Any, dict[str, Any]]:
    """One step on one leaf; leading stack axes are mapped over, so that the rule sees one array of the stack."""

    def one(g: Any, slots: dict[str, Any], p: Any) -> tuple[Any, dict[str, Any]]:
        got = step(g, SimpleNamespace(**slots), p, k, leaf)
        return got if isinstance(got, tuple) else (got, {})

    for _ in range(depth):
        one = jax.vmap(one)
    return one(u, vars(s), p)
