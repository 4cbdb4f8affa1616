"""torch's optimizers behind a clip, with a warmup-cosine schedule and a decay mask, each in a process of its own.

    python -m benchmarks.torch_steps METHOD TREE fused|foreach THREADS      # one turn for each line of its input

It needs torch and NumPy, and neither JAX nor this library, so that it may run in another environment.
"""

import json
import math
import sys
import time
from typing import Any

#: Class and arguments of what torch has a fused kernel for.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("AdamW", {"weight_decay": 0.1}),
    "adam": ("Adam", {}),
    "sgd, momentum": ("SGD", {"momentum": 0.9}),
    "sgd, nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
}


def main(method: str, tree_name: str, kind: str, threads: int) -> None:
    import numpy as np
    import torch

    from benchmarks.shapes import QUICK, TREES

    torch.set_num_threads(threads)
    numbers = 0.01 * np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)

    def array(shape: tuple[int, ...]) -> Any:
        return torch.from_numpy(np.resize(numbers, shape).copy())

    shapes = {**TREES, **QUICK}[tree_name]
    params = [torch.nn.Parameter(array(shape)) for shape in shapes.values()]
    for p in params:
        p.grad = array(tuple(p.shape))
    name, arguments = METHODS[method]
    groups = [
        {"params": [p for p in params if p.ndim > 1]},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    make = getattr(torch.optim, name)
    optimizer = make([g for g in groups if g["params"]], lr=1e-3, **{kind: True}, **arguments)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: t / 100 if t < 100 else 0.5 * (1 + math.cos(math.pi * (t - 100) / 9900))
    )

    def turn() -> float:
        # The norm is 1 from the second time on, so that the product is with 1 then; it is formed all the same.
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        schedule.step()
        return time.perf_counter() - start

    turn()
    total = sum(p.numel() for p in params)
    state = [x for s in optimizer.state.values() for x in s.values() if torch.is_tensor(x)]
    held = sum(x.numel() * x.element_size() for x in state)
    facts = {"numbers": total, "state_bytes_a_number": held / total, "torch": torch.__version__}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": turn()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
