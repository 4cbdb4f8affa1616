"""Does a second moment in 8 bits forget? Half of the coordinates go quiet, and we look at what stays stored of them.

    python examples/forgetting.py                    # examples/out/forgetting.png
    python examples/forgetting.py --b2 0.95          # an average so short that nobody stalls
    python examples/forgetting.py --constants 1      # a quick look

All gradients have been of size 1 and every second moment v is 1. Now every other gradient is of size 0.1. Its v should
fall to 0.01, by the factor b2 a step. At b2 = 0.999 that is a thousandth of v: less than half the distance of two codes
of any 8-bit map. Rounded to nearest, v goes back to the code from which it came and stays; it sinks with the scale of
its block, and no further. Rounded up or down by a threshold that differs from step to step, it does not stay. Adam
divides by the root of v: a coordinate whose v is too large makes steps that are too small.

What is drawn and printed is the ratio to the float32 average of the same gradients, by time constants 1 / (1 - b2).
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

try:
    from matplotlib.figure import Figure  # by itself, without pyplot, it needs no screen
except ImportError:
    Figure = None  # the figures on the terminal need no picture

OUT = Path(__file__).parent / "out"
SHAPE = (32, 256)  # loud and quiet coordinates take turns, so that every block of codes has half of each
# Okabe and Ito's colours, told apart by colour-blind readers; the line styles serve a black-and-white print.
STYLES = {
    "float32": ("black", "-"),
    "gradxform, 8 bits": ("#0072B2", "--"),
    "gradxform, 4 bits": ("#009E73", "-."),
    "bitsandbytes' rule, 8 bits": ("#D55E00", ":"),
}


def stores(adam):
    quantized = gx.lowbit.quantized
    transforms = adam, quantized(adam), quantized(adam, 4), quantized(adam, like="bitsandbytes")
    return dict(zip(STYLES, transforms, strict=True))


@functools.partial(jax.jit, static_argnames=("tx", "points", "every"))
def watch(tx, key, points, every):
    """v as it is stored, and the updates, each `every` steps: arrays of (points, *SHAPE)."""
    size = jnp.where(jnp.arange(SHAPE[1]) % 2, 0.1, 1.0)

    def step(carry, number):
        state, _ = carry
        gradient = size * jax.random.normal(jax.random.fold_in(key, number), SHAPE)
        update, state = tx.update(gradient, state)
        return (state, update), None

    def point(carry, number):
        carry, _ = jax.lax.scan(step, carry, number * every + jnp.arange(every))
        state, update = carry
        return carry, (gx.lowbit.dequantized(state).nu, update)

    # The state as it is after a long time of gradients of size 1; with this count the bias corrections are 1.
    zeros = jnp.zeros(SHAPE)
    before = optax.ScaleByAdamState(jnp.int32(1_000_000), zeros, jnp.ones(SHAPE))
    start = gx.lowbit.requantized(before, tx.init(zeros))
    return jax.lax.scan(point, (start, zeros), jnp.arange(points))[1]


def ratios(moments, updates, true_moments, true_updates):
    """Stored over true v of the quiet half and of the loud one; the length of the quiet half's steps over float32's."""
    stored = np.asarray(moments) / np.asarray(true_moments)
    quiet, loud = stored[..., 1::2], stored[..., ::2]
    low, median, high = np.quantile(quiet, (0.1, 0.5, 0.9), axis=(1, 2))
    lengths = [np.abs(np.asarray(u)[..., 1::2]).mean((1, 2)) for u in (updates, true_updates)]
    return {
        "mean": quiet.mean((1, 2)),
        "median": median,
        "low": low,
        "high": high,
        "loud": np.median(loud, axis=(1, 2)),
        "step": lengths[0] / lengths[1],
    }


def draw(constants, runs, b2, path):
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, run in runs.items():
        colour, line = STYLES[name]
        left.plot(constants, run["mean"], line, color=colour, label=name)
        left.fill_between(constants, run["low"], run["high"], color=colour, alpha=0.2, linewidth=0)
        right.plot(constants, run["step"], line, color=colour, label=name)
    worst = max(runs.values(), key=lambda run: run["mean"][-1])["mean"][-1]
    left.annotate(f"{worst:.1f}", (constants[-1], worst), (0, -16), textcoords="offset points", ha="center")
    lowest, highest = (f(run[x].max() for run in runs.values()) for f, x in ((min, "low"), (max, "high")))
    marks = [x for x in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if lowest / 3 <= x <= 2 * highest]
    left.set(title="what is stored", yscale="log", ylabel="stored v / true v, quiet half")
    left.set_yticks(marks, [f"{x:g}" for x in marks])
    left.minorticks_off()
    left.plot([], [], color="grey", alpha=0.3, linewidth=8, label="10 to 90 % of the numbers")
    left.legend(title="line: mean", frameon=False, loc="center right", bbox_to_anchor=(1, 0.58))
    right.set(title="what becomes of the steps", ylabel="length / length with float32, quiet half")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set(xlabel=f"time constants (of {1 / (1 - b2):,.0f} steps) since half went quiet")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--b2", type=float, default=0.999, help="Adam's; default: %(default)s")
    parser.add_argument(
        "--constants", type=int, default=8, help="time constants to run; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the plot; default: examples/out")
    args = parser.parse_args()
    if not 0 < args.b2 < 1:
        parser.error(f"--b2 {args.b2}: wanted a number between 0 and 1")
    if args.constants < 1:
        parser.error(f"--constants {args.constants}: wanted at least 1")

    constant = round(1 / (1 - args.b2))
    every = max(constant // 10, 1)
    points = args.constants * constant // every
    constants = (1 + np.arange(points)) * every / constant
    seen = {
        name: watch(tx, jax.random.key(args.seed), points, every)
        for name, tx in stores(gx.scale_by_adam(b2=args.b2)).items()
    }
    runs = {name: ratios(*arrays, *seen["float32"]) for name, arrays in seen.items()}

    print(
        f"b2 = {args.b2}, {SHAPE[0] * SHAPE[1]:,} coordinates, half of which went quiet; stored v / true v:\n"
    )
    print(
        f"{'after':>5}  {'':28}{'quiet: median':>14}{'mean':>8}{'10 to 90 %':>16}{'loud: median':>14}{'quiet step':>12}"
    )
    for constant in sorted({2**k for k in range(10) if 2**k <= args.constants} | {args.constants}):
        at = np.searchsorted(constants, constant - 1e-9)
        for name, run in runs.items():
            band = f"{run['low'][at]:.2f} to {run['high'][at]:.2f}"
            print(
                f"{constant:>5}  {name:28}{run['median'][at]:>14.2f}{run['mean'][at]:>8.2f}{band:>16}"
                f"{run['loud'][at]:>14.2f}{run['step'][at]:>12.2f}"
            )
    if Figure is None:
        print("\nno picture: pip install 'gradxform[plot]'")
        return
    path = args.out / "forgetting.png"
    draw(constants, runs, args.b2, path)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
