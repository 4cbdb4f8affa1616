"""A network that knows the digits is asked another question: body frozen, without optimizer state, new head averaged.

    python examples/finetune_frozen.py

`gx.param_groups` gives each part of the tree its transform; None freezes, and nothing is kept for what is frozen. The
average stands inside of the head's group, so that there is no second copy of the body either; `gx.eval_params` takes
the frozen leaves from the parameters.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

try:
    from sklearn.datasets import load_digits
except ImportError:
    raise SystemExit("finetune_frozen.py needs scikit-learn: pip install 'gradxform[examples]'") from None


def digits():
    """1,797 images of 8 x 8 pixels, every fourth one held out: (train images, labels), (test images, labels)."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images, jnp.float32) / 16, jnp.asarray(labels)
    test = np.arange(len(labels)) % 4 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])


def layer(key, inputs, outputs):
    return {
        "kernel": jax.random.normal(key, (inputs, outputs)) * (2 / inputs) ** 0.5,
        "bias": jnp.zeros(outputs),
    }


def init(key):
    first, second, head = jax.random.split(key, 3)
    return {"body": [layer(first, 64, 128), layer(second, 128, 64)], "head": layer(head, 64, 10)}


def logits(params, x):
    for block in params["body"]:
        x = jax.nn.relu(x @ block["kernel"] + block["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def loss(params, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], axis=1))


def train(tx, params, data, steps, batch, key):
    """Parameters and optimizer state after so many steps, on images drawn at random."""
    x, y = data

    @jax.jit
    def step(params, state, key):
        rows = jax.random.randint(key, (batch,), 0, len(y))
        updates, state = tx.update(jax.grad(loss)(params, x[rows], y[rows]), state, params)
        return gx.apply_updates(params, updates), state

    state = tx.init(params)
    for i in range(steps):
        params, state = step(params, state, jax.random.fold_in(key, i))
    gx.check(state)  # raises if the guard has skipped too many steps in a row
    return params, state


def accuracy(params, data):
    return float(jnp.mean(logits(params, data[0]).argmax(-1) == data[1]))


def size(tree):
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400, help="of each training; default: %(default)s")
    parser.add_argument("--few", type=int, default=30, help="images with a new label; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()

    first_key, second_key, head_key, data_key = jax.random.split(jax.random.key(args.seed), 4)
    (x, y), (test_x, test_y) = digits()
    trained, _ = train(gx.guard(gx.adamw(3e-3)), init(first_key), (x, y), args.steps, 64, data_key)
    print(f"which digit, {len(y)} images: {100 * accuracy(trained, (test_x, test_y)):.1f} % of the test\n")

    few, test = (x[: args.few], y[: args.few] % 2), (test_x, test_y % 2)
    start = {"body": trained["body"], "head": layer(head_key, 64, 2)}
    scratch = {"body": init(second_key)["body"], "head": start["head"]}
    averaged = gx.average_params(gx.adamw(1e-2), 0.98)
    frozen = gx.guard(gx.param_groups({"body/*": None, "head/*": averaged}))
    everything = gx.guard(gx.param_groups({"*": averaged}))
    print(gx.describe(frozen, start), "\n")

    runs = {
        "body frozen, new head": (frozen, start),
        "all of it, new head": (everything, start),
        "all of it, from scratch": (everything, scratch),
    }
    print(f"odd or even, {args.few} images; % of the {len(test_y)} test images")
    print(f"{'':<26}{'average':>9}{'last step':>11}{'state, bytes':>14}")
    for name, (tx, params) in runs.items():
        params, state = train(tx, params, few, args.steps, 32, data_key)
        best = gx.eval_params(state, params)
        print(
            f"{name:<26}{100 * accuracy(best, test):>9.1f}{100 * accuracy(params, test):>11.1f}{size(state):>14,}"
        )
        if tx is frozen:
            bodies = zip(*map(jax.tree.leaves, (start["body"], params["body"], best["body"])), strict=True)
            still = all(bool(jnp.all((a == b) & (a == c))) for a, b, c in bodies)
    print("\nthe frozen body", "is what it was, bit for bit" if still else "HAS MOVED")


if __name__ == "__main__":
    main()
