"""The small pictures on the pages of methods: what comes out for what goes in, and the way down a ravine.

    python tools/figures.py /tmp/figures          # all of them
    python tools/figures.py /tmp/figures adam     # those of some pages

Sphinx draws them when it builds the documentation (docs/conf.py); nothing of this is kept under version control. No
method is named here: the catalogue says what there is, and the transforms themselves run.

Left, a matrix gets gradients along a fixed direction with a little noise: calm, a spike five times as large, calm, then
a sign that changes at every step. The part of the updates along that direction is drawn, each curve in units of its
largest value. Right, the recipes go down a ravine with noise, each at the rate, out of 25, at which it is lowest on
average.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pages import families
from pictures import save

import gradxform as gx
from gradxform import _catalog
from gradxform.diagnostics import landscapes
from gradxform.diagnostics.plots import canvas

CALM, SPIKE, FLIPS = 14, 5.0, 12
STEPS = 60
RATES = np.logspace(-3, 1.5, 25)
_SIZE = (4.4, 3.2)
#: How long names of a legend may be together, so that the panel keeps its width.
_LETTERS = 24
#: The schedules of the catalogue's examples have done all they do by then.
_SHORT = 17


def stream() -> np.ndarray:
    """The gradients' sizes: calm, one spike, calm, and a sign that changes at every step."""
    calm = np.ones(CALM)
    return np.concatenate([calm, [SPIKE], calm, (-1.0) ** np.arange(1, FLIPS + 1)])


def _gradients(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A direction of length 1, its noisy multiples for a matrix of 4 x 4 weights, and the weights.

    Calm gradients are half as long as the bound that clips usually have, the spike is longer.
    """
    draws = np.random.default_rng(0)
    direction = draws.standard_normal((4, 4))
    direction /= np.linalg.norm(direction)
    noise = 0.01 * draws.standard_normal((len(sizes), 4, 4))
    gradients = 0.5 * (sizes[:, None, None] * direction + noise)
    return direction, gradients.astype(np.float32), draws.standard_normal((4, 4)).astype(np.float32)


def response(tx: Any, sizes: np.ndarray) -> np.ndarray:
    """What a transform makes of the stream, along its direction; turned, if need be, to begin as the gradients do."""
    direction, gradients, weights = _gradients(sizes)

    def step(state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state, weights)
        return state, (updates * direction.astype(np.float32)).sum()

    made = np.asarray(jax.lax.scan(step, tx.init(weights), gradients)[1], np.float64)
    return -made if made[:CALM].sum() < 0 else made


def best(factory: Any, shape: tuple[int, ...]) -> tuple[float, np.ndarray] | None:
    """The rate at which a recipe is lowest on average, and its path down the ravine; None for one without a rate."""
    if "learning_rate" not in factory.signature.parameters:
        return None

    def walk(rate: Any) -> Any:
        tx = factory.call(**{**factory.samples(), "learning_rate": rate})
        return landscapes.trajectory(tx, landscapes.RAVINE, STEPS, shape=shape)

    positions, losses = jax.jit(jax.vmap(walk))(jnp.asarray(RATES, jnp.float32))
    heights = np.asarray(losses, np.float64)
    course = np.where(np.isfinite(heights), heights, np.inf).mean(axis=1)
    chosen = int(np.argmin(course))
    return float(RATES[chosen]), np.asarray(positions)[chosen]


def _merged(curves: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Curves in units of their largest value; those that coincide are one, under all of their names."""
    found: list[tuple[list[str], np.ndarray]] = []
    for name, values in curves.items():
        scaled = values / (np.abs(values).max() or 1.0)
        same = next((names for names, other in found if np.allclose(other, scaled, atol=0.01)), None)
        if same is None:
            found.append(([name], scaled))
        else:
            same.append(name)
    return [(_few(names), values) for names, values in found]


def _few(names: Sequence[str]) -> str:
    shown = 2 if len("".join(names[:2])) < _LETTERS else 1
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def figure(entries: Sequence[_catalog.Entry]) -> Any:
    """The picture of one page."""
    sizes = stream()
    curves = {entry.name: response(entry.example, sizes) for entry in entries}
    ways = {
        entry.name: found
        for entry in entries
        if entry.kind == "recipe"
        and (found := best(entry.factory, (1, 2) if entry.reach == "leaf" else (2,))) is not None
    }
    drawn = canvas.axes("figure", None, 1, 1 + bool(ways), _SIZE)
    _draw_response(drawn[0], sizes, _merged(curves))
    if ways:
        _draw_paths(drawn[1], ways)
    return canvas.figure_of(drawn[0])


def _draw_response(panel: Any, sizes: np.ndarray, curves: list[tuple[str, np.ndarray]]) -> None:
    count = np.arange(1, len(sizes) + 1)
    panel.step(count, sizes / SPIKE, where="mid", color=canvas.BESIDE, linewidth=1.0, label="gradient")
    for number, (name, values) in enumerate(curves):
        look = canvas.style(number)
        panel.plot(count, values, color=look.color, linestyle=look.linestyle, linewidth=1.5, label=name)
    panel.set_ylabel("update, over the largest")
    panel.set_ylim(-1.1, 1.1)
    canvas.count_axis(panel)
    canvas.clean(panel)
    canvas.legend(panel, "above", ncols=1 + (len(curves) > 1))


def _draw_paths(panel: Any, ways: dict[str, tuple[float, np.ndarray]]) -> None:
    land = landscapes.RAVINE
    x, y, z = landscapes.surface(land)
    levels = np.unique(np.quantile(z, np.linspace(0, 1, 12)[1:-1] ** 2.5))
    panel.contour(x, y, z, levels=levels, colors=canvas.BESIDE, linewidths=0.6, alpha=0.6)
    for number, (name, (rate, positions)) in enumerate(ways.items()):
        look = canvas.style(number)
        options: dict[str, Any] = {"color": look.color, "linestyle": look.linestyle, "linewidth": 1.3}
        panel.plot(*positions.T, label=f"{name}({rate:.2g})", **options)
    panel.plot(*land.start, "X", color="black", markersize=7)
    panel.plot(*(land.minimum or (0, 0)), "*", color="black", markersize=10)
    (left, right), (bottom, top) = land.box
    panel.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y")
    canvas.clean(panel)
    panel.grid(visible=False)
    canvas.legend(panel, "above", ncols=1 + (len(ways) > 2))


def schedules(entries: Sequence[_catalog.Entry]) -> Any:
    """The curves of schedules that are no constants, each over its largest value, in panels of their own."""
    columns = 4
    curves = {entry.name: np.asarray(jax.vmap(entry.example)(jnp.arange(_SHORT))) for entry in entries}
    curves = {name: values / values.max() for name, values in curves.items() if np.ptp(values)}
    panels = canvas.axes("figure", None, -(-len(curves) // columns), columns, (2.3, 1.6))
    for panel, (name, values) in zip(panels, curves.items(), strict=False):
        panel.plot(values, color=canvas.COLOURS[0], linewidth=1.5)
        panel.set_title(name, loc="left", fontsize="x-small")
        panel.set_ylim(-0.05, 1.08)
        canvas.count_axis(panel)
        canvas.clean(panel)
    for panel in panels[len(curves) :]:
        panel.remove()
    return canvas.figure_of(panels[0])


def draw(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Writes the pictures, those of some pages or all, and says where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for drawing, pages in ((figure, families("_transforms")), (schedules, families("_schedules"))):
        for name, entries in pages.items():
            if not names or name in names:
                written.append(folder / f"{name}.png")
                save(drawing(entries), written[-1])
    return written


def fresh(folder: Path) -> bool:
    """Whether every picture is younger than the library and these tools."""
    wanted = [folder / f"{name}.png" for room in ("_transforms", "_schedules") for name in families(room)]
    if not all(path.exists() for path in wanted):
        return False
    sources = [*Path(gx.__file__).parent.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    return min(path.stat().st_mtime for path in wanted) > max(path.stat().st_mtime for path in sources)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", nargs="*")
    arguments = parser.parse_args()
    for path in draw(arguments.folder, arguments.pages):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
