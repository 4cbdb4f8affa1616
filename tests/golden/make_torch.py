"""Write torch_*.npz: what torch.optim does in float64 with prescribed gradients. Run: python make_torch.py"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problem import problem

STEPS = 120
HERE = Path(__file__).resolve().parent

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "plain": {"lr": 0.01},
        "momentum": {"lr": 0.01, "momentum": 0.9},
        "nesterov": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        "l2": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.05},
    },
    "Adam": {
        "default": {"lr": 1e-3},
        "eps": {"lr": 1e-3, "eps": 1e-3},
        "l2": {"lr": 1e-3, "weight_decay": 0.05},
        "betas": {"lr": 1e-2, "betas": [0.8, 0.95]},
    },
    "AdamW": {
        "wd01": {"lr": 1e-3, "weight_decay": 0.01},
        "wd1": {"lr": 1e-2, "weight_decay": 0.1},
        "betas": {"lr": 1e-2, "betas": [0.8, 0.95], "weight_decay": 0.1},
    },
}


def trajectory(name: str, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters after each step, with the step as the leading axis."""
    start, grads = problem(STEPS)
    params = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in start.items()}
    optimizer = getattr(torch.optim, name)(list(params.values()), foreach=False, **options)
    rows: dict[str, list[np.ndarray]] = {k: [] for k in params}
    for i in range(STEPS):
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][i], dtype=torch.float64)
        optimizer.step()
        for k, p in params.items():
            rows[k].append(p.detach().numpy().copy())
    return {k: np.stack(v) for k, v in rows.items()}


def main() -> None:
    torch.set_num_threads(1)
    start, grads = problem(STEPS)
    for name, runs in RUNS.items():
        meta = {"torch": torch.__version__, "optimizer": name, "steps": STEPS, "runs": runs}
        arrays = {f"start/{k}": v for k, v in start.items()} | {f"gradients/{k}": v for k, v in grads.items()}
        for run, options in runs.items():
            arrays |= {f"{run}/params/{k}": v for k, v in trajectory(name, options).items()}
        np.savez_compressed(HERE / f"torch_{name.lower()}.npz", meta=np.array(json.dumps(meta)), **arrays)


if __name__ == "__main__":
    main()
