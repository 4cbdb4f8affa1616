"""16 bits are a way to store, not to lose: a step is nearly that of float32, and float32 nearly that of float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._core.compat import is_key
from .._law import Broken, Inapplicable, Unable, law
from .._subject import Subject, difference, numbers, rows

#: Steps of the long run; long enough for a decay of 0.999, whose memory is a thousand steps.
LONG = 3000
TRACKS, AGREES, DOUBLE = 0.1, 0.02, 2e-6
MILESTONES = (0, 1, 9, 99, 999)


@law("after thousands of steps in bfloat16 the update is still that of float32: no average stands still")
def sixteen_tracks(s: Subject) -> None:
    """Large gradients, then gradients of a hundredth: 0.999 v rounds back to v in bfloat16."""
    start = s.params("bfloat16")
    large = s.grads(start)

    def final(params: Any, large: Any, small: Any) -> Any:
        def phase(state: Any, grads: Any) -> Any:
            def step(i: Any, carry: Any) -> Any:
                # Every other gradient is half as large, so that differences from the mean are not all rounding.
                factor = jnp.where(i % 2 == 0, np.float32(1.0), np.float32(0.5))
                g = jax.tree.map(lambda x: x * factor.astype(x.dtype), grads)
                return s.update(g, carry[1], params)

            first = s.update(grads, state, params)
            return jax.lax.fori_loop(1, LONG, step, first)

        one, state = phase(s.init(params), large)
        return one, phase(state, small)[0]

    small = jax.tree.map(lambda g: (g.astype(jnp.float32) / 100).astype(g.dtype), large)
    runs: list[Any] = []
    for dtype in ("bfloat16", "float32"):
        trees = [s.like(tree, dtype) for tree in (start, large, small)]
        runs.append(s.attempt(lambda t=trees: jax.jit(final)(*t), params=start, grads=large))
    for updates, wanted, phase in zip(*runs, ("large", f"{LONG} large and {LONG} small"), strict=True):
        fact = difference(updates, wanted, f"after {phase} gradients the update in bfloat16", TRACKS, 1e-30)
        if fact:
            raise Broken(fact, {"params": start, "grads": large})


@law("a step in 16 bits is nearly that of float32: squares do not overflow, sums over leaves do not stall")
def sixteen_agrees(s: Subject) -> None:
    cases = [("float16", s.params("float16"), 300.0)]
    if s.given is None and s.reach == "tree":
        # 16^2 = 256, to which bfloat16 cannot add 1: forty leaves get lost.
        many = {f"a{i:02}": jnp.full((1,), 1.0, jnp.bfloat16) for i in range(41)}
        cases.append(("bfloat16", many, 1.0))
    for dtype, params, size in cases:
        grads = jax.tree.map(lambda g, size=size: jnp.full_like(g, size) * jnp.sign(g), s.grads(params, 1.0))
        if dtype == "bfloat16":
            grads["a00"] = grads["a00"] * 16
        trees = {"params": params, "grads": grads}

        def step(p: Any, g: Any) -> Any:
            return s.run([g], p)[0]

        got = s.attempt(lambda p=params, g=grads: step(p, g), **trees)
        wanted = step(s.like(params, "float32"), s.like(grads, "float32"))
        fact = difference(got, wanted, f"the update in {dtype}", AGREES, 1e-6)
        if fact:
            raise Broken(fact, trees)


@law("a step in float32 is that of float64 within 2e-6, from the first to the thousandth")
def double(s: Subject) -> None:
    """Teacher-forced: each step starts from the float32 state, so that errors do not add up."""
    params = s.params()
    random = np.random.default_rng(s.seed)
    plain = s.grads(params)
    noise = jax.tree.map(
        lambda g: jnp.asarray(random.standard_normal((MILESTONES[-1] + 1, *g.shape)), g.dtype), plain
    )

    def at(i: Any) -> Any:
        return jax.tree.map(lambda x: x[i], noise)

    advance = jax.jit(
        lambda state, i, n: jax.lax.fori_loop(i, n, lambda i, c: s.update(at(i), c, params)[1], state)
    )
    state, done = s.init(params), 0
    for count in MILESTONES:
        state = advance(state, done, count)
        done = count
        grads = at(count)
        got, _ = s.step(grads, state, params)
        wanted = _in_double(s, grads, state, params)
        for (path, a), (_, b) in zip(rows(got), rows(wanted), strict=True):
            x, y = numbers(a), numbers(b)
            scale = np.mean(np.abs(y)) if y.size else 0.0
            error = np.max(np.abs(x - y), initial=0.0) / scale if scale else 0.0
            if not error <= DOUBLE:
                fact = f"step {count + 1} at {path or 'its leaf'} is off by {error:.1e} (of its mean size)"
                raise Broken(fact, {"params": params, "grads": grads})


def _in_double(s: Subject, grads: Any, state: Any, params: Any) -> Any:
    def wide(x: Any) -> Any:
        if is_key(x) or not hasattr(x, "dtype"):
            return x
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            return jnp.asarray(np.asarray(x), jnp.complex128)
        return jnp.asarray(np.asarray(x), jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    with jax.enable_x64(True):
        try:
            args = jax.tree.map(wide, (grads, state, params))
            updates, _ = s.step(*args)
        except Exception as problem:
            raise Unable(f"its step does not run in float64: {type(problem).__name__}") from problem
        narrow = [path for path, u in rows(updates) if u.dtype in (jnp.float32, jnp.float16, jnp.bfloat16)]
        if narrow:
            raise Inapplicable("its updates of float64 parameters are not float64")
        return jax.tree.map(np.asarray, updates)
