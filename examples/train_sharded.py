"""The language model of train_lm.py on a mesh of 4 x 2 devices: matrices cut, ZeRO, the state in 8 bits.

    python examples/train_sharded.py                          # eight simulated devices, and one to compare
    python examples/train_sharded.py --steps 5 --layers 1     # a quick look

The mesh has the axes "data" (4) and "model" (2). The matrices of every layer are cut over "model"; each device of
"data" sees its own sequences. With `gx.sharding.zero` every device holds and renews the optimizer's state for a slice
of each leaf, and `gx.lowbit.quantized` keeps the slice in 8 bits. The same steps are made on one device first: the
losses differ by the order of sums, and by nothing else.
"""

import argparse
import time

import jax
import numpy as np
import train_lm as lm

import gradxform as gx

#: The axis of each matrix that is cut over "model": what goes in whole comes out cut, what goes in cut comes out whole.
CUT = {"attention_in": 2, "mlp_in": 2, "attention_out": 1, "mlp_out": 1}


def layouts(mesh, params):
    """Where the parameters lie: matrices cut over "model", all else on every device."""

    def one(path, x):
        axis = CUT.get(path[-1].key)
        spec = jax.P(*("model" if i == axis else None for i in range(x.ndim))) if axis else jax.P()
        return jax.NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, params)


def held(tree):
    """The bytes of a tree on the device that holds the most."""
    sizes = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            sizes[shard.device] = sizes.get(shard.device, 0) + shard.data.nbytes
    return max(sizes.values(), default=0)


def train(mesh, zero, text, steps, seed):
    """Losses, parameters, state and seconds a step on this mesh."""
    key, data_key = jax.random.split(jax.random.key(seed))
    params = jax.device_put(lm.init(key), layouts(mesh, jax.eval_shape(lm.init, key)))
    tx = gx.lowbit.quantized(lm.standard_recipe(gx.warmup_cosine(3e-3, 0.05, 10 * steps)))
    if zero:
        tx = gx.sharding.zero(tx, "data", param_shardings=jax.tree.map(lambda x: x.sharding, params))
    state = gx.sharding.init_sharded(tx, params)

    def train_step(params, state, batch):
        loss, gradients = jax.value_and_grad(lm.bits_per_byte)(params, batch)
        updates, state = tx.update(gradients, state, params)
        return gx.apply_updates(params, updates), state, loss

    step = gx.sharding.make_step(train_step, params, state)
    rows, losses = jax.NamedSharding(mesh, jax.P("data")), []
    for i in range(steps):
        starts = jax.random.randint(jax.random.fold_in(data_key, i), (lm.B,), 0, len(text) - lm.T)
        batch = np.stack([text[at : at + lm.T + 1] for at in np.asarray(starts)])
        params, state, loss = step(params, state, jax.device_put(batch, rows))
        losses.append(float(loss))
        if i == 0:
            clock = time.perf_counter()  # starts when the step is compiled
    return losses, params, state, (time.perf_counter() - clock) / max(steps - 1, 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--layers", type=int, default=lm.L, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    for name in ("steps", "layers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: wanted at least 1, got {getattr(args, name)}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)  # before anything asks for devices
    lm.L = args.layers
    text, _ = lm.read_text()
    automatic = (jax.sharding.AxisType.Auto,) * 2
    meshes = {"one device": (1, 1), "4 x 2 devices": (4, 2)}
    found = {}
    print(f"{'':15}{'loss, bits':>12}{'parameters':>14}{'mu':>12}{'nu':>12}{'s a step':>10}")
    for name, shape in meshes.items():
        devices = jax.devices()[: shape[0] * shape[1]]
        mesh = jax.make_mesh(shape, ("data", "model"), axis_types=automatic, devices=devices)
        losses, params, state, seconds = train(mesh, shape != (1, 1), text, args.steps, args.seed)
        found[name] = np.asarray(losses)
        adam = state[1]
        sizes = "".join(
            f"{held(tree):{width},}" for tree, width in ((params, 14), (adam.mu, 12), (adam.nu, 12))
        )
        print(f"{name:15}{losses[-1]:12.6f}{sizes}{seconds:10.3f}")
    one, many = found.values()
    apart = np.max(np.abs(many - one) / one)
    print("\nBytes are those of the device that holds the most.")
    print(f"In {args.steps} steps the losses are never further apart than {apart:.1e} of their size.")
    if not apart < 1e-3:
        raise SystemExit("THE LOSSES DIFFER")


if __name__ == "__main__":
    main()
