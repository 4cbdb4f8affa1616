"""Plants defects in the rules, one at a time, and asks the tests of the project whether they notice.

    python tools/mutate.py                  all of them, about half a minute each
    python tools/mutate.py amsgrad radam    those of some files
    python tools/mutate.py --list

Each defect is a replacement in one file of `gradxform/_transforms` or `gradxform/_combine`, made in a copy of the
package. For a method, the short runs against the reference come first, then all tests of the method, then all of
`tests/transforms` and `tests/interop/test_continue.py`; for a wrapper its own tests, then those of the faults. A defect
that gets through is alive.
The exit status is 1 if fewer than 95 % are caught. A line that no longer stands in its file is an error, so that the
list cannot fall behind the code; so are tests that fail without a defect.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
REFERENCE, ALL = (
    "tests/transforms/test_against_reference.py",
    ["tests/transforms", "tests/interop/test_continue.py"],
)


class Defect(NamedTuple):
    """What is planted: in `file`, `old` becomes `new`; `tests` chooses by name the tests that run first."""

    what: str
    file: str
    old: str
    new: str
    tests: str
    room: str = "_transforms"

    @property
    def path(self) -> str:
        """Its file, within the package."""
        return f"gradxform/{self.room}/{self.file}.py"


DEFECTS = [
    Defect("Nesterov ignored", "sgd", "(g + k.decay * b if nesterov else b)", "b", "trace or sgd"),
    Defect(
        "the old sum looked ahead at", "sgd", "g + k.decay * b if", "g + k.decay * s.trace if", "trace or sgd"
    ),
    Defect(
        "dampening from the first step",
        "sgd",
        "jnp.where(c.count == 0, one, one - c.dampening)",
        "one - c.dampening",
        "trace or sgd",
    ),
    Defect(
        "the rate never within the momentum", "sgd", "chain(rate, summed) if rate_in_momentum else", "", "sgd"
    ),
    Defect("m not corrected", "adam", '"c1": c1, "c2": c2}', '"c1": top, "c2": c2}', "adam"),
    Defect("v corrected by b1", "adam", "debias(c.b2, c.t), np", "debias(c.b1, c.t), np", "adam"),
    Defect("the decays swapped", "adam", "m = ema(g, s.mu, k.b1)", "m = ema(g, s.mu, k.b2)", "adam"),
    Defect(
        "epsilon under the root",
        "adam",
        "over(m_hat, jnp.sqrt(v_hat) + k.eps)",
        "m_hat / jnp.sqrt(v_hat + k.eps)",
        "adam",
    ),
    Defect("eps_root dropped", "adam", "k.c2 * v + k.eps_root if rooted else k.c2 * v", "k.c2 * v", "adam"),
    Defect("the look ahead one step late", "adam", "debias(c.b1, c.t + one)", "debias(c.b1, c.t)", "adam"),
    Defect("epsilon hat ignored", "adam", "(jnp.sqrt(gathered), one) if eps_hat else", "", "adam"),
    Defect(
        "L2 behind Adam",
        "adam",
        "        add_decayed_weights(weight_decay, mask),\n        scale_by_adam(",
        "        scale_by_adam(",
        "adam_l2",
    ),
    Defect(
        "Lion's direction from the new average",
        "lion",
        "x = ema(g, s.mu, k.b1)",
        "x = ema(g, s.mu, k.b2)",
        "lion",
    ),
    Defect(
        "Signum without its average",
        "lion",
        "average(beta, debias=False, accumulator_dtype=accumulator_dtype),",
        "",
        "signum",
    ),
    Defect("an uncorrected average", "average", "(k.c * m if debias else m)", "m", "ema"),
    Defect(
        "the sum read before the gradient is in it",
        "adagrad",
        "rsqrt(total + k.eps)",
        "rsqrt(s.sum_of_squares + k.eps)",
        "rss or adagrad",
    ),
    Defect(
        "the sum starts at zero",
        "adagrad",
        "filled(initial_accumulator_value)",
        "filled(0.0)",
        "rss or adagrad",
    ),
    Defect(
        "epsilon always in the root",
        "adagrad",
        "if eps_in_sqrt else 1 / (jnp.sqrt(total) + k.eps)",
        "",
        "rss or adagrad",
    ),
    Defect(
        "squares not averaged",
        "rmsprop",
        "v = ema(abs_sq(g), s.nu, k.decay)\n        return",
        "v = k.decay.value * s.nu + abs_sq(g)\n        return",
        "scale_by_rms or rmsprop",
    ),
    Defect(
        "the correction dropped",
        "rmsprop",
        "k.c * v if bias_correction else v",
        "v",
        "scale_by_rms or rmsprop",
    ),
    Defect(
        "centered ignored",
        "rmsprop",
        "        if centered\n",
        "        if centered and False\n",
        "scale_by_rms or rmsprop",
    ),
    Defect(
        "the spread of the gradient without its share",
        "rmsprop",
        "k.grow * k.decay.complement * abs_sq(k.before",
        "k.grow * abs_sq(k.before",
        "stddev or rms",
    ),
    Defect(
        "Nesterov not passed on",
        "rmsprop",
        "trace(momentum, nesterov)",
        "trace(momentum)",
        "scale_by_rms or rmsprop",
    ),
    Defect(
        "Adadelta divides by the old average",
        "adadelta",
        "jnp.sqrt(squares + k.eps)",
        "jnp.sqrt(s.e_g + k.eps)",
        "adadelta",
    ),
    Defect(
        "steps averaged before the step",
        "adadelta",
        "ema(abs_sq(u), s.e_x, k.rho)",
        "ema(abs_sq(g), s.e_x, k.rho)",
        "adadelta",
    ),
    Defect(
        "Rprop's factors swapped",
        "rprop",
        "jnp.where(turned > 0, k.eta_plus, k.eta_minus)",
        "jnp.where(turned > 0, k.eta_minus, k.eta_plus)",
        "rprop",
    ),
    Defect(
        "Rprop steps after a turn",
        "rprop",
        "u = jnp.where(turned < 0, zero, a * jnp.sign(g))",
        "u = a * jnp.sign(g)",
        "rprop",
    ),
    Defect(
        "Rprop's upper bound dropped",
        "rprop",
        "k.min_step_size, k.max_step_size\n",
        "k.min_step_size, np.inf\n",
        "rprop",
    ),
    Defect(
        "AMSGrad without its maximum",
        "amsgrad",
        "w = jnp.maximum(s.nu_max, k.before * v)",
        "w = k.before * v",
        "amsgrad",
    ),
    Defect(
        "torch's order of AMSGrad ignored",
        "amsgrad",
        "(one, c2) if raw_max else (c2, one)",
        "(c2, one)",
        "amsgrad",
    ),
    Defect("AMSGrad's v always corrected", "amsgrad", "if bias_correction_nu else one", "", "amsgrad"),
    Defect(
        "NAdam's product not carried",
        "nadam",
        '{"mu_product": product}',
        '{"mu_product": c.state.mu_product}',
        "nadam",
    ),
    Defect(
        "NAdam's momentum constant", "nadam", "0.96 ** (c.momentum_decay * t)", "0.96 ** (0 * t)", "nadam"
    ),
    Defect("RAdam's threshold moved", "radam", "rho >= c.threshold", "rho >= c.threshold + 1", "radam"),
    Defect("RAdam without its factor", "radam", "adam = k.r * over(", "adam = over(", "radam"),
    Defect("rho one step off", "radam", "_worth(c.b2, c.t)", "_worth(c.b2, c.t + one)", "radam"),
    Defect(
        "Adamax takes a mean",
        "adamax",
        "jnp.maximum(k.b2.value * s.nu, size + k.eps if eps_in_max else size)",
        "k.b2.value * s.nu + k.b2.complement * size",
        "adamax",
    ),
    Defect("Adamax's m not corrected", "adamax", "over(k.c1 * m,", "over(m,", "adamax"),
    Defect("AdaBelief measures size", "belief", "k.b1.value * (g - s.mu)", "g", "belief"),
    Defect(
        "AdaBelief's eps_root not kept",
        "belief",
        "ema(abs_sq(surprise), s.nu, k.b2) + k.eps_root",
        "ema(abs_sq(surprise), s.nu, k.b2)",
        "belief",
    ),
    Defect(
        "Yogi becomes Adam",
        "yogi",
        "k.b2.complement * jnp.sign(s.nu - square) * square",
        "k.b2.complement * (s.nu - square)",
        "yogi",
    ),
    Defect(
        "Adan forgets the first step",
        "adan",
        "jnp.where(k.first, np.asarray(0, g.dtype), g - s.g)",
        "g - s.g",
        "adan",
    ),
    Defect(
        "Adan's difference weighed the other way",
        "adan",
        "c.b2.value if weigh_by_b2 else c.b2.complement",
        "c.b2.complement",
        "adan",
    ),
    Defect("Adan's n without the difference", "adan", "abs_sq(g + k.w * d)", "abs_sq(g)", "adan"),
    Defect(
        "a proximal decay not divided",
        "decay",
        "k.shrink * (g + k.weight_decay * p)",
        "g + k.weight_decay * p",
        "adan or decayed",
    ),
    Defect(
        "LAMB without its ratio", "trust", "        scale_by_trust_ratio(max_norm=max_norm),\n", "", "lamb"
    ),
    Defect(
        "the ratio upside down",
        "trust",
        "k.trust_coefficient * phi / jnp.where(still, one, below)",
        "k.trust_coefficient * below / phi",
        "trust or lamb or lars",
    ),
    Defect(
        "the bound of the norm dropped", "trust", "jnp.minimum(weight, k.max_norm)", "weight", "trust or lamb"
    ),
    Defect(
        "LARS's decay out of the denominator",
        "trust",
        "size + k.weight_decay * weight + k.eps if decays else",
        "",
        "trust or lars",
    ),
    Defect(
        "a ratio of zero weights",
        "trust",
        "bare = (weight == 0) | (size == 0)",
        "bare = size == 0",
        "trust or lamb or lars",
    ),
    Defect("a mean factor dropped", "adafactor", "over(r, mean)", "r", "factor"),
    Defect("rows and columns swapped", "adafactor", "low, high = found", "high, low = found", "factor"),
    Defect(
        "Adafactor's memory constant",
        "adafactor",
        "renew = t ** (-c.decay_rate)",
        "renew = 1 - c.decay_rate + 0 * t",
        "factor",
    ),
    Defect(
        "Adafactor's cap ignored",
        "adafactor",
        "jnp.maximum(renew, c.beta2_cap.complement)",
        "renew",
        "factor",
    ),
    Defect(
        "Adafactor's clip dropped",
        "adafactor",
        "links.append(clip_by_block_rms(clipping_threshold))",
        "pass",
        "adafactor",
    ),
    Defect(
        "the parameter's size ignored",
        "adafactor",
        "links.append(scale_by_param_block_rms(min_scale))",
        "pass",
        "adafactor",
    ),
    Defect(
        "the relative step ignored",
        "adafactor",
        "_bounded(learning_rate) if relative_step else learning_rate",
        "learning_rate",
        "adafactor",
    ),
    Defect(
        "the rate left out of the decay",
        "adafactor",
        "_product(learning_rate, weight_decay_rate) if rate_in_decay else weight_decay_rate",
        "weight_decay_rate",
        "adafactor",
    ),
]


def _wrapper(file: str, tests: str, *defects: tuple[str, str, str]) -> list[Defect]:
    return [Defect(what, file, old, new, tests, "_combine") for what, old, new in defects]


DEFECTS += _wrapper(
    "guard",
    "guard",
    ("the state is not put back", "run_if(good, lambda: run()[1], lambda: state)", "run()[1]"),
    ("what is skipped enters the window", "good & finite, norm", "finite, norm"),
    ("what is not finite enters the window", "good, good & finite, norm", "good, good, norm"),
    ("the loss is not looked at", "finite = finite & jnp.isfinite(value)", "pass"),
    ("the updates are not looked at", "good = good & sound", "good & sound"),
    (
        "the count of those in a row is never taken back",
        "jnp.where(good, np.int32(0), state",
        "jnp.where(good, state.consecutive, state",
    ),
    ("the variance about zero", "(ring - mean) ** 2", "ring ** 2"),
    ("no least spread", "jnp.maximum(deviation, np", "jnp.maximum(deviation * 1.0, 0 * np"),
    ("a spike from the first step on", "max(2, window // 4)", "1"),
    ("the limit is that of the state", "jnp.full_like(state.limit, self.limit)", "state.limit"),
)
DEFECTS += _wrapper(
    "accumulate",
    "accumulate",
    ("the sum in the place of the mean", "a / total.astype(real_dtype(a.dtype)) if", "a if"),
    ("weights ignored", "a + weight.astype(a.dtype) * g", "a + g"),
    ("the window never emptied", "gather([_zeros(a) for a in stored]", "gather(sums"),
    ("one micro-step too many", "(mini_step >= self._length", "(mini_step > self._length"),
    ("flush ignored", ' | _flag(who, extra.get("flush"))', ""),
    ("the weight of a window kept", "jnp.where(closes, np.float32(0), total)", "total"),
    (
        "NaN of weight 0 comes through",
        "jnp.where(weight > 0, a + weight",
        "jnp.where(weight >= 0, a + weight",
    ),
    (
        "windows not counted",
        "jnp.where(emits, next_count(state.gradient_step)",
        "jnp.where(emits, (state.gradient_step)",
    ),
)
DEFECTS += _wrapper(
    "loss_scale",
    "loss_scale",
    (
        "gradients stay scaled",
        "return g.astype(dtype) / scale.astype(real_dtype(dtype))",
        "return g.astype(dtype)",
    ),
    ("it never grows", "grows = good_steps >= self.growth_interval", "grows = good_steps < 0"),
    ("it never falls", "jnp.maximum(state.scale / factor, low)", "state.scale"),
    ("good steps not counted anew", "np.int32(1), np.int32(0))", "np.int32(1), state.good_steps)"),
    ("no upper bound", "jnp.minimum(state.scale * factor, high)", "state.scale * factor"),
)
DEFECTS += _wrapper(
    "when",
    "when",
    ("one step too late", "state.count < self.at", "state.count <= self.at"),
    ("the second not made anew", "run_if(state.count == self.at, fresh", "run_if(state.count < 0, fresh"),
    ("zero in the place of pass", 'otherwise == "pass"', "False"),
    ("calls at rest not counted", "ApplyWhenState(next_count(state.count)", "ApplyWhenState((state.count)"),
)
DEFECTS += _wrapper(
    "average",
    "average",
    ("the parameters before the step", "new = stored(p, g, leaf.dtype)", "new = p"),
    ("not corrected", "c.decay.complement / debias(c.decay, n)", "c.decay.complement"),
    ("the start ignored", " - np.int32(start) + np", " + np"),
    ("the power ignored", "(c.power + one) / (n + c.power)", "one / n"),
    ("every step enters", "jnp.where(k.enters, m, s.average)", "m"),
    ("stored in 16 bits", 'wide=("average",)', "wide=()"),
)
DEFECTS += _wrapper(
    "schedule_free",
    "schedule_free",
    ("x not moved towards z", "k.back * (s.z - p) + ", ""),
    ("the whole update", "one - b1 + b1 * share", "one"),
    ("the rate of now", "jnp.maximum(c.state.max_lr.astype(c.dtype), c.learning_rate)", "c.learning_rate"),
    ("x jumps where b1 changes", " + (one - share) * ((before - b1) / before)", ""),
    ("b1 not as stored", "asked = jnp.asarray(c.b1).astype(stored.dtype)", "asked = jnp.asarray(c.b1)"),
    ("z in 16 bits", 'wide=("z",)', "wide=()"),
    ("the sum in 16 bits", "weight_sum=jnp.zeros([], dtype)", "weight_sum=jnp.zeros([], jnp.bfloat16)"),
)
DEFECTS += _wrapper(
    "cautious",
    "cautious",
    ("the other side", "-1 if downhill else 1", "1 if downhill else -1"),
    ("not made larger", "factor.astype(dtype) * wide", "wide"),
    ("xi ignored", "kept + jnp.asarray(self.xi).astype(kept.dtype)", "kept"),
)
DEFECTS += _wrapper(
    "evaluate",
    "evaluate",
    ("schedule-free read as z", "base + (wide - base) / jnp", "base + 0 * (wide - base) / jnp"),
    (
        "masked leaves are not the parameters",
        "if is_absent(p) or is_absent(m) or not",
        "if is_absent(p) or not",
    ),
)
DEFECTS += _wrapper(
    "tunable",
    "tunable",
    ("the low word is lost", "TwoFloat(pair.hi, lo if given", "TwoFloat(pair.hi, 0 * lo if given"),
    (
        "one dictionary for all states",
        "TunableState(dict(state.hyperparams), dict",
        "TunableState(state.hyperparams, dict",
    ),
    ("a stale low word is kept", "jnp.where(pair.hi + lo == pair.hi, lo, _ZERO)", "lo"),
)


def planted(source: str, defect: Defect) -> str:
    """The source with the defect in it."""
    if source.count(defect.old) >= 1:
        return source.replace(defect.old, defect.new)
    raise SystemExit(f"{defect.file}.py: {defect.what}: {defect.old!r} is not there any more")


def passes(copy: Path, arguments: list[str]) -> bool:
    environ = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *arguments,
    ]
    child = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    if child.returncode not in (0, 1, 5):
        raise SystemExit(child.stdout[-3000:] + child.stderr[-3000:])
    return child.returncode in (0, 5)


def stages(defect: Defect) -> list[list[str]]:
    """What runs, from the shortest on."""
    if defect.room == "_combine":
        own = f"tests/combine/test_{defect.tests}.py"
        return [[own, "-m", "not slow"], [own, "tests/combine/test_faults.py"]]
    short = [REFERENCE, "-k", f"test_float64 and ({defect.tests})"]
    return [short, ["tests/transforms", "-k", defect.tests], ALL]


def survives(copy: Path, defect: Defect) -> bool:
    path = copy / defect.path
    right = path.read_text(encoding="utf-8")
    path.write_text(planted(right, defect), encoding="utf-8")
    try:
        return all(passes(copy, arguments) for arguments in stages(defect))
    finally:
        path.write_text(right, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="files such as adam or guard; all by default")
    parser.add_argument(
        "--list", action="store_true", help="say what would be planted, and check that it can be"
    )
    args = parser.parse_args()
    chosen = [defect for defect in DEFECTS if not args.files or defect.file in args.files]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("gradxform", "tests", "tools", "docs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        survivors: list[Defect] = []
        sound: set[str] = set()
        for defect in chosen:
            source = (copy / defect.path).read_text(encoding="utf-8")
            planted(source, defect)
            if args.list:
                print(f"{defect.file:10} {defect.what}")
                continue
            if defect.tests not in sound and not passes(copy, stages(defect)[0]):
                raise SystemExit(f"the tests of {defect.tests!r} fail without any defect")
            sound.add(defect.tests)
            start = time.perf_counter()
            alive = survives(copy, defect)
            survivors += [defect] if alive else []
            word = "SURVIVES" if alive else "caught"
            print(
                f"{word:8} {defect.file:10} {defect.what} ({time.perf_counter() - start:.0f} s)", flush=True
            )
    if not args.list:
        caught = len(chosen) - len(survivors)
        print(f"{caught} of {len(chosen)} caught")
        sys.exit(caught < 0.95 * len(chosen))


if __name__ == "__main__":
    main()
