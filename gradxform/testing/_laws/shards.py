"""Inside `shard_map` a device sees shards, and a norm, a mean or a sum is to be that of the whole array."""

from typing import Any

import jax
import jax.numpy as jnp

from ..._core.over import OverBody, check_takes_shards
from ..._core.transform import wrap
from .._law import Broken, Inapplicable, law
from .._subject import Subject, difference, filled

#: Cut along both dimensions, along the last, along the first over two axes, and not at all.
SPECS = {
    "w": jax.P("data", "model"),
    "columns": jax.P(None, "model"),
    "b": jax.P(("data", "model")),
    "scale": jax.P(),
}
SHAPES = {"w": (4, 4), "columns": (3, 4), "b": (8,), "scale": (3,)}
STARTS = (0.5, -1.0)
CLOSE = 4e-6


def _tree(start: float) -> dict[str, Any]:
    return {name: jnp.asarray(filled(shape, start), jnp.float32) for name, shape in SHAPES.items()}


def _takes_shards(s: Subject) -> None:
    """Leaves out what does not claim to be right on shards."""
    plan = getattr(s.tx, "plan", None)
    if plan is None:
        raise Inapplicable("it is not made of rules")
    if any(link.selectors for link in plan.flat):
        raise Inapplicable("it chooses leaves by their paths or shapes")
    if set(s.asked) - {"value"}:
        raise Inapplicable("it asks for more than gradients and parameters")
    try:
        for link in plan.flat:
            check_takes_shards(link, "gx.sharding.reduce_over")
    except ValueError as problem:
        raise Inapplicable(str(problem).splitlines()[0].partition(": ")[2]) from None


@law(
    "inside shard_map, on shards, a step is what it is on whole arrays", "8 devices", "own mesh", "own trees"
)
def on_shards(s: Subject) -> None:
    _takes_shards(s)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    over = wrap(OverBody(s.tx, SPECS))
    params, grads = _tree(1.0), [_tree(start) for start in STARTS]
    extra = s.extra(grads[0], params)

    def steps(tx: Any, params: Any, grads: Any) -> Any:
        state, made = tx.init(params), list[Any]()
        for g in grads:
            u, state = tx.update(g, state, params, **extra)
            made.append(u)
        return made

    trees = {"params": params, "grads": grads[0]}
    many = [SPECS] * len(grads)
    cut = jax.shard_map(lambda p, g: steps(over, p, g), mesh=mesh, in_specs=(SPECS, many), out_specs=many)
    both = jax.jit(lambda p, g: (cut(p, g), steps(s.tx, p, g)))
    on_shards, whole = s.attempt(lambda: both(params, grads), params=params, grads=grads[0])
    fact = difference(on_shards, whole, "on shards the update", CLOSE)
    if fact:
        raise Broken(fact, trees)
