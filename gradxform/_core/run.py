"""The engine: one step of any body, segment by segment, leaf by leaf.

For every segment: add up the partials of its reductions, compute its scalars once, then take each leaf through all its
stages. The scalars are folded into the leaves' arithmetic, so a clip in front of Adam costs one read of the gradients
and one multiplication inside a loop that runs anyway; no clipped copy of the gradients ever exists.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp

from . import automatic, compat, door, observe
from .eager import Compiled
from .joined import FLAT, Joined
from .leaf import JOINED, PARTIAL, STACKED, Leaf
from .numerics import compute_dtype, real_dtype
from .onleaf import Facts, Partial, Pass, Task, Way
from .plan import Body, Link, Plan, Segment, kept, selected
from .program import SMALL, Execute, Job, Scalars, key_of, run_program, run_stacked, scalars_of, stacks
from .reduce import reduce_leaves
from .rule import Running, stack_depth
from .scalars import apart, at_dtype
from .shards import Cut, cut_if_said, cut_of
from .tree import View, gather, is_absent, is_inexact, spread
from .working import leave, out_dtype, work_dtype, workable

#: From so many leaves on it pays to set the step's scalars apart.
_MANY = 16


def run(
    body: Body,
    updates: Any,
    state: Any,
    params: Any,
    extra: Mapping[str, Any],
    who: str = "",
    plan: Plan | None = None,
    execute: Execute | None = None,
) -> tuple[Any, Any]:
    """`update` of a transform whose body is `body`; `who` is the factory, for messages.

    A wrapper that runs `body` inside of its own step passes the plan that was lowered where it stands. `execute` runs
    the passes of leaves in another way, as `Route.execute` does for what is lowered below it.
    """
    plan = plan or body.plan

    def step(updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> tuple[Any, Any]:
        return _run(body, updates, state, params, extra, who, plan, execute)

    if execute is not None or not plan.lasting or not plan.ruled:
        return step(updates, state, params, extra)
    compiled = plan.programs.get(Compiled)
    if compiled is None:
        compiled = plan.programs[Compiled] = Compiled(step)
    return compiled(updates, state, params, dict(extra))


def _run(
    body: Body,
    updates: Any,
    state: Any,
    params: Any,
    extra: Mapping[str, Any],
    who: str,
    plan: Plan,
    execute: Execute | None,
) -> tuple[Any, Any]:
    parts = body.split(state, who)
    rows, ps = door.enter(plan, updates, params, extra, who or "update")
    step = _Step(plan, rows, ps, updates if params is None else params, parts, extra, execute)
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
        execute: Execute | None = None,
    ) -> None:
        self.plan, self.rows, self.extra, self.execute = plan, rows, extra, execute
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
        #: The scalars of links as the leaves of this segment are given them, if not as they are.
        self.ks: dict[int, dict[str, Any]] = {}
        self.manual = bool(compat.manual_axes())
        self.lasting = plan.again() and plan.lasting
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
        stages = segment.stages
        known: dict[tuple[int, Any], Scalars] = {}
        self.ks.clear()
        for number, i in stages:
            running = self.running[number]
            if running is None:
                continue
            stage = running.rule.stages[i]
            sums = self._reduce(number, i, running) if stage.reduce is not None else None
            running.scalars(stage, sums, self.extra, self.dtype)
        steps = [(n, i) for n, i in stages if self._step(n, i) is not None]
        if len(self.us) >= _MANY and not self.manual and not self.explicit:
            ks = {n: running.k for n, _ in steps if (running := self.running[n]) is not None}
            self.ks.update(zip(ks, apart(list(ks.values())), strict=True))
        for row in range(len(self.us)):
            entries = tuple((n, i) for n, i in steps if self.chosen[n][row])
            if entries:
                self._leaf(row, entries, known)
        for number in segment.wholes:
            self._whole(number)

    def _step(self, number: int, i: int) -> Any:
        rule = self.plan.links[number].rule
        return None if rule is None else rule.stages[i].step

    def _scalars(self, number: int, row: int, known: dict[tuple[int, Any], Scalars]) -> Scalars:
        """The scalars of a link in the dtype of a leaf."""
        at = number, real_dtype(self.dtypes[row])
        found = known.get(at)
        if found is None:
            k = self.ks.get(number) or cast("Running", self.running[number]).k
            found = known[at] = scalars_of({name: at_dtype(x, at[1]) for name, x in k.items()})
        return found

    def _arguments(
        self, row: int, numbers: Sequence[int], known: dict[tuple[int, Any], Scalars]
    ) -> tuple[tuple[Any, Any, Any], tuple[Scalars, ...]]:
        """A leaf's update, its parameter if it has one, and the slots of some links; and their scalars."""
        p = self.ps[row]
        p = None if is_absent(p) or not is_inexact(p) else p
        stored = tuple(self._stored(number, row) for number in numbers)
        return (self.us[row], p, stored), tuple(self._scalars(n, row, known) for n in numbers)

    def _stored(self, number: int, row: int) -> dict[str, Any]:
        running = self.running[number]
        return {} if running is None else {name: rows[row] for name, rows in running.slots.items()}

    def _facts(self, row: int, numbers: Sequence[int], why: str = "") -> tuple[Facts, ...]:
        """What some links may know of a leaf; `why` nothing can be summed over it here, if that is so."""
        return tuple(self._facts_of(row, self.plan.links[number], why) for number in numbers)

    def _facts_of(self, row: int, link: Link, why: str) -> Facts:
        u, path, out = self.us[row], self.rows.paths[row], self.out[row]
        if link.reach == "tree" and isinstance(self.tree, Joined) and path.startswith(FLAT):
            why = why or JOINED
        if link.axis_names is None and not self.manual and not link.stacked:
            return Facts(u.shape, out, why=why)
        part = cut_if_said(path, u, link.axis_names, link.address)
        here = None if part is None else (u.shape, *part)
        if why:
            return Facts(u.shape, out, *cut_of(path, u, link.axis_names, link.address), why, 0, here)
        if link.reach == "element":
            return Facts(u.shape, out, *(part or Cut()), "", 0, here)
        depth = stack_depth(link.stacked, path, u)
        cut = cut_of(path, u, link.axis_names, link.address)
        why = STACKED if depth and not cut.known else ""
        return Facts(u.shape[depth:], out, *cut.below(depth), why, depth, here)

    def _bound(self, row: int) -> Any:
        return None if self.touched[row] else self.out[row]

    def _reduce(self, number: int, i: int, running: Running) -> Any:
        stage, partials = running.rule.stages[i], list[Any]()
        axes: list[tuple[str, ...]] = []
        known: dict[tuple[int, Any], Scalars] = {}
        groups: dict[Any, list[int]] = {}
        found: dict[int, tuple[Job, Any, Any]] = {}
        for row, take in enumerate(self.chosen[number]):
            if take:
                facts = self._facts(row, (number,), PARTIAL)
                way = Way(self.dtypes[row], self._bound(row), "", self.explicit, self.dtype)
                job = Job(Partial, ((number, i),), facts, way)
                args, ks = self._arguments(row, (number,), known)
                found[row] = job, args, ks
                groups.setdefault(self._alike(row, job, args, ks), []).append(row)
        for rows in stacks(groups, [0 if is_absent(u) else u.size for u in self.us]):
            job, args, ks = found[rows[0]]
            got = None
            if len(rows) > 1:
                many = [found[row][1] for row in rows]
                got = run_stacked(self.plan, job, self.rows.paths[rows[0]], ks, many, stage.combine)
            each = (
                [self._do(*(found[row][0], row, *found[row][1:])) for row in rows] if got is None else [got]
            )
            partials.extend(each)
            axes.extend([job.facts[0].axes] * len(each))
        if not partials:  # nothing to add up: ask the rule for the shape of its partials
            empty, reduce = jnp.zeros((0,), self.dtype), cast("Any", stage.reduce)
            slots = SimpleNamespace(**dict.fromkeys(running.slots, empty))
            k = SimpleNamespace(**{name: at_dtype(x, self.dtype) for name, x in running.k.items()})
            partial = reduce(empty, slots, empty, k, Leaf("", (0,), self.dtype))
            return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=self.dtype), partial)
        return reduce_leaves(partials, axes, stage.combine)

    def _alike(self, row: int, job: Job, args: Any, ks: Sequence[Scalars]) -> Any:
        """What small leaves agree in that are reduced together; what is not small, or no program, is alone."""
        small = (
            self.us[row].size <= SMALL
            and not self.manual
            and not self.explicit
            and self._programmed(job, args, ks)
        )
        if not small:
            return row
        leaves, treedef = jax.tree.flatten(args)
        return key_of(job, ks, args), treedef, tuple(x.dtype for x in leaves)

    def _leaf(
        self, row: int, entries: tuple[tuple[int, int], ...], known: dict[tuple[int, Any], Scalars]
    ) -> None:
        """Takes one leaf through all its stages of this segment."""
        numbers = tuple(dict.fromkeys(number for number, _ in entries))
        way = Way(self.dtypes[row], self._bound(row), self.exact[row], self.explicit)
        job = Job(Pass, entries, self._facts(row, numbers), way)
        u, made = self._do(job, row, *self._arguments(row, numbers, known))
        self.us[row], self.touched[row] = u, True
        for number, new in zip(numbers, made, strict=True):
            for name, value in new.items():
                cast("Running", self.running[number]).slots[name][row] = value

    def _do(self, job: Job, row: int, args: tuple[Any, Any, Any], ks: Sequence[Scalars]) -> Any:
        """Runs a job on a leaf: as a program, or, where that cannot be, with the leaf's arrays themselves."""
        path = self.rows.paths[row]
        if self._programmed(job, args, ks):
            return run_program(self.plan, job, path, ks, args, self._execute(job))
        u, p, stored = args
        return job.made(self.plan, path)(u, p, [k.joined(k.arrays) for k in ks], stored, _Around(self, row))

    def _programmed(self, job: Job, args: tuple[Any, Any, Any], ks: Sequence[Scalars]) -> bool:
        u, _, stored = args
        if self.watches or job.way.exact or any(k.key is None for k in ks):
            return False
        asked = self._execute(job) is not None
        if not isinstance(u, compat.Tracer):
            once = not self.lasting or any(map(self._by_host, job.numbers))
            if self.explicit or (once and not asked):
                return False
        executors = [self.plan.links[number].executor for number in job.numbers]
        enclosed = any(x.encloses(u, s) for x, s in zip(executors, stored, strict=True))
        return not enclosed or asked

    def _by_host(self, number: int) -> bool:
        """Whether a number of this step comes from a function of Python, and will be another one at the next."""
        running = cast("Running", self.running[number])
        return not all(isinstance(running.k.get(x), jax.Array) for x in running.rule.asked_of_others)

    def _execute(self, job: Job) -> Execute | None:
        """What runs a pass, if it is not run by default: the same for all of its links."""
        if job.kind is not Pass:
            return None
        asked = {self.plan.links[number].execute for number in job.numbers}
        return self.execute or (asked.pop() if len(asked) == 1 else None)

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


class _Around:
    """What goes on around the stages of one leaf; see `Hooks`."""

    def __init__(self, step: _Step, row: int) -> None:
        self.step, self.row = step, row

    def enclosed(self, task: Task, work: Any, u: Any, stored: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.step.watches:  # what they see cannot leave an enclosure
            return work(u, stored)
        u, made, self.step.last = task.link.executor.enclosed(work, u, stored, self.step.last)
        return u, made

    def seen(self, task: Task, before: Any, u: Any, s: Any) -> None:
        for watch in self.step.watches:
            watch.stage(task.number, task.i, self.row, before, u, s)
