"""Each wrapper around each transform keeps the laws that the transform keeps; wrappers compose in either order.

All pairs take half an hour (`tools/wrapped.py`, whose answers are in `wrapped.json`); here every third transform meets
one wrapper, each wrapper two others, and a few transforms all.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import gradxform as gx
from tests.laws import wrapped

pytestmark = pytest.mark.laws
HERE = Path(__file__).parent
FEW = ["adamw", "adafactor", "optax.adamw"]
NAMES = wrapped.OURS + wrapped.THEIRS
TURNS = list(wrapped.WRAPPERS)


@pytest.mark.parametrize(
    "wrapper", [w if w == "guard" else pytest.param(w, marks=pytest.mark.slow) for w in wrapped.WRAPPERS]
)
def test_around_a_few(wrapper: str) -> None:
    tried = [found for name in FEW if (found := wrapped.new_faults(wrapper, name)) is not None]
    assert tried
    assert not any(tried), tried


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, len(NAMES), 3))
def test_transforms_meet_a_wrapper(number: int) -> None:
    name = NAMES[number]
    wrapper = TURNS[number % len(TURNS)]
    found = wrapped.new_faults(wrapper, name)
    known = wrapped.GAPS.get((wrapper, name), {})
    assert set(found or ()) == set(known), f"{wrapper} around {name}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("outer", wrapped.WRAPPERS)
def test_they_compose_in_either_order(outer: str) -> None:
    i = TURNS.index(outer)
    for inner in (TURNS[(i + 3) % len(TURNS)], TURNS[i - 1]):
        tx = wrapped.WRAPPERS[outer](wrapped.WRAPPERS[inner](gx.adamw(0.1)))
        if tx is not None:
            assert wrapped.faults(tx) == {}, f"{outer}({inner}(adamw))"


def test_all_pairs_were_tried() -> None:
    """The recorded run of `tools/wrapped.py` knows every wrapper and transform, and what it found is explained."""
    recorded = json.loads((HERE / "wrapped.json").read_text())
    assert set(recorded) == set(wrapped.WRAPPERS)
    for wrapper, found in recorded.items():
        assert set(found["tried"]) | set(found["not applicable"]) == set(NAMES), wrapper
        for name, laws in found["faults"].items():
            assert set(laws) == set(wrapped.GAPS.get((wrapper, name), {})), f"{wrapper} around {name}: {laws}"


def _forgetful(tx: optax.GradientTransformation, how: str) -> optax.GradientTransformation:
    """A wrapper with one defect."""
    calls = [0]

    def init(params):
        return (tx.init(params), jnp.zeros([], jnp.float32))

    def update(updates, state, params=None, **extra):
        new, inner = tx.update(updates, state[0], params, **extra)
        count = state[1] + 1.0
        if how == "dtype":
            new = jax.tree.map(lambda u: u.astype(jnp.float32), new)
        if how == "structure":
            count = count.astype(jnp.bfloat16)
        if how == "jit is eager":
            calls[0] += 1
            new = jax.tree.map(lambda u: u * (1.0 + calls[0]), new)
        if how == "sharding":
            new = jax.tree.map(
                lambda u: jax.sharding.reshard(u, jax.P()) if jax.typeof(u).sharding.mesh.axis_names else u,
                new,
            )
        if how == "resume":
            new = jax.tree.map(lambda u: u * _memory(count), new)
        return new, (inner, count)

    return optax.GradientTransformationExtraArgs(init, update)


_SEEN: list[float] = []


def _memory(count):
    """A number that a process remembers and a file does not."""

    def read(x):
        _SEEN.append(float(x))
        return x * 0 + len(_SEEN)

    return jax.pure_callback(read, jax.ShapeDtypeStruct((), jnp.float32), count)


@pytest.mark.parametrize("law", ["structure", "dtype", "jit is eager", "sharding", "resume"])
def test_a_wrapper_with_a_defect_is_found(law: str) -> None:
    with jax.numpy_dtype_promotion("standard"):
        found = wrapped.faults(_forgetful(gx.adamw(0.1), law))
    assert law in found, found
