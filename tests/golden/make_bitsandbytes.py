"""Write bitsandbytes.npz: codes and 8-bit optimizer states of bitsandbytes on a CPU. Run: python make_bitsandbytes.py

Each array is encoded by two of its kernels: that of the CPU (C++), which its optimizers use there, and the one in torch
operations, which is exact to nearest and stands in for a device without a kernel of its own.
"""

import json
import platform
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import torch
from bitsandbytes import functional
from bitsandbytes_runs import BLOCK, KEPT, OPTIONS, SHAPES, STEPS, edges, extreme, ramp

HERE = Path(__file__).resolve().parent
Arrays = dict[str, np.ndarray]


def plain_kernel(x: torch.Tensor, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    return torch.ops.bitsandbytes.quantize_blockwise.default._op_dk(key, x, code, BLOCK)


def encoded(name: str, x: np.ndarray, code: torch.Tensor, decoded: bool = False) -> Arrays:
    """What both kernels say to one array; `decoded` with the numbers that the codes stand for."""
    tensor = torch.tensor(x)
    codes, state = functional.quantize_blockwise(tensor, code=code, blocksize=BLOCK)
    torch_codes, torch_absmax = plain_kernel(tensor, code)
    made = {
        f"{name}/cpu": codes.numpy(),
        f"{name}/absmax": state.absmax.numpy(),
        f"{name}/torch": torch_codes.numpy(),
        f"{name}/torch_absmax": torch_absmax.numpy(),
    }
    if decoded:
        made |= {f"{name}/x": x, f"{name}/decoded": functional.dequantize_blockwise(codes, state).numpy()}
    return made


def arrays() -> Arrays:
    rng = np.random.default_rng(20250301)
    made: Arrays = {}
    for kind, signed in (("signed", True), ("unsigned", False)):
        code = functional.create_dynamic_map(signed=signed)
        made[f"map/{kind}"] = code.numpy()
        wild = rng.normal(size=5 * BLOCK + 77) * 10 ** rng.uniform(-5, 0, size=5 * BLOCK + 77)
        wild[2 * BLOCK : 3 * BLOCK] = 0
        wild[::17] = 0
        wild = wild.astype(np.float32)
        made |= encoded(f"{kind}/wild", wild if signed else wild**2, code, decoded=True)
        for name, x in (("edges", edges(code.numpy())), ("ramp", ramp()), ("extreme", extreme())):
            made |= encoded(f"{kind}/{name}", x if signed else np.abs(x), code)
    return made


def short(x: np.ndarray) -> np.ndarray:
    """float32 numbers with 8 bits of mantissa, which take less room."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def training() -> Arrays:
    """AdamW8bit: parameters, gradients and states, and where `state_dict` keeps them."""
    rng = np.random.default_rng(20250302)
    start = {k: short(rng.normal(size=shape)) for k, shape in SHAPES.items()}
    sizes = {k: 10 ** rng.uniform(-3, 0, size=shape[-1:]) for k, shape in SHAPES.items()}
    params = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    optimizer = bitsandbytes.optim.AdamW8bit(list(params.values()), **OPTIONS)
    made = {f"adamw/start/{k}": v for k, v in start.items()}
    for step in range(1, STEPS + 1):
        for k, p in params.items():
            gradient = short(sizes[k] * (rng.normal(size=SHAPES[k]) + 0.3))
            gradient.reshape(-1)[::31] = 0
            p.grad = torch.tensor(gradient)
            if step == 1 or (step in KEPT and step - 1 in KEPT):
                made[f"adamw/{step}/gradients/{k}"] = gradient
        optimizer.step()
        if step in KEPT:
            made |= kept(step, params, optimizer)
    return made


def kept(step: int, params: dict[str, Any], optimizer: Any) -> Arrays:
    """Parameters and state dictionary after a step."""
    made: Arrays = {}
    for (k, p), entry in zip(params.items(), optimizer.state_dict()["state"].values(), strict=True):
        made[f"adamw/{step}/params/{k}"] = p.detach().numpy().copy()
        wrapped = next(v for v in entry.values() if isinstance(v, dict))
        for name, value in wrapped.items():
            if not name.startswith("qmap"):
                made[f"adamw/{step}/state/{k}/{name}"] = value.numpy().copy()
    return made


def main() -> None:
    torch.set_num_threads(1)
    meta = {
        "bitsandbytes": bitsandbytes.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "options": OPTIONS,
        "kept": KEPT,
    }
    made = arrays() | training()
    np.savez_compressed(HERE / "bitsandbytes.npz", meta=np.array(json.dumps(meta)), **made)


if __name__ == "__main__":
    main()
