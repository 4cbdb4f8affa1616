"""The 31 parameters that shall flip a diagonal: momentum at 0.05 against Adam at 0.001, thirty epochs, many seeds.

    python examples/diagonal_flip.py        # examples/out/diagonal_flip.png

A 4-3-4 network of sigmoids is shown a picture of 4 x 4 pixels row by row, one row a step. Only the diagonal is lit, and
the network shall answer with the row of the flipped picture: first row 1000 -> 0001, and so on. Four rows through three
hidden units: it has to invent a code.

This duel is told with losses that nobody measured. Measured, both lose: at these rates thirty epochs, 120 steps, are
too few for either. So it is held a second time at rates found for it, and all runs are watched for longer.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

try:
    from matplotlib.figure import Figure  # by itself, without pyplot, it needs no screen
except ImportError:
    Figure = None  # the figures on the terminal need no picture

OUT = Path(__file__).parent / "out"
ROWS = jnp.eye(4)
FLIPPED = ROWS[:, ::-1]
# A pixel is lit one time in four. Who has learnt this and nothing else answers 0.25 for ever, and errs by 3/16.
KNOWS_NOTHING = 0.1875

# The recipe and its two rates: the one of the tale and one found for this task. Okabe and Ito's colours.
DUELLISTS = {
    "momentum 0.9": (functools.partial(gx.sgd, momentum=0.9), (0.05, 1.0), "#0072B2"),
    "adam": (gx.adam, (0.001, 0.2), "#D55E00"),
}


def init(key):
    """4 x 3 + 3 and 3 x 4 + 4: thirty-one small numbers."""
    shapes = {"hidden": (4, 3), "hidden_bias": (3,), "output": (3, 4), "output_bias": (4,)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.uniform(k, shape, minval=-0.5, maxval=0.5)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def answer(params, x):
    hidden = jax.nn.sigmoid(x @ params["hidden"] + params["hidden_bias"])
    return jax.nn.sigmoid(hidden @ params["output"] + params["output_bias"])


def loss(params, x, y):
    """Half the sum of squares, as was usual. SGD's rate depends on that factor, Adam's does not."""
    return 0.5 * jnp.sum((answer(params, x) - y) ** 2)


def train(rate, key, recipe, epochs):
    """One run: a pixel's mean squared error and the number of rows right, untrained and after each epoch.

    The rate may be traced, so a `vmap` runs all rates and seeds of a recipe at once, compiled once.
    """
    tx = recipe(rate)
    init_key, order_key = jax.random.split(key)
    params = init(init_key)

    def step(carry, row):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, ROWS[row], FLIPPED[row]), state, params)
        return (gx.apply_updates(params, updates), state), None

    def examine(params):
        given = answer(params, ROWS)
        right = jnp.all((given > 0.5) == (FLIPPED > 0.5), axis=1)
        return jnp.mean((given - FLIPPED) ** 2), jnp.sum(right)

    def epoch(carry, order):
        carry, _ = jax.lax.scan(step, carry, order)
        return carry, examine(carry[0])

    orders = jax.random.permutation(order_key, jnp.tile(jnp.arange(4), (epochs, 1)), axis=1, independent=True)
    _, curves = jax.lax.scan(epoch, (params, tx.init(params)), orders)
    return jax.tree.map(lambda first, rest: jnp.append(first, rest), examine(params), curves)


def report(epochs, runs):
    """`runs`: (name, rate) -> (errors, rows right), each an array of (seeds, 1 + epochs)."""
    print(f"\nafter {epochs} epochs, {4 * epochs} steps")
    print(f"{'':<26}{'squared error of a pixel':>32}{'rows right, of 4':>22}{'runs with all four':>22}")
    for (name, rate), (errors, right) in runs.items():
        right = right[:, epochs]
        low, middle, high = np.quantile(errors[:, epochs], (0, 0.5, 1))
        print(
            f"{f'{name}, rate {rate:g}':<26}{f'{middle:.4f} ({low:.4f} to {high:.4f})':>32}{right.mean():>22.2f}"
            f"{f'{np.sum(right == 4)} of {len(right)}':>22}"
        )


def draw(runs, epochs, path):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, rate), (errors, _) in runs.items():
        _, rates, colour = DUELLISTS[name]
        line = "-" if rate == rates[-1] else "--"
        low, middle, high = np.quantile(errors[:, : epochs + 1], (0, 0.5, 1), axis=0)
        axes.plot(middle, line, color=colour, label=f"{name}, rate {rate:g}")
        axes.fill_between(np.arange(epochs + 1), low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(KNOWS_NOTHING, color="0.4", linewidth=0.8, label="the same answer to every row")
    axes.set(xlabel="epoch", ylabel="squared error of a pixel", xlim=(0, epochs), ylim=(0, None))
    axes.set_title(f"line: median of {len(errors)} seeds; band: lowest to highest", fontsize=9)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--long", type=int, default=3000, help="how long to watch; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each; default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the plot; default: examples/out")
    args = parser.parse_args()

    keys = jax.random.split(jax.random.key(0), args.seeds)
    runs = {}
    for name, (recipe, rates, _) in DUELLISTS.items():
        run = functools.partial(train, recipe=recipe, epochs=args.long)
        run = jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None))
        errors, right = jax.device_get(jax.jit(run)(jnp.asarray(rates), keys))
        runs |= {(name, rate): pair for rate, *pair in zip(rates, errors, right, strict=True)}
    size = sum(leaf.size for leaf in jax.tree.leaves(init(keys[0])))
    print(
        f"{size} parameters, {args.seeds} seeds: median (lowest to highest). Untrained, a network errs by 0.26;"
    )
    print(f"who answers every row alike, by {KNOWS_NOTHING} at best.")
    for epochs in (args.epochs, args.long):
        report(epochs, runs)
    print(
        "\nAdam moves a weight by about its rate a step: 120 steps of 0.001 are 0.12, and the weights of a trained"
    )
    print("network are 2 to 7. The duel at 0.05 and 0.001 compares two rates, not two optimizers.")
    if Figure is None:
        print("no picture: pip install 'gradxform[plot]'")
        return
    draw(runs, args.epochs, args.out / "diagonal_flip.png")
    print(f"\n{args.out / 'diagonal_flip.png'}")


if __name__ == "__main__":
    main()
