"""`memory`: the bytes that it tells are those of states that are really built."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

P, AXES = jax.P, ("data", "model")
BIG = jax.sharding.AbstractMesh((64, 8), AXES)

TRANSFORMS = {
    "adamw": gx.adamw(1e-3),
    "adafactor": gx.adafactor(1e-2, min_dim_size_to_factor=8),
    "schedules": gx.lion(gx.warmup_cosine(1e-3, 10, 100), b1=gx.linear_schedule(0.9, 0.8, 100)),
    "8 bits": gx.lowbit.quantized(gx.adamw(1e-3)),
    "4 bits": gx.lowbit.quantized(gx.adamw(1e-3), 4),
    "average": gx.average_params(gx.sgd(0.1, momentum=0.9), 0.99),
    "groups": gx.param_groups({"*w": gx.adam(1e-3), "frozen": None, "*": gx.sgd(0.1, momentum=0.9)}),
    "wrappers": gx.accumulate(gx.guard(gx.tunable(gx.adamw(1e-3), "learning_rate")), 4),
    "no state": gx.sgd(0.1),
    "optax adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    "optax adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=8),
    "optax inject": optax.inject_hyperparams(optax.adam)(1e-3),
}
MESHES = {"1": (1, 1), "2": (2, 1), "8": (8, 1), "4x2": (4, 2), "4x2 explicit": (4, 2)}


def _params(mesh: Any) -> Any:
    """Two axes cut, one, none; a leaf smaller than the mesh, one without axes, one without elements, an absent one."""
    specs = {
        "w": ((64, 128), P(*AXES)),
        "b": ((128,), P("data")),
        "frozen": ((3,), P()),
        "s": ((), P()),
        "z": ((0, 4), P()),
    }
    laid = {
        name: jax.device_put(np.ones(shape, np.float32), jax.NamedSharding(mesh, spec))
        for name, (shape, spec) in specs.items()
    }
    return {**laid, "none": None}


def _held(tree: Any) -> int:
    """Bytes on the first device."""
    first = jax.devices()[0]
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return sum(s.data.nbytes for x in arrays for s in x.addressable_shards if s.device == first)


@pytest.mark.parametrize(
    "where", [w if w == "4x2 explicit" else pytest.param(w, marks=pytest.mark.slow) for w in MESHES]
)
def test_it_predicts_what_devices_hold(where: str) -> None:
    kind = jax.sharding.AxisType.Explicit if "explicit" in where else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh(MESHES[where], AXES, axis_types=(kind,) * 2)
    params = _params(mesh)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    for name, tx in TRANSFORMS.items():
        known = gx.memory(tx, shapes)
        with jax.set_mesh(mesh):
            state = gx.sharding.init_sharded(tx, params)
        told = known.total("state")
        assert (name, told.device_bytes) == (name, _held(state))
        assert (name, told.bytes) == (name, sum(x.nbytes for x in jax.tree.leaves(state)))
        assert known.total("parameters").device_bytes == _held(params)
        assert known.device_bytes == 2 * _held(params) + _held(state)
        assert known.devices == mesh.size
        assert str(gx.memory(tx, params)) == str(known)


def test_seventy_billion_parameters_on_512_devices_take_a_moment() -> None:
    def shape(*sizes: int, spec: Any) -> Any:
        return jax.ShapeDtypeStruct(sizes, "bfloat16", sharding=jax.NamedSharding(BIG, spec))

    wide, deep, matrix = 28672, 8192, P(*AXES)
    layer = {
        "q": shape(deep, deep, spec=matrix),
        "k": shape(deep, 1024, spec=matrix),
        "v": shape(deep, 1024, spec=matrix),
        "o": shape(deep, deep, spec=P("model", "data")),
        "up": shape(deep, wide, spec=matrix),
        "gate": shape(deep, wide, spec=matrix),
        "down": shape(wide, deep, spec=P("model", "data")),
        "norm": shape(deep, spec=P()),
    }
    params: dict[str, Any] = {f"layer_{i}": layer for i in range(80)}
    params["embed"] = params["head"] = shape(128256, deep, spec=P("model", "data"))
    start = time.process_time()
    known = gx.memory(gx.adamw(1e-4), params, grads="float32")
    took = time.process_time() - start
    assert took < 2
    assert 70e9 < known.total("parameters").bytes / 2 < 71e9
    assert 10 * 70e9 / 512 < known.device_bytes < 12.1 * 71e9 / 512
    described = gx.describe(gx.adamw(1e-4), params)
    assert "each of 512 devices: parameters 276." in str(described)


def test_low_bits_are_codes_scales_and_counters() -> None:
    rows = {r.address: r for r in gx.memory(gx.lowbit.quantized(gx.adam(1e-3), 4), jnp.ones((64, 128))).rows}
    assert rows["adam/mu"].dtype == "4 bits"
    assert rows["adam/mu"].bytes == 64 * 128 // 2 + 2 * 128 + 4
    assert rows["adam/nu"].role == "second moment"


def test_fields_have_addresses_of_their_links() -> None:
    def named(tx: Any) -> list[str]:
        return [row.address for row in gx.memory(tx, {"w": jnp.ones(3)}).rows[2:]]

    assert named(TRANSFORMS["optax adamw"]) == [f"transform/scale_by_adam/{n}" for n in ("count", "mu", "nu")]
    assert named(optax.chain(optax.trace(0.9), optax.trace(0.8))) == [
        "transform/trace/trace",
        "transform/trace_1/trace",
    ]
    assert named(gx.chain(gx.guard(gx.trace(0.9)), gx.adam(0.1)))[-4:] == [
        "trace/trace",
        "adam/adam/count",
        "adam/adam/mu",
        "adam/adam/nu",
    ]
    by_hand = gx.GradientTransformation(lambda p: [jnp.zeros(2), {"k": jnp.ones(1)}], lambda u, s, p: (u, s))
    (row,) = gx.memory(by_hand, {"w": jnp.ones(3)}).rows[2:]
    assert (row.address, row.role, row.bytes) == ("transform", "other", 12)


def test_gradients_are_as_they_are_said() -> None:
    params = {"w": jax.ShapeDtypeStruct((64, 8), "float32", sharding=jax.NamedSharding(BIG, P("data")))}
    params["n"] = jax.ShapeDtypeStruct((5,), "int32")
    bare = jax.ShapeDtypeStruct((64, 8), "bfloat16")
    cut = jax.ShapeDtypeStruct((64, 8), "float32", sharding=jax.NamedSharding(BIG, P("data", "model")))

    def bytes_of(grads: Any) -> tuple[str, int, int]:
        row = gx.memory(gx.set_to_zero(), params, grads=grads).total("gradients")
        return row.dtype, row.bytes, row.device_bytes

    assert bytes_of(None) == ("float32", 2048, 32)
    assert bytes_of("bfloat16") == bytes_of(jnp.bfloat16) == ("bfloat16", 1024, 16)
    assert bytes_of({"w": bare, "n": None}) == ("bfloat16", 1024, 16)
    assert bytes_of({"w": cut, "n": None}) == ("float32", 2048, 4)
    with pytest.raises(ValueError, match=r"gx\.memory\(grads=\.\.\.\): missing in grads: 'n'; pass a dtype"):
        bytes_of({"w": bare})


def test_host_memory_is_apart() -> None:
    known = gx.memory(
        gx.sharding.offload(gx.trace(0.9), "*"),
        jax.ShapeDtypeStruct((64, 8), "float32", sharding=jax.NamedSharding(BIG, P("data"))),
    )
    assert (known.device_bytes, known.host_bytes) == (64, 32)
    assert str(known).endswith("parameters 32 B, gradients 32 B, state -; in host memory 32 B")
    assert "on the host" in str(known)


def test_one_device_has_no_second_column() -> None:
    text = str(gx.memory(gx.adam(1e-3), {"w": jnp.ones((4, 2))}))
    assert text.splitlines()[0] == "gx.adam(0.001) on one device"
    assert "a device" not in text
    assert text.endswith("in all 132 B: parameters 32 B, gradients 32 B, state 68 B")


def test_a_mesh_can_be_said_or_set() -> None:
    params = {"w": jnp.ones((4, 2))}
    mesh = jax.make_mesh((4, 2), AXES)
    assert gx.memory(gx.adam(1e-3), params, mesh).devices == 8
    assert "each of 8 devices: parameters 32 B, state 68 B" in str(gx.describe(gx.adam(1e-3), params, mesh))
    with jax.set_mesh(mesh):
        assert gx.memory(gx.adam(1e-3), params).devices == 8
        assert gx.memory(gx.adam(1e-3), params, BIG).devices == 512
    both = {
        "a": _params(mesh)["w"],
        "b": jax.ShapeDtypeStruct((8,), "float32", sharding=jax.NamedSharding(BIG, P())),
    }
    with pytest.raises(
        ValueError, match=r"gx\.memory\(tx, params\): the leaf 'a' and .*leaf 'b' lie on different meshes"
    ):
        gx.memory(gx.adam(1e-3), both)


def test_nothing_is_allocated() -> None:
    shape = jax.ShapeDtypeStruct((1 << 30, 1 << 20), "float32")
    assert gx.memory(gx.adam(1e-3), shape).total("state").bytes == 2**53 + 4
