"""Saves one path over and over in a process that is killed at a random moment, many times: what is on the disk then.

    python tests/interop/killed_saver.py FOLDER KILLS

The process is a fork of this one, which has imported everything and computed nothing, so that a kill costs
milliseconds. After each kill the file is read: all of its arrays must be of one save, and no save that was
there before may be lost. Prints JSON: how many kills, how many of them left a file that was being written, how many
saves.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optax

import gradxform as gx
from gradxform.interop import checkpoint

TX = gx.adam(0.1)
SIZE = 300_000


def state(step: int) -> Any:
    moment = {"w": np.full(SIZE, step, np.float32)}
    return (optax.ScaleByAdamState(np.int32(step), moment, moment), optax.EmptyState())


def main() -> None:
    path, kills = Path(sys.argv[1]) / "run.safetensors", int(sys.argv[2])
    draws = random.Random(0)
    gx.interop.save(path, TX, state(0), extra={"step": 0})
    begun, cut = 0, 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            step = begun
            while True:
                step += 1
                gx.interop.save(path, TX, state(step), extra={"step": step})
        time.sleep(draws.uniform(0.002, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        cut += path.with_name(f".{path.name}.partial").exists()
        known, arrays = checkpoint.read(path, "the file after a kill")
        step = known["extra"]["step"]
        assert step >= begun, f"step {begun} was there, and now it is {step}"
        assert set(arrays) == {"state/0/count", "state/0/mu/w", "state/0/nu/w"}
        assert all((x == step).all() for x in arrays.values()), f"the arrays are not all of step {step}"
        begun = step
    print(json.dumps({"kills": kills, "cut": cut, "saves": begun}))


if __name__ == "__main__":
    main()
