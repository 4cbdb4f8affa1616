"""`check_lowbit`: a short run of a low-bit state beside float32, before it is trusted with a long one."""

from collections.abc import Callable, Mapping
from typing import Any

from .verdict import LowbitReport


def check_lowbit(
    tx: Any,
    *,
    reference: Any = None,
    params: Any = None,
    gradients: Any = None,
    steps: int | None = None,
    seed: int = 0,
    read: Callable[[Any], Any] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> LowbitReport:
    """Runs a low-bit state beside its float32 twin for some seconds and says whether it can be trusted.

    Both see the same gradients. The built-in ones are of one size, of sizes that differ by rows and columns, by a power
    of the column, by coordinate; one in which half of every block falls to a tenth, for as long as the second moment
    takes to forget; and one whose drift turns, for as long as the first moment takes. How long that is, is measured on
    the float32 state.

    Args:
        tx: a transform with `gx.lowbit.quantized` anywhere inside; one without, and `quantized(tx)` is checked; or
            anybody's own low-bit transform, with its `reference`.
        reference: the float32 twin. By default `tx` with `quantized` taken out.
        params: parameters, for a transform that goes by their names and shapes; the built-in gradients are then made
            for these. By default one kernel of 8,192 numbers.
        gradients: trees of gradients, an iterable of them or one tree with a leading axis of time. By default the
            built-in ones.
        steps: the most steps of one stream; by default 8 time constants, and at most 10,000.
        seed: of the gradients and of parameters that are not given.
        read: makes of the state of somebody's own transform one with arrays, in the classes of the reference's state.
            Without it, and if the state's moments are codes, only steps are compared.
        bounds: other bounds for figures by name, `{"direction": 0.1}`; the names are those of the guide.

    Returns:
        A `LowbitReport`: printed it is a table; it is true if every figure is within its bounds.

    Raises:
        TypeError: for complex parameters or gradients.
        ValueError: for gradients of another tree than the parameters, that are not finite, or that are too few; for a
            `quantized` inside of a closure, which cannot be taken out; for bounds that there are not.

    Example:
        >>> import jax, gradxform as gx
        >>> gradients = jax.random.normal(jax.random.key(0), (48, 64, 128))
        >>> report = gx.lowbit.check_lowbit(gx.lowbit.quantized(gx.ema(0.9)), gradients=gradients)
        >>> report.ok, report.of("correlation")[0].value > 0.99
        (True, True)
    """
    from . import trial  # here, for it is much code that an import of gradxform shall not wait for

    return trial.run(
        tx,
        reference=reference,
        params=params,
        gradients=gradients,
        steps=steps,
        seed=seed,
        read=read,
        bounds=bounds,
    )
