"""The references against torch, Optax and hand computation: an oracle is tested before it judges."""

import math
from typing import Any

import numpy as np
import pytest

from . import (
    Adam,
    Chain,
    Golden,
    adam,
    adamw,
    bias_correction,
    flatten,
    lion,
    map_tree,
    nadamw,
    run,
    schedules,
    sgd,
)
from .golden import read_json

HAND = read_json("adam_by_hand.json")
RECIPES = {"sgd": sgd, "adam": adam, "adamw": adamw, "nadamw": nadamw, "lion": lion}
TORCH = [
    (f"torch_{o}.npz", r)
    for o in ("sgd", "adam", "adamw")
    for r in Golden.load(f"torch_{o}.npz").meta["runs"]
]
OPTAX = [(recipe, r) for recipe in RECIPES for r in Golden.load(f"optax_{recipe}.npz").meta["runs"]]


def assert_near(got: Any, want: Any, start: Any, tolerance: float, rounding: float = 0.0) -> None:
    """Leaf by leaf: differences at most `tolerance` of the way that the leaf has gone, plus `rounding` of its size."""
    got, want, start = flatten(got), flatten(want), flatten(start)
    assert got.keys() == want.keys() == start.keys()
    for k, w in want.items():
        allowed = tolerance * np.max(np.abs(w - start[k])) + rounding * np.max(np.abs(w))
        np.testing.assert_allclose(got[k], w, rtol=0, atol=allowed, err_msg=k)


def from_torch(optimizer: str, options: dict[str, Any]) -> Chain:
    """torch's options in our words; torch's defaults where they differ from ours (its AdamW decays by 0.01)."""
    words = {"lr": "learning_rate"} | ({} if optimizer == "AdamW" else {"weight_decay": "l2"})
    kwargs = {words.get(k, k): v for k, v in options.items() if k != "betas"}
    if "betas" in options:
        kwargs["b1"], kwargs["b2"] = options["betas"]
    return RECIPES[optimizer.lower()](**kwargs)


def from_optax(recipe: str, options: dict[str, Any]) -> Chain:
    def value(x: Any) -> Any:
        return (
            getattr(schedules, x["schedule"])(**x["arguments"])
            if isinstance(x, dict) and "schedule" in x
            else x
        )

    return RECIPES[recipe](**{k: value(v) for k, v in options.items()})


@pytest.mark.parametrize(("file", "name"), TORCH)
def test_every_step_of_torch(file: str, name: str) -> None:
    golden = Golden.load(file)
    method = from_torch(golden.meta["optimizer"], golden.meta["runs"][name])
    start = golden.tree("start")
    for i, (_, _, params) in enumerate(run(method, start, golden.gradients())):
        assert_near(params, golden.tree(f"{name}/params", i), start, 1e-12, rounding=(i + 1) * 2.0**-53)


@pytest.mark.parametrize(("recipe", "name"), OPTAX)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_states_and_parameters_of_optax(recipe: str, name: str, precision: str) -> None:
    """The tolerances are Optax's own errors: in float32 its bias correction cancels, most of all in the first steps;
    its linear schedule of an int32 count is computed in float32 even where everything else is float64.
    """
    golden = Golden.load(f"optax_{recipe}.npz")
    options = golden.meta["runs"][name]
    single = precision == "float32"
    tolerance = 1e-4 if single else 1e-6 if "schedule" in str(options) else 1e-12

    def rounded(tree: Any) -> Any:
        return map_tree(lambda x: np.asarray(x, precision).astype(np.float64), tree)

    start, gradients = rounded(golden.tree("start")), [rounded(g) for g in golden.gradients()]
    seen = list(run(from_optax(recipe, options), start, gradients))
    for i, step in enumerate(golden.meta["kept"]):
        state, _, params = seen[step - 1]
        want = golden.tree(f"{name}/{precision}/params", i)
        assert_near(params, want, start, tolerance, rounding=step * (2.0**-24 if single else 2.0**-53))
        for link, fields in golden.tree(f"{name}/{precision}/state", i).items():
            assert state[int(link)].keys() == fields.keys()
            got = flatten(state[int(link)])
            for path, x in flatten(fields).items():
                floor = 1e-6 * np.max(np.abs(x))  # terms of both signs: relative to the leaf, not the element
                np.testing.assert_allclose(got[path], x, rtol=tolerance, atol=tolerance * floor)


@pytest.mark.parametrize("key", Golden.load("optax_schedules.npz").meta["schedules"])
def test_schedules_of_optax(key: str) -> None:
    golden = Golden.load("optax_schedules.npz")
    name, arguments = golden.meta["schedules"][key]
    if "boundaries_and_scales" in arguments:
        arguments["boundaries_and_scales"] = {
            int(k): v for k, v in arguments["boundaries_and_scales"].items()
        }
    got = [getattr(schedules, name)(**arguments)(int(t)) for t in golden.arrays["counts"]]
    np.testing.assert_allclose(got, golden.arrays[f"values/{key}"], rtol=1e-12, atol=1e-15)


def test_adam_by_hand() -> None:
    """Eight steps on w^2 from 5, learning rate 0.01: twelve digits as computed, four decimals as published.

    The published second moments of the last three steps are rounded a little high, by up to 2e-4.
    """
    rows = [(s[0], p) for s, _, p in run(adam(0.01), np.array(5.0), lambda w: 2 * w, 8)]
    for (state, w), want in zip(rows, HAND["adam"], strict=True):
        np.testing.assert_allclose(
            [state["mu"], state["nu"], w], [want["m"], want["v"], want["w"]], rtol=1e-12
        )
    published = [1.0000, 1.8980, 2.7042, 3.4278, 4.0770, 4.6593, 5.1814, 5.6492]
    assert [round(float(s["mu"]), 4) for s, _ in rows] == published
    published = [0.1000, 0.1995, 0.2985, 0.3970, 0.4950, 0.5926, 0.6897, 0.7863]
    np.testing.assert_allclose([s["nu"] for s, _ in rows], published, rtol=0, atol=2.5e-4)
    assert (f"{rows[-1][1]:.4f}", f"{rows[-1][1] ** 2:.2f}") == ("4.9200", "24.21")


@pytest.mark.parametrize(
    ("key", "momentum", "w", "loss"), [("sgd_momentum", 0.9, 2.4421, 5.96), ("sgd", None, 4.2539, 18.10)]
)
def test_sgd_by_hand(key: str, momentum: float | None, w: float, loss: float) -> None:
    """Plain SGD ends at 5 * 0.98^8 = 4.25382; the published 4.2539 and 18.10 are one too high in the last place."""
    ends = [p for _, _, p in run(sgd(0.01, momentum), np.array(5.0), lambda w: 2 * w, 8)]
    np.testing.assert_allclose(ends, [row["w"] for row in HAND[key]], rtol=1e-13)
    assert abs(ends[-1] - w) < 1e-4
    assert abs(ends[-1] ** 2 - loss) < 1e-2


def test_bias_correction_table() -> None:
    for row in HAND["bias_correction"]:
        for decay in ("0.9", "0.999"):
            assert math.isclose(bias_correction(float(decay), row["t"]), row[decay], rel_tol=1e-12)
    assert bias_correction(0.0, 1) == 1.0
    # Where the direct formula has lost seven digits: 1 - (1 - 2^-30)^3 = 3 e - 3 e^2 + e^3 with e = 2^-30.
    e = 2.0**-30
    assert math.isclose(bias_correction(1 - e, 3), 3 * e - 3 * e**2 + e**3, rel_tol=1e-15)


def test_first_step_without_bias_correction() -> None:
    """m / sqrt(v) is sqrt(10) = 3.16 times too large after one step; 31.6 times if only m is corrected."""
    state, _ = Adam().update(np.array(7.0), Adam().init(np.array(0.0)))
    m, root = float(state["mu"]), math.sqrt(float(state["nu"]))
    assert math.isclose(m / root, HAND["first_step"]["neither_corrected"], rel_tol=1e-12)
    assert math.isclose(m / 0.1 / root, HAND["first_step"]["only_first_moment_corrected"], rel_tol=1e-12)
