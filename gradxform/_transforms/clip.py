"""Clipping: bounds on an element, on an array, on the whole gradient, or on a unit relative to its weights.

    clip                    u = min(max(g, -c), c)
    clip_by_block_rms       u = g / max(1, rms(g) / c)                     per array
    clip_by_global_norm     u = g min(1, c / |g|)                          |g| over all leaves
    adaptive_grad_clip      u = g min(1, c max(|p|_i, eps) / |g|_i)        per unit i of an array

The clip of the global norm is one number a step; a chain multiplies it into its neighbour's loop.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._core.errors import check_number, short
from .._core.factory import factory
from .._core.lift import elementwise, leafwise, treewise
from .._core.numerics import abs_sq, root


@factory(sample={"max_delta": 1.0})
def clip(max_delta: Any):
    """Bounds every element.

    **Update**: `u = min(max(g, -max_delta), max_delta)`.

    Args:
        max_delta: at least 0, in the unit of what comes in. It changes the direction; for gradients
            `clip_by_global_norm` is usually what is wanted.

    Reach: element, no state.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.clip(1.0).update(jnp.array([-3.0, 0.5]), ())[0].tolist()
        [-1.0, 0.5]
    """
    check_number("clip", "max_delta", max_delta, low=0, infinite=True)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, leaf
        return jnp.clip(g, -k.max_delta, k.max_delta)

    return elementwise(step, scalars={"max_delta": max_delta}, bounds=True)


@factory(sample={"threshold": 1.0})
def clip_by_block_rms(threshold: Any, *, axis_names: Any = None):
    """Bounds the root mean square of every array.

    **Update**: `u = g / max(1, rms(g) / threshold)`, `rms(g) = sqrt(mean(g^2))` over the array.

    Args:
        threshold: above 0, in the unit of what comes in; 1 behind Adam or Adafactor.
        axis_names: inside `shard_map`, the mesh axes over which arrays are shards; see `clip_by_global_norm`.

    Reach: leaf, no state. For stacked layers wrap it in `gx.per_layer`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.clip_by_block_rms(1.0).update(jnp.array([2.0, -2.0]), ())[0].tolist()
        [1.0, -1.0]

    References: Shazeer & Stern, Adafactor, 2018, arXiv:1804.04235, section 6.
    """
    check_number("clip_by_block_rms", "threshold", threshold, low=0, open_low=True, infinite=True)

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p
        rms = root(leaf.mean(abs_sq(g)))
        return g / jnp.maximum(np.asarray(1, rms.dtype), rms / k.threshold)

    return leafwise(step, scalars={"threshold": threshold}, axis_names=axis_names, sharded=True, bounds=True)


@factory(label="clip", sample={"max_norm": 1.0})
def clip_by_global_norm(max_norm: Any, *, axis_names: Any = None):
    """Bounds the Euclidean norm of the whole gradient and keeps its direction.

    **Update**: `u = g min(1, max_norm / |g|)` with `|g|` over all leaves, summed in float32 or wider.

    Args:
        max_norm: at least 0; a number or a schedule. 1.0 is usual for transformers.
        axis_names: for use inside `shard_map`: the mesh axes over which gradients are *shards*. Each leaf's part is
            summed over those of the axes on which it varies. A mapping from path patterns to axes says it by hand, for
            `check_vma=False`; `()` says that each device has whole arrays, or shall use its own number.
            Under `jit` arrays are whole and nothing is needed.

    Reach: tree (one sum), no state unless `max_norm` is a schedule.

    Raises:
        ValueError: inside `shard_map`, if a leaf varies over an axis and `axis_names` was not given.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
        >>> updates, _ = gx.clip_by_global_norm(1.0).update(grads, ())
        >>> round(float(updates["a"][0]), 6), round(float(updates["b"][0]), 6)
        (0.6, 0.8)

    Differs from Optax: the norm of 16-bit gradients is summed in float32 (Optax: fp16 gradients of norm 600 come out as
    zero), an all-zero gradient stays zero for `max_norm=0`, an Inf stays Inf (Optax: NaN), and no clipped copy of the
    gradients is made.

    References: Pascanu et al., On the difficulty of training recurrent neural networks, 2012, arXiv:1211.5063.
    """
    check_number("clip_by_global_norm", "max_norm", max_norm, low=0, infinite=True)

    def reduce(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, k, leaf
        return jnp.sum(abs_sq(g))

    def once(c: Any) -> dict[str, Any]:
        norm = root(c.sums)
        one = np.asarray(1, c.dtype)
        # Written so that NaN passes on (a comparison with NaN is false), 0 / 0 is not formed, and neither is 0 * Inf:
        # an infinite norm leaves next to nothing of the finite entries, and Inf where it is, for a guard to see.
        factor = jnp.where(norm <= c.max_norm, one, c.max_norm / jnp.where(norm == 0, one, norm))
        return {"factor": jnp.where(jnp.isinf(norm), np.asarray(jnp.finfo(c.dtype).tiny), factor)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s, p, leaf
        return k.factor * g

    return treewise(
        step,
        reduce=reduce,
        once=once,
        scalars={"max_norm": max_norm},
        axis_names=axis_names,
        sharded=True,
        bounds=True,
        call="clip_by_global_norm",
    )


def _unit_axes(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The axes over which one unit of an array extends: all of a vector, the inputs of a matrix or convolution."""
    if axis is not None:
        axes = tuple(int(a) for a in np.atleast_1d(axis))
        if any(not -len(shape) <= a < len(shape) for a in axes):
            raise ValueError(
                f"gx.adaptive_grad_clip(axis={axis}): an array of shape {shape} has no such axis"
            )
        return axes
    if sum(size != 1 for size in shape) <= 1:
        return tuple(range(len(shape)))
    by_rank = {2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}
    if len(shape) not in by_rank:
        raise ValueError(
            f"gx.adaptive_grad_clip: no convention for an array of shape {shape}; "
            "say which axes make up one unit, axis=(...)"
        )
    return by_rank[len(shape)]


@factory(sample={"clipping": 0.01})
def adaptive_grad_clip(clipping: Any, eps: Any = 1e-3, axis: Any = None, *, axis_names: Any = None):
    """Bounds each unit's gradient by its weights' norm.

    **Update**: for each unit i (a row of inputs of one output) `u_i = g_i min(1, clipping max(|p_i|, eps) / |g_i|)`.

    Args:
        clipping: the largest ratio of gradient norm to weight norm, above 0; 0.01 to 0.08 in the paper.
        eps: a floor for the weight norm, so that zero weights can move.
        axis: the axes that make up one unit. None: everything for vectors, axis 0 for matrices and 3-d arrays, all but
            the last for 4-d and 5-d convolution kernels.
        axis_names: inside `shard_map`, the mesh axes over which arrays are shards; where a unit is part
            of an array, by `jax.P(...)` as in `gx.sharding.reduce_over`.

    Reach: leaf, no state. Needs `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> gx.adaptive_grad_clip(0.5).update(jnp.array([3.0, 4.0]), (), jnp.array([0.0, 1.0]))[0].tolist()
        [0.30000001192092896, 0.4000000059604645]

    References: Brock et al., High-performance image recognition without normalization, 2021, arXiv:2102.06171.
    """
    check_number("adaptive_grad_clip", "clipping", clipping, low=0, open_low=True, infinite=True)
    check_number("adaptive_grad_clip", "eps", eps, low=0)
    if axis is not None and np.asarray(axis).dtype.kind != "i":
        raise TypeError(
            f"gx.adaptive_grad_clip(axis={short(axis)}): wanted the number of an axis or a tuple of them"
        )

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del s
        axes = _unit_axes(leaf.shape if g.ndim > 1 else g.shape, axis)
        size = jnp.sqrt(leaf.sum(abs_sq(g), axes, keepdims=True))
        most = k.clipping * jnp.maximum(jnp.sqrt(leaf.sum(abs_sq(p), axes, keepdims=True)), k.eps)
        factor = jnp.where(
            size <= most,
            np.asarray(1, size.dtype),
            most / jnp.where(size == 0, np.asarray(1, size.dtype), size),
        )
        return jnp.broadcast_to(factor, g.shape) * g

    return leafwise(
        step,
        scalars={"clipping": clipping, "eps": eps},
        needs=("params",),
        axis_names=axis_names,
        sharded=True,
        bounds=True,
    )
