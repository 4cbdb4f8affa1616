"""Values leave the process: pickles, JSON, entry points. What cannot be written says which argument is to blame."""

import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build
from tests.values.cases import (
    VALUES,
    big_leaves,
    half_clip,
    halving,
    hand_init,
    hand_update,
    is_table,
    with_value,
)

ROOT = Path(__file__).parents[2]
case = pytest.mark.parametrize("name", VALUES)


def python(code: str, data: bytes = b"", *arguments: str, path: str = "") -> str:
    """What a fresh interpreter prints that runs `code`."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {"PYTHONPATH": f"{ROOT}:{path}", "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# ---------------------------------------------------------------------------------------- pickle


@case
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_comes_back_equal(name: str, protocol: int) -> None:
    value = VALUES[name]()
    back = pickle.loads(pickle.dumps(value, protocol))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.slow
def test_every_case_is_unpickled_by_a_fresh_process() -> None:
    """Named alone, `init` and `update` alone, and a trained step: what arrives is what was sent."""
    sent: dict[str, Any] = {name: make() for name, make in VALUES.items()}
    sent |= {f"{n}.update": x.update for n, x in sent.items() if isinstance(x, gx.GradientTransformation)}
    sent |= {f"{n}.init": x.init for n, x in sent.items() if isinstance(x, gx.GradientTransformation)}
    code = """
import pickle, sys
names, data = pickle.load(sys.stdin.buffer)
found = {name: pickle.loads(one) for name, one in zip(names, data)}
from tests.values.cases import VALUES
for name, value in found.items():
    case, _, part = name.partition('.')
    fresh = VALUES[case]()
    fresh = getattr(fresh, part) if part else fresh
    assert value == fresh and hash(value) == hash(fresh) and repr(value) == repr(fresh), name
print(len(found))
"""
    data = pickle.dumps((list(sent), [pickle.dumps(value) for value in sent.values()]))
    assert python(code, data).split() == [str(len(sent))]


def test_a_fresh_process_trains_on_with_what_it_unpickled() -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine(0.1, 2, 10), mask=gx.matrices()))
    params = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    updates, state = tx.update(params, tx.init(params), params)
    here, _ = tx.update(updates, state, params)
    code = """
import pickle, sys, numpy as np
update, updates, state, params = pickle.load(sys.stdin.buffer)
assert 'tests.values.cases' not in sys.modules
print(np.concatenate([np.ravel(x) for x in update(updates, state, params)[0].values()]).tolist())
"""
    there = python(code, pickle.dumps((tx.update, updates, state, params)))
    assert json.loads(there) == np.concatenate([np.ravel(here["b"]), np.ravel(here["w"])]).tolist()


def test_a_factory_of_the_main_program_is_a_factory() -> None:
    """A script or a notebook: `__main__` has no importable name, the value has one all the same."""
    code = """
import copy, pickle
import gradxform as gx
from gradxform import build

@build.factory
def mine(rate, *, factor=2.0):
    return gx.sgd(factor * rate)

tx = mine(0.1)
assert repr(tx) == 'mine(0.1)' and eval(repr(tx)) == tx == mine(rate=0.1) != mine(0.1, factor=3.0)
assert pickle.loads(pickle.dumps(tx)) == tx and copy.deepcopy(tx) == tx
assert gx.from_json(gx.to_json(tx)) == tx
assert len({tx, mine(0.1)}) == 1
print(gx.to_json(tx))
"""
    assert json.loads(python(code))["factory"] == "__main__:mine"


def test_a_factory_of_this_module_is_one_too() -> None:
    tx = half_clip(2.0, factor=0.25)
    assert repr(tx) == "tests.values.cases.half_clip(limit=2.0, factor=0.25)"
    assert tx == half_clip(limit=2.0, factor=0.25)
    assert tx != half_clip(2.0, factor=0.5)
    assert gx.from_json(gx.to_json(tx)) == tx


def test_a_factory_inside_a_function_says_that_it_cannot_be_pickled() -> None:
    @build.factory
    def local(rate: float) -> Any:
        return gx.sgd(rate)

    tx = local(0.1)
    assert tx == local(0.1)
    with pytest.raises(pickle.PicklingError, match=r"local\(\.\.\.\).*top of a module"):
        pickle.dumps(tx)
    with pytest.raises(pickle.PicklingError, match=r"gx\.chain\(args\)\[1\].*local\(\.\.\.\)"):
        pickle.dumps(gx.chain(gx.clip(1.0), tx))


# ---------------------------------------------------------------------------------------- who is to blame

LAMBDAS: dict[str, Any] = {
    r"gx\.sgd\(learning_rate\)": lambda: gx.sgd(lambda count: 0.1),
    r"gx\.chain\(args\)\[1\]\.gx\.adamw\(mask\)": lambda: gx.chain(
        gx.clip(1.0), gx.adamw(1e-3, mask=lambda p: p)
    ),
    r"gx\.param_groups\(groups\)\['\*'\]\.gx\.sgd\(learning_rate\)": lambda: gx.param_groups(
        {"*": gx.sgd(lambda count: 0.1)}
    ),
    r"gx\.param_groups\(groups\)": lambda: gx.param_groups({(lambda path, leaf: True): gx.sgd(0.1)}),
    r"gx\.join_schedules\(schedules\)\[0\]": lambda: gx.join_schedules(
        [lambda c: 1.0, gx.constant_schedule(1.0)], [3]
    ),
    r"gx\.chain\(args\)\[0\]\.gx\.foreign|gx\.chain\(args\)\[0\]": lambda: gx.chain(optax.adam(1e-3)),
    r"with_value\(value\)\['a'\]\[1\]": lambda: with_value({"a": [1, lambda: 2]}),
}


@pytest.mark.parametrize("place", LAMBDAS)
def test_what_has_no_value_is_named(place: str) -> None:
    tx = LAMBDAS[place]()
    assert tx == tx
    assert tx != LAMBDAS[place]()  # another lambda
    with pytest.raises(pickle.PicklingError, match=place):
        pickle.dumps(tx)
    with pytest.raises(ValueError, match=place):
        gx.to_json(tx)
    assert "<" in repr(tx)
    with pytest.raises(SyntaxError):
        eval(repr(tx))


def test_one_lambda_is_one_value() -> None:
    def rate(count: Any) -> Any:
        return 0.1

    assert gx.sgd(rate) == gx.sgd(rate)
    assert hash(gx.sgd(rate)) == hash(gx.sgd(rate))
    foreign = optax.adam(1e-3)
    assert gx.chain(foreign) == gx.chain(foreign)
    assert gx.chain(foreign) != gx.chain(optax.adam(1e-3))


def test_the_text_says_where_a_lambda_stands() -> None:
    text = repr(gx.sgd(lambda count: 0.1))
    assert "<lambda>" in text
    assert "test_written.py" in text
    assert "not importable" in text


# ---------------------------------------------------------------------------------------- JSON

#: What a file cannot hold although it is a value: keys, sets, complex numbers, functions bound to arguments.
NO_JSON = {"masked by function", "containers", "key"}
FUNCTIONS = [halving, is_table, big_leaves, hand_init, hand_update]


@case
def test_json_comes_back_equal(name: str) -> None:
    value = VALUES[name]()
    if name in NO_JSON:
        with pytest.raises(ValueError, match="cannot be written to JSON"):
            gx.to_json(value)
        return
    text = gx.to_json(value)
    back = gx.from_json(text, functions=FUNCTIONS)
    assert back == value
    assert gx.to_json(back) == text
    json.loads(text, parse_constant=pytest.fail)  # strict: no NaN, no Infinity


def test_a_file_is_read_by_a_fresh_process() -> None:
    tx = VALUES["standard"]()
    code = "import sys, gradxform as gx; print(repr(gx.from_json(sys.stdin.read())))"
    assert python(code, gx.to_json(tx).encode()).strip() == repr(tx)


def test_a_function_has_to_be_handed_in() -> None:
    text = gx.to_json(gx.sgd(halving))
    assert gx.from_json(text, functions=[halving]) == gx.sgd(halving)
    for functions in ([], [is_table]):
        with pytest.raises(ValueError, match=r"functions=\[halving\]"):
            gx.from_json(text, functions=functions)


def call(factory: str, **arguments: Any) -> str:
    return json.dumps({"gradxform": 1, "factory": factory, "arguments": arguments})


@pytest.mark.parametrize(
    "text",
    [
        call("os:system", command="echo"),
        call("this:s"),
        call("antigravity:fly"),
        call("antigravity"),
        call("tests.values.never_imported:factory"),
        call("sgd", learning_rate={"function": "antigravity:fly"}),
        call("sgd", learning_rate={"function": "os:system"}),
        call("sgd", learning_rate={"factory": "antigravity:fly", "arguments": {}}),
        call("chain", args={"tuple": [{"factory": "os:system", "arguments": {"command": "echo"}}]}),
    ],
)
def test_a_file_never_imports_anything(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("called"))
    before = set(sys.modules)
    with pytest.raises(ValueError, match="from_json: "):
        gx.from_json(text)
    assert not {"this", "antigravity", "tests.values.never_imported"} & (set(sys.modules) - before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a gradxform transform"),
        ('{"factory": "sgd"}', "not a gradxform transform"),
        (json.dumps({"gradxform": 2, "factory": "sgd", "arguments": {}}), "written in format 2"),
        (call("nadamwv", learning_rate=0.1), "did you mean 'nadamw'"),
        (call("sgd"), "lacks its argument 'learning_rate'"),
        (call("sgd", lr=0.1), "learning_rate"),
        (call("sgd", learning_rate={"later": 1}), "unknown tag 'later'"),
        (call("sgd", learning_rate={"a": 1, "b": 2}), "unknown tag 'a, b'"),
        (
            call(
                "sgd", learning_rate={"part": ["spec", {"factory": "clip", "arguments": {"max_delta": 1.0}}]}
            ),
            "tag",
        ),
        (json.dumps({"gradxform": 1, "factory": "sgd", "arguments": [0.1]}), "from_json: "),
        (json.dumps({"gradxform": 1, "factory": ["sgd"], "arguments": {}}), "from_json: "),
        (call("sgd", learning_rate=-1.0), "learning_rate"),
    ],
)
def test_a_bad_file_is_answered_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gx.from_json(text)


def test_only_what_a_factory_made_is_written() -> None:
    for thing in (optax.sgd(0.1), 0.1, gx.sgd, None):
        with pytest.raises(TypeError, match="to_json"):
            gx.to_json(thing)


# ---------------------------------------------------------------------------------------- entry points

PLUGIN = """
import gradxform as gx
from gradxform import build

@build.factory
def ready_made(rate: float):
    return gx.sgd(rate)
"""


def _install(folder: Path, module: str) -> None:
    """A package as pip would leave it: a module, and its metadata with an entry point."""
    (folder / f"{module}.py").write_text(PLUGIN)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gradxform.factories]\nready_made = {module}:ready_made\n")


def test_an_installed_package_declares_its_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "plugin_a")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert "plugin_a" not in sys.modules
    tx = gx.from_json(call("plugin_a:ready_made", rate=0.5))
    assert repr(tx) == "plugin_a.ready_made(0.5)"
    assert float(tx.update(1.0, tx.init(0.0))[0]) == -0.5
    assert gx.from_json(gx.to_json(tx)) == tx
    assert pickle.loads(pickle.dumps(tx)) == tx


def test_a_fresh_process_finds_an_entry_point(tmp_path: Path) -> None:
    _install(tmp_path, "plugin_b")
    code = (
        "import sys, gradxform as gx; assert 'plugin_b' not in sys.modules; print(gx.from_json(sys.argv[1]))"
    )
    assert (
        python(code, b"", call("plugin_b:ready_made", rate=0.5), path=str(tmp_path))
        == "plugin_b.ready_made(0.5)\n"
    )


def test_an_undeclared_module_on_the_path_stays_unimported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_c.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"gradxform\.factories"):
        gx.from_json(call("plugin_c:ready_made", rate=0.5))
    assert "plugin_c" not in sys.modules


def test_hyperparameters_keep_their_bits() -> None:
    for number in (0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, float("inf"), 2**70, True):
        back = gx.from_json(gx.to_json(with_value(number)))
        assert back == with_value(number)
    array = np.asarray([0.1, -0.0, np.nan, np.inf], jnp.bfloat16)
    assert gx.from_json(gx.to_json(with_value(array))) == with_value(array)
