"""Write torch_*.npz: what torch.optim does in float64 with prescribed gradients. Run: python make_torch.py"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problem import problem, with_tensors
from torch_runs import KEPT, MORE, RUNS, STEPS

HERE = Path(__file__).resolve().parent


def rates(lr: float) -> list[float]:
    """A learning rate that rises, falls, and jumps in the middle."""
    return [
        lr * (1.0 + 0.9 * float(np.sin(i / 7.0))) * (0.3 if i >= STEPS // 2 else 1.0) for i in range(STEPS)
    ]


def trajectory(name: str, options: dict[str, Any], start: Any, grads: Any) -> dict[str, np.ndarray]:
    """The parameters after each step, with the step as the leading axis, and the learning rates if they change."""
    options = dict(options)
    schedule = rates(options["lr"]) if options.pop("rates", False) else None
    params = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in start.items()}
    optimizer = getattr(torch.optim, name)(list(params.values()), foreach=False, **options)
    rows: dict[str, list[np.ndarray]] = {k: [] for k in params}
    for i in range(STEPS):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = schedule[i]
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][i], dtype=torch.float64)
        optimizer.step()
        for k, p in params.items():
            rows[k].append(p.detach().numpy().copy())
    path = {f"params/{k}": np.stack(v) for k, v in rows.items()}
    return path if schedule is None else path | {"rates": np.array(schedule)}


def write(name: str, file: str, runs: dict[str, Any], kept: list[int] | None) -> None:
    """One file. All steps and the problem itself, or the kept steps and the name of the file with the problem."""
    start, grads = with_tensors(STEPS) if name == "Adafactor" else problem(STEPS)
    meta: dict[str, Any] = {"torch": torch.__version__, "optimizer": name, "steps": STEPS, "runs": runs}
    arrays: dict[str, np.ndarray] = {}
    if kept is None or name == "Adafactor":
        arrays = {f"start/{k}": v for k, v in start.items()} | {f"gradients/{k}": v for k, v in grads.items()}
    else:
        meta["problem"] = "torch_sgd.npz"
    if kept is not None:
        meta["kept"] = kept
    for run, options in runs.items():
        for key, value in trajectory(name, options, start, grads).items():
            arrays[f"{run}/{key}"] = value if kept is None or key == "rates" else value[np.array(kept) - 1]
    np.savez_compressed(HERE / file, meta=np.array(json.dumps(meta)), **arrays)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # or NAdam's product of its mu is kept in float32
    for name, runs in RUNS.items():
        write(name, f"torch_{name.lower()}.npz", runs, None)
    for name, runs in MORE.items():
        write(name, f"torch_{name.lower()}{'_more' if name in RUNS else ''}.npz", runs, KEPT)


if __name__ == "__main__":
    main()
