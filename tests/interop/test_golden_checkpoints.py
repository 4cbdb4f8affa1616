"""Checkpoints that earlier versions, and this one, have committed: every version loads them and goes on."""

import json
import struct
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform import _catalog, interop
from gradxform._core import roles
from gradxform._core.packed import is_packed, packed_leaves
from gradxform._core.states import nodes
from gradxform.interop.manifest import named, stored
from gradxform.lowbit.stored import Codec
from tests.golden import checkpoint_runs as runs

pytestmark = pytest.mark.interop
ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "golden" / "checkpoints").glob("*/*.safetensors"))


@pytest.fixture(autouse=True)
def relaxed() -> Iterator[None]:
    """Optax's own code multiplies floats by integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def opened(path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The transform, the parameters as they started, and what stands beside the file."""
    spec = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    tx = runs.KINDS[path.stem]() if spec["transform"] is None else gx.from_json(json.dumps(spec["transform"]))
    return tx, runs.params_of(spec["shapes"], tx, spec["packed"]), spec


def raw_arrays(path: Path) -> dict[str, bytes]:
    """The bytes of a file's arrays, by the format's description alone: a length, a header, data."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    start = 8 + length
    return {
        name: raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        for name, entry in header.items()
        if name != "__metadata__"
    }


def held(found: interop.Loaded) -> dict[str, bytes]:
    trees = named("state", found.state) | named("params", found.params)
    return {name: np.ascontiguousarray(stored(x)).tobytes() for name, x in trees.items()}


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_loads_bit_for_bit(path: Path) -> None:
    tx, params, spec = opened(path)
    found = interop.load(path, tx, params)
    assert held(found) == raw_arrays(path)
    assert jax.tree.structure(found.state) == jax.tree.structure(tx.init(params))
    assert found.extra == {"step": 3}
    if spec["transform"] is not None:
        again = interop.load(path, None, params)  # as the file itself says
        assert again.transform == tx == found.transform
        assert json.loads(gx.to_json(tx)) == spec["transform"]
        assert held(again) == held(found)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_next_step_is_the_one_that_followed(path: Path) -> None:
    """Not only the bits: what they mean. A field taken for another one gives other weights."""
    tx, params, spec = opened(path)
    found = interop.load(path, tx, params)
    after, state = runs.stepped(tx, found.state, found.params, 3)
    numbers = np.array(runs.numbers(after))
    assert np.isfinite(numbers).all()
    assert all(
        bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)
    )
    np.testing.assert_allclose(numbers, spec["next"], rtol=2e-6, atol=2e-7)
    assert (numbers != np.array(runs.numbers(found.params))).any()  # it was no step that rests


# ------------------------------------------------------------------------------- nothing is left out


def kinds_in(states: Iterable[Any]) -> set[str]:
    """What is kept in states: classes, codes, and the roles of fields with arrays in them."""
    found: set[str] = set()
    for state in states:
        for x in filter(is_packed, packed_leaves(state)):
            name = type(x.form.codec).__name__
            found |= {f"codec {name}", f"codec {name} {getattr(x.form.codec, 'bits', 16)}"}
        for _, node in nodes(state):
            found.add(f"class {type(node).__name__}")
            for field, role in roles.roles_of(type(node)).items():
                if role is not roles.OTHER and jax.tree.leaves(getattr(node, field)):
                    found.add(f"role {role.name}")
    return found


def kinds_there_are() -> set[str]:
    """What the library can keep, read off its catalogue, its state classes and its codecs.

    The catalogue gives what its examples keep; classes with a role in them that no example makes are found in the
    modules; of Optax's, those whose names our rules go by are made by a factory under another argument.
    """
    tree = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
    kinds = ("transform", "recipe", "combinator")
    matrices = {"normalize_neurons"}  # which refuses anything else
    found = kinds_in(
        jax.eval_shape(e.example.init, {"w": tree["w"]} if e.name in matrices else tree)
        for e in _catalog.entries()
        if e.kind in kinds
    )
    found |= {f"class {kind.__name__}" for kind in own_classes()}
    found |= {f"codec {kind.__name__}" for kind in typing.get_args(Codec)}
    for bits, table in [(4, "adaptive"), (8, "adaptive"), (8, "dynamic"), (8, "float8"), (16, "adaptive")]:
        tx = gx.lowbit.quantized(gx.chain(gx.scale_by_lion(), gx.adam(0.1)), bits, map=table, min_size=1)
        found |= kinds_in([jax.eval_shape(tx.init, tree)])
    return found


def own_classes() -> set[type]:
    """The NamedTuples of the package that say of a field what it means, and those of Optax's private ones we make."""
    modules = [m for name, m in sys.modules.items() if name.startswith("gradxform.")]
    classes = {x for m in modules for x in vars(m).values() if isinstance(x, type) and hasattr(x, "_fields")}
    own = {x for x in classes if x.__module__.startswith(("gradxform.", "optax."))}
    return {x for x in own if any(role is not roles.OTHER for role in roles.roles_of(x).values())}


def committed(drop: Callable[[Path], bool] = lambda path: False) -> set[str]:
    found: set[str] = set()
    for path in FILES:
        if not drop(path):
            tx, params, _ = opened(path)
            found |= kinds_in([interop.load(path, tx, params).state])
    return found


def test_every_kind_of_state_has_one() -> None:
    there, files = kinds_there_are(), committed()
    assert {"class AccumulateState", "class ExactMasterState", "codec RootCodec 4", "role factor"} <= there
    assert sorted(there - files) == []
    # The list is one that can be short: without some of its files it is.
    assert there - committed(lambda p: p.stem == "adafactor") == {"class FactoredState"}
    assert there - committed(lambda p: p.stem == "soap") == {
        "class KLSoapState",
        "class SoapState",
        "role basis",
        "role gram",
    }
    assert "role factor" in there - committed(
        lambda p: p.stem in ("adafactor", "adam_mini", "normuon", "soap")
    )
    assert there - committed(lambda p: p.stem == "bits_8_dynamic") == {
        "codec DynamicCodec",
        "codec DynamicCodec 8",
    }
    assert there - committed(lambda p: p.stem == "guard") == {"class GuardState"}


def test_the_set_is_of_this_version_and_small() -> None:
    folder = ROOT / "tests" / "golden" / "checkpoints" / gx.__version__
    assert {p.stem for p in folder.iterdir()} == set(runs.KINDS)
    assert all(p.with_suffix(".json").exists() for p in FILES)
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3_000 * len(runs.KINDS)
    versions = {interop.read_manifest(p)["versions"]["gradxform"] for p in folder.glob("*.safetensors")}
    assert versions == {folder.name}
