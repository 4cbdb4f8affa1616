"""A training that is killed, in the middle of a save too, and resumed: it ends with the same bits as one that is not.

    python examples/resume.py

The script starts itself three times: once to the end; once until it is killed (SIGKILL) while it writes a checkpoint;
once more, to go on from the last whole one. What makes the bits equal: everything that changes is in the checkpoint,
the batch of a step follows from its number, and a checkpoint takes its name only when it is complete. The run goes on
in the middle of a window of two micro-batches, whose first gradient is in the checkpoint too. One batch holds a NaN:
the guard skips it, and its counters and statistics are restored with the rest.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import gradxform as gx

try:
    from flax import serialization
except ImportError:
    raise SystemExit("resume.py needs flax: pip install 'gradxform[examples]'") from None

POISONED = 30  # the step whose batch holds a NaN


def optimizer(steps):
    rate = gx.warmup_cosine(1e-2, 0.1, steps // 2)  # counts the steps of AdamW, one for two micro-batches
    return gx.guard(gx.accumulate(gx.average_params(gx.adamw(rate, weight_decay=0.01)), 2), spike=8.0)


def init(key):
    first, second = jax.random.split(key)
    return {"in": jax.random.normal(first, (1, 64)), "out": jax.random.normal(second, (64, 1)) / 8}


def batch(step):
    """The data of a step, from its number alone."""
    x = jax.random.uniform(jax.random.fold_in(jax.random.key(1), step), (64, 1), minval=-3, maxval=3)
    y = jnp.sin(2 * x)
    return x, jnp.where(step == POISONED, jnp.nan, y)


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - y) ** 2)


def save(path, tree, killed=False):
    """Writes beside the checkpoint and renames: whoever reads finds the old one or the new one, never half of one."""
    content, beside = serialization.to_bytes(tree), path.with_suffix(".part")
    with open(beside, "wb") as file:
        file.write(content[: len(content) // 2] if killed else content)
        file.flush()
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        os.fsync(file.fileno())
    os.replace(beside, path)


def work(path, steps, every, kill_at):
    """One process: from the checkpoint, if there is one, to the end or to the kill."""
    tx = optimizer(steps)

    @jax.jit
    def train_step(params, state, step):
        value, gradients = jax.value_and_grad(loss)(params, *batch(step))
        updates, state = tx.update(gradients, state, params, value=value)
        return gx.apply_updates(params, updates), state

    params = init(jax.random.key(0))
    run = {"step": 0, "params": params, "state": tx.init(params)}
    if path.exists():
        run = jax.tree.map(jnp.asarray, serialization.from_bytes(run, path.read_bytes()))
        half = "in the middle" if run["state"].inner_state.mini_step else "at the start"
        print(
            f"  resumed at step {int(run['step'])}, {half} of a window, {int(run['state'].skipped)} skipped so far"
        )
    for step in range(int(run["step"]), steps):
        params, state = train_step(run["params"], run["state"], step)
        run = {"step": step + 1, "params": params, "state": state}
        if (step + 1) % every == 0 or step + 1 == steps:
            gx.check(state)  # raises if the guard has skipped too many steps in a row
            if kill_at is not None and step + 1 >= kill_at:
                print(f"  killed while it saves step {step + 1}", flush=True)
                save(path, run, killed=True)
            save(path, run)
    best = gx.eval_params(run["state"], run["params"])
    print(f"  step {steps}: loss {loss(best, *batch(0)):.6f} (average), {int(run['state'].skipped)} skipped")


def start(name, path, args, kill_at=None):
    """Runs `work` in a process of its own."""
    print(f"{name}:", flush=True)
    command = [
        sys.executable,
        __file__,
        "--work",
        str(path),
        "--steps",
        str(args.steps),
        "--every",
        str(args.every),
    ]
    done = subprocess.run([*command, *(() if kill_at is None else ("--kill-at", str(kill_at)))], check=False)
    wanted = 0 if kill_at is None else -signal.SIGKILL
    if done.returncode != wanted:
        raise SystemExit(f"{name}: exit status {done.returncode}, wanted {wanted}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument(
        "--every", type=int, default=30, help="steps between checkpoints; default: %(default)s"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        return work(args.work, args.steps, args.every, args.kill_at)

    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole.msgpack", Path(folder) / "cut.msgpack"
        start("without an interruption", whole, args)
        start("killed", cut, args, kill_at=args.steps // 2)
        left = [f"{path.name} ({path.stat().st_size} bytes)" for path in sorted(Path(folder).glob("cut*"))]
        print(f"  left behind: {', '.join(left)}")
        start("started again", cut, args)
        marks = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (whole, cut)]
    print(f"\nparameters, optimizer, guard and average: {marks[0]} and {marks[1]}")
    print("the same bits" if marks[0] == marks[1] else "DIFFERENT BITS")


if __name__ == "__main__":
    main()
