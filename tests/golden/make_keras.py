"""Write keras.npz: what Keras does in float64 (JAX backend) with prescribed gradients. Run: python make_keras.py

Keras keeps the learning rate in a variable of its default float type and casts its other numbers to the type of the
parameter, so that with float64 as that default nothing is rounded.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}

import keras
import numpy as np
from keras_runs import RUNS, STEPS
from problem import problem

HERE = Path(__file__).resolve().parent


def rates(rate: float) -> list[float]:
    """A learning rate that rises, falls, and jumps in the middle."""
    return [
        rate * (1.0 + 0.9 * float(np.sin(i / 7.0))) * (0.3 if i >= STEPS // 2 else 1.0) for i in range(STEPS)
    ]


def trajectory(name: str, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters after each step, with the step as the leading axis, and the learning rates if they change."""
    start, grads = problem(STEPS)
    options = dict(options)
    schedule = rates(options["learning_rate"]) if options.pop("rates", False) else None
    params = {k: keras.Variable(v, dtype="float64") for k, v in start.items()}
    optimizer = getattr(keras.optimizers, name)(**options)
    optimizer.build(list(params.values()))
    for variable in optimizer.variables:
        if "float" in str(variable.dtype):
            assert variable.dtype == "float64", variable.path
    rows: dict[str, list[np.ndarray]] = {k: [] for k in params}
    for i in range(STEPS):
        if schedule is not None:
            optimizer.learning_rate = schedule[i]
        optimizer.apply([keras.ops.convert_to_tensor(grads[k][i], dtype="float64") for k in params])
        for k, p in params.items():
            rows[k].append(np.asarray(p.value).copy())
    path = {f"params/{k}": np.stack(v) for k, v in rows.items()}
    assert all(v.dtype == np.float64 for v in path.values())
    return path if schedule is None else path | {"rates": np.array(schedule)}


def main() -> None:
    import jax

    keras.backend.set_floatx("float64")
    start, grads = problem(STEPS)
    arrays = {f"start/{k}": v for k, v in start.items()} | {f"gradients/{k}": v for k, v in grads.items()}
    for name, runs in RUNS.items():
        for run, options in runs.items():
            arrays |= {f"{name}:{run}/{key}": value for key, value in trajectory(name, options).items()}
    meta = {"keras": keras.__version__, "jax": jax.__version__, "steps": STEPS, "runs": RUNS}
    np.savez_compressed(HERE / "keras.npz", meta=np.array(json.dumps(meta)), **arrays)


if __name__ == "__main__":
    main()
