"""Double precision against what Optax did with the same gradients: parameters and states of every recipe.

The steps in single precision are compared in tests/interop, where both libraries run.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from tests import reference

FILES = sorted(p.name for p in Path(reference.golden.FOLDER).glob("optax_*.npz") if "schedules" not in p.name)
#: All but the first of a file are marked slow.
RUNS = [
    pytest.param(file, name, marks=pytest.mark.slow if i else ())
    for file in FILES
    for i, name in enumerate(reference.Golden.load(file).meta["runs"])
]

#: Where our default is another rule on purpose, the arguments that make it Optax's.
OURS: dict[str, dict[str, Any]] = {"yogi": {"seed_mu": True}, "rprop": {"lagged": True}}


def from_optax(recipe: str, options: dict[str, Any]) -> gx.GradientTransformation:
    """The recipe; a dict in the place of a number is a schedule, by name and arguments."""

    def value(x: Any) -> Any:
        return getattr(gx, x["schedule"])(**x["arguments"]) if isinstance(x, dict) and "schedule" in x else x

    return getattr(gx, recipe)(**{k: value(v) for k, v in options.items()}, **OURS.get(recipe, {}))


def addresses(state: Any) -> dict[str, np.ndarray]:
    """State leaves by link number, field and parameter; masked states by their inner state."""

    def word(key: Any) -> str:
        return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", None))))

    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {"/".join(w for w in map(word, path) if w != "inner_state"): np.asarray(x) for path, x in leaves}


@pytest.mark.parametrize(("file", "name"), RUNS)
@pytest.mark.usefixtures("x64")
def test_states_and_parameters_of_optax(file: str, name: str) -> None:
    """The tolerances are Optax's: its schedules and Adafactor's decay are computed in float32 from the count."""
    golden = reference.Golden.load(file)
    recipe, options = golden.meta["recipe"], golden.meta["runs"][name]
    tolerance = 1e-6 if recipe == "adafactor" or "schedule" in str(options) else 1e-10
    tx = from_optax(recipe, options)
    start = {k: jnp.asarray(v) for k, v in golden.tree("start").items()}
    gradients = {k: jnp.asarray(v) for k, v in golden.tree("gradients").items()}

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), (params, state)

    _, (path, states) = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g))(
        (start, tx.init(start)), gradients
    )
    kept = np.array(golden.meta["kept"]) - 1
    for leaf, want in golden.tree(f"{name}/float64/params").items():
        gone = np.max(np.abs(want - np.asarray(start[leaf])))
        np.testing.assert_allclose(
            np.asarray(path[leaf])[kept], want, rtol=0, atol=tolerance * gone, err_msg=leaf
        )
    prefix = f"{name}/float64/state/"
    wanted = {k.removeprefix(prefix): v for k, v in golden.arrays.items() if k.startswith(prefix)}
    got = addresses(states)
    assert got.keys() == wanted.keys()
    for key, want in wanted.items():
        assert got[key].dtype == want.dtype, key
        floor = tolerance * np.max(
            np.abs(want)
        )  # terms of both signs: relative to the leaf, not to the element
        np.testing.assert_allclose(got[key][kept], want, rtol=tolerance, atol=floor, err_msg=key)
