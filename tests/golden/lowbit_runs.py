"""What lowbit.npz holds: a handful of arrays, and how each codec stores them first and then again and again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.lowbit.codecs import RootCodec, SignedCodec
from gradxform.lowbit.dynamic import DynamicCodec
from gradxform.lowbit.stored import CastCodec, Form, Quantized, again, stored

CODECS: dict[str, Any] = {
    "root8": RootCodec(8),
    "root4": RootCodec(4),
    "signed8": SignedCodec(8),
    "signed4": SignedCodec(4),
    "dynamic": DynamicCodec(signed=True),
    "dynamic_unsigned": DynamicCodec(signed=False),
    "bfloat16": CastCodec(),
}
SALT, WRITINGS = 0x1234567, 3


def arrays() -> dict[str, np.ndarray]:
    """Numbers of all scales, rows by kind; short axes that are folded; one axis; sizes that no block divides."""
    rng = np.random.default_rng(20261122)
    rows = [np.exp(spread * rng.standard_normal(131)) for spread in (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)]
    rows += [1e-30 * rows[3], 1e30 * rows[3], 10.0 ** rng.uniform(-37.9, 38.3, 131), np.zeros(131)]
    rows += [rows[3] * (rng.random(131) < 0.1), rows[4].copy(), rows[4].copy(), 1e-40 * rows[1]]
    rows[13][[3, 70]], rows[14][[90, 129]] = [np.nan, np.inf], [-np.inf, np.nan]
    rows += [np.where(np.arange(131) % 2, 1e-41, rows[5])]
    signs = np.sign(rng.standard_normal((len(rows), 131)))
    return {
        "rows": (np.abs(rows) * signs).astype(np.float32),
        "folded": (rng.standard_normal((27, 3)) * 10.0 ** rng.integers(-3, 3, (27, 3))).astype(np.float32),
        "line": rng.standard_normal(65).astype(np.float32),
        "half": rng.standard_normal((2, 70)).astype(np.float16).astype(np.float32),
    }


def given(name: str, x: np.ndarray) -> Any:
    """An array as a codec takes it: without signs where it has none."""
    return jnp.asarray(np.abs(x) if name in ("root8", "root4", "dynamic_unsigned") else x)


def writings(name: str, x: Any) -> tuple[Any, Any]:
    """`x` stored for the first time, to nearest, and its codes in the writings behind it, by thresholds."""
    first = stored(Form(CODECS[name], "float32", "mu", salt=SALT), x)

    def write(old: Quantized, _: None) -> tuple[Quantized, Any]:
        new = again(x, old)
        return new, new.codes

    return first, jax.lax.scan(write, first, None, length=WRITINGS)[1]


def encoded(name: str, given: dict[str, Any]) -> dict[str, np.ndarray]:
    """The codes and scales of one codec for all arrays, compiled as one program."""
    made: dict[str, np.ndarray] = {}
    for key, (first, later) in jax.jit(lambda: {k: writings(name, x) for k, x in given.items()})().items():
        made[f"{key}/{name}/0/codes"] = words(first.codes)
        made |= {f"{key}/{name}/{i + 1}/codes": words(codes) for i, codes in enumerate(later)}
        if first.scales is not None:
            made[f"{key}/{name}/scales"] = words(first.scales)
    return made


def words(x: Any) -> np.ndarray:
    """As integers, so that a NaN is equal to itself and NumPy knows the dtype."""
    x = np.asarray(x)
    return x if x.dtype.kind in "iu" else x.view(f"u{x.dtype.itemsize}")
