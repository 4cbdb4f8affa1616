"""No option is decoration: each, when changed, changes what happens. And the documents' claims about decay hold."""

import inspect
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference

from . import alone
from .options_methods import ADDED, CHANGES_OF_METHODS, apart

TRANSFORMS = "gradxform._transforms."
PARAMS = {"w": jnp.array([[0.5, -2.0, 0.3], [1.5, 0.1, -0.7]]), "b": jnp.array([0.25, -1.0])}
HALF = gx.linear_schedule(1.0, 0.0, 8)
MASK = {"w": True, "b": False}

CHANGES: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_adam": (
        {},
        {
            "b1": [0.0, 0.8, gx.linear_schedule(0.9, 0.5, 8)],
            "b2": [0.0, 0.9, gx.linear_schedule(0.9, 0.5, 8)],
            "eps": [0.1, HALF],
            "eps_root": [0.1, HALF],
            "mu_dtype": [jnp.bfloat16, jnp.float16],
            "nu_dtype": [jnp.bfloat16, jnp.float16],
            "nesterov": [True],
        },
    ),
    "adam": (
        {"learning_rate": 0.1},
        {
            "learning_rate": [0.2, HALF],
            "b1": [0.8],
            "b2": [0.9],
            "eps": [0.1],
            "eps_root": [0.1],
            "mu_dtype": [jnp.bfloat16],
            "nu_dtype": [jnp.bfloat16],
            "nesterov": [True],
        },
    ),
    "adamw": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {
            "learning_rate": [0.2, HALF],
            "b1": [0.8],
            "b2": [0.9],
            "eps": [0.1],
            "eps_root": [0.1],
            "mu_dtype": [jnp.bfloat16],
            "nu_dtype": [jnp.bfloat16],
            "nesterov": [True],
            "weight_decay": [0.0, 0.2, HALF],
            "mask": [MASK, gx.matrices(), "w"],
        },
    ),
    "nadamw": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {
            "learning_rate": [0.2],
            "b1": [0.8],
            "b2": [0.9],
            "eps": [0.1],
            "eps_root": [0.1],
            "mu_dtype": [jnp.bfloat16],
            "nu_dtype": [jnp.bfloat16],
            "nesterov": [False],
            "weight_decay": [0.2],
            "mask": [MASK],
        },
    ),
    "lion": (
        {"learning_rate": 0.1, "weight_decay": 0.1},
        {
            "learning_rate": [0.2, HALF],
            "b1": [0.0],
            "b2": [0.0],
            "mu_dtype": [jnp.bfloat16],
            "weight_decay": [0.2, HALF],
            "mask": [MASK],
        },
    ),
    "scale_by_lion": (
        {},
        {
            "b1": [0.0],
            "b2": [0.0],
            "mu_dtype": [jnp.bfloat16],
            "mode": ["smooth", "refined"],
        },
    ),
    "sgd": (
        {"learning_rate": 0.1, "momentum": 0.9},
        {
            "learning_rate": [0.2, HALF],
            "momentum": [None, 0.0, 0.5, gx.linear_schedule(0.9, 0.5, 8)],
            "nesterov": [True],
            "accumulator_dtype": [jnp.bfloat16],
        },
    ),
    "trace": (
        {"decay": 0.9},
        {
            "decay": [0.0, gx.linear_schedule(0.9, 0.5, 8)],
            "nesterov": [True],
            "accumulator_dtype": [jnp.bfloat16],
        },
    ),
    "add_decayed_weights": (
        {"weight_decay": 0.1},
        {"weight_decay": [0.2, HALF], "mask": [MASK, gx.matrices()], "coupled": [False]},
    ),
    "scale_by_learning_rate": (
        {"learning_rate": 0.1},
        {"learning_rate": [0.2, HALF, None], "flip_sign": [False]},
    ),
    "scale": ({"step_size": 0.1}, {"step_size": [0.2, HALF, -0.1]}),
    "clip": ({"max_delta": 0.5}, {"max_delta": [0.1, HALF]}),
    "clip_by_block_rms": ({"threshold": 0.5}, {"threshold": [0.1, HALF]}),
    "clip_by_global_norm": ({"max_norm": 0.5}, {"max_norm": [0.1, HALF]}),
    "adaptive_grad_clip": (
        {"clipping": 0.1},
        {"clipping": [0.2, HALF], "eps": [3.0, HALF], "axis": [1, (0, 1)]},
    ),
}
for _factory, _options in ADDED.items():
    CHANGES[_factory] = (CHANGES[_factory][0], CHANGES[_factory][1] | _options)
CHANGES |= CHANGES_OF_METHODS | alone.OPTIONS
ROWS = [
    (factory, base, name, value)
    for factory, (base, options) in CHANGES.items()
    for name, values in options.items()
    for value in values
]


STEPS = 6


@cache
def gradients() -> Any:
    rng = np.random.default_rng(3)
    # Signs change, so that the memory of a sign rule shows too.
    return {k: rng.normal(size=(STEPS, *p.shape)).astype(np.float32) for k, p in PARAMS.items()}


@cache
def trajectory(tx: Any) -> tuple[Any, Any]:
    """The updates of all steps, and the state at the end: one program, where eager steps would be several."""

    @jax.jit
    def step(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return updates, state, gx.apply_updates(params, updates)

    params, state, seen = PARAMS, tx.init(PARAMS), []
    for i in range(STEPS):
        updates, state, params = step({k: g[i] for k, g in gradients().items()}, state, params)
        seen.append(updates)
    return {k: np.stack([updates[k] for updates in seen]) for k in PARAMS}, state


def build(factory: str, kwargs: dict[str, Any]) -> Any:
    tx = getattr(gx, factory)(**kwargs)
    # A vector is one unit whatever the axis, and has no axis 1: the option is for matrices.
    return gx.masked(tx, MASK) if factory == "adaptive_grad_clip" else tx


def label(x: Any) -> str | None:
    return None if isinstance(x, dict) and x is not MASK else getattr(x, "__name__", str(x))


@pytest.mark.slow
@pytest.mark.parametrize(("factory", "base", "name", "value"), ROWS, ids=label)
def test_every_option_matters(factory: str, base: dict[str, Any], name: str, value: Any) -> None:
    value, others = apart(value)
    base = base | others
    before, after = (trajectory(build(factory, kwargs)) for kwargs in (base, base | {name: value}))
    same = [np.array_equal(before[0][k], after[0][k]) for k in PARAMS]
    # A sign seldom shows how its momentum was rounded.
    if name.endswith("_dtype") and ("lion" in factory or factory == "signum"):
        same = [x.dtype == y.dtype for x, y in zip(*map(jax.tree.leaves, (before[1], after[1])), strict=True)]
    assert not all(same), "the option changes nothing"
    assert all(np.all(np.isfinite(u)) for run in (before, after) for u in run[0].values())


@pytest.mark.parametrize("factory", sorted(CHANGES))
def test_the_table_knows_every_option(factory: str) -> None:
    asked = set(inspect.signature(getattr(gx, factory)).parameters)
    # smooth_beta is of no account but for mode="smooth"; axis_names are for shard_map; `like` is short for others.
    assert asked - {"smooth_beta", "axis_names", "like"} == set(CHANGES[factory][1])


def test_the_table_knows_every_method() -> None:
    made = {name: getattr(gx, name) for name in dir(gx)}
    here = {name for name, made in made.items() if getattr(made, "__module__", "").startswith(TRANSFORMS)}
    assert here <= CHANGES.keys()


def test_smooth_beta() -> None:
    one, two = (trajectory(gx.scale_by_lion(mode="smooth", smooth_beta=beta))[0] for beta in (1.0, 2.0))
    assert not np.array_equal(one["w"], two["w"])


def test_lion_s_modes() -> None:
    """x = 0.1 g at the first step: its sign, its tanh, itself within [-1, 1] and the sign outside."""
    g = jnp.array([30.0, -2.0, 0.0, 0.5])
    x = 0.1 * np.asarray(g, np.float64)
    for mode, beta, want in (
        ("hard", 1.0, np.sign(x)),
        ("smooth", 3.0, np.tanh(3.0 * x)),
        ("refined", 1.0, np.clip(x, -1, 1)),
    ):
        tx = gx.scale_by_lion(mode=mode, smooth_beta=beta)
        np.testing.assert_allclose(tx.update(g, tx.init(g))[0], want, rtol=2e-7)


def test_l2_is_not_decoupled_decay() -> None:
    """Decay before Adam is divided by the root of v: at a steady gradient it hardly acts; for SGD the two are equal."""
    p = {"large": jnp.array([1.0]), "small": jnp.array([1.0])}
    g = {"large": jnp.array([100.0]), "small": jnp.array([1e-3])}
    adam, decay, rate = gx.scale_by_adam(), gx.add_decayed_weights(0.1), gx.scale_by_learning_rate(0.01)

    def shrunk(*links: Any) -> dict[str, float]:
        """How much more a weight shrinks because of the decay."""
        with_decay, without = gx.chain(*links), gx.chain(*(link for link in links if link != decay))
        got, plain = (tx.update(g, tx.init(p), p)[0] for tx in (with_decay, without))
        return {k: float(plain[k][0] - got[k][0]) for k in p}

    decoupled, l2 = shrunk(adam, decay, rate), shrunk(decay, adam, rate)
    assert decoupled == pytest.approx({"large": 1e-3, "small": 1e-3}, rel=1e-5)
    assert l2["large"] == pytest.approx(0.0, abs=1e-8)
    assert l2 == pytest.approx({"large": 0.0, "small": 0.0}, abs=1e-6)  # the first step of Adam is the sign
    trace = gx.trace(0.9)
    assert shrunk(trace, decay, rate) == pytest.approx(shrunk(decay, trace, rate), rel=1e-4)
    assert shrunk(gx.identity(), decay, rate) == shrunk(decay, gx.identity(), rate)


@pytest.mark.parametrize("shape", [(), (5,), (1, 5), (2, 3), (2, 3, 4), (2, 2, 3, 4)])
@pytest.mark.parametrize("tight", [True, False])
def test_clips_hold_on_every_rank(shape: tuple[int, ...], tight: bool) -> None:
    """The bound is kept and the direction too; what is within the bound is left alone, to the bit."""
    rng = np.random.default_rng(len(shape))
    p, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    wide = np.asarray(g, np.float64)
    bound = 0.1 if tight else 1e3
    pairs = [
        (gx.clip(bound), reference.Clip(bound)),
        (gx.clip_by_block_rms(bound), reference.ClipByBlockRms(bound)),
        (gx.clip_by_global_norm(bound), reference.ClipByGlobalNorm(bound)),
        (gx.adaptive_grad_clip(bound), reference.AdaptiveGradClip(bound)),
    ]
    for tx, method in pairs:
        got = tx.update(g, tx.init(p), p)[0]
        want = method.update(wide, {}, np.asarray(p, np.float64))[1]
        np.testing.assert_allclose(got, want, rtol=5e-7)
        assert got.shape == shape
        assert tight or np.array_equal(got, g)


def test_seeds_row_9_clip_at_one() -> None:
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    updates, _ = gx.clip_by_global_norm(1.0).update(grads, ())
    norm = np.sqrt(sum(float(jnp.sum(u * u)) for u in updates.values()))
    assert norm == pytest.approx(1.0, rel=1e-6)
