"""The arithmetic that rules share: averages that lose nothing, saturating casts and counts, random bits, rounding.

A decay rate b enters a rule twice, as b and as 1 - b, and bias correction needs 1 - b^t. In float32 the number 0.999 is
off by 1.3e-8, so 1 - b computed from it is off by 1.3e-5 and the first update of Adam by as much. A `Decay` therefore
carries both b and its complement, each rounded once from all that is known of the number: from the double that a
Python float is, or from the two words of a `TwoFloat` when the number is not known until the step runs.

    1 - b^t = -expm1(t * log1p(-(1 - b)))

loses nothing either, because each function is evaluated where it is well conditioned.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .errors import concrete

INT32_MAX = np.iinfo(np.int32).max
#: A magnitude whose square float32 can still add up over 2^31 elements. bfloat16 and float32 reach 2^127.
SQUARABLE = 2.0**48


class TwoFloat(NamedTuple):
    """A number as the unevaluated sum `hi + lo` of two float32 words: about 48 bits, in arrays that JAX can carry.

    `two_float(0.999)` may be passed through `jit` and handed to any factory in the place of a hyperparameter; what is
    derived from it is as exact as from the Python number.
    """

    hi: Any
    lo: Any


def two_float(x: Any) -> TwoFloat:
    """Splits a Python number into a `TwoFloat`.

    Example:
        >>> from gradxform.build import two_float
        >>> pair = two_float(0.999)
        >>> float(pair.hi) + float(pair.lo) == 0.999
        False
        >>> abs(float(pair.hi) + float(pair.lo) - 0.999) < 1e-15
        True
    """
    hi = np.float32(x)
    return TwoFloat(hi, np.float32(float(x) - float(hi)))


class Decay(NamedTuple):
    """A decay rate b with its complement 1 - b, each accurate to half a unit in the last place."""

    value: Any
    complement: Any


def decay_of(x: Any, dtype: Any) -> Decay:
    """The `Decay` of a Python number, a `TwoFloat` or a 0-d array, in `dtype` (float32 or float64)."""
    if isinstance(x, TwoFloat):
        if np.dtype(dtype) == np.float64:
            value = jnp.asarray(x.hi, dtype) + jnp.asarray(x.lo, dtype)
            return Decay(value, 1 - value)
        one = np.float32(1)
        return Decay(x.hi, (one - x.hi) - x.lo)
    if isinstance(x, int | float | np.number):
        return Decay(np.asarray(x, dtype)[()], np.asarray(1.0 - float(x), dtype)[()])
    wide = x if x.dtype.itemsize >= np.dtype(dtype).itemsize else x.astype(dtype)
    return Decay(wide.astype(dtype), (1 - wide).astype(dtype))


def ema(x: Any, average: Any, decay: Decay) -> Any:
    """`b * average + (1 - b) * x`.

    Example:
        >>> import gradxform as gx
        >>> from gradxform import build
        >>> decay = build.Decay(0.75, 0.25)
        >>> build.ema(8.0, 4.0, decay)
        5.0
    """
    return decay.value * average + decay.complement * x


def debias(decay: Decay, t: Any) -> Any:
    """`1 - b^t` for t = 1, 2, ..., the weight that an average started at zero has gathered after t steps.

    Accurate to a few units in the last place for every b in [0, 1) and t up to 10^7 and beyond.

    Example:
        >>> import numpy as np
        >>> from gradxform import build
        >>> decay = build.Decay(np.float32(0.999), np.float32(0.001))
        >>> abs(float(build.debias(decay, np.float32(1000))) / (1 - 0.999**1000) - 1) < 1e-6
        True
    """
    rest = decay.complement
    if not isinstance(rest, jax.Array):
        return -jnp.expm1(t * jnp.log1p(-rest))
    # At b = 0 the logarithm is -Inf: the value is right, but a gradient with respect to b would be NaN.
    inside = -jnp.expm1(t * jnp.log1p(-jnp.where(rest < 1, rest, np.asarray(0.5, rest.dtype))))
    return jnp.where(rest < 1, inside, 1 - decay.value**t)


def abs_sq(x: Any) -> Any:
    """`|x|^2`, real also for complex `x`.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> float(build.abs_sq(jnp.asarray(3.0 + 4.0j)))
        25.0
    """
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return x * x


def quotient(x: Any, y: Any) -> Any:
    """`x / y`, and 0 where `y` is 0: for a rule without an epsilon, where a weight has never seen a gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> build.quotient(jnp.array([0.0, 3.0]), jnp.array([0.0, 2.0])).tolist()
        [0.0, 1.5]
    """
    one = np.asarray(1, y.dtype)
    return jnp.where(y == 0, np.asarray(0, x.dtype), x / jnp.where(y == 0, one, y))


def positive(*values: Any) -> bool:
    """Whether one of these numbers is known, when the transform is built, to be above 0."""
    return any((concrete(value) or 0) > 0 for value in values)


def ratio(*eps: Any) -> Callable[[Any, Any], Any]:
    """The division of a rule with these epsilons: plain, or `quotient` unless one is known to be above 0."""
    return operator.truediv if positive(*eps) else quotient


def side(u: Any, g: Any) -> Any:
    """1 where `u` and `g` point to the same side, -1 where they do not, 0 where one is 0; a product could underflow."""
    if jnp.iscomplexobj(u) or jnp.iscomplexobj(g):
        return jnp.sign(jnp.sign(u).real * jnp.sign(g).real + jnp.sign(u).imag * jnp.sign(g).imag)
    return jnp.sign(u) * jnp.sign(g).astype(u.dtype)


@jax.custom_jvp
def root(x: Any) -> Any:
    """The square root of what is not negative, whose derivative at 0 is 0 and not infinite; NaN stays NaN."""
    # A rule of differentiation and not two selections around the root: XLA copies what stands in front of a cheap
    # expression into every loop that reads it, and for the norm of a tree that is the sum over all leaves. 300 leaves
    # of one number took minutes to compile.
    return jnp.sqrt(x)


@root.defjvp
def _slope(primals: Any, tangents: Any) -> Any:
    y = root(*primals)
    zero, one = np.asarray(0, y.dtype), np.asarray(1, y.dtype)
    return y, jnp.where(y == 0, zero, tangents[0] / (y + y + jnp.where(y == 0, one, zero)))


def filled(value: Any) -> Any:
    """The maker of a slot that starts with every element at `value`, for `init=` of a lift.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> build.filled(0.5)(jnp.zeros(2), None).tolist()
        [0.5, 0.5]
    """

    def make(p: Any, leaf: Any) -> Any:
        del leaf
        return jnp.full_like(p, value, dtype=compute_dtype(p.dtype))

    return make


def next_count(count: Any) -> Any:
    """`count + 1`, staying at the largest value of its dtype instead of wrapping around."""
    top = np.asarray(jnp.iinfo(count.dtype).max, count.dtype)
    return jnp.where(count < top, count + np.asarray(1, count.dtype), top)


def canonical(dtype: Any) -> Any:
    """The dtype that JAX gives to an array of `dtype`: float32 for NumPy's float64 unless double precision is on."""
    return jnp.dtype(jax.dtypes.canonicalize_dtype(dtype))


def compute_dtype(*dtypes: Any) -> Any:
    """The dtype in which a leaf is worked: at least float32, wide enough for all given, complex if one is."""
    given = [canonical(dtype) for dtype in dtypes if dtype is not None]
    floating = [dtype for dtype in given if jnp.issubdtype(dtype, jnp.inexact)]
    double = any(jnp.finfo(dtype).bits > 32 for dtype in floating)
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in floating):
        return jnp.dtype(jnp.complex128 if double else jnp.complex64)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def real_dtype(dtype: Any) -> Any:
    """float32 for complex64, float64 for complex128, the dtype itself otherwise."""
    return jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def _narrows(source: Any, target: Any) -> bool:
    """Whether finite values of `source` can lie beyond the range of `target`."""
    return float(jnp.finfo(source).max) > float(jnp.finfo(target).max)


def cast(x: Any, dtype: Any) -> Any:
    """`x` in `dtype`; a finite value beyond the range of `dtype` becomes its largest finite one, Inf and NaN stay."""
    if x.dtype == dtype:
        return x
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = x.real
    if jnp.issubdtype(dtype, jnp.complexfloating) or not _narrows(x.dtype, dtype):
        return x.astype(dtype)
    wide = x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x  # which cannot hold the bounds of float16
    return saturate(wide, float(jnp.finfo(dtype).max)).astype(dtype)


def saturate(x: Any, limit: float) -> Any:
    """Clips finite values to `[-limit, limit]` and leaves Inf and NaN to be seen."""
    bound = np.asarray(limit, x.dtype)
    return jnp.where(jnp.isfinite(x), jnp.clip(x, -bound, bound), x)


def widen(x: Any, dtype: Any, stored: Any = None) -> Any:
    """A gradient in its compute dtype. Where it or its parameter (of dtype `stored`) has 16 bits it is kept squarable.

    bfloat16 reaches 2^127, whose square float32 cannot hold: one such gradient would leave Inf in `nu` for good.
    """
    wide = x if x.dtype == dtype else x.astype(dtype)
    short = x.dtype == jnp.bfloat16 or (x.dtype == jnp.float32 and stored in (jnp.bfloat16, jnp.float16))
    return saturate(wide, SQUARABLE) if short and dtype == jnp.float32 else wide


# ------------------------------------------------------------------------------------------------ random bits, rounding


def random_bits(seed: Any, step: Any, leaf: int, shape: tuple[int, ...], offset: Any = 0) -> Any:
    """32 random bits an element, from counters alone: the same on any mesh and for any cut of the array.

    Element i of the leaf (in row-major order of the *global* array, `offset` for a slice that starts later) hashes
    `(seed, step, leaf, i)` with the 32-bit finalizer "lowbias32" (C. Wellons, hash-prospector, 2018), once for the
    stream and once an element.

    Args:
        seed: an integer.
        step: the step count.
        leaf: a number that tells leaves apart, as `leaf_number(path)`.
        shape: the shape of the result.
        offset: global index of the first element.

    Example:
        >>> from gradxform import build
        >>> leaf = build.leaf_number("dense/kernel")
        >>> whole = build.random_bits(0, 7, leaf, (6,))
        >>> part = build.random_bits(0, 7, leaf, (2,), offset=4)
        >>> bool((whole[4:] == part).all())
        True
    """
    stream = _mix(
        jnp.asarray(seed, jnp.uint32)
        ^ _mix(jnp.asarray(step, jnp.uint32) ^ _mix(jnp.asarray(leaf, jnp.uint32)))
    )
    size = int(np.prod(shape, dtype=np.int64))
    index = jnp.arange(size, dtype=jnp.uint32).reshape(shape) + jnp.asarray(offset, jnp.uint32)
    return _mix(_mix(index) ^ stream)


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def leaf_number(path: str) -> int:
    """A 32-bit number of a leaf's path (FNV-1a), the same in every process, unlike `hash`.

    Example:
        >>> from gradxform import build
        >>> build.leaf_number("dense/kernel") == build.leaf_number("dense/bias")
        False
    """
    number = 0x811C9DC5
    for byte in path.encode():
        number = ((number ^ byte) * 0x01000193) & 0xFFFFFFFF
    return number


def stochastic_round(x: Any, bits: Any, dtype: Any = jnp.bfloat16) -> Any:
    """float32 to bfloat16, up or down at random in proportion to the distance, so that the mean is exact.

    The low 16 bits of the float32 word decide: adding 16 random bits carries into the upper half with just the right
    probability. Zero and exact values stay; Inf and NaN stay; a finite value never becomes Inf.

    Args:
        x: a float32 array.
        bits: uint32 of the same shape (`random_bits`); its low 16 bits are used.
        dtype: bfloat16, the only target for which the carry trick is exact.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform import build
        >>> x = jnp.full(10_000, 1.0 + 2.0**-9)  # a quarter of the way to the next bfloat16
        >>> rounded = build.stochastic_round(x, build.random_bits(0, 0, 0, x.shape))
        >>> rounded.dtype, abs(float(rounded.astype(jnp.float32).mean()) - float(x[0])) < 1e-4
        (dtype(bfloat16), True)
    """
    if jnp.dtype(dtype) != jnp.bfloat16 or x.dtype != jnp.float32:
        raise TypeError(
            f"stochastic_round: float32 to bfloat16 only, got {x.dtype} to {jnp.dtype(dtype).name}"
        )
    word = jax.lax.bitcast_convert_type(x, jnp.uint32)
    carried = word + (bits & np.uint32(0xFFFF))
    upper = jax.lax.bitcast_convert_type((carried >> np.uint32(16)).astype(jnp.uint16), jnp.bfloat16)
    plain = x.astype(jnp.bfloat16)
    return jnp.where(
        jnp.isfinite(x) & jnp.isfinite(upper), upper, jnp.where(jnp.isfinite(x), _truncate(word), plain)
    )


def _truncate(word: Any) -> Any:
    return jax.lax.bitcast_convert_type((word >> np.uint32(16)).astype(jnp.uint16), jnp.bfloat16)
