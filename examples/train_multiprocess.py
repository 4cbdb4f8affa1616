"""Two processes train one model, each with its half of the devices, of the batch and of the optimizer's state.

    python examples/train_multiprocess.py                  # starts both, and compares them with one device
    python examples/train_multiprocess.py --kill-at 20     # one of the two is killed at step 20, and the run fails
    python examples/train_multiprocess.py --resume         # goes on from the last checkpoint: the same bits as without

The script starts itself once for each process. They find each other by `jax.distributed` at a free port of this machine
and form one mesh. Every process makes its own rows of a batch. Checkpoints are Orbax's: each process writes what it
holds, and a checkpoint takes its name only when all have. Whoever is left behind when another process dies would wait
for it, so the first failure ends all, and nothing waits longer than `--timeout`.
"""

import argparse
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

import gradxform as gx

try:
    import orbax.checkpoint as ocp
except ImportError:
    raise SystemExit("train_multiprocess.py needs Orbax: pip install 'gradxform[examples]'") from None

OUT = Path(__file__).parent / "out" / "multiprocess"
PROCESSES, DEVICES = 2, 2  # and devices of each process
ROWS, WIDTH = 64, 64


def optimizer(steps):
    return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine(1e-2, 0.1, steps)))


def init(key):
    first, second, third = jax.random.split(key, 3)
    return {
        "in": jax.random.normal(first, (2, WIDTH)),
        "hidden": jax.random.normal(second, (WIDTH, WIDTH)) / 8,
        "out": jax.random.normal(third, (WIDTH,)) / 8,
        "bias": jnp.zeros(WIDTH),
    }


def loss_of(params, x, y):
    hidden = jnp.tanh(jnp.tanh(x @ params["in"] + params["bias"]) @ params["hidden"])
    return jnp.mean((hidden @ params["out"] - y) ** 2)


def batch(step, sharding):
    """The data of a step, from its number alone; each process is asked for the rows of its devices only."""
    x = np.random.default_rng(step).uniform(-2, 2, (ROWS, 2)).astype(np.float32)
    y = np.sin(2 * x[:, 0]) * x[:, 1]
    return [jax.make_array_from_callback(a.shape, sharding, lambda i, a=a: a[i]) for a in (x, y)]


def train(mesh, steps, every=0, manager=None, kill_at=None, say=print):
    """The loss of the last step, and everything that the run has made."""
    everywhere, rows = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, jax.P("data"))
    params = jax.jit(init, out_shardings=everywhere)(jax.random.key(0))
    tx = gx.sharding.zero(optimizer(steps), "data", param_shardings=everywhere)
    state = gx.sharding.init_sharded(tx, params)

    def train_step(params, state, x, y):
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, loss

    step_fn = gx.sharding.make_step(train_step, params, state)
    start, loss = 0, jnp.nan
    if manager is not None and (last := manager.latest_step()) is not None:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, state)
        )
        params, state = manager.restore(last, args=ocp.args.StandardRestore(like))
        start = last
        say(f"resumed at step {start}")
    for step in range(start, steps):
        params, state, loss = step_fn(params, state, *batch(step, rows))
        done = step + 1
        if done == kill_at:
            jax.block_until_ready(loss)
            os.kill(os.getpid(), signal.SIGKILL)
        if manager is not None and done % every == 0:
            manager.save(done, args=ocp.args.StandardSave((params, state)))
            say(f"step {done}: loss {float(loss):.6f}")
    return loss, params, state


# --- one of the processes --------------------------------------------------------------------------------------------


def work(args):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.distributed.initialize(
        f"127.0.0.1:{args.port}",
        num_processes=PROCESSES,
        process_id=args.work,
        initialization_timeout=args.timeout,
    )
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    say = functools.partial(print, file=sys.stderr) if args.work == 0 else (lambda text: None)
    with ocp.CheckpointManager(args.out / "checkpoints", options=options) as manager:
        killed = args.kill_at if args.work == PROCESSES - 1 else None
        loss, params, state = train(mesh, args.steps, args.every, manager, killed, say)
    mine = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)]
    whole = multihost_utils.process_allgather((params, state), tiled=True)
    digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(whole))).hexdigest()
    result = {"loss": float(loss), "digest": digest[:16], "bytes": sum(mine)}
    (args.out / f"result-{args.work}.json").write_text(json.dumps(result))
    jax.distributed.shutdown()


# --- the one that starts them ----------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return at.getsockname()[1]


def start(args):
    """Runs all processes to their end. The first that fails, or the end of the time, ends all."""
    port = str(free_port())
    command = [
        sys.executable,
        __file__,
        "--port",
        port,
        "--steps",
        str(args.steps),
        "--every",
        str(args.every),
    ]
    command += ["--out", str(args.out), "--timeout", str(args.timeout)]
    command += [] if args.kill_at is None else ["--kill-at", str(args.kill_at)]
    # What Gloo says on standard output is not kept; the workers use the other one.
    workers = [
        subprocess.Popen([*command, "--work", str(i)], stdout=subprocess.DEVNULL) for i in range(PROCESSES)
    ]
    end = time.monotonic() + args.timeout
    try:
        while (codes := [worker.poll() for worker in workers]) != [0] * PROCESSES:
            failed = [i for i, code in enumerate(codes) if code]
            if failed:
                i = min(failed, key=lambda i: codes[i])  # a killed one first: the others fail because of it
                how = (
                    f"was killed by {signal.Signals(-codes[i]).name}"
                    if codes[i] < 0
                    else f"failed ({codes[i]})"
                )
                raise SystemExit(
                    f"process {i} {how}; the others were ended, --resume goes on from the checkpoint"
                )
            if time.monotonic() > end:
                raise SystemExit(
                    f"not done after {args.timeout} seconds (--timeout): all processes were ended"
                )
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="default: %(default)s")
    parser.add_argument(
        "--every", type=int, default=15, help="steps between checkpoints; default: %(default)s"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument(
        "--kill-at", type=int, metavar="STEP", help="kill the last process before it saves this step"
    )
    parser.add_argument(
        "--timeout", type=int, default=120, help="seconds for everything; default: %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="for checkpoints; default: examples/out/multiprocess"
    )
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.work is not None:
        return work(args)

    for name in ("steps", "every", "timeout"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: wanted at least 1, got {getattr(args, name)}")
    if args.kill_at is not None and not 1 <= args.kill_at <= args.steps:
        parser.error(f"--kill-at: wanted one of the {args.steps} steps, got {args.kill_at}")
    kept = args.out / "checkpoints"
    saved = [
        int(path.parent.name) for path in kept.glob("*/_CHECKPOINT_METADATA") if path.parent.name.isdigit()
    ]
    if args.resume and not saved:
        parser.error(f"--resume: there is no checkpoint in {kept}")
    if args.resume and max(saved) >= args.steps:
        parser.error(f"--resume: step {max(saved)} of {args.steps} is made, and nothing is left to do")
    if not args.resume:
        shutil.rmtree(kept, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    start(args)
    results = [json.loads((args.out / f"result-{i}.json").read_text()) for i in range(PROCESSES)]
    alone = jax.make_mesh((1,), ("data",), devices=jax.devices("cpu")[:1])
    with jax.default_device(jax.devices("cpu")[0]):
        loss, _, state = train(alone, args.steps)
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    for i, result in enumerate(results):
        print(f"process {i}:  loss {result['loss']:.6f}, {result['bytes']:,} bytes of state a device")
    print(f"one device: loss {float(loss):.6f}, {whole:,} bytes")
    print(f"parameters and state in both processes: {' and '.join(r['digest'] for r in results)}")
    if len({r["digest"] for r in results}) > 1 or not (
        abs(results[0]["loss"] - float(loss)) <= 1e-4 * float(loss)
    ):  # so that what is no number differs too
        raise SystemExit("THE PROCESSES OR THE LOSSES DIFFER")


if __name__ == "__main__":
    main()
