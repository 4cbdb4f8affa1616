"""`exact_master`: bfloat16 weights and 16 bits more, which together are float32 weights.

A float32 word w (sign s, magnitude m, the 31 bits below) is cut into a bfloat16 p and a remainder r in [-2^15, 2^15):

    |p| = (m + 2^15) >> 16,  r = m - (|p| << 16) = the low 16 bits of m, signed        s goes with p

and back m = (|p| << 16) + r. Magnitudes of IEEE numbers are ordered as integers, so p is the nearest bfloat16 of w, a
carry runs into the exponent as it should, and the cut is a bijection for every finite p. A tie goes away from zero; not
to even, and no 16 bits could: an even p is the nearest-even of 2^16 + 1 words.

What comes out of `update` must take p to the new p' when it is *added*. That is d = p' - p, and no update in bfloat16
does it: from 1/2 to 129 either neighbour of d = 128.5 gives a tie, which goes to 128 or to 130; from 1 to -1/1024 none
comes near. In float32 with u = fl(d):

    |p'| >= 2^-13 |p|:   |u - d| <= 2^-24 |d| is less than a quarter of the gaps around p', so p + u rounds to p'.
    |p'| <  2^-13 |p|:   the master has cancelled, M' = M + u is exact (Sterbenz), and so M', p' and d are multiples of
                         one unit, of which |d| has at most 2^24 and is a float32: p + fl(d) = p'. But for one case.
    |p| = 2^k, M < 2^k:  where M has been rounded up to a power of two and M' has the other sign, |d| = |p| + |p'| needs
                         one bit more if p' is an odd multiple of 2^-24 |p|, which only |p'| < 2^-16 |p| is.

In the last case, and where a device takes subnormal numbers for zero, the sum is not p'. It is computed here as
`apply_updates` will, and if it is not p', the master becomes what is stored, with remainder 0: the pair is never of two
different numbers, and the master has moved by less than one unit in the last place that it had before the step.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core import compat, door
from .._core.errors import describe_array, leaf, say
from .._core.factory import factory
from .._core.nested import Inner, NestedBody
from .._core.numerics import compute_dtype, widen
from .._core.roles import Residual
from .._core.states import beside, nodes
from .._core.transform import GradientTransformation, as_transform, wrap
from .._core.tree import (
    View,
    as_array,
    difference,
    gather,
    is_absent,
    is_float0,
    is_inexact,
    spread,
    tree_map,
    view,
)

_SIGN, _HALF, _INF = np.int32(0x8000), np.int32(0x8000), np.int32(0x7F80)
#: The largest magnitude whose nearest bfloat16 is finite.
_TOP = np.int32(0x7F7F7FFF)


class ExactMasterState(NamedTuple):
    """The state of `exact_master`: the low halves of the master weights (uint16), and the state of its transform."""

    remainder: Residual
    inner_state: Any


def cut(master: Any) -> tuple[Any, Any]:
    """float32 as the nearest bfloat16, a tie away from zero, and the remainder as uint16.

    A finite number stays finite: in the last half of a step below infinity it is the largest one that rounds down. A
    NaN is the default one; NaN and Inf have no remainder.
    """
    word = jax.lax.bitcast_convert_type(master, jnp.int32)
    sign, size = (word >> 16) & _SIGN, word & np.int32(0x7FFFFFFF)
    finite = size < (_INF << 16)
    size = jnp.minimum(size, _TOP)
    nan = jnp.where(jnp.isnan(master), np.int32(0x7FC0), _INF)
    upper = sign | jnp.where(finite, (size + _HALF) >> 16, nan)
    lower = jnp.where(finite, size & np.int32(0xFFFF), np.int32(0))
    return jax.lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16), lower.astype(jnp.uint16)


def joined(p: Any, remainder: Any) -> Any:
    """The float32 of a bfloat16 and a remainder; `p` itself where it is not finite."""
    word = jax.lax.bitcast_convert_type(p, jnp.uint16).astype(jnp.int32)
    sign, upper = word & _SIGN, word & np.int32(0x7FFF)
    rest = jax.lax.bitcast_convert_type(remainder, jnp.int16).astype(jnp.int32)
    # A zero with a negative remainder is made by nobody but who changes the weights.
    size = jnp.maximum((upper << 16) + jnp.where(upper < _INF, rest, np.int32(0)), np.int32(0))
    return jax.lax.bitcast_convert_type(size | (sign << 16), jnp.float32)


def moved(p: Any, remainder: Any, u: Any) -> tuple[Any, Any]:
    """The update that takes `p` to the bfloat16 of the new master, and the new remainder; `u` moves the master."""
    new, rest = cut(joined(p, remainder) + u)
    old, wanted = p.astype(jnp.float32), new.astype(jnp.float32)
    limit = np.asarray(jnp.finfo(jnp.float32).max)
    change = wanted - old
    change = jnp.where(jnp.isfinite(wanted), jnp.clip(change, -limit, limit), change)
    # What does not move gets the zero that changes nothing, and that is -0 for -0; Inf - Inf would be NaN.
    zero = jnp.where(_word(old) << 1 == 0, old, np.float32(0))
    change = jnp.where(_word(wanted) == _word(old), zero, change)
    stored = jax.lax.reduce_precision(old + change, 8, 7)
    agrees = (_word(stored) == _word(wanted)) | jnp.isnan(wanted)
    return change, jnp.where(agrees, rest, np.uint16(0))


def _word(x: Any) -> Any:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _split(p: Any) -> bool:
    """Whether this parameter has a master in two halves."""
    return not is_absent(p) and not is_float0(p) and p.dtype == jnp.bfloat16


class ExactMasterBody(NestedBody):
    call = "exact_master"
    exact = True

    def __init__(self, inner: GradientTransformation) -> None:
        super().__init__(inner, ExactMasterState)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("params",)

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> ExactMasterState:
        rows = view(params)
        for path, p in zip(rows.paths, rows.places, strict=True):
            _check("init of exact_master", path, p)
        masters = tree_map(lambda p: p.astype(jnp.float32) if _split(jnp.asarray(p)) else p, params)
        return self.start(params, self.inner.body.init(masters, stacked))

    def start(self, params: Any, inner_state: Any) -> ExactMasterState:
        def empty(p: Any) -> Any:
            return jnp.zeros_like(p, dtype=jnp.uint16) if _split(jnp.asarray(p)) else optax.MaskedNode()

        return ExactMasterState(tree_map(empty, params), inner_state)

    def step(
        self, inner: Inner, updates: Any, state: ExactMasterState, params: Any, extra: Mapping[str, Any]
    ) -> tuple[Any, ExactMasterState]:
        who = inner.address or "exact_master"
        rows, ps = view(updates), view(params).places
        rests = _stored(who, state, rows, ps)
        masters = [joined(jnp.asarray(p), r) if _split(p) else p for p, r in zip(ps, rests, strict=True)]
        grads = [_wide_gradient(g, p) for g, p in zip(rows.places, ps, strict=True)]
        unflatten = rows.treedef.unflatten
        new, inner_state = inner(unflatten(grads), state.inner_state, unflatten(masters), extra)
        made: list[Any] = []
        for p, r, u in zip(ps, rests, spread(new, rows), strict=True):
            still = is_absent(u) or is_float0(u) or not _split(p)
            u = jnp.asarray(u).astype(jnp.float32) if not still else u
            made.append((u, r) if still else moved(jnp.asarray(p), r, u))
        remainder = gather([r for _, r in made], state.remainder, rows)
        return unflatten([u for u, _ in made]), ExactMasterState(remainder, inner_state)


def _wide_gradient(g: Any, p: Any) -> Any:
    """The gradient of a master: in float32, and kept squarable if it is of bfloat16."""
    if not _split(p) or is_absent(g) or is_float0(g) or not is_inexact(g):
        return g
    g = jnp.asarray(g)
    return compat.strong(widen(g, compute_dtype(g.dtype)), jnp.dtype(jnp.float32))


def _check(who: str, path: str, p: Any) -> None:
    p = as_array(p, path, who, "the parameters")
    if not is_absent(p) and p.dtype == jnp.float16:
        fact = f"{who}: {leaf(path)} is {describe_array(p)}, which 16 bits more do not make a float32"
        raise TypeError(say(fact, "keep it in bfloat16 or float32, or leave it out with gx.masked"))


def _stored(who: str, state: ExactMasterState, rows: View, ps: list[Any]) -> list[Any]:
    """The remainders as rows, held against the parameters."""
    try:
        stored = spread(state.remainder, rows)
    except (ValueError, TypeError):
        problem = difference(rows, view(state.remainder), "the updates", "the state's remainder")
        raise ValueError(say(f"{who}: {problem or 'they differ'}", door.REMEDY)) from None
    for path, p, r in zip(rows.paths, ps, stored, strict=True):
        _check(who, path, p)
        if is_absent(p) or (is_absent(r) and not _split(p)):
            continue
        fits = _split(p) and not is_absent(r) and r.dtype == jnp.uint16 and np.shape(r) == np.shape(p)
        if not fits:
            got = "none" if is_absent(r) else describe_array(r)
            fact = f"{who}: {leaf(path)} is {describe_array(p)}, its remainder in the state {got}"
            wanted = f"{door.REMEDY} A bfloat16 parameter has a remainder of uint16, another one none"
            raise ValueError(say(fact, wanted))
    return stored


@factory(label="")
def exact_master(tx: Any):
    """Trains bfloat16 weights as if they were float32: the other 16 bits of each weight are kept in the state.

    A step of 1e-4 of a weight is lost in bfloat16, whose steps are 1/256. The usual remedy is a float32 copy, 6 bytes a
    weight; the two halves are 4, and nothing is rounded that float32 would not round. The gradient is taken at the
    nearest bfloat16 of each weight.

    **Update**: `bf16(w + u) - bf16(w)`, where `w` is the float32 master of the weight and `u` what `tx` makes of the
    gradient in float32, with `w` as its parameter; `w + u` is the next master.

    Args:
        tx: any transform, ours or Optax's, with its learning rate. It is given float32 parameters (the masters) and
            float32 gradients, and its state is that of float32 parameters, 8 bytes a parameter for Adam.

    State: `ExactMasterState(remainder, inner_state)`; a uint16 for each bfloat16 parameter, role residual; begins at 0.

    Reach: that of `tx`. Needs `params`.

    Returns:
        A transform whose update of a bfloat16 parameter is **float32**: where a weight changes by more than half of
        itself, often no bfloat16 takes it to where it should be. `gx.apply_updates`, and `optax.apply_updates` where
        JAX promotes dtypes, then store the nearest bfloat16 of the master, to the last bit (a tie goes away from zero).
        Put it outermost but for `gx.guard`, `gx.accumulate`, `gx.loss_scale`, `gx.tunable`, `gx.average_params` and
        groups; clips, projections and whatever else changes an update go inside and work on the masters. Links of ours
        that change its updates are refused; those in a chain of Optax's are not seen, and low bits would be lost.

    Leaves of other dtypes are passed on: float32, float64 and complex ones are trained as without the wrapper, integers
    and absent ones are carried.

    The weights are those that the last update made. Where somebody else has changed them (a checkpoint of weights
    only, a projection outside), the master is the new weight and the old remainder together: it rounds to the new
    weight, and is at most half a step of bfloat16 from it. Make a new state, or zero the remainders, to start from
    the new weights themselves.

    The masters are those of float32 training, bit for bit where XLA compiles both alike: it contracts the last product
    of an update and the sum behind it into one operation, or does not, as it likes, in either program. There are these
    exceptions. (1) A finite master above 3.396e38, which would round to Inf, becomes the largest that does not. (2) A
    master that rounds up to a power of two and in one step changes its sign and becomes less than 2^-16 of what it
    was may end one unit in its former last place away. (3) On devices that take subnormal numbers for 0 (XLA's CPU,
    TPUs), weights below 2e-36 may lose their remainders.

    Raises:
        TypeError: for a float16 parameter: float16 is not a part of float32.
        ValueError: if `params` are missing, or are not those of the state.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.array([1.0, -3.0], jnp.bfloat16)}
        >>> tx = gx.lowbit.exact_master(gx.sgd(1e-3))
        >>> state = tx.init(params)
        >>> for _ in range(10):  # steps of 1/1000, where bfloat16 has steps of 1/128 and 1/64
        ...     updates, state = tx.update({"w": jnp.array([-1.0, 0.0])}, state, params)
        ...     params = gx.apply_updates(params, updates)
        >>> params["w"].astype(jnp.float32).tolist()
        [1.0078125, -3.0]
        >>> round(float(gx.lowbit.master_params(state, params)["w"][0]), 6)
        1.01

    Differs from Transformer Engine: its `FusedAdam(store_param_remainders=True)` is the same cut for Adam on CUDA only.

    References: Micikevicius et al., Mixed Precision Training, 2018, arXiv:1710.03740 (why float32 masters).
    """
    return wrap(ExactMasterBody(as_transform(tx, "gx.lowbit.exact_master(tx)")))


def master_params(state: Any, params: Any) -> Any:
    """The float32 master weights of `exact_master`, for evaluation or a checkpoint.

    Args:
        state: the state of any transform with `exact_master` in it, also `nnx.Optimizer.opt_state` or
            `TrainState.opt_state`; it may be traced.
        params: the parameters that are trained, after the same step.

    Returns:
        A tree with the structure of `params`: float32 in the place of bfloat16 parameters that have a master, the
        parameter itself elsewhere.

    Raises:
        ValueError: if the state has no `exact_master` in it, or belongs to other parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.zeros(2)}
        >>> tx = gx.lowbit.exact_master(gx.adamw(1e-3))
        >>> gx.lowbit.master_params(tx.init(params), params)["w"].dtype
        dtype('float32')
    """
    who = "gx.lowbit.master_params"
    found = [node for _, node in nodes(state) if isinstance(node, ExactMasterState)]
    if not found:
        fact = f"{who}(state, params): the state has no gx.lowbit.exact_master in it"
        raise ValueError(say(fact, "without one, the parameters are all that there is"))

    def one(p: Any, remainder: Any) -> Any:
        if p.dtype != jnp.bfloat16:
            fact = f"{who}: a parameter with a remainder is {describe_array(p)}, wanted bfloat16"
            raise ValueError(say(fact, "pass the parameters that belong to this state"))
        return joined(jnp.asarray(p), jnp.asarray(remainder))

    for node in found:
        params = beside(who, one, params, node.remainder, "remainder")
    return params
