"""Does training with states in few bits end where training with float32 does? Two models, seeds beside seeds.

    python benchmarks/lowbit_training.py                    # half an hour on one core
    python benchmarks/lowbit_training.py --quick            # small models and few steps, to see that it runs
    python benchmarks/lowbit_training.py --table FILE       # the table as Markdown, from a file

The models are those of `examples/train_lm.py`, in the sizes of `benchmarks/recipes.py`, and of `examples/digits.py`.
The language model's learning rate is searched for float32 alone, on the ladder 1, 3, 10, ..., with a seed that is used
for nothing else; the digits' rate is that of the example, which was found for float32 too. All ways of storing then run
at this rate, and a seed is the same initial weights and the same batches for each of them, so that what is compared is
one run with its twin. Sigma is the standard deviation of the float32 runs over the seeds.

A run whose numbers differ in the last digit ends elsewhere, too. So that this can be told from an effect of the codes,
float32 also runs with all updates a millionth longer. A run whose loss is not finite at the end is lost: it is counted
and left out of means and gaps.
"""

import argparse
import importlib.util
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import recipes

Q = gx.lowbit.quantized
BASE, NUDGED = "float32", "float32, updates × 1.000001"
#: Embeddings stay in float32 with all of them, as bitsandbytes advises too, so that the same arrays are stored.
STORES: dict[str, Callable[[Any], Any]] = {
    BASE: lambda tx: tx,
    NUDGED: lambda tx: gx.chain(tx, gx.scale(1.000001)),
    "8 bits": Q,
    "4 bits": lambda tx: Q(tx, 4),
    'like="bitsandbytes"': lambda tx: Q(tx, like="bitsandbytes", wide="*embed*"),
}
# Okabe and Ito's colours, told apart by colour-blind readers; lines and marks serve a black-and-white print.
STYLES = {
    BASE: ("black", "-", "s"),
    NUDGED: ("#999999", "--", "D"),
    "8 bits": ("#0072B2", "-", "o"),
    "4 bits": ("#009E73", "-.", "^"),
    'like="bitsandbytes"': ("#D55E00", ":", "v"),
}


class LanguageModel:
    """`examples/train_lm.py`, smaller."""

    curve, held_out = "training loss (bits per byte)", "held-out text, bits per byte"
    measures = (held_out,)

    def __init__(self, b2: float, steps: int) -> None:
        self.b2, self.steps, self.unit = b2, steps, "step"
        self.programs: dict[Any, Any] = {}

    def transform(self, peak: Any) -> gx.GradientTransformation:
        return recipes.lm.from_recipe("adamw", peak, self.steps, b2=self.b2)

    def params(self) -> Any:
        return recipes.lm.init(jax.random.key(0))

    def run(self, store: Callable[[Any], Any], peak: float, seed: int) -> tuple[float, np.ndarray]:
        """The score, and the loss of every step."""
        if store not in self.programs:
            self.programs[store] = recipes.make_program(lambda rate: store(self.transform(rate)), self.steps)
        score, losses = jax.device_get(self.programs[store](jnp.float32(peak), seed))
        return float(score), losses

    def search(self) -> tuple[float, dict[str, float]]:
        """The best rate for float32, and the score of each that was tried."""

        def run(peak: float, seed: int) -> dict[str, Any]:
            return {"rate": peak, "held_out": self.run(STORES[BASE], peak, seed)[0]}

        tried = recipes.searched(run, 3e-3)
        return min(tried, key=recipes.value)["rate"], {f"{run['rate']:g}": run["held_out"] for run in tried}

    def runs(self, store: Callable[[Any], Any], peak: float, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """A run a seed: its measure, and the mean training loss of up to forty stretches of equal length."""
        width, made = max(self.steps // 40, 1), list[dict[str, Any]]()
        for seed in seeds:
            score, losses = self.run(store, peak, seed)
            marks = losses[: self.steps // width * width].reshape(-1, width).mean(1)
            kept = score if math.isfinite(score) else None
            made.append({"seed": seed, self.held_out: kept, "curve": rounded(marks), "every": width})
        return made


class Digits:
    """`examples/digits.py` as it is: AdamW with its own b2, 0.999, and its own rate."""

    curve, error, loss = "training loss (nats)", "test error, %", "training loss, nats"
    measures = (error, loss)

    def __init__(self, epochs: int, batch: int = 64) -> None:
        self.example = example("digits")
        self.epochs, self.batch, self.unit = epochs, batch, "epoch"
        self.sets = self.example.digits()

    def transform(self, peak: Any) -> gx.GradientTransformation:
        del peak
        return self.example.optimizers(self.epochs * (len(self.sets[0][1]) // self.batch))["adamw"]

    def params(self) -> Any:
        return self.example.init(jax.random.key(0))

    def search(self) -> tuple[None, dict[str, float]]:
        return None, {}

    def runs(self, store: Callable[[Any], Any], peak: None, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """All seeds in one `vmap`, as the example has them."""
        tx = store(self.transform(peak))

        def run(key: Any) -> Any:
            return self.example.train(key, tx, *self.sets, self.epochs, self.batch)[0]

        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        losses, accuracies = map(np.asarray, jax.jit(jax.vmap(run))(keys))
        made = list[dict[str, Any]]()
        for seed, line, right in zip(seeds, losses, accuracies, strict=True):
            kept = math.isfinite(line[-1])
            numbers = {self.error: 100 * (1 - float(right[-1])), self.loss: float(line[-1])}
            numbers = numbers if kept else dict.fromkeys(numbers)
            made.append({"seed": seed, **numbers, "curve": rounded(line), "every": 1})
        return made


def tasks(quick: bool) -> dict[str, tuple[Any, range]]:
    """The models, and the seeds of each."""
    if quick:
        return {
            "language model, b2 = 0.999": (LanguageModel(0.999, 4), range(2)),
            "digits, b2 = 0.999": (Digits(2), range(2)),
        }
    return {
        "language model, b2 = 0.95": (LanguageModel(0.95, 1500), range(5)),
        "language model, b2 = 0.999": (LanguageModel(0.999, 1500), range(5)),
        "digits, b2 = 0.999": (Digits(40), range(20)),  # they take a second each
    }


def example(name: str) -> Any:
    """A file of the examples as a module."""
    spec = importlib.util.spec_from_file_location(name, recipes.ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rounded(values: Any) -> list[float | None]:
    return [float(f"{x:.4g}") if math.isfinite(x) else None for x in values]


def stored(tx: Any, params: Any) -> dict[str, float]:
    """What of the two moments is in few bits, and what the state takes."""
    state, size = jax.eval_shape(tx.init, params), sum(p.size for p in jax.tree.leaves(params))
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, gx.lowbit.Quantized))
    few = sum(math.prod(x.shape) for x in nodes if isinstance(x, gx.lowbit.Quantized))
    taken = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return {"share_in_few_bits": few / (2 * size), "state_bytes_per_parameter": taken / size}


def measure(task: Any, seeds: Sequence[int], stores: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    rate, tried = task.search()
    if tried:
        print(
            "  float32: " + ", ".join(f"{score:.3f} at {peak}" for peak, score in tried.items()), flush=True
        )
    got: dict[str, Any] = {"transform": repr(task.transform(rate)), "rate": rate, "tried": tried}
    got |= {"unit": task.unit, "curve": task.curve, "measures": task.measures, "stores": {}}
    for name, store in stores.items():
        start = time.perf_counter()
        runs = task.runs(store, rate, seeds)
        numbers = stored(store(task.transform(rate)), task.params())
        got["stores"][name] = {**numbers, "runs": runs, "seconds": round(time.perf_counter() - start, 1)}
        scores = ", ".join(
            "lost" if x is None else f"{x:.3f}" for x in (run[task.measures[0]] for run in runs)
        )
        print(f"  {name:28}{scores}   {got['stores'][name]['seconds']} s", flush=True)
    return got


def text(results: Mapping[str, Any]) -> str:
    """JSON, a list of numbers in one line."""
    lines = json.dumps(results, indent=1, allow_nan=False)
    return re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), lines) + "\n"


# --- what came out ---------------------------------------------------------------------------------------------------


def compared(task: Mapping[str, Any], name: str, measure: str) -> dict[str, float]:
    """Mean and deviation over the seeds, and the gap to the float32 run of the same seed, of runs that are not lost."""
    values, base = ([run[measure] for run in task["stores"][x]["runs"]] for x in (name, BASE))
    there, sigma = [x for x in values if x is not None], statistics.stdev(base)
    gaps = [a - b for a, b in zip(values, base, strict=True) if a is not None]
    gap = statistics.fmean(gaps)
    return {
        "mean": statistics.fmean(there),
        "deviation": statistics.stdev(there),
        "gap": gap,
        "error": statistics.stdev(gaps) / math.sqrt(len(gaps)),
        "sigmas": gap / sigma if sigma else 0.0,
        "lost": len(values) - len(there),
    }


def digits_of(x: float) -> int:
    """So many decimals that a deviation of this size is seen in two digits."""
    return max(1 - math.floor(math.log10(x)), 0) if x > 0 else 3


def table(results: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [
        "| | mean ± deviation over seeds | gap to float32 ± its error | gap, sigma | in few bits "
        "| state, bytes a parameter |",
        "|---|---|---|---|---|---|",
    ]
    for title, task in results["tasks"].items():
        for measure in task["measures"]:
            seeds = len(task["stores"][BASE]["runs"])
            rows.append(f"| **{title}: {measure}**; {seeds} seeds | | | | | |")
            places = digits_of(compared(task, BASE, measure)["deviation"])
            for name, store in task["stores"].items():
                x = compared(task, name, measure)
                gap = f"{x['gap']:+.{places}f} ± {x['error']:.{places}f} | {x['sigmas']:+.2f}"
                lost = f" ({x['lost']:.0f} of {seeds} runs lost)" if x["lost"] else ""
                mean = f"{x['mean']:.{places}f} ± {x['deviation']:.{places}f}{lost}"
                cells = [name, mean, " | " if name == BASE else gap]
                cells += [
                    f"{100 * store['share_in_few_bits']:.0f} %",
                    f"{store['state_bytes_per_parameter']:.2f}",
                ]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Above, training; below, every seed's gap to its float32 run, over the band of two sigma."""
    try:
        from matplotlib.figure import Figure  # by itself, without pyplot, it needs no screen
    except ImportError:
        print("no picture: pip install 'gradxform[plot]'")
        return
    columns = results["tasks"]
    figure = Figure(figsize=(4.3 * len(columns), 7), layout="constrained")
    for (top, bottom), (title, task) in zip(
        figure.subplots(2, len(columns), squeeze=False).T, columns.items(), strict=True
    ):
        for name, store in task["stores"].items():
            colour, line, _ = STYLES[name]
            curves = np.asarray([run["curve"] for run in store["runs"] if None not in run["curve"]])
            at = store["runs"][0]["every"] * np.arange(1, curves.shape[1] + 1)
            top.plot(at, curves.mean(0), line, color=colour, label=name)
        top.set(title=title, xlabel=task["unit"], ylabel=task["curve"], yscale="log")
        if top.get_ylim()[0] > 1:  # less than a decade: every number has a tick of its own
            top.set_yticks(range(2, 8), range(2, 8))
            top.minorticks_off()
        top.grid(alpha=0.3)
        scatter(bottom, task)
    figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def scatter(axes: Any, task: Mapping[str, Any]) -> None:
    measure, others = task["measures"][0], [name for name in task["stores"] if name != BASE]
    base = [run[measure] for run in task["stores"][BASE]["runs"]]
    sigma = statistics.stdev(base)
    axes.axhspan(-2 * sigma, 2 * sigma, color="#56B4E9", alpha=0.2, linewidth=0, label="± 2 sigma")
    axes.axhline(0, color="black", linewidth=0.8)
    for place, name in enumerate(others):
        colour, _, mark = STYLES[name]
        values = np.asarray(
            [run[measure] for run in task["stores"][name]["runs"]], float
        )  # None is NaN, not drawn
        spots = place + np.linspace(-0.2, 0.2, len(base))
        axes.plot(spots, values - base, mark, color=colour, markersize=5, alpha=0.6)
        x = compared(task, name, measure)
        if x["lost"]:
            text = f"{x['lost']} of {len(base)} runs\nended in NaN"
            axes.text(place, 0.02, text, transform=axes.get_xaxis_transform(), ha="center", fontsize=8)
        axes.errorbar(place + 0.32, x["gap"], x["error"], fmt="_", color=colour, capsize=3, markersize=9)
    axes.set_xticks(
        range(len(others)), [name.replace(", ", ",\n").replace("=", "=\n") for name in others], fontsize=8
    )
    axes.set(ylabel=f"gap to float32, same seed\n({measure})", xlim=(-0.6, len(others) - 0.4))
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few steps, float32 and 8 bits only")
    parser.add_argument(
        "--only", default="", help="runs the tasks whose name contains this; keeps the others"
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON, after every task")
    parser.add_argument("--plot", type=Path, help="draw the picture")
    parser.add_argument("--table", type=Path, metavar="FILE", help="no runs: table and picture of a file")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": recipes.machine(), "sizes": recipes.SIZES, "tasks": {}}
    kept = options.table or (options.only and options.out)
    if kept and kept.exists():
        results = json.loads(kept.read_text())
    stores = {name: STORES[name] for name in (BASE, "8 bits")} if options.quick else STORES
    for name, (task, seeds) in {} if options.table else tasks(options.quick).items():
        if options.only not in name:
            continue
        print(name, flush=True)
        results["tasks"][name] = measure(task, seeds, stores)
        if options.out:
            options.out.write_text(text(results))
    print("\n" + table(results))
    if options.plot:
        draw(results, options.plot)
    return results


if __name__ == "__main__":
    main()
