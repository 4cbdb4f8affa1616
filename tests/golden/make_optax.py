"""Write optax_*.npz: states and parameters of Optax's recipes in mid-run, and its schedules. Run: python make_optax.py

Float32 and float64 need different settings of JAX, so the script calls itself once for each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from optax_runs import KEPT, MORE, MORE_KEPT, RUNS, SCHEDULES, STEPS, schedule_counts
from problem import problem, with_tensors

HERE = Path(__file__).resolve().parent


def build(recipe: str, options: dict[str, Any]) -> Any:
    """The Optax transform; a dict in the place of a number is a schedule, by name and arguments."""
    import optax

    def value(x: Any) -> Any:
        return (
            getattr(optax, x["schedule"])(**x["arguments"]) if isinstance(x, dict) and "schedule" in x else x
        )

    return getattr(optax, recipe)(**{k: value(v) for k, v in options.items()})


def addresses(state: Any, path: str = "") -> dict[str, Any]:
    """State leaves by link number, field and parameter; masked states by their inner state."""
    if isinstance(state, dict):
        items = state.items()
    elif hasattr(state, "_fields"):
        items = ((("" if k == "inner_state" else k), getattr(state, k)) for k in state._fields)
    elif isinstance(state, tuple):
        items = ((str(i), v) for i, v in enumerate(state))
    else:
        return {path: np.asarray(state)}
    return {k: v for name, x in items for k, v in addresses(x, f"{path}/{name}".strip("/")).items()}


def trajectory(recipe: str, options: dict[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Everything at the kept steps, stacked along a leading axis."""
    import jax.numpy as jnp
    import optax

    start, grads = with_tensors(STEPS) if recipe == "adafactor" else problem(STEPS)
    kept = KEPT if recipe in RUNS else MORE_KEPT
    params = {k: jnp.asarray(v, dtype) for k, v in start.items()}
    tx = build(recipe, options)
    state, rows = tx.init(params), []
    for i in range(STEPS):
        updates, state = tx.update({k: jnp.asarray(v[i], dtype) for k, v in grads.items()}, state, params)
        params = optax.apply_updates(params, updates)
        if i + 1 in kept:
            rows.append(addresses({"params": params, "state": state}))
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def schedule_values() -> dict[str, np.ndarray]:
    import optax

    def table(name: str, arguments: dict[str, Any]) -> np.ndarray:
        bounds = arguments.get("boundaries_and_scales")
        fixed = arguments | (
            {"boundaries_and_scales": {int(k): v for k, v in bounds.items()}} if bounds else {}
        )
        return np.array([float(getattr(optax, name)(**fixed)(t)) for t in schedule_counts()])

    return {f"values/{key}": table(*entry) for key, entry in SCHEDULES.items()}


def write(precision: str) -> None:
    """One precision of all runs, into a scratch file; the caller merges them."""
    arrays = {}
    for recipe, runs in (RUNS | MORE).items():
        for run, options in runs.items():
            for k, v in trajectory(recipe, options, precision).items():
                arrays[f"{recipe}:{run}/{precision}/{k}"] = v
    np.savez(
        HERE / f"scratch_{precision}.npz", **arrays, **(schedule_values() if precision == "float64" else {})
    )


def main() -> None:
    import jax
    import optax

    parts: dict[str, np.ndarray] = {}
    for precision in ("float32", "float64"):
        env = os.environ | {"JAX_ENABLE_X64": str(int(precision == "float64")), "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, __file__, precision], check=True, env=env)
        scratch = HERE / f"scratch_{precision}.npz"
        with np.load(scratch) as data:
            parts |= {k: data[k] for k in data.files}
        scratch.unlink()
    versions = {"optax": optax.__version__, "jax": jax.__version__, "backend": "cpu"}
    for recipe, runs in (RUNS | MORE).items():
        meta = versions | {
            "recipe": recipe,
            "steps": STEPS,
            "kept": KEPT if recipe in RUNS else MORE_KEPT,
            "runs": runs,
        }
        start, grads = with_tensors(STEPS) if recipe == "adafactor" else problem(STEPS)
        arrays = {f"start/{k}": v for k, v in start.items()} | {f"gradients/{k}": v for k, v in grads.items()}
        if recipe in MORE and recipe != "adafactor":
            meta, arrays = meta | {"problem": "optax_sgd.npz"}, {}
        arrays |= {k.split(":", 1)[1]: v for k, v in parts.items() if k.startswith(recipe + ":")}
        np.savez_compressed(HERE / f"optax_{recipe}.npz", meta=np.array(json.dumps(meta)), **arrays)
    meta = versions | {"precision": "float64", "schedules": SCHEDULES}
    values = {k: v for k, v in parts.items() if k.startswith("values/")}
    counts = np.array(schedule_counts())
    np.savez_compressed(
        HERE / "optax_schedules.npz", meta=np.array(json.dumps(meta)), counts=counts, **values
    )


if __name__ == "__main__":
    write(sys.argv[1]) if len(sys.argv) > 1 else main()
