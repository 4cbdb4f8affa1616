"""The lifts: from the pure function of a method on one leaf to a transform of trees.

`elementwise` promises that an element of the update depends on that element of the gradient, the slots and the
parameter only (and on the step's scalars); `leafwise` that a leaf depends on that leaf only; `treewise` that leaves
meet in nothing but the sums of `reduce`. The promise is the *reach*: buckets, kernels and sharding rely on it, and
`gradxform.testing` checks it. State, `init` and dtypes follow from the state class and its roles.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from . import roles
from .body import RuleBody
from .rule import Init, Rule, Stage
from .transform import GradientTransformation, wrap


def _lift(
    reach: str, stages: Sequence[Stage], call: str | None, options: Mapping[str, Any]
) -> GradientTransformation:
    functions = [f for stage in stages for f in (stage.step, stage.once, stage.reduce) if f is not None]
    name = call or (functions[0].__qualname__.split(".<locals>")[0] if functions else "rule")
    needs = options.get("needs", ())
    if isinstance(needs, str):
        raise TypeError(f"{name}: needs={needs!r}; wanted a tuple of names, ({needs!r},)")
    rule = Rule(name, tuple(stages), reach, **options)
    for slot, dtype in rule.dtypes.items():
        averaged = rule.roles.get(slot) in (roles.MOMENT, roles.SECOND_MOMENT)
        if averaged and not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"gx.{name}: {slot} cannot be kept as {dtype}; wanted a floating dtype such as 'bfloat16'"
            )
    return wrap(RuleBody(rule))


def elementwise(
    step: Callable[..., Any],
    *,
    once: Callable[[Any], Any] | None = None,
    state: type = optax.EmptyState,
    scalars: Mapping[str, Any] | None = None,
    decays: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, Any] | None = None,
    init: Mapping[str, Init] | None = None,
    fields: Mapping[str, Callable[[], Any]] | None = None,
    needs: tuple[str, ...] = (),
    call: str | None = None,
    **flags: Any,
) -> GradientTransformation:
    """Lifts a rule whose elements do not see each other.

    Args:
        step: `step(g, s, p, k, leaf)`, returns `u` or `(u, {slot: new})`.
        once: `once(c)`, returns the step's scalars by name; they are added to the hyperparameters in `k`.
        state: a NamedTuple class whose fields have roles.
        scalars: hyperparameters by name: numbers, 0-d arrays, `TwoFloat` pairs or schedules; `k.<name>` is the number.
        decays: decay rates, read as `Decay` so that `ema` and `debias` lose nothing.
        dtypes: the storage dtype of slots by field; None means the parameter's, float32 for the second moment of a
            16-bit parameter.
        init: `maker(p, leaf)` for slots that do not start at zero.
        fields: `maker()` for scalar state fields other than the count.
        needs: what `update` must be given: "params", or the name of an extra argument.
        call: the factory's name in messages; by default the function around `step`.
        **flags: facts for the chain: `rate=1` if a learning rate is applied, `flips` if the sign is turned, `any_dtype`
            if integers may pass, `coupled` for a decay that must stand before the learning rate, `uncoupled` for one
            that must stand behind it, `counted` if `once` needs the count of a state that has none, `wide=("ema",)` for
            slots that are float32 for a 16-bit parameter, `own=("nu",)` for slots that mean something else here than in
            the other methods with this state class, `carried=("inner",)` for fields that the body around the rule fills
            with states of other links, `sees`, a function that says of a `Leaf` in words what the rule makes of its
            axes (for `describe`), `axis_names`, and `sharded` (of `leafwise` and `treewise`): every number over
            elements of a leaf is made by `leaf.sum`, `leaf.mean`, `leaf.norm` or by `reduce`, and sizes are read from
            `leaf.shape`, so that the rule is right on one shard of a leaf.

    Returns:
        A transform. Decorate the function around this call with `factory` to make it a value.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> @build.factory
        ... def soft_sign(width: float = 1.0):
        ...     def step(g, s, p, k, leaf):
        ...         return g / (k.width + abs(g))
        ...     return build.elementwise(step, scalars=dict(width=width))
        >>> tx = soft_sign(2.0)
        >>> updates, _ = tx.update(jnp.array([2.0, -6.0]), tx.init(jnp.zeros(2)))
        >>> [float(u) for u in updates]
        [0.5, -0.75]
    """
    return _lift("element", [Stage(step, once)], call, _options(locals(), flags))


def leafwise(
    step: Callable[..., Any],
    *,
    once: Callable[[Any], Any] | None = None,
    state: type = optax.EmptyState,
    scalars: Mapping[str, Any] | None = None,
    decays: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, Any] | None = None,
    init: Mapping[str, Init] | None = None,
    fields: Mapping[str, Callable[[], Any]] | None = None,
    needs: tuple[str, ...] = (),
    call: str | None = None,
    **flags: Any,
) -> GradientTransformation:
    """Lifts a rule that sees one whole array at a time: a norm of it, its rows, its singular values.

    As `elementwise`; reductions over the leaf go through `leaf.sum`, `leaf.mean` and `leaf.norm`, so that they hold for
    a sharded leaf too; say `sharded=True` if all of them do, else the rule is given whole leaves only. The rule is
    written for one array: declared stack axes (`gx.per_layer`) are mapped over outside.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> @build.factory
        ... def unit_norm():
        ...     def step(g, s, p, k, leaf):
        ...         return g / leaf.norm(g)
        ...     return build.leafwise(step)
        >>> grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
        >>> updates, _ = unit_norm().update(grads, unit_norm().init(grads))
        >>> [round(float(u), 6) for u in updates["a"]]
        [0.6, 0.8]
    """
    return _lift("leaf", [Stage(step, once)], call, _options(locals(), flags))


def treewise(
    step: Callable[..., Any] | None = None,
    *,
    reduce: Callable[..., Any] | None = None,
    stages: Sequence[Stage] = (),
    once: Callable[[Any], Any] | None = None,
    combine: str = "sum",
    state: type = optax.EmptyState,
    scalars: Mapping[str, Any] | None = None,
    decays: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, Any] | None = None,
    init: Mapping[str, Init] | None = None,
    fields: Mapping[str, Callable[[], Any]] | None = None,
    needs: tuple[str, ...] = (),
    call: str | None = None,
    **flags: Any,
) -> GradientTransformation:
    """Lifts a rule whose leaves meet in sums (or maxima) over the tree.

    Either one stage, by `reduce`, `once` and `step`, or several by `stages=[Stage(...), ...]`; see `build.Stage`.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> @build.factory
        ... def divide_by_sum():
        ...     def reduce(g, s, p, k, leaf):
        ...         return g.sum()
        ...     def once(c):
        ...         return {"total": c.sums}
        ...     def step(g, s, p, k, leaf):
        ...         return g / k.total
        ...     return build.treewise(step, reduce=reduce, once=once)
        >>> grads = {"a": jnp.array([1.0]), "b": jnp.array([3.0])}
        >>> tx = divide_by_sum()
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> float(updates["b"][0])
        0.75
    """
    if bool(stages) == (step is not None):
        raise TypeError("treewise: give either step (with reduce and once) or stages")
    chosen = tuple(stages) or (Stage(step, once, reduce, combine),)
    return _lift("tree", chosen, call, _options(locals(), flags))


def _options(given: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a lift that go into the rule as they are."""
    maps = {name: dict(given[name] or {}) for name in ("scalars", "decays", "init", "fields")}
    dtypes = {name: dtype for name, dtype in (given["dtypes"] or {}).items() if dtype is not None}
    return {"state": given["state"], "needs": given["needs"], **maps, "dtypes": dtypes, **flags}
