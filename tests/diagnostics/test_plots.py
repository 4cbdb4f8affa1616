"""Pictures: what stands in them is what was given or computed, nothing is left behind, and errors say what to do."""

import builtins
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from PIL import Image

import gradxform as gx
from gradxform.diagnostics.landscapes import SADDLE, Landscape, trajectory
from gradxform.diagnostics.plots.canvas import COLOURS, style
from gradxform.diagnostics.plots.course import decay_of

BOWL = Landscape("bowl", lambda w: (w**2).sum(), (3.0, 1.0), ((-4, 4), (-4, 4)), (0.0, 0.0))
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No figure that somebody would have to close, and no setting changed."""
    with matplotlib.rc_context():
        matplotlib.rcParams["backend"] = "agg"
        before = dict(matplotlib.rcParams)
        yield
        assert plt.get_fignums() == []
        assert dict(matplotlib.rcParams) == before


def drawn(figure: Figure) -> bytes:
    """The figure as it is written: warnings come up here, and they are errors."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")
    return file.getvalue()


def labels(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.get_legend().get_texts()]


# ---------------------------------------------------------------------------------------------- schedules


def test_a_schedule_is_drawn_at_every_step() -> None:
    rate = gx.warmup_cosine(1e-3, warmup_steps=10, total_steps=50)
    figure = gx.plots.schedule(rate, 5e-4, optax.linear_schedule(1e-3, 0.0, 20), steps=60)
    (panel,) = figure.axes
    x, y = panel.lines[0].get_data()
    np.testing.assert_array_equal(x, np.arange(60))
    np.testing.assert_allclose(y, [float(rate(t)) for t in range(60)], rtol=1e-6)
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), np.full(60, 5e-4))
    np.testing.assert_allclose(panel.lines[2].get_ydata()[[0, 10, 20, 59]], [1e-3, 5e-4, 0, 0], rtol=1e-6)
    assert labels(panel)[:2] == [repr(rate), "0.0005"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("step", "learning rate")
    drawn(figure)


def test_a_function_with_ifs_is_asked_step_by_step() -> None:
    def stairs(step: int) -> float:
        return 1.0 if step < 3 else 0.1

    figure = gx.plots.schedule(stairs, steps=5, log=True, labels=["two stairs"])
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.0, 1.0, 1.0, 0.1, 0.1]
    assert figure.axes[0].get_yscale() == "log"
    assert labels(figure.axes[0]) == ["two stairs"]


# ---------------------------------------------------------------------------------------------- readings


def test_readings_are_drawn_as_they_are() -> None:
    history = [{"loss": 2.0 - t / 10, "grad_norm": 10.0**-t, "note": "x"} for t in range(5)]
    figure = gx.plots.readings(history)
    loss, norm = figure.axes
    assert loss.lines[0].get_xdata().tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [2.0, 1.9, 1.8, 1.7, 1.6])
    np.testing.assert_allclose(norm.lines[0].get_ydata(), [1, 0.1, 0.01, 0.001, 0.0001])
    assert (loss.get_ylabel(), norm.get_ylabel(), norm.get_xlabel()) == ("loss", "grad_norm", "step")
    assert (loss.get_yscale(), norm.get_yscale()) == ("linear", "log")
    assert loss.get_legend() is None
    drawn(figure)


def test_a_row_need_not_have_every_reading() -> None:
    history = [
        {"loss": 3.0, "test": 1.0},
        {"loss": 2.0, "test": None},
        {"loss": 1.0},
        {"loss": 1.0, "test": 4.0},
    ]
    (panel,) = gx.plots.readings(history, [("loss", "test")]).axes
    assert panel.lines[1].get_xdata().tolist() == [0, 3]
    assert labels(panel) == ["loss", "test"]


def test_what_is_not_finite_and_what_was_skipped_is_marked() -> None:
    tx = gx.guard(gx.probe(gx.sgd(0.1)))
    params, history = jnp.ones(2), []
    state = tx.init(params)
    for t in range(6):
        gradient = jnp.full(2, NAN if t in (2, 3) else 1.0)
        _, state = tx.update(gradient, state, params)
        history.append({"loss": INF if t == 2 else 1.0, **gx.metrics(state)})
    loss, norm = gx.plots.readings(history, ["loss", "grad_norm"]).axes
    marked = {line.get_label(): line for line in loss.lines}
    assert list(marked) == ["loss", "not finite: 1 step", "skipped: 2 steps"]
    assert marked["not finite: 1 step"].get_xdata().tolist() == [2]
    assert marked["skipped: 2 steps"].get_xdata().tolist() == [2, 3]
    assert np.isnan(marked["loss"].get_ydata()[2])
    assert [line.get_label() for line in norm.lines] == ["grad_norm", "skipped: 2 steps"]
    assert loss.get_xlim() == norm.get_xlim()
    drawn(loss.figure)


def test_skipped_steps_are_counted_also_between_rows_and_behind_a_resume() -> None:
    def marked(counts: list[int]) -> list[Any]:
        rows = [{"loss": 1.0, "step": 10 * t, "guard/skipped": n} for t, n in enumerate(counts)]
        (panel,) = gx.plots.readings(rows).axes
        return [(line.get_label(), line.get_xdata().tolist()) for line in panel.lines[1:]]

    assert marked([0, 2, 2, 5]) == [("skipped: 5 steps", [10, 30])]
    assert marked([1, 1, 1]) == [("skipped: 1 step", [0])]
    assert marked([7, 7, 8]) == [("skipped: 1 step", [20])]
    assert marked([0, 0]) == []


def test_names_that_begin_with_an_underscore_are_in_legends() -> None:
    def _mine(step: int) -> float:
        return 0.1 * step

    assert labels(gx.plots.schedule(_mine, steps=3).axes[0]) == [" _mine"]
    assert labels(gx.plots.readings([{"_a": 1.0, "b": 1.0}], [("_a", "b")]).axes[0]) == [" _a", "b"]
    assert gx.plots.readings([{"_a": 1.0}]).axes[0].get_ylabel() == "_a"
    assert labels(gx.plots.paths({"_sgd": gx.sgd(0.1)}, BOWL, steps=2).axes[0])[0].startswith(" _sgd: ")


@pytest.mark.parametrize("values", [[NAN, NAN], [0.0, 1e6], [-1.0, 1e6], [1e-30, 1e30], [5.0]])
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    figure = gx.plots.readings([{"loss": x} for x in values])
    assert figure.axes[0].get_yscale() == ("log" if values[0] == 1e-30 else "linear")
    drawn(figure)


# ---------------------------------------------------------------------------------------------- ratios


def probed(steps: int = 5) -> list[dict[str, Any]]:
    params = {f"layer_{n}": jnp.full(2, 1.0) for n in (1, 2, 10)}
    groups = {"layer_1": gx.sgd(0.1), "layer_2": gx.sgd(0.01), "layer_10": None}
    tx = gx.probe(gx.param_groups(groups), links=False)
    state, history = tx.init(params), []
    for _ in range(steps):
        _, state = tx.update(params, state, params)
        history.append(jax.device_get(gx.metrics(state)))
    return history


def test_ratios_are_the_readings_of_the_groups() -> None:
    history = probed()
    figure = gx.plots.ratios(history)
    panel, bar = figure.axes
    assert [x.get_text() for x in panel.get_yticklabels()] == ["[layer_1]", "[layer_2]", "[layer_10]", "all"]
    (mesh,) = panel.collections
    values = mesh.get_array()
    for row, name in enumerate(("[layer_1]/", "[layer_2]/", "[layer_10]/", "")):
        want = [float(x[f"{name}update_ratio"]) for x in history]
        np.testing.assert_allclose(values[row].data, want)
    assert values.mask.any(axis=1).tolist() == [False, False, True, False]  # what does not move has no colour
    assert isinstance(mesh.norm, LogNorm)
    assert mesh.cmap.name == "cividis"
    assert "norm of the weights" in bar.get_ylabel()
    assert mesh.get_coordinates()[0, :, 0].tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert panel.get_ylim() == (3.5, -0.5)
    drawn(figure)


def test_ratios_at_uneven_steps_and_not_finite_ones() -> None:
    history = {
        "step": [0, 10, 40],
        "[a]/update_ratio": [1e-3, NAN, 1e-3],
        "[b]/update_ratio": [0.0, 1e-2, INF],
    }
    figure = gx.plots.ratios(history)
    panel = figure.axes[0]
    assert panel.collections[0].get_coordinates()[0, :, 0].tolist() == [-5, 5, 25, 55]
    (crosses,) = panel.lines
    assert sorted(zip(*map(list, crosses.get_data()), strict=True)) == [(10, 0), (40, 1)]
    drawn(figure)
    drawn(gx.plots.ratios({"[a]/update_ratio": [0.0]}))  # nothing moves


# ---------------------------------------------------------------------------------------------- moments


def quadratic(w: Any) -> Any:
    return 2 * w


def test_the_moments_of_adam_are_the_worked_trace() -> None:
    figure = gx.plots.moments(gx.adam(0.01), quadratic, start=5.0, steps=8)
    first, second, corrections, update = figure.axes
    gradient, mu, mu_hat = (line.get_ydata() for line in first.lines)
    m = [1.0000, 1.8980, 2.7042, 3.4278, 4.0770, 4.6593, 5.1814, 5.6492]
    v = [0.1000, 0.1995, 0.2985, 0.3970, 0.4950, 0.5925, 0.6896, 0.7861]
    np.testing.assert_allclose(mu, m, atol=5e-5)
    np.testing.assert_allclose(second.lines[1].get_ydata(), v, atol=5e-5)
    t = np.arange(1, 9)
    np.testing.assert_allclose(mu_hat, mu / (1 - 0.9**t), rtol=1e-6)
    np.testing.assert_allclose(
        second.lines[2].get_ydata(), second.lines[1].get_ydata() / (1 - 0.999**t), rtol=1e-5
    )
    np.testing.assert_allclose(second.lines[0].get_ydata(), gradient**2)
    np.testing.assert_allclose(corrections.lines[0].get_ydata(), 1 - 0.9**t, rtol=1e-6)
    np.testing.assert_allclose(corrections.lines[1].get_ydata(), 1 - 0.999**t, rtol=1e-5)
    np.testing.assert_allclose(5 + np.cumsum(update.lines[1].get_ydata())[-1], 4.92, atol=5e-5)
    assert labels(first) == ["gradient", "mu", "mu / (1 − 0.9$^t$)"]
    assert labels(corrections) == ["adam/mu: 1 − 0.9$^t$", "adam/nu: 1 − 0.999$^t$"]
    assert (second.get_yscale(), corrections.get_yscale()) == ("log", "log")
    drawn(figure)


@pytest.mark.parametrize(
    ("tx", "titles"),
    [
        (gx.sgd(0.1), ["gradient", "update"]),
        (gx.sgd(0.1, momentum=0.9), ["trace/trace", "update"]),  # a sum: there is nothing to correct
        (gx.chain(gx.clip_by_global_norm(0.1), gx.ema(0.9)), ["ema/ema", "update"]),  # of clipped gradients
        (gx.guard(gx.adam(0.1)), ["adam/mu", "adam/nu", "bias correction", "update"]),
        (optax.adam(0.1), None),
    ],
)
def test_only_averages_of_the_gradients_are_corrected(tx: Any, titles: Any) -> None:
    gradients = np.array([1.0, -0.5, 0.3, 2.0, 0.0, 1.0])
    figure = gx.plots.moments(tx, gradients)
    found = [panel.get_title(loc="left") for panel in figure.axes]
    if titles is None:
        assert [title.rsplit("/", 1)[-1] for title in found] == ["mu", "nu", "bias correction", "update"]
    else:
        assert found == titles
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), gradients, rtol=1e-6)
    drawn(figure)


def test_gradients_that_are_not_finite_can_be_looked_at() -> None:
    for wrong in (NAN, INF, 1e30):  # the square of the last one is not finite in float32
        figure = gx.plots.moments(gx.adam(0.1), [1.0, wrong, 1.0])
        assert [line.get_label() for line in figure.axes[1].lines] == ["gradient²", "nu"]
        drawn(figure)


def test_a_decay_is_seen_from_the_numbers_or_not_at_all() -> None:
    x = np.random.default_rng(0).standard_normal(50)
    x[:2] = 0.0

    def run(rule: Any) -> Any:
        m, found = 0.0, []
        for t, g in enumerate(x):
            m = rule(m, g, t)
            found.append(m)
        return np.array(found)

    eps = 1e-12
    assert decay_of(run(lambda m, g, t: 0.9 * m + 0.1 * g), x, eps) == pytest.approx(0.9)
    assert decay_of(run(lambda m, g, t: 0.999 * m + 0.001 * g), x, eps) == pytest.approx(0.999)
    others = {
        "a sum": lambda m, g, t: 0.9 * m + g,
        "a decay that changes": lambda m, g, t: (b := 0.9 - 0.01 * t) * m + (1 - b) * g,
        "clipped": lambda m, g, t: 0.9 * m + 0.1 * np.clip(g, -1, 1),
        "nothing remembered": lambda m, g, t: g,
        "nothing at all": lambda m, g, t: 0.0,
        "not finite": lambda m, g, t: NAN,
    }
    assert {name: decay_of(run(rule), x, eps) for name, rule in others.items()} == dict.fromkeys(others)
    yogi = run(lambda m, g, t: m - 0.001 * np.sign(m - g**2) * g**2)
    assert decay_of(yogi, x**2, 1e-6) is None
    assert decay_of(run(lambda m, g, t: 0.999 * m + 0.001 * g**2), x**2, 1e-6) == pytest.approx(0.999)


# ---------------------------------------------------------------------------------------------- paths


def test_paths_are_those_of_the_library() -> None:
    txs = {"SGD": gx.sgd(0.1), "Adam": gx.adam(0.1)}
    figure = gx.plots.paths(txs, "saddle", steps=20)
    (panel,) = figure.axes
    for line, (name, tx) in zip(panel.lines, txs.items(), strict=False):
        positions, losses = trajectory(tx, SADDLE, 20)
        np.testing.assert_array_equal(np.transpose(line.get_data()), positions)
        assert line.get_label() == f"{name}: {float(losses[-1]):.3g}"
    assert labels(panel)[2:] == ["start", "lowest point"]
    assert panel.get_legend().get_title().get_text() == "loss after 20 steps"
    assert (panel.get_xlim(), panel.get_ylim()) == SADDLE.box
    assert [line.get_xydata().tolist() for line in panel.lines[2:]] == [[[-1.5, 0.01]], [[0.0, 1.0]]]
    assert panel.collections, "there are no contours"
    drawn(figure)


def test_a_path_that_diverges_ends_where_it_is_finite() -> None:
    tx = gx.sgd(1e10)
    (panel,) = gx.plots.paths([tx], BOWL, steps=10).axes
    line = panel.lines[0]
    assert line.get_label() == "gx.sgd(10000000000.0): diverges"
    assert 1 < len(line.get_xdata()) < 11
    assert np.isfinite(line.get_xydata()).all()
    drawn(panel.figure)


def test_one_transform_and_optax_have_names() -> None:
    (panel,) = gx.plots.paths(gx.sgd(0.1), BOWL, steps=2).axes
    assert panel.lines[0].get_label().startswith("gx.sgd(0.1): ")
    (panel,) = gx.plots.paths([optax.sgd(0.1), gx.sgd(0.1)], BOWL, steps=2).axes
    assert panel.lines[0].get_label().startswith("transform 1: ")
    flat = Landscape("flat", lambda w: 0 * w.sum(), (0.0, 0.0), ((-1, 1), (-1, 1)))
    drawn(gx.plots.paths(gx.sgd(0.1), flat, steps=2))  # no lowest point, and no contours


# ---------------------------------------------------------------------------------------------- all of them

PICTURES: dict[str, Any] = {
    "schedule": lambda ax: gx.plots.schedule(0.1, steps=3, ax=ax),
    "readings": lambda ax: gx.plots.readings([{"loss": 1.0}, {"loss": 2.0}], ax=ax),
    "ratios": lambda ax: gx.plots.ratios({"[a]/update_ratio": [0.1, 0.2]}, ax=ax),
    "paths": lambda ax: gx.plots.paths(gx.sgd(0.1), BOWL, steps=2, ax=ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_axes_of_others_are_drawn_in(name: str) -> None:
    figure = Figure(layout="constrained")
    part, _ = figure.subfigures(1, 2)
    ax = part.subplots()
    assert PICTURES[name](ax) is figure
    assert ax.has_data()
    drawn(figure)
    with pytest.raises(
        TypeError, match=rf"gx.plots.{name}\(ax\): wanted matplotlib Axes, got a module\n.*plt.subplots\(\)"
    ):
        PICTURES[name](plt)
    with pytest.raises(ValueError, match=rf"gx.plots.{name}\(ax\): wanted one Axes, got 2"):
        PICTURES[name]([ax, ax])


def test_several_panels_take_several_axes() -> None:
    figure = Figure()
    grid = figure.subplots(2, 2)
    assert gx.plots.moments(gx.adam(0.1), [1.0, 2.0], ax=grid) is figure
    assert gx.plots.moments(gx.adam(0.1), [1.0, 2.0], ax=grid.flat) is figure
    assert grid[1, 1].get_title(loc="left") == "update"
    with pytest.raises(ValueError, match=r"gx.plots.moments\(ax\): wanted 4 Axes, one a panel, got 1"):
        gx.plots.moments(gx.adam(0.1), [1.0, 2.0], ax=grid[0, 0])


def test_series_differ_in_more_than_colour() -> None:
    styles = [style(n) for n in range(14)]
    assert len({(str(s.linestyle), s.marker) for s in styles[:7]}) == 7
    assert len({(s.color, str(s.linestyle)) for s in styles}) == 14
    assert len({tuple(to_rgba(c)) for c in COLOURS}) == 7


def test_without_matplotlib_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return plain(name, *args, **named)

    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    for name, picture in PICTURES.items():
        with pytest.raises(
            ImportError, match=rf"gx.plots.{name}: matplotlib .*pip install 'gradxform\[plot\]'"
        ):
            picture(None)
    monkeypatch.undo()


ROWS = [{"loss": 1.0, "grad_norm": 1.0}]


@pytest.mark.parametrize(
    ("draw", "kind", "words"),
    [
        (lambda: gx.plots.schedule(steps=10), ValueError, "there is no schedule"),
        (lambda: gx.plots.schedule(0.1, steps=1), ValueError, "wanted at least 2, got 1"),
        (lambda: gx.plots.schedule("x", steps=9), TypeError, "wanted a schedule or a number, got a string"),
        (lambda: gx.plots.schedule(gx.sgd(0.1), steps=9), TypeError, "pass the schedule of its learning rate"),
        (lambda: gx.plots.schedule(gx.warmup_cosine, steps=9), TypeError, "got gx.warmup_cosine itself; call it"),
        (lambda: gx.plots.schedule(lambda t: jnp.ones(3), steps=9), ValueError, r"one number a step, got .*\(3,\)"),
        (lambda: gx.plots.schedule(0.1, steps=9, labels=["a", "b"]), ValueError, "wanted 1, one a schedule, got 2"),
        (lambda: gx.plots.readings([]), ValueError, "there is no reading in it"),
        (lambda: gx.plots.readings([{"note": "x"}]), ValueError, "there is no reading in it"),
        (lambda: gx.plots.readings({"a": [[1.0, 2.0]]}), ValueError, "there is no reading in it"),
        (lambda: gx.plots.readings(ROWS, ["los"]), ValueError, "there is no 'los'; did you mean 'loss'"),
        (lambda: gx.plots.readings(ROWS, 3), TypeError, "wanted names of readings, got an int; several in a tuple"),
        (lambda: gx.plots.readings(ROWS, ["loss", 3]), TypeError, "wanted names of readings, got an int"),
        (lambda: gx.plots.readings(ROWS, []), ValueError, "there is no key; the history has 'loss', 'grad_norm'"),
        (lambda: gx.plots.ratios(ROWS), ValueError, "no group has a reading update_ratio; it has .*\n.*param_groups"),
        (lambda: gx.plots.ratios([{"[a]/update_ratio": 1.0}, {"[b]/update_ratio": 1.0}]), ValueError,
         r"'\[b\]/update_ratio' was read at other steps than '\[a\]/update_ratio'"),
        (lambda: gx.plots.moments(3, [1.0]), TypeError, r"gx.plots.moments\(tx\): wanted a transform"),
        (lambda: gx.plots.moments(gx.sgd(1.0), quadratic), ValueError, r"moments\(steps\): missing"),
        (lambda: gx.plots.moments(gx.sgd(1.0), quadratic, steps=0), ValueError, "wanted at least 1, got 0"),
        (lambda: gx.plots.moments(gx.sgd(1.0), [1.0], steps=3), TypeError, "every one is a step"),
        (lambda: gx.plots.moments(gx.sgd(1.0), np.ones((4, 2))), ValueError, r"shape \(4, 2\)\n.*gradients\[:, 0\]"),
        (lambda: gx.plots.moments(gx.sgd(1.0), {}), ValueError, "wanted one number a step or a function"),
        (lambda: gx.plots.moments(gx.sgd(1.0), []), ValueError, r"wanted one number a step, got shape \(0,\)"),
        (lambda: gx.plots.moments(gx.sgd(1.0), [1.0], start=NAN), ValueError, "wanted one finite number"),
        (lambda: gx.plots.paths([], "saddle"), ValueError, "there is no transform"),
        (lambda: gx.plots.paths([3], "saddle"), TypeError, r"gx.plots.paths\(txs\): wanted a transform"),
        (lambda: gx.plots.paths(gx.sgd(1.0), "hill"), ValueError, "wanted 'rosenbrock', 'saddle', 'ravine' or a Land"),
        (lambda: gx.plots.paths(gx.sgd(1.0), 3), TypeError, "wanted a Landscape or the name of one, got an int"),
        (lambda: gx.plots.paths(gx.sgd(1.0), BOWL, steps=0), ValueError, "wanted at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(draw: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        draw()


# ---------------------------------------------------------------------------------------------- the guide

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide" / "plots.md"


def shown() -> list[Path]:
    """The pictures of the guide."""
    found = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", GUIDE.read_text(encoding="utf-8"))
    return [(GUIDE.parent / path).resolve() for path in found]


def test_the_guide_has_small_pictures_and_no_others_lie_about() -> None:
    pictures = shown()
    assert pictures, "there is none"
    assert all(path.stat().st_size < 100_000 for path in pictures)
    assert sorted(pictures) == sorted((ROOT / "docs" / "_static").glob("plots-*.png"))


@pytest.mark.slow
def test_the_pictures_of_the_guide_are_those_of_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import pictures  # pyright: ignore[reportMissingImports]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        made = pictures.draw(GUIDE, into=tmp_path)
    assert [path.name for path in made] == [path.name for path in shown()]
    for new, old in zip(made, shown(), strict=True):
        one, two = (np.asarray(Image.open(path).convert("RGB"), float) for path in (new, old))
        assert one.shape == two.shape, f"{old.name}: python tools/pictures.py docs/guide/plots.md"
        # Fonts and rounding differ from one machine to the next; two pixels up are more than that.
        assert np.mean(np.abs(one - two)) < 2, f"{old.name}: python tools/pictures.py docs/guide/plots.md"
        assert np.mean(np.abs(np.roll(two, 2, axis=0) - two)) > 4
