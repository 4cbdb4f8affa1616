"""Gradients whose slow part is amplified (Lee et al., Grokfast, 2024, arXiv:2405.20233).

    h_t = alpha h_(t-1) + (1 - alpha) g_t        a running average: what changes slowly
    u_t = g_t + lamb h_t                         is added to the gradient, lamb times

In front of an optimizer: `gx.chain(amplify_slow_gradients(), gx.adamw(1e-3))`.
"""

from typing import NamedTuple

from gradxform import build

__all__ = ["SlowState", "amplify_slow_gradients"]


class SlowState(NamedTuple):
    """The state of `amplify_slow_gradients`: the running average of each gradient."""

    slow: build.Moment


@build.factory
def amplify_slow_gradients(alpha=0.98, lamb=2.0):
    """Adds the slow part of the gradient, `lamb` times.

    **Update**: `g + lamb h`, with `h` the running average of `g`, which starts at zero.

    Args:
        alpha: the decay rate of the average, in [0, 1). A number or a schedule. Larger means slower.
        lamb: how much of the average is added, at least 0. A number or a schedule. 0 changes nothing.

    State: `SlowState(slow)`, one float32 array for each parameter.

    Raises:
        ValueError: for a number out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = amplify_slow_gradients(alpha=0.5, lamb=2.0)
        >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
        >>> updates.tolist(), state.slow.tolist()
        ([2.0, 2.0], [0.5, 0.5])
    """
    if isinstance(alpha, int | float) and not 0 <= alpha < 1:
        raise ValueError(f"amplify_slow_gradients(alpha={alpha}): wanted a number in [0, 1), or a schedule")
    if isinstance(lamb, int | float) and lamb < 0:
        raise ValueError(f"amplify_slow_gradients(lamb={lamb}): wanted a number of at least 0, or a schedule")

    def step(g, s, p, k, leaf):
        del p, leaf
        h = build.ema(g, s.slow, k.alpha)
        return g + k.lamb * h, {"slow": h}

    return build.elementwise(
        step,
        state=SlowState,
        decays={"alpha": alpha},
        scalars={"lamb": lamb},
        # A moment has its parameter's dtype. An average as slow as this one would stand still in bfloat16, as the law
        # `sixteen_tracks` showed.
        dtypes={"slow": "float32"},
    )
