"""Prodigy: the reference from the paper, its rows of the grid, its options, and what is true of it alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gradxform as gx
from tests.interop.problem import optax_s_own
from tests.reference.scalars import Hyper, bias_correction, hyper
from tests.reference.tree import map_tree

from .grid_cases import BETA1, BETA2, FALL, GROW, STAIRS, Both, Case, make_case

STORAGE = ("mu_dtype", "nu_dtype")


@dataclass(frozen=True)
class Prodigy:
    """The whole method on a dictionary of arrays, with the bias correction of the authors' code in the rate."""

    learning_rate: Hyper = 1.0
    betas: tuple[Hyper, Hyper] = (0.9, 0.999)
    beta3: Hyper | None = None
    eps: Hyper = 1e-8
    estim_lr0: float = 1e-6
    estim_lr_coef: Hyper = 1.0
    weight_decay: Hyper = 0.0
    safeguard_warmup: bool = False
    growth_rate: Hyper | None = None
    bias_correction: bool = True

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        count, d = state["count"], float(state["estim_lr"])
        b1, b2, eps, decay, rate = (
            hyper(h, count) for h in (*self.betas, self.eps, self.weight_decay, self.learning_rate)
        )
        b3 = np.sqrt(b2) if self.beta3 is None else hyper(self.beta3, count)
        if self.bias_correction:
            rate *= np.sqrt(bias_correction(b2, count + 1)) / bias_correction(b1, count + 1)
        lift = d / self.estim_lr0
        along = sum(np.sum(g * (state["params0"][k] - params[k])) for k, g in grads.items())
        numerator = b3 * state["numerator_weighted"] + lift * d * rate * along
        weight = lift * d * (1.0 if self.safeguard_warmup else rate)
        m = map_tree(lambda g, m: b1 * m + (1 - b1) * d * g, grads, state["exp_avg"])
        v = map_tree(lambda g, v: b2 * v + (1 - b2) * (d * g) ** 2, grads, state["exp_avg_sq"])
        s = map_tree(lambda g, s: b3 * s + weight * g, grads, state["grad_sum"])
        size = sum(np.sum(np.abs(x)) for x in s.values())
        new = max(d, hyper(self.estim_lr_coef, count) * float(numerator) / size) if size > 0 else d
        if self.growth_rate is not None and not np.isclose(d, self.estim_lr0, rtol=1e-6):
            new = min(new, d * hyper(self.growth_rate, count))

        def move(m: Any, v: Any, p: Any) -> Any:
            root = np.sqrt(v) + new * eps
            u = np.divide(m, root, out=np.zeros_like(root), where=root > 0)
            return -d * rate * (u + decay * p)

        made = {"exp_avg": m, "exp_avg_sq": v, "grad_sum": s, "params0": state["params0"]}
        made |= {"estim_lr": new, "numerator_weighted": float(numerator), "count": count + 1}
        return made, map_tree(move, m, v, params)


def row(**kwargs: Any) -> Case:
    """A row, in which decays may be schedules although they stand in a pair."""
    betas: tuple[Any, Any] = kwargs.get("betas", (0.9, 0.999))
    plain = make_case("prodigy", Prodigy, kwargs, STORAGE)
    if not any(isinstance(b, Both) for b in betas):
        return plain
    rest = {k: v for k, v in kwargs.items() if k != "betas"}
    case = make_case("prodigy", Prodigy, rest, STORAGE)

    def tx() -> Any:
        return gx.prodigy(betas=tuple(b.ours for b in betas), **rest)

    return case._replace(
        name=plain.name.replace(str(betas), "schedules"),
        tx=tx,
        method=lambda: Prodigy(betas=(betas[0].theirs, betas[1].theirs), **rest),
    )


#: The gradients of the grid are those of no minimum: there the estimate has no bound but these.
_SLOW = {"estim_lr_coef": 0.2}
CASES = [
    row(**_SLOW),
    row(weight_decay=0.1, estim_lr0=1e-3, **_SLOW),
    row(betas=(0.8, 0.95), beta3=0.9, eps=1e-3, estim_lr0=1e-2, estim_lr_coef=0.1),
    row(betas=(0.0, 0.5), eps=0.0, **_SLOW),
    row(betas=(BETA1, BETA2), **_SLOW),
    row(learning_rate=FALL, weight_decay=FALL, eps=GROW, estim_lr_coef=STAIRS, safeguard_warmup=True),
    row(growth_rate=1.02, estim_lr0=1e-4, estim_lr_coef=3.0),
    row(bias_correction=False, estim_lr_coef=0.05),
    row(mu_dtype=jnp.bfloat16, nu_dtype=jnp.bfloat16, **_SLOW),
]
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "prodigy": (
        {"estim_lr0": 0.1, "weight_decay": 0.1, "estim_lr_coef": 50.0, "beta3": 0.0},
        {
            "learning_rate": [0.5, gx.linear_schedule(1.0, 0.0, 8)],
            "betas": [(0.8, 0.999), (0.9, 0.9)],
            "beta3": [None, 0.5],
            "eps": [0.1],
            "estim_lr0": [0.2],
            "estim_lr_coef": [30.0],
            "weight_decay": [0.0, 0.2],
            "safeguard_warmup": [True],
            "growth_rate": [1.0001],
            "bias_correction": [False],
            "mu_dtype": [jnp.bfloat16],
            "nu_dtype": [jnp.bfloat16],
        },
    ),
}

START = {"w": np.linspace(-1, 2, 12, dtype=np.float32).reshape(4, 3), "b": np.float32([0.5, -0.3])}


def pull(p: Any) -> Any:
    """The gradient of a quadratic whose solution is 0.3 everywhere."""
    return jax.tree.map(lambda x: 2 * (x - np.asarray(0.3, x.dtype)), p)


def descend(tx: Any, steps: int, state: Any = None, params: Any = None, scale: Any = None) -> Any:
    """Parameters, state and the estimates of all steps."""

    @jax.jit
    def step(p: Any, state: Any, factor: Any) -> Any:
        u, state = tx.update(jax.tree.map(lambda g: factor.astype(g.dtype) * g, pull(p)), state, p)
        return gx.apply_updates(p, u), state

    p = jax.tree.map(jnp.asarray, START) if params is None else params
    state = tx.init(p) if state is None else state
    seen = []
    for i in range(steps):
        p, state = step(p, state, jnp.float32(1.0 if scale is None else scale(i)))
        seen.append(float(state.estim_lr))
    return p, state, np.array(seen)


ROWS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1, "estim_lr_coef": 0.5},
    {"betas": (0.8, 0.95), "beta3": 0.9, "eps": 1e-3, "estim_lr0": 1e-4},
    {"learning_rate": optax.linear_schedule(0.1, 1.0, 10), "safeguard_warmup": True},
]


@pytest.mark.parametrize("options", ROWS, ids=lambda o: ",".join(o))
def test_it_is_optax_s_with_optax_s_state(options: dict[str, Any]) -> None:
    """The same estimates and weights, and either goes on with the other's state."""
    with optax_s_own():
        theirs, ours = optax.contrib.prodigy(**options), gx.prodigy(**options)
        p, state, want = descend(theirs, 30)
        q, mine, got = descend(ours, 30)
        # The estimate doubles in a step or two, and Optax's first corrections are off by 1e-5.
        np.testing.assert_allclose(got, want, rtol=1e-3)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), q, p)
        assert jax.tree.structure(mine) == jax.tree.structure(state)
        assert [x.dtype for x in jax.tree.leaves(mine)] == [x.dtype for x in jax.tree.leaves(state)]
        p, state, _ = descend(theirs, 10)
        for one in (ours, theirs):
            for other in (ours, theirs):
                half = descend(one, 10)
                _, _, after = descend(other, 10, half[1], half[0])
                np.testing.assert_allclose(after[-1], want[19], rtol=1e-3)
        after, _ = ours.update(pull(p), state, p)
        wanted, _ = theirs.update(pull(p), state, p)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5), after, wanted)


def test_with_an_estimate_that_stays_it_is_adam() -> None:
    """Without a rise, d divides out of m / sqrt(v): what is left is Adam of the rate d_0, epsilon and all."""
    grads = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    tx = gx.prodigy(1.0, estim_lr0=1e-3, estim_lr_coef=1e-30, eps=1e-2, bias_correction=False)
    adam = gx.chain(gx.scale_by_adam(eps=1e-2), gx.scale(-1e-3))
    p = jnp.ones(5)
    state, other = tx.init(p), adam.init(p)
    m, v = np.zeros(5), np.zeros(5)
    for g in grads:
        u, state = tx.update(jnp.asarray(g), state, p)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * np.float64(g) ** 2
        np.testing.assert_allclose(u, -1e-3 * m / (np.sqrt(v) + 1e-2), rtol=2e-5, atol=1e-9)
    assert float(state.estim_lr) == pytest.approx(1e-3)
    tx = gx.prodigy(1.0, estim_lr0=1e-3, estim_lr_coef=1e-30, eps=0.0)
    adam = gx.chain(gx.scale_by_adam(eps=0.0), gx.scale(-1e-3))
    state, other = tx.init(p), adam.init(p)
    for g in grads:
        u, state = tx.update(jnp.asarray(g), state, p)
        want, other = adam.update(jnp.asarray(g), other, p)
        np.testing.assert_allclose(u, want, rtol=1e-5)


def test_the_rate_is_found_within_the_distance() -> None:
    """Of start and solution, whatever the start of the estimate is; and the loss falls without a rate being given."""
    distance = float(np.sqrt(sum(np.sum((x - 0.3) ** 2) for x in START.values())))
    ends = []
    for first in (1e-8, 1e-6, 1e-4):
        p, _, seen = descend(gx.prodigy(estim_lr0=first, bias_correction=False), 200)
        assert np.all(np.diff(seen) >= 0)
        assert seen[-1] <= distance
        assert max(float(jnp.max(jnp.abs(x - 0.3))) for x in p.values()) < 0.1
        ends.append(seen[-1])
    assert max(ends) / min(ends) < 2


@pytest.mark.parametrize("options", [{}, {"eps": 0.0}, {"bias_correction": False}])
def test_a_first_gradient_of_zero_leaves_the_estimate(options: dict[str, Any]) -> None:
    """Optax divides 0 by 0 there, and keeps what comes of it."""

    def late(i: int) -> float:
        return float(i > 1)

    p, state, seen = descend(gx.prodigy(**options), 40, scale=late)
    assert seen[0] == seen[1] == np.float32(1e-6)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((p, state)))
    assert seen[-1] > 1e-3
    with optax_s_own():
        assert np.isnan(descend(optax.contrib.prodigy(), 2, scale=late)[2][0])


def test_a_schedule_that_starts_at_zero_leaves_the_estimate() -> None:
    _, _, seen = descend(gx.prodigy(gx.linear_schedule(0.0, 1.0, 10)), 40)
    assert seen[0] == np.float32(1e-6)
    assert 1e-3 < seen[-1] < np.inf


def test_growth_is_bounded_once_it_has_begun() -> None:
    _, _, free = descend(gx.prodigy(), 40)
    _, _, seen = descend(gx.prodigy(growth_rate=1.5), 40)
    risen = np.flatnonzero(seen > np.float32(1e-6))
    assert seen[risen[0]] == free[risen[0]], "the first rise is not bounded"
    rises = seen[risen[1:]] / seen[risen[:-1]]
    assert np.max(rises) == pytest.approx(1.5, rel=1e-6)
    assert np.max(free[1:] / free[:-1]) > 1.5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bits_find_the_same_rate(dtype: Any) -> None:
    """Sums, moments and the estimate are float32; the start is kept to the bit, so that the way from it is exact."""
    p = jax.tree.map(lambda x: jnp.asarray(x, dtype), START)
    state = gx.prodigy().init(p)
    dtypes = {name: jax.tree.leaves(value)[0].dtype for name, value in state._asdict().items()}
    wide = dict.fromkeys(state._fields, jnp.dtype(jnp.float32))
    assert dtypes == wide | {"params0": jnp.dtype(dtype), "count": jnp.dtype(jnp.int32)}
    _, _, want = descend(gx.prodigy(estim_lr0=0.01), 60, params=jax.tree.map(jnp.float32, p))
    q, _, seen = descend(gx.prodigy(estim_lr0=0.01), 60, params=p)
    assert jax.tree.leaves(q)[0].dtype == dtype
    assert 0.5 < seen[-1] / want[-1] < 2
    # A weight of 16 bits does not move by a millionth: nothing comes of it, unless what is rounded off is kept.
    _, _, stuck = descend(gx.prodigy(), 60, params=p)
    assert stuck[-1] == np.float32(1e-6)


def test_with_what_is_rounded_off_kept_16_bits_start_at_a_millionth() -> None:
    tx = gx.lowbit.exact_master(gx.prodigy())
    p = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), START)
    state, step = tx.init(p), jax.jit(tx.update)
    for _ in range(120):
        u, state = step(pull(p), state, p)
        p = gx.apply_updates(p, u)
    assert max(float(jnp.max(jnp.abs(x - np.asarray(0.3, x.dtype)))) for x in p.values()) < 0.1


def test_the_start_is_no_second_set_of_weights_for_reports() -> None:
    """`average_params` wants to stand last because of its weights; Prodigy's are those of the start."""
    tx = gx.chain(gx.prodigy(), gx.clip(1.0))
    p = jax.tree.map(jnp.asarray, START)
    assert "put it last" not in str(gx.describe(tx, p))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"gx\.prodigy\(betas\[1\]=1\.0\): wanted a number in \[0, 1\)"):
        gx.prodigy(betas=(0.9, 1.0))
    with pytest.raises(TypeError, match=r"gx\.prodigy\(betas=0\.9\): wanted two decays; write betas="):
        gx.prodigy(betas=0.9)
    with pytest.raises(ValueError, match=r"gx\.prodigy\(beta3=-0\.1\)"):
        gx.prodigy(beta3=-0.1)
    with pytest.raises(ValueError, match=r"gx\.prodigy\(estim_lr0=0\): wanted a number above 0"):
        gx.prodigy(estim_lr0=0)
    with pytest.raises(TypeError, match=r"estim_lr0=.*wanted a number or a 0-d array"):
        gx.prodigy(estim_lr0=gx.linear_schedule(1.0, 0.0, 3))
    with pytest.raises(ValueError, match=r"gx\.prodigy\(growth_rate=0\.9\): wanted a number of at least 1"):
        gx.prodigy(growth_rate=0.9)
    with pytest.raises(ValueError, match=r"gx\.prodigy\(weight_decay=-0\.1\)"):
        gx.prodigy(weight_decay=-0.1)
    with pytest.raises(TypeError, match=r"gx\.prodigy\(safeguard_warmup=1\)"):
        gx.prodigy(safeguard_warmup=1)
    with pytest.raises(ValueError, match="params"):
        gx.prodigy().update(jnp.ones(2), gx.prodigy().init(jnp.ones(2)))
