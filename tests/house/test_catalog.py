"""The catalogue has every factory of the face, and what it says of them is so."""

import inspect
import pickle

import jax.numpy as jnp
import pytest

import gradxform as gx
from gradxform import _catalog
from gradxform._core.schedule import Schedule
from gradxform._core.transform import GradientTransformation

ENTRIES = _catalog.entries()
#: What must be said of a transform and of a recipe, as sections of its docstring.
SAID = {
    "transform": {"Summary", "Reach", "Example"},
    "recipe": {"Summary", "Advice", "Args", "Returns", "Example"},
    "combinator": {"Summary", "Example"},
    "schedule": {"Summary", "Args", "Example"},
    "mask": {"Summary", "Args", "Example"},
    "projection": {"Summary", "Returns", "Example"},
}


def test_every_factory_of_the_face_is_in_it() -> None:
    face = {name for name, value in vars(gx).items() if hasattr(value, "entry") and inspect.isfunction(value)}
    assert {entry.name for entry in ENTRIES} == face
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_an_entry_is_what_it_says(entry: _catalog.Entry) -> None:
    example = entry.example
    assert isinstance(example, GradientTransformation) == (
        entry.kind not in ("schedule", "mask", "projection")
    )
    assert isinstance(example, Schedule) == (entry.kind == "schedule")
    functions = [value for value in entry.factory.sample.values() if inspect.isfunction(value)]
    if not functions:
        assert eval(repr(example), {"gx": gx, "jnp": jnp}) == example
    assert pickle.loads(pickle.dumps(example)) == example
    assert gx.from_json(gx.to_json(example), functions) == example
    assert SAID[entry.kind] <= set(entry.section), "a section of the docstring is missing"
    arguments = [name for name in entry.factory.signature.parameters if name not in ("args", "axis_names")]
    absent = [name for name in arguments if name not in entry.section.get("Args", "")]
    assert absent == [], "arguments that the docstring does not explain"


@pytest.mark.parametrize("entry", _catalog.entries("recipe"), ids=lambda e: e.name)
def test_a_recipe_applies_one_rate_and_names_its_presets(entry: _catalog.Entry) -> None:
    assert entry.rate == 1
    for name, made in entry.presets().items():
        assert f'"{name}"' in entry.section["Args"], f"like={name!r} is not explained"
        assert "like" not in repr(made)
        assert "like" not in gx.to_json(made)
    if entry.factory.presets:
        with pytest.raises(ValueError, match="wanted one of 'optax', "):
            entry.factory.call(**entry.factory.sample, like="optix")


@pytest.mark.parametrize("entry", _catalog.entries("transform"), ids=lambda e: e.name)
def test_a_transform_says_what_it_needs(entry: _catalog.Entry) -> None:
    """The docstring's words, held against the rule."""
    said = entry.section["Reach"]
    assert said.strip().startswith(entry.reach)
    everything = " ".join(entry.section.values())
    assert ("Needs `params`" in everything) == ("params" in entry.needs)
