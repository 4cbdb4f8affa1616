"""Hundreds of small arrays: the same run over a tree and in buckets, with the same losses and half of the loops.

    python examples/train_buckets.py
    python examples/train_buckets.py --layers 20 --steps 50     # a quick look

A deep and narrow network: 60 residual layers of 16 units, 240 arrays of at most 256 numbers. What a step of AdamW does
to them is nothing; starting its loops and compiling them is all there is.
"""

import argparse
import time

import jax
import jax.numpy as jnp

import gradxform as gx

WIDTH = 16


def init(layers: int):
    keys = jax.random.split(jax.random.key(0), layers)
    return {
        f"layer_{i}": {
            "kernel": jax.random.normal(key, (WIDTH, WIDTH)) * (0.5 / WIDTH) ** 0.5,
            "bias": jnp.zeros(WIDTH),
            "gain": jnp.full(WIDTH, 1 / layers, jnp.float32),
            "shift": jnp.zeros(WIDTH),
        }
        for i, key in enumerate(keys)
    }


def loss(tree, x):
    """The mean of the inputs is to be found in the first unit."""
    y = x
    for layer in tree.values():
        y = y + layer["gain"] * jnp.tanh(y @ layer["kernel"] + layer["bias"]) + layer["shift"]
    return jnp.mean((y[:, 0] - jnp.mean(x, axis=1)) ** 2)


def train(tx, params, read, steps: int):
    """The losses, the seconds that compiling took, the milliseconds of a step, and its loops."""

    def step(params, state, key):
        x = jax.random.normal(key, (64, WIDTH))
        value, grads = jax.value_and_grad(lambda params: loss(read(params), x))(params)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, value

    state, keys = tx.init(params), jax.random.split(jax.random.key(1), steps)
    begin = time.perf_counter()
    # Arguments in the order of the results, so that each gets its own buffer back.
    run = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, keys[0]).compile()
    seconds = time.perf_counter() - begin
    losses = []
    begin = time.perf_counter()
    for key in keys:
        params, state, value = run(params, state, key)
        losses.append(value)
    jax.block_until_ready(params)
    each = 1e3 * (time.perf_counter() - begin) / steps
    return [float(value) for value in losses], seconds, each, run.as_text().count(" fusion(")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    rate = gx.warmup_cosine(3e-3, 20, max(given.steps, 21))
    plain = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(rate, mask=gx.matrices()))
    tx = gx.fused.bucketed(plain)
    buckets = gx.fused.pack(init(given.layers), tx)
    print(f"{4 * given.layers} arrays in {len(buckets.paths)} buckets")
    found = {
        "tree": train(plain, init(given.layers), lambda params: params, given.steps),
        "buckets": train(tx, buckets, lambda params: params.unpack(), given.steps),
    }
    for name, (losses, seconds, each, loops) in found.items():
        print(f"{name:8s} loss {losses[0]:.4f} to {losses[-1]:.4f}, {loops} loops")
        print(f"         {each:.2f} ms a step, compiled in {seconds:.1f} s")
    apart = max(abs(a - b) / abs(a) for a, b in zip(found["tree"][0], found["buckets"][0], strict=True))
    print(f"the losses are never further apart than {apart:.0e} of them")


if __name__ == "__main__":
    main()
