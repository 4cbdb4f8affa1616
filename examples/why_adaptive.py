"""A rate for every coordinate: what it buys in a ravine, what it does not, and what AdaGrad pays for it.

    python examples/why_adaptive.py        # examples/out/why_adaptive.png

The ravine is a quadratic bowl a hundred times steeper across than along. Every method runs 100 steps at the best of
the same 25 rates, once with the ravine along an axis and once with it turned by 45 degrees, where no coordinate is the
steep one and a rate for each is of no use: AdaGrad falls from first to last. SGD and its momentum do not know the axes.
What Adam gains in the turned ravine it owes to its momentum: with b1 = 0 it is hardly better than SGD there.
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
STEEP = 100.0
ANGLES = {"along an axis": 0.0, "turned by 45 degrees": np.pi / 4}
RATES = jnp.geomspace(1e-3, 10.0, 25)

# Okabe and Ito's colours, told apart by colour-blind readers; the line styles serve a black-and-white print.
RACERS = {
    "sgd": (gx.sgd, "#000000", "-"),
    "momentum 0.9": (functools.partial(gx.sgd, momentum=0.9), "#56B4E9", "--"),
    "nesterov 0.9": (functools.partial(gx.sgd, momentum=0.9, nesterov=True), "#0072B2", "-."),
    "adagrad": (functools.partial(gx.adagrad, like="paper"), "#009E73", "-"),
    "rmsprop": (gx.rmsprop, "#CC79A7", "--"),
    "adam, b1 = 0": (functools.partial(gx.adam, b1=0.0), "#E69F00", ":"),
    "adam": (gx.adam, "#D55E00", "-"),
}


def ravine(angle):
    """f(w) for a ravine whose floor runs at this angle to the first axis. Its lowest point is 0."""
    along, across = jnp.array([jnp.cos(angle), jnp.sin(angle)]), jnp.array([-jnp.sin(angle), jnp.cos(angle)])

    def f(w):
        return 0.5 * (jnp.dot(along, w) ** 2 + STEEP * jnp.dot(across, w) ** 2)

    return f, -10.0 * along + across  # and a start, far back and a little up the slope


def descend(rate, recipe, angle, steps):
    """f after every step. The rate may be traced, so that a `vmap` tries all of them at once."""
    f, start = ravine(angle)
    tx = recipe(rate)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(f)(w), state, w)
        w = gx.apply_updates(w, updates)
        return (w, state), f(w)

    _, values = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return jnp.append(f(start), values)


def best(recipe, angle, steps):
    """(rate, f after every step) for the rate that ends lowest."""
    run = functools.partial(descend, recipe=recipe, angle=angle, steps=steps)
    values = np.asarray(jax.jit(jax.vmap(run))(RATES))
    i = int(np.nanargmin(values[:, -1]))
    return float(RATES[i]), values[i]


def effective_rates(times, gradient=10.0):
    """AdaGrad's step over the gradient, for a learning rate of 1 and the same gradient at every step."""
    tx = gx.adagrad(1.0, like="paper")  # sums squares from 0, as the paper does

    def step(state, _):
        updates, state = tx.update(jnp.asarray(gradient), state)
        return state, -updates / gradient

    _, rates = jax.lax.scan(step, tx.init(jnp.zeros(())), length=max(times))
    return [float(rates[t - 1]) for t in times]


def draw(results, path):
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title in zip(panels, ANGLES, strict=True):
        for name, (_, colour, line) in RACERS.items():
            rate, values = results[name, title]
            axes.plot(values, line, color=colour, label=f"{name}, rate {rate:.2g}")
        axes.set(title=f"ravine {title}", xlabel="step", yscale="log", ylim=(1e-6, 1e6))
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("f")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the plot; default: examples/out")
    args = parser.parse_args()

    results = {
        (name, title): best(recipe, angle, args.steps)
        for name, (recipe, _, _) in RACERS.items()
        for title, angle in ANGLES.items()
    }
    print(f"f after {args.steps} steps in a ravine, from 100, and the rate that brought it there")
    print(f"{'':<14}" + "".join(f"{title:>26}" for title in ANGLES))
    for name in RACERS:
        cells = (results[name, title] for title in ANGLES)
        print(f"{name:<14}" + "".join(f"{f'{values[-1]:.1e} at {rate:.2g}':>26}" for rate, values in cells))

    times = (100, 1_000, 10_000, 100_000)
    print(
        "\nwhat AdaGrad pays: its sum of squares only grows. With a gradient of 10 at every step a rate of 1 is"
    )
    print(f"{'after steps':>12}{'in effect':>12}{'1 / (10 sqrt(t))':>20}")
    for t, rate in zip(times, effective_rates(times), strict=True):
        print(f"{t:>12,}{rate:>12.6f}{1 / (10 * t**0.5):>20.6f}")
    print("RMSprop and Adam average the squares instead: with the same gradients their rate stays at 0.1.")
    if Figure is None:
        print("no picture: pip install 'gradxform[plot]'")
        return
    draw(results, args.out / "why_adaptive.png")
    print(f"\n{args.out / 'why_adaptive.png'}")


if __name__ == "__main__":
    main()
