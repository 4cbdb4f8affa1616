"""The kit itself: examples that run, a seed that repeats, an error that names the extra, strategies, time."""

import contextlib
import doctest
import io
import subprocess
import sys
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import testing
from tests.laws.controls import CONTROLS, GOOD

pytestmark = pytest.mark.laws


def broken(law: str) -> testing.Outcome:
    """What a law says of its control."""
    return testing.check_transform(CONTROLS[law].tx, laws=law, seed=0, raises=False)[law]


def pasted(code: str, tx: Any) -> None:
    scope = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "testing": testing, "gx": gx, "tx": tx}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, scope)


@pytest.mark.parametrize(
    "law", ["state_form", "update_form", "zeros_finite", "sixteen_finite", "shapes_refused", "double"]
)
def test_an_example_can_be_pasted(law: str) -> None:
    pasted(broken(law).example, CONTROLS[law].tx)


def test_an_example_passes_what_a_step_asks_for() -> None:
    tx = optax.polyak_sgd()
    report = testing.check_transform(tx, laws="shapes_refused", seed=0, raises=False)
    example = report["shapes_refused"].example
    assert "loss = testing.quadratic(params, grads)" in example
    pasted(example.replace("'w': jnp.full((3,)", "'w': jnp.full((2, 3)"), tx)


def test_the_example_is_a_small_one() -> None:
    first = broken("state_form").example.splitlines()[0]
    assert first == "params = {'a': jnp.full((3,), 1.0, jnp.float16)}"


def test_a_seed_is_printed_and_repeats_a_run() -> None:
    texts = []
    for _ in range(2):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            report = testing.check_transform(CONTROLS["one_side"].tx, laws="one_side", seed=11, raises=False)
        texts.append(report["one_side"].example)
        assert "seed=11" in printed.getvalue()
    assert texts[0] == texts[1] != ""


def test_a_broken_law_raises() -> None:
    words = "a gradient of another shape is refused, not broadcast"
    with pytest.raises(testing.LawBroken, match=words) as raised:
        testing.check_transform(CONTROLS["shapes_refused"].tx, laws="shapes_refused", seed=0)
    assert not raised.value.report
    assert raised.value.report.broken[0].law.name == "shapes_refused"


def test_what_is_asked_wrongly_is_answered() -> None:
    with pytest.raises(ValueError, match="there is no law 'speed'"):
        testing.check_transform(GOOD, laws=["speed"])
    with pytest.raises(TypeError, match="wanted a transform with init and update"):
        testing.check_transform(3)


def test_what_is_missing_is_said() -> None:
    """Without flags and devices the laws that want them are not run; with parameters, those that bring their own."""
    code = (
        "import optax\nfrom gradxform import testing\n"
        "for params in (None, {'k': optax.tree.ones_like(__import__('jax').numpy.ones((2, 2)))}):\n"
        "    laws = ['strict_flags', 'sharded_init', 'holes']\n"
        "    report = testing.check_transform(optax.sgd(0.1), params=params, laws=laws, seed=0)\n"
        "    print([o.verdict for o in report], [o.reason.split(':')[0] for o in report])\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "['not run', 'not run', 'kept'] ['needs strict flags', 'needs 8 devices', '']" in lines
    assert "'tries trees of its own'" in lines


def test_parameters_and_keyword_arguments_of_one_s_own() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, scale: Any) -> Any:
        return jax.tree.map(lambda g: g * scale, updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    laws = ["state_form", "pure", "one_side", "jit_is_eager"]
    asked = testing.check_transform(tx, laws=laws, seed=0, raises=False)
    assert {outcome.verdict for outcome in asked} == {"not run"}
    params = {"kernel": jnp.ones((2, 2)), "n": jnp.arange(3)}
    given = testing.check_transform(
        tx,
        laws=laws,
        seed=0,
        params={"kernel": params["kernel"]},
        extra=lambda p, g: {"scale": jnp.float32(2)},
    )
    assert {outcome.verdict for outcome in given} == {"kept"}


@pytest.mark.parametrize("name", [n for n in vars(testing) if not n.startswith("_")])
def test_the_docstrings_run(name: str) -> None:
    thing = getattr(testing, name)
    assert thing.__doc__
    found = doctest.DocTestFinder(recurse=isinstance(thing, type)).find(thing, name, globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    printed: list[str] = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for test in found:
            test.globs["__name__"] = "__main__"
            runner.run(test, out=printed.append)
    assert not runner.failures, "".join(printed)


@pytest.mark.parametrize("missing", ["chex", "hypothesis"])
def test_the_extra_is_named_when_it_is_missing(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nimport gradxform\nfrom gradxform import testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: gradxform.testing needs {missing}: pip install 'gradxform[testing]'"


def test_trees_have_what_they_promise() -> None:
    def found(wanted: Any, smallest: bool = True, **options: Any) -> Any:
        phases = list(hypothesis.Phase) if smallest else [hypothesis.Phase.generate]
        settings = hypothesis.settings(database=None, max_examples=300, phases=phases)
        return hypothesis.find(testing.trees(**options), wanted, settings=settings)

    leaves = jax.tree.leaves
    assert found(lambda t: True) == {}
    assert any(x.ndim == 0 for x in leaves(found(lambda t: any(x.ndim == 0 for x in leaves(t)), False)))
    assert any(x.size == 0 for x in leaves(found(lambda t: any(x.size == 0 for x in leaves(t)), False)))
    assert found(lambda t: isinstance(t, dict) and t.get("a", 0) is None) == {"a": None}
    mixed = found(lambda t: len({x.dtype for x in leaves(t)}) == 2, holes=False)
    assert len(leaves(mixed)) == 2


@pytest.mark.slow
def test_adam_takes_less_than_thirty_seconds_of_a_processor() -> None:
    code = (
        "import time\nimport gradxform as gx\nfrom gradxform import testing\n"
        "testing.check_transform(gx.adam(1e-3))\nprint(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 30
