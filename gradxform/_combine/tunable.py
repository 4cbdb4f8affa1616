"""`tunable`: chosen hyperparameters live in the state, where they are read and set between steps.

    hyperparams["b2"] = round(b2)        float32, what people read and set
    rest["b2"]        = b2 - round(b2)   the next float32 word, so that 1 - b2 loses nothing

At every update the transform is built again with the numbers of the state in their places. That happens while tracing,
costs nothing when the step runs, and makes the very program that the numbers themselves would make: nothing in a method
has to know about it. Setting a number is then a change of data, and compiles nothing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from .._core import compat
from .._core.address import listed, replaced
from .._core.errors import describe_array, say
from .._core.factory import factory
from .._core.nested import Inner, NestedBody
from .._core.numerics import TwoFloat, two_float
from .._core.plan import Body
from .._core.porting import declare_port
from .._core.roles import Reading
from .._core.transform import GradientTransformation, as_transform, wrap
from .numbers import CALL, Number, Numbers
from .plain import scale

_ZERO = np.float32(0)


class TunableState(NamedTuple):
    """The state of `tunable`: numbers by the names with which they were asked for, and what float32 leaves of them."""

    hyperparams: Reading
    rest: Any
    inner_state: Any


def _of_hyperparams(state: Any, like: TunableState) -> TunableState:
    """`optax.inject_hyperparams` keeps one word of a number, and the count of its schedules beside it."""
    numbers = {name: jnp.asarray(x) for name, x in state.hyperparams.items()}
    rest = {name: jnp.zeros_like(numbers[name]) for name in like.rest if name in numbers}
    count = optax.ScaleByScheduleState(count=state.count)
    return TunableState(numbers, rest, (*_links(state.inner_state), count))


def _links(state: Any) -> tuple[Any, ...]:
    return tuple(state) if type(state) is tuple else (state,)


declare_port(optax.InjectHyperparamsState, TunableState, _of_hyperparams)
declare_port(optax.InjectStatefulHyperparamsState, TunableState, _of_hyperparams)


class TunableBody(NestedBody):
    call = "tunable"

    def __init__(self, inner: GradientTransformation, numbers: Mapping[str, Number]) -> None:
        super().__init__(inner, TunableState)
        self.numbers = numbers

    def start(self, params: Any, inner_state: Any) -> TunableState:
        del params
        pairs = {name: words(number.place.value) for name, number in self.numbers.items()}
        return TunableState(
            {name: jnp.array(pair.hi) for name, pair in pairs.items()},
            {name: jnp.array(pair.lo) for name, pair in pairs.items()},
            inner_state,
        )

    def step(
        self, inner: Inner, updates: Any, state: TunableState, params: Any, extra: Mapping[str, Any]
    ) -> Any:
        try:
            body = self.current(state)
            new, inner_state = inner(updates, state.inner_state, params, extra, body=body)
        except Exception as problem:
            problem.add_note(f"while gx.tunable ran with {listed(list(self.numbers))} from its state")
            raise
        # New dictionaries: whoever writes into one state must not change another.
        return new, TunableState(dict(state.hyperparams), dict(state.rest), inner_state)

    def current(self, state: TunableState) -> Body:
        """What runs with the numbers of this state."""
        if set(state.hyperparams) != set(self.numbers):
            remedy = "the state must come from a transform with the same names, or from gx.restore_into"
            got = listed(list(state.hyperparams))
            raise ValueError(
                say(f"gx.tunable: wanted a state with {listed(list(self.numbers))}, got {got}", remedy)
            )
        edits: dict[tuple[Any, ...], Any] = {}
        for name, number in self.numbers.items():
            pair = _stored(name, state.hyperparams[name], state.rest.get(name, _ZERO))
            edits[number.place.keys] = pair if number.exact else pair.hi
        return replaced(self.inner, edits).body


def _stored(name: str, hi: Any, lo: Any) -> TwoFloat:
    """The two words of a number in the state."""
    given = jnp.asarray(hi)
    if given.shape != ():
        remedy = "a state with many values takes its steps under jax.vmap"
        fact = f"gx.tunable: the state's {name!r} is {describe_array(given)}, wanted one number"
        raise ValueError(say(fact, remedy))
    pair, lo = words(given), jnp.asarray(lo).astype(np.float32)
    # Somebody may have written `hyperparams` by hand: the rest of another number is none of this one.
    lo = jnp.where(pair.hi + lo == pair.hi, lo, _ZERO)
    return TwoFloat(pair.hi, lo if given.dtype != jnp.float64 else pair.lo + lo)


def words(value: Any) -> TwoFloat:
    """A number as two float32 words, exact to about 48 bits; works for traced values and for arrays of any shape."""
    if isinstance(value, TwoFloat):
        return TwoFloat(jnp.asarray(value.hi, np.float32), jnp.asarray(value.lo, np.float32))
    if isinstance(value, int | float | np.number):
        return two_float(value)
    if isinstance(value, np.ndarray):
        wide = value.astype(np.float64)
        hi = wide.astype(np.float32)
        return TwoFloat(hi, (wide - hi).astype(np.float32))
    hi = compat.strong(value, np.dtype(np.float32))
    if value.dtype != jnp.float64:
        return TwoFloat(hi, jnp.zeros_like(hi))
    return TwoFloat(hi, (value - hi.astype(value.dtype)).astype(np.float32))


@factory(label="", sample={"tx": scale(0.5), "names": ("step_size",)})
def tunable(tx: Any, *names: str):
    """Moves chosen hyperparameters into the state, where they can be read and set between steps without a recompile.

    **Update**: `tx`'s, with the numbers of the state in the place of those it was built with. As long as nothing is
    set, a step is that of `tx` within two units in the last place of float32; in double precision the numbers have the
    48 bits of two float32 words.

    Args:
        tx: a transform of ours. Optax's have no spec, so that nobody knows where their numbers are; the message names
            the twin.
        *names: which numbers: `"learning_rate"`, `"b1"`. In a chain or in groups the path of labels tells them apart,
            as in `"adamw/learning_rate"`, `"clip/max_norm"`, `"[*/bias]/sgd/momentum"`; a number inside of a schedule
            is `"learning_rate/peak_value"`. The end of a path, or a few of its parts, is enough if only one path has
            it. What shapes the program (flags, windows, numbers of steps) stays as it is built.

    State: `TunableState(hyperparams, rest, inner_state)`: `state.hyperparams["learning_rate"]` is a float32 array of no
    axes, whatever the dtype of the parameters; `rest` holds what float32 leaves of it, so that 1 - b2 keeps its digits.
    Change them by `gx.set_hyperparams(state, learning_rate=...)`, read everything by `gx.get_hyperparams(tx, state)`.
    The numbers are data: they can be differentiated, and under `jax.vmap` one compiled step runs many at once.

    Reach: that of `tx`.

    Raises:
        ValueError: for a name that fits no number or several, that of a schedule, or one that shapes the program.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.tunable(gx.adamw(1e-3), "learning_rate", "b1")
        >>> params = jnp.zeros(2)
        >>> state = gx.set_hyperparams(tx.init(params), learning_rate=0.5)
        >>> updates, state = tx.update(jnp.ones(2), state, params)
        >>> round(float(updates[0]), 4), float(state.hyperparams["learning_rate"])
        (-0.5, 0.5)

    Differs from Optax: `optax.inject_hyperparams(optax.adamw)(1e-3)` stores numbers in the dtype of the parameters (in
    bfloat16 b2 becomes 1), knows the arguments of one factory only, turns integers that shape the program into arrays,
    shares one dictionary between states, and silently ignores what is set where a schedule stands.
    """
    inner = as_transform(tx, CALL)
    known = Numbers(inner)
    if not names:
        what = listed(known.possible()) or "nothing"
        raise ValueError(say(f"{CALL}: name what is to be tuned", f"there is {what}"))
    numbers = {name: known.find(name) for name in names}
    by_keys: dict[Any, str] = {}
    for name, number in numbers.items():
        other = by_keys.setdefault(number.place.keys, name)
        if other != name:
            raise ValueError(f"{CALL}: {other!r} and {name!r} are the same number, {number.place.path!r}")
    if len(numbers) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{CALL}: {listed(twice)} is named twice")
    return wrap(TunableBody(inner, numbers))
