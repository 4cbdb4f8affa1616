"""Sixteen learning rates in one compiled step: the rate is a number in the state, and `jax.vmap` runs all of them.

    python examples/sweep.py                 # examples/out/sweep.png
    python examples/sweep.py --steps 50      # a quick look

`gx.tunable` moves the rate into the state, so sixteen states are sixteen runs of one program, compiled once. Built with
sixteen numbers, the step would be sixteen programs. The guard is mapped too: where a rate is too high for a run and its
loss is no number any more, that run skips, and the others go on.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

try:
    from matplotlib.figure import Figure
except ImportError:
    Figure = None

OUT = Path(__file__).parent / "out"
WIDTH, ROWS = 32, 256
# At which share of the run; Okabe and Ito's colours, and markers for a black-and-white print.
STYLES = [(0.1, "#0072B2", "o"), (0.3, "#D55E00", "s"), (1.0, "#009E73", "D")]


def init(key):
    """A network of one hidden layer, from two numbers to one."""
    first, last = jax.random.split(key)
    return {
        "first": {"kernel": jax.random.normal(first, (2, WIDTH)), "bias": jnp.zeros(WIDTH)},
        "last": {"kernel": jax.random.normal(last, (WIDTH, 1)) / WIDTH**0.5, "bias": jnp.zeros(1)},
    }


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return jnp.mean((hidden @ params["last"]["kernel"] + params["last"]["bias"] - y) ** 2)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--lowest", type=float, default=1e-4, help="the first rate; default: %(default)s")
    parser.add_argument("--highest", type=float, default=1.0, help="the last rate; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the plot; default: examples/out")
    args = parser.parse_args()

    params_key, data_key = jax.random.split(jax.random.key(args.seed))
    params = init(params_key)
    x = jax.random.uniform(data_key, (ROWS, 2), minval=-2, maxval=2)
    y = jnp.sin(2 * x[:, :1]) * x[:, 1:]

    tx = gx.guard(gx.tunable(gx.adamw(1e-3), "learning_rate"))
    rates = jnp.geomspace(args.lowest, args.highest, 16)
    start = tx.init(params)
    states = jax.vmap(lambda rate: gx.set_hyperparams(start, learning_rate=rate))(rates)
    runs = jax.tree.map(lambda p: jnp.broadcast_to(p, (16, *p.shape)), params)

    @jax.jit
    @jax.vmap
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(gradients, state, params, value=value)
        return gx.apply_updates(params, updates), state, value

    began = time.perf_counter()
    curves = []
    for _ in range(args.steps):
        runs, states, values = step(runs, states)
        curves.append(values)
    curves, skipped = np.asarray(curves), np.asarray(states.skipped)
    seconds = time.perf_counter() - began
    gx.check(states)  # raises if a run has skipped more steps in a row than it may

    print("learning rate   loss after  lowest loss  steps skipped")
    for rate, curve, skips in zip(np.asarray(rates), curves.T, skipped, strict=True):
        print(f"{rate:>13.4g}{curve[-1]:>13.4g}{curve.min():>13.4g}{skips:>15}")
    best = int(np.argmin(np.where(np.isfinite(curves[-1]), curves[-1], np.inf)))
    print(f"\nbest: {rates[best]:.4g}, with a loss of {curves[-1, best]:.4g} after {args.steps} steps")
    print(f"16 runs of {args.steps} steps in {seconds:.1f} s, compiled {step._cache_size()} time")
    if Figure is None:
        print("no plot: matplotlib is not installed")
        return
    draw(np.asarray(rates), curves, args.out / "sweep.png")
    print(args.out / "sweep.png")


def draw(rates, curves, path):
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for share, colour, marker in STYLES:
        after = max(1, int(share * len(curves)))
        axes.plot(rates, curves[after - 1], color=colour, marker=marker, label=f"after {after} steps")
    axes.set(xlabel="learning rate", ylabel="loss (mean squared error)", xscale="log", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
