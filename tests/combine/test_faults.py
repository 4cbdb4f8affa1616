"""Faults put in on purpose, and what they cost: no progress is lost, no state is corrupted.

The rows of `FAULTS` are the table of docs/guide/wrappers.md, word for word; each row's check is one of this file.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

NAN = float("nan")
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "wrappers.md"
STEPS, WINDOW = 24, 4


def start() -> dict[str, Any]:
    return {"w": jnp.linspace(-1.0, 1.0, 6, dtype=jnp.float32).reshape(2, 3), "b": jnp.zeros(3, jnp.float32)}


def gradient(params: Any, i: int, scale: float = 1.0) -> Any:
    """Of a small quadratic whose target wanders, and so a gradient that differs from step to step."""
    target = float(np.sin(i * 0.7))
    return jax.tree.map(lambda p: (p - target) * np.float32(scale), params)


Faulty = Callable[[int, Any, Any], tuple[Any, Any]]


def train(
    tx: Any, *, faults: Faulty | None = None, leave_out: frozenset[int] = frozenset(), steps: int = STEPS
) -> Any:
    """Parameters and state after a run; `faults(i, grads, value)` spoils a step, `leave_out` are steps never made."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any, value: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=value)
        return gx.apply_updates(params, updates), state

    params = start()
    state = tx.init(params)
    for i in range(steps):
        if i in leave_out:
            continue
        grads, value = gradient(params, i), np.float32(1.0)
        if faults is not None:
            grads, value = faults(i, grads, value)
        params, state = step(params, state, grads, value)
    return params, state


def at(where: int, scale: float | None = None, loss: float | None = None) -> Faulty:
    """Spoils one step: one entry becomes NaN, or all are scaled, or the loss is this."""

    def spoil(i: int, grads: Any, value: Any) -> Any:
        if i != where:
            return grads, value
        if loss is not None:
            return grads, np.float32(loss)
        if scale is not None:
            return jax.tree.map(lambda g: g * np.float32(scale), grads), value
        return {**grads, "b": grads["b"].at[1].set(NAN)}, value

    return spoil


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def inner(tx: Any, state: Any) -> Any:
    """The state of the recipe inside of all wrappers."""
    while hasattr(state, "inner_state"):
        state = state.inner_state
    return state


def recipe() -> Any:
    return gx.adamw(gx.linear_schedule(0.1, 0.01, 20))


def spiky(tx: Any) -> Any:
    return gx.guard(tx, spike=6.0, window=8)


GUARDS = {
    "guard(tx)": lambda: spiky(recipe()),
    "guard(optax)": lambda: spiky(optax.adamw(optax.linear_schedule(0.1, 0.01, 20))),
    "guard(accumulate(tx, 1))": lambda: spiky(gx.accumulate(recipe(), 1)),
    "guard(tunable(tx))": lambda: spiky(gx.tunable(gx.adamw(0.1), "learning_rate")),
    "guard(chain(tx, freeze))": lambda: spiky(gx.chain(recipe(), gx.freeze("none*"))),
}
SPOILS = {
    "a NaN gradient": at(12),
    "an infinite loss": at(12, loss=float("inf")),
    "a spike": at(12, scale=1e3),
}


@pytest.mark.parametrize("fault", SPOILS)
@pytest.mark.parametrize(
    "wrapped", ["guard(tx)", "guard(optax)", "guard(accumulate(tx, 1))", "guard(tunable(tx))"]
)
def test_a_spoilt_step_has_never_happened(wrapped: str, fault: str) -> None:
    tx = GUARDS[wrapped]()
    params, state = train(tx, faults=SPOILS[fault])
    wanted, clean = train(tx, leave_out=frozenset({12}))
    assert int(state.skipped) == 1
    assert same(params, wanted)
    assert same(inner(tx, state), inner(tx, clean))
    bare = recipe()
    poisoned, _ = train(bare, faults=SPOILS[fault])
    assert fault == "an infinite loss" or not same(poisoned, train(bare, leave_out=frozenset({12}))[0]), (
        "the control"
    )


def test_a_guard_outside_accumulate_loses_the_micro_step_only() -> None:
    """The window waits for one micro-batch more."""
    tx = gx.guard(gx.accumulate(recipe(), WINDOW))
    params, state = train(tx, faults=at(13), steps=STEPS + 1)
    wanted, clean = train(tx, leave_out=frozenset({13}), steps=STEPS + 1)
    assert same(params, wanted)
    assert same(inner(tx, state), inner(tx, clean))
    assert int(state.skipped) == 1


def test_a_guard_inside_accumulate_loses_the_window_only() -> None:
    tx = gx.accumulate(gx.guard(recipe()), WINDOW)
    params, state = train(tx, faults=at(13))
    wanted, clean = train(tx, leave_out=frozenset(range(12, 16)))
    assert same(params, wanted)
    assert same(inner(tx, state), inner(tx, clean))
    assert int(state.inner_state.skipped) == 1
    theirs = optax.MultiSteps(optax.apply_if_finite(optax.adamw(0.1), 99), WINDOW).gradient_transformation()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        stuck, _ = train(theirs, faults=at(13))
        before, _ = train(theirs, steps=12)
    assert same(stuck, before), "the control, B3: Optax never moves again"


def test_a_micro_step_without_a_guard_spoils_its_window_only() -> None:
    tx = gx.accumulate(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1)), WINDOW)
    state, params = tx.init(start()), start()
    for i in range(2 * WINDOW):
        grads, _ = at(1)(i, gradient(params, i), None)
        updates, state = tx.update(grads, state, params)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("when", [9, 11])
def test_a_loop_written_to_bytes_between_micro_steps(when: int) -> None:
    """The state is all there is: steps, a file, steps, bit for bit."""
    tx = gx.guard(gx.accumulate(recipe(), WINDOW), spike=6.0, window=8)
    wanted, clean = train(tx)
    params, state = train(tx, steps=when)
    params, state = flax.serialization.from_bytes(
        (start(), tx.init(start())), flax.serialization.to_bytes((params, state))
    )
    for i in range(when, STEPS):
        updates, state = jax.jit(tx.update)(gradient(params, i), state, params, value=np.float32(1.0))
        params = gx.apply_updates(params, updates)
    for a, b in zip(jax.tree.leaves((params, state)), jax.tree.leaves((wanted, clean)), strict=True):
        np.testing.assert_allclose(
            a, b, rtol=1e-6, atol=1e-7
        )  # two programs: another fusion, another rounding


KILLED = """
import os, signal, sys
from pathlib import Path
import flax.serialization, jax, numpy as np
sys.path.insert(0, {root!r})
import gradxform as gx
from tests.combine.test_faults import STEPS, WINDOW, gradient, recipe, start
file, kill = Path(sys.argv[1]), int(sys.argv[2])
tx = gx.guard(gx.accumulate(recipe(), WINDOW), spike=6.0, window=8)
carry = (0, start(), tx.init(start()))
if file.exists():
    carry = flax.serialization.from_bytes(carry, file.read_bytes())
i, params, state = carry
step = jax.jit(tx.update)
while i < STEPS:
    updates, state = step(gradient(params, i), state, params, value=np.float32(1.0))
    params, i = gx.apply_updates(params, updates), i + 1
    whole = flax.serialization.to_bytes((i, params, state))
    part = file.with_suffix(".part")
    if i == kill:
        part.write_bytes(whole[: len(whole) // 2])  # preempted in the middle of a save
        os.kill(os.getpid(), signal.SIGKILL)
    part.write_bytes(whole)
    part.replace(file)
gx.check(state)
print("finished", i, int(state.inner_state.gradient_step))
"""


@pytest.mark.slow
def test_a_process_killed_between_micro_steps_in_the_middle_of_a_save(tmp_path: Path) -> None:
    program = tmp_path / "run.py"
    program.write_text(KILLED.format(root=str(ROOT)))

    def go(file: str, kill: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), str(tmp_path / file), str(kill)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=environment, check=False
        )

    straight = go("straight", -1)
    assert straight.stdout == f"finished {STEPS} {STEPS // WINDOW}\n", straight.stderr
    assert go("broken", 10).returncode == -signal.SIGKILL
    cut = (tmp_path / "broken.part").read_bytes()
    with pytest.raises(Exception, match=r"(?i)unpack|incomplete|truncated|data"):
        flax.serialization.from_bytes((0, start(), None), cut)
    again = go("broken", -1)
    assert again.stdout == straight.stdout, again.stderr
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "straight").read_bytes()


def test_the_table_of_the_page_is_of_these_tests() -> None:
    text = PAGE.read_text()
    table = text[text.index("<!-- faults -->") : text.index("<!-- end of faults -->")]
    named = set(re.findall(r"`(test_\w+)`", table))
    mine = {name for name in globals() if name.startswith("test_a_")}
    assert named == mine
