"""Start with AdamW, finish with SGD: the optimizer of a running job is changed, and what can be carried over is.

    python examples/polish.py
    python examples/polish.py --epochs 8 --polish 4 --seeds 1     # a quick look

`gx.restore_into` makes the state of the second optimizer out of that of the first. The guard's statistics and the
average of the parameters go on. AdamW's `mu` is an average of gradients, SGD's `trace` a sum of them, so the momentum
starts anew, and the report says so; the schedule starts anew because it is asked to.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

try:
    from sklearn.datasets import load_digits
except ImportError:
    raise SystemExit("polish.py needs scikit-learn: pip install 'gradxform[examples]'") from None

BATCH = 64
# On other seeds and a held-out part of the training digits, no rate from 0.005 to 0.02 and from 0.02 to 0.2 was better
# than these by more than the spread.
ADAMW, SGD = 0.01, 0.1


def digits():
    """1,797 images of 8 x 8 pixels, every fourth one held out: (train images, labels), (test images, labels)."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images, jnp.float32) / 16, jnp.asarray(labels)
    test = np.arange(len(labels)) % 4 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])


def init(key):
    keys = jax.random.split(key, 2)
    return [
        {"kernel": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, (64, 64), (64, 10), strict=True)
    ]


def logits(params, x):
    x = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"])
    return x @ params[1]["kernel"] + params[1]["bias"]


def loss(params, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], axis=1))


def around(recipe):
    """What every phase has around its optimizer: a guard, and an average over about ten epochs."""
    return gx.guard(gx.average_params(recipe, 0.995), spike=8.0)


def runner(tx, data):
    """A function that trains for some epochs from parameters and a state."""
    x, y = data

    def step(carry, rows):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, x[rows], y[rows]), state, params)
        return (gx.apply_updates(params, updates), state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, len(y))
        return jax.lax.scan(step, carry, order[: len(y) // BATCH * BATCH].reshape(-1, BATCH))

    def run(params, state, keys):
        (params, state), _ = jax.lax.scan(epoch, (params, state), keys)
        return params, state

    return jax.jit(run)


def measured(params, train_set, test_set):
    """Loss on the training images (nats), error on the others (%)."""
    wrong = jnp.mean(logits(params, test_set[0]).argmax(-1) != test_set[1])
    return float(loss(params, *train_set)), 100 * float(wrong)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="with AdamW; default: %(default)s")
    parser.add_argument("--polish", type=int, default=10, help="epochs of the finish; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    args = parser.parse_args()

    train_set, test_set = digits()
    steps = args.polish * (len(train_set[1]) // BATCH)
    start = time.perf_counter()
    first = around(gx.adamw(ADAMW, weight_decay=0.1, mask=gx.matrices()))
    finishes = {
        "adamw, the same rate": (first, None),
        "adamw, rate falls to 0": (
            around(gx.adamw(gx.linear_schedule(ADAMW, 0.0, steps), weight_decay=0.1, mask=gx.matrices())),
            "rate/*",
        ),
        "sgd, rate falls to 0": (around(gx.sgd(gx.linear_schedule(SGD, 0.0, steps), momentum=0.9)), "rate/*"),
    }
    runs = {name: runner(tx, train_set) for name, (tx, _) in finishes.items()}
    before, found = [], {name: [] for name in finishes}
    for seed in range(args.seeds):
        init_key, order_key = jax.random.split(jax.random.key(seed))
        keys = jax.random.split(order_key, args.epochs + args.polish)
        params = init(init_key)
        params, state = runs["adamw, the same rate"](params, first.init(params), keys[: args.epochs])
        gx.check(state)
        before.append(
            (
                *measured(params, train_set, test_set),
                *measured(gx.eval_params(state, params), train_set, test_set),
            )
        )
        for name, (tx, fresh) in finishes.items():
            restored, report = gx.restore_into(tx, params, state, fresh=fresh)
            if seed == 0 and name.startswith("sgd"):
                print(f"AdamW's state into SGD: {report}\n")
            last, after = runs[name](params, restored, keys[args.epochs :])
            gx.check(after)
            average = gx.eval_params(after, last)
            found[name].append(
                (*measured(last, train_set, test_set), *measured(average, train_set, test_set))
            )
    print(
        f"{args.epochs} epochs of AdamW, then {args.polish} more; mean of {args.seeds} seeds and standard deviation"
    )
    print(
        f"{'':<26}{'last step':^34}{'average':^34}\n{'':<26}"
        + f"{'training loss':>16}{'test error, %':>18}" * 2
    )
    for name, rows in {"adamw, before": before, **found}.items():
        print(
            f"{name:<26}" + "".join(text(column, i % 2) for i, column in enumerate(zip(*rows, strict=True)))
        )
    print(f"\n{time.perf_counter() - start:.0f} s")


def text(values, is_error):
    """The mean of one column, with its spread."""
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return (
        f"{np.mean(values):>10.2f} ± {spread:<5.2f}"
        if is_error
        else f"{np.mean(values):>8.5f} ± {spread:<5.5f}"
    )


if __name__ == "__main__":
    main()
