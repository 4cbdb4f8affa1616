"""A transform and one rule behind it: what `average_params` and `project` are.

It is a chain of two links, state and passes included, except that the links of the transform keep the addresses that
they have without the rule: a wrapper that is put around a recipe renames nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.numerics import cast
from .._core.plan import Lowering, Route
from .._core.transform import GradientTransformation
from .chain import ChainBody


class BehindBody(ChainBody):
    """`inner`, then `link` under the address `name`; the state is the pair of their states."""

    def __init__(self, inner: GradientTransformation, link: GradientTransformation, name: str) -> None:
        super().__init__((inner, link), (inner.label or "tx", name), named=False)
        self.label, self.name = inner.label, name

    def lower(self, lowering: Lowering, route: Route) -> Route:
        inner, link = self.links
        behind = route.after(inner.body.lower(lowering, route))
        return route.after(link.body.lower(lowering, lowering.enter(behind, self.name)))

    def split(self, state: Any, address: str) -> list[Any]:
        inner, link = self.links
        inner_state, own = self._unpack(state, address)
        where = f"{address}/{self.name}" if address else self.name
        return [*inner.body.split(inner_state, address), *link.body.split(own, where)]


def stored(p: Any, u: Any, dtype: Any) -> Any:
    """What `apply_updates` will store: `p + u` with both roundings to the parameter's `dtype`, in the dtype of `p`.

    A rule sees 16-bit parameters in float32. XLA may leave out a conversion to 16 bits and back, and so keep digits
    that the parameter will not have; `reduce_precision` it never leaves out.
    """
    if p.dtype == dtype:
        return p + u
    if jnp.iscomplexobj(p):
        return cast(p + cast(u, dtype).astype(p.dtype), dtype).astype(p.dtype)
    return rounded(p + rounded(cast(u, dtype).astype(p.dtype), dtype), dtype)


def rounded(x: Any, dtype: Any) -> Any:
    """`x` rounded to the numbers of `dtype`, in its own dtype."""
    if x.dtype == dtype:
        return x
    if jnp.iscomplexobj(x):
        return x.astype(dtype).astype(x.dtype)
    info: Any = jnp.finfo(dtype)
    near = jax.lax.reduce_precision(x, int(info.nexp), int(info.nmant))
    if int(info.minexp) <= int(jnp.finfo(x.dtype).minexp):
        return near
    # `reduce_precision` makes zero of what float16 keeps below its normal numbers, in equal steps.
    unit = np.asarray(info.smallest_subnormal, x.dtype)
    return jnp.where(jnp.abs(x) < np.asarray(info.tiny, x.dtype), jnp.round(x / unit) * unit, near)
