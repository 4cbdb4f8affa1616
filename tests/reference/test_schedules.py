"""The schedules that Optax lacks: their edges and landmarks, by hand, and against each other where they coincide."""

import math

import pytest

from .schedules import warmup_cosine_decay_schedule
from .warmups import cosine_restarts, inverse_sqrt, steps_of, warmup_cosine, warmup_linear, wsd


@pytest.mark.parametrize("t", [0, 1, 9, 10, 11, 55, 99, 100, 10**10])
def test_warmup_cosine_is_optax_s_in_other_words(t: int) -> None:
    ours = warmup_cosine(3.0, 10, 100, init_value=0.5, end_value=0.3, exponent=1.5)
    optax_s = warmup_cosine_decay_schedule(0.5, 3.0, 10, 100, end_value=0.5, exponent=1.0)
    plain = warmup_cosine(3.0, 10, 100, init_value=0.5, end_value=0.5)
    assert math.isclose(plain(t), optax_s(t), rel_tol=1e-14)
    wave = math.cos(math.pi * (min(t, 100) - 10) / 180) ** 2
    assert math.isclose(ours(t), 0.5 + 0.25 * t if t < 10 else 0.3 + 2.7 * wave**1.5, rel_tol=1e-12)


@pytest.mark.parametrize("make", [warmup_cosine, warmup_linear])
def test_edges(make: type) -> None:
    assert make(2.0, 0, 8)(0) == 2.0
    assert [make(2.0, 4, 8)(t) for t in (0, 2, 4, 8, 2**40)] == pytest.approx(
        [0.0, 1.0, 2.0, 0.0, 0.0], abs=1e-15
    )
    assert [make(2.0, 8, 8, end_value=0.5)(t) for t in (4, 7, 8, 9)] == [1.0, 1.75, 0.5, 0.5]
    assert make(2.0, 4, 8)(6) == pytest.approx(1.0)
    huge = make(1.0, 2**31, 2**33)
    assert [huge(2**30), huge(2**31), huge(2**33)] == [0.5, 1.0, 0.0]
    assert [make(1.0, 0.1, 1000)(t) for t in (50, 100)] == [make(1.0, 100, 1000)(t) for t in (50, 100)]


@pytest.mark.parametrize("steps", [-1, 11, 2.5, -0.5])
def test_impossible_warmups(steps: float) -> None:
    with pytest.raises(ValueError, match="warmup_steps must"):
        steps_of(steps, 10)


def test_wsd() -> None:
    s = wsd(4.0, 10, 100, 20, init_value=1.0, end_value=0.4)
    assert [s(t) for t in (0, 5, 10, 50, 80, 90, 100, 101)] == pytest.approx(
        [1.0, 2.5, 4.0, 4.0, 4.0, 2.2, 0.4, 0.4]
    )
    assert wsd(4.0, 10, 100, 20, shape="sqrt")(85) == pytest.approx(2.0)
    assert wsd(4.0, 10, 100, 20, shape="cosine")(90) == pytest.approx(2.0)
    assert wsd(1.0, 0.1, 100, 0)(99) == 1.0
    with pytest.raises(ValueError, match="do not fit"):
        wsd(1.0, 60, 100, 0.5)


def test_inverse_sqrt() -> None:
    s = inverse_sqrt(2.0, 100)
    assert [s(t) for t in (0, 50, 100, 400, 10_000)] == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.2])
    assert inverse_sqrt(2.0, 0)(3) == pytest.approx(1.0)
    assert inverse_sqrt(2.0, 100, timescale=10)(130) == pytest.approx(1.0)


def test_cosine_restarts() -> None:
    s = cosine_restarts(2.0, 10, multiplier=2, decay=0.5, end_value=1.0)  # cycles start at 0, 10, 30, 70
    assert [s(t) for t in (0, 5, 10, 20, 30, 50, 70)] == pytest.approx(
        [2.0, 1.5, 1.5, 1.25, 1.25, 1.125, 1.125]
    )
    assert cosine_restarts(2.0, 10)(9) == cosine_restarts(2.0, 10)(1009)
