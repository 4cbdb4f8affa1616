"""The transform under test as laws see it: trees to try it on, steps compiled once, a search for small breaches."""

import inspect
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from .._core.compat import Tracer, is_key
from .._core.foreign import reach_of
from .._core.tree import is_absent, is_inexact, path_text
from ._example import code, quadratic
from ._law import Broken, Inapplicable, Raised, Unable
from ._strategies import DTYPES, gradients, trees

PLAIN = {"w": (2, 3), "b": (3,)}
#: Keyword arguments that a step can be given, all of them from `quadratic`.
KNOWN = ("value", "grad", "value_fn", "obj_fn", "key")
#: How long a smaller example is looked for: in tries, so that a seed repeats a run, and at the worst in seconds.
SHRINK_TRIES, SHRINK_SECONDS = 80, 30.0


def asked_for(tx: Any) -> tuple[str, ...]:
    """The keyword arguments that a step of this transform is given."""
    plan = getattr(tx, "plan", None)
    if plan is not None and not any(link.foreign for link in plan.flat):
        return tuple(name for name in plan.needs if name != "params")
    try:
        parameters = inspect.signature(tx.update).parameters.values()
    except (TypeError, ValueError):
        return ()
    named = tuple(p.name for p in parameters if p.name in KNOWN)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return tuple(dict.fromkeys((*named, "value", "grad", "value_fn")))
    return named


def filled(shape: tuple[int, ...], start: float, dtype: Any = np.float64) -> Any:
    """An array without equal or zero entries, both signs, exact in 16 bits."""
    size = int(np.prod(shape, dtype=np.int64))
    values = start * (0.5 + np.arange(size) / 8.0) * np.where(np.arange(size) % 3 == 1, -1.0, 1.0)
    return values.reshape(shape).astype(dtype)


def numbers(x: Any) -> Any:
    """A leaf as NumPy's widest numbers, keys as their bits."""
    if is_key(x):
        x = jax.random.key_data(x)
    x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(np.complex128)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def rows(tree: Any) -> list[tuple[str, Any]]:
    """`(slash path, leaf)` of every array of a tree."""
    return [(path_text(path), x) for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]]


def avals(tree: Any) -> list[tuple[str, Any]]:
    """`(path, (shape, dtype, weak type))` of every array of a tree."""
    return [
        (
            path,
            (
                tuple(np.shape(x)),
                str(getattr(x, "dtype", type(x).__name__)),
                bool(getattr(x, "weak_type", False)),
            ),
        )
        for path, x in rows(tree)
    ]


def aval_text(aval: Any) -> str:
    """`float32[2,3]`, with a word for a weak type."""
    shape, dtype, weak = aval
    return f"{'weak ' if weak else ''}{dtype}[{','.join(map(str, shape))}]"


def form_difference(got: Any, wanted: Any, what: str, *, weak: bool = True) -> str | None:
    """How two trees differ in structure, shape, dtype or weak type, in one line."""
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        return f"{what} is {jax.tree.structure(got)}, wanted {jax.tree.structure(wanted)}"
    for (path, a), (_, b) in zip(avals(got), avals(wanted), strict=True):
        if (a if weak else a[:2]) != (b if weak else b[:2]):
            return f"{what} has {path or 'its leaf'} {aval_text(a)}, wanted {aval_text(b)}"
    return None


def difference(got: Any, wanted: Any, what: str, rtol: float = 0.0, atol: float = 0.0) -> str | None:
    """Where the numbers of two trees of one structure differ, in one line; `rtol` is of the largest of a leaf."""
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        return f"{what} is {jax.tree.structure(got)}, wanted {jax.tree.structure(wanted)}"
    for (path, a), (_, b) in zip(rows(got), rows(wanted), strict=True):
        x, y = numbers(a), numbers(b)
        where = f"{what} at {path}" if path else what
        if x.shape != y.shape:
            return f"{where} has shape {x.shape}, wanted {y.shape}"
        if x.size == 0 or np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
            continue
        if x.dtype.kind in "fc":
            with np.errstate(invalid="ignore", over="ignore"):
                allowed = atol + rtol * np.max(np.abs(y), initial=0.0, where=np.isfinite(y))
                apart = np.where(x == y, 0.0, np.abs(x - y))
                if np.array_equal(np.isnan(x), np.isnan(y)) and np.nanmax(apart) <= allowed:
                    continue
        return f"{where} is {_short(x)}, wanted {_short(y)}"
    return None


def _short(x: Any) -> str:
    text = np.array2string(x, precision=6, separator=", ", threshold=8).replace("\n", "")
    return text if len(text) < 120 else f"{text[:117]}..."


class Subject:
    """One transform and everything that laws share about it."""

    def __init__(
        self,
        tx: Any,
        params: Any = None,
        *,
        seed: int = 0,
        examples: int = 10,
        reach: str | None = None,
        extra: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        mesh: Any = None,
    ) -> None:
        self.mesh = mesh
        self.tx, self.given, self.seed, self.examples = tx, params, seed, examples
        self.reach, self.claimed = reach or reach_of(tx), reach is not None
        self.supply, self.asked = extra, ()
        self.extended = isinstance(tx, optax.GradientTransformationExtraArgs)
        self.law = ""
        self.traces = 0
        self._compiled = jax.jit(self._counted)

    def first_step(self) -> None:
        """One abstract step, which finds out whether keyword arguments are wanted; raises what the step raises."""
        params = self.params()
        state = self.init(params)
        try:
            self.abstract(self.grads(params), state, params)
        except Exception:
            self.asked = asked_for(self.tx)
            self.abstract(self.grads(params), state, params)

    # ---------------------------------------------------------------------------------------- the transform

    def init(self, params: Any) -> Any:
        return self.tx.init(self.laid(params))

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        """One compiled step."""
        return self._compiled(self.laid(grads), state, self.laid(params))

    def laid(self, tree: Any) -> Any:
        """A tree on the caller's mesh, each array cut over every axis of it that divides one of its own."""
        if self.mesh is None:
            return tree

        def one(x: Any) -> Any:
            if isinstance(x, Tracer) or not isinstance(x, jax.Array) or not self._free(x.sharding):
                return x
            entries: list[Any] = [None] * x.ndim
            for name, size in self.mesh.shape.items():
                fits = [i for i, n in enumerate(x.shape) if entries[i] is None and n and n % size == 0]
                if fits:
                    entries[fits[0]] = name
            return jax.device_put(x, jax.NamedSharding(self.mesh, jax.P(*entries)))

        return jax.tree.map(one, tree)

    def extra(self, grads: Any, params: Any) -> dict[str, Any]:
        """The keyword arguments of one step."""
        if self.supply is not None:
            return dict(self.supply(params, grads))
        if not self.asked:
            return {}
        loss = quadratic(params, grads)
        known = {"value": loss(params), "grad": grads, "value_fn": loss, "obj_fn": loss}
        return {name: known[name] if name in known else jax.random.key(0) for name in self.asked}

    def _free(self, sharding: Any) -> bool:
        """Whether no law has put an array with this sharding somewhere."""
        named = isinstance(sharding, jax.NamedSharding)
        return not named or (sharding.mesh == self.mesh and sharding.is_fully_replicated)

    def update(self, grads: Any, state: Any, params: Any, **more: Any) -> Any:
        """One step, with what it asks for."""
        return self.tx.update(grads, state, params, **self.extra(grads, params), **more)

    def _counted(self, grads: Any, state: Any, params: Any) -> Any:
        self.traces += 1
        return self.update(grads, state, params)

    def abstract(self, grads: Any, state: Any, params: Any) -> Any:
        """One step, traced only: shapes and dtypes of updates and state."""
        return jax.eval_shape(self.update, grads, state, params)

    def run(self, grads: list[Any], params: Any, state: Any = None) -> tuple[list[Any], Any]:
        """A step for each gradient at unmoved parameters: the updates and the last state."""
        state, updates = self.init(params) if state is None else state, list[Any]()
        for g in grads:
            u, state = self.step(g, state, params)
            updates.append(u)
        return updates, state

    # ---------------------------------------------------------------------------------------- trees

    def params(self, dtype: Any = "float32", start: float = 1.0) -> Any:
        """The plain tree, or the caller's own with its floating leaves in `dtype`."""
        if self.given is None:
            return {
                name: jnp.asarray(filled(shape, start).astype(jnp.dtype(dtype)))
                for name, shape in PLAIN.items()
            }
        return self.like(self.given, dtype, None if start == 1.0 else start)

    def like(self, params: Any, dtype: Any = None, start: float | None = None) -> Any:
        """A tree of the structure and shapes of `params`; integers and holes stay. `start` None keeps the values."""

        def one(p: Any) -> Any:
            if is_absent(p) or not is_inexact(p):
                return p
            values = np.asarray(p) if start is None else filled(tuple(np.shape(p)), start)
            return jnp.asarray(values.astype(jnp.dtype(dtype or p.dtype)))

        return jax.tree.map(one, params, is_leaf=is_absent)

    def grads(self, params: Any, start: float = 0.5, dtype: Any = None) -> Any:
        """Gradients for a tree: none for an integer leaf."""
        made = self.like(params, dtype, start)
        return jax.tree.map(lambda p: p if is_absent(p) or is_inexact(p) else None, made, is_leaf=is_absent)

    def zeros(self, params: Any) -> Any:
        """The tree with all floating leaves at zero."""
        return self.like(params, None, 0.0)

    def steps(self, dtypes: Any = DTYPES, grads: Any = (None, *DTYPES), **options: Any) -> Any:
        """Drawn `{"params": ..., "grads": ...}`: small trees, or the caller's own in drawn dtypes."""

        @st.composite
        def made(draw: Any) -> dict[str, Any]:
            dtype = draw(st.sampled_from(grads))
            if self.given is None:
                chosen: dict[str, Any] = {"dtypes": dtypes, "holes": False, "least": 1, **options}
                params = draw(trees(**chosen))
            else:
                params = self.params(draw(st.sampled_from(dtypes)))
            return {"params": params, "grads": draw(gradients(params, dtype=dtype))}

        return made()

    def pairs(self) -> Iterator[dict[str, Any]]:
        """`{"params": ..., "grads": ...}` for every pair of dtypes and for a tree of two: what no draw may miss."""
        for dtype in DTYPES:
            params = {"a": jnp.ones((3,), dtype)} if self.given is None else self.params(dtype)
            for other in DTYPES:
                ones = {"a": jnp.ones((3,), other)} if self.given is None else self.grads(params, 1.0, other)
                yield {"params": params, "grads": ones}
        if self.given is None:
            mixed = {"a": jnp.ones((3,), "float32"), "b": jnp.ones((3,), "bfloat16")}
            yield {"params": mixed, "grads": mixed}

    # ---------------------------------------------------------------------------------------- the search

    def each(
        self,
        cases: Any,
        check: Callable[..., None],
        then: str | None = None,
        examples: int | None = None,
        known: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Calls `check(**case)` on known cases, then on drawn ones; raises the breach with the smallest found."""
        search = _Search(check, then)
        for case in known:
            if search.breaks(case):
                raise search.breach
        settings = hypothesis.settings(
            max_examples=examples or self.examples,
            deadline=None,
            database=None,
            derandomize=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            verbosity=hypothesis.Verbosity.quiet,
        )
        try:
            hypothesis.find(
                cases,
                search.breaks,
                settings=settings,
                random=random.Random(f"{self.seed}/{self.law}"),
            )
        except NoSuchExample:
            return
        raise search.breach

    def attempt(self, check: Callable[[], Any], then: str | None = None, **trees: Any) -> Any:
        """Calls `check`; an exception becomes a breach that shows the trees."""
        try:
            return check()
        except (Broken, Inapplicable, Unable):
            raise
        except Exception as problem:
            raise Raised(problem, trees, then) from problem


class _Search:
    """A predicate for Hypothesis that stays true to itself when it runs out of time."""

    def __init__(self, check: Callable[..., None], then: str | None) -> None:
        self.check, self.then = check, then
        self.breach: Exception = RuntimeError("nothing was found")
        self.kind: str | None = None
        self.found: dict[str, Exception] = {}
        self.tries, self.since = 0, 0.0

    def breaks(self, case: Mapping[str, Any]) -> bool:
        text = "" if self.kind is None else code(case)
        if self.kind is not None:
            if text in self.found:
                self.breach = self.found[text]
                return True
            self.tries += 1
            if self.tries > SHRINK_TRIES or time.monotonic() - self.since > SHRINK_SECONDS:
                return False
        try:
            self.check(**case)
            return False
        except (Inapplicable, Unable) as answer:
            return self._keep("said", answer, text or code(case))
        except Broken as breach:
            breach.trees = breach.trees or dict(case)
            breach.then = breach.then or self.then
            return self._keep(breach.kind, breach, text or code(case))
        except Exception as problem:
            breach = Raised(problem, case, self.then)
            breach.__cause__ = problem
            return self._keep(breach.kind, breach, text or code(case))

    def _keep(self, kind: str, breach: Exception, text: str) -> bool:
        if self.kind is None:
            self.kind, self.since = kind, time.monotonic()
        if kind != self.kind:
            return False
        self.breach = self.found[text] = breach
        return True
