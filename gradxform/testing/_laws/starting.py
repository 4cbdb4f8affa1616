"""A first step; `init` on shapes alone, under jit, and sharing no memory with anybody."""

from typing import Any

import jax

from ..._core.compat import is_key
from .._law import Broken, law
from .._subject import Subject, difference, form_difference, rows


@law("init and update run on a plain tree, eager and traced")
def takes_a_step(s: Subject) -> None:
    params = s.params()
    grads = s.grads(params)
    state = s.attempt(lambda: s.init(params), "tx.init(params)", params=params)
    s.attempt(lambda: s.update(grads, state, params), params=params, grads=grads)
    s.attempt(
        lambda: s.abstract(grads, state, params),
        "jax.jit(tx.update)(grads, tx.init(params), params)",
        params=params,
        grads=grads,
    )


@law("init works on abstract shapes")
def init_shapes(s: Subject) -> None:
    def check(params: Any, grads: Any) -> None:
        del grads
        shapes = jax.eval_shape(s.init, params)
        fact = form_difference(shapes, s.init(params), "eval_shape(tx.init)", weak=False)
        if fact:
            raise Broken(fact)

    s.each(s.steps(shapes=((3,), (2, 3))), check, "jax.eval_shape(tx.init, params)", examples=4)


@law("init gives the same under jit")
def init_jit(s: Subject) -> None:
    params = s.params()
    then = "jax.jit(tx.init)(params)"
    got = s.attempt(lambda: jax.jit(s.init)(params), then, params=params)
    wanted = s.init(params)
    fact = form_difference(got, wanted, "jit(tx.init)") or difference(got, wanted, "jit(tx.init)", rtol=1e-6)
    if fact:
        raise Broken(fact, {"params": params}, then)


@law("a fresh state shares no memory with the parameters or with itself, so it may be donated")
def init_copies(s: Subject) -> None:
    params = s.params()
    owners: dict[int, str] = {}
    for whose, tree in (("params", params), ("state", s.init(params))):
        for path, x in rows(tree):
            if not isinstance(x, jax.Array) or is_key(x) or x.size == 0 or len(x.sharding.device_set) > 1:
                continue
            name = f"{whose} {path}".strip()
            where = x.unsafe_buffer_pointer()
            if whose == "state" and where in owners:
                fact = f"{name} and {owners[where]} are one buffer: donating both crashes"
                step = "jax.jit(tx.update, donate_argnums=(1, 2))(grads, tx.init(params), params)"
                raise Broken(fact, {"params": params, "grads": s.grads(params)}, step)
            owners[where] = name
