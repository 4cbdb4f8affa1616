"""Two convex problems on [-1, 1] on which Adam walks to the worst point there is, and AMSGrad to the best.

    python examples/amsgrad_counterexample.py                        # examples/out/amsgrad_counterexample.png
    python examples/amsgrad_counterexample.py --draws 20000          # a quick look

Each loss is a line, f_t(x) = c_t x; only its slope c_t changes with t. Slopes are rarely large and positive, mostly
small and negative, and positive on average, so the best point is -1. Adam divides by a root of recent squares: the rare
large slope, the one that matters, meets the largest divisor, and by the next time it is forgotten. AMSGrad divides by
the largest divisor so far, and the balance of the slopes is kept.

Reddi, Kale and Kumar, On the convergence of Adam and beyond, 2018, arXiv:1904.09237: theorem 1 and section 5.
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
STYLES = {"Adam": ("#D55E00", "-"), "AMSGrad": ("#0072B2", "--")}  # Okabe and Ito's colours
BEST = -1.0


def optimizers(step_size, b1, b2):
    """Both with the steps a / sqrt(t) of the theorems. AMSGrad is the paper's, which corrects no bias."""

    def rate(count):
        return step_size / jnp.sqrt(count + 1.0)

    return {"Adam": gx.adam(rate, b1, b2), "AMSGrad": gx.amsgrad(rate, b1, b2, like="paper")}


@functools.partial(jax.jit, static_argnames="tx")
def play(tx, slopes, start):
    """The points x_1, x_2, ..., each chosen before its slope is seen: step, then projection on [-1, 1]."""

    def turn(carry, slope):
        x, state = carry
        update, state = tx.update(slope, state, x)
        return (jnp.clip(gx.apply_updates(x, update), -1.0, 1.0), state), x

    return jax.lax.scan(turn, (start, tx.init(start)), slopes)[1]


def periodic(large, turns):
    """c_t = C where t mod 3 = 1, else -1: a period costs (C - 2) x, so for C > 2 the best point is -1."""
    return jnp.where(jnp.arange(turns) % 3 == 0, large, -1.0)


def drawn(key, turns):
    """c_t = 1010 with probability 0.01, else -10: 0.2 on average, so again the best point is -1."""
    return jnp.where(jax.random.bernoulli(key, 0.01, (turns,)), 1010.0, -10.0)


def mean_regret(slopes, points):
    """What each turn has cost more than the best point would have, on average up to each turn."""
    cost = slopes * (np.asarray(points, float) - BEST)
    return np.cumsum(cost, axis=-1) / np.arange(1, cost.shape[-1] + 1)


def spread(values, form):
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{middle:{form}}" if low == high else f"{middle:{form}} ({low:{form}} to {high:{form}})"


def report(title, runs):
    """`runs`: name -> (points, mean regret), each an array of (seeds, turns)."""
    columns = [(f"{name}: x", points, "+.3f") for name, (points, _) in runs.items()]
    columns += [(f"{name}: mean regret", regret, ".3f") for name, (_, regret) in runs.items()]
    print(title)
    print(f"{'turn':>9}" + "".join(f"{name:>27}" for name, _, _ in columns))
    turns = columns[0][1].shape[1]
    for turn in sorted({min(10**k, turns) for k in range(1, 9)}):
        print(f"{turn:>9,}" + "".join(f"{spread(a[:, turn - 1], form):>27}" for _, a, form in columns))
    print()


def draw(problems, path):
    figure = Figure(figsize=(10, 6), layout="constrained")
    columns = figure.subplots(2, 2, sharex="col").T
    for column, (title, runs) in zip(columns, problems.items(), strict=True):
        for name, arrays in runs.items():
            colour, line = STYLES[name]
            turns = np.unique(np.geomspace(1, arrays[0].shape[1], 400).astype(int))
            for axes, array in zip(column, arrays, strict=True):
                low, middle, high = np.quantile(array[:, turns - 1], (0, 0.5, 1), axis=0)
                axes.plot(turns, middle, line, color=colour, label=name)
                axes.fill_between(turns, low, high, color=colour, alpha=0.2, linewidth=0)
        column[0].set(title=title, xscale="log")
        column[1].set(xlabel="turn", ylim=(0, min(1.5, 1.1 * column[1].get_ylim()[1])))
        for axes in column:
            axes.grid(alpha=0.3)
    columns[0][0].set_ylabel("x (best: -1)")
    columns[0][1].set_ylabel("mean regret")
    columns[1][1].set_title(f"line: median of {array.shape[0]} seeds; band: lowest to highest", fontsize=9)
    columns[0][0].legend(frameon=False, loc="center right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--turns", type=int, default=3000, help="of the periodic problem; default: %(default)s"
    )
    parser.add_argument(
        "--draws", type=int, default=3_000_000, help="of the random problem; default: %(default)s"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="runs of the random problem; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the plot; default: examples/out")
    args = parser.parse_args()

    def races(slopes, start, expected, **arguments):
        runs = {}
        for name, tx in optimizers(**arguments).items():
            points = jax.vmap(lambda c, tx=tx: play(tx, c, jnp.asarray(start)))(slopes)
            runs[name] = np.asarray(points), mean_regret(expected, points)
        return runs

    slopes = periodic(3.0, args.turns)[None]
    periodic_runs = races(slopes, 1.0, np.asarray(slopes), step_size=0.5, b1=0.0, b2=1 / (1 + 3.0**2))
    report(
        "slopes 3, -1, -1; b1 = 0, b2 = 1 / (1 + C^2) = 0.1, from x = 1, where a turn costs 0.667",
        periodic_runs,
    )
    keys = jax.random.split(jax.random.key(0), args.seeds)
    slopes = jax.vmap(lambda key: drawn(key, args.draws))(keys)
    # A point is chosen before its slope is drawn, so the expected slope tells the cost with less noise.
    random_runs = races(slopes, 0.0, 0.2, step_size=1.0, b1=0.9, b2=0.99)
    report(
        "slopes 1010 (1 %) and -10; b1 = 0.9, b2 = 0.99, from x = 0; at x = 1 a turn costs 0.400\n"
        f"{args.seeds} seeds: median (lowest to highest)",
        random_runs,
    )
    if Figure is None:
        print("no picture: pip install 'gradxform[plot]'")
        return
    path = args.out / "amsgrad_counterexample.png"
    draw({"slopes 3, -1, -1": periodic_runs, "slopes 1010 (1 %) and -10": random_runs}, path)
    print(path)


if __name__ == "__main__":
    main()
