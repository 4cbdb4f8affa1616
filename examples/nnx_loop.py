"""A complete training loop with Flax NNX: a gradxform transform goes into `nnx.Optimizer` as it is.

    python examples/nnx_loop.py

The paths that masks and groups see are the user's (`first/kernel`): the boxes that NNX puts around arrays do not show.
"""

import argparse

import jax
import jax.numpy as jnp

import gradxform as gx

try:
    from flax import nnx
except ImportError:
    raise SystemExit("nnx_loop.py needs flax: pip install 'gradxform[examples]'") from None


class MLP(nnx.Module):
    def __init__(self, width, rngs):
        self.first = nnx.Linear(1, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.second(jnp.tanh(self.first(x)))))


@nnx.jit
def train_step(model, optimizer, x, y):
    value, gradients = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, gradients, value=value)
    return value


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()

    model = MLP(64, nnx.Rngs(args.seed))
    rate = gx.warmup_cosine(1e-2, 0.05, args.steps)
    recipe = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(rate, weight_decay=1e-4, mask="*/kernel"))
    optimizer = nnx.Optimizer(model, gx.guard(recipe, max_consecutive=10), wrt=nnx.Param)  # NaN: no step
    for step in range(args.steps):
        key = jax.random.fold_in(jax.random.key(args.seed), step)
        x = jax.random.uniform(key, (128, 1), minval=-3, maxval=3)
        value = train_step(model, optimizer, x, jnp.sin(2 * x))
        if step % max(args.steps // 5, 1) == 0 or step == args.steps - 1:
            gx.check(optimizer.opt_state)  # raises if the last steps were all skipped
            print(f"step {step:>5}  loss {value:.6f}")


if __name__ == "__main__":
    main()
