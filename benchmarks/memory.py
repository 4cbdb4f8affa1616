"""What `gx.memory` predicts beside what a real step holds: one device, and a mesh of 4x2.

    python -m benchmarks.memory            # the table, which docs/guide/memory.md shows

Live are the bytes of all buffers on the first device after a step of somebody's own; the peak is the account that XLA
gives of that step's compiled program. No clock is read, so a busy machine changes nothing.
"""

import contextlib
import gc
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradxform as gx

_ADAMW = gx.adamw(1e-3)
TRANSFORMS: dict[str, Any] = {
    "adamw": _ADAMW,
    "clip, adamw, guard": gx.guard(gx.chain(gx.clip_by_global_norm(1.0), _ADAMW)),
    "sgd, momentum": gx.sgd(0.1, momentum=0.9),
    "lion": gx.lion(1e-3),
    "adafactor": gx.adafactor(1e-2, min_dim_size_to_factor=128),
    "muon": gx.muon(1e-2),
    "adam, masked": gx.masked(gx.adam(1e-3), "w"),
    "adamw, 8 bits": gx.lowbit.quantized(_ADAMW),
    "adamw, 4 bits": gx.lowbit.quantized(_ADAMW, 4),
    "adamw, average": gx.average_params(_ADAMW, 0.99),
    "adamw, window of 4": gx.accumulate(_ADAMW, 4),
    "Optax: clip, adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    "Optax: MultiSteps(adamw)": optax.MultiSteps(optax.adamw(1e-3), 4).gradient_transformation(),
    "Optax: sm3": optax.sm3(1e-3),
}
#: Where parameters are cut only.
MESHED: dict[str, Any] = {"adamw, ZeRO": gx.sharding.zero(_ADAMW, "data")}
SPECS = {"w": jax.P("data", "model"), "v": jax.P("model", "data"), "b": jax.P()}


def params_on(mesh: Any) -> Any:
    """Two matrices and a vector, cut over the mesh if there is one."""
    whole = {"w": jnp.ones((256, 512)), "v": jnp.ones((512, 256)), "b": jnp.ones(512)}
    if mesh is None:
        return whole
    return jax.device_put(whole, {name: jax.NamedSharding(mesh, spec) for name, spec in SPECS.items()})


class Held(NamedTuple):
    """What a step really took on the first device, in bytes."""

    live: int
    arguments: int
    peak: int


def _live() -> int:
    """Bytes of all buffers on the first device; an array and its shards share theirs."""
    gc.collect()
    first, found = jax.devices()[0], dict[int, int]()
    for x in jax.live_arrays():
        for shard in x.addressable_shards:
            if shard.device == first and shard.data.nbytes:
                found[shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(found.values())


def measured(tx: Any, mesh: Any = None) -> Held:
    """A real step, written as somebody writes it: the growth of what lives, and XLA's account of the program."""
    given = params_on(mesh)

    def step(params: Any, state: Any, grads: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # Optax's own need it
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

    before = _live()
    params = jax.tree.map(jnp.copy, given)
    grads = jax.tree.map(jnp.copy, given)
    state = tx.init(params) if mesh is None else gx.sharding.init_sharded(tx, params)
    out = None if mesh is None else jax.tree.map(lambda x: x.sharding, (params, state))
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        run = jax.jit(step, donate_argnums=(0, 1), out_shardings=out).lower(params, state, grads).compile()
        params, state = run(params, state, grads)
    known: Any = run.memory_analysis()
    arguments = known.argument_size_in_bytes
    beside = known.output_size_in_bytes - known.alias_size_in_bytes + known.temp_size_in_bytes
    return Held(_live() - before, arguments, arguments + beside)


def main() -> None:
    """Prints the table."""
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    print("| transform | devices | held, predicted | held, live | peak, predicted | peak, XLA's account |")
    print("|---|---|---|---|---|---|")
    for devices, layout, transforms in ((1, None, TRANSFORMS), (8, mesh, TRANSFORMS | MESHED)):
        for name, tx in transforms.items():
            known, real = gx.memory(tx, params_on(layout), step=True), measured(tx, layout)
            figures = (known.device_bytes, real.live, known.peak_bytes or 0, real.peak)
            print(f"| {name} | {devices} | " + " | ".join(f"{x / 1000:,.1f}" for x in figures) + " |")


if __name__ == "__main__":
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", 8)
    main()
