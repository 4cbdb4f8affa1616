"""Private and unstable names of JAX, Optax and Flax: each in one file, on the page, with the test that breaks first.

The tests below ask for the names themselves, so that a release that has moved one fails here, by its name.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform import build
from gradxform._core import compat, foreign, tree
from gradxform.diagnostics import closures

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gradxform"
PAGE = ROOT / "docs" / "design" / "private-names.md"
#: Whose names, as they are imported.
_OTHERS = r"(?:jax|jaxlib|jnp|lax|optax|flax|nnx|haliax)"
_PRIVATE = re.compile(r"\b[a-z]\w*(?:\.\w+)*\._[a-zA-Z]\w*(?:\.\w+)*")
_UNSTABLE = re.compile(r"jax\.(?:experimental|extend|interpreters|core)\b(?:\.\w+)*")
_MODULE = re.compile(rf"{_OTHERS}(?:\.\w+)+")


def touched(source: str) -> Iterator[str]:
    """The names of others in a file that nobody has promised: imports, attributes, and modules named in texts."""
    program = ast.parse(source)
    docs = {
        id(node.value)
        for node in ast.walk(program)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    inner = {id(node.value) for node in ast.walk(program) if isinstance(node, ast.Attribute)}
    for node in ast.walk(program):
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and re.match(rf"{_OTHERS}\b", node.module or "")
        ):
            yield from filter(_unpromised, (f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from filter(_unpromised, (alias.name for alias in node.names))
        elif isinstance(node, ast.Attribute) and id(node) not in inner:
            name = ast.unparse(node)
            if re.fullmatch(rf"{_OTHERS}(?:\.\w+)+", name) and _unpromised(name):
                yield name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            found = set(filter(_unpromised_text, _PRIVATE.findall(node.value))) | set(
                _UNSTABLE.findall(node.value)
            )
            whole = _MODULE.fullmatch(node.value)
            yield from found | ({node.value} if whole and node.value not in _PUBLIC else set())


#: Modules that are named in texts, to be looked for without being imported, and are public.
_PUBLIC = {"flax.serialization"}
_NAMED_TUPLE = ("_asdict", "_fields", "_make", "_replace")


def _unpromised(name: str) -> bool:
    """An underscore before a part that is no dunder, or a package of JAX's that may change."""
    return bool(re.match(rf"{_OTHERS}\.", name) and (re.search(r"\._(?!_)", name) or _UNSTABLE.match(name)))


def _unpromised_text(name: str) -> bool:
    """Whether the private part is somebody's, and not one of those that every NamedTuple has."""
    return not set(_NAMED_TUPLE) >= {part for part in name.split(".") if part.startswith("_")}


def in_source(folder: Path = PACKAGE) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for name in touched(path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(path.relative_to(folder).as_posix())
    return found


def rows(section: str) -> dict[str, tuple[str, str]]:
    """The name, file and test of each row of a section of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    found = [
        [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line[:3] == "| `"
    ]
    assert all(len(row) == 5 and all(row) for row in found)
    assert len({row[0] for row in found}) == len(found)
    return {row[0]: (row[1], row[4]) for row in found}


def test_the_page_has_every_private_name_in_one_file() -> None:
    page = rows("Modules, functions, classes")
    assert {name: {file} for name, (file, _) in page.items()} == in_source()


def test_the_page_has_no_name_that_is_not_used() -> None:
    code = {
        p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8")
        for p in sorted(PACKAGE.rglob("*.py"))
    }
    for name, (file, _) in rows("Inside of objects").items():
        assert {path for path, text in code.items() if f'"{name}"' in text} == {file}, name


def test_every_row_names_a_test_that_is_here() -> None:
    for section in ("Modules, functions, classes", "Inside of objects"):
        for name, (_, test) in rows(section).items():
            assert callable(globals().get(test)), name


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from jax._src import core", {"jax._src.core"}),
        ("from jax._src.core import Jaxpr as J", {"jax._src.core.Jaxpr"}),
        ("import jax.experimental.pallas", {"jax.experimental.pallas"}),
        ("def f():\n    from jax.interpreters import mlir", {"jax.interpreters.mlir"}),
        ("import jax\njax.extend.core.Var(1)", {"jax.extend.core.Var"}),
        ("import optax\nx = optax.contrib._muon.f().init", {"optax.contrib._muon.f"}),
        ("f('optax._src.alias')", {"optax._src.alias"}),
        ("f('a contrib._muon.f b')", {"contrib._muon.f"}),
        ("f('flax.core.lift')", {"flax.core.lift"}),
        ("import jax\njax.lax.add(1, 2)\nx._replace(a=jax.numpy.ones(2))", set[str]()),
        ("from .._core import tree\nfrom jax import lax\nx = 'flax.serialization'", set[str]()),
        ("f('say state._replace(x=1)')", set[str]()),
        ('"""Of `jax._src.core`."""', set[str]()),
    ],
)
def test_the_reading_of_the_source_finds_them(source: str, names: set[str]) -> None:
    assert set(touched(source)) == names


# ------------------------------------------------------------------------------- the tests that break first


def test_a_tracer_is_one() -> None:
    seen: list[bool] = []
    jax.eval_shape(lambda x: seen.append(isinstance(x, compat.Tracer)), jnp.ones(2))
    assert seen == [True]
    assert not isinstance(jnp.ones(2), compat.Tracer)


def test_traces_are_told_apart() -> None:
    outside = compat.trace_now()
    assert outside == compat.trace_now()
    seen: list[Any] = []
    jax.eval_shape(lambda: seen.extend((compat.trace_now(), compat.trace_now())))
    assert seen[0] == seen[1] != outside


def test_pmap_is_told_from_shard_map() -> None:
    importlib.import_module("jax._src.pmap")
    importlib.import_module("jax._src.shard_map")
    seen: list[bool] = []

    def f(x: Any) -> Any:
        seen.append(compat.under_pmap())
        return x

    jax.eval_shape(jax.pmap(f, axis_name="i"), jnp.ones((8, 2)))
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    jax.eval_shape(jax.shard_map(f, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i")), jnp.ones((8, 2)))
    jax.eval_shape(f, jnp.ones(2))
    assert seen == [True, False, False]


def test_a_weak_type_is_given() -> None:
    weak = jnp.asarray(2.0)
    assert weak.weak_type
    assert compat.like_weak(jnp.float32(1.0), weak).weak_type


def test_a_part_of_a_program_runs() -> None:
    closed = jax.make_jaxpr(lambda x: jnp.sin(x) * 2)(1.0)
    program = compat.open_program(closed)
    first = program.eqns[0]
    run = compat.program_of(program, list(first.invars), [first], list(first.outvars))
    np.testing.assert_allclose(run(jnp.float32(1.0))[0], np.sin(1.0), rtol=1e-6)


def test_pallas_is_there() -> None:
    kernel = importlib.import_module("gradxform.fused.kernel")
    assert callable(kernel.pl.pallas_call)
    assert hasattr(kernel.triton, "CompilerParams")


def test_states_are_of_optax_own_classes() -> None:
    """So a run that was started with Optax goes on here on the same object."""
    params = {"w": jnp.ones((2, 3))}
    rate = optax.linear_schedule(0.1, 0.0, 5)
    for ours, theirs in (
        (gx.add_decayed_weights(rate), optax.add_decayed_weights(rate)),
        (gx.scale_by_rms(bias_correction=True), optax.scale_by_rms(bias_correction=True)),
        (gx.scale_by_stddev(bias_correction=True), optax.scale_by_stddev(bias_correction=True)),
    ):
        assert type(ours.init(params)) is type(theirs.init(params))
        assert type(ours.init(params)).__module__.startswith("optax.")


def test_a_link_of_optax_muon_is_known() -> None:
    muon = importlib.import_module("optax.contrib._muon")
    assert build.reach_of(muon.scale_by_shape()) == "leaf"


def test_boxes_of_flax_are_known() -> None:
    meta, nnx = pytest.importorskip("flax.core.meta"), pytest.importorskip("flax.nnx")
    assert tree.is_box(nnx.Param(jnp.ones(2)))
    assert tree.is_box(meta.Partitioned(jnp.ones(2), ("a",)))


def test_boxes_of_haliax_are_known() -> None:
    haliax = pytest.importorskip("haliax", reason="no haliax that this JAX can import", exc_type=ImportError)
    assert tree.is_box(haliax.zeros(haliax.Axis("a", 2)))


def test_what_varies_is_read_off_types() -> None:
    seen: list[frozenset[str]] = []

    def f(x: Any) -> Any:
        seen.extend((compat.varying_axes(x), compat.varying_axes(jnp.ones(2))))
        return x

    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    jax.eval_shape(jax.shard_map(f, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i")), jnp.ones(16))
    assert seen == [frozenset({"i"}), frozenset()]
    kind = jax.typeof(jnp.ones(2))
    assert hasattr(kind, "manual_axis_type") or hasattr(kind, "vma")


def test_programs_are_written_as_they_were() -> None:
    core = importlib.import_module("jax._src.core")
    assert compat.is_dropped(core.DropVar(jax.typeof(jnp.ones(2))))

    def called(f: Any) -> Any:
        (line,) = jax.make_jaxpr(f)(jnp.ones(4)).eqns
        return compat.inner_program(line)

    assert not compat.is_dropped(called(jax.jit(jnp.sin)).eqns[0].outvars[0])
    assert called(jax.jit(jnp.sin, donate_argnums=0)) is None
    lies = jax.NamedSharding(jax.make_mesh((8,), ("i",)), jax.P("i"))
    assert called(jax.jit(lambda x: x * 2, in_shardings=jax.NamedSharding(lies.mesh, jax.P()))) is None
    assert called(jnp.sin) is None


def test_behind_optax_adapter_stands_the_function() -> None:
    tx = optax.with_extra_args_support(optax.scale_by_yogi())
    assert getattr(tx.update, "__qualname__", "").startswith(foreign.ADAPTER)
    assert foreign.makers(tx) == ("scale_by_yogi",)
    assert build.reach_of(tx) == "element"


def test_numbers_of_optax_are_found_in_closures() -> None:
    chain = optax.chain(optax.clip(0.25), optax.scale(0.5))
    assert [piece.scalars for piece in closures.pieces(chain, None)] == [
        {"max_delta": 0.25},
        {"step_size": 0.5},
    ]
    (piece,) = closures.pieces(optax.inject_hyperparams(optax.scale)(step_size=0.5), None)
    assert (piece.call, piece.scalars) == ("inject_hyperparams(scale)", {"step_size": 0.5})
