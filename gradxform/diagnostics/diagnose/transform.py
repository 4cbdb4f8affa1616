"""Rules that need the transform beside the readings."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._core import roles
from ..._core.observe import named
from ..._core.plan import Link, Plan
from ..._core.roles import roles_of
from ..._core.states import nodes
from ..._core.transform import GradientTransformation
from .finding import Case, Finding, rule


@rule("adam-with-l2", "tx")
def with_l2(case: Case) -> list[Finding]:
    """A decay that goes through the second moment: L2, not the decoupled decay of AdamW."""
    tx = case.tx
    found = [
        _l2(
            f"{decay.address}/weight_decay",
            _decay(decay),
            f"the decay {decay.address!r} stands before {divider.address!r}, which divides it by the root of "
            "its second moment",
        )
        for decay, divider in _before(tx.plan)
        if _decay(decay) != 0
    ]
    if found or not any(link.foreign for link in tx.plan.flat):
        return found
    size = _pull(tx)
    what = "without a gradient weights of 100 and of 1 move by the same amount: the decay is divided by its own size"
    return [_l2("update of 100 by update of 1", size, what)] if size is not None and 0 < size < 2 else []


def _l2(reading: str, figure: float, what: str) -> Finding:
    return Finding(
        "adam-with-l2",
        f"{what}, so that weights with large gradients hardly decay",
        reading,
        None,
        figure,
        2.0 if " " in reading else 0.0,
        "AdamW adds its decay behind the division, and a weight decays in proportion to its size",
        "take gx.adamw, or put the decay behind; if torch's Adam(weight_decay=...) is what you mean, leave it",
    )


def _pull(tx: GradientTransformation) -> float | None:
    """Of a transform that cannot be read: how much more a hundredfold weight moves where there is no gradient."""
    params: Any = {"x": jnp.array(np.array([1.0, 100.0, 0.0], np.float32))}
    still = {"x": jnp.zeros_like(params["x"])}
    try:
        state, moved = tx.init(params), np.zeros(3)
        for _ in range(2):  # a warmup may begin with a rate of 0
            updates, state = tx.update(still, state, params)
            moved += np.abs(np.asarray(jax.tree.leaves(updates)[0], np.float64))
    except Exception:  # it is anybody's, and may want other parameters or more arguments
        return None
    # What moves a weight of 0 as well is no decay: a first moment that does not begin with 0.
    return float(moved[1] / moved[0]) if moved[0] > 0 and moved[2] < 0.1 * moved[0] else None


def _decay(link: Link) -> float:
    """The decay, as far as it is a number: a schedule or a traced one counts as NaN, which is not zero."""
    value = {} if link.rule is None else {**link.rule.scalars, **link.rule.decays}
    number = value.get("weight_decay", np.nan)
    return float(number) if isinstance(number, int | float) else np.nan


def _before(plan: Plan) -> Iterator[tuple[Link, Link]]:
    """Each coupled decay with the first link behind it that divides by a second moment, where a leaf may pass both."""
    links = list(_links(plan))
    for i, (decay, route) in enumerate(links):
        if decay.rule is None or not decay.rule.coupled:
            continue
        for other, path in links[i + 1 :]:
            if other.rule is not None and other.rule.rate:
                break
            if _divides(other) and _meet(route, path):
                yield decay, other
                break


def _links(plan: Plan, around: tuple[Any, ...] = ()) -> Iterator[tuple[Link, tuple[Any, ...]]]:
    """All links in the order of a step, those inside of wrappers too, with the selectors that lead there."""
    for link in plan.links:
        route = (*around, *link.selectors)
        if link.inside is None:
            yield link, route
        else:
            yield from _links(link.inside, route)


def _meet(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """False for two groups of one family, whose leaves are apart."""
    groups = {id(s.family): s.index for s in one if getattr(s, "family", None) is not None}
    return all(
        groups.get(id(getattr(s, "family", None)), getattr(s, "index", None)) == getattr(s, "index", None)
        for s in other
    )


def _divides(link: Link) -> bool:
    return link.rule is not None and roles.SECOND_MOMENT in link.rule.roles.values()


@rule("no-bias-correction", "tx", "parameters", "*/norm_out", least=20)
def uncorrected(case: Case) -> list[Finding]:
    """First updates that are too large or too small by what the missing correction would have made good."""
    run, tx = case.run, case.tx
    _, counts = run.numbers("parameters")
    if not len(counts) or run.steps[0] > 1:
        return []
    found: list[Finding] = []
    for name, averaged in _whole_dividers(tx).items():
        if not run.has(f"{name}/norm_out"):
            continue
        rows, norms = run.numbers(f"{name}/norm_out")
        sizes = norms / np.sqrt(counts[0])
        early = sizes[1:20]
        if len(early) < 19 or not sizes[0]:
            continue
        mean = float(early.mean())
        small = sizes[0] < 0.2 and mean > 2 * sizes[0]
        # RMSprop has no correction by its definition. Its first update is 1 / sqrt(1 - b2); that of an Adam by hand is
        # smaller by 1 - b1. With the usual decays, 0.9 and 0.99, the mean of what follows is 1.4 and 3.5.
        most = 5.0 if sizes[0] > 5 or not averaged else 1.8
        if mean <= most and not small:
            continue
        figure, bound = (float(sizes[0]), 0.2) if small else (mean, most)
        size = "too small" if small else "too large"
        why = (
            "corrected moments make a first update of 1; of an uncorrected first moment it is 1 - b1"
            if small
            else "corrected moments make an update of at most about 1; without correction it is 1 / sqrt(1 - b2) "
            "at first, about 30 with b2 = 0.999"
        )
        found.append(
            Finding(
                "no-bias-correction",
                f"the first updates of {name!r} are {size}: {figure:.2g} for each parameter, in units of the rate",
                f"{name}/norm_out",
                run.step(rows[0] if small else rows[1 + int(np.argmax(early))]),
                figure,
                bound,
                why,
                "take gx.scale_by_adam, or bias_correction=True where there is one; or warm up over 1 / (1 - b2) steps",
            )
        )
    return found


def _whole_dividers(tx: GradientTransformation) -> dict[str, bool]:
    """The links that divide all leaves by a second moment and by nothing else: their names, as `probe` gives them, and
    whether they keep an average of the gradients too.
    """
    try:
        parts = tx.body.split(jax.eval_shape(tx.init, {"x": jnp.zeros(2)}), "")
    except Exception:  # groups that want other leaves; somebody's init
        return {}
    plan = tx.plan
    while len(plan.links) == 1 and plan.links[0].inside is not None and plan.links[0].whole is not None:
        inside, whole = plan.links[0].inside, plan.links[0].whole
        plan, parts = inside, whole.parts(parts[0])
    names = named(plan)
    own = [i for i, link in enumerate(plan.flat) if any(link is x for x in plan.links)]
    kept = {names[i]: _kept(link, part) for i, link, part in zip(own, plan.links, parts, strict=True)}
    moments = {roles.SECOND_MOMENT, roles.MOMENT}
    return {
        name: roles.MOMENT in found
        for name, found in kept.items()
        if roles.SECOND_MOMENT in found and found <= moments
    }


def _kept(link: Link, part: Any) -> set[Any]:
    """The roles of what a link over all leaves keeps for each parameter; of other links none."""
    if link.selectors:
        return set()
    known = [link.rule.roles] if link.rule is not None else [roles_of(type(node)) for _, node in nodes(part)]
    return {role for each in known for role in each.values() if role.per_parameter}
