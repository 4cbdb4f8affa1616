"""Moving average: gradients averaged, with a memory that fades exponentially.

    m_t = decay m_{t-1} + (1 - decay) g_t            `ema` in the state
    u_t = m_t / (1 - decay^t)                        with `debias`

g is the gradient, t = 1, 2, ... the step. `trace` is the sum that has no `1 - decay` in front of g.
"""

from typing import Any

import optax

from .._core.errors import check_flag, check_number
from .._core.factory import factory
from .._core.lift import elementwise
from .._core.numerics import debias as corrected, ema as average


@factory(sample={"decay": 0.9})
def ema(decay: Any, debias: bool = True, accumulator_dtype: Any = None):
    """An exponential moving average of the updates, in their place.

    **Update**: `m = decay m + (1 - decay) g`, then `u = m / (1 - decay^t)`, or `u = m` without `debias`.

    Args:
        decay: in [0, 1); larger means smoother and slower, about 1 / (1 - decay) steps of memory.
        debias: whether the average is divided by the weight that it has gathered; without, the first step is
            `1 - decay` of a gradient.
        accumulator_dtype: storage of the average; None is the parameter's dtype, but float32 for a 16-bit parameter.

    State: `optax.EmaState(count, ema)`: one number a parameter; roles count, moment.

    Reach: element.

    Returns:
        A transform whose update has the size of a gradient.

    Raises:
        ValueError: for a decay outside [0, 1).

    Example:
        >>> import gradxform as gx
        >>> tx = gx.ema(0.75)
        >>> _, state = tx.update(4.0, tx.init(0.0))
        >>> round(float(tx.update(8.0, state)[0]), 4)
        6.2857

    Differs from Optax: a 16-bit average is kept in float32, since bfloat16 stops moving at half of its target for a
    decay of 0.999; the correction loses nothing to cancellation; the decay may be a schedule.
    """
    check_number("ema", "decay", decay, low=0, high=1, open_high=True)
    check_flag("ema", "debias", debias)

    def once(c: Any) -> dict[str, Any]:
        return {"c": 1 / corrected(c.decay, c.t)} if debias else {}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p, leaf
        m = average(g, s.ema, k.decay)
        return (k.c * m if debias else m), {"ema": m}

    return elementwise(
        step,
        once=once,
        state=optax.EmaState,
        decays={"decay": decay},
        dtypes={"ema": accumulator_dtype},
        wide=("ema",),
    )
