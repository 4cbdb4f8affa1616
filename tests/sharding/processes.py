"""A few steps of several transforms on a mesh of four devices, of one process or of two: `python processes.py`.

Each process is started with its number, the port and the file for what it has made.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

import gradxform as gx

TRANSFORMS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: gx.adamw(gx.warmup_cosine(1e-2, 2, 10)),
    "guarded": lambda: gx.guard(
        gx.chain(gx.clip_by_global_norm(1.0), gx.adafactor(1e-2, min_dim_size_to_factor=2))
    ),
    "accumulated": lambda: gx.accumulate(gx.lion(1e-2), 2),
    "offloaded": lambda: gx.sharding.offload(gx.adam(1e-2), "*/nu/*"),
    "stored in 8 bits": lambda: gx.lowbit.quantized(gx.adam(1e-2), min_size=0),
}


def mesh_of(devices: Any) -> Any:
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def made(mesh: Any) -> dict[str, np.ndarray]:
    """The parameters and the state after four steps, whole, by transform and number of the leaf."""
    found: dict[str, np.ndarray] = {}
    cut = jax.NamedSharding(mesh, jax.P("data"))
    values = {"w": np.linspace(-1, 1, 512, dtype=np.float32).reshape(8, 64), "b": np.ones(8, np.float32)}
    for name, make in TRANSFORMS.items():
        tx = make()
        params = {key: jax.make_array_from_callback(x.shape, cut, x.__getitem__) for key, x in values.items()}
        state = gx.sharding.init_sharded(tx, params)

        def train(params: Any, state: Any, x: Any, tx: Any = tx) -> Any:
            grads = jax.tree.map(lambda p: jnp.sin(p) * x, params)
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state, x

        step = gx.sharding.make_step(train, params, state)
        before = [x.sharding for x in jax.tree.leaves((params, state))]
        for i in range(4):
            params, state, _ = step(params, state, jnp.float32(1 + i))
        if [x.sharding for x in jax.tree.leaves((params, state))] != before:
            raise SystemExit(f"{name}: the layout has changed")
        near = jax.device_put((params, state), jax.memory.Space.Device)
        whole = multihost_utils.process_allgather(near, tiled=True)
        found.update((f"{name} {i}", np.asarray(x)) for i, x in enumerate(jax.tree.leaves(whole)))
    return found


def main(number: str, port: str, path: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number), initialization_timeout=60)
    found = made(mesh_of(jax.devices()))
    np.savez(Path(path), **found)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
