"""`memory` of models by name, of several transforms, and of the step itself, held against what runs really take."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from benchmarks.memory import MESHED, TRANSFORMS, measured, params_on
from gradxform.diagnostics.models import MODELS

PARAMS = {"w": jnp.ones((256, 512)), "v": jnp.ones((512, 256)), "b": jnp.ones(512)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("124m", 124_439_808),
        ("355m", 354_823_168),
        ("1.5b", 1_557_611_200),
        ("7b", 6_738_415_616),
        ("13b", 13_015_864_320),
        ("65b", 65_285_660_672),
        ("70b", 68_976_648_192),
        ("8b", 8_030_261_248),
        ("405b", 405_853_388_800),
    ],
)
def test_models_have_the_parameters_of_their_published_weights(name: str, count: int) -> None:
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in MODELS[name].shapes().values()]
    assert sum(sizes) == count


def test_names_are_what_the_models_have() -> None:
    for name, model in MODELS.items():
        said = float(name[:-1]) * (1e9 if name.endswith("b") else 1e6)
        count = sum(int(np.prod(shape, dtype=np.int64)) for shape in model.shapes().values())
        assert abs(count / said - 1) < 0.04, name


def test_the_table_of_seven_billion() -> None:
    known = gx.memory({"SGD": gx.sgd(0.1), "RMSprop": gx.rmsprop(1e-3), "Adam": gx.adam(1e-3)}, 7_000_000_000)
    assert [round(known.times(name), 6) for name in known.reports] == [1, 2, 3]
    adam = {row.address or row.part: row.bytes for row in known.reports["Adam"].rows}
    assert adam == {
        "parameters": 28 * 10**9,
        "gradients": 28 * 10**9,
        "adam/count": 4,
        "adam/mu": 28 * 10**9,
        "adam/nu": 28 * 10**9,
    }
    assert known.saved("Adam") == (-56 * 10**9 - 4, 0)
    assert "Adam costs the device 56.0 GB against SGD (100.0 %)" in str(known)
    half = gx.memory(gx.adam(1e-3), "7B", dtype="bfloat16", grads="float32")
    assert half.total("parameters").bytes == 2 * 6_738_415_616
    assert half.total("gradients").bytes == 4 * 6_738_415_616
    assert gx.describe(gx.adam(1e-3), "7b").facts.parameters == 6_738_415_616


def test_what_eight_bits_factors_slices_and_the_host_save() -> None:
    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    tx = gx.adamw(1e-3)
    ways = {
        "adamw": tx,
        "8 bits": gx.lowbit.quantized(tx),
        "factored": gx.adafactor(1e-3),
        "zero": gx.sharding.zero(tx, "data"),
        "host": gx.sharding.offload(tx, "*"),
        "again": tx,
    }
    known = gx.memory(ways, 1 << 28, mesh)
    weights = known.reports["adamw"].total("parameters").bytes
    share = {name: known.saved(name)[0] / weights for name in ways}
    assert 1.4 < share["8 bits"] < 1.5  # 3 of 4 bytes of two slots, but for scales
    assert 1.99 < share["factored"] < 2
    assert share["zero"] == pytest.approx(2 * 7 / 8, rel=1e-3)
    assert (share["host"], known.saved("host")[1]) == (pytest.approx(2, rel=1e-6), 2 * weights + 4)
    text = str(known)
    assert "host saves each device 2.1 GB against adamw (50.0 %), and takes 2.1 GB of host memory" in text
    assert "again takes as much as adamw" in text
    assert "a device" in text
    assert "on the host" in text
    assert known.data["transforms"][2]["saved_device_bytes"] == known.saved("factored")[0]


def test_a_list_is_named_by_its_texts() -> None:
    known = gx.memory([gx.adam(1e-3), gx.adam(1e-3), optax.sgd(0.1)], PARAMS)
    assert list(known.reports)[:2] == ["gx.adam(0.001)", "gx.adam(0.001) (1)"]
    assert len(known.reports) == 3


_QUICK = [("adamw", "one device"), ("adamw, 8 bits", "one device")]
_CASES = [(name, "one device") for name in TRANSFORMS]
_CASES += [(name, "eight devices") for name in TRANSFORMS | MESHED]


@pytest.mark.parametrize(
    ("name", "where"),
    [case if case in _QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in _CASES],
)
def test_predicted_is_measured(name: str, where: str) -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model")) if where == "eight devices" else None
    tx = (TRANSFORMS | MESHED)[name]
    known, real = gx.memory(tx, params_on(mesh), step=True), measured(tx, mesh)
    assert known.device_bytes == pytest.approx(real.live, rel=0.02)
    assert known.device_bytes == pytest.approx(real.arguments, rel=0.02)
    assert known.peak_bytes == pytest.approx(real.peak, rel=0.02)
    assert known.backend == jax.default_backend()
    assert f"XLA compiles it ({known.backend}) takes" in str(known)


def test_the_step_may_need_more_and_has_odd_leaves() -> None:
    tx = gx.GradientTransformation(
        lambda p: (), lambda u, s, p=None, *, value, **_: (jax.tree.map(lambda x: x * value, u), s)
    )
    params = {"w": jnp.ones((8, 4)), "none": None}
    taken = gx.memory(tx, params, step={"value": jnp.zeros(())}).temporary
    assert taken is not None
    assert taken < 1000
    integers = {"w": jnp.ones(4), "n": jnp.arange(3)}
    assert gx.memory(gx.masked(gx.adam(1e-3), "w"), integers, step=True).temporary is not None
    assert gx.memory(tx, params).temporary is gx.memory(tx, params).peak_bytes is None


def test_refusals_say_what_to_do() -> None:
    adam = gx.adam(1e-3)
    plateau = optax.contrib.reduce_on_plateau()
    with pytest.raises(
        ValueError, match=r"says: .*missing .*'value'\n  pass what it needs: step=\{'value': \.\.\.\}"
    ):
        gx.memory(gx.chain(adam, plateau), PARAMS, step=True)
    assert gx.memory(gx.chain(adam, plateau), PARAMS, step={"value": jnp.zeros(())}).temporary is not None
    with pytest.raises(ValueError, match=r"no model is called '9b'\n  known are 124m, 125m, .*405b"):
        gx.memory(adam, "9b")
    with pytest.raises(ValueError, match="wanted at least one parameter, got 0"):
        gx.memory(adam, 0)
    with pytest.raises(ValueError, match="there is no transform; pass one"):
        gx.memory([], PARAMS)
    with pytest.raises(TypeError, match=r"gx\.memory\(tx\), tx\['w'\]: wanted a transform"):
        gx.memory({"w": PARAMS["w"]}, adam)
    with pytest.raises(ValueError, match=r"the mesh is abstract.*\n?.*pass a mesh of devices"):
        gx.memory(adam, PARAMS, jax.sharding.AbstractMesh((8,), ("data",)), step=True)
