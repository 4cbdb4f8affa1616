"""Adam on f(w) = w^2, eight steps, every moment visible; and what bias correction corrects.

    python examples/adam_by_hand.py

The moments are read from the optimizer's own state, `state[0].mu` and `state[0].nu`: nothing of Adam is computed a
second time here, but for the two divisions that turn a moment m into m_hat = m / (1 - b1^t), and v likewise.
"""

import argparse

import jax
import jax.numpy as jnp

import gradxform as gx

B1, B2 = 0.9, 0.999  # Adam's defaults, named here because the table of bias corrections needs them


def loss(w):
    return w**2


def descend(tx, start, steps):
    """Yields (t, gradient, state after the step, update, new w) for t = 1, 2, ..., steps."""
    w = jnp.asarray(start)
    state = tx.init(w)
    step = jax.jit(tx.update)
    for t in range(1, steps + 1):
        gradient = jax.grad(loss)(w)
        update, state = step(gradient, state, w)
        w = gx.apply_updates(w, update)
        yield t, gradient, state, update, w


def print_trace(tx, start, steps):
    print(f"{tx!r}, from w = {start:g}, f(w) = w^2\n")
    names = ("gradient", "m", "v", "m_hat", "v_hat", "step", "w", "loss")
    print(f"{'t':>3}" + "".join(f"{name:>11}" for name in names))
    for t, gradient, state, update, w in descend(tx, start, steps):
        m, v = state[0].mu, state[0].nu  # a chain's state is a tuple, one entry a link; Adam is the first
        row = (gradient, m, v, m / (1 - B1**t), v / (1 - B2**t), update, w, loss(w))
        # Six digits for the step: its whole story is how little it differs from one learning rate.
        print(f"{t:>3}" + "".join(f"{float(x):>11.{6 if x is update else 4}f}" for x in row))
    print(
        "\nm_hat is a mean of the gradients and sqrt(v_hat) of their size, so they cancel: every step is about one\n"
        "learning rate long, whatever the scale of f. Multiply f by 1000 and the column `step` stays as it is.\n"
    )


def print_ends(learning_rate, start, steps):
    """Where others end after as many steps: on so plain a valley Adam's even pace is no advantage."""
    optimizers = {
        "Adam": gx.adam(learning_rate, b1=B1, b2=B2),
        "SGD, momentum 0.9": gx.sgd(learning_rate, momentum=0.9),
        "SGD": gx.sgd(learning_rate),
    }
    print(f"{f'after {steps} steps':<20}{'w':>9}{'loss':>9}")
    for name, tx in optimizers.items():
        *_, (*_, w) = descend(tx, start, steps)
        print(f"{name:<20}{float(w):>9.4f}{float(loss(w)):>9.2f}")


def print_bias_corrections(times):
    """Fed the gradient 1 for ever, the moments *are* the bias corrections: m = 1 - b1^t and v = 1 - b2^t.

    Adam's step is then 1, the gradient's sign, at every t. Beside it stand the steps it would make if a correction were
    left out: v's alone, where a first step would be 1 / sqrt(0.001) = 32 times too long, or both, where the short m
    makes up for some of it.
    """
    tx = gx.scale_by_adam(b1=B1, b2=B2)

    def step(state, _):
        _, state = tx.update(jnp.ones(()), state)
        return state, (state.mu, state.nu)

    _, (mu, nu) = jax.lax.scan(step, tx.init(jnp.ones(())), length=max(times))
    print("\nthe gradient is 1 at every step; a correct step is 1.00 long")
    print(f"{'':>6}{'m,':>11}{'':>12}{'v,':>12}{'':>12}{'step without v':>20}{'step without':>18}")
    print(f"{'t':>6}{'from state':>11}{'1 - b1^t':>12}{'from state':>12}{'1 - b2^t':>12}", end="")
    print(f"{'corrected':>20}{'any correction':>18}")
    for t in times:
        m, v = float(mu[t - 1]), float(nu[t - 1])
        print(f"{t:>6}{m:>11.6f}{1 - B1**t:>12.6f}{v:>12.6f}{1 - B2**t:>12.6f}", end="")
        print(f"{1 / v**0.5:>20.2f}{m / v**0.5:>18.2f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="default: %(default)s")
    parser.add_argument("--start", type=float, default=5.0, help="where w begins; default: %(default)s")
    args = parser.parse_args()

    print_trace(gx.adam(args.learning_rate, b1=B1, b2=B2), args.start, args.steps)
    print_ends(args.learning_rate, args.start, args.steps)
    print_bias_corrections((1, 5, 10, 50, 100, 1000))


if __name__ == "__main__":
    main()
