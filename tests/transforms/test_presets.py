"""`like="torch"` stands for arguments that the caller did not give, and for nothing else.

The values are those of the frameworks' and papers' own defaults; that they make the frameworks' numbers is what the
recorded runs test.
"""

import inspect
from typing import Any

import jax.numpy as jnp
import pytest

import gradxform as gx
from gradxform._core.spec import registered

OUTSIDE = {"initial_accumulator_value": 0.0, "eps_in_sqrt": False}
EPS_HAT = {"eps": 1e-7, "eps_hat": True}
T5 = {"learning_rate": 1e-2, "relative_step": True}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "sgd": {"torch": {}, "keras": {"rate_in_momentum": True}},
    "adam": {"torch": {}, "paper": {}, "keras": EPS_HAT},
    "adamw": {"torch": {"weight_decay": 0.01}, "keras": EPS_HAT | {"weight_decay": 0.004}},
    "nadam": {"torch": {"momentum_decay": 4e-3}, "keras": {"momentum_decay": 1.0, "eps": 1e-7}},
    "amsgrad": {
        "torch": {"raw_max": True},
        "paper": {"bias_correction_mu": False, "bias_correction_nu": False},
    },
    "radam": {"torch": {"eps_hat": True}, "paper": {"eps": 0.0, "threshold": 4.0}},
    "adamax": {"torch": {}, "paper": {"eps": 0.0}, "keras": {"eps": 1e-7, "eps_in_max": False}},
    "adagrad": {"torch": OUTSIDE | {"eps": 1e-10}, "paper": OUTSIDE | {"eps": 1e-8}, "keras": {}},
    "rmsprop": {
        "torch": {"decay": 0.99, "eps_in_sqrt": False, "rate_in_momentum": False},
        "keras": {"eps": 1e-7},
    },
    "adadelta": {"torch": {}, "paper": {"rho": 0.95}, "keras": {"rho": 0.95, "eps": 1e-7}},
    "rprop": {"torch": {}},
    "adan": {"paper": {"weigh_by_b2": True, "proximal": True, "eps_root": 0.0, "weight_decay": 0.02}},
    "lamb": {"paper": {"weight_decay": 0.01, "max_norm": 10.0}},
    "lars": {"paper": {"norm_sum": True, "weight_decay": 5e-4}},
    "adafactor": {
        "paper": T5,
        "torch": T5
        | {
            "min_dim_size_to_factor": 1,
            "eps": 0.0,
            "floor": "machine",
            "last_axes": True,
            "rate_in_decay": True,
        },
        "big_vision": {
            "min_dim_size_to_factor": 32,
            "beta2_cap": 0.999,
            "momentum": 0.9,
            "dtype_momentum": jnp.bfloat16,
            "clipping_threshold": None,
            "multiply_by_parameter_scale": False,
        },
    },
}
ROWS = [(name, like) for name, presets in PRESETS.items() for like in presets]
by_row = pytest.mark.parametrize(("name", "like"), ROWS)


def rated(name: str, like: str = "optax") -> dict[str, Any]:
    """The arguments that a call cannot do without."""
    return {} if "learning_rate" in PRESETS[name].get(like, {}) else {"learning_rate": 0.5}


def defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(gx, name)).parameters
    return {k: p.default for k, p in parameters.items() if p.default is not p.empty}


def test_every_preset_is_in_the_table() -> None:
    # Of methods; what `lowbit.quantized(like=...)` stands for is held by tests of its own.
    made = {name: set(f.presets) for name, f in registered().items() if f.presets and "." not in name}
    assert made == {name: set(presets) for name, presets in PRESETS.items()}


@by_row
def test_a_preset_is_its_arguments(name: str, like: str) -> None:
    factory, base = getattr(gx, name), rated(name, like)
    short, long = factory(**base, like=like), factory(**base, **PRESETS[name][like])
    assert short == long
    assert hash(short) == hash(long)
    assert repr(short) == repr(long)
    assert "like" not in repr(short)
    plain = factory(**(base or {"learning_rate": 0.5}))
    assert (short == plain) == (not PRESETS[name][like])


@by_row
def test_a_preset_survives_its_text_and_its_json(name: str, like: str) -> None:
    tx = getattr(gx, name)(**rated(name, like), like=like)
    assert eval(repr(tx), {"gx": gx, "jnp": jnp}) == tx
    assert gx.from_json(gx.to_json(tx)) == tx


@by_row
def test_what_the_caller_says_wins(name: str, like: str) -> None:
    """Each argument of the preset by itself, given as the plain default, by keyword and where possible by position."""
    factory, base, expansion = getattr(gx, name), rated(name, like), PRESETS[name][like]
    plain, order = defaults(name), list(inspect.signature(factory).parameters)
    for argument in expansion:
        said = 0.25 if argument == "learning_rate" else plain[argument]
        if name == "adafactor" and said is None:
            continue
        wanted = factory(**base, **(expansion | {argument: said}))
        assert factory(**base, **{argument: said}, like=like) == wanted
        kind = inspect.signature(factory).parameters[argument].kind
        if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and base:
            before = order[1 : order.index(argument)]
            args = [*base.values(), *(plain[k] for k in before), said]
            rest = {k: v for k, v in expansion.items() if k not in (*before, argument)}
            assert factory(*args, like=like) == factory(*args, **rest)


@pytest.mark.parametrize("name", PRESETS)
def test_the_default_is_optax_and_others_are_refused(name: str) -> None:
    factory = getattr(gx, name)
    assert factory(learning_rate=0.5, like="optax") == factory(learning_rate=0.5)
    for wrong in ("tf", "Torch", None, 3):
        with pytest.raises(ValueError, match="wanted one of 'optax', ") as caught:
            factory(learning_rate=0.5, like=wrong)
        words = str(caught.value)
        assert f"gx.{name}(like={wrong!r})" in words
        assert all(repr(like) in words for like in PRESETS[name])


@pytest.mark.parametrize("name", ["adam_l2", "nadamw", "adamaxw", "adabelief", "yogi", "signum", "lion"])
def test_recipes_without_presets_have_no_such_argument(name: str) -> None:
    with pytest.raises(TypeError, match="like"):
        getattr(gx, name)(1e-3, like="torch")
