"""The trial of a low-bit state: which streams of gradients, for how long, and what is made of what is seen."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.errors import check_integer, check_number, say, short
from .._core.nested import exact_link
from .._core.roles import MOMENT, SECOND_MOMENT
from .._core.transform import GradientTransformation, as_transform
from . import worlds
from .measures import BOUNDS, Judge
from .pair import WINDOW, Carry, Pair, Snapshot, slowest
from .quantized import dequantized, quantized
from .stored import Quantized
from .streams import Stream, like_params
from .twin import Key, float32_twin, moments
from .verdict import LowbitReport, LowbitRow

_WHO = "gx.lowbit.check_lowbit"
#: The most steps of one stream, if the caller does not say: 9 time constants of b2 = 0.999 are 9,000.
_MOST = 10_000
#: Leaves tried for the built-in streams, until one is large enough to be stored in few bits.
_SHAPES = ((32, 256), (128, 512), (512, 1024), (2048, 2048))


def run(
    tx: Any,
    *,
    reference: Any,
    params: Any,
    gradients: Any,
    steps: int | None,
    seed: int,
    read: Callable[[Any], Any] | None,
    bounds: Mapping[str, float] | None,
) -> LowbitReport:
    """The arguments are those of `check_lowbit`."""
    begin = time.perf_counter()
    check_integer("lowbit.check_lowbit", "seed", seed)
    if steps is not None:
        check_integer("lowbit.check_lowbit", "steps", steps, low=WINDOW)
    given = _bounds(bounds)
    low, exact, notes = _subject(tx, reference)
    stream = None if gradients is None else Stream(_WHO, gradients, params, seed, steps or _MOST)
    if stream is not None:
        params = stream.params
    elif params is not None:
        params = like_params(_WHO, params, seed)
    else:
        params = _default(low, seed)
    pair = Pair(low, exact, params, read or dequantized)
    _check_twin(pair, reference)
    constants: dict[Key, float] = {}
    if reference is None and not pair.ours:
        rows = [_nothing(pair)]
    elif stream is not None:
        constants, rows = _given(pair, stream, given, notes)
    else:
        constants, rows = _built_in(pair, steps or _MOST, seed, given, notes)
    if hidden := {key[0] for key in pair.truths} - {key[0] for key in pair.keys}:
        notes.append(
            f"{', '.join(sorted(hidden))}: no array like float32's, so only its steps are seen: pass read="
        )
    speeds: dict[str, float] = {}
    for key, n in constants.items():
        speeds[key[0]] = max(n, speeds.get(key[0], 0.0))
    return LowbitReport(
        transform=repr(low),
        reference=repr(exact),
        seed=seed,
        bytes=pair.bytes / pair.parameters,
        reference_bytes=pair.true_bytes / pair.parameters,
        time_constants=tuple(speeds.items()),
        rows=tuple(rows),
        notes=tuple(notes),
        seconds=time.perf_counter() - begin,
    )


def _bounds(bounds: Mapping[str, float] | None) -> Mapping[str, float]:
    if not isinstance(bounds or {}, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{_WHO}(bounds={short(bounds)}): wanted a mapping from figures to numbers")
    for name, bound in (bounds or {}).items():
        if name not in BOUNDS[8]:
            known = ", ".join(map(repr, BOUNDS[8]))
            raise ValueError(say(f"{_WHO}(bounds): there is no figure {name!r}", f"there are {known}"))
        check_number("lowbit.check_lowbit", f"bounds[{name!r}]", bound, low=0, schedule=False)
    return bounds or {}


def _subject(tx: Any, reference: Any) -> tuple[GradientTransformation, GradientTransformation, list[str]]:
    """What is checked, beside what, and what has to be said about it."""
    low = as_transform(tx, f"{_WHO}(tx)")
    if reference is not None:
        return low, as_transform(reference, f"{_WHO}(reference)"), []
    twin = float32_twin(low)
    if twin is not low:
        return low, as_transform(twin, _WHO), []
    return (
        quantized(low),
        low,
        ["it has no gx.lowbit.quantized inside: gx.lowbit.quantized(tx) is what was checked"],
    )


def _default(low: GradientTransformation, seed: int) -> Any:
    """A kernel that is large enough to be stored in few bits."""
    for shape in _SHAPES:
        like = {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
        state = jax.eval_shape(low.init, like)
        found = list(moments(state, {"kernel": shape}))
        if not found or any(isinstance(x, Quantized) for _, x in found):
            return like_params(_WHO, like, seed)
    return like_params(_WHO, {"kernel": jax.ShapeDtypeStruct(_SHAPES[0], jnp.float32)}, seed)


def _check_twin(pair: Pair, reference: Any) -> None:
    exact = exact_link(pair.tx.plan)
    if exact and any(x.dtype.itemsize < 4 for x in jax.tree.leaves(pair.params)):
        fact = (
            f"{_WHO}(tx): the updates of {exact!r} are differences of 16-bit weights, and hide the direction"
        )
        raise ValueError(say(fact, "check the transform inside, or leave out params"))
    state = jax.eval_shape(pair.twin.init, pair.params)
    if any(isinstance(x, Quantized) for _, x in moments(state, pair.shapes)):
        name = "tx" if reference is None else "reference"
        fact = f"{_WHO}({name}): a gx.lowbit.quantized stands inside of a closure and cannot be taken out"
        raise ValueError(
            say(fact, "use gx.chain and our wrappers around it, or pass reference=, its float32 twin")
        )


def _nothing(pair: Pair) -> LowbitRow:
    """The row of a transform of which nothing is stored in few bits: it passes no check."""
    if not pair.truths:
        advice = "its state has no moments, and there is nothing to store in few bits"
    else:
        most = max(int(np.prod(shape)) for shape in pair.known.shapes)
        advice = f"nothing is stored in few bits: the largest leaf has {most:,} numbers; look at min_size, wide, paths"
    return LowbitRow("stored", "", "", "", 0.0, low=1.0, advice=advice)


# ------------------------------------------------------------------------------------------------ the built-in streams


def _built_in(
    pair: Pair, most: int, seed: int, given: Mapping[str, float], notes: list[str]
) -> tuple[dict[Key, float], list[LowbitRow]]:
    shapes = pair.known.shapes
    pools = worlds.pools(seed, shapes)

    def world(kind: worlds.Kind, turn: int = 0) -> worlds.World:
        return worlds.draw(kind, seed, shapes, turn, pools)

    first = pair.advance(pair.begin(), world(worlds.STEADY[0]), 16)
    constants = pair.time_constants(first)
    judge, rows = Judge(pair, given, constants), list[LowbitRow]()
    slow, fast = slowest(constants, False), slowest(constants, True)
    count = int(np.clip(max(slow, fast), min(40, most), min(1000, most)))
    for choice in worlds.STEADY:
        carry = pair.advance(pair.begin(), world(choice), count)
        steps = pair.steps(carry)
        _check_moved(pair, carry, choice.name)
        rows += judge.direction(choice.name, steps)
        rows += judge.zero_codes(choice.name, pair.look(carry))
    if slow > 0:
        rows += _half_quiet(pair, judge, world, slow, most, notes)
    if fast > 0:
        rows += _drift_turns(pair, judge, world, fast, most, notes)
    return constants, rows


def _half_quiet(
    pair: Pair, judge: Judge, world: Any, slow: float, most: int, notes: list[str]
) -> list[LowbitRow]:
    """One time constant of all, then eight of half of them; stalls are looked for from the second one on."""
    name = worlds.QUIET
    before = int(np.clip(slow, min(32, most // 9 + 1), most // 9 + 1))
    after = max(1, min(round(8 * slow), most - before))
    if after < 7.9 * slow:
        notes.append(f"{name}: {after:,} steps are {after / slow:.1f} time constants, not 8: raise steps=")
    chosen = world(worlds.HALF_QUIET, before)
    carry = pair.advance(pair.begin(), chosen, before)
    early = min(after, max(1, round(2 * slow)))
    carry = pair.advance(carry, chosen, early)
    middle = pair.look(carry)
    carry = pair.advance(carry, chosen, after - early)
    now, steps = pair.look(carry), pair.steps(carry)
    still = dict(zip(pair.known.paths, map(np.asarray, worlds.quiet(chosen)), strict=True))
    quiet = {key: still[key[1]] for key in pair.keys if key[1] in still}
    return [
        *judge.forgetting(name, now, quiet),
        *judge.quiet_steps(name, steps),
        *judge.stalled(name, middle, now, SECOND_MOMENT),
        *judge.zero_codes(name, now),
    ]


def _drift_turns(
    pair: Pair, judge: Judge, world: Any, fast: float, most: int, notes: list[str]
) -> list[LowbitRow]:
    """Four time constants of the first moment before the drift turns and four after it."""
    name = worlds.TURNING
    half = max(2, min(max(32, round(4 * fast)), most // 2))
    if half < 3.9 * fast:
        notes.append(
            f"{name}: {half:,} steps each way are {half / fast:.1f} time constants, not 4: raise steps="
        )
    chosen = world(worlds.DRIFT_TURNS, half)
    carry = pair.advance(pair.begin(), chosen, half)
    before = pair.look(carry)
    carry = pair.advance(carry, chosen, half // 2)
    middle = pair.look(carry)
    carry = pair.advance(carry, chosen, half - half // 2)
    return [
        *judge.correlation(name, pair.look(carry)),
        *judge.stalled(name, before, middle, MOMENT),
    ]


# ------------------------------------------------------------------------------------------------ somebody's gradients


def _given(
    pair: Pair, stream: Stream, given: Mapping[str, float], notes: list[str]
) -> tuple[dict[Key, float], list[LowbitRow]]:
    carry, seen = pair.begin(), list[Snapshot]()
    apart = 16
    for number, grads in enumerate(stream, start=1):
        carry = pair.step(carry, grads)
        if number % apart == 0:
            seen.append(pair.look(carry))
            if len(seen) == 8:  # twice as far apart, so that a long stream has as few of them
                seen, apart = seen[1::2], 2 * apart
    now = pair.look(carry)
    _check_moved(pair, carry, "given")
    constants = pair.time_constants(carry)
    slow = slowest(constants, False)
    if now.count < 8 * slow:
        notes.append(
            f"{now.count:,} gradients are {now.count / slow:.1f} time constants of the second moment; "
            "whether it forgets shows after 8"
        )
    judge = Judge(pair, given, constants)
    before = min(seen, key=lambda look: abs(look.count - now.count // 2))
    fallen = _fallen(pair, [*seen, now])
    parts = tuple(
        name for name, there in (("quiet", any(x.any() for x in fallen.values())), ("loud", True)) if there
    )
    rows = [
        *judge.direction("given", pair.steps(carry)),
        *judge.forgetting("given", now, fallen, parts),
        *judge.stalled("given", before, now, SECOND_MOMENT),
        *judge.correlation("given", now),
        *judge.stalled("given", before, now, MOMENT),
        *judge.zero_codes("given", now),
    ]
    if "quiet" not in parts and any(key[2] is SECOND_MOMENT for key in pair.checked()):
        notes.append("no second moment fell to a tenth, so these gradients do not show whether it forgets")
    return constants, rows


def _fallen(pair: Pair, looks: list[Snapshot]) -> dict[Key, Any]:
    """Where a true second moment is below a tenth of what it was."""
    found: dict[Key, Any] = {}
    for key in pair.checked():
        if key[2] is SECOND_MOMENT:
            top = np.max(np.stack([look.true[key] for look in looks]), axis=0)
            found[key] = looks[-1].true[key] < 0.1 * top
    return found


def _check_moved(pair: Pair, carry: Carry, gradients: str) -> None:
    """Raises unless float32's own last steps are finite, and some are not zero."""
    tops = np.asarray(jax.device_get(carry.seen))[: int(carry.count), :, 1]
    if not np.isfinite(tops).all():
        raise ValueError(
            f"{_WHO}: the steps of {short(repr(pair.twin))} in float32 are not finite ({gradients} gradients), "
            "so there is nothing to compare with"
        )
    if not (tops > 0).any():
        fact = f"{_WHO}: {short(repr(pair.twin))} made no step in float32 ({gradients} gradients)"
        raise ValueError(say(fact, "has its learning rate come to zero? steps= ends earlier"))
