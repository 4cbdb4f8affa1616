"""Four optimizers on scikit-learn's handwritten digits, five seeds each: mean, spread, and a plot with bands.

    python examples/digits.py                 # examples/out/digits.png
    python examples/digits.py --bits 8        # with the optimizers' states in 8 bits, or in 4
    python examples/digits.py --epochs 2      # a quick look

One seed says little: it moves the accuracy by as much as the choice of the optimizer. So a whole training is one
function of a key, and `jax.vmap` runs it for all seeds at once, optimizer state included.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

try:
    from matplotlib.figure import Figure  # by itself, without pyplot, it needs no screen
    from sklearn.datasets import load_digits
except ImportError as missing:
    raise SystemExit(f"digits.py needs {missing.name}: pip install 'gradxform[examples]'") from None

OUT = Path(__file__).parent / "out"
HIDDEN = 64
# Okabe and Ito's colours, told apart by colour-blind readers; the line styles serve a black-and-white print.
STYLES = [("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":")]


def optimizers(total_steps):
    """Each at the best of the rates 1, 2, 5 x 10^k, found on other seeds and a held-out part of the training digits."""

    def rate(peak_value):
        return gx.warmup_cosine(peak_value, 0.05, total_steps)

    return {
        "sgd, momentum 0.9": gx.sgd(rate(0.2), momentum=0.9),
        "adam": gx.adam(rate(0.02)),
        "adamw": gx.adamw(rate(0.05), weight_decay=0.1, mask=gx.matrices()),
        "lion": gx.lion(rate(0.005), weight_decay=0.1, mask=gx.matrices()),
    }


def digits():
    """1,797 images of 8 x 8 pixels, every fourth one held out: (train images, labels), (test images, labels)."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images, jnp.float32) / 16, jnp.asarray(labels)
    test = np.arange(len(labels)) % 4 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])


def init(key):
    keys = jax.random.split(key, 3)
    sizes = (64, HIDDEN, HIDDEN, 10)
    return [
        {"kernel": jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, "bias": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def loss(params, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], axis=1))


def train(key, tx, train_set, test_set, epochs, batch):
    """One run: the training loss and the test accuracy after every epoch, and the last state of the optimizer."""
    x, y = train_set
    init_key, order_key = jax.random.split(key)
    params = init(init_key)

    def step(carry, rows):
        params, state = carry
        gradients = jax.grad(loss)(params, x[rows], y[rows])
        updates, state = tx.update(gradients, state, params)
        return (gx.apply_updates(params, updates), state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, len(y))
        carry, _ = jax.lax.scan(step, carry, order[: len(y) // batch * batch].reshape(-1, batch))
        accuracy = jnp.mean(logits(carry[0], test_set[0]).argmax(-1) == test_set[1])
        return carry, (loss(carry[0], x, y), accuracy)

    (_, state), curves = jax.lax.scan(epoch, (params, tx.init(params)), jax.random.split(order_key, epochs))
    return curves, state


def draw(curves, path):
    """`curves`: name -> (training loss, test accuracy), each an array of (seeds, epochs)."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, (losses, accuracies)), (colour, line) in zip(curves.items(), STYLES, strict=True):
        epochs = np.arange(1, losses.shape[1] + 1)
        for axes, values in ((left, losses), (right, 100 * (1 - accuracies))):
            axes.plot(epochs, values.mean(0), line, color=colour, label=name)
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    left.set(xlabel="epoch", ylabel="training loss (nats)", yscale="log", title="Training")
    right.set(xlabel="epoch", ylabel="test error (%)", ylim=(0, 10), title="Held out")
    right.legend(title=f"mean of {losses.shape[0]} seeds; band: lowest to highest", frameon=False)
    for axes in (left, right):
        axes.set_xlim(left=1)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="digits a step; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each optimizer; default: %(default)s")
    parser.add_argument(
        "--bits", type=int, choices=(4, 8, 16, 32), help="of the optimizers' moments; default: float32"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the plot; default: examples/out")
    args = parser.parse_args()

    train_set, test_set = digits()
    keys = jax.vmap(jax.random.key)(jnp.arange(args.seeds))
    total_steps = args.epochs * (len(train_set[1]) // args.batch)
    print(f"{len(train_set[1])} digits to learn from, {len(test_set[1])} for the test; {args.seeds} seeds\n")
    print(
        f"{'':<20}{'test accuracy, %':>17}{'std. dev.':>11}{'range':>15}{'training loss':>15}{'seconds':>9}"
    )
    curves = {}
    for name, tx in optimizers(total_steps).items():
        start = time.perf_counter()
        stored = gx.lowbit.quantized(tx, args.bits) if args.bits else tx
        run = functools.partial(
            train,
            tx=gx.guard(stored, max_consecutive=10),
            train_set=train_set,
            test_set=test_set,
            epochs=args.epochs,
            batch=args.batch,
        )
        curve, state = jax.jit(jax.vmap(run))(keys)
        gx.check(state)  # raises if the last steps of one of the seeds were skipped
        losses, accuracies = map(np.asarray, curve)
        curves[name] = losses, accuracies
        last = 100 * accuracies[:, -1]
        print(
            f"{name:<20}{last.mean():>17.2f}{f'{last.std(ddof=1):.2f}' if len(last) > 1 else '-':>11}"
            f"{f'{last.min():.2f} to {last.max():.2f}':>15}"
            f"{losses[:, -1].mean():>15.5f}{time.perf_counter() - start:>9.1f}"
        )
    draw(curves, args.out / "digits.png")
    print(f"\n{args.out / 'digits.png'}")


if __name__ == "__main__":
    main()
