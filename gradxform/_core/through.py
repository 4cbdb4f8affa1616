"""Write-through: a function run so that what it stores is changed on the way, and its other results are made of that.

A loop of XLA that writes the new parameters in place must read the parameters, what the step stores, and numbers; of
anything else it makes a copy, and where it reads the old state, one of that too. So a selection or a rounding must not
stand behind a finished step:

    m, u = step(g, m_old)                u is made of m
    m = where(ok, m, m_old)              and m of m_old: both m_old and the m in between have to live, a copy of each

but in the step, where m is made, so that u is made of what is stored. When it is `m`, nothing else has changed; when it
is `m_old`, u is thrown away. `through` does this to any function, since it works on the traced program: as soon as the
members of a group are known, they are replaced, and whatever is computed after that sees what has replaced them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import automatic, compat

Group = tuple[int, ...]
Replace = Callable[[Group, list[Any]], Sequence[Any]]


def through(
    fn: Callable[..., Any], args: Sequence[Any], groups: Sequence[Sequence[int]], replace: Replace
) -> Any:
    """`fn(*args)` with groups of its results replaced where they are made, and all that follows made of these.

    Results are counted as they are flattened. The groups are worked in the order in which they can be known: first what
    a group is made of, then the replacement, at the end the rest. What a group is made of sees no replacement of its
    own members. An argument that is handed back is replaced as a result and not as an argument. The functions inside of
    `cond`, `scan`, `while` and custom derivatives are left whole, and what they give is replaced behind them.

    Args:
        fn: a function of trees of arrays.
        args: its arguments.
        groups: the numbers of the results that are replaced together; no number in two of them.
        replace: called with a group and its values, gives what stands in their place: the same shapes and dtypes.

    Returns:
        The results, replaced.

    Raises:
        TypeError: if a replacement has another shape or dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform._core.through import through
        >>> def step(m, g):
        ...     m = m + g
        ...     return 10.0 * m, m
        >>> args = jnp.float32(1.0), jnp.float32(2.0)
        >>> u, m = through(step, args, [(1,)], lambda group, new: [jnp.round(new[0] / 4)])
        >>> float(u), float(m)
        (10.0, 1.0)
    """
    return Traced(fn, args)(groups, replace)


class Traced:
    """A function traced once, to be looked at before it is run by `through`."""

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any]) -> None:
        self.args = jax.tree.leaves(args)
        self.program, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        self.treedef = jax.tree.structure(shapes)

    def __call__(self, groups: Sequence[Sequence[int]], replace: Replace) -> Any:
        keyed = [(tuple(group), tuple(group)) for group in groups]
        found = _Evaluation(self.program, self.args, keyed, replace).results()
        return self.treedef.unflatten(found)

    @property
    def plain(self) -> bool:
        """Whether it is arithmetic only: no effects, no branches and no loops."""
        program = compat.open_program(self.program)
        return not program.effects and not _forks(program)

    def straight(self, count: int) -> bool:
        """Whether nothing but its results tells that it has run, and its first arrays are made by arithmetic.

        What a branch or a loop has made is replaced behind it: a copy of each array.
        """
        program = compat.open_program(self.program)
        return not program.effects and not any(_forked(program, range(count)))


_FORKS = ("cond", "while", "scan")


def _forks(program: Any) -> bool:
    inner = (compat.inner_program(line) for line in program.eqns)
    return any(line.primitive.name in _FORKS for line in program.eqns) or any(
        _forks(compat.open_program(x)) for x in inner if x is not None
    )


def _forked(program: Any, numbers: Sequence[int]) -> list[bool]:
    """Which of these results of a program are arrays that a branch or a loop gives."""
    found = dict.fromkeys(numbers, False)
    asked = {program.outvars[i]: i for i in numbers if not compat.is_literal(program.outvars[i])}
    for line in program.eqns:
        here = {n: asked[v] for n, v in enumerate(line.outvars) if v in asked and v.aval.size > 1}
        if not here:
            continue
        inner = compat.inner_program(line)
        if inner is not None:
            marks = _forked(compat.open_program(inner), list(here))
        else:
            marks = [line.primitive.name in _FORKS] * len(here)
        found.update(zip(here.values(), marks, strict=True))
    return list(found.values())


class _Evaluation:
    """One program, run by demand. `groups` are pairs: a group as `replace` knows it, and where its results are here."""

    def __init__(
        self, closed: Any, args: Sequence[Any], groups: Sequence[tuple[Group, Group]], replace: Replace
    ) -> None:
        self.program, self.replace = compat.open_program(closed), replace
        self.lines, self.outs = list(self.program.eqns), list(self.program.outvars)
        names = [*self.program.constvars, *self.program.invars]
        self.known: dict[Any, Any] = dict(zip(names, [*closed.consts, *args], strict=True))
        #: What has been replaced, as it was: a second group with the same variable has to see it too.
        self.before: dict[Any, Any] = {}
        self.maker = {v: n for n, line in enumerate(self.lines) for v in line.outvars}
        self.done: set[int] = set()
        #: Lines with an effect happen in their order, whoever asks for them.
        self.acting = [n for n, line in enumerate(self.lines) if line.effects]
        self.earlier = dict(zip(self.acting[1:], self.acting, strict=False))
        self.replaced: dict[int, Any] = {}
        self.opened, self.groups = self._sorted(groups)

    def _sorted(self, groups: Sequence[tuple[Group, Group]]) -> tuple[dict[int, Any], list[Any]]:
        """The groups that are made inside of one line, by line; the others, in the order in which they are made."""
        uses: dict[Any, int] = {}
        for _, here in groups:
            for i in here:
                if self._made(self.outs[i]):
                    uses[self.outs[i]] = uses.get(self.outs[i], 0) + 1
        inside: dict[int, list[tuple[Group, Group]]] = {}
        rest: list[tuple[int, tuple[Group, Group]]] = []
        for key, here in groups:
            members = [self.outs[i] for i in here]
            lines = {self.maker[v] if self._made(v) else -1 for v in members}
            last = max(lines)
            alone = len(lines) == 1 and last >= 0 and all(uses[v] == 1 for v in members)
            if alone and compat.inner_program(self.lines[last]) is not None:
                places = {v: i for i, v in enumerate(self.lines[last].outvars)}
                inside.setdefault(last, []).append((key, tuple(places[v] for v in members)))
            else:
                rest.append((last, (key, here)))
        return inside, [group for _, group in sorted(rest, key=lambda pair: pair[0])]

    def _made(self, v: Any) -> bool:
        return not compat.is_literal(v) and v in self.maker

    def results(self) -> list[Any]:
        for key, here in self.groups:
            members = [self.outs[i] for i in here]
            self._compute(members)
            values = [self._value(v, raw=True) for v in members]
            given = self.replace(key, values)
            for i, v, old, new in zip(here, members, values, given, strict=True):
                self._put(i, v, old, _fitting(key, old, new))
        self._compute(self.outs, self.acting)
        return [self.replaced[i] if i in self.replaced else self._value(v) for i, v in enumerate(self.outs)]

    def _put(self, i: int, v: Any, old: Any, new: Any) -> None:
        self.replaced[i] = new
        # What varies on more axes than the program was traced for would not fit into what follows in it.
        fits = compat.varying_axes(new) == compat.varying_axes(old)
        if self._made(v) and v not in self.before and fits:
            self.before[v], self.known[v] = old, new

    def _value(self, v: Any, raw: bool = False) -> Any:
        if compat.is_literal(v):
            return compat.like_weak(jnp.asarray(v.val, dtype=v.aval.dtype), v.aval)
        x = self.before[v] if raw and v in self.before else self.known[v]
        return x if hasattr(x, "dtype") else compat.like_weak(jnp.asarray(x, dtype=v.aval.dtype), v.aval)

    def _compute(self, wanted: Sequence[Any], lines: Sequence[int] = ()) -> None:
        """Runs the lines of which these variables are made, and these lines, so far as they have not run."""
        todo = [*(self.maker[v] for v in wanted if self._made(v)), *lines]
        found: set[int] = set()
        while todo:
            n = todo.pop()
            if n in found or n in self.done:
                continue
            found.add(n)
            todo += [self.maker[v] for v in self.lines[n].invars if self._made(v)]
            if n in self.earlier:
                todo.append(self.earlier[n])
        self.done |= found
        plain: list[Any] = []
        for n in sorted(found):
            if n in self.opened:
                self._run(plain)
                self._open(n)
                plain = []
            else:
                plain.append(self.lines[n])
        self._run(plain)

    def _run(self, lines: Sequence[Any]) -> None:
        """Lines without a member of a group in them, as a program of their own."""
        if not lines:
            return
        made = [v for line in lines for v in line.outvars if not compat.is_dropped(v)]
        own = set(made)
        read = dict.fromkeys(
            v for line in lines for v in line.invars if not compat.is_literal(v) and v not in own
        )
        run = compat.program_of(self.program, list(read), lines, made)
        self.known.update(zip(made, run(*(self.known[v] for v in read)), strict=True))

    def _open(self, n: int) -> None:
        """A line that calls a program in which members are made."""
        line = self.lines[n]
        args = [v.val if compat.is_literal(v) else self.known[v] for v in line.invars]
        inner = _Evaluation(compat.inner_program(line), args, self.opened[n], self.replace)
        for v, x in zip(line.outvars, inner.results(), strict=True):
            self.known[v] = x


def _fitting(group: Group, old: Any, new: Any) -> Any:
    """A replacement in the type of what it replaces."""
    if new.shape != old.shape or new.dtype != old.dtype:
        raise TypeError(
            f"through: the group {group} has {old.dtype}{list(old.shape)}, and is given {new.dtype}{list(new.shape)}"
        )
    strong = new if getattr(old, "weak_type", False) else compat.strong(new, old.dtype)
    return automatic.laid(compat.like_weak(strong, old), old)
