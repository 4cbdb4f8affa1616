"""`accumulate_gradients`: the gradient of the whole batch from its parts, and one reduction over devices."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx

#: In `make test-fast` the tests of the guard stand for those of all wrappers.
pytestmark = pytest.mark.slow

BF16 = jnp.bfloat16


def loss(params: Any, x: Any, y: Any) -> Any:
    hidden = jnp.tanh(x @ params["a"])
    return ((hidden @ params["b"] - y) ** 2).mean()


def masked(params: Any, x: Any, y: Any, mask: Any) -> Any:
    hidden = jnp.tanh(x @ params["a"])
    return (mask * (hidden @ params["b"] - y) ** 2).sum() / mask.sum()


def tokens(params: Any, x: Any, y: Any, mask: Any) -> Any:
    del params, x, y
    return mask.sum()


def problem(rows: int = 48, dtype: Any = np.float64) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
    x, y = rng.normal(size=(rows, 3)), rng.normal(size=rows)
    mask = (rng.random(rows) < np.linspace(0.05, 1, rows)).astype(float)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, x, y, mask))


def close(got: Any, want: Any, tolerance: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


# ------------------------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize("steps", [1, 3, pytest.param(48, marks=pytest.mark.slow)])
def test_it_is_the_gradient_of_the_whole_batch(x64: None, steps: int) -> None:
    del x64
    params, x, y, _ = problem()
    got = jax.jit(gx.accumulate_gradients(loss, steps))(params, x, y)
    close(got, jax.value_and_grad(loss)(params, x, y), 1e-13)


def test_tokens_are_averaged_and_not_means(x64: None) -> None:
    del x64
    params, x, y, mask = problem()
    x, y, mask = (a[np.argsort(np.arange(48) % 8, kind="stable")] for a in (x, y, mask))
    want = jax.value_and_grad(masked)(params, x, y, mask)
    got = gx.accumulate_gradients(masked, 8, weight=tokens)(params, x, y, mask)
    close(got, want, 1e-7)  # weights are float32, and whole numbers
    close(got, want, 1e-13)
    naive = gx.accumulate_gradients(masked, 8)(params, x, y, mask)
    assert abs(float(naive[0]) / float(want[0]) - 1) > 0.02  # the control: a mean of means


def test_a_part_without_tokens_adds_nothing() -> None:
    params, x, y, _ = problem(8, np.float32)
    mask = jnp.array([1.0, 0.0] * 4)  # part 1 of 2 has no token: its loss is 0 / 0
    got = gx.accumulate_gradients(masked, 2, weight=tokens)(params, x, y, mask)
    close(got, jax.value_and_grad(masked)(params, x, y, mask), 1e-6)
    assert np.isnan(gx.accumulate_gradients(masked, 2)(params, x, y, mask)[0])  # the control
    value, grads = gx.accumulate_gradients(masked, 2, weight=tokens)(params, x, y, jnp.zeros(8))
    assert float(value) == 0.0
    assert not np.any(grads["a"])


def test_sums_are_float32_and_gradients_have_the_parameters_dtype() -> None:
    """256 parts, the first of slope 1, the others of slope 1/256: in bfloat16 the sum would stay at 1."""
    x = jnp.concatenate([jnp.ones(1, BF16), jnp.full(255, 2.0**-8, BF16)])
    value, grad = gx.accumulate_gradients(lambda p, x: (p * x).sum(), 256)(jnp.ones((), BF16), x)
    assert grad.dtype == BF16
    assert value.dtype == BF16
    assert abs(float(grad) * 256 / (1 + 255 / 256) - 1) <= 2**-8


def test_memory_is_that_of_one_part() -> None:
    params = {"a": jnp.ones((64, 256)), "b": jnp.ones(256)}
    x, y = jnp.ones((4096, 64)), jnp.ones(4096)

    def temporary(fn: Any) -> int:
        return jax.jit(fn).lower(params, x, y).compile().memory_analysis().temp_size_in_bytes

    assert temporary(gx.accumulate_gradients(loss, 16)) < temporary(jax.value_and_grad(loss)) / 4


# ------------------------------------------------------------------------------------------------ arguments


def test_aux_is_stacked_one_entry_a_part() -> None:
    def fn(p: Any, x: Any) -> Any:
        return (p * x).mean(), {"first": x[0], "none": None}

    x = jnp.arange(6.0)
    (value, aux), grad = gx.accumulate_gradients(fn, 3, has_aux=True)(jnp.array(2.0), x)
    assert float(value) == 5.0
    assert float(grad) == 2.5
    assert aux["first"].tolist() == [0.0, 1.0, 2.0]  # part i has the rows i, i + 3
    (_, aux), _ = gx.accumulate_gradients(fn, 1, has_aux=True)(jnp.array(2.0), x)
    assert aux["first"].tolist() == [0.0]


def test_argnums_keywords_and_what_is_not_cut() -> None:
    def fn(x: Any, p: Any, q: Any, table: Any, *, power: int) -> Any:
        return (p * x**power + q * table.sum()).mean()

    x, p, q, table = jnp.arange(4.0), jnp.array(3.0), jnp.array(2.0), jnp.ones(5)
    step = gx.accumulate_gradients(fn, 2, argnums=(1, 2), batch_argnums=0)
    value, grads = step(x, p, q, table, power=2)
    assert float(value) == 3.0 * 3.5 + 10.0
    assert [float(g) for g in grads] == [3.5, 5.0]
    negative = gx.accumulate_gradients(lambda x, p: (p * x).mean(), 2, argnums=-1)
    assert float(negative(x, p)[1]) == 1.5


def test_a_typed_key_differs_from_part_to_part() -> None:
    def fn(p: Any, x: Any, key: Any, t: Any) -> Any:
        noise = jax.random.normal(key, x.shape)
        return (p * (x + t * noise)).mean(), noise

    key = jax.random.key(0)
    step = gx.accumulate_gradients(fn, 2, has_aux=True)
    (_, noise), _ = step(jnp.array(1.0), jnp.zeros(4), key, 1.0)
    assert noise.shape == (2, 2)
    assert not np.allclose(noise[0], noise[1])
    np.testing.assert_array_equal(noise[1], jax.random.normal(jax.random.fold_in(key, 1), (2,)))


def test_a_key_is_enough_to_cut() -> None:
    def noise(w: Any, key: Any) -> Any:
        return w * jax.random.normal(key, ())

    _, grad = gx.accumulate_gradients(noise, 4)(jnp.array(1.0), jax.random.key(0))
    parts = [jax.random.normal(jax.random.fold_in(jax.random.key(0), i), ()) for i in range(4)]
    np.testing.assert_allclose(grad, np.mean(parts), rtol=1e-5)


def test_a_typed_key_differs_from_device_to_device() -> None:
    def fn(p: Any, x: Any, key: Any) -> Any:
        noise = jax.random.normal(key, x.shape)
        return (p * (x + noise)).mean(), noise

    with jax.set_mesh(mesh_of(4)):
        step = jax.jit(gx.accumulate_gradients(fn, 2, has_aux=True, axis_names="data"))
        (_, noise), _ = step(jnp.array(1.0), jnp.zeros(8), jax.random.key(0))
    assert noise.shape == (8, 1)
    assert len(set(noise.ravel().tolist())) == 8


def test_it_composes_with_a_step() -> None:
    params, x, y, _ = problem(32, np.float32)
    tx = gx.adam(0.05)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = gx.accumulate_gradients(loss, 4)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for _ in range(30):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


# ------------------------------------------------------------------------------------------------ devices


def mesh_of(*sizes: int) -> Any:
    kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.make_mesh(sizes, ("data", "model")[: len(sizes)], axis_types=kinds)


def reductions(text: str) -> tuple[int, int]:
    """How many all-reduces of arrays a compiled program has outside of its loops, and within (scalars left out)."""
    blocks = re.split(r"\n\n", text)
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    found = [0, 0]
    for block in blocks:
        head = block.lstrip().split(" ", 1)[0].lstrip("%")
        for line in block.splitlines():
            if re.search(r" all-reduce(-start)?\(", line):
                shape = line.split("=", 1)[1].split(" all-reduce")[0]
                if re.search(r"\[\d", shape):
                    found[head in bodies] += 1
    return found[0], found[1]


def test_one_reduction_a_step_under_shard_map(x64: None) -> None:
    del x64
    params, x, y, mask = problem(64)
    mesh = mesh_of(8)
    fn = gx.accumulate_gradients(masked, 4, weight=tokens, axis_names="data")
    data, whole = jax.P("data"), jax.P()
    step = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(whole, data, data, data), out_specs=whole))
    close(step(params, x, y, mask), jax.value_and_grad(masked)(params, x, y, mask), 1e-13)
    assert reductions(step.lower(params, x, y, mask).compile().as_text()) == (1, 0)


@pytest.mark.parametrize("check", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_equal_weights_under_shard_map(x64: None, check: bool) -> None:
    del x64
    params, x, y, _ = problem(64)
    mesh = mesh_of(4, 2)
    data, whole = jax.P("data"), jax.P()
    for steps in (1, 4):
        fn = gx.accumulate_gradients(loss, steps, axis_names=("data",))
        step = jax.jit(
            jax.shard_map(fn, mesh=mesh, in_specs=(whole, data, data), out_specs=whole, check_vma=check)
        )
        close(step(params, x, y), jax.value_and_grad(loss)(params, x, y), 1e-13)


def test_a_sharded_parameter_is_reduced_once(x64: None) -> None:
    """A parameter that is gathered inside of the loss has a gradient that is summed on its way back."""
    del x64
    params, x, y, _ = problem(64)
    mesh = mesh_of(4)

    def sharded(params: Any, x: Any, y: Any) -> Any:
        full = jax.lax.all_gather(params["b"], "data", tiled=True)
        return loss({"a": params["a"], "b": full}, x, y)

    data, whole = jax.P("data"), jax.P()
    specs = {"a": whole, "b": data}
    fn = gx.accumulate_gradients(sharded, 2, axis_names="data")
    step = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(specs, data, data), out_specs=(whole, specs)))
    close(step(params, x, y), jax.value_and_grad(loss)(params, x, y), 1e-13)
    weighed = gx.accumulate_gradients(sharded, 2, axis_names="data", weight=lambda p, x, y: 1.0)
    with pytest.raises(ValueError, match="a parameter is sharded over the axes of axis_names"):
        jax.shard_map(weighed, mesh=mesh, in_specs=(specs, data, data), out_specs=(whole, specs))(
            params, x, y
        )


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_under_jit_rows_stay_on_their_devices(kind: str) -> None:
    """With a sharded batch XLA reduces once a part, in the loop; no row moves to another device."""
    params, x, y, _ = problem(64, np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType[kind],))
    with jax.set_mesh(mesh):
        put = lambda a: jax.device_put(a, jax.NamedSharding(mesh, jax.P("data")))  # noqa: E731
        whole = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
        step = jax.jit(gx.accumulate_gradients(loss, 4))
        close(step(whole, put(x), put(y)), jax.value_and_grad(loss)(params, x, y), 1e-5)
        text = step.lower(whole, put(x), put(y)).compile().as_text()
    outside, within = reductions(text)
    assert (outside, within > 0) == (0, True)
    assert "all-to-all" not in text
    assert "collective-permute" not in text
    assert "all-gather" not in text


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_one_reduction_a_step_under_jit(kind: str) -> None:
    """With the axes named, `jit` on a mesh has one reduction too; another axis is left to the compiler."""
    params, x, y, mask = problem(64, np.float32)
    types = (jax.sharding.AxisType[kind],) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    with jax.set_mesh(mesh):
        put = lambda a, *spec: jax.device_put(a, jax.NamedSharding(mesh, jax.P(*spec)))  # noqa: E731
        rows = [put(a, "data") for a in (x, y, mask)]
        laid = {"a": put(params["a"], None, "model" if kind == "Auto" else None), "b": put(params["b"])}
        step = jax.jit(gx.accumulate_gradients(masked, 4, weight=tokens, axis_names="data"))
        close(step(laid, *rows), jax.value_and_grad(masked)(params, x, y, mask), 1e-5)
        text = step.lower(laid, *rows).compile().as_text()
    # In the loop stays what a matrix that is cut over "model" needs: the sum of the activations of the 4 rows.
    cut = kind == "Auto"
    assert reductions(text) == (1, int(cut))
    assert ("f32[4]{0} all-reduce(" in text) == cut


def crossings(text: str) -> tuple[dict[str, int], set[str]]:
    """The collectives of a compiled program: how many of arrays outside of its loops, and which within."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    outside: dict[str, int] = {}
    within: set[str] = set()
    for block in re.split(r"\n\n", text):
        head = block.lstrip().split(" ", 1)[0].lstrip("%")
        for shape, name in re.findall(
            r"= (.*?) (all-[\w]+|reduce-scatter|collective-permute)(?:-start)?\(", block
        ):
            if head in bodies:
                within.add(name)
            elif re.search(r"\[\d", shape):
                outside[name] = outside.get(name, 0) + 1
    return outside, within


WIDE = {"tensor": jax.P(None, "model"), "fsdp": jax.P(None, "data"), "both": jax.P(None, ("data", "model"))}


@pytest.mark.parametrize("layout", WIDE)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_gradients_lie_as_their_parameters(kind: str, layout: str, x64: None, as_users: Any) -> None:
    """What is cut over the batch's axis is gathered before the loop, and its gradient is scattered behind it."""
    del x64
    explicit = kind == "Explicit"
    params, x, y, mask = problem(32)
    params = {"a": jnp.tile(params["a"], (1, 4)), "b": jnp.linspace(-1.0, 1.0, 16)}
    want = jax.value_and_grad(masked)(params, x, y, mask)
    wide, deep = WIDE[layout], jax.P(WIDE[layout][1])
    beside = (
        jax.P(None) if explicit else None
    )  # on explicit axes a sum over a cut axis has to say where it goes

    def fn(params: Any, x: Any, y: Any, mask: Any) -> Any:
        out = jnp.einsum("bh,h->b", jnp.tanh(x @ params["a"]), params["b"], out_sharding=beside)
        return (mask * (out - y) ** 2).sum() / mask.sum()

    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType[kind],) * 2)
    laid = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), {"a": wide, "b": deep})
    with jax.set_mesh(mesh):
        # Rows may lie otherwise, too: cut over both axes, and on every device.
        specs = (jax.P("data"), jax.P("data" if layout == "fsdp" else ("data", "model")), jax.P())
        rows = [
            jax.device_put(a, jax.NamedSharding(mesh, s)) for a, s in zip((x, y, mask), specs, strict=True)
        ]
        given = jax.device_put(params, laid)
        step = jax.jit(
            gx.accumulate_gradients(
                fn, 2, weight=tokens, axis_names="data", grad_shardings=None if explicit else laid
            ),
            compiler_options=as_users,
        )
        program = step.lower(given, *rows).compile()
        got = program(given, *rows)
        close(got, want, 1e-12)
        for name, grad in got[1].items():
            over = {
                n for entry in grad.sharding.spec for n in (entry if isinstance(entry, tuple) else (entry,))
            }
            if explicit:
                assert jax.typeof(grad) == jax.typeof(given[name])
            else:  # XLA may leave an axis whole that it was not told of
                assert ("data" in over) == (layout != "tensor")
        outside, within = crossings(program.as_text())
    # JAX 0.11 and later scatter nothing beside an explicit axis, JAX 0.10 nothing that is cut over one.
    scattered = layout != "tensor" if not explicit else layout == "fsdp" and jax.__version_info__ < (0, 11)
    assert outside.get("reduce-scatter", 0) == (2 if scattered else 0)  # one a leaf
    assert outside.get("all-reduce", 0) == (0 if scattered else 1)
    if layout == "fsdp":
        assert not within


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_gradients_are_scattered_where_parameters_are_whole(kind: str) -> None:
    """As ZeRO wants them: nothing is gathered, neither parameters nor gradients."""
    params, x, y, mask = problem(32, np.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType[kind],))
    with jax.set_mesh(mesh):
        rows = [jax.device_put(a, jax.NamedSharding(mesh, jax.P("data"))) for a in (x, y, mask)]
        given = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
        laid = {"a": jax.P(None, "data"), "b": jax.P("data")}
        fn = gx.accumulate_gradients(masked, 2, weight=tokens, axis_names="data", grad_shardings=laid)
        program = jax.jit(fn).lower(given, *rows).compile()
        got = program(given, *rows)
    close(got, jax.value_and_grad(masked)(params, x, y, mask), 1e-6)
    assert {name: g.sharding.spec for name, g in got[1].items()} == laid
    assert crossings(program.as_text()) == ({"reduce-scatter": 2}, set())


def test_gradients_are_scattered_inside_of_shard_map(x64: None) -> None:
    del x64
    params, x, y, mask = problem(64)
    mesh, data, whole = mesh_of(4, 2), jax.P("data"), jax.P()
    rows = jax.P(("data", "model"))
    fn = gx.accumulate_gradients(
        masked, 2, weight=tokens, axis_names=("data", "model"), grad_shardings={"a": None, "b": data}
    )
    ends = (whole, {"a": whole, "b": data})
    step = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=(whole, rows, rows, rows), out_specs=ends))
    program = step.lower(params, x, y, mask).compile()
    close(program(params, x, y, mask), jax.value_and_grad(masked)(params, x, y, mask), 1e-13)
    outside, within = crossings(program.as_text())
    assert (outside["reduce-scatter"], within) == (1, set())


def test_an_array_of_the_host_is_cut_by_rows_on_explicit_axes() -> None:
    params, x, y, _ = problem(32, np.float32)
    host = jax.tree.map(np.asarray, (params, x, y))
    with jax.set_mesh(jax.make_mesh((4,), ("data",))):
        got = jax.jit(gx.accumulate_gradients(loss, 2, axis_names="data"))(*host)
    close(got, jax.value_and_grad(loss)(params, x, y), 1e-6)


@pytest.mark.parametrize("axes", [("data", "model"), ("model", "data")])
def test_gradients_lie_as_said_also_over_other_axes(axes: tuple[str, str]) -> None:
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    laid = jax.NamedSharding(mesh, jax.P(axes))
    w, x = jax.device_put(jnp.arange(8.0), laid), np.ones((4, 8), np.float32)
    with jax.set_mesh(mesh):
        fn = gx.accumulate_gradients(
            lambda w, x: ((x @ w) ** 2).mean(), 2, axis_names="data", grad_shardings=laid
        )
        assert jax.jit(fn)(w, x)[1].sharding == laid


def test_aux_of_all_devices() -> None:
    mesh = mesh_of(4)
    with jax.set_mesh(mesh):
        fn = gx.accumulate_gradients(lambda p, x: ((p * x).mean(), x[0]), 2, has_aux=True, axis_names="data")
        (value, aux), grad = jax.jit(fn)(jnp.array(2.0), jnp.arange(16.0))
    assert (float(value), float(grad)) == (15.0, 7.5)
    assert aux.tolist() == [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 12.0, 13.0]


# ------------------------------------------------------------------------------------------------ refusals


def test_what_is_refused() -> None:
    params, x, y, mask = problem(10, np.float32)
    with pytest.raises(ValueError, match=r"gx\.accumulate_gradients\(steps=0\): wanted at least 1"):
        gx.accumulate_gradients(loss, 0)
    with pytest.raises(TypeError, match=r"accumulate_gradients\(loss_fn\): wanted a function, got a"):
        gx.accumulate_gradients(3.0, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\(weight='tokens'\): wanted a function or None"):
        gx.accumulate_gradients(loss, 2, weight="tokens")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"argument 1 has 10 rows, which cannot be cut into 4 equal parts\n  drop the"
    ):
        gx.accumulate_gradients(loss, 4)(params, x, y)
    with pytest.raises(ValueError, match="argument 1, the leaf 'x', has 0 rows"):
        gx.accumulate_gradients(lambda p, batch: p, 1)(1.0, {"x": jnp.ones((0, 3))})
    with pytest.raises(ValueError, match="no positional argument is an array that could be cut"):
        gx.accumulate_gradients(loss, 2)(params, x=x, y=y)
    with pytest.raises(ValueError, match="argument 2 has 8 rows and argument 1 has 10"):
        gx.accumulate_gradients(loss, 2)(params, x, y[:8])
    with pytest.raises(ValueError, match=r"a PRNG key is jax\.random\.key"):
        gx.accumulate_gradients(lambda p, x, key: p, 2)(1.0, x, jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="argument 0 is differentiated"):
        gx.accumulate_gradients(loss, 2, batch_argnums=(0, 1))(params, x, y)
    with pytest.raises(ValueError, match="they count from 0"):
        gx.accumulate_gradients(loss, 2, batch_argnums=5)(params, x, y)
    with pytest.raises(ValueError, match=r"axis_names='data'\): there is no such axis here"):
        gx.accumulate_gradients(loss, 2, axis_names="data")(params, x, y)
    with pytest.raises(ValueError, match=r"the function gave an array of shape \(5,\)"):
        gx.accumulate_gradients(loss, 2, weight=lambda p, x, y: y)(params, x, y)
    with (
        jax.set_mesh(mesh_of(4)),
        pytest.raises(ValueError, match="cut into 5 equal parts on each of 4 devices"),
    ):
        gx.accumulate_gradients(loss, 5, axis_names="data")(params, x, y)
    with pytest.raises(ValueError, match=r"grad_shardings=\.\.\.\): without axis_names it cuts nothing"):
        gx.accumulate_gradients(loss, 2, grad_shardings=jax.P("data"))
    with jax.set_mesh(mesh_of(4)):
        five = gx.accumulate_gradients(
            loss, 1, axis_names="data", grad_shardings={"a": jax.P("data"), "b": None}
        )
        with pytest.raises(
            ValueError, match=r"leaf 'a' of shape \[3, 4\] cannot be cut along axis 0 into 4 equal"
        ):
            five(params, x[:8], y[:8])
        other = gx.accumulate_gradients(loss, 1, axis_names="data", grad_shardings={"a": None})
        with pytest.raises(ValueError, match="its tree is not that of what is differentiated"):
            other(params, x[:8], y[:8])
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    with jax.set_mesh(mesh):
        laid = {
            "a": jax.device_put(params["a"], jax.NamedSharding(mesh, jax.P(None, "model"))),
            "b": params["b"],
        }
        both = gx.accumulate_gradients(loss, 1, axis_names="data", grad_shardings=jax.P(None, "data"))
        with pytest.raises(ValueError, match=r"'a' lies on explicit axes as .*can make no reduce-scatter"):
            both(laid, x[:8], y[:8])
    del mask
