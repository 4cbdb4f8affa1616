"""A complete training loop with Equinox: a module is the parameters, and what is not an array becomes a `None` leaf.

    python examples/equinox_loop.py

`eqx.filter` leaves `None` in the place of activation functions and sizes; gradxform carries such leaves without state
and without work. The transform is a static pytree node, so it goes into `eqx.filter_jit` as any other argument, and an
equal one, rebuilt, does not compile again.
"""

import argparse

import jax
import jax.numpy as jnp

import gradxform as gx

try:
    import equinox as eqx
except ImportError:
    raise SystemExit("equinox_loop.py needs equinox: pip install 'gradxform[examples]'") from None


def loss(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


@eqx.filter_jit
def train_step(model, state, tx, x, y):
    value, gradients = eqx.filter_value_and_grad(loss)(model, x, y)
    updates, state = tx.update(gradients, state, eqx.filter(model, eqx.is_inexact_array), value=value)
    return eqx.apply_updates(model, updates), state, value


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()

    model_key, data_key = jax.random.split(jax.random.key(args.seed))
    model = eqx.nn.MLP("scalar", "scalar", width_size=64, depth=2, activation=jnp.tanh, key=model_key)
    rate = gx.warmup_cosine(1e-2, 0.05, args.steps)
    recipe = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(rate, weight_decay=1e-4, mask=gx.matrices()))
    tx = gx.guard(recipe, max_consecutive=10)  # a step with a NaN in it is none
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    for step in range(args.steps):
        x = jax.random.uniform(jax.random.fold_in(data_key, step), (128,), minval=-3, maxval=3)
        model, state, value = train_step(model, state, tx, x, jnp.sin(2 * x))
        if step % max(args.steps // 5, 1) == 0 or step == args.steps - 1:
            gx.check(state)  # raises if the last steps were all skipped
            print(f"step {step:>5}  loss {value:.6f}")


if __name__ == "__main__":
    main()
