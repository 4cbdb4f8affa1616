"""bitsandbytes' 8-bit state: its codes for one array, and its checkpoints as float32 moments.

An array is cut, in row-major order and without regard to its axes, into blocks of 256 numbers, the last one short. A
block is stored as its largest magnitude (float32) and one byte a number:

    a = max |x|        y = x * (1 / a)        code = Q(y)        x ~ map[code] * a

with the signed dynamic map for a first moment and the unsigned one for a second. Which code is Q(y) differs from one
of its kernels to the next (0.50.2), hence `rule`:

"nearest"   Its kernel in torch operations. The nearest number of the map; halfway between two, the lower one.
"cuda"      Its CUDA optimizers. To nearest, but what is negative gets a negative code: the smallest, -5.5e-7 a, in the
            place of zero. This includes -0. (Its binary search takes a tie to either side, depending on the place, and
            its division is an approximate one: a code beside a midpoint can be off by one. Not measured here.)
"cpu"       Its C++ kernel. y is first rounded to one of 65,536 numbers -1 + 2 i / 65535, and zero is not one of them:
            what is smaller than 3e-5 a becomes 2.1e-5 a in a first moment, zero included, and 1.6e-5 a in a second;
            7 and 11 of the 15 codes below 1e-4 a are never used. A block of zeros gets code 0; its a is 0.

All three are exact functions of y, looked up in a table (`search`). We differ where float32 is subnormal: x and a
below 2^-126 count as zero, and above a = 2^126 our y is the more exact one.

Nearest rounding stalls: a second moment at b2 = 0.999 does not decay any more. Use this to go on
with a run of theirs or to compare with one, not for a run of your own.

Dettmers, Lewis, Shleifer, Zettlemoyer, 8-bit Optimizers via Block-wise Quantization, 2021.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from .._core.eight_bits import BLOCK, Entry
from .._core.errors import describe_array, leaf, say
from .._core.tree import is_absent, view
from .maps import dynamic_map, midpoints
from .search import Search, find, search_table

_WHO = "lowbit.bitsandbytes.read_state"
Rule = Literal["nearest", "cuda", "cpu"]


def encode(x: Any, signed: bool, rule: Rule = "nearest") -> tuple[Any, Any]:
    """bitsandbytes' codes of one array.

    Args:
        x: an array of floating dtype and any shape; it is worked in float32.
        signed: the signed map, for a first moment; or the unsigned one, where what is negative becomes 0.
        rule: whose rounding, see above: "nearest", "cuda" or "cpu".

    Returns:
        `(codes, absmax)`: uint8 shaped like `x`, float32 of one number a block. Of a block with a
        NaN or an Inf no number comes back finite.

    Raises:
        TypeError: for anything but real floating numbers.
        ValueError: for another rule.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform.lowbit.bitsandbytes import decode, encode
        >>> codes, absmax = encode(jnp.array([0.0, 0.5, -2.0]), signed=True)
        >>> codes.tolist(), absmax.tolist()
        ([127, 201, 0], [2.0])
        >>> [round(x, 3) for x in decode(codes, absmax, signed=True).tolist()]
        [0.0, 0.495, -1.986]
    """
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"lowbit.bitsandbytes.encode: wanted an array of floats, got {describe_array(x)}")
    table = _table(bool(signed), rule)
    flat = jnp.asarray(x).astype(jnp.float32).reshape(-1)
    blocks = jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    one, tiny, huge = (np.float32(number) for number in (1, 2.0**-126, 2.0**126))
    absmax = jnp.max(jnp.abs(blocks), axis=1)
    zero = absmax < tiny
    # Above 2^126 the reciprocal is subnormal, which XLA takes for zero: both factors are moved by 16, which is exact.
    shrink = jnp.where(absmax > huge, np.float32(1 / 16), one)
    scale = one / (jnp.where(zero, one, absmax) * shrink)
    y = (blocks * shrink[:, None]) * scale[:, None]
    codes = find(table, y)
    if rule == "cpu":
        codes = jnp.where(zero[:, None], np.uint8(0), codes)
    absmax = jnp.where(zero, np.float32(0), absmax)
    return codes.reshape(-1)[: flat.size].reshape(x.shape), absmax


def decode(codes: Any, absmax: Any, signed: bool, shape: tuple[int, ...] | None = None) -> Any:
    """The float32 numbers of bitsandbytes' codes.

    Args:
        codes: uint8.
        absmax: float32, one number for each 256 codes.
        signed: the map.
        shape: the shape of the result; that of `codes` if it is left out.

    Raises:
        ValueError: if the sizes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from gradxform.lowbit.bitsandbytes import decode
        >>> decode(jnp.array([127, 255], jnp.uint8), jnp.array([3.0]), signed=True).tolist()
        [0.0, 3.0]
    """
    wanted = -(-codes.size // BLOCK)
    if absmax.shape != (wanted,):
        raise ValueError(
            f"lowbit.bitsandbytes.decode: {codes.size} codes have {wanted} scales of shape ({wanted},), "
            f"got absmax of shape {absmax.shape}"
        )
    made: tuple[int, ...] = codes.shape if shape is None else shape
    if int(np.prod(made, dtype=np.int64)) != codes.size:
        raise ValueError(f"lowbit.bitsandbytes.decode(shape={shape}): got {codes.size} codes")
    numbers = jnp.asarray(dynamic_map(signed=bool(signed)))[jnp.asarray(codes).reshape(-1)]
    blocks = jnp.pad(numbers, (0, -codes.size % BLOCK)).reshape(-1, BLOCK)
    return (blocks * jnp.asarray(absmax)[:, None]).reshape(-1)[: codes.size].reshape(made)


def read_state(theirs: Mapping[str, Any], params: Any) -> optax.ScaleByAdamState:
    """The state of a bitsandbytes Adam or AdamW, of 8 or 32 bits, as float32 moments.

    In a process with torch, save the entries of `optimizer.state_dict()["state"]` under the names of the parameters;
    they are numbered there. Its moments are the same averages as ours and as Optax's, so that the run goes on.

    Args:
        theirs: slash path of a parameter -> its entry: a mapping with `state1`, `state2`, `step` and, in 8 bits,
            `absmax1`, `absmax2`, `qmap1`, `qmap2`, as NumPy arrays or whatever `np.asarray` takes; flat, or as
            `state_dict()` wraps it. Parameters under 4,096 numbers have no scales and maps there.
        params: our parameters. A kernel that is kept transposed here is read with a parameter of their shape, and
            transposed then.

    Returns:
        `optax.ScaleByAdamState(count, mu, nu)`, `mu` and `nu` shaped like `params` in float32. Put it into the place of
        the Adam link's state: of `tx.init(params)`, or of what you give to `gx.restore_into`.

    Raises:
        KeyError: for a parameter without an entry, an entry without a parameter, an entry that lacks something.
        ValueError: for sizes that do not fit, and for steps that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from gradxform.lowbit.bitsandbytes import read_state
        >>> entry = {"step": 7, "state1": np.full(2, 0.5, np.float32), "state2": np.full(2, 0.25, np.float32)}
        >>> state = read_state({"dense/bias": entry}, {"dense": {"bias": jnp.zeros(2)}})
        >>> int(state.count), state.mu["dense"]["bias"].tolist(), state.nu["dense"]["bias"].tolist()
        (7, [0.5, 0.5], [0.25, 0.25])
    """
    rows = view(params)
    there = [p for p, x in zip(rows.paths, rows.places, strict=True) if not is_absent(x)]
    unknown = sorted(map(str, set(theirs) - set(there)))
    if unknown:
        names = ", ".join(map(repr, unknown[:3]))
        raise KeyError(
            _say(f"no parameter is called {names}", f"there are {', '.join(map(repr, there[:3]))}")
        )
    mu, nu, steps = list(rows.places), list(rows.places), dict[str, int]()
    for i, (path, place) in enumerate(zip(rows.paths, rows.places, strict=True)):
        if is_absent(place):
            continue
        if path not in theirs:
            raise KeyError(_say(f"{leaf(path)} of params has no entry", "name the entries by slash path"))
        entry = Entry(theirs[path], leaf(path), _WHO)
        mu[i] = jnp.asarray(entry.moment(1, jnp.shape(place)))
        nu[i] = jnp.asarray(entry.moment(2, jnp.shape(place)))
        steps[path] = entry.step
    if len(set(steps.values())) > 1:
        low, high = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
        raise ValueError(
            _say(
                f"the step of {leaf(low)} is {steps[low]}, that of {leaf(high)} {steps[high]}",
                "Adam has one count here: read them as two groups",
            )
        )
    count = jnp.asarray(max(steps.values(), default=0), jnp.int32)
    return optax.ScaleByAdamState(count, rows.treedef.unflatten(mu), rows.treedef.unflatten(nu))


# ------------------------------------------------------------------------------------------------ rounding


@cache
def _table(signed: bool, rule: str) -> Search:
    numbers = dynamic_map(signed=signed)
    middles = midpoints(numbers)

    def nearest(y: NDArray[np.float32]) -> NDArray[Any]:
        return np.searchsorted(middles, y)

    def with_sign(y: NDArray[np.float32]) -> NDArray[Any]:
        code = nearest(y)
        return code - (np.signbit(y) & (code > 0) & (numbers[code] == 0))

    def on_grid(y: NDArray[np.float32]) -> NDArray[Any]:
        # One rounding to float32 behind the sum y + 1 and one behind the multiply-add; a double holds what is between.
        half = 0.5 * (np.clip(y, -1, 1) + np.float32(1)).astype(np.float64)
        i = (half * 65535 + 0.5).astype(np.float32).astype(np.int32)
        return nearest(np.float32(-1) + (2 * i).astype(np.float32) / np.float32(65535))

    rules: dict[str, Callable[[NDArray[np.float32]], NDArray[Any]]] = {
        "nearest": nearest,
        "cuda": with_sign,
        "cpu": on_grid,
    }
    if rule not in rules:
        known = ", ".join(map(repr, rules))
        raise ValueError(f"lowbit.bitsandbytes.encode(rule={rule!r}): wanted one of {known}")
    return search_table(rules[rule])


def _say(fact: str, *more: str) -> str:
    return say(f"{_WHO}: {fact}", *more)
