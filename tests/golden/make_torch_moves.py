"""Write torch_moves.npz: torch's weights and state after 50 and after 100 steps; and torch_export.{npz,safetensors}.

Run: python make_torch_moves.py
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_muon import install
from problem import with_tensors
from torch_runs import MORE, RUNS

HERE = Path(__file__).resolve().parent
HALF = 50
MUON = {
    "default": {"lr": 0.01},
    "rms": {"lr": 0.02, "weight_decay": 0.3, "adjust_lr_fn": "match_rms_adamw"},
    "plain": {"lr": 0.02, "nesterov": False, "ns_steps": 3},
}


def record(
    name: str, options: dict[str, Any], start: Any, grads: Any
) -> tuple[list[Any], list[Any], np.ndarray]:
    """The groups, where each array is, and all one behind the other: zip entries would be most of the file."""
    params = {k: torch.tensor(v, requires_grad=True) for k, v in start.items()}
    optimizer = getattr(torch.optim, name)(list(params.values()), **options)
    rows: list[Any] = []
    arrays: list[np.ndarray] = []
    for step in range(2 * HALF):
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][step])
        optimizer.step()
        if step + 1 in (HALF, 2 * HALF):
            found = {f"params/{k}": p.detach() for k, p in params.items()}
            for number, slots in optimizer.state_dict()["state"].items():
                found |= {f"state/{number}/{slot}": x for slot, x in slots.items() if x is not None}
            for key, x in found.items():
                arrays.append(x.numpy().copy())
                rows.append([step + 1, key, list(arrays[-1].shape)])
    return optimizer.state_dict()["param_groups"], rows, np.concatenate([np.ravel(x) for x in arrays])


def exported() -> None:
    """A model in bfloat16 with two groups after seven steps, as examples/torch_export.py writes it."""
    spec = importlib.util.spec_from_file_location(
        "torch_export", HERE.parents[1] / "examples" / "torch_export.py"
    )
    assert spec is not None
    assert spec.loader is not None
    exporter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exporter)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)).to(
        torch.bfloat16
    )
    decayed, rest = [
        [(n, p) for n, p in net.named_parameters() if (p.ndim > 1) is wanted] for wanted in (True, False)
    ]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0, "lr": 0.02}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=4),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 5], gamma=0.5),
    ]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])
    for _ in range(7):
        optimizer.zero_grad()
        (net(torch.randn(8, 3, dtype=torch.bfloat16)) ** 2).mean().backward()
        optimizer.step()
        scheduler.step()
    names = exporter.names_of(net.state_dict(), optimizer.state_dict())
    for end in ("npz", "safetensors"):
        path = HERE / f"torch_export.{end}"
        exporter.export(
            path, net.state_dict(), optimizer.state_dict(), names, "AdamW", scheduler.state_dict()
        )


def main() -> None:
    exported()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    install()
    start, grads = with_tensors(2 * HALF)
    arrays = {f"gradients/{k}": v for k, v in grads.items()}
    meta: dict[str, Any] = {"torch": torch.__version__, "half": HALF, "names": list(start), "runs": {}}
    for name in [*{**RUNS, **MORE}, "Muon"]:
        runs = MUON if name == "Muon" else {**RUNS.get(name, {}), **MORE.get(name, {})}
        for run, options in runs.items():
            if options.get("rates"):
                continue
            taken = {"w": start["w"]} if name == "Muon" else start
            groups, rows, values = record(name, options, taken, grads)
            meta["runs"][f"{name}/{run}"] = {"groups": groups, "rows": rows}
            arrays[f"{name}/{run}"] = values
    np.savez_compressed(HERE / "torch_moves.npz", meta=np.array(json.dumps(meta)), **arrays)


if __name__ == "__main__":
    main()
