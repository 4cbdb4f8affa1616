"""Methods that are one another: under some option, at the first step, or for some gradients. Double precision, 1e-12.

Where it is cheap, the same comparison without the condition shows that the two do differ.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(11)
STEPS = 9
PARAMS = {"w": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(5,))}
NOISE = [{k: RNG.normal(size=p.shape) + 0.3 for k, p in PARAMS.items()} for _ in range(STEPS)]
ONES = [{k: np.sign(p) * 0.7 for k, p in PARAMS.items()}] * STEPS


@functools.partial(jax.jit, static_argnums=0)  # transforms are equal by value, and share a program
def step(tx: Any, grads: Any, state: Any, params: Any) -> Any:
    updates, state = tx.update(grads, state, params)
    return updates, state, gx.apply_updates(params, updates)


def walk(tx: Any, grads: Sequence[Any] = NOISE, params: Any = PARAMS) -> list[dict[str, np.ndarray]]:
    """The updates of all steps."""
    params, state, seen = {k: jnp.asarray(p) for k, p in params.items()}, tx.init(params), []
    for g in grads:
        updates, state, params = step(tx, {k: jnp.asarray(x) for k, x in g.items()}, state, params)
        seen.append({k: np.asarray(u) for k, u in updates.items()})
    return seen


def apart(one: Sequence[Any], two: Sequence[Any], leaf: str | None = None) -> float:
    """The largest difference over all steps, relative to the largest update of the step."""
    assert len(one) == len(two) > 0
    leaves = [leaf] if leaf else list(one[0])
    return max(
        float(np.max(np.abs(a[k] - b[k])) / np.max(np.abs(b[k])))
        for a, b in zip(one, two, strict=True)
        for k in leaves
    )


def same(one: Any, two: Any, grads: Sequence[Any] = NOISE, **kwargs: Any) -> bool:
    return apart(walk(one, grads, **kwargs), walk(two, grads, **kwargs)) < 1e-12


def one_minus_power(b: float) -> Callable[[Any], Any]:
    return lambda count: 1 - b ** (jnp.asarray(count, float) + 1)


# Adam and those next to it


def test_adam_without_momentum_is_corrected_rmsprop() -> None:
    rms = gx.scale_by_rms(0.95, eps=1e-3, eps_in_sqrt=False, bias_correction=True)
    assert same(gx.scale_by_adam(b1=0.0, b2=0.95, eps=1e-3), rms)
    assert not same(gx.scale_by_adam(b1=0.5, b2=0.95, eps=1e-3), rms)


def test_adam_without_memory_is_the_sign() -> None:
    assert same(gx.scale_by_adam(b1=0.0, b2=0.0, eps=0.0), gx.scale_by_sign())
    assert same(gx.adam(0.1, b1=0.0, b2=0.0, eps=0.0), gx.sign_sgd(0.1))


def test_adam_that_never_forgets_is_adagrad() -> None:
    """v_hat tends to the mean of the squares as b2 tends to 1: Adagrad times sqrt(t) (Kingma & Ba, section 5)."""
    adam = walk(gx.scale_by_adam(b1=0.0, b2=1 - 1e-9, eps=0.0))
    sums = walk(gx.scale_by_rss(initial_accumulator_value=0.0, eps=0.0))
    assert (
        apart(adam, [{k: np.sqrt(t) * u for k, u in step.items()} for t, step in enumerate(sums, 1)]) < 1e-8
    )


def test_epsilon_hat_is_an_epsilon_that_falls() -> None:
    falling = gx.scale_by_adam(b2=0.9, eps=lambda count: 0.1 / jnp.sqrt(one_minus_power(0.9)(count)))
    assert same(gx.scale_by_adam(b2=0.9, eps=0.1, eps_hat=True), falling)
    assert not same(gx.scale_by_adam(b2=0.9, eps=0.1), falling)
    assert same(gx.scale_by_adam(eps=0.0, eps_hat=True), gx.scale_by_adam(eps=0.0))


def test_nadam_with_a_finished_warmup_is_adam_with_nesterov() -> None:
    adam = gx.scale_by_adam(nesterov=True)
    assert same(gx.scale_by_nadam(momentum_decay=1e6), adam)
    assert not same(gx.scale_by_nadam(), adam)
    assert same(gx.nadam(0.1), gx.adam(0.1, nesterov=True))


def test_amsgrad_is_adam_while_v_grows() -> None:
    """Growing gradients keep v at its maximum, corrected or raw; falling ones do not."""
    grow = [{k: (1.0 + t) ** 2 * x for k, x in g.items()} for t, g in enumerate(ONES)]
    fall = [{k: x / (1.0 + t) ** 2 for k, x in g.items()} for t, g in enumerate(ONES)]
    for raw_max in (False, True):
        amsgrad = gx.scale_by_amsgrad(b2=0.9, raw_max=raw_max)
        assert same(amsgrad, gx.scale_by_adam(b2=0.9), grow)
        assert not same(amsgrad, gx.scale_by_adam(b2=0.9), fall)
    uncorrected: Any = {"b2": 0.9, "bias_correction_nu": False}
    assert same(gx.scale_by_amsgrad(**uncorrected), gx.scale_by_amsgrad(**uncorrected, raw_max=True))
    assert not same(gx.scale_by_amsgrad(b2=0.9), gx.scale_by_amsgrad(b2=0.9, raw_max=True))


@pytest.mark.parametrize("eps_hat", [False, True])
def test_radam_is_corrected_momentum_before_its_threshold(eps_hat: bool) -> None:
    radam, momentum = walk(gx.scale_by_radam(eps_hat=eps_hat)), walk(gx.ema(0.9))
    assert apart(radam[:5], momentum[:5]) < 1e-12
    assert apart(radam[5:6], momentum[5:6]) > 0.1


def test_radam_ends_as_adam() -> None:
    """With little memory rho is at its limit after some steps, and r is one."""
    radam, adam = (walk(make(b2=0.75), NOISE * 12)[100:] for make in (gx.scale_by_radam, gx.scale_by_adam))
    assert apart(radam, adam) < 1e-10


def test_adamax_is_the_limit_of_p_norms() -> None:
    """n = lim (v_p)^(1/p) with v_p = b2^p v_p + (1 - b2^p) |g|^p (Kingma & Ba, section 7.1)."""
    adamax, b2, g = walk(gx.scale_by_adamax(b1=0.0, b2=0.9, eps=0.0)), 0.9, [x["w"] for x in NOISE]

    def limit(p: float) -> list[dict[str, np.ndarray]]:
        logs, seen = np.full(g[0].shape, -np.inf), []
        for x in g:
            logs = np.logaddexp(p * np.log(b2) + logs, np.log1p(-(b2**p)) + p * np.log(np.abs(x)))
            seen.append({"w": x / np.exp(logs / p)})
        return seen

    errors = [apart(adamax, limit(p), "w") for p in (1e2, 1e3, 1e4)]
    assert errors[0] < 0.1
    assert errors[1] < 1e-2
    assert errors[2] < 1e-3


@pytest.mark.parametrize(
    "tx",
    [
        gx.scale_by_adam(eps=0.0),
        gx.scale_by_amsgrad(eps=0.0),
        gx.scale_by_adamax(eps=0.0),
        gx.scale_by_adan(eps=0.0),
        gx.scale_by_nadam(eps=0.0, momentum_decay=1e6),
        gx.chain(gx.ema(0.9), gx.scale_by_sign()),
        gx.scale_by_lion(),
        gx.scale_by_factored_rms(epsilon=0.0, min_dim_size_to_factor=2),
    ],
    ids=repr,
)
def test_a_gradient_that_never_changes_moves_by_its_sign(tx: Any) -> None:
    seen = walk(tx, ONES)
    wanted = [{k: np.sign(x) for k, x in g.items()} for g in ONES]
    if "nadam" in repr(tx):  # looks ahead: b1 (1 - b1^t) / (1 - b1^(t+1)) + (1 - b1) / (1 - b1^t)
        factor = [0.9 * (1 - 0.9**t) / (1 - 0.9 ** (t + 1)) + 0.1 / (1 - 0.9**t) for t in range(1, STEPS + 1)]
        wanted = [{k: f * x for k, x in w.items()} for f, w in zip(factor, wanted, strict=True)]
    assert apart(seen, wanted) < 1e-12


def test_yogi_begins_as_adam_and_moves_v_by_as_much_either_way() -> None:
    yogi = gx.scale_by_yogi(b2=0.9, eps=1e-3, initial_accumulator_value=0.0)
    first, adam = walk(yogi), walk(gx.scale_by_adam(b2=0.9, eps=1e-3))
    assert apart(first[:1], adam[:1]) < 1e-12
    assert apart(first[1:], adam[1:]) > 1e-2
    for v, g in ((4.0, 1.0), (0.25, 1.0)):
        tx = gx.scale_by_yogi(b2=0.9, initial_accumulator_value=v)
        state: Any = tx.update(jnp.asarray(g), tx.init(jnp.asarray(0.0)))[1]
        assert abs(float(state.nu) - v) == pytest.approx(0.1 * g**2, rel=1e-12)


def test_yogi_stands_still_without_gradients_but_for_a_seeded_momentum() -> None:
    nothing = [{k: 0 * p for k, p in PARAMS.items()}] * 2
    assert all(not np.any(u) for step in walk(gx.scale_by_yogi(), nothing) for u in step.values())
    assert all(np.all(u > 0) for step in walk(gx.scale_by_yogi(seed_mu=True), nothing) for u in step.values())


def test_belief_begins_as_adam_over_b1_and_has_no_doubt_without_momentum() -> None:
    """g - m is b1 g at the first step; with b1 = 0 it is always 0, and epsilon is all that divides."""
    belief = walk(gx.scale_by_belief(b1=0.8, eps=0.0, eps_root=0.0))
    adam = walk(gx.scale_by_adam(b1=0.8, eps=0.0))
    assert apart(belief[:1], [{k: u / 0.8 for k, u in adam[0].items()}]) < 1e-12
    sure = gx.chain(gx.scale_by_belief(b1=0.0, eps=0.5, eps_root=0.0), gx.scale(0.5))
    assert same(sure, gx.identity())


def test_adan_without_weight_on_differences_is_adam() -> None:
    adam = gx.scale_by_adam(b1=0.9, b2=0.99)
    assert same(gx.scale_by_adan(b1=0.9, b2=0.0, b3=0.99, weigh_by_b2=True), adam)
    assert not same(gx.scale_by_adan(b1=0.9, b2=0.0, b3=0.99), adam)
    halves: Any = {"b1": 0.9, "b2": 0.5, "b3": 0.99}
    assert same(gx.scale_by_adan(**halves), gx.scale_by_adan(**halves, weigh_by_b2=True))


# Momentum and sign


def test_lion_with_one_decay_is_signum() -> None:
    signum = gx.signum(0.1, beta=0.8)
    assert same(gx.lion(0.1, b1=0.8, b2=0.8, weight_decay=0.0), signum)
    assert not same(gx.lion(0.1, b1=0.8, b2=0.2, weight_decay=0.0), signum)
    assert same(gx.chain(gx.trace(0.8), gx.scale_by_sign(), gx.scale_by_learning_rate(0.1)), signum)
    assert same(gx.signum(0.1, beta=0.0), gx.sign_sgd(0.1))


def test_dampened_momentum_is_the_average_of_signum_after_a_first_gradient_of_zero() -> None:
    """The first gradient enters whole; with a zero one the sum dampened by its own decay is the average."""
    late = [{k: 0 * x for k, x in NOISE[0].items()}, *NOISE]
    damped, average = gx.trace(0.8, dampening=0.8), gx.ema(0.8, debias=False)
    assert apart(walk(damped, late)[1:], walk(average, late)[1:]) < 1e-12
    assert apart(walk(damped), walk(average)) > 0.1
    signed = gx.chain(damped, gx.scale_by_sign(), gx.scale_by_learning_rate(0.1))
    assert apart(walk(signed, late)[1:], walk(gx.signum(0.1, beta=0.8), late)[1:]) < 1e-12


def test_the_average_and_the_sum_differ_by_one_factor() -> None:
    average = gx.chain(gx.ema(0.8, debias=False), gx.scale(1 / 0.2))
    assert same(average, gx.trace(0.8))
    assert same(gx.trace(0.8, dampening=0.0), gx.trace(0.8))
    ones, wanted = walk(gx.ema(0.999), ONES), ONES
    assert apart(ones, wanted) < 1e-12


def test_nesterov_and_heavy_ball_have_the_same_first_velocity() -> None:
    ball: Any = gx.trace(0.9)
    nesterov: Any = gx.trace(0.9, nesterov=True)
    g = jnp.asarray([2.0, -3.0])
    (u, a), (w, b) = (tx.update(g, tx.init(g)) for tx in (ball, nesterov))
    assert np.array_equal(a.trace, b.trace)
    assert np.array_equal(u, g)
    np.testing.assert_allclose(w, 1.9 * g, rtol=1e-15)
    assert not same(ball, nesterov)


@pytest.mark.parametrize("rate_in_momentum", [False, True])
def test_nesterov_is_the_gradient_at_the_point_ahead(rate_in_momentum: bool) -> None:
    """Sutskever et al., equations 3 and 4: v = mu v - eta f'(p + mu v), p += v; ours walks over the points p + mu v."""
    eta, mu, slope = 0.05, 0.9, np.array([1.0, 8.0])
    tx = gx.sgd(eta, mu, nesterov=True, rate_in_momentum=rate_in_momentum)
    q = jnp.asarray([1.0, -2.0])
    p, v, state = np.asarray(q), np.zeros(2), tx.init(q)
    for _ in range(12):
        v = mu * v - eta * slope * (p + mu * v)
        p = p + v
        updates, state = tx.update(slope * q, state, q)
        q = gx.apply_updates(q, updates)
        np.testing.assert_allclose(q, p + mu * v, rtol=1e-12)


def test_where_the_rate_stands_shows_when_it_changes() -> None:
    """Inside the momentum a rate that has fallen to zero lets the velocity run on; behind it everything stops."""
    falls = gx.piecewise_constant_schedule(0.5, {4: 0.0})
    for make in (gx.sgd, gx.rmsprop):
        steady = [make(0.5, momentum=0.9, rate_in_momentum=inside) for inside in (False, True)]
        assert same(*steady)
        behind, inside = (walk(make(falls, momentum=0.9, rate_in_momentum=x)) for x in (False, True))
        assert apart(behind[:4], inside[:4]) < 1e-12
        assert not np.any(behind[-1]["w"])
        np.testing.assert_allclose(inside[-1]["w"], 0.9 * inside[-2]["w"], rtol=1e-12)


# Sums and averages of squares


def test_adagrad_is_its_link_and_the_rate() -> None:
    link = gx.chain(gx.scale_by_rss(0.3, eps=1e-3), gx.scale_by_learning_rate(0.1))
    assert same(gx.adagrad(0.1, 0.3, eps=1e-3), link)
    first = walk(gx.scale_by_rss(0.0, eps=0.0))[0]
    assert apart([first], [{k: np.sign(g) for k, g in NOISE[0].items()}]) < 1e-12


def test_rmsprop_with_idle_options() -> None:
    assert same(gx.rmsprop(0.1, momentum=0.0), gx.rmsprop(0.1))
    assert same(gx.scale_by_rms(0.0, eps=0.0), gx.scale_by_sign())
    assert not same(gx.rmsprop(0.1, centered=True), gx.rmsprop(0.1))


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_centered_rmsprop_of_a_steady_gradient(corrected: bool, inside: bool) -> None:
    """v - m^2 = g^2 d^t (1 - d^t), which tends to zero; corrected it is zero from the start and epsilon divides."""
    eps, d = 1e-2, 0.8
    tx = gx.scale_by_stddev(d, eps=eps, eps_in_sqrt=inside, bias_correction=corrected)
    wanted = []
    for t, g in enumerate(ONES, 1):
        spread = {k: 0 * x if corrected else np.square(x) * d**t * (1 - d**t) for k, x in g.items()}
        wanted.append(
            {k: x / (np.sqrt(spread[k] + eps) if inside else np.sqrt(spread[k]) + eps) for k, x in g.items()}
        )
    # The root of a zero that has been rounded is the root of the rounding.
    assert apart(walk(tx, ONES), wanted) < (2e-6 if corrected and not inside else 1e-12)


def test_centered_and_plain_rmsprop_agree_on_the_average_zero() -> None:
    """After g, -d g the average is zero, so that nothing is to be subtracted."""
    d, g = 0.8, {k: np.abs(x) for k, x in NOISE[0].items()}
    pair = [g, {k: -d * x for k, x in g.items()}]
    centered, plain = (walk(make(d), pair) for make in (gx.scale_by_stddev, gx.scale_by_rms))
    assert apart(centered[1:], plain[1:]) < 1e-12
    assert apart(centered[:1], plain[:1]) > 1e-2


def test_adadelta_of_a_steady_gradient() -> None:
    """The first step by hand, and the rule of its ratio without memory: u = sqrt((u_before^2 + e) / (g^2 + e)) g."""
    g, e = 0.7, 1e-3
    got = [abs(u["w"][0, 0]) for u in walk(gx.scale_by_adadelta(rho=0.0, eps=e), ONES)]
    u = 0.0
    for x in got:
        u = np.sqrt((u * u + e) / (g * g + e)) * g
        assert x == pytest.approx(u, rel=1e-12)
    assert same(gx.adadelta(), gx.adadelta(1.0))


def test_rprop_looks_at_signs_alone() -> None:
    scaled = [{k: 1e3 ** (t % 3) * x for k, x in g.items()} for t, g in enumerate(NOISE)]
    one, two = (walk(gx.rprop(0.1), grads) for grads in (NOISE, scaled))
    assert apart(one, two) == 0.0
    steady = walk(gx.rprop(0.1), ONES)
    for t, u in enumerate(steady):
        np.testing.assert_allclose(u["w"], -0.1 * 1.2**t * np.sign(PARAMS["w"]), rtol=1e-12)
    late = walk(gx.rprop(0.1, lagged=True), ONES)
    assert not np.any(late[0]["w"])
    assert apart(late[1:], steady[:-1]) < 1e-12


# Whole arrays


def test_lamb_with_a_ratio_of_one_is_adamw() -> None:
    """The ratio is one for weights at zero, and where a floor stands above both norms."""
    wide = gx.chain(
        gx.scale_by_adam(eps=1e-6),
        gx.add_decayed_weights(0.1),
        gx.scale_by_trust_ratio(min_norm=1e6),
        gx.scale_by_learning_rate(0.1),
    )
    adamw, lamb = gx.adamw(0.1, eps=1e-6, weight_decay=0.1), gx.lamb(0.1, weight_decay=0.1)
    assert same(wide, adamw)
    assert not same(lamb, adamw)
    zero = {k: 0 * p for k, p in PARAMS.items()}
    assert apart(walk(lamb, NOISE[:1], zero), walk(adamw, NOISE[:1], zero)) < 1e-12


def test_a_trust_ratio_makes_the_step_as_long_as_the_weights() -> None:
    for u in walk(gx.lamb(0.1, weight_decay=0.1), NOISE[:1]):
        for k, p in PARAMS.items():
            assert np.linalg.norm(u[k]) == pytest.approx(0.1 * np.linalg.norm(p), rel=1e-12)
    bounded = walk(gx.lamb(0.1, max_norm=0.5), NOISE[:1])[0]
    assert np.linalg.norm(bounded["w"]) == pytest.approx(0.05, rel=1e-12)
    scaled = [{k: 1e3 * x for k, x in g.items()} for g in NOISE[:1]]
    lars = gx.lars(0.1)
    assert apart(walk(lars, scaled), walk(lars, NOISE[:1])) < 1e-12


def test_lars_without_decay_has_one_norm_below() -> None:
    assert same(gx.lars(0.1, norm_sum=True), gx.lars(0.1))
    with_decay: Any = {"learning_rate": 0.1, "weight_decay": 0.1}
    assert not same(gx.lars(**with_decay, norm_sum=True), gx.lars(**with_decay))
    nowhere = {"w": False, "b": False}
    plain = gx.sgd(0.1, 0.9, rate_in_momentum=True)
    assert same(gx.lars(0.1, trust_ratio_mask=nowhere), plain)


def test_norm_and_root_mean_square_differ_by_the_root_of_the_size() -> None:
    norms, means = (
        walk(gx.scale_by_param_block_norm(0.0), NOISE[:1]),
        walk(gx.scale_by_param_block_rms(0.0), NOISE[:1]),
    )
    assert apart(norms, [{k: np.sqrt(u.size) * u for k, u in means[0].items()}]) < 1e-12


def test_adafactor_of_vectors_is_rmsprop_with_a_growing_memory() -> None:
    """Epsilon is in every square, and the weights of an average sum to one: it comes out under the root."""
    factored = walk(gx.scale_by_factored_rms(epsilon=1e-3, min_dim_size_to_factor=2))
    rms = walk(gx.scale_by_rms(lambda count: 1 - (jnp.asarray(count, float) + 1) ** -0.8, eps=1e-3))
    assert apart(factored, rms, "b") < 1e-12
    assert apart(factored, rms, "w") > 1e-2
    whole = walk(gx.scale_by_factored_rms(factored=False, epsilon=1e-3, min_dim_size_to_factor=2))
    assert apart(whole, rms) < 1e-12


def test_squares_of_rank_one_are_factored_without_loss() -> None:
    rows, columns = np.array([1.0, 0.1, 3.0, 0.5]), np.array([2.0, 1.0, 0.3])
    sizes = [RNG.uniform(0.5, 2.0) for _ in range(STEPS)]
    signs = [np.sign(RNG.normal(size=(4, 3))) for _ in range(STEPS)]
    grads = [{"w": a * s * np.outer(rows, columns)} for a, s in zip(sizes, signs, strict=True)]
    params = {"w": PARAMS["w"]}
    options: Any = {"epsilon": 0.0, "min_dim_size_to_factor": 2}
    factored, whole = gx.scale_by_factored_rms(True, **options), gx.scale_by_factored_rms(False, **options)
    assert same(factored, whole, grads, params=params)
    assert not same(factored, whole, [{"w": g["w"]} for g in NOISE], params=params)


@pytest.mark.parametrize(
    "tx",
    [
        gx.scale_by_factored_rms(epsilon=0.0, min_dim_size_to_factor=2),
        gx.scale_by_factored_rms(epsilon=0.0, factored=False),
        gx.scale_by_adamax(eps=0.0),
        gx.scale_by_radam(eps=0.0, threshold=4.0),
        gx.scale_by_rss(0.0, eps=0.0),
        gx.scale_by_trust_ratio(),
        gx.scale_by_adadelta(),
        gx.rprop(0.1),
    ],
    ids=repr,
)
def test_what_has_never_had_a_gradient_stays(tx: Any) -> None:
    """Nothing over nothing is nothing, in a row, a column and everywhere."""
    hole = [{"w": g["w"].copy(), "b": 0 * g["b"]} for g in NOISE]
    for g in hole:
        g["w"][1], g["w"][:, 2] = 0.0, 0.0
    for u in walk(tx, hole):
        assert not np.any(u["b"])
        assert not np.any(u["w"][1])
        assert not np.any(u["w"][:, 2])
        assert np.all(np.isfinite(u["w"]))
    assert np.any(walk(tx, hole)[-1]["w"])


def test_adafactor_s_memory() -> None:
    """A cap of zero remembers nothing, a cap of one caps nothing, and an offset is a string of first steps."""
    options: Any = {"min_dim_size_to_factor": 2}
    sign = gx.scale_by_factored_rms(factored=False, epsilon=0.0, beta2_cap=0.0)
    assert same(sign, gx.scale_by_sign())
    assert same(gx.scale_by_factored_rms(**options, beta2_cap=1.0), gx.scale_by_factored_rms(**options))
    whole: Any = {"factored": False, "epsilon": 0.0}
    late = walk(gx.scale_by_factored_rms(**whole, step_offset=4))
    assert apart(late[:5], walk(gx.scale_by_sign())[:5]) < 1e-12
    assert apart(late[4:], walk(gx.scale_by_factored_rms(**whole), NOISE[4:])) < 1e-12


def test_adafactor_s_relative_step_and_decay() -> None:
    root = gx.adafactor(lambda count: 1 / jnp.sqrt(jnp.asarray(count, float) + 1), weight_decay_rate=0.1)
    assert same(gx.adafactor(2.0, relative_step=True, weight_decay_rate=0.1), root)
    assert same(gx.adafactor(1e-3, relative_step=True), gx.adafactor(1e-3))
    half = gx.adafactor(0.5, weight_decay_rate=0.1, rate_in_decay=True)
    assert same(half, gx.adafactor(0.5, weight_decay_rate=0.05))


# Decay


def test_l2_is_decay_for_sgd_and_not_for_adam() -> None:
    sgd = [
        gx.chain(gx.add_decayed_weights(0.1), gx.sgd(0.1)),
        gx.chain(gx.identity(), gx.add_decayed_weights(0.1), gx.scale_by_learning_rate(0.1)),
    ]
    assert same(*sgd)
    assert not same(gx.adam_l2(0.1, weight_decay=0.1), gx.adamw(0.1, weight_decay=0.1))
    assert same(gx.adam_l2(0.1, weight_decay=0.0), gx.adamw(0.1, weight_decay=0.0))
    assert same(gx.adamaxw(0.1, weight_decay=0.0), gx.adamax(0.1))


def test_proximal_decay_divides() -> None:
    """p <- (p - eta u) / (1 + eta lambda): without decay nothing, and never past zero however large it is."""
    assert same(gx.adan(0.1, proximal=True), gx.adan(0.1))
    direction = walk(gx.scale_by_adan(eps_root=1e-8), NOISE[:1])[0]
    for decay in (0.1, 1e6):
        update = walk(gx.adan(0.1, weight_decay=decay, proximal=True), NOISE[:1])[0]
        for k, p in PARAMS.items():
            wanted = (p - 0.1 * direction[k]) / (1 + 0.1 * decay)
            np.testing.assert_allclose(p + update[k], wanted, rtol=1e-9, atol=1e-12)
    assert not same(gx.adan(0.1, weight_decay=0.1, proximal=True), gx.adan(0.1, weight_decay=0.1))
