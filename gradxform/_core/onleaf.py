"""What a segment does to one leaf: a pure function of its update, its parameter, the step's scalars and its slots.

All that is not an array (which links, in which dtype, what is known of the leaf) is fixed when the function is made.
So leaves alike share one, and it can be traced once, compiled for a shape, or run on tiles by a kernel.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from . import automatic, door, roles
from .leaf import Leaf, Tile
from .numerics import real_dtype, widen
from .plan import Link
from .rule import Rule, Stage
from .shards import Names
from .working import promotion


class Facts(NamedTuple):
    """What a link may know of a leaf but its path: the fields of `Leaf`, the number of its stack axes, its part."""

    here: tuple[int, ...]
    dtype: Any
    axes: Names = ()
    dims: tuple[Names, ...] | None = None
    why: str = ""
    depth: int = 0
    #: Which part of the whole leaf is here, stack axes included, if that has been said: shape, axes, dims.
    part: tuple[Any, ...] | None = None

    def leaf(self, path: str) -> Leaf:
        """What the rule is told."""
        return Leaf(path, self.here, self.dtype, self.axes, self.dims, self.why)

    def whole(self, path: str) -> Leaf | None:
        """What the executor is told."""
        return None if self.part is None else Leaf(path, self.part[0], self.dtype, *self.part[1:])


class Task(NamedTuple):
    """One stage of one link, and what it may know of the leaf."""

    link: Link
    rule: Rule
    number: int
    i: int
    leaf: Leaf
    depth: int = 0
    part: Leaf | None = None

    @property
    def stage(self) -> Stage:
        return self.rule.stages[self.i]


class Hooks(Protocol):
    """What goes on around the stages of a leaf that does not run as a program."""

    def enclosed(
        self, task: Task, work: Any, u: Any, stored: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]: ...

    def seen(self, task: Task, before: Any, u: Any, s: Any) -> None: ...


class Way(NamedTuple):
    """How a leaf is worked."""

    #: The dtype of the work.
    dtype: Any
    #: The dtype of its parameter, if its update comes from outside; see `widen`.
    bound: Any
    #: The link whose updates of it nothing may change.
    exact: str = ""
    #: Whether types say how arrays are cut, so that those of the leaf must be brought together.
    explicit: bool = False
    #: The dtype of the numbers of a reduction.
    total: Any = None


class OnLeaf:
    """What a pass and a reduction have in common."""

    def __init__(self, tasks: Sequence[Task], way: Way) -> None:
        self.tasks, self.way = tuple(tasks), way
        self.dtype, self.bound, self.exact, self.explicit, self.total = way
        #: The links, each once: those whose scalars and slots are arguments, in this order.
        self.numbers = tuple(dict.fromkeys(task.number for task in self.tasks))

    def __call__(
        self,
        u: Any,
        p: Any,
        ks: Sequence[Any],
        stored: Sequence[Mapping[str, Any]],
        hooks: Hooks | None = None,
        start: Any = None,
    ) -> Any:
        """What the leaf gives; `ks` and `stored` are the scalars and the slots of the links in `numbers`."""
        raise NotImplementedError

    def _update(self, u: Any) -> Any:
        return widen(jnp.asarray(u), self.dtype, self.bound)

    def _param(self, p: Any) -> Any:
        return None if p is None else widen(jnp.asarray(p), self.dtype)

    def _slots(self, task: Task, stored: Mapping[str, Any]) -> SimpleNamespace:
        """The slots of a link as arrays."""
        if not stored:
            return SimpleNamespace()
        squares = roles.SECOND_MOMENT
        known = task.rule.roles
        dtypes = {name: real_dtype(self.dtype) if known[name] is squares else self.dtype for name in stored}
        return SimpleNamespace(**task.link.executor.decode(stored, dtypes))

    def _together(
        self, task: Task, u: Any, s: Any, p: Any, stored: Mapping[str, Any], given: Any
    ) -> tuple[Any, Any, Any]:
        """Update, slots and parameter of a leaf, cut alike on explicit axes: where the state lies, if it has any.

        Slots of another shape than the parameter's are cut as `init` makes them of `given`, for the rule works as that
        did.
        """
        if not self.explicit:
            return u, s, p
        forms = {name: task.link.executor.form(x) for name, x in stored.items()}
        like = next(
            (x for x in forms.values() if x is not None and x.shape == u.shape),
            p if forms and p is not None else u,
        )

        def fresh(name: str) -> Any:
            """The shape of a slot as `init` makes it of a parameter that is cut like `like`."""
            return jax.eval_shape(
                lambda p: task.rule.init_slot(name, p, task.leaf.path, task.depth),
                automatic.shape_of(given, like),
            )

        made = {
            name: automatic.laid(x, like if x.shape == u.shape else fresh(name))
            for name, x in vars(s).items()
        }
        return automatic.laid(u, like), SimpleNamespace(**made), automatic.laid(p, like)


class Pass(OnLeaf):
    """A leaf's way through the steps of a segment."""

    def __call__(
        self,
        u: Any,
        p: Any,
        ks: Sequence[Any],
        stored: Sequence[Mapping[str, Any]],
        hooks: Hooks | None = None,
        start: Any = None,
    ) -> tuple[Any, tuple[dict[str, Any], ...]]:
        """The update and, link by link, the stored forms of the slots that are new.

        `start` is the number of the first element, if what is given is a tile of the leaf.
        """
        given = u if p is None else p
        # What is only passed on is not bounded for squaring either.
        u = jnp.asarray(u) if all(task.rule.any_dtype for task in self.tasks) else self._update(u)
        p = self._param(p)
        made: tuple[dict[str, Any], ...] = tuple({} for _ in self.numbers)
        for task in self.tasks:
            at = self.numbers.index(task.number)
            here = task if start is None else task._replace(part=Tile(task.leaf, u.shape, start))
            u, new = self._stage(here, u, p, ks[at], {**stored[at], **made[at]}, given, hooks)
            made[at].update(new)
        return u, made

    def _stage(
        self, task: Task, u: Any, p: Any, k: Any, stored: dict[str, Any], given: Any, hooks: Hooks | None
    ) -> tuple[Any, dict[str, Any]]:
        u, _, p = self._together(task, u, SimpleNamespace(), p, stored, given)
        link, leaf = task.link, task.leaf

        def work(u: Any, stored: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
            _, s, _ = self._together(task, u, self._slots(task, stored), p, stored, given)
            before = u
            try:
                with promotion(self.dtype):
                    u, new, made = link.executor.stepped(
                        lambda u, s, p: _call(task.stage.step, u, s, p, k, leaf, task.depth),
                        (u, vars(s), p),
                        stored,
                        task.part,
                    )
            except Exception as problem:
                name = f"{leaf.path!r} ({self.dtype.name}{list(u.shape)})"
                problem.add_note(f"while {link.address} worked on the leaf {name}")
                raise
            door.check_result(link, leaf, before, u, new, stored)
            if u is not before and self.exact:
                door.check_exact(link, leaf.path, self.exact)
            if hooks is not None:
                hooks.seen(task, before, u, s)
            if self.explicit:
                forms = {name: link.executor.form(stored[name]) for name in new}
                new = {n: x if forms[n] is None else automatic.laid(x, forms[n]) for n, x in new.items()}
            rest = {name: x for name, x in new.items() if name not in made}
            return u, {**made, **link.executor.encode(rest, stored, task.part)} if rest else made

        return work(u, stored) if hooks is None else hooks.enclosed(task, work, u, stored)


class Partial(OnLeaf):
    """One leaf's numbers of a link's reduction."""

    def __call__(
        self,
        u: Any,
        p: Any,
        ks: Sequence[Any],
        stored: Sequence[Mapping[str, Any]],
        hooks: Hooks | None = None,
        start: Any = None,
    ) -> Any:
        del hooks, start
        task, given = self.tasks[0], u if p is None else p
        u, p = self._update(u), self._param(p)
        u, s, p = self._together(task, u, self._slots(task, stored[0]), p, stored[0], given)
        reduce: Any = task.stage.reduce
        with promotion(self.dtype):
            partial = reduce(u, s, p, ks[0], task.leaf)
            return jax.tree.map(lambda x: jnp.asarray(x).astype(self.total), partial)


def _call(
    step: Any, u: Any, s: dict[str, Any], p: Any, k: Any, leaf: Leaf, depth: int
) -> tuple[Any, dict[str, Any]]:
    """One step on one leaf; leading stack axes are mapped over, so that the rule sees one array of the stack."""

    def one(g: Any, slots: dict[str, Any], p: Any) -> tuple[Any, dict[str, Any]]:
        got = step(g, SimpleNamespace(**slots), p, k, leaf)
        return got if isinstance(got, tuple) else (got, {})

    for _ in range(depth):
        one = jax.vmap(one)
    return one(u, s, p)
