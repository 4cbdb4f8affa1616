"""What a step does, in numbers, while it does it: `probe`.

    grad_norm  = |g|       update_norm = |u|      param_norm = |p|      update_ratio = |u| / |p|
    cosine     = <g, m> / (|g| |m|)               m: the momentum before g went into it
    unmoved    = #{i: u_i != 0, p_i + u_i = p_i} / #{i: u_i != 0}       of 16-bit parameters, the sum rounded

and for each link the norm of what goes in and of what comes out. The norms are added up in the pass that works the
leaves anyway; they are arrays in the state, so nothing waits for the device and no callback is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from .._core import observe
from .._core.errors import check_flag, check_integer
from .._core.factory import factory
from .._core.nested import Inner, NestedBody
from .._core.numerics import compute_dtype, next_count, quotient, real_dtype, root
from .._core.observe import COSINE, RATE, Sums, number, square
from .._core.plan import Plan, Selector
from .._core.roles import Count, Reading
from .._core.skip import run_if
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import View, is_absent, spread, tree_map, view
from .behind import stored
from .plain import scale

GRAD, UPDATE, PARAM, RATIO, UNMOVED = "grad_norm", "update_norm", "param_norm", "update_ratio", "unmoved"
_GROUP = (GRAD, UPDATE, PARAM, RATIO)


class ProbeState(NamedTuple):
    """The state of `probe`: steps (None if each is measured), and float32 scalars by name, 0 before the first one."""

    count: Count
    readings: Reading
    inner_state: Any


@dataclass(frozen=True, eq=False)
class _Group:
    """One group of `param_groups`: its name, and the selectors that lead to its leaves."""

    name: str
    selectors: tuple[Selector, ...]

    def takes(self, tree: Any, rows: View, places: Sequence[Any]) -> list[bool]:
        """Which places belong to it. What a selector leaves out is hidden from the next one."""
        chosen = [not is_absent(place) for place in places]
        for selector in self.selectors:
            left = [p if c else optax.MaskedNode() for p, c in zip(places, chosen, strict=True)]
            answer = selector.select(tree, rows.paths, left)
            chosen = [a and b for a, b in zip(chosen, answer, strict=True)]
        return chosen


def _groups(plan: Plan, around: tuple[Selector, ...] = ()) -> dict[str, _Group]:
    """The groups of a plan and of what is inside of its wrappers, by name."""
    found: dict[str, _Group] = {}
    for link in plan.links:
        selectors = (*around, *link.selectors)
        for i, selector in enumerate(selectors):
            family, index = getattr(selector, "family", None), getattr(selector, "index", None)
            if family is None or index is None:
                continue
            label = f"[{family.labels[index]}]"
            head, known, _ = link.address.partition(label)
            if known and head + label not in found:
                found[head + label] = _Group(head + label, selectors[: i + 1])
        if link.inside is not None:
            found = {**_groups(link.inside, selectors), **found}
    return found


class ProbeBody(NestedBody):
    call = "probe"
    reach = "tree"

    def __init__(self, inner: GradientTransformation, links: bool, every: int, axis_names: Any) -> None:
        super().__init__(inner, ProbeState)
        self.links, self.every, self.axis_names = links, every, axis_names
        self.own = inner.body.plan
        self.names = observe.named(self.own)
        self.groups = list(_groups(self.own).values())

    def start(self, params: Any, inner_state: Any) -> ProbeState:
        del params
        parts = self.inner.body.split(inner_state, "")
        readings = {name: jnp.array(np.zeros([], np.float32)) for name in self._readings(parts)}
        count = None if self.every == 1 else jnp.array(np.zeros([], np.int32))
        return ProbeState(count, readings, inner_state)

    def _readings(self, parts: Sequence[Any]) -> list[str]:
        """The names of all readings. They depend on the transform inside and on nothing else."""
        found = [GRAD, UPDATE, PARAM, RATIO, UNMOVED]
        of_links: list[str] = []
        for name, (link, part) in zip(self.names, _flat(self.own, parts), strict=True):
            of_links += [f"{name}/{reading}" for reading in observe.readings_of(link, part)]
        last = [name.rsplit("/", 1)[-1] for name in of_links]
        found += [COSINE] if COSINE in last else []
        found += [RATE] if last.count(RATE) == 1 else []
        found += [f"{group.name}/{reading}" for group in self.groups for reading in _GROUP]
        return [*found, *of_links] if self.links else found

    def step(
        self, inner: Inner, updates: Any, state: ProbeState, params: Any, extra: Mapping[str, Any]
    ) -> Any:
        who = f"{inner.address}/probe" if inner.address else "probe"

        def measured() -> tuple[Any, Any, Any]:
            observer = observe.Observer(
                state.readings, inner.plan, self.names, inner.axis_names(self.axis_names), who
            )
            with observer.open():
                new, inner_state = inner(updates, state.inner_state, params, extra)
            readings = {**observer.readings, **self._tree(updates, new, params, inner, who)}
            return {name: observe.reading(readings[name]) for name in state.readings}, new, inner_state

        if self.every == 1:
            readings, new, inner_state = measured()
            return new, ProbeState(state.count, readings, inner_state)
        # A branch of its own, so that the step is the step without a probe; it is computed twice where it is measured.
        due = state.count % np.int32(self.every) == 0
        readings = run_if(due, lambda: measured()[0], lambda: dict(state.readings))
        new, inner_state = inner(_waiting(updates, readings[GRAD]), state.inner_state, params, extra)
        return new, ProbeState(next_count(state.count), readings, inner_state)

    def _tree(self, updates: Any, new: Any, params: Any, inner: Inner, who: str) -> dict[str, Any]:
        """The readings of the whole tree and of the groups."""
        rows = view(updates)
        gs, us = rows.places, spread(new, rows)
        ps: list[Any] = [None] * len(gs) if params is None else spread(params, rows)
        widest = real_dtype(compute_dtype(*(x.dtype for x in (*gs, *us, *ps) if number(x))))
        tree, kinds = (updates, gs) if params is None else (params, ps)
        chosen = {group.name: group.takes(tree, rows, kinds) for group in self.groups}
        sums = Sums(inner.axis_names(self.axis_names), who)
        for row, path in enumerate(rows.paths):
            names = ["", *(f"{name}/" for name, takes in chosen.items() if takes[row])]
            for reading, x in ((GRAD, gs[row]), (UPDATE, us[row]), (PARAM, ps[row])):
                if number(x):
                    part = square(x, widest)
                    for name in names:
                        sums.add(name + reading, path, gs[row], part)
            if number(us[row]) and number(ps[row]) and jnp.finfo(ps[row].dtype).bits < 32:
                sums.add(UNMOVED, path, gs[row], *_unmoved(ps[row], us[row], widest))
        return _finished(sums.totals(), ["", *(f"{name}/" for name in chosen)], widest)


def _waiting(updates: Any, reading: Any) -> Any:
    """The same updates, as soon as the reading is there.

    The step writes the state in place that the readings are made of. Unless it waits for them XLA copies all of it, at
    every step, measured or not. No number is NaN and equal to itself, which XLA cannot know.
    """
    never = jnp.isnan(reading) & (reading == reading)
    return tree_map(lambda u: jnp.where(never, jnp.zeros_like(u), u) if number(u) else u, updates)


def _flat(plan: Plan, parts: Sequence[Any]) -> list[tuple[Any, Any]]:
    """All links with their states, those inside of wrappers behind the wrapper's own, as `plan.flat` has them."""
    found: list[tuple[Any, Any]] = []
    for link, part in zip(plan.links, parts, strict=True):
        found.append((link, part))
        if link.whole is not None and link.inside is not None:
            found.extend(_flat(link.inside, link.whole.parts(part)))
    return found


def _finished(totals: Mapping[str, tuple[Any, ...]], names: Sequence[str], dtype: Any) -> dict[str, Any]:
    zero = jnp.zeros([], dtype)
    found: dict[str, Any] = {}
    for name in names:
        for reading in (GRAD, UPDATE, PARAM):
            found[name + reading] = root(totals.get(name + reading, (zero,))[0])
        found[name + RATIO] = quotient(found[name + UPDATE], found[name + PARAM])
    return {**found, UNMOVED: quotient(*totals.get(UNMOVED, (zero, zero)))}


def _unmoved(p: Any, u: Any, dtype: Any) -> tuple[Any, Any]:
    """How many elements an update asks to move and rounding leaves where they are, and how many it asks."""
    p, u = jnp.asarray(p), jnp.asarray(u)
    wide = compute_dtype(p.dtype, u.dtype)
    moves = u != np.zeros([], u.dtype)
    before = p.astype(wide)
    stays = stored(before, u.astype(wide), p.dtype) == before
    return observe.count(moves & stays, dtype), observe.count(moves, dtype)


@factory(label="", sample={"tx": scale(0.5)})
def probe(tx: Any, *, links: bool = True, every: int = 1, axis_names: Any = None):
    """Measures what a transform does while it runs; `gx.metrics(state)` gives the readings to a logger.

    No callback and no wait for the device: the readings are float32 scalars in the state. The updates are those of
    `tx`. Where the probe stands decides what it sees: inside of `accumulate` one reading an optimizer step, outside one
    a micro-step; inside of a guard a skipped step leaves the readings of the last good one.

    **Update**: `tx`'s.

    Args:
        tx: any transform, ours or Optax's.
        links: whether each link is measured too. False leaves the norms of the whole tree and of the groups, the rate
            and the cosine.
        every: measures the first step and then one in `every`; the readings stay until the next. A step that is
            measured takes several times as long on a CPU, where XLA makes a loop for each norm, and keeps in memory
            what it would otherwise fuse. Above 1 the readings are made in a branch of their own, and a step
            without them takes about half as long again as without a probe: take as many steps as your logger does.
        axis_names: inside `shard_map`, the mesh axes over which leaves are shards; see `gx.clip_by_global_norm`.

    State: `ProbeState(count, readings, inner_state)`; `readings` is a dictionary with the same names from `init` on,
    all 0 before the first step. What does not run at a step (an optimizer that waits for its last micro-step) keeps its
    last readings; what needs the parameters stays 0 if they are not passed.

    The readings: `grad_norm`, `update_norm`, `param_norm` (before the step), `update_ratio` (update by parameter; 0 if
    that is 0); `learning_rate`, if one link applies one; `cosine` of the gradient, as the first link with a momentum
    gets it, and that momentum before it (0 if one is 0); `unmoved`, of the 16-bit parameters that the update asks to
    move the share that is the same after it, because the dtype has no number in between. For every group of
    `param_groups` the four norms behind its name, `[*/bias]/grad_norm`. For every link, behind its address: `norm_in`,
    `norm_out`, `learning_rate`, `cosine`, and where it clips `clipped`, the share of elements that it changes (1 or 0
    where one factor bounds the whole tree). What a guard inside skips the guard counts; `gx.metrics` lists it.

    Reach: tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.probe(gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_learning_rate(0.1)))
        >>> params = jnp.array([3.0, 4.0])
        >>> _, state = tx.update(jnp.array([0.0, 2.0]), tx.init(params), params)
        >>> for name, number in gx.metrics(state).items():
        ...     print(f"{name:24s} {number:.2f}")
        clip/clipped             1.00
        clip/norm_in             2.00
        clip/norm_out            1.00
        grad_norm                2.00
        learning_rate            0.10
        param_norm               5.00
        rate/learning_rate       0.10
        rate/norm_in             1.00
        rate/norm_out            0.10
        unmoved                  0.00
        update_norm              0.10
        update_ratio             0.02

    Differs from Optax: `optax.monitor` and `optax.snapshot` stand as links of a chain and measure what passes there;
    they see no other link, no group, no parameter and no momentum.
    """
    check_flag("probe", "links", links)
    check_integer("probe", "every", every, low=1)
    return wrap(ProbeBody(as_transform(tx, "gx.probe(tx)"), links, every, axis_names))
