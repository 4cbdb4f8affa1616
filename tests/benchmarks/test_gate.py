"""No step becomes dearer unseen: bytes, equations, kernels and aliases of compiled steps stay below bounds.

The figures come from the compiler, not from a clock, so a busy machine does not change them. Where a change makes a
step cheaper, bring its bound down (`python -m benchmarks.gate` prints the present figures); where one makes it dearer,
say why beside the bound.
"""

from typing import Any, NamedTuple

import jax
import optax
import pytest

import gradxform as gx
from benchmarks import gate, program
from benchmarks.gate import STEPS, Cost, cost


class Bound(NamedTuple):
    """What is allowed: see `Cost`. Every donated array must be taken over by a result, always."""

    temporary: float
    equations: float
    kernels: float
    copies: int = 0


NOTHING = 0.02  # the alignment of scalars, which is nothing beside an array that counts
BOUNDS = {
    # The norm and three loops a leaf (m, v, p), and some for scalars: on a CPU, XLA writes one result in a loop.
    "adamw": Bound(NOTHING, 37, 7),
    "adam": Bound(NOTHING, 36, 7),
    "nadamw": Bound(NOTHING, 41, 7),
    # Two loops a leaf.
    "sgd, momentum": Bound(NOTHING, 22, 5),
    "sgd, nesterov": Bound(NOTHING, 24, 5),
    "rmsprop": Bound(NOTHING, 27, 5),
    # The sign is that of the old moment, which is written over: the two matrices' are copied first.
    "lion": Bound(1.01, 29, 6, copies=2),
    # The step is written down, because its norm must be known before it can be scaled.
    "lamb": Bound(1.02, 57, 14),
    # The same, for the block's root mean square.
    "adafactor": Bound(1.02, 50, 16),
    # The state is held where it is made. To look at the updates, they are computed once more, and not written.
    "guard": Bound(NOTHING, 88, 9),
    "guard, no look at updates": Bound(NOTHING, 46, 8),
    "accumulate": Bound(NOTHING, 49, 9),
    # The unscaled gradients are written down, for the norm of the clip and for the loops behind it.
    "loss_scale": Bound(1.02, 50, 11),
    # A rate that is an array in place of a number.
    "tunable": Bound(NOTHING, 28, 6),
    # One loop a leaf more.
    "average_params": Bound(NOTHING, 47, 9),
    "masked": Bound(NOTHING, 28, 5),
    # m and v in float32 before they are encoded: absolute maxima, then codes.
    "quantized": Bound(2.3, 252, 20, copies=8),
}


def faults(got: Cost, bound: Bound) -> list[str]:
    """What is above its bound, by name."""
    over = [
        f"{name} {found:.2f}, allowed {allowed:.2f}"
        for name, found, allowed in zip(Bound._fields, got[:4], bound, strict=True)
        if found > allowed
    ]
    return over + [f"{got.not_in_place} donated arrays are not written in place"] * (got.not_in_place != 0)


def test_every_step_has_a_bound() -> None:
    assert BOUNDS.keys() == STEPS.keys()


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_no_dearer_than_it_was(name: str, as_users: Any) -> None:
    assert faults(cost(STEPS[name](), as_users), BOUNDS[name]) == []


class Kept(NamedTuple):
    """For a control: the gradients of the last step."""

    last: Any


def keeping(dtype: Any = None) -> optax.GradientTransformation:
    """Keeps what it is given, as a link between a clip and its consumer would that cannot be folded."""

    def init(params: Any) -> Kept:
        return Kept(jax.tree.map(jax.numpy.zeros_like, params))

    def update(updates: Any, state: Kept, params: Any = None) -> Any:
        del params, state
        return updates, Kept(jax.tree.map(lambda u: u.astype(dtype or u.dtype), updates))

    return optax.GradientTransformation(init, update)


def scheduled() -> Any:
    """`gate.adamw()` without its clip."""
    schedule = gx.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 10_000)
    return gx.adamw(schedule, weight_decay=0.1, mask=gx.matrices())


def skipping() -> optax.GradientTransformation:
    """The plain way to skip a step: the new state or the old one, decided behind the transform."""
    inner = gate.adamw()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        new, after = inner.update(updates, state, params)
        good = jax.numpy.isfinite(optax.tree.norm(updates))
        return jax.tree.map(lambda a, b: jax.numpy.where(good, a, b), (new, after), (updates, state))

    return optax.GradientTransformation(inner.init, update)


CONTROLS: dict[str, tuple[Any, list[str]]] = {
    "a clip that is written down": (
        gx.chain(optax.clip_by_global_norm(1.0), gx.adamw(1e-3)),
        ["temporary"],
    ),
    "a link that keeps the clipped gradients": (
        gx.chain(gx.clip_by_global_norm(1.0), keeping(), scheduled()),
        ["kernels"],
    ),
    "a skip that selects the state": (skipping(), ["temporary", "equations", "kernels", "copies"]),
    "a state that changes its dtype": (
        optax.chain(keeping(jax.numpy.bfloat16), gx.adamw(1e-3)),
        ["4 donated arrays are not written in place"],
    ),
    "a recipe link by link": (
        optax.chain(*(gx.add_decayed_weights(0.1) for _ in range(5)), gate.adamw()),
        ["equations"],
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_gate_closes(name: str, as_users: Any) -> None:
    """The controls: what is dearer is found to be, and by what."""
    tx, wanted = CONTROLS[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = faults(cost(tx, as_users), BOUNDS["adamw"])
    missing = [start for start in wanted if not any(fault.startswith(start) for fault in found)]
    assert missing == [], found


HLO = """HloModule jit_step, input_output_alias={ {0}: (0, {}, may-alias), {1, 2}: (3, {}, must-alias) }

%inside (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %b = f32[2,3]{1,0} add(%a, %a)
}

%short (a: f32[2,3]) -> (f32[2,3], /*index=1*/f32[]) {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %c = f32[2,3]{1,0} copy(%a)
}

%long (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  %d = f32[2,3]{1,0} fusion(%a), kind=kLoop, calls=%inside
  ROOT %e = f32[2,3]{1,0} fusion(%d), kind=kLoop, calls=%inside
}

ENTRY %main (p: f32[2,3], q: pred[]) -> f32[2,3] {
  %p = f32[2,3]{1,0} parameter(0)
  %q = pred[] parameter(1)
  %f = f32[2,3]{1,0} fusion(%p), kind=kLoop, calls=%inside
  %s = f32[] copy(%q)
  %n = f32[] reduce(%f, %s), dimensions={0,1}, to_apply=%inside
  %g = (f32[2,3]{1,0}, /*index=1*/f32[]) conditional(%q, %f, %f), branch_computations={%short, %long}
  ROOT %h = f32[2,3]{1,0} get-tuple-element(%g), index=0
}
"""


def test_a_program_is_read() -> None:
    assert program.kernels(HLO) == 3 + 2, "the fusion, the copy, the sum; the longer branch"
    assert program.copies(HLO, 6) == 1
    assert program.copies(HLO, 1) == 2
    assert program.copies(HLO, 7) == 0
    assert program.written_in_place(HLO) == 2
    assert program.written_in_place("HloModule jit_step\n" + HLO) == 0


def test_equations_are_counted_as_written_and_as_executed() -> None:
    @jax.jit
    def twice(x: Any) -> Any:
        return x * 2.0 + 1.0

    def step(x: Any) -> Any:
        return twice(twice(twice(x)))

    made = jax.make_jaxpr(step)(1.0).jaxpr
    assert program.equations(made) == 6
    assert program.equations_once(made) == 3 + 2, "three calls, and what they call once"
